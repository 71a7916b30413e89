"""What is emitted, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from telemetry_helpers import Emitted


@pytest.fixture
def emitted() -> Iterator[Emitted]:
    """Providers of spans and metrics that keep what they get."""
    emitted = Emitted()
    yield emitted
    emitted.close()
