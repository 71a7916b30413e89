"""
GCRA, the generic cell rate algorithm: which messages may pass a rate limit now, and when the others may.

For each key it keeps one time, the theoretical arrival time: when the next message is due if messages come evenly. A message
may come earlier by the time of `burst - 1` messages, and each one that passes moves that time on by `per / rate`. So never more
than `burst + rate * t / per` messages pass in any time t.

A message that must wait gets a place in the line of its key. Places decide who is next, and when a message should ask again,
but only the check above lets it pass. So the limit holds, however late or early a message comes for its place.

Source: ITU-T I.371, annex A, GCRA as "virtual scheduling". The line is our own.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

NANO: Final = 10**9
GRACE: Final = NANO  # for so long a place is kept after its time; a message that comes even later is a new one


class Line:
    """The state of one key."""

    __slots__ = ("due", "end", "first", "key", "places")

    def __init__(self, key: Hashable, due: int) -> None:
        self.key = key
        self.due = due  # the theoretical arrival time
        self.places: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()  # ticket -> number, and the time to ask again
        self.first = 0  # the number that is next; a smaller one did not come in time, and was overtaken
        self.end = 0  # the number after the last one

    def leave(self, ticket: Hashable, overtakes: bool = False) -> None:
        """Take out a place. `overtakes`: those with smaller numbers did not come in time."""
        number, _ = self.places.pop(ticket)
        if number == self.first or (overtakes and number > self.first):
            self.first = number + 1
        elif self.first < number == self.end - 1:
            self.end -= 1
        if not self.places:
            self.first = self.end


class Gcra:
    """
    The limit for all keys. It is not safe for threads: the caller has a lock.

    Times are nanoseconds multiplied by `rate`: then the time of one message is a whole number, and no errors add up. Asking
    takes constant time for a known key; for a new one, also the push to a heap.

    Args:
        rate, per, burst: At most `burst + rate * t / per` messages in t seconds, for each key.
        size: Most keys, and most places in all lines together. A key means nothing after its theoretical arrival time, and is
            forgotten. If there are too many, a new one may not pass: to forget another one would give that a new burst.
    """

    def __init__(self, rate: int, per: float, burst: int, size: int) -> None:
        self.rate = rate
        self.each = math.ceil(round(per * NANO, 3))  # the time of one message
        self.slack = (burst - 1) * self.each
        self.size = size
        self.lines: dict[Hashable, Line] = {}
        self.waiting = self.passed = self.limited = 0
        self._looks: list[tuple[int, int, Line]] = []  # a heap: when to look whether a line still means something
        self._numbers = itertools.count()

    def ask(self, key: Hashable, now: float, ticket: Hashable = None, longest: float = math.inf) -> float:
        """
        Let a message pass, or say in how many seconds it may ask again.

        Args:
            ticket: By this it is recognised when it asks again, and gets a place, unless there are too many. None: it does not.
            longest: Give it no place if it would wait longer than these seconds.

        Returns:
            0.0: it passes, and is counted. Infinity: its key is new, and there are too many keys.
        """
        time = round(now * NANO) * self.rate
        for _ in range(2):  # one more than a message adds, so the memory shrinks; forgetting all at once could take long
            self._forget(time)
        line = self.lines.get(key)
        if line is None:
            while len(self.lines) >= self.size:
                if not self._forget(time):
                    self.limited += 1
                    return math.inf
            line = self.lines[key] = Line(key, time)
            heapq.heappush(self._looks, (time + self.each, next(self._numbers), line))
        self._heal(line, time)
        known = ticket in line.places
        number = line.places[ticket][0] if known else line.end
        # Messages in front that are due may just be late. A new one passes them only if the burst has room for all of them.
        start = line.due if known else max(line.due, time)
        due = start - self.slack + max(0, number - line.first) * self.each
        if due <= time:
            line.due = max(line.due, time) + self.each
            self.passed += 1
            if known:
                self.waiting -= 1
                line.leave(ticket, overtakes=True)
            return 0.0
        wait = -((time - due) // self.rate) / NANO  # rounded up
        if known:
            if number < line.first:  # it was overtaken, so it is the next
                number = line.first = line.first - 1
                line.places.move_to_end(ticket, last=False)
            line.places[ticket] = (number, due)
            return wait
        self.limited += 1
        if ticket is not None and wait <= longest and self.waiting < self.size:
            self.waiting += 1
            line.places[ticket] = (number, due)
            line.end += 1
        return wait

    def withdraw(self, key: Hashable, ticket: Hashable) -> None:
        """Give up a place. Only the first and the last one are of use to others: behind any other, times stay as they are."""
        line = self.lines.get(key)
        if line is not None and ticket in line.places:
            self.waiting -= 1
            line.leave(ticket)

    def _heal(self, line: Line, time: int) -> None:
        """Take out the places of messages that did not come: dropped, expired, or with a filter that was taken away."""
        while line.places:
            ticket, (_, due) = next(iter(line.places.items()))
            if due + GRACE * self.rate > time:
                break
            self.waiting -= 1
            line.leave(ticket, overtakes=True)

    def _forget(self, time: int) -> bool:
        """Look at one line that may mean nothing any more, and forget it if so; False if there is no such line."""
        if not self._looks or self._looks[0][0] > time:
            return False
        line = self._looks[0][2]
        self._heal(line, time)
        again = max([line.due, *(place[1] + GRACE * self.rate for place in itertools.islice(line.places.values(), 1))])
        if again > time:
            heapq.heapreplace(self._looks, (again, next(self._numbers), line))
        else:
            heapq.heappop(self._looks)
            del self.lines[line.key]
        return True
