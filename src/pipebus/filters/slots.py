"""Slots for messages that run at once, per key, and the lines of those that wait for one."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

from pipebus.waiting.latch import Latch
from pipebus.waiting.locks import free

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Visit(Latch):
    """One message that wants a slot. The latch is given when it has waited and gets one."""

    __slots__ = ("room",)

    def __init__(self) -> None:
        super().__init__()
        self.room: Room | None = None


class Room:
    """The slots of one key. It exists while a message has one of them or waits for one."""

    __slots__ = ("inside", "key", "line")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.inside: set[Visit] = set()
        self.line: OrderedDict[Visit, None] = OrderedDict()


class Slots:
    """
    The slots of all keys.

    A visit has a slot while it is in `inside`, and waits while it is in `line`; both change under the lock only. However a
    visit ends, it calls `leave`, which takes it out of both. So when a slot is handed to a visit that gives up at that moment,
    either its latch refuses the slot, or it has the slot and leaves it. There is no counter that could become wrong.

    A signal handler or a finaliser may interrupt the thread that holds the lock. `enter` raises there, since it would see a
    half-changed room. `leave` adds the visit to a list, which that thread works off after it has released the lock.
    """

    __slots__ = ("_left", "_limit", "_lock", "_queue", "_rooms", "_waiting")

    def __init__(self, limit: int, queue: int) -> None:
        self._limit = limit
        self._queue = queue
        self._lock = threading.RLock()
        self._rooms: dict[Hashable, Room] = {}
        self._waiting: set[Visit] = set()
        self._left: deque[Visit] = deque()

    def enter(self, key: Hashable, visit: Visit) -> bool | None:
        """
        True: it has a slot. False: it is in the line, until its latch is given. None: the queue is full.

        Raises:
            LifecycleError: the caller has interrupted a change on this very thread.
        """
        with free(self._lock):
            room = self._rooms.get(key) or Room(key)
            found = True if len(room.inside) < self._limit else False if len(self._waiting) < self._queue else None
            if found is not None:
                visit.room = room
                if found:
                    room.inside.add(visit)
                else:
                    self._waiting.add(visit)
                    room.line[visit] = None
                self._rooms[key] = room
        self._work_off()
        return found

    def leave(self, visit: Visit) -> None:
        """End a visit, whatever has become of it; the next one in the line gets its slot."""
        if visit.room is not None:
            self._left.append(visit)
            self._work_off()

    def figures(self) -> dict[str, int]:
        rooms = list(self._rooms.values())
        return {"keys": len(rooms), "running": sum(len(room.inside) for room in rooms), "waiting": len(self._waiting)}

    def _work_off(self) -> None:
        while self._left and not self._lock._is_owned():  # type: ignore[attr-defined]
            with self._lock:
                if not self._left:
                    continue
                visit = self._left[0]
                if visit.room is not None:
                    self._hand_on(visit.room, visit)
                self._left.popleft()  # only now, so that an interrupt in between loses no slot
                room, visit.room = visit.room, None
                if room is not None and not room.inside and not room.line and self._rooms.get(room.key) is room:
                    del self._rooms[room.key]

    def _hand_on(self, room: Room, visit: Visit) -> None:
        """Take a visit out of its room, and give the slots that are free to the first in line. (With the lock.)"""
        self._waiting.discard(visit)
        room.line.pop(visit, None)
        room.inside.discard(visit)
        while room.line and len(room.inside) < self._limit:
            first = next(iter(room.line))
            room.inside.add(first)
            self._waiting.discard(first)
            del room.line[first]
            if not first.give(None):  # its time is up, or it was cancelled
                room.inside.discard(first)
