"""
Room: waiting for space in full mailboxes, for publishes whose chain runs on an event loop.

The end of such a chain cannot wait, because that would block the loop. So the publish waits before the chain runs, for all
full mailboxes at once. Mailboxes that had no room in time are noted in `timed_out`; the end of the chain gives the message to
all the others before it raises `MailboxFull` for these.
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
"""Mailboxes that had no room in time, and the reason that `MailboxFull` gives for each."""

timed_out: Final[contextvars.ContextVar[Vain]] = contextvars.ContextVar("pipebus.timed_out", default=MappingProxyType({}))
"""Those of the current publish."""


async def room(mailboxes: Iterable[Mailbox]) -> Vain:
    """
    Wait on the running loop until every mailbox with overflow "block" has room.

    Returns:
        The mailboxes that had no room in time.

    Raises:
        BusClosed: the bus stopped meanwhile.
    """
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
            if mailbox.rules.mine(mailbox):  # its own handler publishes, and would wait for itself
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(started + mailbox.rules.timeout):
                    await arrived.wait()
    finally:
        for mailbox, waiter, _ in lines:
            mailbox.leave_line(waiter)
    return _in_vain((mailbox, waiter) for mailbox, waiter, _ in lines)


def room_for_thread(mailboxes: Iterable[Mailbox], clock: Clock, blocking: Callable[[], AbstractContextManager[Any]]) -> Vain:
    """`room` for a thread whose chain runs on the bus's loop. `blocking` is entered while it waits."""
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
                if not mailbox.rules.mine(mailbox):  # its own handler publishes, and would wait for itself
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
    """
    Put an item into a mailbox after waiting for room.

    It may exceed the bound if another publisher took the place meanwhile.

    Raises:
        MailboxFull: the wait timed out and the mailbox is still full, or it is full and its overflow is "reject".
    """
    why = timed_out.get().get(mailbox)
    receipt = mailbox.offer(item, force=why is None)
    if receipt is None:
        mailbox.owner.overflowed(item, "block")
        raise mailbox.full(why or mailbox.waited())
    return receipt
