"""The contract's stage on a SQLite file: it ends leases, kills, and puts on the wire what no bus would."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.errors import TransportError
from pipebus.testing.contract import UrlStage
from pipebus.transports.sql.records import Outgoing
from pipebus.transports.sqlite.lock import WriteLock
from scale_helpers import thorough


class Killed(WriteLock):
    """The lock of a process that no longer writes."""

    @contextmanager
    def held(self) -> Iterator[None]:
        raise TransportError("killed")
        yield


class SqliteStage(UrlStage):
    """
    Args:
        path: The file.
        options: Of its URL.
    """

    backlog = 100_000 if thorough() else 2_000

    def __init__(self, path: Path, options: str = "", **more: Any) -> None:
        self.path = path
        super().__init__(f"sqlite:///{path}{options}", **more)

    def child_url(self) -> str:
        """Other processes open the same file."""
        return str(self.url)

    def sql(self, *statements: str) -> list[Any]:
        """Run statements as another process would, and return the rows of the last one."""
        lock = WriteLock(str(self.path), 10.0)
        lock.open()
        rows: list[Any] = []
        try:
            with lock.held(), closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in statements:
                    rows = connection.execute(statement).fetchall()
                connection.execute("COMMIT")
        finally:
            lock.close()
        return rows

    def lose_leases(self) -> None:
        self.sql(
            "INSERT INTO ready SELECT sub, seq, takings + 1, key, 1 FROM claimed",
            "DELETE FROM claimed",
        )

    def open_with_lease(self, seconds: float) -> Bus:
        separator = "&" if "?" in self.url else "?"
        bus = Bus(f"{self.url}{separator}lease={seconds}", name="leased")
        self.buses.append(bus)
        return bus

    def crash(self) -> None:
        for bus in self.buses:
            if bus.state == "started":
                transport: Any = engine_of(bus).transport
                transport._keeper.patience = 0.0
                lock = transport.file.commits.lock
                if isinstance(lock, Killed):
                    continue
                with lock.held():  # nobody is in the middle of a transaction, and threads that wait for one get none
                    file, lock._file = lock._file, None
                    transport.file.commits.lock = Killed(str(self.path), 1.0)
                os.close(file)
                self.sql(f"UPDATE owner SET born = 'another' WHERE owner = {transport._keeper.owner}")

    def connect(self) -> Any:
        return sqlite3.connect(self.path)

    def connect_elsewhere(self) -> Any:
        return sqlite3.connect(f"{self.path}.other")

    def inject(self, raw: bytes, subject: str) -> None:
        bus = next(bus for bus in self.buses if bus.state == "started")
        number = len(self.sql("SELECT seq FROM message"))
        engine_of(bus).transport.file.writer.call(Outgoing(f"raw-{number}", subject, None, raw, 0.0))

    def swap(self, how: str) -> None:
        for suffix in ("", "-wal", "-shm", "-lock"):  # the bus, which looks all the time, may have been faster
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        if how == "replaced":
            other = self.path.with_name("other.db")
            with Bus(f"sqlite:///{other}"):
                pass
            os.replace(other, self.path)

    def remove_group(self, name: str) -> None:
        self.sql(f"DELETE FROM subscription WHERE name = '{name}'")

    def lose_message(self, name: str) -> None:
        self.sql(
            "DELETE FROM ready WHERE (sub, seq) IN (SELECT sub, max(seq) FROM ready JOIN subscription USING (sub) "
            f"WHERE name = '{name}')"
        )

    def open_with_window(self, seconds: float) -> Bus:
        bus = Bus(f"sqlite:///{self.path}?window={seconds}s&durability=process", name="windowed")
        self.buses.append(bus)
        return bus

    def stored(self) -> tuple[int, int]:
        with closing(sqlite3.connect(self.path)) as connection:
            [(count,)] = connection.execute("SELECT count(*) FROM message")
        return count, sum(Path(f"{self.path}{suffix}").stat().st_size for suffix in ("", "-wal"))

    def wipe(self) -> None:
        super().wipe()
        for suffix in ("", "-wal", "-shm", "-lock"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
