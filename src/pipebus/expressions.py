"""
Expressions: functions of a message that need no Python. The language is JMESPath (https://jmespath.org), which the command
lines of two large clouds speak.

    body.kind == 'order' && body.total > `100`      texts stand in single quotes, other values in backticks
    headers.tenant                                  a text
    length(body.items[?qty > `1`]) > `0`            is there an item with more than one piece?

Its interpreter is plain Python without dependencies; an expression reaches data and nothing else, ends, and is compiled once.
What JMESPath passes over in silence is told: a name that no message has, when it is compiled; and a condition that is neither
true nor false because what it compares is missing, when the message passes.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import difflib
import enum
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipebus.errors import PipelineError, Rejected

FIELDS: Final = ("subject", "body", "headers", "key", "id", "time", "ttl", "reply_to", "correlation_id")
"""The names that an expression starts from."""

LONGEST: Final = 4096
"""Characters of an expression."""

DEEPEST: Final = 100
"""Levels of an expression, and of the data that it is about."""

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


class Expression:
    """
    A function of a message.

    Args:
        text: JMESPath over `subject`, `body`, `headers`, `key`, `id`, `time` (seconds), `ttl`, `reply_to`, `correlation_id`.
            Models and dataclasses are seen as the tables that they would be in JSON.

    Raises:
        PipelineError: it is no expression, or names what no message has.

    Example:
        >>> from pipebus import Message
        >>> large = Expression("body.total > `100`")
        >>> large(Message("orders.created", {"total": 120}))
        True
    """

    __slots__ = ("_search", "_used", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._search, self._used = _compiled(text)

    @property
    def name(self) -> str:
        return self.text

    def __call__(self, message: Any) -> Any:
        """
        What it says of a message, as JSON has it.

        Raises:
            Rejected: it cannot be asked of this message, with the reason.
        """
        try:
            return self._search({name: _field(message, name) for name in self._used})
        except Exception as error:  # its errors, and what Python says of text > number
            raise Rejected(None, f"{self.text}: {_reason(error)}") from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


class Condition(Expression):
    """
    An expression that is true or false of each message: for `when` and `branch`.

    Raises:
        Rejected: (when it is asked) it is neither: a field is missing, or cannot be compared.
    """

    __slots__ = ()

    def __call__(self, message: Any) -> bool:
        found = super().__call__(message)
        if found is True or found is False:
            return found
        what = "null: a field is missing, or cannot be compared" if found is None else f"{type(found).__name__}, no condition"
        raise Rejected(None, f"{self.text} is {what}")


def _compiled(text: str) -> tuple[Any, tuple[str, ...]]:
    try:
        import jmespath
        from jmespath.exceptions import JMESPathError
    except ImportError:
        raise PipelineError("expressions need the package jmespath: pip install 'pipebus[config]'") from None
    if len(text) > LONGEST:
        raise PipelineError(f"an expression of {len(text):,} characters; at most {LONGEST:,}")
    try:
        parsed = jmespath.compile(text)
    except JMESPathError as error:
        raise PipelineError(_syntax(text, error)) from None
    except (RecursionError, ValueError, AttributeError, TypeError) as error:
        raise PipelineError(f"not an expression: {type(error).__name__}: {error}") from None
    if _depth(parsed.parsed) > DEEPEST:
        raise PipelineError(f"an expression of more than {DEEPEST} levels")
    roots = dict.fromkeys(_roots(parsed.parsed))
    for name in roots:
        if name not in FIELDS:
            raise PipelineError(_unknown(name, text))
    for name in _functions(parsed.parsed):
        _check_function(name)
    return parsed.search, tuple(roots) if not _whole(parsed.parsed) else FIELDS


def _syntax(text: str, error: Exception) -> str:
    first = str(error).splitlines()[0].rstrip(":")
    first = re.sub(r"^(Bad jmespath expression|Invalid jmespath expression): ", "", first).removesuffix(f": {text}")
    if re.search(r"[<>=]\s*-?[0-9]|[<>=]\s*(true|false|null)\b", text):
        return f"not an expression: {first}; numbers, true, false and null stand in backticks, as in `100`"
    return f"not an expression: {first}"


def _unknown(name: str, text: str) -> str:
    if re.search(rf"[=!<>(,]\s*\"{re.escape(name)}\"", text):
        return f"\"{name}\" in double quotes is a field, and no message has it; a text stands in single quotes: '{name}'"
    if re.search(rf"[=!<>]\s*{re.escape(name)}\b", text) and name in ("true", "false", "null"):
        return f"{name} is taken for a field; it stands in backticks: `{name}`"
    near = difflib.get_close_matches(name, FIELDS, 1)
    meant = f'; did you mean "{near[0]}"?' if near else ""
    return f'no message has "{name}"{meant or "; there are " + ", ".join(FIELDS)}'


def _check_function(name: str) -> None:
    from jmespath.functions import Functions

    known = Functions.FUNCTION_TABLE
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        meant = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(sorted(known))}"
        raise PipelineError(f'JMESPath has no function "{name}"{meant}')


# --- what jmespath has parsed: nodes of {"type", "children", "value"} ----------------------------------------------------

_FIRST_ONLY: Final = frozenset({"subexpression", "index_expression", "pipe", "projection", "value_projection", "flatten"})
"""Nodes whose other children are about what the first one has found."""


def _roots(node: Any) -> Iterator[str]:
    """The fields that are asked of the message itself."""
    if not isinstance(node, dict):
        return
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield node["value"]
    elif kind in _FIRST_ONLY or kind == "filter_projection":
        yield from _roots(children[0])
    elif kind != "expref":
        for child in children:
            yield from _roots(child)


def _whole(node: Any) -> bool:
    """True if it is about the message as a whole: `@`, or a projection of it."""
    if not isinstance(node, dict):
        return False
    kind, children = node["type"], node["children"]
    if kind in ("current", "identity"):
        return True
    if kind in _FIRST_ONLY or kind == "filter_projection":
        return _whole(children[0])
    return kind != "expref" and any(map(_whole, children))


def _functions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node["type"] == "function_expression":
            yield node["value"]
        for child in node["children"]:
            yield from _functions(child)


def _depth(node: Any) -> int:
    deepest, level = 0, [node]
    while level:
        deepest += 1
        level = [child for one in level if isinstance(one, dict) for child in one["children"]]
    return deepest


# --- the message, as JSON has it -----------------------------------------------------------------------------------------


def _field(message: Any, name: str) -> Any:
    value = getattr(message, name)
    if name in ("subject", "reply_to"):
        return None if value is None else str(value)
    return dict(value) if name == "headers" else plain(value)


def plain(value: Any, depth: int = 0) -> Any:
    """
    Data as JSON has it: models and dataclasses as tables, texts for times, numbers for decimals. What is plain stays as it is.

    Raises:
        ValueError: it is nested too deeply.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth >= DEEPEST:
        raise ValueError(f"the body is nested in more than {DEEPEST} levels")
    depth += 1
    if kind is dict:
        for inner in value.values():
            if type(inner) not in _SCALARS:
                return {str(key): plain(one, depth) for key, one in value.items()}
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth) for key, inner in value.items()}
    if isinstance(value, enum.Enum):
        return plain(value.value, depth)
    if hasattr(value, "_asdict"):
        return plain(value._asdict(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner, depth) for inner in value]
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if hasattr(kind, "model_dump"):
        return plain(value.model_dump(), depth)
    for attribute in ("__dataclass_fields__", "__struct_fields__"):
        if hasattr(kind, attribute):
            return {name: plain(getattr(value, name), depth) for name in getattr(kind, attribute)}
    return str(value)


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, TypeError) and "not supported between" in text:
        return "a text and a number cannot be compared"
    return text
