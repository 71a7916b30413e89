"""A table with `use` becomes a filter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipebus.config import catalogue
from pipebus.config.kinds.base import Loading
from pipebus.config.problems import BROKEN, Bad
from pipebus.config.reading.table import Table
from pipebus.config.settings import table_of
from pipebus.config.vocabulary import Target, Use
from pipebus.config.wording import as_rule, as_written, guess, shown
from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of


class Made(NamedTuple):
    """
    A filter of a file.

    Args:
        origin: What `set_origin` remembers of it.
        name: Its name in the file; None: its own name.
    """

    filter: Any
    origin: dict[str, Any]
    name: str | None


def make(table: Table, loading: Loading) -> Any:
    """Return the `Made` of a table with `use`; or `BROKEN`, after reporting the problem."""
    use = table.read(Use, loading).use
    if use is BROKEN:
        return BROKEN
    origin = table.interpolated()
    origin.pop("use", None)
    try:
        cls = table.read(Target, loading).target if use == "python" else catalogue.find(use)
    except Bad as bad:
        table.problem(bad.text, "use")
        return BROKEN
    if cls is BROKEN:
        return BROKEN
    if cls is None:
        table.problem(f"no filter {shown(table.data['use'])}{meant(use, catalogue.names())}", "use")
        return BROKEN
    found = table.guarded(lambda: table.read(table_of(cls, use == "python"), loading))
    if found is BROKEN or not table.sound or any(value is BROKEN for value in dict(found).values()):
        return BROKEN
    name = table.data.get("name")
    name = str.__str__(name) if isinstance(name, str) else None
    if not isinstance(cls, type):
        return Made(cls, {"": as_written(table.data)}, name)
    given = found.values(given=True)
    try:
        made = cls(**given)
    except Exception as error:
        _refused(table, cls, given, error)
        return BROKEN
    if not dataclasses.is_dataclass(made):  # its attributes need not be its settings, so keep the table itself
        origin[""] = as_written(table.data)
    return Made(made, origin, name)


def meant(use: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown filter."""
    if ":" in use:
        return f'; write {{ use = "python", target = {shown(use)} }}'
    return guess(use, known) or "; `pipebus filters` lists them"


def _refused(table: Table, cls: type, given: Mapping[str, Any], error: Exception) -> None:
    """Report the error of a filter's constructor at the line of the setting that it names."""
    text = str(error) if isinstance(error, PipebusError) else f"cannot be made: {text_of(error)}"
    match = re.match(rf"{cls.__name__}\.(\w+)", text)
    key = match[1] if match is not None and match[1] in table.data else next(iter(given)) if len(given) == 1 else None
    if key is not None:
        value = given[key]
        for written in (repr(value), str(value), f"{value:g}" if isinstance(value, float) else ""):
            prefix = f"{cls.__name__}.{key}={written}: "
            if text.startswith(prefix):
                table.problem(f"{key} = {shown(table.data[key])}: {as_rule(text.removeprefix(prefix))}", key)
                return
    table.problem(text.replace(f"{cls.__name__}.", ""), *filter(None, [key]))
