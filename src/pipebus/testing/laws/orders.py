"""What becomes of messages one after the other, in each order: what becomes of them at once has to be one of these."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.testing.alone.script import after
from pipebus.testing.laws.apart import Passed, again, always, each_part
from pipebus.testing.laws.case import Case, result, same

VARIES: Final = object()

Told = list[dict[Any, Any]]
"""For each message, what can be compared: a value by its path, as in {(1, "user"): "ada"}."""


class Orders:
    """
    The serial results of some messages, each order by a new filter.

    Args:
        due: What the rest returns for each message.
    """

    def __init__(self, case: Case, colour: str, given: list[Message[Any]], due: list[Any]) -> None:
        self.case = case
        self.colour = colour
        self.given = given
        self.due = due
        self.judged = True
        self.known: list[list[Passed]] = []
        self.told: list[Told] = []
        self.stages = iter((self._first, self._others, self._again))
        self.more()

    def more(self) -> bool:
        """Find out more, as what has come of messages at once is not known yet; return whether there was more to find out."""
        stage = next(self.stages, None)
        if stage is not None:
            stage()
        return stage is not None

    def _first(self) -> None:
        self._add(tuple(range(len(self.given))), 0.0)

    def _others(self) -> None:
        for order in self._permutations()[1:]:
            self._add(order, 0.0)

    def _again(self) -> None:
        """What varies by chance is not compared, and what comes of them as time passes is right too."""
        for order, first in zip(self._permutations(), list(self.told), strict=True):
            later = self._add(order, 0.05)
            for other in (_told(self._sent(order, 0.0)), later):
                self.judged = self.judged and (other is later or [one.keys() for one in other] == [one.keys() for one in first])
                for one, before in zip(other, first, strict=True):
                    for path in one.keys() & before.keys():
                        if not same(one[path], before[path]):
                            one[path] = before[path] = VARIES

    def _permutations(self) -> list[tuple[int, ...]]:
        return list(itertools.permutations(range(len(self.given))))

    def _add(self, order: tuple[int, ...], seconds: float) -> Told:
        self.known.append(self._sent(order, seconds))
        self.told.append(_told(self.known[-1]))
        return self.told[-1]

    def _sent(self, order: tuple[int, ...], seconds: float) -> list[Passed]:
        found: dict[int, Passed] = {}
        with self.case.bench(self.colour) as bench:
            for number in order:
                if not bench.harness.usable:
                    break
                bench.advance(seconds)
                due = after(seconds, self.due[number]) if seconds else self.due[number]
                run = self.case.send(bench, again(self.given[number]), always(due))
                found[number] = Passed(run._error or run._outcome, run.forwards)
        return [found.get(number, Passed(None, [])) for number in range(len(self.given))]

    def problem(self, found: list[Passed]) -> str | None:
        """What became of a message at once, and becomes of it in no order."""
        if not self.judged:
            return None
        told = _told(found)
        agreed = [[self._agrees(*one) for one in zip(found, told, serial, strict=True)] for serial in self.told]
        nearest = max(range(len(agreed)), key=lambda order: sum(agreed[order]))
        if all(agreed[nearest]):
            return None
        number = agreed[nearest].index(False)
        differs = _differs(number + 1, found[number], self.known[nearest][number])
        return f"{differs}; hold a lock while it reads what it keeps and changes it"

    def _agrees(self, passed: Passed, told: dict[Any, Any], serial: dict[Any, Any]) -> bool:
        if self.case.tested.chose(passed.end):
            return True  # it may be too busy
        return told.keys() == serial.keys() and all(
            serial[path] is VARIES or same(value, serial[path]) for path, value in told.items()
        )


def _told(found: list[Passed]) -> Told:
    return [dict(_paths([_end(passed.end), each_part(passed.forwards)], ())) for passed in found]


def _end(end: Any) -> Any:
    return [type(end), text_of(end)] if isinstance(end, BaseException) else end


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, (dict, list, tuple)) and value:
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(one, (*path, key))
    else:
        yield path, value


def _differs(number: int, found: Passed, serial: Passed) -> str:
    ours, theirs = each_part(found.forwards), each_part(serial.forwards)
    for one, other in zip(ours, theirs, strict=False):
        if not same(one, other):
            return f"it handed on {one!r} for message {number}, and {other!r} in the nearest order one after the other"
    return f"message {number} {result(found.end)}, and {result(serial.end)} in the nearest order one after the other"
