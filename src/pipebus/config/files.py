"""The ways in: a file becomes a bus, a bus becomes the text of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipebus.bus.bus import Bus
from pipebus.config.cases import Case
from pipebus.config.document import LARGEST, Document, read_text
from pipebus.config.imports import Imports
from pipebus.config.kinds import Loading
from pipebus.config.problems import Problems
from pipebus.config.reader import Reader, Replace


def load(
    path: str | os.PathLike[str],
    *,
    allow_imports: Sequence[str] = (),
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    filters: Mapping[str, Any] | None = None,
    kind: type[Bus] = Bus,
) -> Bus:
    """What `Bus.from_config` calls."""
    return read(path, allow_imports=allow_imports, handlers=handlers, filters=filters, kind=kind)[0]


def read(
    path: str | os.PathLike[str],
    *,
    allow_imports: Sequence[str] = (),
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    filters: Mapping[str, Any] | None = None,
    replace: Replace | None = None,
    tests: bool = False,
    kind: type[Bus] = Bus,
) -> tuple[Bus, list[Case]]:
    """
    The bus that a file declares, and its tests.

    Args:
        path, allow_imports, handlers, filters: As for `Bus.from_config`.
        replace: Stand-ins for a test.
        tests: It is read for its tests: what the transport's URL lacks (a variable, a file) is no mistake.
        kind: The class of the bus.

    Raises:
        ConfigError: all that is wrong.
    """
    loading = Loading(Imports(allow_imports), dict(handlers or {}), dict(filters or {}))
    reader = Reader(Document(read_text(path), os.fspath(path), tests=tests), loading, replace, kind)
    bus = reader.bus()
    return bus, reader.cases


def export(bus: Bus) -> str:
    """What `bus.export_config` calls."""
    from pipebus.config.writer import document, written

    text = written(document(bus))
    if len(text.encode()) > LARGEST:
        problems = Problems(repr(bus))
        problems.add(None, "", f"the file would be larger than {LARGEST // 1024} KiB, and none may be")
        problems.check()
    return text
