"""The connections in whose transactions a program publishes: each kind inserts orders, publishes, commits and rolls back."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from missing import needs
from pipebus import Bus
from pipebus.message.outcomes import Receipt

INSERT = "INSERT INTO orders VALUES (:number)"


class Orders:
    """An order and its message, in one transaction on one kind of connection."""

    def __init__(self, path: Path, bus: Bus) -> None:
        self.path = path
        self.bus = bus

    def place(self, number: int, *, commit: bool) -> Receipt:
        """Insert an order, publish it, and commit or roll back."""
        raise NotImplementedError


class Raw(Orders):
    options: ClassVar[dict[str, Any]] = {}

    def place(self, number: int, *, commit: bool) -> Receipt:
        with closing(sqlite3.connect(self.path, **self.options)) as connection:
            connection.execute(INSERT, {"number": number})
            receipt = self.bus.publish("orders.placed", number, within=connection)
            connection.commit() if commit else connection.rollback()
        return receipted(receipt)


class Explicit(Raw):
    """It begins its transactions itself."""

    def place(self, number: int, *, commit: bool) -> Receipt:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            receipt = self.bus.publish("orders.placed", number, within=connection)
            connection.execute(INSERT, {"number": number})
            connection.execute("COMMIT" if commit else "ROLLBACK")
        return receipted(receipt)


class Pep249(Raw):
    """Python 3.12 and newer: a transaction is always open."""

    options: ClassVar = {"autocommit": False}


class FromCoroutine(Raw):
    def place(self, number: int, *, commit: bool) -> Receipt:
        async def main() -> Any:
            with closing(sqlite3.connect(self.path)) as connection:
                connection.execute(INSERT, {"number": number})
                receipt = await self.bus.apublish("orders.placed", number, within=connection)
                connection.commit() if commit else connection.rollback()
                return receipt

        return receipted(asyncio.run(main()))


class Alchemy(Orders):
    """SQLAlchemy, with one of its connections or sessions."""

    def open(self, engine: Any) -> Any:
        return engine.connect()

    def place(self, number: int, *, commit: bool) -> Receipt:
        import sqlalchemy

        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}")
        with self.open(engine) as opened:
            receipt = self.bus.publish("orders.placed", number, within=opened)
            opened.execute(sqlalchemy.text(INSERT), {"number": number})
            opened.commit() if commit else opened.rollback()
        engine.dispose()
        return receipted(receipt)


class AlchemySession(Alchemy):
    def open(self, engine: Any) -> Any:
        from sqlalchemy.orm import Session

        return Session(engine)


class AlchemyScoped(Alchemy):
    def open(self, engine: Any) -> Any:
        from contextlib import contextmanager

        from sqlalchemy.orm import scoped_session, sessionmaker

        @contextmanager
        def scoped() -> Iterator[Any]:
            sessions = scoped_session(sessionmaker(engine))
            yield sessions
            sessions.remove()

        return scoped()


class Awaited(Orders):
    def open(self, engine: Any) -> Any:
        return engine.connect()

    def place(self, number: int, *, commit: bool) -> Receipt:
        return receipted(asyncio.run(self.aplace(number, commit)))

    async def aplace(self, number: int, commit: bool) -> Any:
        import sqlalchemy
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(f"sqlite+aiosqlite:///{self.path}")
        async with self.open(engine) as opened:
            await opened.execute(sqlalchemy.text(INSERT), {"number": number})
            receipt = await self.bus.apublish("orders.placed", number, within=opened)
            await (opened.commit() if commit else opened.rollback())
        await engine.dispose()
        return receipt


class AwaitedSession(Awaited):
    def open(self, engine: Any) -> Any:
        from sqlalchemy.ext.asyncio import AsyncSession

        return AsyncSession(engine)


class Aiosqlite(Awaited):
    async def aplace(self, number: int, commit: bool) -> Any:
        import aiosqlite

        async with aiosqlite.connect(self.path) as opened:
            receipt = await self.bus.apublish("orders.placed", number, within=opened)
            await opened.execute(INSERT, {"number": number})
            await (opened.commit() if commit else opened.rollback())
        return receipt


thorough = pytest.mark.thorough  # they need packages of the extra `ci`
KINDS = [
    pytest.param(Raw, id="sqlite3"),
    pytest.param(Explicit, id="sqlite3, explicit"),
    *([pytest.param(Pep249, id="sqlite3, PEP 249")] if sys.version_info >= (3, 12) else []),
    pytest.param(FromCoroutine, id="sqlite3, in a coroutine"),
    pytest.param(Alchemy, id="Connection", marks=thorough),
    pytest.param(AlchemySession, id="Session", marks=thorough),
    pytest.param(AlchemyScoped, id="scoped_session", marks=thorough),
    pytest.param(Awaited, id="AsyncConnection", marks=thorough),
    pytest.param(AwaitedSession, id="AsyncSession", marks=thorough),
    pytest.param(Aiosqlite, id="aiosqlite", marks=thorough),
]


def receipted(outcome: Any) -> Receipt:
    assert isinstance(outcome, Receipt)
    return outcome


def need(kind: type[Orders]) -> None:
    if issubclass(kind, Alchemy | Awaited):
        needs("sqlalchemy")
    if issubclass(kind, Awaited):
        needs("aiosqlite")
