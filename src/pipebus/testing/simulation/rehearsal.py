"""
The transport of a bus in a test, whatever its URL: memory, with each message through the codec, or a file of the test's own.

A test must not touch what the program's URL names: it would read and write the messages of production, wait in real time, and
need a server. So a `Harness` opens no URL. Its buses have the capabilities of their URLs, as far as one process can keep them.
"""

import dataclasses
import os
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from pipebus.errors import UnsupportedCapability
from pipebus.message.codec import JsonCodec
from pipebus.transports.base import Surroundings, Transport
from pipebus.transports.memory import MemoryTransport


class Rehearsal(MemoryTransport):
    """Memory with a codec, in place of another transport, which is not started; `url` is without secrets."""

    def __init__(self, declared: Transport, url: str) -> None:
        super().__init__(JsonCodec())
        self.url = url
        self.capabilities = msgspec.structs.replace(declared.capabilities, objects=False)
        self._known: dict[tuple[str, str], float] = {}  # what filters remember, and until when

    def start(self, surroundings: Surroundings) -> None:
        self._clock = surroundings.clock

    def seen(self, scope: str, key: str) -> bool:
        return self._known.get((scope, key), 0.0) > self._clock.now()

    def learn(self, scope: str, key: str, seconds: float) -> None:
        self._known[scope, key] = self._clock.now() + seconds

    def transaction(self, token: Any) -> AbstractContextManager[Any]:
        raise UnsupportedCapability(
            f"delivery.transaction() needs the store of {self.url}, and a test runs in memory; give the test a store of its "
            'own: Harness(store="temporary")'
        )


class Thrown:
    """For each SQLite file that a URL names, a new file in a temporary folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}

    def __call__(self, declared: Transport, url: str) -> Transport:
        from pipebus.transports.sqlite.transport import SqliteTransport

        if not isinstance(declared, SqliteTransport):
            raise UnsupportedCapability(
                f'{getattr(declared, "url", url)}: store="temporary" is for SQLite files; leave it out, and the bus runs in '
                "memory, or test with a server of the test's own and without a harness"
            )
        path = declared.options.path
        there = self._files.setdefault(path, os.path.join(self._folder, f"{len(self._files)}.db"))
        return SqliteTransport(dataclasses.replace(declared.options, path=there, named=there))
