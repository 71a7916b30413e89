"""
One connection, with what all rules need: the file's own values, its time, the limits that the URL sets, and which
subscriptions a message reaches.
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus.message.patterns import Pattern, PatternTree
from pipebus.transports.sql import statements as sql

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
        self._reach: OrderedDict[str, tuple[tuple[int, ...], int]] = OrderedDict()
        self._filling: set[int] = set()

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
        self._filling = set()
        for sub, patterns, filling in execute(sql.PATTERNS):
            if filling is not None:
                self._filling.add(sub)
            for pattern in json.loads(patterns):
                (replies if pattern.startswith(REPLY) else tree).add(Pattern(pattern), sub)
        self._tree, self._replies, self._reach, self.version = tree, replies, OrderedDict(), version

    def subscriptions(self, subject: str) -> tuple[tuple[int, ...], int]:
        """
        Numbers of the subscriptions that get a message of this subject now; and how many it reaches. A subscription that is
        still being given older messages gets this one in its turn, see `subscriptions.fill`.
        """
        found = self._reach.get(subject)
        if found is None:
            tree = self._replies if subject.startswith(REPLY) else self._tree
            reached = dict.fromkeys(tree.match(subject))
            found = tuple(sub for sub in reached if sub not in self._filling), len(reached)
            if len(self._reach) >= SUBJECTS:
                self._reach.popitem(last=False)
            self._reach[subject] = found
        return found


class Store:
    """
    Args:
        now: The store's time, in seconds.
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

    def meta(self, name: str) -> Any:
        row = self.execute(sql.META, (name,)).fetchone()
        return row[0] if row is not None else None

    def set_meta(self, name: str, value: Any) -> None:
        self.execute(sql.SET_META, (name, value))

    def last(self) -> int:
        """
        Number of the last message. The next ones follow, so their order is that of publishing. No number is given twice, since
        only the sweep deletes messages, and none that it has not passed.
        """
        return int(self.execute(sql.LAST).fetchone()[0])

    def roll_back(self) -> None:
        """Undo the open transaction, if there is one; SQLite may have ended it already."""
        self.directory.version = None  # it may have been read in this transaction
        if self.connection.in_transaction:
            with suppress(sqlite3.Error):  # the cause of the failure may prevent this too; the next BEGIN or `close` will tell
                self.execute("ROLLBACK")
