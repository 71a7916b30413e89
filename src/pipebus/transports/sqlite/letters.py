"""Dead letters in the file: the same for all its processes, and there after all of them have ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import CodecError, DeadLetterError
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH, DeadLetter, DeadLetters, Source
from pipebus.transports.sqlite.file import OpenFile
from pipebus.transports.sqlite.store import Store

COLUMNS: Final = (
    "id, subscription, data, author, error, digest, traceback, attempts, first_time, time, "
    "(SELECT name FROM subscription s WHERE s.sub = dead.sub)"
)


class StoredLetters(DeadLetters):
    """`DeadLetters`, in a file."""

    settles = True

    def __init__(self, file: OpenFile, codec: Codec, settle: Callable[[Any, DeadLetter], None]) -> None:
        super().__init__()
        self._file = file
        self._settle = settle
        self._codec = codec
        self._again: Source | None = None  # what publishes a letter of the publish side anew

    def keep(self, letter: DeadLetter, source: Source, token: Any) -> None:
        """
        One that died around a handler is kept in the transaction that settles its delivery; one of the publish side at once.
        """
        if token is not None:
            self._settle(token, letter)
            return
        if letter.subscription == PUBLISH:
            self._again = source
        data = self._codec.encode(letter.message)
        self._file.write(lambda store: store.bury(letter, data, store.number(letter.subscription), letter.subscription))

    def next_id(self) -> str:
        """Unique among all processes, and known before the letter is kept."""
        return f"d{os.urandom(5).hex()}"

    def show(self, id: str) -> DeadLetter:
        return self._stored(id)

    def replay(self, id: str) -> None:
        self.locks.check()
        letter = self._stored(id)
        if letter.subscription == PUBLISH:
            if self._again is None:
                raise DeadLetterError(
                    f'dead letter "{id}" died in a publish chain of a program that has ended; publish it again from one that '
                    "has this chain, then discard it"
                )
            self._again.revive(letter.message)
            self._file.write(lambda store: store.execute("DELETE FROM dead WHERE id = ?", (id,)))
            return
        why = self._file.write(lambda store: store.revive(id))
        if why is not None:
            raise DeadLetterError(f'dead letter "{id}" cannot be replayed: {why}; it stays a dead letter')

    def discard(self, id: str) -> None:
        self.locks.check()

        def discard(store: Store) -> bool:
            row = store.execute("DELETE FROM dead WHERE id = ? RETURNING sub", (id,)).fetchone()
            if row is not None and row[0] is not None:
                store.drop(row[0], "discarded")
            return row is not None

        if not self._file.write(discard):
            raise self._unknown(id)

    def __len__(self) -> int:
        return sum(count for (count,) in self._rows("SELECT count(*) FROM dead", ()))

    def _stored(self, id: str) -> DeadLetter:
        rows = self._rows(f"SELECT {COLUMNS} FROM dead WHERE id = ?", (id,))
        if not rows:
            raise self._unknown(id)
        return self._letter(rows[0])

    def _unknown(self, id: str) -> DeadLetterError:
        return DeadLetterError(f'no dead letter "{id}" (there are {len(self)}); see dead_letters.list()')

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        self.locks.check()
        if not os.path.exists(self._file.path):
            return []  # looking makes no file
        found: list[Any] = self._file.read(lambda connection: connection.execute(query, values).fetchall())
        return found

    def _letter(self, row: Any) -> DeadLetter:
        id, name, data, author, error, digest, traceback, attempts, first, time, now_called = row
        try:
            message = self._codec.decode(data)
        except CodecError:
            message = Message("pipebus.undecodable", data)
        return DeadLetter(id, message, now_called or name, author, error, digest, traceback, attempts, first, time)

    def list(self, subscription: str | None = None) -> list[DeadLetter]:
        where, values = ("WHERE subscription = ?", (subscription,)) if subscription is not None else ("", ())
        return [self._letter(row) for row in self._rows(f"SELECT {COLUMNS} FROM dead {where} ORDER BY letter", values)]

    def __repr__(self) -> str:
        return f"<StoredLetters: {len(self)} of at most {self.cap}>"
