"""Pieces of Markdown."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def rst(text: str) -> str:
    """Text in the language of autodoc's directives."""
    return fence("{eval-rst}", text)


def paragraph(found: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
