"""A file as it was written: its data with texts interpolated, and the line of each key."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipebus.config.interpolation import interpolate
from pipebus.config.positions import Path as KeyPath
from pipebus.config.positions import positions
from pipebus.config.problems import BROKEN, Bad, Problems, Told, choice, path_text, shown
from pipebus.errors import ConfigError
from pipebus.pipeline.places import Place

if TYPE_CHECKING:
    from pipebus.config.catalogue import Setting
    from pipebus.config.kinds import Kind, Loading

LARGEST: Final = 1 << 20
"""Bytes of a config file."""

DEEPEST: Final = 50
"""Keys and indices of a path; `positions` tells the lines of as many, and more."""

REQUIRED: Final = object()


def read_text(path: str | os.PathLike[str]) -> str:
    """
    Raises:
        ConfigError: there is no such file, or it is no text.
    """
    problems = Problems(os.fspath(path))
    try:
        if not os.path.exists(path):
            problems.add(None, "", "no such file")
        elif not os.path.isfile(path):
            problems.add(None, "", "it is no file; give a TOML file")
        else:
            with open(path, "rb") as file:
                data = file.read(LARGEST + 1)
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
        file: Its name, for errors and places; `${file:…}` is relative to its folder.
        tests: It is read for its tests, which do not use the transport: what its URL lacks (a variable, a file) is no mistake.

    Raises:
        ConfigError: it is not TOML.
    """

    def __init__(self, text: str, file: str, environment: Mapping[str, str] | None = None, tests: bool = False) -> None:
        self.file = file
        self.problems = Problems(file)
        self.data: dict[str, Any] = self._parse(text)
        self.lines = positions(text)
        self._environment = os.environ if environment is None else environment
        self._folder = Path(file).absolute().parent
        self._tests = tests
        self.lacks = False  # something that the transport's URL names
        self._raw = True  # `data` is as the file has it
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
            table, key = _split(path)
            told = Told("", value)  # as it stands in the file
            self.problems.add(self.line(path), self.where(table), f"{path_text(key)} = {shown(told)}: {bad.text}")
            return BROKEN

    def _lacking(self) -> str:
        self.lacks = True
        return "unset"

    def line(self, path: KeyPath) -> int:
        """Of the key, or of the nearest table around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def around(self, line: int) -> KeyPath:
        """The table of the first level, or the one in a list there, that a line belongs to."""
        found: KeyPath = ()
        for path, begins in self.lines.items():
            length = 2 if path and isinstance(self.data.get(str(path[0])), list) else 1
            if len(path) == length and self.lines.get(found, 0) <= begins <= line:
                found = path
        return found

    def place(self, path: KeyPath) -> Place:
        return Place(self.file, self.line(path))

    def where(self, path: KeyPath) -> str:
        """The path of a table and, in quotes, what it is called."""
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
                text += f" {shown(Told('', label) if self._raw else label)}"
        return text

    def table(self, path: KeyPath = ()) -> Table:
        found: Any = self.data
        for part in path:
            found = found[part]
        return Table(self, path, found)


class Table:
    """One table of a file, read key by key; `end` tells which keys nobody has asked for."""

    def __init__(self, document: Document, path: KeyPath, data: dict[str, Any]) -> None:
        self.document = document
        self.path = path
        self.data = data
        self.asked: list[str] = []
        self.hidden: tuple[str, ...] = ()  # keys that nobody has to be told of

    @property
    def place(self) -> Place:
        return self.document.place(self.path)

    def problem(self, text: str, key: str | int | None = None, *below: str | int) -> None:
        path = self.path if key is None else (*self.path, key, *below)
        self.document.problems.add(self.document.line(path), self.document.where(self.path), text)

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def take(self, key: str, kind: Kind, loading: Loading, default: Any = REQUIRED) -> Any:
        """The value, the default, or `BROKEN`, after a word about it."""
        self.asked.append(key)
        if key not in self.data:
            if default is REQUIRED:
                self.problem(f'"{key}" is missing')
                return BROKEN
            return default
        value = self.data[key]
        if value is BROKEN:
            return BROKEN
        try:
            return kind.read(value, loading)
        except Bad as bad:
            self.bad(key, value, bad)
            return BROKEN

    def take_all(self, settings: Mapping[str, Setting], loading: Loading) -> dict[str, Any]:
        """A value for each setting; see `take`."""
        return {
            key: self.take(key, one.kind, loading, REQUIRED if one.required else one.default) for key, one in settings.items()
        }

    def bad(self, key: str, value: Any, bad: Bad) -> None:
        if bad.text:
            self.problem(f"{path_text((key,))} = {shown(value)}: {bad.text}", key)
        for below, found, text in bad.details:
            path = (*self.path, key, *below)
            table, rest = _split(path)
            document = self.document
            document.problems.add(document.line(path), document.where(table), f"{path_text(rest)} = {shown(found)}: {text}")

    def tables(self, key: str, form: str = "") -> Iterator[Table]:
        """The tables of an array of tables; what else stands there is told, with this form."""
        form = form or f"[[{key}]]"
        self.asked.append(key)
        found = self.data.get(key, [])
        if isinstance(found, dict):
            self.problem(f"{key} is one table; write [[{key}]], with double brackets", key)
            return
        if not isinstance(found, list):
            if found is not BROKEN:
                self.problem(f"{key} = {shown(found)}: it has to be tables, as in [[{key}]]", key)
            return
        for index, one in enumerate(found):
            if isinstance(one, dict):
                yield Table(self.document, (*self.path, key, index), one)
            elif one is not BROKEN:
                self.problem(f"{key}[{index}] = {shown(one)}: it has to be a table, as in {form}", key, index)

    def expects(self, *keys: str) -> None:
        """These are known, and are told in this order."""
        self.asked += keys

    def inner(self, key: str, what: str = "a table") -> Table | None:
        """A table in this one."""
        self.asked.append(key)
        found = self.data.get(key)
        if isinstance(found, dict):
            return Table(self.document, (*self.path, key), found)
        if found is not None and found is not BROKEN:
            self.problem(f"{key} = {shown(found)}: it has to be {what}", key)
        return None

    def end(self) -> None:
        """Whatever was not asked for is unknown."""
        for key in self.data:
            if key not in self.asked:
                known = [one for one in dict.fromkeys(self.asked) if one not in self.hidden]
                self.problem(f"unknown key {json.dumps(key, ensure_ascii=False)}{choice(key, known)}", key)


def _split(path: KeyPath) -> tuple[KeyPath, KeyPath]:
    """A value's path as (its table, the rest): the table is the one before the last text key."""
    last = max(index for index, part in enumerate(path) if isinstance(part, str))
    return path[:last], path[last:]


_HINTS: Final = {
    "Invalid value": "; texts stand in quotes, and true and false are all that there is of words",
    "Invalid initial character for a key part": "; a table in braces stands on one line",
    "Cannot overwrite a value": "; the key is there twice",
    "Cannot declare": "; it is there twice: of several, each begins with [[…]]",
}
"""What tomllib's words mean, mostly."""


def _where(reason: str, text: str) -> tuple[int | None, str]:
    """(line, reason) of what tomllib says."""
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", reason, re.DOTALL)
    if match is not None:
        hint = next((hint for begin, hint in _HINTS.items() if match[1].startswith(begin)), "")
        return int(match[2]), f"{match[1]} (column {match[3]}){hint}"
    match = re.fullmatch(r"(.*) \(at end of document\)", reason, re.DOTALL)
    if match is not None:
        return text.count("\n") + (not text.endswith("\n")), f"{match[1]} (at the end of the file)"
    return None, reason


__all__ = ["REQUIRED", "ConfigError", "Document", "Table", "read_text"]
