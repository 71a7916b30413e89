"""From a file to a bus, and from a bus to the text of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipebus.bus.bus import Bus
from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.imports import Imports
from pipebus.config.problems import Problems
from pipebus.config.reading.cases import Case, Replace
from pipebus.config.reading.document import LARGEST, Document, read_text
from pipebus.config.reading.reader import Reader


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
    Return the bus that a file declares, and its tests.

    Args:
        path, allow_imports, handlers, filters: As for `Bus.from_config`, which calls this.
        replace: What replaces handlers and filters in a test.
        tests: The file is read for its tests, so a variable or file that the transport's URL names may be missing.
        kind: The class of the bus.

    Raises:
        ConfigError: with everything that is wrong.
    """
    loading = Loading(Imports(allow_imports), dict(handlers or {}), dict(filters or {}))
    reader = Reader(Document(read_text(path), os.fspath(path), tests=tests), loading, replace, kind)
    bus = reader.bus()
    return bus, reader.cases


def export(bus: Bus) -> str:
    """Return the text of a file, for `bus.export_config`."""
    from pipebus.config.writing.toml import written
    from pipebus.config.writing.writer import document

    text = written(document(bus))
    if len(text.encode()) > LARGEST:
        problems = Problems(repr(bus))
        problems.add(None, "", f"the file would be larger than {LARGEST // 1024} KiB, and none may be")
        problems.check()
    return text
