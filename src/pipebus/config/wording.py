"""How values, keys and words appear in errors about a file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipebus.foreign import objects

LONGEST: Final = 60
"""Most characters of a value that are shown."""

LONG: Final = 500
"""Most characters of a sentence."""

INTERPOLATED: Final = {"type": "string", "pattern": r"\$\{"}
"""JSON Schema of a text with `${…}`."""


class Interpolated(str):
    """
    A text in which `${…}` was replaced.

    Attributes:
        source: The text as the file has it. Errors show this, because the text itself may contain a secret.
    """

    source: str

    def __new__(cls, value: str, source: str) -> Interpolated:
        text = super().__new__(cls, value)
        text.source = source
        return text


def is_interpolated(value: Any) -> bool:
    """True if a value is, or contains, a text in which `${…}` was replaced."""
    if isinstance(value, dict):
        return any(map(is_interpolated, value.values()))
    return any(map(is_interpolated, value)) if isinstance(value, list) else isinstance(value, Interpolated)


def as_written(value: Any) -> Any:
    """Return a value as the file has it, with each `${…}` in place."""
    if isinstance(value, dict):
        return {key: as_written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_written(inner) for inner in value]
    return value.source if isinstance(value, Interpolated) else escaped(value)


def escaped(value: Any) -> Any:
    """Return a value in whose texts `${` is escaped, so that reading the file does not replace it."""
    if isinstance(value, Mapping):
        return {key: escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def shown(value: Any) -> str:
    """Return a value as a file would write it, shortened if it is long, and never with the replacement of a `${…}`."""
    if isinstance(value, Interpolated):
        text = json.dumps(value.source, ensure_ascii=False)
    elif isinstance(value, str):
        text = json.dumps(escaped(value), ensure_ascii=False)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "{ " + ", ".join(f"{key_text(str(key))} = {shown(inner)}" for key, inner in value.items()) + " }"
        text = text if value else "{}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(inner) for inner in value) + "]"
    elif isinstance(value, int):
        text = hex(value) if abs(value) >= 10**30 else str(value)  # str refuses thousands of digits
    else:
        text = str(value)
    end = text[-1:] if text[:1] in ('"', "[", "{") else ""
    return text if len(text) <= LONGEST else text[: LONGEST - 1 - len(end)] + "…" + end


def key_text(key: str) -> str:
    """Return a key as a file would write it."""
    bare = key != "" and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else json.dumps(key, ensure_ascii=False)


def path_text(path: tuple[str | int, ...]) -> str:
    """Return a path as text, as in `pipelines[0].filters[2]`; indexes begin at 0."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{key_text(part)}" if text else key_text(part)
    return text


def guess(word: object, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the most similar known word; "" if none is similar."""
    names = list(known)
    near = difflib.get_close_matches(str(word)[:LONGEST], names, 1) or [n for n in names if n.lower() == str(word).lower()]
    return f'; did you mean "{near[0]}"?' if near else ""


def choice(word: object, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the most similar known word, or all known words."""
    names = list(known)
    if not names:
        return "; there is none"
    return guess(word, names) or (f"; there are {', '.join(names)}" if len(names) > 1 else f"; there is {', '.join(names)}")


def printable(text: str) -> str:
    """Escape the characters that move the cursor of a terminal or begin a new line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return a text as one printable line, shortened if it is long."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def brief(value: Any) -> str:
    """Return a Python value for an error, shortened if it is long."""
    text = objects.shown(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def reason(text: str, what: str, value: Any) -> str:
    """Return the error text of a setting without its `what=value: `."""
    for prefix in (f"{what}={value!r}: ", f"{what}={value}: "):
        if text.startswith(prefix):
            return as_rule(text.removeprefix(prefix))
    return text


def as_rule(text: str) -> str:
    """Turn "it is …", which describes a right value, into a rule; here it follows the wrong value."""
    return f"it has to be {text.removeprefix('it is ')}" if text.startswith("it is ") else text
