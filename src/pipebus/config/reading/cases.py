"""A test of a file: what it publishes, replaces and expects. `pipebus.testing` runs it; `tests.py` checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipebus.config.vocabulary import Test


@dataclass
class Case:
    """
    One test of a file.

    Args:
        lines: By expectation: its line.
        redacted: Replaces, in a text, secrets by the `${…}` that they came from.
    """

    test: Test
    file: str
    line: int
    lines: dict[str, int]
    redacted: Callable[[str], str]

    @property
    def outcomes(self) -> list[str]:
        """The expected outcome of each publish; none if any will do."""
        outcome = self.test.expect.outcome
        if isinstance(outcome, list):
            return [*outcome]
        return [] if outcome is None else [outcome] * len(self.test.publish)


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
