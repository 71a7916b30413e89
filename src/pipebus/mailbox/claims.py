"""
Claims: which mailboxes of one bus have mail or a worker, and waiting until none has.

A mailbox is *claimed* while it is a key of `live`. The thread that puts it there is its owner; only the owner takes messages
out of the mailbox and changes its state. The bus is quiet when `live` is empty and no message is delayed. The module `mailbox`
explains how a claim is taken, handed on and given back, and why no message is lost.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.waiting.latch import open_gate
from pipebus.waiting.locks import Locks, free, interrupted

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

SLICE: Final = 0.5
"""Seconds between two checks while a caller waits for the bus to become quiet."""


class Claims:
    """
    The state that the mailboxes of one bus share.

    Args:
        look: Called before each wait for quiet. It may start a thread that could not be started before.
    """

    __slots__ = ("__weakref__", "gates", "held", "live", "lock", "locks", "look", "waits", "working")

    def __init__(self, locks: Locks | None = None, look: Callable[[], object] = lambda: None) -> None:
        self.locks = locks or Locks()
        self.locks.checks.append(weakref.WeakMethod(self._check_own))
        self.lock = self.locks.new()  # for all rare changes
        self.look = look
        self.live: dict[Any, object] = {}  # claimed mailboxes, each with the token of its claim
        self.working: dict[Any, object] = {}  # mailboxes in which a worker is, each with that worker
        self.held = 0  # delayed messages
        self.waits: dict[Any, list[tuple[Any, ...]]] = {}  # which handlers wait for which mailboxes; see `asked`
        self.gates: list[Any] = []  # of callers that wait for quiet

    def given_back(self) -> None:
        """After a claim was given back: wake the callers that wait for quiet, if the bus is quiet."""
        if self.gates and not self.live and not self.held:
            self.alarm()

    def quiet(
        self, clock: Clock, timeout: float, also: Callable[[], bool] = lambda: True, give_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """
        Wait until no mailbox is claimed and no message is delayed; False when `timeout` seconds have passed.

        Args:
            also: A further condition, checked each time the mailboxes are quiet.
            give_up: If true, stop waiting; checked before each wait.
        """
        self.locks.check()
        deadline = clock.monotonic() + timeout
        while True:
            self.look()
            gate = threading.Lock()
            gate.acquire()
            with self._watched(gate) as quiet:
                if quiet and also():
                    return True
                left = deadline - clock.monotonic()
                if left <= 0 or give_up():
                    return False
                # In slices: a signal that comes just before the wait would otherwise be handled only after it.
                clock.wait(gate, min(left, SLICE))

    def _check_own(self) -> None:
        """
        Called before each wait for another thread.

        Raises:
            LifecycleError: the caller has interrupted a put on this thread that holds a claim, and would wait for itself.
        """
        if len(self.live) > len(self.working):
            for fresh in on_this_stack("fresh"):
                if any(token is fresh for token in list(self.live.values())):
                    raise interrupted()

    async def aquiet(self, clock: Clock, timeout: float, also: Callable[[], bool]) -> bool:
        """`quiet` on an event loop, without a thread that waits."""
        deadline = clock.monotonic() + timeout
        while True:
            self.look()
            gate = LoopGate()
            with self._watched(gate) as quiet:
                if quiet and also():
                    return True
                left = deadline - clock.monotonic()
                if left <= 0:
                    return False
                await gate.wait(min(left, SLICE))

    @contextmanager
    def _watched(self, gate: Any) -> Iterator[bool]:
        """Whether the bus is quiet; from now on, `gate` is opened whenever it may have become quiet."""
        with free(self.lock):
            # Add the gate before the check: an owner gives its claim back before it looks at the gates.
            self.gates.append(gate)
            quiet = not self.live and not self.held
        try:
            yield quiet
        finally:
            with free(self.lock):
                self.gates.remove(gate)

    def alarm(self) -> None:
        """Make all callers that wait for quiet check again. It takes no lock, so that a signal handler may call it."""
        for gate in list(self.gates):
            open_gate(gate)


class LoopGate:
    """A gate that a coroutine waits at. Like a lock, it is opened by `release`, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open = asyncio.Event()

    def release(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._open.set)

    async def wait(self, timeout: float | None) -> bool:
        """False when `timeout` seconds have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._open.wait()
        return self._open.is_set()


def on_this_stack(name: str, package: str = "pipebus.mailbox.") -> Iterator[Any]:
    """The local variables of this name in the functions of a package that this thread is in the middle of."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        # No other frames are looked into: a look keeps the local variables of a frame alive as long as the frame.
        if name in frame.f_code.co_varnames and frame.f_globals.get("__name__", "").startswith(package):
            yield frame.f_locals.get(name)
        frame = frame.f_back


def wake(call: Callable[[], object]) -> None:
    """Wake a waiter. If the event loop of the waiter is closed, nobody waits, and the caller must not fail because of that."""
    with suppress(RuntimeError):
        call()
