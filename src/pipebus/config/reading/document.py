"""A config file: its data, with texts interpolated, and the line of each key."""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipebus.config.problems import BROKEN, Bad, Problems
from pipebus.config.reading.interpolation import interpolate
from pipebus.config.reading.positions import Path as KeyPath
from pipebus.config.reading.positions import positions
from pipebus.config.wording import Interpolated, path_text, shown
from pipebus.pipeline.places import Place

LARGEST: Final = 1 << 20
"""Most bytes of a config file."""

DEEPEST: Final = 50
"""Most levels of nesting. `positions` keeps the lines of more levels than this."""


def read_text(path: str | os.PathLike[str]) -> str:
    """
    Return the text of a config file.

    Raises:
        ConfigError: there is no such file, or it is not text.
    """
    problems = Problems(os.fspath(path))
    try:
        if not os.path.exists(path):
            problems.add(None, "", "no such file")
        elif not os.path.isfile(path):
            problems.add(None, "", "it is not a file; give a TOML file")
        else:
            with open(path, "rb") as file:
                data = file.read(LARGEST + 1).removeprefix(codecs.BOM_UTF8)
            if len(data) <= LARGEST:
                return data.decode("utf-8")
            problems.add(None, "", f"it is larger than {LARGEST // 1024} KiB; a config file is not data")
    except UnicodeDecodeError as error:
        problems.add(data[: error.start].count(b"\n") + 1, "", f"not UTF-8: byte 0x{data[error.start]:02x}")
    except (OSError, ValueError) as error:
        problems.add(None, "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    raise problems.error()


class Document:
    """
    One parsed file.

    Args:
        text: TOML.
        file: Its name, for errors and places. `${file:…}` is relative to its folder.
        tests: The file is read for its tests, which do not use the transport, so a variable or file that the transport's URL
            names may be missing.

    Attributes:
        lacks: Something that the transport's URL names is missing.

    Raises:
        ConfigError: the text is not TOML.
    """

    def __init__(self, text: str, file: str, environment: Mapping[str, str] | None = None, tests: bool = False) -> None:
        self.file = file
        self.problems = Problems(file)
        self.data: dict[str, Any] = self._parse(text)
        self.lines = positions(text)
        self._environment = os.environ if environment is None else environment
        self._folder = Path(file).absolute().parent
        self._tests = tests
        self.lacks = False
        self._raw = True  # `data` is not interpolated yet
        self.data = self._interpolated(self.data, ())
        self._raw = False

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except ValueError as error:
            line, reason = _where(str(error), text)
            self.problems.add(line, "", f"not TOML: {reason}")
        except RecursionError:
            self.problems.add(None, "", "not TOML that can be read: it is nested too deeply")
        raise self.problems.error()

    def _interpolated(self, value: Any, path: KeyPath) -> Any:
        if len(path) > DEEPEST:
            self.problems.add(self.line(path), "", f"it is nested in more than {DEEPEST} levels")
            raise self.problems.error()
        if isinstance(value, dict):
            return {key: self._interpolated(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._interpolated(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            lacking = self._lacking if self._tests and path == ("bus", "transport") else None
            return interpolate(value, self._environment, self._folder, self.problems.secrets, lacking)
        except Bad as bad:
            self.add_value(path, Interpolated("", value), bad.text)
            return BROKEN

    def _lacking(self) -> str:
        self.lacks = True
        return "unset"

    def add_value(self, path: KeyPath, value: Any, text: str) -> None:
        """Report a wrong value, by the table that contains it and its path below that table."""
        last = max(index for index, part in enumerate(path) if isinstance(part, str))
        where = self.where(path[:last])
        self.problems.add(self.line(path), where, f"{path_text(path[last:])} = {shown(value)}: {text}")

    def line(self, path: KeyPath) -> int:
        """Return the line of a key, or of the nearest table around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def line_in(self, text: str) -> int | None:
        """Return the line of this file that an error names, or None."""
        match = re.search(re.escape(self.file) + r":(\d+)", text)
        return None if match is None else int(match[1])

    def around(self, line: int) -> KeyPath:
        """Return the path of the first-level table, or of the table in a first-level list, to which a line belongs."""
        found: KeyPath = ()
        for path, begins in self.lines.items():
            length = 2 if path and isinstance(self.data.get(str(path[0])), list) else 1
            if len(path) == length and self.lines.get(found, 0) <= begins <= line:
                found = path
        return found

    def place(self, path: KeyPath) -> Place:
        return Place(self.file, self.line(path))

    def where(self, path: KeyPath) -> str:
        """Return the path of a table and, in quotes, its name."""
        found: Any = self.data
        text = ""
        for index, part in enumerate(path):
            text += path_text((part,)) if isinstance(part, int) or not text else f".{path_text((part,))}"
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                continue
            if not isinstance(part, int) or not isinstance(found, dict):
                continue
            label = found.get("name" if index == 1 and path[0] in ("subscriptions", "tests") else "use")
            if isinstance(label, str) and label.isprintable():
                text += f" {shown(Interpolated('', label) if self._raw else label)}"
        return text


_HINTS: Final = {
    "Invalid value": "; texts must be in quotes, and the only words are true and false",
    "Invalid initial character for a key part": "; a table in braces must be on one line",
    "Cannot overwrite a value": "; the key is there twice",
    "Cannot mutate immutable namespace": "; the key is there twice",
    "Cannot declare": "; it is there twice; write [[…]] before each of several",
}
"""By the beginning of an error of tomllib: the usual mistake."""


def _where(reason: str, text: str) -> tuple[int | None, str]:
    """Return the line and the reason in an error of tomllib."""
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", reason, re.DOTALL)
    if match is not None:
        hint = next((hint for begin, hint in _HINTS.items() if match[1].startswith(begin)), "")
        return int(match[2]), f"{match[1]} (column {match[3]}){hint}"
    match = re.fullmatch(r"(.*) \(at end of document\)", reason, re.DOTALL)
    if match is not None:
        return text.count("\n") + (not text.endswith("\n")), f"{match[1]} (at the end of the file)"
    return None, reason
