"""Docstrings and signatures, as autodoc shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

ANNOTATED: Final = r"(?:~?typing\.)?Annotated\[([^']*?), '?{}'?\]"
READABLE: Final = (
    (ANNOTATED.format("seconds"), "float | str"),  # 0.5 or "500ms"
    (ANNOTATED.format("bytes"), "int | str"),  # 65536 or "64KiB"
    (ANNOTATED.format("secret"), "SecretStr | str | bytes"),
    (ANNOTATED.format("(?:condition|type)"), r"\1"),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"<(?:factory|object object|function [\w.]+(?:<lambda>)?)>", "..."),
    (r"~(?:\w+\.)+", ""),
)
"""What a signature may hold that no caller would write, and what is shown instead."""
SECTION: Final = re.compile(r"^(Raises|Returns|Drops|Logs|Keys|Source):$")
NAMED: Final = re.compile(r"(?:^|(?<=[.!)] ))((?:[A-Z]\w+)(?:, [A-Z]\w+)*): ")
FROM_THE_BUS: Final = re.compile(r"\(\*_|\*args, \*\*kwargs|[(,] ?_\w+:|: (?:Plan|Parcel|Ticking|Simulation|Case|Locks)\b")
"""In signatures that no caller needs: of protocols, and of objects that the package makes."""


def tidy_signature(*given: str | None) -> tuple[str | None, str | None] | None:
    """Write a signature as a caller reads it; None: it stays as it is."""
    signature, returned = given[-2:]
    if signature is None:
        return None
    for pattern, text in READABLE:
        signature = re.sub(pattern, text, signature)
    return "" if FROM_THE_BUS.search(signature) else signature, returned


def tidy(_: object, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """
    Make fields of the sections that napoleon does not know, or reads in its own way: those of our own, a `Raises` that names
    several errors in a line or is a sentence, and a `Returns` that begins with a name. Indented lines are code.
    """
    rest = [re.sub(r"(?<!`)(`[^`]+`)(?=\w)", r"\1\\ ", line) for line in lines]  # `Ref`s
    made: list[str] = []
    before = ""  # the last line that is not empty
    while rest:
        line = rest.pop(0)
        if SECTION.match(line):
            inside: list[str] = []
            while rest and (not rest[0].strip() or rest[0].startswith(" ")):
                inside.append(rest.pop(0).strip())
            made += [*fields_of(line.strip(":"), " ".join(filter(None, inside))), ""]
            continue
        if line.startswith(" ") and before and not before.startswith(" ") and made[-1] == "":
            made += ["::", ""]
        made.append(line)
        before = line or before
    if what in ("property", "attribute", "data"):
        made.insert(0, "\\ ")  # nothing; napoleon would read a first line "this: that" as a type
    lines[:] = made


def fields_of(title: str, text: str) -> Iterator[str]:
    named = [*NAMED.finditer(text)] if title == "Raises" else []
    if not named or named[0].start():
        yield f":{title.lower() if title in ('Raises', 'Returns') else title}: {text}"
        return
    for this, following in zip(named, [*named[1:], None], strict=True):
        yield f":raises {this[1]}: {text[this.end() : following.start() if following else len(text)].strip()}"
