"""
Patience: a publisher that nobody waits for, such as a command that reads a file, may wait for room without a limit.

Without it, a handler that stalls for a minute would cost one record for each timeout of its full mailbox.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Final

from pipebus.clock import Clock, Gate

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

SLICE: Final = 0.2
"""Seconds of waiting between two questions whether to wait on."""

patience: Final[contextvars.ContextVar[Callable[[Exception | None], bool] | None]] = contextvars.ContextVar(
    "pipebus.patience", default=None
)
"""
Asked by each publish in this context that would fail, whether to try on: with None, because a mailbox is still full after a
slice of waiting; or with the error of the store, for which the function itself waits.
"""


def wait(clock: Clock, gate: Gate, deadline: float, endless: bool) -> None:
    """
    Wait until a gate opens, or until the deadline.

    Args:
        endless: With patience, wait for as long as that lasts instead.
    """
    patient = patience.get() if endless else None
    if patient is None:
        clock.wait(gate, deadline - clock.monotonic())
        return
    while not clock.wait(gate, SLICE) and patient(None):
        pass
