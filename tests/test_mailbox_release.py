"""A delayed message that becomes due: the bus never looks quiet while the message is neither held nor claimed by a worker."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import pytest

from pipebus import Message
from pipebus.clock import SYSTEM
from pipebus.mailbox.claims import Claims
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import offer, release
from pipebus.mailbox.parcel import Parcel
from pipebus.mailbox.rare import Rules
from pipebus.mailbox.shared import STATE, SharedMailbox


class Shared(SharedMailbox):
    __slots__ = STATE


@pytest.mark.parametrize(("kind", "workers"), [(Mailbox, 1), (Shared, 2)], ids=["one-worker", "two-workers"])
def test_a_message_that_becomes_due_is_held_until_its_worker_is_counted(kind: type[Mailbox], workers: int) -> None:
    """Otherwise a drain that looks in between would return before the message is handled."""
    claims = Claims()
    rules = Rules(
        claims,
        SYSTEM,
        workers=workers,
        call=lambda mailbox: None,
        later=lambda seconds, call: None,
        blocking=nullcontext,
        mine=lambda mailbox: False,
    )
    mailbox = kind(rules)
    parcel = Parcel(Message("later"), delay=60.0)
    offer(mailbox, parcel)
    assert (claims.held, claims.live) == (1, {})
    busy: list[bool] = []

    def look(frame: Any, event: str, argument: Any) -> Any:
        busy.append(bool(claims.live or claims.held))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        release(mailbox, parcel)
    finally:
        sys.settrace(before)

    assert len(busy) > 10
    assert all(busy)
    assert (claims.held, list(claims.live)) == (0, [mailbox])
