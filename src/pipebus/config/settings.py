"""What a table of a file may set: for each key, the kind of its value, the default, and a sentence about it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import typing
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from pydantic import BaseModel, Field, create_model
from pydantic_core import PydanticUndefined

from pipebus.config.kinds.annotations import type_of
from pipebus.config.kinds.base import Setting
from pipebus.config.sections import Section

_MISSING: Final = (dataclasses.MISSING, inspect.Parameter.empty, PydanticUndefined)


@functools.lru_cache(maxsize=256)
def settings_of(cls: Any) -> dict[str, Setting]:
    """
    Return what a table of a file may set: the fields of a model of pydantic or of a dataclass; the parameters of anything else.
    """
    docs = documented(cls)
    found: dict[str, Setting] = {}
    for name, hint, default, doc in _fields(cls):
        required = any(default is one for one in _MISSING)
        type_ = hint if isinstance(cls, type) and issubclass(cls, Section) else type_of(hint)
        found[name] = Setting(type_, hint, required, None if required else default, doc or docs.get(name, ""))
    return found


def _fields(cls: Any) -> Iterator[tuple[str, Any, Any, str | None]]:
    """Yield the name, the annotation, the default and the description of each setting."""
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        for name, one in cls.model_fields.items():
            yield one.alias or name, one.rebuild_annotation(), one.get_default(call_default_factory=True), one.description
    elif isinstance(cls, type) and dataclasses.is_dataclass(cls):
        hints = _hints(cls)
        for field in dataclasses.fields(cls):
            if field.init and not field.name.startswith("_"):
                factory = field.default_factory
                default = field.default if factory is dataclasses.MISSING else factory()
                yield field.name, hints.get(field.name, Any), default, None
    else:
        hints = _hints(inspect.unwrap(cls.__init__) if isinstance(cls, type) else cls)  # type: ignore[misc]
        with suppress(TypeError, ValueError):  # it has no signature
            for name, parameter in inspect.signature(cls).parameters.items():
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    yield name, hints.get(name, Any), parameter.default, None


@functools.lru_cache(maxsize=256)
def table_of(cls: Any, python: bool = False) -> type[Section]:
    """
    Return the model of a filter's table.

    Args:
        python: The table has a `target`.
    """
    fields: dict[str, Any] = {}
    for key, one in (settings_of(cls) if isinstance(cls, type) else {}).items():
        plain = isinstance(one.default, (str, bool, int, float)) and one.default not in (math.inf, -math.inf)
        default = ... if one.required else one.default if plain else None
        fields[f"setting_{key}"] = (one.type, Field(default, alias=key, description=one.doc.replace("`", "") or None))
    for key, hint in (("use", Any), ("target", Any if python else None), ("name", str)):
        if hint is not None:
            fields.setdefault(f"setting_{key}", (hint, Field(None, alias=key, exclude=True)))
    return create_model("Filter", __base__=Section, **fields)


def _hints(found: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(found, include_extras=True)
    except Exception:  # an annotation that only type checkers can resolve: its settings may be any data
        return {}


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
