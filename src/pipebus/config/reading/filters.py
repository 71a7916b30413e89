"""A table with `use` becomes a filter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipebus.config import catalogue
from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.names import Named
from pipebus.config.kinds.plain import Text
from pipebus.config.problems import BROKEN, Bad
from pipebus.config.reading.table import Table
from pipebus.config.settings import settings_of
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
    use = table.take("use", Text(), loading)
    table.hidden = ("use", "target")
    if use is BROKEN:
        return BROKEN
    origin = table.interpolated()
    origin.pop("use", None)
    try:
        cls = table.take("target", Named(), loading) if use == "python" else catalogue.find(use)
    except Bad as bad:
        table.problem(bad.text, "use")
        return BROKEN
    if cls is BROKEN:
        return BROKEN
    if cls is None:
        table.problem(f"no filter {shown(use)}{meant(use, catalogue.names())}", "use")
        return BROKEN
    settings = settings_of(cls) if isinstance(cls, type) else {}
    if "name" in settings:
        name = table.data["name"] if isinstance(table.data.get("name"), str) else None
    else:
        table.hidden += ("name",)
        name = table.take("name", Text(), loading, None)
    if not isinstance(cls, type):
        table.end()
        return BROKEN if name is BROKEN else Made(cls, {"": as_written(table.data)}, name)
    found = table.take_all(settings, loading)
    table.end()
    if name is BROKEN or BROKEN in found.values() or any(key not in table.asked for key in table.data):
        return BROKEN
    given = {key: value for key, value in found.items() if key in table.data}
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
    table.problem(text.replace(f"{cls.__name__}.", ""), key)
