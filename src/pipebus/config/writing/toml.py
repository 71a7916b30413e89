"""Data becomes the text of a TOML file."""

from __future__ import annotations

from typing import Any, Final

from pipebus.errors import PipebusError
from pipebus.foreign.packages import install

WIDTH: Final = 100
"""Most characters of a list in one line."""


def written(data: dict[str, Any]) -> str:
    """
    Return the text of a file.

    Each table of the first level, and each table in a list there, gets a header. Everything inside is on one line per key.

    Raises:
        PipebusError: tomlkit is not installed.
    """
    try:
        import tomlkit
    except ImportError:
        raise PipebusError(f"writing a file needs the package tomlkit: {install('config')}") from None

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            table = tomlkit.inline_table()
            table.update({key: inline(inner) for key, inner in value.items()})
            return table
        if isinstance(value, list):
            array = tomlkit.array()
            array.extend(map(inline, value))
            return array.multiline(len(value) > 1 and len(array.as_string()) > WIDTH)
        return value

    def table_of(value: dict[str, Any]) -> Any:
        table = tomlkit.table()
        table.update({key: inline(inner) for key, inner in value.items()})
        return table

    document = tomlkit.document()
    for key, value in data.items():
        if key == "filters":
            outer = tomlkit.table(is_super_table=True)
            outer.update({name: table_of(inner) for name, inner in value.items()})
            document[key] = outer
        elif isinstance(value, list):
            tables = tomlkit.aot()
            tables.extend(map(table_of, value))
            document[key] = tables
        else:
            document[key] = table_of(value) if isinstance(value, dict) else value
    return tomlkit.dumps(document)
