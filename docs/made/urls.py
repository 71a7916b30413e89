"""The options of a transport's URL, from the dataclass that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final

from made.api import resolve
from made.markdown import table
from pipebus.config.settings import documented

ELSEWHERE: Final = ("path", "named", "hosts", "user", "password", "token", "stated", "shown")
"""What is not an option: it is another part of the URL, or not in it."""


def options(name: str, _: str) -> str:
    """Each option of the transport of this name, its default and its meaning."""
    cls = resolve(f"pipebus.transports.{name}.options.Options")
    docs = documented(cls)
    return table(("option", "default", "meaning"), [(f"`{key}`", value, docs.get(key, "")) for key, value in defaults(cls)])


def defaults(cls: Any) -> Iterator[tuple[str, str]]:
    for one in fields(cls):
        if one.name not in ELSEWHERE:
            yield one.name, "" if one.default in (None, ()) else f"`{as_in_url(one.default)}`"


def as_in_url(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}s" if isinstance(value, float) else str(value)
