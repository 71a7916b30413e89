"""What a filter may read of the publish or the delivery that it is part of."""

from __future__ import annotations

import contextvars
from typing import Any, Final

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


accepted: Final[contextvars.ContextVar[list[Any] | None]] = contextvars.ContextVar("pipebus.accepted", default=None)
"""
A list of what a mailbox or the store has accepted in this publish so far. A filter that `repeats` passes sets one: what was
accepted must not be sent again. (On the delivery side the same is told by `delivery`, which may be settled.)
"""


replayed: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("pipebus.replayed", default=False)
"""True around a dead letter that has come back: whoever knows it already has to let it pass."""


delivery: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("pipebus.delivery", default=None)
"""The `Delivery` that a handler with a parameter for it is being given."""
