"""Log lines, as data."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def captured_logs() -> Iterator[list[Any]]:
    """`structlog.testing.capture_logs`, but structlog is as it was before afterwards; that function leaves it configured."""
    configured = structlog.is_configured()
    try:
        with structlog.testing.capture_logs() as entries:
            yield entries
    finally:
        if not configured:
            structlog.reset_defaults()
