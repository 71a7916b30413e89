"""One table of a file, read key by key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pipebus.config.problems import BROKEN, Bad
from pipebus.config.reading.document import Document
from pipebus.config.reading.positions import Path as KeyPath
from pipebus.config.wording import as_written, choice, is_interpolated, path_text, shown
from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of
from pipebus.pipeline.places import Place

if TYPE_CHECKING:
    from pipebus.config.kinds.base import Kind, Loading
    from pipebus.config.settings import Setting

REQUIRED: Final = object()
"""The default of a key that a table must have."""


class Table:
    """
    A table of a file.

    Its methods report each problem to the document. `end` reports the keys that were never asked for.

    Attributes:
        asked: Keys that were asked for: the known keys.
        hidden: Known keys that errors do not list.
    """

    def __init__(self, document: Document, path: KeyPath, data: dict[str, Any]) -> None:
        self.document = document
        self.path = path
        self.data = data
        self.asked: list[str] = []
        self.hidden: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return self.document.place(self.path)

    def problem(self, text: str, key: str | int | None = None, *below: str | int) -> None:
        path = self.path if key is None else (*self.path, key, *below)
        self.document.problems.add(self.document.line(path), self.document.where(self.path), text)

    def problem_at(self, line: int, text: str) -> None:
        """Report a problem at a line that may belong to another table."""
        path = self.document.around(line)
        where = self.path if path == self.path[: len(path)] else path
        self.document.problems.add(line, self.document.where(where), text)

    def note(self, error: PipebusError) -> None:
        """Report each sentence of an error of the bus, at the line that it names."""
        for text in sentences(error):
            self.problem_at(self.document.line_in(text) or self.document.line(self.path), text)

    def guarded(self, make: Callable[[], Any]) -> Any:
        """Return what a function makes; or `BROKEN`, after reporting its error."""
        try:
            return make()
        except PipebusError as error:
            self.note(error)
        except Exception as error:
            self.problem(f"cannot be made: {text_of(error)}")
        return BROKEN

    def interpolated(self) -> dict[str, Any]:
        """Return the interpolated values, as the file has them."""
        return {key: as_written(value) for key, value in self.data.items() if is_interpolated(value)}

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def take(self, key: str, kind: Kind, loading: Loading, default: Any = REQUIRED) -> Any:
        """Return the value or the default; or `BROKEN`, after reporting the problem."""
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
        """Return a value for each setting, as `take` does."""
        return {
            key: self.take(key, one.kind, loading, REQUIRED if one.required else one.default) for key, one in settings.items()
        }

    def bad(self, key: str, value: Any, bad: Bad) -> None:
        if bad.text:
            self.problem(f"{path_text((key,))} = {shown(value)}: {bad.text}", key)
        for below, found, text in bad.details:
            self.document.add_value((*self.path, key, *below), found, text)

    def tables(self, key: str, form: str = "") -> Iterator[Table]:
        """Yield the tables of an array of tables. Anything else there is a problem, whose text shows `form`."""
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
        """Declare known keys, so that errors list them in this order."""
        self.asked += keys

    def inner(self, key: str, what: str = "a table") -> Table | None:
        """Return the table inside this one under a key, or None. Anything else there is a problem, whose text shows `what`."""
        self.asked.append(key)
        found = self.data.get(key)
        if isinstance(found, dict):
            return Table(self.document, (*self.path, key), found)
        if found is not None and found is not BROKEN:
            self.problem(f"{key} = {shown(found)}: it has to be {what}", key)
        return None

    def one_or_many(self, key: str, form: str = "") -> Iterator[Table]:
        """Yield the one table, or the tables of an array, under a key."""
        if not isinstance(self.data.get(key), dict):
            yield from self.tables(key, form)
        elif (one := self.inner(key)) is not None:
            yield one

    def check_new(self, key: str, name: str, taken: dict[str, int]) -> bool:
        """Enter a name and its line in `taken`; return False, after reporting it, if the name is there already."""
        if name in taken:
            self.problem(f"{key} {shown(name)} is taken (line {taken[name]}); choose another", key)
            return False
        taken[name] = self.document.line((*self.path, key))
        return True

    def end(self) -> None:
        """Report the keys that were never asked for as unknown."""
        for key in self.data:
            if key not in self.asked:
                known = [one for one in dict.fromkeys(self.asked) if one not in self.hidden]
                self.problem(f"unknown key {json.dumps(key, ensure_ascii=False)}{choice(key, known)}", key)


def sentences(error: PipebusError) -> list[str]:
    """Return the lines of an error of the bus, with remedies as a file writes them."""
    return str(error).replace("set abandon=True, or make the chain async", "say abandon = true").splitlines()
