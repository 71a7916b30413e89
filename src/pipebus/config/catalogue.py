"""Which filters a file may `use`: the built-in ones, and those of other packages (entry-point group `pipebus.filters`)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import typing
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

from pipebus import filters
from pipebus.config.annotations import kind_of
from pipebus.config.kinds import Anything, Kind
from pipebus.config.problems import Bad
from pipebus.foreign.objects import text_of

GROUP: Final = "pipebus.filters"


class Setting(NamedTuple):
    """One setting of a filter."""

    kind: Kind
    required: bool
    default: Any
    doc: str


def word(name: str) -> str:
    """A class's name as a file writes it: `CircuitBreaker` is `circuit_breaker`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


BUILT_IN: Final[dict[str, Any]] = {word(name): getattr(filters, name) for name in filters.__all__}


def others() -> dict[str, EntryPoint]:
    """Filters of other packages, by name; a built-in one cannot be replaced."""
    return _others(tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _others(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Looked up once: that takes milliseconds."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def names() -> list[str]:
    return sorted({*BUILT_IN, *others()})


def find(name: str) -> Any:
    """
    The class, or None.

    Raises:
        Bad: the package that has it cannot be loaded.
    """
    found = BUILT_IN.get(name)
    if found is not None:
        return found
    point = others().get(name)
    if point is None:
        return None
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise Bad(f'filter "{name}" (of {point.value}) cannot be loaded: {text_of(error)}') from None


def use_of(cls: Any) -> str | None:
    """The word by which a file uses a class, if it has one."""
    name = word(getattr(cls, "__name__", ""))
    if BUILT_IN.get(name) is cls:
        return name
    target = f"{getattr(cls, '__module__', '')}:{getattr(cls, '__qualname__', '')}"
    return next((point.name for point in others().values() if point.value == target), None)


@functools.lru_cache(maxsize=256)
def settings_of(cls: Any) -> dict[str, Setting]:
    """The settings that a filter's class takes: a dataclass's fields, else its parameters."""
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
    except Exception:  # a name that only type checkers see: its settings are taken as they are
        return {}


def _kind(hint: Any) -> Kind:
    try:
        return kind_of(hint)
    except Exception:  # pydantic knows nothing of it either
        return Anything()


def documented(cls: Any) -> dict[str, str]:
    """What the docstring's `Args:` say of each setting."""
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


def summary(cls: Any) -> str:
    """The first sentence of its docstring."""
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return " ".join(first.split())
