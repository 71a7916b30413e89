"""Progress on stderr, with rich if it is installed."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pipebus.cli.show import has_rich

EVERY: Final = 0.2
"""Seconds between two updates."""

Look = Callable[[], tuple[float | None, str]]
"""Returns the part that is done (0 to 1; None if unknown) and a few words."""
Show = Callable[[float | None, str], None]


def shows(quiet: bool) -> bool:
    """Whether progress can be seen: stderr is a terminal."""
    return not quiet and sys.stderr.isatty()


@contextmanager
def progress(look: Look, quiet: bool = False) -> Iterator[None]:
    """Show what `look` returns, now and then, until the block ends. A thread does it, so that the work need not."""
    if not shows(quiet):
        yield
        return
    ended = threading.Event()
    with (_rich_progress if has_rich() else _plain_progress)() as show:

        def watch() -> None:
            while not ended.wait(EVERY):
                show(*look())

        thread = threading.Thread(target=watch, name="pipebus-progress", daemon=True)
        show(*look())
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            show(*look())


@contextmanager
def _rich_progress() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        BarColumn(),
        TaskProgressColumn(table_column=Column(min_width=4, no_wrap=True)),
        TextColumn(
            "{task.description}", table_column=Column(ratio=1, no_wrap=True)
        ),  # the first to be cut where there is no room
        TimeElapsedColumn(),
    )
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
