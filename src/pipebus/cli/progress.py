"""Progress on stderr, with rich if it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipebus.cli.show import has_rich

Show = Callable[[float | None, str], None]
"""Called with the part that is done (0 to 1; None if unknown) and a few words."""


@contextmanager
def progress(quiet: bool = False) -> Iterator[Show | None]:
    """Give a function that shows progress; None if stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with (_rich_progress if has_rich() else _plain_progress)() as show:
        yield show


@contextmanager
def _rich_progress() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: float | None, words: str) -> None:
            bar.update(task, description=words, total=None if done is None else 1.0, completed=done or 0.0)

        yield show


@contextmanager
def _plain_progress() -> Iterator[Show]:
    def show(done: float | None, words: str) -> None:
        percent = "" if done is None else f"{done:4.0%}  "
        print(f"\r{percent}{words}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
