"""A connection of the page's own server. A client that sends no request does not keep its place."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

DEADLINE: Final = 5.0
"""Seconds for the head of a request."""
MOST: Final = 500
"""Connections at the same time. Those beyond are closed at once, so that the bus can still open its files."""


class Connection(H11Protocol):
    """uvicorn's connection, with a deadline and a bound."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self.loop.call_later(DEADLINE, self._look, None)

    def _look(self, before: Any) -> None:
        """Close it, if since the last look no request has begun, and none is being answered."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is before and (cycle is None or cycle.response_complete):
            self.transport.abort()
        else:
            self.loop.call_later(DEADLINE, self._look, cycle)
