"""What pydantic refuses, as problems of a file: where in the value, and what the value has to be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipebus.config.problems import BROKEN, Bad, Detail
from pipebus.config.wording import Interpolated, guess

Path = tuple[str | int, ...]

RULE: Final = "it has to be "
_RULES: Final = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "dataclass_type": "a table",
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
}
"""By the type of pydantic's error: what the value has to be."""


class Refusal(NamedTuple):
    """
    Args:
        path: The keys that lead to what was refused, or is missing.
        is_sentence: The text names the key itself, as in "unknown key".
        union: The path of a value that may be of several types, if this is about one of them: `member`.
        is_shape: The value is of another type altogether.
    """

    path: Path
    found: Any
    text: str
    is_sentence: bool = False
    union: Path | None = None
    member: Any = None
    is_shape: bool = False


def bad_of(value: Any, error: ValidationError) -> Bad:
    """Return the `Bad` of a value that pydantic refused."""
    found = [one for one in refusals(value, error) if one.text and one.found is not BROKEN]
    own = dict.fromkeys(one.text for one in found if not one.path)
    return Bad("; ".join(own), [Detail(one.path, one.text) for one in found if one.path])


def spelled(found: Any) -> Any:
    """Return the number or flag that an interpolated text spells; `BROKEN` for anything else."""
    for convert in (int, float, {"true": True, "false": False}.__getitem__) if isinstance(found, Interpolated) else ():
        try:
            return convert(found.lower())
        except (ValueError, KeyError):
            continue
    return BROKEN


def refusals(value: Any, error: ValidationError) -> list[Refusal]:
    """Return what pydantic refused; where a value may be of several types, what is wrong for the type that it resembles."""
    unions: dict[Path | None, list[Refusal]] = {}
    for one in _refusals(value, error):
        unions.setdefault(one.union, []).append(one)
    found = unions.pop(None, [])
    for path, members in unions.items():
        deep = [one for one in members if len(one.path) > len(path or ())]
        if deep:  # this type accepted the outer value
            found += [one for one in deep if one.member == deep[0].member]
            continue
        first, *rest = dict.fromkeys([one.text for one in members if not one.is_shape] or [one.text for one in members])
        rest = [text.removeprefix(RULE).removeprefix("it is ") for text in rest]
        text = first + "".join(f", {one}" if " or " in one else f", or {one}" for one in rest)
        found.append(members[0]._replace(text=text))
    return found


def _refusals(value: Any, error: ValidationError) -> Iterator[Refusal]:
    for detail in error.errors(include_url=False, include_input=False):
        path: Path = ()
        union: Path | None = None
        member: Any = None
        found = value
        for part in detail["loc"]:
            if _has(found, part):
                found, path = found[part], (*path, part)
            elif union is None:  # pydantic's name for one of several types, or a key that is missing
                union, member = path, part
        bad = detail.get("ctx", {}).get("error")
        if isinstance(bad, Bad) and bad.details:
            for below in bad.details:
                inner = found
                for part in below.path:
                    inner = inner[part] if _has(inner, part) else None
                yield Refusal((*path, *below.path), inner, below.text, below.is_sentence, union, member)
            continue
        if detail["type"] == "missing":
            path = (*path, detail["loc"][-1])
        is_sentence = detail["type"] in ("missing", "extra_forbidden")
        text = _text(detail, found)
        is_rule = text.startswith(RULE) and (bad is not None or isinstance(found, (dict, list)))
        yield Refusal(path, found, text, is_sentence, union, member, is_rule or detail["type"].endswith("_type"))


def _has(found: Any, part: str | int) -> bool:
    return part in found if isinstance(found, dict) else isinstance(found, list) and part in range(len(found))


def _text(detail: ErrorDetails, found: Any) -> str:
    context, kind = detail.get("ctx", {}), detail["type"]
    if kind in _RULES:
        return RULE + _RULES[kind].format_map(context)
    if kind == "literal_error":
        words = str(context["expected"]).replace("'", "")
        return RULE + words + (guess(found, re.split(", | or ", words)) if type(found) is str else "")
    if kind == "too_short" and context["actual_length"] == 0:
        return "it is empty; give at least one"
    if kind == "missing":
        return f'"{detail["loc"][-1]}" is missing'
    if kind == "extra_forbidden":
        return f'unknown key "{detail["loc"][-1]}"'
    error = context.get("error")
    return str(error) if isinstance(error, Exception) else detail["msg"]
