"""Log lines, as data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


class _Lines(logging.Handler):
    """Writes the lines of the standard library's logging as `structlog.testing.capture_logs` writes those of structlog."""

    def __init__(self, entries: list[Any]) -> None:
        super().__init__()
        self.entries = entries

    def emit(self, record: logging.LogRecord) -> None:
        line = {"event": record.getMessage(), "logger": record.name, "log_level": record.levelname.lower()}
        self.entries.append({**line, "exc_info": record.exc_info} if record.exc_info else line)


@contextmanager
def captured_logs() -> Iterator[list[Any]]:
    """
    `structlog.testing.capture_logs`, and the lines of the standard library's logging, which go on to where they always go.
    Afterwards structlog is as it was before; that function leaves it configured.
    """
    configured = structlog.is_configured()
    try:
        with structlog.testing.capture_logs() as entries:
            lines = _Lines(entries)
            logging.root.addHandler(lines)
            try:
                yield entries
            finally:
                logging.root.removeHandler(lines)
    finally:
        if not configured:
            structlog.reset_defaults()
