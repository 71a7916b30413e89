"""What a filter may read about the publish or the delivery in which it runs."""

from __future__ import annotations

import contextvars
from typing import Any, Final

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


accepted: Final[contextvars.ContextVar[list[Any] | None]] = contextvars.ContextVar("pipebus.accepted", default=None)
"""
A list of what mailboxes or the store have accepted in this publish so far. A filter that `repeats` sets it, because a message
that was accepted must not be sent again. (On the delivery side such a filter checks whether `delivery` is settled.)
"""


replayed: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("pipebus.replayed", default=False)
"""True while a replayed dead letter is delivered; a deduplicating filter must let it through."""


delivery: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("pipebus.delivery", default=None)
"""The current `Delivery`; None in a publish chain, and where neither the handler nor a filter wants or sees it."""
