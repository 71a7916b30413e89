"""
Expressions: functions of a message that need no Python. The language is JMESPath (https://jmespath.org), which the command
lines of two large clouds speak.

    body.kind == 'order' && body.total > `100`      texts stand in single quotes, other values in backticks
    headers.tenant                                  a text
    length(body.items[?qty > `1`]) > `0`            is there an item with more than one piece?

Its interpreter is plain Python without dependencies: an expression reaches data and nothing else, no message can crash it, and
it is compiled once. (Who writes one is trusted: a line that doubles a list forty times fills the memory.)

What JMESPath passes over in silence is told: a name that no message has, and `!body.ok`, which means `(!body).ok`, when it is
compiled; and a condition that is neither true nor false because what it compares is missing, when the message passes. Only
`!(body.total > `100`)` is true where there is no total, as JMESPath has it.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from pipebus.errors import PipelineError, Rejected

FIELDS: Final = ("subject", "body", "headers", "key", "id", "time", "ttl", "reply_to", "correlation_id")
"""The names that an expression starts from."""

LONGEST: Final = 4096
"""Characters of an expression."""

DEEPEST: Final = 100
"""Levels of an expression, and of the data that it is about."""

LARGEST: Final = 1_000_000
"""Values in the data that it is about."""

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_WORDS: Final = {dict: "a table", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`((?:[^`\\]|\\.)*)`", re.DOTALL)


class Expression:
    """
    A function of a message.

    Args:
        text: JMESPath over `subject`, `body`, `headers`, `key`, `id`, `time` (seconds), `ttl`, `reply_to`, `correlation_id`.
            All of it as JSON has it, in memory too: models and dataclasses are tables, times and decimals are texts
            (`to_number(body.total)` makes a number of one).

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
            found = self._search({name: _field(message, name) for name in self._used})
            return copy.deepcopy(found) if type(found) in (list, dict) else found  # a part of the expression, or of the body
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
        what = "null: a field is missing, or cannot be compared" if found is None else f"{_word(found)}, no condition"
        raise Rejected(None, f"{self.text} is {what}")


def _word(value: Any) -> str:
    return _WORDS.get(type(value), "a number")


def _compiled(text: Any) -> tuple[Any, tuple[str, ...]]:
    try:
        import jmespath
        from jmespath.exceptions import JMESPathError
    except ImportError:
        raise PipelineError("expressions need the package jmespath: pip install 'pipebus[config]'") from None
    if not isinstance(text, str):
        raise PipelineError(f"an expression is text, found {type(text).__name__}")
    if len(text) > LONGEST:
        raise PipelineError(f"an expression of {len(text):,} characters; at most {LONGEST:,}")
    too_deep = PipelineError(f"an expression of more than {DEEPEST} levels")
    if _brackets(text) > DEEPEST:
        raise too_deep
    for literal in (match[1] for match in _QUOTED.finditer(text) if match[1] is not None):
        try:
            json.loads(literal.replace("\\`", "`"))
        except RecursionError:
            raise too_deep from None
        except ValueError:
            raise PipelineError(
                f"not an expression: `{literal}` is no JSON; a text stands in single quotes: '{literal}'"
            ) from None
    try:
        parsed = jmespath.compile(text)
    except JMESPathError as error:
        raise PipelineError(_syntax(text, error)) from None
    except RecursionError:
        raise too_deep from None
    except (ValueError, AttributeError, TypeError) as error:
        raise PipelineError(f"not an expression: {type(error).__name__}: {error}") from None
    if _depth(parsed.parsed) > DEEPEST:
        raise too_deep
    if parsed.parsed["type"] == "expref":
        raise PipelineError(f"not an expression: {text!r} is a function; & stands before arguments, as in sort_by(body, &id)")
    for node in _nodes(parsed.parsed):
        _check(node, text)
    roots = dict.fromkeys(_roots(parsed.parsed))
    for name in roots:
        if name not in FIELDS:
            raise PipelineError(_unknown(name, text))
    return parsed.search, tuple(roots) if not _whole(parsed.parsed) else FIELDS


def _brackets(text: str) -> int:
    """How deep they are nested, at most."""
    deepest = depth = 0
    for character in _QUOTED.sub("", text):
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _check(node: Any, text: str) -> None:
    """What JMESPath would find out with each message, or never."""
    kind, children = node["type"], node["children"]
    if kind in _FIRST_ONLY and kind != "pipe" and children[0].get("type") == "not_expression":
        raise PipelineError(f"not an expression: in {text!r} the ! is about what stands before the next dot; write !(…)")
    if kind != "function_expression" and any(isinstance(child, dict) and child["type"] == "expref" for child in children):
        raise PipelineError(f"not an expression: in {text!r} a & stands before what is no argument of a function")
    if kind == "function_expression":
        _check_function(node["value"], len(children))


def _syntax(text: str, error: Exception) -> str:
    first = str(error).splitlines()[0].rstrip(":").removesuffix(", for expression")
    first = re.sub(r"^(Bad jmespath expression|Invalid jmespath expression): ", "", first).removesuffix(f": {text}")
    bare = _QUOTED.sub("''", text)
    hint = ""
    if re.search(r"[<>=]\s*-?[0-9]|[<>=]\s*(true|false|null)\b", bare):
        hint = "; numbers, true, false and null stand in backticks, as in `100`"
    elif word := re.search(r"\b(and|or|not)\b", bare):
        hint = f"; {word[1]} is written {dict(zip(('and', 'or', 'not'), ('&&', '||', '!'), strict=True))[word[1]]}"
    elif re.search(r"[\w)`\]]\s+[-+*/%]\s+[\w(`]|[\w)]\s*[+/%]\s*[\w(`]", bare):
        hint = "; JMESPath does not calculate: use a filter in Python"
    elif re.search(r"[^<>=!]=[^=]", bare):
        hint = "; equal is written =="
    elif name := re.search(r"(\w+)\.(\w+-[\w-]+)", bare):
        hint = f'; a name with a dash stands in double quotes: {name[1]}."{name[2]}"'
    return f"not an expression: {first}{hint}"


def _unknown(name: str, text: str) -> str:
    if re.search(rf"\"{re.escape(name)}\"", text):
        return f"\"{name}\" in double quotes is a field, and no message has it; a text stands in single quotes: '{name}'"
    if name in ("true", "false", "null"):
        return f"{name} is taken for a field; it stands in backticks: `{name}`"
    near = difflib.get_close_matches(name.lower(), FIELDS, 1, 0.8)
    if near:
        return f'no message has "{name}"; did you mean "{near[0]}"?'
    return f"no message has \"{name}\"; a field of the body is body.{name}, a text stands in single quotes: '{name}'"


def _check_function(name: str, given: int) -> None:
    from jmespath.functions import Functions

    known = Functions.FUNCTION_TABLE
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        meant = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(sorted(known))}"
        raise PipelineError(f'JMESPath has no function "{name}"{meant}')
    signature = known[name]["signature"]
    least, open_end = len(signature), bool(signature and signature[-1].get("variadic"))
    if given < least or (given > least and not open_end):
        raise PipelineError(
            f"{name}() takes {'at least ' if open_end else ''}{least} argument{'s' * (least != 1)}, found {given}"
        )


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
    elif kind == "subexpression" and children[0]["type"] == "current":  # @.body
        yield from _roots({**node, "children": children[1:]} if len(children) > 2 else children[1])
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


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield node
        for child in node["children"]:
            yield from _nodes(child)


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


def plain(value: Any) -> Any:
    """
    Data as JSON has it, and as it comes out of a transport that encodes. What is plain stays as it is.

    Raises:
        ValueError: it cannot be written as JSON, is nested too deeply, or is too large.
    """
    if _is_plain(value, 0, [LARGEST]):
        return value
    _count(value, 0, [LARGEST])
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        found = to_jsonable_python(value, bytes_mode="utf8", fallback=_other)
    except (PydanticSerializationError, RecursionError, ValueError, TypeError) as error:
        if isinstance(error, RecursionError) or "depth exceeded" in str(error) or "recursion" in str(error):
            raise ValueError(f"the body is nested in more than {DEEPEST} levels") from error
        raise ValueError(f"the body ({type(value).__name__}) cannot be written as JSON") from error
    _is_plain(found, 0, [LARGEST])
    return found


def _other(value: Any) -> Any:
    """What pydantic does not know."""
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
    """Of containers of any kind: one thing that stands in many places is many values as JSON."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return
    if depth >= DEEPEST:
        raise ValueError(f"the body is nested in more than {DEEPEST} levels")
    left[0] -= len(value)
    if left[0] < 0:
        raise ValueError(f"the body has more than {LARGEST:,} values")
    for one in value.values() if isinstance(value, Mapping) else value:
        _count(one, depth + 1, left)


def _reason(error: Exception) -> str:
    """Without what the body holds."""
    function = getattr(error, "function_name", None)
    if function is not None:
        words = {
            "string": "a text",
            "number": "a number",
            "array": "a list",
            "object": "a table",
            "null": "what is missing",
            "str": "a text",
            "int": "a number",
        }
        actual = str(getattr(error, "actual_type", "this"))
        return f"{function}() cannot take {words.get(actual, actual)}"
    if isinstance(error, TypeError) and "not supported between" in str(error):
        return "a text and a number cannot be compared"
    if isinstance(error, ValueError) and str(error).startswith("the body"):
        return str(error)
    return f"it cannot be asked of this message ({type(error).__name__})"
