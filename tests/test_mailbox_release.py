"""A delayed message whose time has come: at no moment does the bus look quiet while it is neither held nor being worked on."""

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
    """Keeps what a drain would have seen after each change."""

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
        """Nobody listens."""

    def discarded(self, item: Any, reason: str, by: str | None) -> None:
        """Nobody listens."""


@pytest.mark.parametrize(("kind", "workers"), [(SoloMailbox, 1), (SharedMailbox, 2)], ids=["one-worker", "two-workers"])
def test_a_message_that_becomes_due_is_held_until_its_worker_is_counted(kind: type[Mailbox], workers: int) -> None:
    """Else a drain that looks in between returns before it was handled."""
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
