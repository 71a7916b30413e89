"""What the keeper has found lately, so that `health` knows it without waiting for an answer."""

from __future__ import annotations

import time
from typing import Final

from pipebus.transports.health import Health, away, dead, together, worse

LATE: Final = 30.0
"""Seconds after which the file counts as one that does not answer; a round of the keeper takes milliseconds."""
FULL: Final = 0.9
"""The part of max_bytes from which on a file is nearly full."""


class Signs:
    """
    The keeper's thread sets these, and all others read them.

    Args:
        most: `max_bytes` of the URL.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.came_round = time.monotonic()  # when the keeper has last finished a round
        self.trouble = ""  # why the file could not be read or written
        self.gone = False  # there is no file
        self.used = 0  # bytes in use, at the last sweep
        self.readers: set[int] = set()  # processes that keep a long log from being moved into the file

    def health(self, path: str, alive: bool) -> Health:
        """`alive`: the keeper's thread runs."""
        found: list[Health] = []
        late = time.monotonic() - self.came_round
        if not alive:
            found.append(dead(f"the thread that serves {path} has died; start the program again"))
        elif late > LATE:
            found.append(away(f"{path} has not answered for {late:,.0f} s; look at its disk, and at who has it locked"))
        elif self.trouble:
            found.append(away(self.trouble if path in self.trouble else f"{path} cannot be used: {self.trouble}"))
        if self.gone:
            found.append(worse(f"{path} is gone; the next publish makes a new file"))
        if self.most is not None and self.used >= self.most * FULL:
            full = "full" if self.used >= self.most else "nearly full"
            found.append(worse(f"{path} is {full}: {self.used:,} bytes are in use, and max_bytes is {self.most:,}"))
        if self.readers:
            readers = ", ".join(map(str, sorted(self.readers)))
            found.append(worse(f"{path}-wal grows: process {readers} reads an old state, so it cannot be moved into the file"))
        return together(found)
