"""A test of a file: what it publishes, replaces and expects. `pipebus.testing` runs it; `tests.py` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipebus.config.kinds.expected import Expected


@dataclass
class StandIn:
    """What a replaced handler or filter does."""

    returns: Any = None
    drops: str | None = None
    rejects: str | None = None
    raises: str | None = None
    times: int | None = None


@dataclass
class Case:
    """
    One test of a file.

    Args:
        publishes: Arguments of each publish; `after` is seconds of virtual time before it.
        received: By subscription: for each message that it handles, what is expected of its fields.
        lines: By expectation: its line.
        redacted: Replaces, in a text, secrets by the `${…}` that they came from.
    """

    name: str
    file: str
    line: int
    publishes: list[dict[str, Any]]
    handlers: dict[str, StandIn] = field(default_factory=dict)
    filters: dict[str, StandIn] = field(default_factory=dict)
    advance: float = 0.0
    outcomes: list[str] | None = None
    by: str | None = None
    reason: Expected | None = None
    deliveries: int | dict[str, int] | None = None
    dead: int | dict[str, int] | None = None
    error: Expected | None = None
    received: dict[str, list[dict[str, Expected]]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    redacted: Callable[[str], str] = str


class Replace:
    """
    What replaces handlers and filters when a file is read for a test.

    Args:
        handlers: By the subscription's name: a function that makes the handler. "*" is for all other subscriptions.
        filters: By name, of an instance or of a kind as a file writes it: the filter.
    """

    def __init__(
        self, handlers: Mapping[str, Callable[[], Any]] | None = None, filters: Mapping[str, Any] | None = None
    ) -> None:
        self.handlers = handlers or {}
        self.filters = filters or {}
        self._made: dict[str, Any] = {}

    def handler(self, name: str) -> Any:
        """Return the handler that replaces the one of a subscription, always the same one, or None."""
        make = self.handlers.get(name, self.handlers.get("*"))
        if make is not None and name not in self._made:
            self._made[name] = make()
        return self._made.get(name)
