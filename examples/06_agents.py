"""
Three agents at work on one text, and a budget that all their words are paid from.

    python examples/06_agents.py

Planner, researcher and writer are actors that write to each other. Whatever is written to one of them passes the budget, an
actor too: it lets a message through or drops it, and learns by mail when there is more to spend. What the agents think is
scripted, so the example needs no network and always says the same.
"""

from pipebus import Actor, Bus, Dropped, Message, when
from pipebus.filters import Tap

SCRIPT = {  # (who, hears from): (answers to, what)
    ("planner", "editor"): ("agents.researcher", "When did the first tea come to Europe, and on whose ships?"),
    ("researcher", "planner"): ("agents.planner", "In 1610, on ships of the Dutch East India Company."),
    ("planner", "researcher"): ("agents.writer", "One short line on tea: Europe, 1610, the Dutch East India Company."),
    ("writer", "planner"): ("agents.planner", "Europe's first tea came in 1610, and it came on Dutch ships."),
    ("planner", "writer"): ("editor", "Europe's first tea came in 1610, and it came on Dutch ships."),
}


def think(who: str, message: Message[str]) -> tuple[str, str]:
    """Where another program would ask its model."""
    return SCRIPT[who, message.headers["from"]]


class Agent(Actor):
    """Hears something, thinks, says something. What it was not let say it says again as soon as somebody writes to it."""

    def __init__(self, role: str) -> None:
        super().__init__(f"agents.{role}")
        self.role = role
        self.unsaid: tuple[str, str] | None = None

    def on_message(self, message: Message[str]) -> None:
        to, text = self.unsaid or think(self.role, message)
        outcome = self.bus.publish(to, text, headers={"from": self.role})
        self.unsaid = None if outcome else (to, text)
        if not outcome:
            self.bus.publish("editor", f"I could not say that: {outcome.reason}.", headers={"from": self.role})


class Budget(Actor):
    """A filter actor: messages pass through it one at a time, and mail to it changes what it does."""

    def __init__(self, tokens: int) -> None:
        super().__init__("budget")
        self.left = tokens

    def filter(self, message: Message[str]) -> Message[str] | Dropped:
        tokens = len(message.body.split())  # words will do
        if tokens > self.left:
            return Dropped("token budget used up")
        self.left -= tokens
        return message

    def on_message(self, tokens: int) -> None:
        self.left += tokens


def show(message: Message) -> None:
    to = getattr(message.subject, "name", message.subject)
    print(f"{message.headers['from']:>10} to {to.removeprefix('agents.'):<10}  {message.body}")


bus = Bus()
budget = Budget(tokens=40)
bus.use(Tap(show))  # the transcript: everything that is said, whatever becomes of it
bus.use(when("agents.*", budget))  # only what is said to agents costs something
for role in ("planner", "researcher", "writer"):
    bus.spawn(Agent(role))
inbox = bus.subscribe("editor")  # that is us


def main() -> None:
    us = {"from": "editor"}
    with bus:
        bus.publish("agents.planner", "A line on the first tea in Europe, please.", headers=us)
        inbox.receive(timeout=5.0)  # bad news: there is no budget for the writer
        bus.publish(budget, 50, headers=us)
        bus.publish("agents.planner", "You have 50 more, go on.", headers=us)
        text = inbox.receive(timeout=5.0).body

    print(f"\n{text}")
    print(f"{budget.left} tokens left; dropped by the budget: {bus.stats()['dropped']['budget']}")


if __name__ == "__main__":
    main()
