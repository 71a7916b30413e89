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
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import OWN, closed_for_good, give_up_place, leave_line, line_up, waited
from pipebus.mailbox.patience import wait
from pipebus.mailbox.rare import Waiter

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

Vain = Mapping[Mailbox, str]
"""Mailboxes that had no room in time, and the reason that `MailboxFull` gives for each."""

timed_out: Final[contextvars.ContextVar[Vain]] = contextvars.ContextVar("pipebus.timed_out", default=MappingProxyType({}))
"""Those of the current publish."""


class Places:
    """
    Places in full mailboxes that a publish waits for before its chain runs. They are kept for it until `give_up`.

    Only mailboxes with overflow "block" are waited for, and none whose own handler publishes: it would wait for itself.
    """

    def __init__(self) -> None:
        self._lines: list[tuple[Mailbox, Waiter]] = []
        self._token: contextvars.Token[Vain] | None = None

    async def aget(self, mailboxes: Iterable[Mailbox]) -> None:
        """
        Wait on the running loop.

        Raises:
            BusClosed: the bus stopped meanwhile.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        waits: list[tuple[Mailbox, asyncio.Event]] = []
        for mailbox in mailboxes:
            arrived = asyncio.Event()
            if self._line_up(mailbox, functools.partial(loop.call_soon_threadsafe, arrived.set)):
                waits.append((mailbox, arrived))
        for mailbox, arrived in waits:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(started + mailbox.plan.timeout):
                    await arrived.wait()
        self._note()

    def get(self, mailboxes: Iterable[Mailbox], clock: Clock, blocking: Callable[[], AbstractContextManager[Any]]) -> None:
        """The same on a thread whose chain runs on the bus's loop. `blocking` is entered while it waits."""
        started = clock.monotonic()
        waits: list[tuple[Mailbox, threading.Lock]] = []
        for mailbox in mailboxes:
            gate = threading.Lock()
            gate.acquire()
            if self._line_up(mailbox, gate.release):
                waits.append((mailbox, gate))
        with blocking():
            for mailbox, gate in waits:
                wait(clock, gate, started + mailbox.plan.timeout, endless=not mailbox.plan.pull)
        self._note()

    def _line_up(self, mailbox: Mailbox, wake: Callable[[], object]) -> bool:
        """Take a place in line; True if it has to be waited for."""
        if mailbox.plan.overflow != "block":
            return False
        waiter = line_up(mailbox, None, wake)
        if not isinstance(waiter, Waiter):
            return False
        self._lines.append((mailbox, waiter))
        return waiter.accepted is None and not mailbox.plan.mine(mailbox)

    def _note(self) -> None:
        """Leave the lines, and note in `timed_out` which mailboxes had no room in time."""
        vain: dict[Mailbox, str] = {}
        for mailbox, waiter in self._lines:
            leave_line(mailbox, waiter)
            if waiter.accepted is None:
                vain[mailbox] = OWN if mailbox.plan.mine(mailbox) else waited(mailbox)
            elif not waiter.accepted and not closed_for_good(mailbox):
                raise BusClosed("the bus stopped while a publish waited for room")
        if vain:
            self._token = timed_out.set(vain)

    def give_up(self) -> None:
        """The chain has ended: let the next publishers in."""
        if self._token is not None:
            timed_out.reset(self._token)
        for mailbox, waiter in self._lines:
            leave_line(mailbox, waiter)
            give_up_place(mailbox, waiter)
