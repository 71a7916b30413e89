"""Messages, outcomes, errors and events in a few words, for stories."""

import asyncio
from typing import Any, Final

from pipebus import events
from pipebus.config.wording import printable
from pipebus.delivery.actor import Actor
from pipebus.foreign.objects import shown, text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.outcomes.dead_letters import PUBLISH

WIDTH: Final = 100
"""Most characters of one message, value or error in a story."""


def cut(text: str) -> str:
    """The text on one line, at most WIDTH characters long."""
    line = printable(text)
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def short(message: object) -> str:
    """A message in a few words."""
    if not isinstance(message, Message):
        return f"{cut(shown(message))}, which is not a Message"
    headers = f" headers {dict(message.headers)}" if message.headers else ""
    subject = message.subject
    if isinstance(subject, Actor):
        subject = subject.name or type(subject).__name__
    elif not isinstance(subject, str):
        subject = shown(subject)
    return cut(f"{subject} {shown(message.body)}{headers}")


def gives(outcome: object) -> str:
    if isinstance(outcome, Dropped):
        return cut(f"drops it: {outcome.reason}")
    if isinstance(outcome, Receipt):
        return f"gives Receipt({outcome.mailboxes}{', duplicate=True' if outcome.duplicate else ''})"
    if isinstance(outcome, Message):
        return f"hands on {short(outcome)}"
    return f"gives {cut(shown(outcome))}"


def returns(value: object) -> str:
    return f"returns {cut(shown(value))}" if value is not None else "returns"


def raises(error: BaseException) -> str:
    return "is cancelled" if isinstance(error, asyncio.CancelledError) else f"raises {cut(text_of(error))}"


def event_words(event: events.Event, who: str, message: Message[Any]) -> tuple[str, str] | None:
    """
    Who and what, for events that the lines of filters and handlers do not show already.

    Args:
        message: The event's message, as the filters have changed it.
    """
    match event:
        case events.Published():
            return who, f"accepts {short(message)} for {_mailboxes(event.receipt.mailboxes)}"
        case events.Refused():
            return who, cut(f"refuses {short(message)}: {text_of(event.error)}")
        case events.Discarded():
            place = who if event.place == PUBLISH else event.place
            return place, cut(f"drops {short(message)}: {event.reason}")
        case events.Taken() if event.attempt > 1:
            return event.subscription, f"takes it again (attempt {event.attempt})"
        case events.Returned():
            return event.subscription, f"gives it back, for {event.delay:g} s"
        case events.Died():
            place = who if event.place == PUBLISH else event.place
            return place, cut(f"buries it as dead letter {event.letter}: {event.error}")
        case events.Overflowed():
            return event.subscription, f"has no room for {short(message)}: {event.policy}"
        case events.CircuitChanged():
            return event.filter, f"is {event.new.replace('_', '-')} for {event.place}"
        case events.StateChanged():
            return who, f"is {event.new}"
    return None


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def counted(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"


def _mailboxes(count: int) -> str:
    return "nobody" if not count else "1 mailbox" if count == 1 else f"{count} mailboxes"
