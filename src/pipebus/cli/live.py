"""The live table of `pipebus top`: a terminal that it draws on, and whose keys it reads."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pipebus.cli import board
from pipebus.cli.figures import SORTS, Figures, figures_of
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.looks import EVERY, Away, Server, Store

KEY: Final = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|[^\x1b]")
"""One key: a sequence, as most keys without a letter send it, or a character."""
BEGUN: Final = re.compile(rb"\x1b([\[O][0-9;]*)?$")
SORT_KEYS: Final = {sort[0].encode(): sort for sort in SORTS}
LINES: Final = {b"\x1b[A": -1, b"\x1bOA": -1, b"\x1b[B": 1, b"\x1bOB": 1}
PAGES: Final = {b"\x1b[5~": -1, b"\x1b[6~": 1}


class Live:
    """
    The live table, on one thread: it looks, draws, and then waits for a key, a signal or the next look.

    Signals only wake it up (see `Interrupts`), so nothing interrupts a drawing; one that ends the program interrupts a look,
    which changes nothing.
    """

    def __init__(self, look: Server | Store, interrupts: Interrupts, sort: str) -> None:
        from rich.console import Console

        self._look = look
        self._interrupts = interrupts
        self._console = Console()
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._typed = b""  # the beginning of a key
        self._figures: Figures | None = None
        self._trouble = ""
        self._sort, self._scroll, self._frozen = sort, 0, False
        self._due = 0.0
        self._quit = self._suspended = False

    def run(self) -> int:
        while True:
            with self._screen():
                while not (self._quit or self._suspended or self._interrupts.asked):
                    self._draw()
                    self._wait()
                    self._refresh()
            if not self._suspended:
                return 0
            self._suspended = False
            signal.raise_signal(signal.SIGTSTP)  # Ctrl-Z, now that the terminal is restored; it returns after `fg`

    @contextmanager
    def _screen(self) -> Iterator[None]:
        """Take the whole terminal, without echo, and restore it at the end."""
        import termios
        import tty

        handlers = {number: signal.signal(number, self._heard) for number in (signal.SIGWINCH, signal.SIGTSTP)}
        before = None if self._keys is None else termios.tcgetattr(self._keys)
        try:
            with self._console.screen() as self._canvas:
                if self._keys is not None:
                    tty.setcbreak(self._keys)
                yield
        finally:
            if self._keys is not None and before is not None:
                termios.tcsetattr(self._keys, termios.TCSADRAIN, before)
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _heard(self, number: int, _: object) -> None:
        """The terminal has another size, so it wakes up and draws; or the user has typed Ctrl-Z."""
        self._suspended = self._suspended or number == signal.SIGTSTP

    def _refresh(self) -> None:
        began = time.monotonic()
        if self._frozen or began < self._due:
            return
        try:
            self._figures, self._trouble = figures_of(self._interrupts.opening(self._look)), ""
        except Away as error:
            self._trouble = f"{error}; trying again"
        now = time.monotonic()
        self._due = now + max(EVERY, now - began)  # a store that takes long is not asked all the time

    def _draw(self) -> None:
        from rich.control import Control

        width, height = self._size()
        self._move(0)  # there may be fewer rows than before, or more room
        lines = board.draw(
            self._figures, width, height, self._sort, self._scroll,
            about=self._look.about, trouble=self._trouble, frozen=self._frozen,
        )  # fmt: skip
        with self._console as console:  # in one write
            console.size = (width, height)
            console.control(Control.home())
            self._canvas.update(*lines)

    def _size(self) -> tuple[int, int]:
        width, height = os.get_terminal_size(sys.stdout.fileno())
        return width or 80, height or 24

    def _wait(self) -> None:
        seconds = 3600.0 if self._frozen else self._due - time.monotonic()
        if not self._interrupts.ready(self._keys, seconds) or self._keys is None:
            return
        data = b""
        with suppress(OSError):
            data = os.read(self._keys, 1024)
        self._quit = not data  # the terminal is gone
        data = self._typed + data
        self._typed = found[0] if (found := BEGUN.search(data)) else b""
        for key in KEY.findall(data.removesuffix(self._typed)):
            self._press(key)

    def _press(self, key: bytes) -> None:
        if key == b"q":
            self._quit = True
        elif key == b"p":
            self._frozen = not self._frozen
        elif key in SORT_KEYS:
            self._sort, self._scroll = SORT_KEYS[key], 0
        else:
            self._move(LINES.get(key, 0) + PAGES.get(key, 0) * board.room(self._size()[1]))

    def _move(self, by: int) -> None:
        """Scroll by so many rows, and not past the last one."""
        count = len(self._figures.subscriptions) if self._figures else 0
        self._scroll = max(0, min(count - board.room(self._size()[1]), self._scroll + by))
