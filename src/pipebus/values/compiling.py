"""Compile an expression, and find the mistakes that JMESPath would find only with a message, or never."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.foreign.packages import install
from pipebus.values.reading import ELEMENTS, Parts, parts_read

FIELDS: Final = ("subject", "body", "headers", "key", "id", "time", "ttl", "reply_to", "correlation_id", "causation_id")
"""The names with which an expression can begin."""

LONGEST: Final = 4096
"""Most characters of an expression."""

DEEPEST: Final = 100
"""Most levels of an expression, and of the data that it reads."""

_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`((?:[^`\\]|\\.)*)`", re.DOTALL)


def compiled(text: Any) -> tuple[Any, Parts]:
    """
    Return a function that evaluates an expression, and the parts of a message that it reads.

    Raises:
        PipelineError: it is not an expression, or uses a name that no message has.
    """
    try:
        import jmespath
        from jmespath.exceptions import JMESPathError
    except ImportError:
        raise PipelineError(f"expressions need the package jmespath: {install('config')}") from None
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
                f"not an expression: `{literal}` is not JSON; a text is written in single quotes: '{literal}'"
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
        raise PipelineError(f"not an expression: {text!r} is a function; & is for arguments: sort_by(body, &id)")
    for node in _nodes(parsed.parsed):
        _check(node, text)
    parts = parts_read(parsed.parsed)
    if parts is None:
        return parsed.search, dict.fromkeys(FIELDS)
    parts.pop(ELEMENTS, None)  # a message is not a list
    for name in parts:
        if name not in FIELDS:
            raise PipelineError(_unknown(name, text))
    return parsed.search, parts


def _brackets(text: str) -> int:
    """Return how deep brackets are nested."""
    deepest = depth = 0
    for character in _QUOTED.sub("", text):
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _check(node: Any, text: str) -> None:
    """Find mistakes that JMESPath finds only with a message, or never."""
    kind, children = node["type"], node["children"]
    if kind in _FIRST_ONLY and kind != "pipe" and children[0].get("type") == "not_expression":
        raise PipelineError(f"not an expression: in {text!r} the ! applies only to what is before the next dot; write !(…)")
    if kind != "function_expression" and any(isinstance(child, dict) and child["type"] == "expref" for child in children):
        raise PipelineError(f"not an expression: in {text!r} a & is before something that is not an argument of a function")
    if kind == "function_expression":
        _check_function(node["value"], len(children))


def _syntax(text: str, error: Exception) -> str:
    first = str(error).splitlines()[0].rstrip(":").removesuffix(", for expression")
    first = re.sub(r"^(Bad jmespath expression|Invalid jmespath expression): ", "", first).removesuffix(f": {text}")
    bare = _QUOTED.sub("''", text)
    hint = ""
    if re.search(r"[<>=]\s*-?[0-9]|[<>=]\s*(true|false|null)\b", bare):
        hint = "; write numbers, true, false and null in backticks, as in `100`"
    elif word := re.search(r"\b(and|or|not)\b", bare):
        hint = f"; {word[1]} is written {dict(zip(('and', 'or', 'not'), ('&&', '||', '!'), strict=True))[word[1]]}"
    elif re.search(r"[\w)`\]]\s+[-+*/%]\s+[\w(`]|[\w)]\s*[+/%]\s*[\w(`]", bare):
        hint = "; JMESPath does not calculate: use a filter in Python"
    elif re.search(r"[^<>=!]=[^=]", bare):
        hint = "; equal is written =="
    elif name := re.search(r"(\w+)\.(\w+-[\w-]+)", bare):
        hint = f'; write a name with a dash in double quotes: {name[1]}."{name[2]}"'
    return f"not an expression: {first}{hint}"


def _unknown(name: str, text: str) -> str:
    if re.search(rf"\"{re.escape(name)}\"", text):
        return f"\"{name}\" in double quotes is a field, and no message has it; write a text in single quotes: '{name}'"
    if name in ("true", "false", "null"):
        return f"{name} is read as a field; write it in backticks: `{name}`"
    near = difflib.get_close_matches(name.lower(), FIELDS, 1, 0.8)
    if near:
        return f'no message has "{name}"; did you mean "{near[0]}"?'
    return f"no message has \"{name}\"; a field of the body is body.{name}; write a text in single quotes: '{name}'"


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


_FIRST_ONLY: Final = frozenset({"subexpression", "index_expression", "pipe", "projection", "value_projection", "flatten"})
"""Nodes whose first child is evaluated on the message; the others on its result."""


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
