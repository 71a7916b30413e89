"""What a table of a file may set: for each key, the kind of its value, the default, and a sentence about it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from typing import Any, NamedTuple

from pipebus.config.kinds.annotations import kind_of
from pipebus.config.kinds.base import Kind
from pipebus.config.kinds.containers import Anything


class Setting(NamedTuple):
    """One key of a table. `doc` is a sentence for editors and `pipebus filters`."""

    kind: Kind
    required: bool
    default: Any
    doc: str


@functools.lru_cache(maxsize=256)
def settings_of(cls: Any) -> dict[str, Setting]:
    """Return the settings of a filter: the fields of a dataclass; the parameters of any other class."""
    if not isinstance(cls, type):
        return _of_parameters(cls, cls)
    if not dataclasses.is_dataclass(cls):
        return _of_parameters(cls, inspect.unwrap(cls.__init__))  # type: ignore[misc]
    hints = _hints(cls)
    docs = documented(cls)
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(cls):
        if not field.init or field.name.startswith("_"):
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        required = default is dataclasses.MISSING
        found[field.name] = Setting(
            _kind(hints.get(field.name, Any)), required, None if required else default, docs.get(field.name, "")
        )
    return found


def _of_parameters(cls: Any, function: Any) -> dict[str, Setting]:
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return {}
    hints, docs = _hints(function), documented(cls)
    return {
        name: Setting(
            _kind(hints.get(name, Any)),
            one.default is one.empty,
            None if one.default is one.empty else one.default,
            docs.get(name, ""),
        )
        for name, one in parameters.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }


def _hints(found: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(found, include_extras=True)
    except Exception:  # an annotation that only type checkers can resolve: its settings may be any data
        return {}


def _kind(hint: Any) -> Kind:
    try:
        return kind_of(hint)
    except Exception:  # pydantic does not know the annotation either
        return Anything()


def documented(cls: Any) -> dict[str, str]:
    """Return the text about each setting from `Args:` in the docstring."""
    found: dict[str, str] = {}
    name, inside = "", False
    for line in (inspect.getdoc(cls) or "").splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (match := re.match(r"    (\w[\w, ]*): +(.*)", line)):
            for one in match[1].split(","):
                found[one.strip()] = match[2]
            name = match[1].split(",")[-1].strip()
        elif inside and name and line.strip():
            found[name] += f" {line.strip()}"
    return found
