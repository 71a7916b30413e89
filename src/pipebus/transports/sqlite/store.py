"""
One connection, with what all statements need: the file's own values, its time, the limits that the URL sets, and which
subscriptions a message reaches.

The statements themselves are functions of a store, one module for each subject, and each runs inside its caller's transaction:

    publishing.py      storing messages                 owners.py       who is alive, and what a dead process leaves
    subscriptions.py   who gets what                    dead.py         dead letters
    deliveries.py      taking and ending deliveries     retention.py    what is kept for a time

A delivery is a row in `ready`, `later` or `claimed`, and each settlement moves or deletes that row. So nothing is counted
twice, and the rows say what a killed process has left undone. A row in `claimed` names its owner and how often the message was
taken before. A settlement must name the same two (the fencing token), so a process that has lost a delivery cannot settle it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus.message.patterns import Pattern, PatternTree

REPLY: Final = "_reply."
"""How the subjects of replies begin; see publishing/replies.py."""
PAUSED: Final = "paused "
"""How the names in `meta` begin that pause a subscription; its number follows."""
SUBJECTS: Final = 16_384
"""Most subjects whose subscriptions are remembered."""


class Directory:
    """The subscriptions and their patterns, as of one version of the file; shared by the connections of one transport."""

    def __init__(self) -> None:
        self.version: Any = None
        self._tree: PatternTree[int] = PatternTree()
        self._replies: PatternTree[int] = PatternTree()  # replies reach no other subscriptions
        self._reach: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def refresh(self, version: Any, execute: Callable[[str], Any]) -> None:
        """
        Read the subscriptions again if the file has another version of them.

        Args:
            version: The file's version, as of the open transaction.
            execute: Runs a query in that transaction.
        """
        if self.version == version:
            return
        tree: PatternTree[int] = PatternTree()
        replies: PatternTree[int] = PatternTree()
        for sub, patterns in execute("SELECT sub, patterns FROM subscription ORDER BY sub"):
            for pattern in json.loads(patterns):
                (replies if pattern.startswith(REPLY) else tree).add(Pattern(pattern), sub)
        self._tree, self._replies, self._reach, self.version = tree, replies, OrderedDict(), version

    def subscriptions(self, subject: str) -> tuple[int, ...]:
        """Numbers of the subscriptions that a subject reaches."""
        found = self._reach.get(subject)
        if found is None:
            tree = self._replies if subject.startswith(REPLY) else self._tree
            found = tuple(dict.fromkeys(tree.match(subject)))
            if len(self._reach) >= SUBJECTS:
                self._reach.popitem(last=False)
            self._reach[subject] = found
        return found


class Store:
    """
    Args:
        now: The file's time, in seconds; see boot.py.
        window: Seconds for which an id is known.
        retention: Seconds for which messages are kept that nobody waits for.
        letters: Most dead letters.
        generation: How often this process has found another file at the path.
    """

    def __init__(
        self, connection: sqlite3.Connection, directory: Directory, now: Callable[[], float], window: float,
        retention: float, letters: int, generation: int = 0,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.execute = connection.execute
        self.many = connection.executemany
        self.directory = directory
        self.now = now
        self.window = window
        self.retention = max(retention, window)
        self.letters = letters
        self.generation = generation
        self.touched: set[int] = set()  # subscriptions that now have something to claim
        self.swept = 0  # the last message that `retention.sweep` has looked at

    def meta(self, name: str) -> Any:
        row = self.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row is not None else None

    def set_meta(self, name: str, value: Any) -> None:
        self.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))

    def take_numbers(self, count: int) -> int:
        """The first of `count` new numbers. None is given twice: their order is the order of publishing."""
        first = int(self.meta("seq")) + 1
        self.execute("UPDATE meta SET value = ? WHERE name = 'seq'", (first + count - 1,))
        return first

    def roll_back(self) -> None:
        """Undo the open transaction, if there is one; SQLite may have ended it already."""
        self.directory.version = None  # it may have been read in this transaction
        if self.connection.in_transaction:
            with suppress(sqlite3.Error):  # the cause of the failure may prevent this too; the next BEGIN or `close` will tell
                self.execute("ROLLBACK")
