"""What autodoc shows: objects with their members, errors, events, and the promises of a contract."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from made.markdown import fence, paragraph, rst
from pipebus import errors, events


def objects(_: str, lines: str) -> str:
    """Each of the named objects, one a line, with its members but those behind a minus: "pipebus.Delivery -claim"."""
    parts = [line.replace(" -", " ").split() for line in lines.splitlines()]
    return rst("\n".join(directive(name, without=without) for name, *without in parts))


def directive(name: str, *, members: bool = True, without: Sequence[str] = ()) -> str:
    """The directive of autodoc for an object."""
    found = resolve(name)
    lines = [f".. auto{kind_of(found)}:: {name}"]
    if members and kind_of(found) == "class" and not hasattr(found, "_fields"):
        lines += ["   :members:", f"   :exclude-members: {', '.join(without)}"]
    if getattr(found, "_is_protocol", False):
        lines.append("   :undoc-members:")
    return "\n".join([*lines, ""])


def kind_of(found: Any) -> str:
    if inspect.isclass(found):
        return "exception" if issubclass(found, BaseException) else "class"
    return "module" if inspect.ismodule(found) else "function" if callable(found) else "data"


def resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def promises(_: str, names: str) -> str:
    """Each test of a class of tests, by its docstring."""
    parts = []
    for cls in map(resolve, names.split()):
        tests = [test for key, test in vars(cls).items() if key.startswith("test_")]
        parts += [f"**{cls.__name__}**. {paragraph(cls)}\n", *(f"- {paragraph(test)}" for test in tests), ""]
    return "\n".join(parts)


def each_event(_: str, __: str) -> str:
    """Each event, with its fields."""
    found = [one for one in vars(events).values() if inspect.isclass(one) and issubclass(one, events.Event)]
    return rst("\n".join(directive(f"pipebus.events.{one.__name__}", members=False) for one in found))


def tree_of_errors(_: str, __: str) -> str:
    """The tree at the top of `errors.py`, without its texts."""
    drawn = inspect.cleandoc((errors.__doc__ or "").partition("\n\n")[2])
    return fence("text", re.sub(r"(?<=[\w)])  +.*", "", drawn))


def remedy(name: str, text: str) -> str:
    """An error, and under it what the page says."""
    said = re.sub(r"\[(.*?)\]\((.*?)\.md\)", r":doc:`\1 <\2>`", " ".join(text.split()))
    return rst(f"{directive(f'pipebus.errors.{name}')}\n   **What to do:** {said}\n")
