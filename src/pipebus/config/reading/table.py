"""One table of a file: the model of it, and problems with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.refusals import Refusal, refusals, spelled
from pipebus.config.problems import BROKEN
from pipebus.config.reading.document import Document
from pipebus.config.reading.positions import Path as KeyPath
from pipebus.config.sections import Section
from pipebus.config.wording import as_written, is_interpolated, shown
from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of
from pipebus.pipeline.places import Place

S = TypeVar("S", bound=Section)


class Table:
    """
    A table of a file. Its methods report each problem to the document.

    Attributes:
        sound: No problem was found by `read`.
    """

    def __init__(self, document: Document, path: KeyPath, data: dict[str, Any]) -> None:
        self.document = document
        self.path = path
        self.data = data
        self.sound = True

    @property
    def place(self) -> Place:
        return self.document.place(self.path)

    def inner(self, *path: str | int) -> Table:
        """Return a table inside this one."""
        data: Any = self.data
        for part in path:
            data = data[part]
        return Table(self.document, (*self.path, *path), data)

    def read(self, model: type[S], loading: Loading) -> S | Any:
        """
        Return the model of this table.

        What is wrong is reported, and `BROKEN` takes its place in the model, so that the rest can be checked as well.
        """
        data: Any = self.data
        while True:
            try:
                return model.model_validate(data, context=loading)
            except ValidationError as error:
                found = refusals(data, error)
            for one in found:
                other = spelled(one.found)
                inner = one.found is BROKEN and not one.is_sentence  # what contains it cannot do without it
                if one.text and not inner and (one.is_sentence or other is BROKEN):
                    self._report(one)
                data = _replaced(data, one.path[:-1] if inner else one.path, other, one.is_sentence)

    def _report(self, one: Refusal) -> None:
        self.sound = False
        path = (*self.path, *one.path)
        if one.is_sentence:
            self.document.problems.add(self.document.line(path), self.document.where(path[:-1]), one.text)
        else:
            self.document.add_value(path, self.inner(*one.path).data, one.text)

    def problem(self, text: str, *path: str | int) -> None:
        """Report a problem with this table, at the line of a key in it."""
        self.document.problems.add(self.document.line((*self.path, *path)), self.document.where(self.path), text)

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

    def check_new(self, name: str, taken: dict[str, int]) -> bool:
        """Enter the name of this table and its line in `taken`; return False, after reporting it, if it is there already."""
        if name in taken:
            self.problem(f"name {shown(name)} is taken (line {taken[name]}); choose another", "name")
            return False
        taken[name] = self.document.line((*self.path, "name"))
        return True


def _replaced(value: Any, path: KeyPath, other: Any, is_sentence: bool) -> Any:
    """Return a copy of a value with another value at a path. If there is a sentence about a key that is there, leave it out."""
    if not path or value is BROKEN:
        return other if not path else value
    copy = value.copy()
    if is_sentence and len(path) == 1 and path[0] in copy:
        del copy[path[0]]
    else:
        copy[path[0]] = _replaced(copy[path[0]] if len(path) > 1 else None, path[1:], other, is_sentence)
    return copy


def sentences(error: PipebusError) -> list[str]:
    """Return the lines of an error of the bus, with remedies as a file writes them."""
    return str(error).replace("set abandon=True, or make the chain async", "say abandon = true").splitlines()
