"""One filter alone, in a chain of each colour, on each side of the bus: `run_filter(…, colour=colour, at=at)`."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Any:
    """A test that asks for it runs once in a sync chain, and once in an async one."""
    return request.param


@pytest.fixture(params=["publish", "delivery"])
def at(request: pytest.FixtureRequest) -> Any:
    """A test that asks for it runs once with a filter of the publisher's, and once with one around a handler."""
    return request.param
