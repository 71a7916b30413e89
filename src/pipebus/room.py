"""
Room, for publishes whose chain runs on an event loop: its terminal cannot wait there, so room is waited for before the chain
runs, for all full mailboxes at once. Those that had none in time are remembered in `timed_out` for the terminal, which gives
the message to the others first.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.errors import BusClosed
from pipebus.mailbox import Mailbox, Waiter
from pipebus.message import Receipt

timed_out: Final[contextvars.ContextVar[frozenset[Mailbox]]] = contextvars.ContextVar("pipebus.timed_out", default=frozenset())
"""The mailboxes that the publish at hand has waited for in vain."""


async def room(mailboxes: Iterable[Mailbox]) -> frozenset[Mailbox]:
    """Wait, on the caller's loop, until every mailbox that blocks has room; those that had none in time."""
    loop = asyncio.get_running_loop()
    lines: list[tuple[Mailbox, Waiter, asyncio.Event]] = []
    for mailbox in mailboxes:
        if mailbox.rules.overflow == "block":
            arrived = asyncio.Event()
            waiter = mailbox.line_up(None, functools.partial(loop.call_soon_threadsafe, arrived.set))
            if isinstance(waiter, Waiter):
                lines.append((mailbox, waiter, arrived))
    started = loop.time()
    try:
        for mailbox, _, arrived in lines:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(started + mailbox.rules.timeout):
                    await arrived.wait()
    finally:
        for mailbox, waiter, _ in lines:
            mailbox.leave_line(waiter)
    return _in_vain((mailbox, waiter) for mailbox, waiter, _ in lines)


def room_for_thread(
    mailboxes: Iterable[Mailbox], clock: Clock, blocking: Callable[[], AbstractContextManager[Any]]
) -> frozenset[Mailbox]:
    """The same for a thread that waits for a chain on the bus's loop."""
    lines: list[tuple[Mailbox, Waiter, threading.Lock]] = []
    for mailbox in mailboxes:
        if mailbox.rules.overflow == "block":
            gate = threading.Lock()
            gate.acquire()
            waiter = mailbox.line_up(None, gate.release)
            if isinstance(waiter, Waiter):
                lines.append((mailbox, waiter, gate))
    started = clock.monotonic()
    try:
        with blocking():
            for mailbox, _, gate in lines:
                if not mailbox.rules.mine(mailbox):  # a handler would wait for itself
                    clock.wait(gate, started + mailbox.rules.timeout - clock.monotonic())
    finally:
        for mailbox, waiter, _ in lines:
            mailbox.leave_line(waiter)
    return _in_vain((mailbox, waiter) for mailbox, waiter, _ in lines)


def _in_vain(lines: Iterable[tuple[Mailbox, Waiter]]) -> frozenset[Mailbox]:
    found = list(lines)
    if any(waiter.accepted is False for _, waiter in found):
        raise BusClosed("the bus stopped while a publish waited for room")
    return frozenset(mailbox for mailbox, waiter in found if waiter.accepted is None)


def forced(mailbox: Mailbox, item: Any) -> Receipt:
    """Into a mailbox whose room was waited for: over the bound if others were faster, but not if the wait was in vain."""
    receipt = mailbox.offer(item, force=mailbox not in timed_out.get())
    if receipt is None:
        mailbox.owner.overflowed(item, "block")
        raise mailbox.full(mailbox.waited())
    return receipt
