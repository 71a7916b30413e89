"""Where something was registered: the file and line that errors and `explain` name."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Place(NamedTuple):
    """A file and a line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


_places: dict[tuple[str, int], Place] = {}


def caller() -> Place:
    """The nearest line outside of pipebus and contextlib, or in a module of pipebus that is marked `USES_THE_BUS`."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not (module.startswith("pipebus.") or module in ("pipebus", "contextlib")) or frame.f_globals.get("USES_THE_BUS"):
            break
        frame = frame.f_back
    key = (frame.f_code.co_filename, frame.f_lineno)
    return _places.setdefault(key, Place(*key))
