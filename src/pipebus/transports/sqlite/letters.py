"""Dead letters in the file: all its processes share them, and they outlive these processes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from pipebus.errors import CodecError, DeadLetterError
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import DeadLetter, id_of
from pipebus.transports.letters import SharedLetters
from pipebus.transports.sql import dead, subscriptions
from pipebus.transports.sqlite.file import OpenFile

T = TypeVar("T")


class StoredLetters(SharedLetters):
    """`DeadLetters`, in a file."""

    def __init__(self, file: OpenFile, codec: Codec, settle: Callable[[Any, DeadLetter], None]) -> None:
        super().__init__()
        self._file = file
        self._codec = codec
        self._settles = settle

    def _settle(self, token: Any, letter: DeadLetter) -> None:
        self._settles(token, letter)

    def _store(self, letter: DeadLetter) -> None:
        data = self._codec.encode(letter.message)
        self._file.write(lambda store: dead.add(store, letter, data, subscriptions.number(store, letter.subscription)))

    def show(self, id: DeadLetter | str) -> DeadLetter:
        return self._stored(id_of(id))

    def replay(self, id: DeadLetter | str) -> None:
        self.locks.check()
        id = id_of(id)
        if self._republished(self._stored(id)):
            self._file.write(lambda store: dead.delete(store, id))
            return
        why = self._file.write(lambda store: dead.revive(store, id))
        if why is not None:
            raise DeadLetterError(f'dead letter "{id}" cannot be replayed: {why}; it stays a dead letter')

    def discard(self, id: DeadLetter | str) -> None:
        self.locks.check()
        id = id_of(id)
        if not self._file.write(lambda store: dead.discard(store, id)):
            raise self._unknown(id)

    def __len__(self) -> int:
        return self._read(dead.count, 0)

    def _stored(self, id: str) -> DeadLetter:
        rows = self._rows("WHERE id = ?", id)
        if not rows:
            raise self._unknown(id)
        return self._letter(rows[0])

    def _unknown(self, id: str) -> DeadLetterError:
        return DeadLetterError(f'no dead letter "{id}" (there are {len(self)}); see dead_letters.list()')

    def _rows(self, where: str = "", *values: str) -> list[Any]:
        return self._read(lambda connection: dead.listed(connection, where, *values), [])

    def _read(self, query: Callable[[sqlite3.Connection], T], without: T) -> T:
        """What a query says, or without a file this: reading makes none."""
        self.locks.check()
        return self._file.read(query) if os.path.exists(self._file.path) else without

    def _letter(self, row: Any) -> DeadLetter:
        id, name, data, author, error, digest, traceback, attempts, first, time = row
        try:
            message = self._codec.decode(data)
        except CodecError:
            message = Message("pipebus.undecodable", data)
        return DeadLetter(id, message, name, author, error, digest, traceback, attempts, first, time)

    def list(self, subscription: str | None = None) -> list[DeadLetter]:
        rows = self._rows() if subscription is None else self._rows("WHERE subscription = ?", subscription)
        return [self._letter(row) for row in rows]

    def __repr__(self) -> str:
        return f"<StoredLetters: {len(self)} of at most {self.cap}>"
