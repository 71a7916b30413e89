"""Python values as data of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipebus.values.compiling import DEEPEST
from pipebus.values.reading import ELEMENTS, Parts

LARGEST: Final = 1_000_000
"""Most values, counting those inside others."""

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def plain(value: Any, depth: int = 0) -> Any:
    """
    Return a value as data of JSON, as a transport that encodes messages delivers it. Plain data is returned as it is.

    Args:
        depth: How many levels of the body are around it.

    Raises:
        ValueError: it cannot be written as JSON, is nested too deeply, or is too large.
    """
    if _is_plain(value, depth, [LARGEST]):
        return value
    _count(value, depth, [LARGEST])
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        found = to_jsonable_python(value, bytes_mode="utf8", fallback=_other)
    except (PydanticSerializationError, RecursionError, ValueError, TypeError) as error:
        if isinstance(error, RecursionError) or "depth exceeded" in str(error) or "recursion" in str(error):
            raise ValueError(f"the body is nested in more than {DEEPEST} levels") from error
        raise ValueError(f"the body ({type(value).__name__}) cannot be written as JSON") from error
    _is_plain(found, depth, [LARGEST])
    return found


def part(value: Any, parts: Parts | None, depth: int = 0) -> Any:
    """
    Return those parts of a value that an expression reads, as `plain` returns them, without a look at anything else.

    Args:
        parts: From `parts_read`; None: all of it.

    Raises:
        ValueError: as `plain` does.
    """
    if parts is None:
        return plain(value, depth)
    if type(value) is list:
        return [part(one, parts[ELEMENTS], depth + 1) for one in value] if ELEMENTS in parts else []
    if type(value) is not dict:
        return plain(value, depth)
    found = {}
    for name, inner in parts.items():
        if name in value:
            found[name] = part(value[name], inner, depth + 1)
        elif name != ELEMENTS and not all(isinstance(key, str) for key in value):
            return plain(value, depth)  # in JSON, a key such as 1 or None is a text
    return found


def _other(value: Any) -> Any:
    """Convert a value of a class that pydantic does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    return msgspec.to_builtins(value)


def _is_plain(value: Any, depth: int, left: list[int]) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth >= DEEPEST:
        raise ValueError(f"the body is nested in more than {DEEPEST} levels")
    if kind is dict:
        inner = value.values()
        if not all(type(key) is str for key in value):
            return False
    elif kind is list:
        inner = value
    else:
        return False
    left[0] -= len(inner)
    if left[0] < 0:
        raise ValueError(f"the body has more than {LARGEST:,} values")
    return all(type(one) in _SCALARS or _is_plain(one, depth + 1, left) for one in inner)


def _count(value: Any, depth: int, left: list[int]) -> None:
    """Count the values in containers of any kind. An object that is in several places counts each time, as in JSON."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return
    if depth >= DEEPEST:
        raise ValueError(f"the body is nested in more than {DEEPEST} levels")
    left[0] -= len(value)
    if left[0] < 0:
        raise ValueError(f"the body has more than {LARGEST:,} values")
    for one in value.values() if isinstance(value, Mapping) else value:
        _count(one, depth + 1, left)
