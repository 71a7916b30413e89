"""Break one line of the real code on purpose, to see that the tests notice it."""

from __future__ import annotations

import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from pipebus.testing.simulation.watch import PLANTED


@contextmanager
def plant(function: Callable[..., Any], old: str, new: str) -> Iterator[None]:
    """
    Replace a real function for a while by a copy that differs in one piece of text.

    Args:
        function: A function or method, as in `plant(Mailbox.put, …)`.
        old: Part of its source; it must be there exactly once.
        new: The text in its place. It has as many lines, so that the line numbers of a story stay true.
    """
    module = sys.modules[function.__module__]
    *path, name = function.__qualname__.split(".")
    owner: Any = module
    for part in path:
        owner = getattr(owner, part)
    plain = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(plain)
    source = textwrap.dedent("".join(lines))
    if source.count(old) != 1:
        raise ValueError(f"{function.__qualname__} has {source.count(old)} times {old!r}: the code has changed, so must this")
    if old.count("\n") != new.count("\n"):
        raise ValueError("the planted text must have as many lines as what it replaces")
    source = source.replace(old, new)
    file = f"<planted>/{PurePath(str(module.__file__)).name}"
    # The function is compiled at its own lines, in a function that gives `super()` its class.
    body = textwrap.indent(source, "    ")
    text = "\n" * (first - 2) + f"def make(__class__):\n{body}\n    return {name}\n"
    made: dict[str, Any] = {}
    exec(compile(text, file, "exec", dont_inherit=True, flags=_annotations(module)), vars(module), made)
    before = inspect.getattr_static(owner, name)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    PLANTED.add(file)
    setattr(owner, name, made["make"](owner if inspect.isclass(owner) else None))
    try:
        yield
    finally:
        setattr(owner, name, before)
        PLANTED.discard(file)


def _annotations(module: Any) -> int:
    future = vars(module).get("annotations")
    return int(future.compiler_flag) if future is not None else 0
