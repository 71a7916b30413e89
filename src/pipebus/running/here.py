"""What runs here, on this thread or in this coroutine: the mailbox whose handler it is, and the message in hand."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any, Final, Protocol

from pipebus.mailbox.mailbox import Mailbox
from pipebus.message.message import Message

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Place(Protocol):
    """A thread's worker, or a `Here`."""

    mailbox: Any
    item: Any
    """A message, a `Parcel` or a `Question`."""
    thread: int | None
    """The thread that it is about, since copies of its context go to other threads, and outlive a handler; None: a context."""


class Here:
    """
    For work that is not bound to one thread: handlers on loops, async publish chains, and tasks and threads that a handler
    waits for. It is emptied when that work ends, so that a task left behind no longer counts as part of it.
    """

    __slots__ = ("item", "mailbox", "thread")

    def __init__(self, mailbox: Mailbox | None = None, item: Any = None, thread: int | None = None) -> None:
        self.mailbox = mailbox
        self.item = item
        self.thread = thread

    def empty(self) -> None:
        self.mailbox = self.item = None


class _Local(threading.local):
    worker: Any = None


_local: Final = _Local()

NOWHERE: Final = Here()

carried: Final[contextvars.ContextVar[Place]] = contextvars.ContextVar("pipebus.here", default=NOWHERE)

in_context: Final = carried.get
"""What runs in this context; its `item` is None if nothing does. A publish reads that first, for 20 ns."""


def begin(worker: Place) -> contextvars.Context:
    """
    From now on this thread runs handlers: `worker` has their `mailbox` and `item`.

    Returns:
        The context to copy for its deliveries. It holds one variable.
    """
    _local.worker = worker
    worker.thread = get_ident()
    context = contextvars.Context()
    context.run(carried.set, worker)
    return context


def carry(context: contextvars.Context) -> Here:
    """Make code that runs in `context`, on another thread, count as part of what runs here, until emptied."""
    here = Here(current_mailbox(), in_hand())
    context.run(carried.set, here)
    return here


class elsewhere:  # noqa: N801 (a `with` block; not a `contextmanager`, which sets attributes of errors)
    """In a `with` block, what runs here may continue on other threads, and has another message in hand."""

    def __init__(self, message: Message[Any] | None = None) -> None:
        self.here = Here(current_mailbox(), message if message is not None else in_hand())

    def __enter__(self) -> None:
        self.token = carried.set(self.here)

    def __exit__(self, *_: object) -> None:
        self.here.empty()
        with suppress(ValueError):  # a coroutine whose loop is gone is closed by the collector, in another context
            carried.reset(self.token)


def holding(run: Callable[[Message[Any]], Any], colour: str) -> Callable[[Message[Any]], Any]:
    """A publish chain whose filters have its message in hand."""

    def hold(message: Message[Any]) -> Any:
        here = in_context()
        if here is NOWHERE:
            here = Here(thread=get_ident())
            carried.set(here)  # and it stays: to take it back would cost more than the rest of this function
        elif here.thread != get_ident():
            with elsewhere(message):
                return run(message)
        before, here.item = here.item, message
        try:
            return run(message)
        finally:
            here.item = before

    async def ahold(message: Message[Any]) -> Any:
        with elsewhere(message):
            return await run(message)

    return hold if colour == "sync" else ahold


def _item() -> Any:
    """What is in hand here; None in a copy of the context that has gone to another thread."""
    here = in_context()
    return here.item if here.thread is None or here.thread == get_ident() else None


def in_hand() -> Message[Any] | None:
    """The message that a handler or filter works on here."""
    item = _item()
    return item if item is None or item.__class__ is Message else item.message


def attempt() -> int:
    """Which attempt at the message in hand this is, from 1."""
    return getattr(_item(), "attempt", 1)


def current_mailbox() -> Mailbox | None:
    """The mailbox whose handler this thread, or this coroutine, is running."""
    worker = _local.worker
    if worker is not None and worker.mailbox is not None:
        return worker.mailbox  # type: ignore[no-any-return]
    here = in_context()
    return here.mailbox if here.thread is None else None
