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
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from types import MappingProxyType
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.errors import BusClosed
from pipebus.mailbox.mailbox import OWN, Mailbox, Waiter
from pipebus.message.outcomes import Receipt

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

Vain = Mapping[Mailbox, str]
"""Mailboxes that were waited for in vain, and why, as `MailboxFull` will say it."""

timed_out: Final[contextvars.ContextVar[Vain]] = contextvars.ContextVar("pipebus.timed_out", default=MappingProxyType({}))
"""Those of the publish at hand."""


async def room(mailboxes: Iterable[Mailbox]) -> Vain:
    """Wait, on the caller's loop, until every mailbox that blocks has room; those that had none in time."""
    loop = asyncio.get_running_loop()
    lines: list[tuple[Mailbox, Waiter, asyncio.Event]] = []
    started = loop.time()
    try:
        for mailbox in mailboxes:
            if mailbox.rules.overflow == "block":
                arrived = asyncio.Event()
                waiter = mailbox.line_up(None, functools.partial(loop.call_soon_threadsafe, arrived.set))
                if isinstance(waiter, Waiter):
                    lines.append((mailbox, waiter, arrived))
        for mailbox, _, arrived in lines:
            if mailbox.rules.mine(mailbox):  # a handler would wait for itself
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(started + mailbox.rules.timeout):
                    await arrived.wait()
    finally:
        for mailbox, waiter, _ in lines:
            mailbox.leave_line(waiter)
    return _in_vain((mailbox, waiter) for mailbox, waiter, _ in lines)


def room_for_thread(mailboxes: Iterable[Mailbox], clock: Clock, blocking: Callable[[], AbstractContextManager[Any]]) -> Vain:
    """The same for a thread that waits for a chain on the bus's loop."""
    lines: list[tuple[Mailbox, Waiter, threading.Lock]] = []
    started = clock.monotonic()
    try:
        for mailbox in mailboxes:
            if mailbox.rules.overflow == "block":
                gate = threading.Lock()
                gate.acquire()
                waiter = mailbox.line_up(None, gate.release)
                if isinstance(waiter, Waiter):
                    lines.append((mailbox, waiter, gate))
        with blocking():
            for mailbox, _, gate in lines:
                if not mailbox.rules.mine(mailbox):  # a handler would wait for itself
                    clock.wait(gate, started + mailbox.rules.timeout - clock.monotonic())
    finally:
        for mailbox, waiter, _ in lines:
            mailbox.leave_line(waiter)
    return _in_vain((mailbox, waiter) for mailbox, waiter, _ in lines)


def _in_vain(lines: Iterable[tuple[Mailbox, Waiter]]) -> Vain:
    vain: dict[Mailbox, str] = {}
    for mailbox, waiter in lines:
        if waiter.accepted is None:
            vain[mailbox] = OWN if mailbox.rules.mine(mailbox) else mailbox.waited()
        elif not waiter.accepted and not mailbox.closed_for_good():
            raise BusClosed("the bus stopped while a publish waited for room")
    return vain


def forced(mailbox: Mailbox, item: Any) -> Receipt:
    """Into a mailbox whose room was waited for: over the bound if others were faster, but not if the wait was in vain."""
    why = timed_out.get().get(mailbox)
    receipt = mailbox.offer(item, force=why is None)
    if receipt is None:
        mailbox.owner.overflowed(item, "block")
        raise mailbox.full(why or mailbox.waited())
    return receipt
