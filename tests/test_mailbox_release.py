"""A delayed message that becomes due: the bus never looks quiet while the message is neither held nor being handled."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from pipebus import Message
from pipebus.clock import SYSTEM
from pipebus.mailbox.mailbox import Mailbox, Parcel, Rules, Traffic
from pipebus.mailbox.shared import SharedMailbox
from pipebus.mailbox.solo import SoloMailbox


class Watched(Traffic):
    """Records what a drain would have seen after each change."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def change(self, busy: int = 0, held: int = 0) -> None:
        super().change(busy, held)
        self.seen.append((self.busy, self.held))


class Owner:
    name = "owner"

    def overflowed(self, item: Any, policy: str) -> None:
        """Ignore it: nobody listens."""

    def discarded(self, item: Any, reason: str, by: str | None) -> None:
        """Ignore it: nobody listens."""


@pytest.mark.parametrize(("kind", "workers"), [(SoloMailbox, 1), (SharedMailbox, 2)], ids=["one-worker", "two-workers"])
def test_a_message_that_becomes_due_is_held_until_its_worker_is_counted(kind: type[Mailbox], workers: int) -> None:
    """Otherwise a drain that looks in between would return before the message is handled."""
    traffic = Watched()
    rules = Rules(
        traffic,
        SYSTEM,
        workers=workers,
        schedule=lambda mailbox: None,
        later=lambda seconds, call: None,
        blocking=nullcontext,
        mine=lambda mailbox: False,
    )
    mailbox = kind(rules, Owner())
    parcel = Parcel(Message("later"), delay=60.0)
    mailbox.put(parcel)
    assert traffic.seen == [(0, 1)]

    mailbox.release(parcel)

    assert traffic.seen[-1] == (1, 0)
    assert (0, 0) not in traffic.seen
