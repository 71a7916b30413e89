"""The outbox: `publish(…, within=connection)` stores a message in a transaction of the application."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from outbox_helpers import KINDS, Orders, need, receipted, thorough

from flow_helpers import wait_until
from missing import needs
from pipebus import Bus, Delivery, Dropped, Message, Pipeline, Receipt, transform
from pipebus.bus.bus import engine_of
from pipebus.errors import (
    BusClosed,
    BusNotStarted,
    LifecycleError,
    MessageError,
    NoSubscriber,
    TransportError,
    UnsupportedCapability,
)
from pipebus.filters import Dedupe
from pipebus.transports.sqlite import commits, schema

WAIT = 10.0
INSERT = "INSERT INTO orders VALUES (?)"


class Shop:
    """A bus whose file has the application's orders too, and what its handler has got."""

    def __init__(self, path: Path, options: str = "") -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE orders (number)")
        self.bus = Bus(f"sqlite:///{path}{options}")
        self.got: list[Any] = []
        self.opened: list[Any] = []
        self.bus.subscribe("orders.>", lambda message: self.got.append(message.body), name="mail")

    def connect(self, path: object = None, **options: Any) -> sqlite3.Connection:
        """A connection of the application, to this file or another; it is closed at the end of the test."""
        connection = sqlite3.connect(str(path or self.path), **options)
        self.opened.append(connection)
        return connection

    def publish(self, body: Any, connection: Any, **options: Any) -> Receipt:
        return receipted(self.bus.publish("orders.placed", body, within=connection, **options))

    def rows(self, query: str = "SELECT number FROM orders") -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    def kept(self) -> list[Any]:
        """What the handler has got, when everything that was committed is handled."""
        self.bus.drain(timeout=WAIT)
        return self.got


@pytest.fixture
def shop(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop.db", getattr(request, "param", ""))
    yield shop
    for connection in shop.opened:
        connection.close()
    shop.bus.stop(timeout=1.0, drain=False)


# --- one transaction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_s38_a_message_exists_if_and_only_if_its_transaction_commits(shop: Shop, kind: type[Orders]) -> None:
    """Orders and messages of three transactions agree: two were committed, and the one between was rolled back."""
    need(kind)
    orders = kind(shop.path, shop.bus)
    with shop.bus:
        receipts = [orders.place(number, commit=number != 2) for number in (1, 2, 3)]
        assert receipts == [Receipt(1, on_commit=True)] * 3
        assert (shop.kept(), shop.rows()) == ([1, 3], [(1,), (3,)])
        assert shop.bus.stats()["subscriptions"]["mail"]["accepted"] == 2


def test_nobody_gets_it_before_the_commit(shop: Shop) -> None:
    """A handler may look for the order at once: it runs after the commit, without anybody waking it."""
    looked: list[Any] = []
    shop.bus.subscribe("orders.*", lambda message: looked.append(shop.rows()), name="looks")
    with shop.bus, shop.connect() as connection:
        connection.execute(INSERT, (1,))
        shop.publish(1, connection)
        assert shop.kept() == []
        connection.commit()
        wait_until(lambda: looked, "the handler has run")
    assert looked == [[(1,)]]


def test_a_savepoint_that_is_rolled_back_takes_its_message_along(shop: Shop) -> None:
    """What is inside shares its fate; what comes before and after it is committed."""
    with shop.bus, shop.connect(isolation_level=None) as connection:
        connection.execute("BEGIN")
        shop.publish("before", connection)
        connection.execute("SAVEPOINT mine")
        shop.publish("inside", connection)
        connection.execute("ROLLBACK TO mine")
        shop.publish("after", connection)
        connection.execute("COMMIT")
        assert shop.kept() == ["before", "after"]


def test_it_begins_a_transaction_as_the_first_insert_would(shop: Shop) -> None:
    """A message that comes first is not committed on its own."""
    with shop.bus, shop.connect() as connection:
        shop.publish(1, connection)
        assert connection.in_transaction
        connection.rollback()
        assert shop.kept() == []


def test_a_process_that_only_publishes_needs_no_subscription(shop: Shop) -> None:
    """Another process handles what it commits; and what nobody listens to is kept as long as any message."""
    with shop.bus, Bus(f"sqlite:///{shop.path}") as publisher, shop.connect() as connection:
        assert publisher.publish("orders.placed", 1, within=connection) == Receipt(1, on_commit=True)
        assert publisher.publish("nobody", 2, within=connection) == Receipt(0, on_commit=True)
        with pytest.raises(NoSubscriber):
            publisher.publish("nobody", 3, within=connection, strict=True)
        connection.commit()
        wait_until(lambda: shop.got == [1], "the other bus has handled it")


def test_the_options_of_a_publish_hold(shop: Shop) -> None:
    """A key and a delay are kept with it, and a conversation goes on."""
    seen: list[Message[Any]] = []
    shop.bus.subscribe("late", seen.append, name="late")
    with shop.bus, shop.connect() as connection:
        shop.bus.publish("late", 1, within=connection, delay=0.01, key="k", correlation_id="c")
        connection.commit()
        wait_until(lambda: seen, "it is delivered")
    assert (seen[0].key, seen[0].correlation_id) == ("k", "c")


# --- ids and filters -----------------------------------------------------------------------------------------------------


def test_an_id_is_recognised_if_it_was_committed(shop: Shop) -> None:
    """A publish that was rolled back leaves its id free."""
    with shop.bus, shop.connect() as connection:
        for end in (connection.rollback, connection.commit, connection.commit):
            receipt = shop.publish(1, connection, id="order-1")
            end()
        assert receipt.duplicate
        assert shop.publish(2, connection, id="order-2") == Receipt(1, on_commit=True)
        assert shop.publish(2, connection, id="order-2") == Receipt(1, duplicate=True, on_commit=True)
        connection.rollback()
        assert shop.kept() == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("durable", [True, False], ids=["durable", "in memory"])
@pytest.mark.parametrize("shop", ["?window=0"], indirect=True)
def test_a_dedupe_does_not_remember_what_was_rolled_back(shop: Shop, kind: type[Orders], durable: bool) -> None:
    """The second attempt arrives. A durable Dedupe remembers a commit; one in memory cannot know of it."""
    need(kind)
    shop.bus.use(Dedupe(key=lambda message: message.body, durable=durable))
    with shop.bus:
        orders = kind(shop.path, shop.bus)
        orders.place(1, commit=False)
        orders.place(1, commit=True)
        if durable:
            with pytest.raises(AssertionError):  # it is dropped
                orders.place(1, commit=True)
        assert shop.kept() == [1]


@pytest.mark.parametrize("explicit", [False, True], ids=["as it comes", "within"])
def test_what_a_filter_publishes_is_in_the_same_transaction(shop: Shop, explicit: bool) -> None:
    """A copy for the audit is not kept of an order that never was."""

    @shop.bus.use
    def copied(message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
        if message.subject != "orders.audit":
            shop.bus.publish("orders.audit", f"copy of {message.body}", within=connection if explicit else None)
        return call_next(message)

    with shop.bus, shop.connect() as connection:
        for number, end in ((1, connection.rollback), (2, connection.commit)):
            shop.publish(number, connection)
            end()
        assert sorted(map(str, shop.kept())) == ["2", "copy of 2"]


def test_what_a_filter_drops_or_refuses_is_not_stored(shop: Shop) -> None:
    """The chain runs at once. A dead letter of the publish is part of the transaction too."""

    @transform
    def only_paid(message: Message[Any]) -> Any:
        if message.body == "broken":
            raise ValueError("broken")
        return message if message.body == "paid" else Dropped("not paid")

    shop.bus.use(Pipeline(only_paid, on_error="dead_letter"))
    with shop.bus, shop.connect() as connection:
        outcomes = [shop.bus.publish("orders.placed", body, within=connection) for body in ("free", "broken", "paid")]
        assert list(map(bool, outcomes)) == [False, False, True]
        assert len(shop.bus.dead_letters) == 0
        connection.commit()
        assert (shop.kept(), len(shop.bus.dead_letters)) == (["paid"], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_any_colour_ends_in_the_transaction(shop: Shop, kind: type[Orders]) -> None:
    """Also an async filter in front of a connection that is not awaited, if it may be used on another thread."""
    need(kind)

    @shop.bus.use
    async def look(message: Message[Any], call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(message)

    with shop.bus:
        orders = kind(shop.path, shop.bus)
        if kind.__name__ in ("Raw", "Explicit", "Pep249"):
            with pytest.raises(LifecycleError, match="connect with check_same_thread=False"):
                orders.place(1, commit=True)
            return
        orders.place(1, commit=False)
        orders.place(2, commit=True)
        assert (shop.kept(), shop.rows()) == ([2], [(2,)])


@pytest.mark.thorough
def test_a_publish_that_is_cancelled_before_it_is_stored_begins_nothing(shop: Shop) -> None:
    """A coroutine ends while the connection's own thread is busy. The thread then leaves the connection as it is."""
    needs("aiosqlite")
    import aiosqlite

    async def main() -> None:
        async with aiosqlite.connect(shop.path) as connection:
            busy, free = asyncio.Event(), threading.Event()

            @shop.bus.use
            async def occupy(message: Message[Any], call_next: Any) -> Any:
                waits.append(asyncio.ensure_future(connection._execute(free.wait)))
                await asyncio.sleep(0)
                busy.set()
                return await call_next(message)

            waits: list[Any] = []
            async with shop.bus:
                publish = asyncio.ensure_future(shop.bus.apublish("orders.placed", 1, within=connection))
                await busy.wait()
                await asyncio.sleep(0)
                publish.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await publish
                free.set()
                await asyncio.gather(*waits)
                await connection.execute("SELECT 1")
                assert not connection.in_transaction
                await shop.bus.adrain(timeout=WAIT)

    asyncio.run(main())
    assert (shop.got, shop.rows("SELECT * FROM message")) == ([], [])


# --- it is stored as a whole, or not at all ------------------------------------------------------------------------------


def test_a_publish_that_fails_leaves_nothing_in_the_transaction(shop: Shop) -> None:
    """The application may commit all the same, and has its own row then, and no half of a message."""
    with shop.bus, shop.connect() as connection:
        connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON ready BEGIN SELECT RAISE(ABORT, 'a full disk'); END")
        connection.execute(INSERT, (1,))
        with pytest.raises(TransportError, match="a full disk"):
            shop.publish(1, connection)
        connection.execute("DROP TRIGGER refuse")
        connection.commit()
        assert (shop.kept(), shop.rows(), shop.rows("SELECT * FROM message")) == ([], [(1,)], [])


def test_a_publish_that_fails_leaves_no_transaction_behind_that_it_began(shop: Shop) -> None:
    """Nobody would end it, and the bus could not write."""
    with shop.connect() as connection:
        connection.execute("CREATE TABLE log (x)")
    with shop.bus, shop.connect() as connection:
        shop.bus.publish("orders.placed", 0)
        with closing(sqlite3.connect(shop.path)) as other:
            other.execute("CREATE TRIGGER refuse BEFORE INSERT ON message BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(TransportError, match="no"):
            shop.publish(1, connection)
        assert not connection.in_transaction
        connection.execute("DROP TRIGGER refuse")


@pytest.mark.parametrize("shop", ["?max_bytes=1048576"], indirect=True)
def test_a_full_file_refuses_it(shop: Shop) -> None:
    """`max_bytes` holds for what the application's connection writes."""
    with shop.bus, shop.connect() as connection:
        for _ in range(9):
            shop.publish("x" * 100_000, connection)
        with pytest.raises(TransportError, match="max_bytes"):
            [shop.publish("x" * 100_000, connection) for _ in range(9)]
        connection.rollback()


# --- connections as they come --------------------------------------------------------------------------------------------


class Loud(sqlite3.Connection):
    """A connection whose own methods are not what the rules expect."""

    def execute(self, *args: Any) -> Any:
        raise AssertionError

    def cursor(self, *args: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"row_factory": sqlite3.Row, "text_factory": bytes}, id="factories"),
        pytest.param({"row_factory": lambda cursor, row: {"row": row}, "text_factory": bytearray}, id="odd factories"),
        pytest.param({"factory": Loud}, id="a class of its own"),
        pytest.param({"detect_types": sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES}, id="converters"),
        pytest.param({"traced": True}, id="trace and authorizer"),
    ],
)
def test_settings_of_the_connection_do_not_matter_and_stay(shop: Shop, settings: dict[str, Any]) -> None:
    """A duplicate is recognised, so what the rules read is what they expect; and the connection is as it was."""
    options = {name: settings.pop(name) for name in ("factory", "detect_types") if name in settings}
    converters = [name for name in ("TEXT", "REAL", "BLOB", "INTEGER") if "detect_types" in options]
    for name in converters:
        sqlite3.register_converter(name, lambda value: ["converted", value])
    try:
        with shop.bus, closing(sqlite3.connect(shop.path, **options)) as connection:
            heard: list[Any] = []
            if settings.pop("traced", False):
                connection.set_trace_callback(heard.append)
                connection.set_authorizer(lambda *args: sqlite3.SQLITE_OK)
            for name, value in settings.items():
                setattr(connection, name, value)
            assert [shop.publish(1, connection, id="same").duplicate for _ in range(2)] == [False, True]
            assert {name: getattr(connection, name) for name in settings} == settings
            connection.commit()
            assert shop.kept() == [1]
    finally:
        for name in converters:
            sqlite3.converters.pop(name)


# --- refused -------------------------------------------------------------------------------------------------------------


def elsewhere(shop: Shop) -> Any:
    return shop.connect(f"{shop.path}.other")


def attached(shop: Shop) -> Any:
    connection = elsewhere(shop)
    connection.execute("ATTACH ? AS bus", (str(shop.path),))
    return connection


def attaching(shop: Shop) -> Any:
    connection = shop.connect()
    connection.execute("ATTACH ? AS app", (f"{shop.path}.other",))
    return connection


def read_only(shop: Shop) -> Any:
    return shop.connect(f"file:{shop.path}?mode=ro", uri=True)


def unauthorized(shop: Shop) -> Any:
    connection = shop.connect()
    connection.set_authorizer(lambda action, table, *_: sqlite3.SQLITE_DENY if table == "message" else sqlite3.SQLITE_OK)
    return connection


def stale(shop: Shop) -> Any:
    connection = shop.connect(isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM orders").fetchall()
    shop.bus.publish("orders.placed", "by another")
    return connection


def waiting(shop: Shop) -> Any:
    blocking = shop.connect(isolation_level=None)
    blocking.execute("BEGIN IMMEDIATE")
    return shop.connect(timeout=0.01)


def newer(shop: Shop) -> Any:
    connection = shop.connect()
    connection.execute("PRAGMA user_version = 99")
    return connection


def awaited(shop: Shop) -> Any:
    needs("sqlalchemy")
    from sqlalchemy.ext.asyncio import AsyncSession

    return AsyncSession()


def committing(shop: Shop) -> Any:
    needs("sqlalchemy")
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{shop.path}", isolation_level="AUTOCOMMIT")
    shop.opened.append(engine.connect())
    return shop.opened[-1]


class Engine:
    def __repr__(self) -> str:
        return "Engine(…)"


@pytest.mark.parametrize(
    ("connection", "error", "says"),
    [
        pytest.param(
            elsewhere, UnsupportedCapability, r"to .*shop\.db\.other, but the bus keeps .*shop\.db; connect", id="elsewhere"
        ),
        pytest.param(attached, UnsupportedCapability, "attached as bus, and a power cut may keep half", id="attached"),
        pytest.param(attaching, UnsupportedCapability, "has attached app: a kill may keep half", id="attaching"),
        pytest.param(lambda shop: shop.connect(":memory:"), UnsupportedCapability, "to a database in memory", id="memory"),
        pytest.param(
            lambda shop: Engine(), MessageError, r"within=Engine\(…\), of test_outbox: it is a connection", id="nothing"
        ),
        pytest.param(
            lambda shop: shop.connect(isolation_level=None), LifecycleError, 'execute."BEGIN IMMEDIATE"', id="autocommit"
        ),
        pytest.param(read_only, TransportError, "cannot write: .* mode=rw", id="read only"),
        pytest.param(unauthorized, TransportError, "authorizer refuses the bus's tables", id="authorizer"),
        pytest.param(stale, TransportError, "begin it with BEGIN IMMEDIATE", id="stale"),
        pytest.param(waiting, TransportError, "which waits for them, on a connection with a timeout", id="busy"),
        pytest.param(awaited, LifecycleError, "has to be awaited; use `await bus.apublish", id="AsyncSession", marks=thorough),
        pytest.param(committing, LifecycleError, "has no transaction open", id="AUTOCOMMIT", marks=thorough),
        pytest.param(newer, TransportError, "version 99 by another pipebus", id="version"),
    ],
)
def test_a_connection_that_cannot_be_used_is_refused(
    shop: Shop, connection: Callable[[Shop], Any], error: type[Exception], says: str
) -> None:
    """The error says why, and what to do instead; nothing is stored, and the message counts as failed at most."""
    with shop.bus:
        opened = connection(shop)
        with pytest.raises(error, match=says):
            shop.publish(1, opened)
        for one in shop.opened:
            one.close()
        with shop.connect() as connection_again:
            connection_again.execute(f"PRAGMA user_version = {len(schema.STEPS)}")
        assert 1 not in shop.kept()


def test_a_connection_of_another_thread_is_refused(shop: Shop) -> None:
    """SQLite's driver allows that only where the connection says so."""

    def publish(connection: sqlite3.Connection) -> None:
        try:
            shop.publish(1, connection)
        except LifecycleError as error:
            refused.append(str(error))

    refused: list[str] = []
    with shop.bus:
        for same in (True, False):
            connection = shop.connect(check_same_thread=same)
            thread = threading.Thread(target=publish, args=(connection,))
            thread.start()
            thread.join()
            connection.commit()
        assert shop.kept() == [1]
    assert ["connect with check_same_thread=False" in text for text in refused] == [True]


@pytest.mark.parametrize("url", ["memory:", "nats://localhost:4222"])
def test_other_engines_refuse_it_by_name(url: str) -> None:
    """They have no transactions of the application."""
    pytest.importorskip("nats")
    sender = engine_of(Bus(url)).sender
    sender.check_publish = lambda: None
    with pytest.raises(UnsupportedCapability, match=f"{url} cannot store a message in a transaction of the application"):
        sender.check_outbox()
    with pytest.raises(UnsupportedCapability, match="outbox"):
        Bus(url, require={"outbox": True})


def test_a_schedule_has_no_transaction(shop: Shop) -> None:
    """Its ticks come later."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'within'"):
        shop.bus.every(1.0, "tick", within=shop.connect())  # type: ignore[call-overload]


def test_a_bus_that_does_not_run_refuses_it(shop: Shop) -> None:
    """Before the start, after the stop, and in a forked child."""
    connection = shop.connect()
    with pytest.raises(BusNotStarted):
        shop.publish(1, connection)
    with shop.bus:
        child = os.fork()
        if not child:  # pragma: no cover
            try:
                shop.publish(1, connection)
            except LifecycleError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(BusClosed):
        shop.publish(1, connection)
    assert shop.rows("SELECT * FROM message") == []


def test_a_file_that_was_replaced_gets_no_message(shop: Shop) -> None:
    """A connection that still has the former file is refused, even when the bus has opened the new one."""
    with shop.bus:
        shop.bus.publish("orders.placed", 0)
        connection = shop.connect()
        connection.execute(INSERT, (1,))
        connection.rollback()
        for end in ("", "-wal", "-shm"):
            os.rename(f"{shop.path}{end}", f"{shop.path}.former{end}")
        with pytest.raises(TransportError, match="was removed or replaced while it was in use"):
            shop.publish(1, connection)
        with suppress(TransportError):
            shop.bus.publish("orders.placed", 2)
        shop.bus.publish("orders.placed", 3)
        with pytest.raises(TransportError, match="connection still has the former file"):
            shop.publish(4, connection)


# --- alongside the bus ---------------------------------------------------------------------------------------------------


def test_a_handlers_own_transaction_takes_no_second_one(shop: Shop) -> None:
    """The connection that it has is fine, and a second one is refused, since each would wait for the other."""
    said: list[str] = []

    def bill(message: Message[Any], delivery: Delivery) -> None:
        with delivery.transaction() as connection:
            shop.publish("billed", connection)
            with pytest.raises(LifecycleError, match="a second transaction") as caught:
                shop.publish("again", shop.connect(check_same_thread=False))
            said.append(str(caught.value))

    shop.bus.subscribe("bills", bill, name="bills")
    with shop.bus:
        shop.bus.publish("bills")
        assert (shop.kept(), len(said)) == (["billed"], 1)


def test_the_bus_waits_for_a_long_transaction(shop: Shop) -> None:
    """A publish, a claim and an acknowledgement come after it, and none of them fails."""
    with shop.bus, shop.connect(check_same_thread=False) as connection:
        shop.publish("within", connection)
        outcomes: list[Any] = []
        threads = [
            threading.Thread(target=lambda number=number: outcomes.append(shop.bus.publish("orders.placed", number)))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        keeper: Any = engine_of(shop.bus).transport.file.lock  # type: ignore[attr-defined]
        wait_until(lambda: keeper._turn.acquire(blocking=False) is False or keeper._turn.release(), "a writer waits for it")
        assert outcomes == []
        connection.commit()
        for thread in threads:
            thread.join(WAIT)
        assert outcomes == [Receipt(1)] * 4
        assert sorted(map(str, shop.kept())) == ["0", "1", "2", "3", "within"]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
@pytest.mark.thorough
def test_many_threads_publish_within_their_own_connections(shop: Shop, begin: str) -> None:
    """Alongside publishes of the bus. Nothing is lost or doubled, and messages are numbered in the order of their commits."""
    committed: list[str] = []
    errors: list[BaseException] = []

    def customer(name: int) -> None:
        try:
            with closing(sqlite3.connect(shop.path, timeout=30, isolation_level=None)) as connection:
                for number in range(50):
                    connection.execute(begin)
                    shop.publish(f"{name}-{number}", connection)
                    if number % 5:
                        committed.append(f"{name}-{number}")  # in the order of commits, since only one can be here
                        connection.execute("COMMIT")
                    else:
                        connection.execute("ROLLBACK")
        except BaseException as error:
            errors.append(error)

    def others() -> None:
        for number in range(200):
            shop.bus.publish("orders.others", f"bus-{number}")

    with shop.bus:
        threads = [*(threading.Thread(target=customer, args=(name,)) for name in range(4)), threading.Thread(target=others)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        got = shop.kept()
        numbered = [id for (id,) in shop.rows("SELECT data ->> 'data' FROM message ORDER BY seq")]
    assert errors == []
    assert sorted(got) == sorted([*committed, *(f"bus-{number}" for number in range(200))])
    assert [one for one in numbered if not one.startswith("bus")] == committed


def test_the_log_is_not_moved_while_the_application_writes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite has the WAL-reset bug, a checkpoint alongside a commit could lose pages. So it is made another time."""
    monkeypatch.setattr(commits, "PATIENCE", 0.01)
    monkeypatch.setattr(schema, "FIXED", (99,))
    with shop.bus, shop.connect() as connection:
        shop.bus.publish("orders.placed", 1)
        shop.kept()
        writer: Any = engine_of(shop.bus).transport.file.commits  # type: ignore[attr-defined]
        shop.publish(2, connection)
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert (writer.checkpoint(), writer._ill, writer.file.place.written) == (set(), False, False)
        connection.commit()
        assert shop.kept() == [1, 2]
        writer.checkpoint()
        assert writer.file.place.written


@pytest.mark.thorough
def test_commits_of_the_application_do_not_look_like_a_log_that_was_cut(tmp_path: Path) -> None:
    """It writes without the bus's lock, so the log and its index change while the bus compares them."""
    path = tmp_path / "bus.db"
    found: list[Any] = []
    done = threading.Event()
    switch = sys.getswitchinterval()
    with Bus(f"sqlite:///{path}?durability=process") as bus, closing(sqlite3.connect(path, isolation_level=None)) as database:
        place = engine_of(bus).transport.file.place
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("CREATE TABLE page (text)")

        def look() -> None:
            while not done.is_set():
                found.append(place.changed())

        threads = [threading.Thread(target=look) for _ in range(3)]
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for _ in range(2000):
                database.execute("INSERT INTO page VALUES (?)", ("x" * 5000,))
        finally:
            done.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(switch)
    assert set(found) == {None}


def test_a_publish_outside_of_an_open_transaction_waits_once(tmp_path: Path) -> None:
    """However many jobs are in line with it: the error comes after `wait`, not after as many times that."""
    path = tmp_path / "bus.db"
    with Bus(f"sqlite:///{path}?wait=1s") as bus, closing(sqlite3.connect(path, isolation_level=None)) as database:
        bus.subscribe("a", lambda message: None, name="s")
        writer, waits = engine_of(bus).transport.file.writer, []
        database.execute("BEGIN IMMEDIATE")
        rounds = writer.rounds

        def publish() -> None:
            with pytest.raises(TransportError, match="end its transaction, or publish within it"):
                bus.publish("a", "x")
            waits.append(writer.rounds - rounds)

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        database.execute("ROLLBACK")
    assert len(waits) == 4
    assert max(waits) <= 3
