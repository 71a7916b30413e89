"""Dead letters of a file, replayed on a bus."""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.letters import Letter, Letters, letter_json, renumbered
from pipebus.cli.show import printable
from pipebus.cli.summary import left_over
from pipebus.cli.targets import open_bus, starting
from pipebus.delivery import verdicts
from pipebus.errors import DeadLetterError, reason_of
from pipebus.message.codec import JsonCodec
from pipebus.message.outcomes import Receipt
from pipebus.outcomes.dead_letters import PUBLISH

Delivery = tuple[str, str]
"""The id of a message and the name of a subscription."""


class Replay:
    """
    Gives letters back to a bus, and observes what becomes of them.

    A letter leaves the file once its message is handled, or dropped by a filter. If it dies again, the new letter replaces the
    old one under its id. If nobody listens to it, the letter stays. So it does if it is still being handled when the time is
    up, and then it may be handled twice.
    """

    def __init__(self, args: argparse.Namespace, chosen: list[Letter], others: int) -> None:
        self.args = args
        self.chosen = chosen
        self.others = others
        self.bus = open_bus(args.on, args.allow)
        self.ended: defaultdict[Delivery, list[str]] = defaultdict(list)  # how each ended, in order
        self.dead: defaultdict[Delivery, list[str]] = defaultdict(list)  # ids of the letters that died again
        self.stays: dict[str, str] = {}  # by id of a letter: why it stays in the file
        self.interrupts = Interrupts(engine_of(self.bus).lifecycle.hurry)

    def run(self) -> int:
        if engine_of(self.bus).transport.dead_letters is not None:
            raise CommandError(
                f"{self.args.on} keeps its dead letters itself, and these are from another bus; replay them on that bus, or "
                f"publish their messages with `pipebus publish {self.args.on}`"
            )
        Letters(self.args.letters).check()
        self.bus.observe(self._see)
        with starting():
            self.bus.start()
        with self.interrupts:
            given = list(self._given())
            report = engine_of(self.bus).lifecycle.stop(self.args.timeout, drain=self.interrupts.count < 2)
        counts = Counter({"handled": 0, "dead": 0, "dropped": 0})
        for one in given:
            ends = self.ended[_delivery(one)] or (["handled"] if one["subscription"] == PUBLISH else [])
            ended = ends.pop(0) if ends else "late"
            if ended == "late":
                self.stays[one["id"]] = "not handled in time; allow more with --timeout"
            elif ended == "dead":
                self.dead[_delivery(one)].append(one["id"])
            counts[ended] += 1
        again = list(self._again())
        Letters(self.args.letters).change(lambda old: self._after(old, again))
        for id, letter in again:
            print(f"{id or 'new'} is dead{' again' if id else ''}: {printable(letter['error'])}", file=sys.stderr)
        for id, why in self.stays.items():
            print(f"{id} stays: {printable(why)}", file=sys.stderr)
        for text in left_over(report):
            print(printable(text), file=sys.stderr)
        new = sum(id is None for id, _ in again)
        print(
            f"{counts['handled']} handled, "
            + (f"{counts['dropped']} dropped, " if counts["dropped"] else "")
            + f"{counts['dead']} dead again, {len(self.stays)} not given back, {self.others} left alone"
            + (f"; {new} new dead" if new else "")
        )
        engine_of(self.bus).lifecycle.leave()
        if self.interrupts.number is not None:
            return 128 + self.interrupts.number
        return 1 if again or self.stays or left_over(report) else 0

    def _given(self) -> Iterator[Letter]:
        """Give the letters back, and yield those whose end must be observed."""
        for one in self.chosen:
            if self.interrupts.count:
                self.stays[one["id"]] = f"stopped by {self.interrupts.name} before its turn"
                continue
            try:
                self._give_back(one)
                yield one
            except Exception as error:  # an error of a filter; go on with the next letter
                if self.ended[_delivery(one)]:
                    yield one  # the delivery has ended nevertheless: it is dead again
                else:
                    self.stays[one["id"]] = reason_of(error)

    def _see(self, event: Any) -> None:
        from pipebus import events

        if isinstance(event, events.Acknowledged):
            self.ended[event.message.id, event.subscription].append("handled")
        elif isinstance(event, (events.Died, events.Discarded)):
            word = "dead" if isinstance(event, events.Died) else "dropped"
            self.ended[event.message.id, event.place].append(word)

    def _give_back(self, one: Letter) -> None:
        """Give a message back to the subscription that failed. One that died in a publish chain is published again."""
        if "error" in one["wire"]:
            raise DeadLetterError(f"its message could not be kept: {one['wire']['error']}")
        message = JsonCodec().decode(json.dumps(one["wire"]).encode())
        if one["subscription"] == PUBLISH:
            outcome = self.bus.send(message)
            if isinstance(outcome, Receipt) and not (outcome.mailboxes or outcome.duplicate):
                raise DeadLetterError("nobody listens to it")
            return
        found = next((s for s in self.bus.subscriptions if s.name == one["subscription"]), None)
        if found is None:
            raise DeadLetterError(f'the bus has no subscription "{one["subscription"]}"')
        verdicts.revive(found, message)

    def _again(self) -> Iterator[tuple[str | None, Letter]]:
        """Yield the letters of this bus, each with the id of the letter that it replaces, or None."""
        for letter in self.bus.dead_letters.list():
            ids = self.dead[letter.message.id, letter.subscription]
            yield ids.pop(0) if ids else None, letter_json(letter)

    def _after(self, old: list[Letter], again: list[tuple[str | None, Letter]]) -> list[Letter]:
        known = {id: letter | {"id": id} for id, letter in again if id is not None}
        lost = {id for ids in self.dead.values() for id in ids}  # dead again, but no longer kept by the bus
        # Compare whole letters, because by now an id may belong to another letter.
        gone = [one for one in self.chosen if one["id"] not in self.stays and one["id"] not in lost]
        kept = [known.get(one["id"], one) if one in gone else one for one in old if one not in gone or one["id"] in known]
        return [*kept, *renumbered((letter for id, letter in again if id is None), {one["id"] for one in kept})]


def _delivery(one: Letter) -> Delivery:
    return one["message"], one["subscription"]
