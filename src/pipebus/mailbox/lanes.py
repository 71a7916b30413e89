"""Lanes: in a mailbox with several workers, messages of equal key wait for each other."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from pipebus.mailbox.parcel import Item, Parcel, message_of

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Lanes:
    """
    For each key with a message in flight, the later messages of that key. The message in flight holds the lane.

    All methods are called with the mailbox's lock held.
    """

    __slots__ = ("_by_key", "keys")

    def __init__(self) -> None:
        self._by_key: dict[str, deque[Item]] = {}
        self.keys: deque[str] = deque()  # the key of each message that waits, oldest first

    def keeps(self, item: Item) -> bool:
        """Whether an item has to wait in a lane; otherwise it holds its lane from now on, if it has a key."""
        key: Any = message_of(item).key
        if key.__class__ is not str:
            return False
        if isinstance(item, Parcel) and item.lane:
            item.lane = False  # it kept its lane while it was away
            return False
        lane = self._by_key.get(key)
        if lane is None:
            self._by_key[key] = deque()
            return False
        lane.append(item)
        self.keys.append(key)
        return True

    def ended(self, item: Parcel, back: bool) -> Parcel | None:
        """
        An item in flight has ended, or goes `back` and keeps its lane.

        Returns:
            The next item of its key, which holds the lane from now on.
        """
        key: Any = item.message.key
        if key.__class__ is not str or key not in self._by_key:
            return None
        if back:
            item.lane = True
            return None
        return self._next(key)

    def let_go(self, item: Item) -> Parcel | None:
        """The same for an item that holds its lane and leaves the mailbox without having been handled."""
        if not isinstance(item, Parcel) or not item.lane:
            return None
        item.lane = False
        return self.ended(item, back=False)

    def _next(self, key: str) -> Parcel | None:
        lane = self._by_key[key]
        if not lane:
            del self._by_key[key]
            return None
        self.keys.remove(key)
        item = lane.popleft()
        follower = item if isinstance(item, Parcel) else Parcel(item)
        follower.lane = True
        return follower

    def first(self) -> Item | None:
        """The item that has waited longest; it stays."""
        return self._by_key[self.keys[0]][0] if self.keys else None

    def oldest(self) -> Item | None:
        """Take out the item that has waited longest."""
        return self._by_key[self.keys.popleft()].popleft() if self.keys else None

    def clear(self) -> list[Item]:
        """Take out all that wait."""
        found = [item for lane in self._by_key.values() for item in lane]
        for lane in self._by_key.values():
            lane.clear()
        self.keys.clear()
        return found

    def piles(self) -> list[deque[Item]]:
        """The lanes, to take items out of them; then call `recount`."""
        return list(self._by_key.values())

    def recount(self) -> None:
        self.keys = deque(key for key, lane in self._by_key.items() for _ in lane)
