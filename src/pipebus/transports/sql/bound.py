"""The subscriptions that this process serves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, Final

from pipebus.transports.base import Binding
from pipebus.transports.sql.records import Claim
from pipebus.transports.window import Window

CLEARED: Final = 5.0
"""Seconds after which a message that may have killed its process is cleared of suspicion, since this process still lives."""


class Bound:
    """
    Args:
        binding: The subscription, as the bus sees it.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        # In the store. An unnamed subscription is this process's alone, though others give theirs the same name.
        self.name = binding.name if binding.durable else f"{binding.name} of {os.urandom(6).hex()}"
        self.ended = False  # it is to be removed from the store, as soon as none of its messages is out
        self.patterns = [pattern.text for pattern in binding.patterns]
        self.sub = 0  # its number in the store
        self.seen = 0  # number of the last message when its row was last seen
        self.recent: set[int] = set()  # what was claimed since then
        self.out: dict[Claim, None] = {}  # changed in single steps, so without a lock
        self.maybe = True  # there may be something to claim
        self.not_before = 0.0  # its mailbox had no room: do not claim before this time
        self.window = Window(binding)

    def wants(self, now: float) -> int:
        """How many deliveries to claim now; 0: enough are out."""
        if not self.maybe or now < self.not_before:
            return 0
        held = len(self.out)
        return 0 if held > self.window.half else self.window.wants(held, careful=self.suspects)

    def owner(self, owner: int) -> int | None:
        """The owner with which the subscription is removed; None: it stays."""
        return None if self.binding.durable else owner

    @property
    def suspects(self) -> bool:
        """A handler here has just got a message that was out when another process ended."""
        if not self.binding.handled:
            return False
        since = time.monotonic() - CLEARED
        return any(claim.suspect and claim.since > since for claim in list(self.out))

    def settle(self) -> bool:
        """Count a delivery that is no longer out. True: it is time to claim more, or to write what was settled."""
        self.window.settled += 1
        self.not_before = 0.0
        left = len(self.out)
        return left < self.window.workers or left == self.window.half


class Bindings:
    """
    All of them, by the name that the bus knows, and by number.

    Args:
        lock: Held while they change.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._by_name: dict[str, Bound] = {}
        self._by_number: dict[int, Bound] = {}

    def __iter__(self) -> Iterator[Bound]:
        return iter(list(self._by_name.values()))

    def get(self, name: str) -> Bound | None:
        return self._by_name.get(name)

    def add(self, bound: Bound) -> None:
        with self._lock:
            self._by_name[bound.binding.name] = self._by_number[bound.sub] = bound

    def remove(self, name: str) -> Bound | None:
        with self._lock:
            bound = self._by_name.pop(name, None)
            if bound is not None:
                self._by_number.pop(bound.sub, None)
            return bound

    def move(self, bound: Bound, sub: int) -> None:
        """A subscription has a new number."""
        with self._lock:
            if self._by_number.pop(bound.sub, None) is bound:
                bound.sub = sub
                self._by_number[sub] = bound
        bound.maybe = True

    def move_all(self, subs: list[tuple[Bound, int]]) -> None:
        """All subscriptions have new numbers, in another file."""
        with self._lock:
            self._by_number.clear()
            for bound, sub in subs:
                bound.sub, bound.maybe, bound.not_before = sub, True, 0.0
                bound.recent.clear()
                if self._by_name.get(bound.binding.name) is bound:
                    self._by_number[sub] = bound

    def touched(self, subs: set[int]) -> bool:
        """These may have something to claim. False: the keeper knows, or this process serves none of them."""
        news = [bound for sub in subs if (bound := self._by_number.get(sub)) is not None and not bound.maybe]
        for bound in news:
            bound.maybe = True
        return bool(news)
