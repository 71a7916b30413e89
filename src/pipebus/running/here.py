"""The mailbox whose handler runs here: on this thread, or in this coroutine."""

from __future__ import annotations

import contextvars
import threading
from typing import Final

from pipebus.mailbox.mailbox import Mailbox

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

_here = threading.local()


def runs(mailbox: Mailbox | None) -> None:
    """From now on this thread runs handlers of that mailbox; None: it runs no handler."""
    _here.mailbox = mailbox


class Here:
    """
    The same as `_here.mailbox` for handlers whose work is not bound to one thread: on loops, and in tasks and threads that the
    handler waits for. It is emptied when the handler ends, so that a task left behind no longer counts as part of it.
    """

    __slots__ = ("mailbox",)

    def __init__(self, mailbox: Mailbox | None) -> None:
        self.mailbox = mailbox


carried: Final[contextvars.ContextVar[Here]] = contextvars.ContextVar("pipebus.here", default=Here(None))  # noqa: B039


def carry(context: contextvars.Context) -> Here:
    """Make code that runs in `context`, on another thread, count as part of the handler that runs here, until emptied."""
    here = Here(current_mailbox())
    context.run(carried.set, here)
    return here


def current_mailbox() -> Mailbox | None:
    """The mailbox whose handler this thread, or this coroutine, is running."""
    mailbox: Mailbox | None = getattr(_here, "mailbox", None)
    return mailbox if mailbox is not None else carried.get().mailbox
