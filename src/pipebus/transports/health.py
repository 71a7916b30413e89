"""How well something is: the record that `Bus.health` returns, and that a transport returns about itself."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Health(msgspec.Struct, frozen=True):
    """
    How well a bus is, or its transport.

    Args:
        live: It can go on by itself. False only if nothing but a new process helps.
        ready: It takes messages now.
        degraded: It works, but not as it should, so somebody should look.
        reasons: What was found, a sentence each, with the name of the thing. None if it is live, ready and not degraded.

    Example:
        >>> from pipebus import Bus
        >>> Bus().health()
        Health(live=True, ready=False, degraded=False, reasons=('the bus is not started',))
    """

    live: bool = True
    ready: bool = True
    degraded: bool = False
    reasons: tuple[str, ...] = ()


def dead(reason: str) -> Health:
    """Only a new process helps."""
    return Health(live=False, ready=False, degraded=True, reasons=(reason,))


def away(reason: str) -> Health:
    """It takes no messages now, and that may pass."""
    return Health(ready=False, degraded=True, reasons=(reason,))


def worse(reason: str) -> Health:
    """It works, but somebody should look."""
    return Health(degraded=True, reasons=(reason,))


def together(parts: Iterable[Health]) -> Health:
    """The health of a whole: as bad as each of its parts."""
    parts = list(parts)
    return Health(
        all(part.live for part in parts),
        all(part.ready for part in parts),
        any(part.degraded for part in parts),
        tuple(reason for part in parts for reason in part.reasons),
    )
