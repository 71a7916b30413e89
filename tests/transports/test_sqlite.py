"""What only SQLite promises: transactions, retention, one key at a time, options, migration. The rest is the contract's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import wait_until
from pipebus import Actor, Bus, Delivery, Dropped, Message, Receipt, UnsupportedCapability, transform
from pipebus.bus.bus import engine_of
from pipebus.errors import AlreadySettled, BusClosed, DeadLetterError, LifecycleError, ReceiveTimeout, TransportError
from pipebus.filters import Dedupe, Redeliver
from pipebus.transports.sql import owners, retention
from pipebus.transports.sqlite import boot, schema, writer
from pipebus.transports.sqlite.commits import Job
from pipebus.transports.sqlite.options import Options
from tables import table

WAIT = 10.0


class Place:
    """A file, and the buses on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buses: list[Bus] = []

    def bus(self, options: str = "", **more: Any) -> Bus:
        bus = Bus(f"sqlite:///{self.path}{options}", **more)
        self.buses.append(bus)
        return bus

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "bus.db")
    yield place
    for bus in place.buses:
        bus.stop(timeout=1.0, drain=False)


def figures(bus: Bus, name: str = "s") -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["subscriptions"][name]
    return found


# --- a handler's own transaction ---------------------------------------------------------------------------------------


def bills(place: Place, handle: Callable[..., Any], **options: Any) -> Bus:
    """A bus whose handler "s" on "order" writes bills, and whose "done" hears what it publishes."""
    bus = place.bus()
    with bus:
        pass
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bill (number)")
        connection.commit()
    bus.subscribe("order", handle, name="s", **options)
    bus.subscribe("billed", lambda message: None, name="done")
    return bus


def test_writes_publishes_and_the_acknowledgement_commit_together(place: Place) -> None:
    """Nobody sees any of it before the block ends; afterwards all of it is there."""
    before: list[Any] = []

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction() as connection:
            connection.execute("INSERT INTO bill VALUES (?)", (message.body,))
            bus.publish("billed", message.body)
            before.append((place.rows("SELECT * FROM bill"), place.rows("SELECT * FROM claimed")))
        after.append((place.rows("SELECT * FROM bill"), delivery.settled))

    after: list[Any] = []
    bus = bills(place, handle)
    with bus:
        bus.publish("order", 7)
        bus.drain(timeout=WAIT)
        assert (before[0][0], len(before[0][1])) == ([], 1)
        assert after == [([(7,)], True)]
        assert (figures(bus)["acknowledged"], figures(bus, "done")["acknowledged"]) == (1, 1)


def test_it_is_refused_where_returned_values_are_published(place: Place) -> None:
    """They would be published after the commit, and lost by a kill in between. A reply is not: its requester asks again."""

    def handle(message: Message, delivery: Delivery) -> int:
        with delivery.transaction() as connection:
            connection.execute("INSERT INTO bill VALUES (?)", (message.body,))
        return 2 * int(message.body)

    bus = bills(place, handle)
    bus.subscribe("order.passed_on", handle, name="passes", to="billed")
    with bus:
        assert bus.request("order", 7, timeout=WAIT).body == 14
        bus.publish("order.passed_on", 8)
        bus.drain(timeout=WAIT)
        [letter] = bus.dead_letters.list()
        assert "passes publishes what its handler returns to 'billed'" in letter.error
        assert "publish it inside the block" in letter.error
        assert place.rows("SELECT * FROM bill") == [(7,)]


def test_an_error_undoes_all_of_it(place: Place) -> None:
    """The row, the publish and the acknowledgement are undone; the delivery is then settled by its error."""

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction() as connection:
            connection.execute("INSERT INTO bill VALUES (1)")
            bus.publish("billed", 1)
            raise ValueError("no")

    bus = bills(place, handle)
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
        assert place.rows("SELECT * FROM bill") == []
        assert (figures(bus)["dead"], figures(bus, "done")["accepted"]) == (1, 0)


def test_redelivered_it_is_done_once(place: Place) -> None:
    """A handler that fails after its writes has them undone and does them again, so the effect is there once."""

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction() as connection:
            connection.execute("INSERT INTO bill VALUES (?)", (delivery.attempt,))
            if delivery.attempt < 3:
                raise ConnectionError

    bus = bills(place, handle, filters=[Redeliver(wait=0.0)])
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
        assert place.rows("SELECT * FROM bill") == [(3,)]


def test_who_has_lost_the_delivery_commits_nothing(place: Place) -> None:
    """The lease ended and another process has the delivery: the fence in the same transaction refuses the commit."""
    errors: list[str] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt > 1:
            return
        with closing(sqlite3.connect(place.path)) as connection, connection:  # as another process would
            connection.execute("INSERT INTO ready SELECT sub, seq, takings + 1, key, 1 FROM claimed")
            connection.execute("DELETE FROM claimed")
        try:
            with delivery.transaction() as connection:
                connection.execute("INSERT INTO bill VALUES (1)")
        except TransportError as error:
            errors.append(str(error))
            raise

    bus = bills(place, handle)
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
        assert "lease had ended and others have it now; nothing of the transaction was kept" in errors[0]
        assert place.rows("SELECT * FROM bill") == []
        assert (figures(bus)["acknowledged"], figures(bus)["dead"]) == (1, 0)


def with_it(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("INSERT INTO bill VALUES (2)")


ENDS: dict[str, Callable[[sqlite3.Connection], object]] = {
    "COMMIT": lambda connection: connection.execute("COMMIT"),
    "ROLLBACK": lambda connection: connection.execute("ROLLBACK"),
    "commit": lambda connection: connection.commit(),
    "with": with_it,
    "executescript": lambda connection: connection.executescript("INSERT INTO bill VALUES (2)"),
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_with_its_block_and_not_before(place: Place, end: str) -> None:
    """What would end it earlier fails with a text that says who commits, and nothing is kept."""

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction() as connection:
            connection.execute("INSERT INTO bill VALUES (1)")
            ENDS[end](connection)

    bus = bills(place, handle)
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
        assert "LifecycleError: the bus commits at the end of the block" in letter.error
        assert place.rows("SELECT * FROM bill") == []


def test_a_transaction_that_sqlite_has_rolled_back_keeps_nothing(place: Place) -> None:
    """Code that catches the error is no longer in a transaction, so nothing that follows may be kept by itself."""

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction() as connection:
            connection.execute("CREATE TABLE one (x UNIQUE)")
            connection.execute("INSERT INTO one VALUES (1)")
            with suppress(sqlite3.IntegrityError):
                connection.execute("INSERT OR ROLLBACK INTO one VALUES (1)")
            with suppress(TransportError):
                bus.publish("billed", 1)

    bus = bills(place, handle)
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
        assert "SQLite has rolled this transaction back" in letter.error
        assert (figures(bus)["acknowledged"], figures(bus, "done")["accepted"]) == (0, 0)


def test_an_async_publish_chain_is_part_of_the_transaction(place: Place) -> None:
    """It runs on the bus's loop, while the handler's thread waits."""

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction():
            bus.publish("billed", message.body)
            if message.body == "bad":
                raise ValueError

    bus = bills(place, handle)

    @bus.use
    async def look(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    with bus:
        for body in ("good", "bad"):
            bus.publish("order", body)
        bus.drain(timeout=WAIT)
        assert figures(bus, "done")["acknowledged"] == 1


def test_a_settled_delivery_opens_none(place: Place) -> None:
    errors: list[BaseException] = []

    def handle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        try:
            with delivery.transaction():
                pass
        except AlreadySettled as error:
            errors.append(error)

    bus = bills(place, handle)
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
    assert len(errors) == 1


def test_the_mail_of_a_stopped_actor_waits_for_the_next_one_of_its_name(place: Place) -> None:
    """Nothing is dropped, and what comes while there is no such actor waits too."""

    class Worker(Actor):
        def __init__(self) -> None:
            super().__init__("worker")
            self.seen: list[int] = []

        def on_message(self, number: int) -> None:
            self.seen.append(number)
            if number == 0:
                self.stop()

    with place.bus() as bus:
        first = bus.spawn(Worker())
        for number in range(3):
            bus.publish("worker", number)
        wait_until(lambda: bus.stats()["subscriptions"] == {}, "it is stopped")
        bus.publish("worker", 3)
        assert bus.stats()["dropped"] == {}
        second = bus.spawn(Worker())
        bus.drain(timeout=WAIT)
        assert (first.seen + second.seen, figures(bus, "worker")["acknowledged"]) == ([0, 1, 2, 3], 4)


def test_on_an_event_loop_it_is_refused(place: Place) -> None:
    errors: list[BaseException] = []

    async def handle(message: Message, delivery: Delivery) -> None:
        try:
            with delivery.transaction():
                pass
        except LifecycleError as error:
            errors.append(error)

    bus = bills(place, handle)
    with bus:
        bus.publish("order")
        bus.drain(timeout=WAIT)
    assert "make the handler a plain `def`" in str(errors[0])


# --- order of keys -----------------------------------------------------------------------------------------------------


def test_of_one_key_one_is_out_at_a_time_in_all_processes(place: Place) -> None:
    """Two buses with many workers each: messages of a key never overlap, and come in order; different keys do overlap."""
    lock = threading.Lock()
    running: dict[str, int] = {}
    overlaps: list[str] = []
    seen: dict[str, list[int]] = {}
    met = threading.Event()

    def handle(message: Message) -> None:
        key = message.body["key"]
        with lock:
            running[key] = running.get(key, 0) + 1
            if running[key] > 1:
                overlaps.append(key)
            if len([k for k, count in running.items() if count]) > 1:
                met.set()
            seen.setdefault(key, []).append(message.body["n"])
        met.wait(WAIT)
        with lock:
            running[key] -= 1

    buses = [place.bus() for _ in range(2)]
    for bus in buses:
        bus.subscribe("a", handle, name="s", workers=4)
        bus.start()
    for n in range(10):
        for key in "xyz":
            buses[0].publish("a", {"key": key, "n": n}, key=key)
    for bus in buses:
        bus.drain(timeout=WAIT)
    buses[1].stop()
    buses[0].drain(timeout=WAIT)
    assert overlaps == []
    assert seen == {key: list(range(10)) for key in "xyz"}


def test_the_next_of_a_key_waits_for_one_that_was_given_back(place: Place) -> None:
    """Messages of one key keep their order, even when the first of them is retried after a delay."""
    seen: list[Any] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if message.body == 1 and delivery.attempt == 1:
            delivery.retry(delay=0.1)
        else:
            seen.append(message.body)

    bus = place.bus()
    bus.subscribe("a", handle, name="s", workers=2)
    done = threading.Event()
    bus.observe(lambda event: done.set() if len(seen) == 3 else None)
    with bus:
        bus.publish("a", 1, key="k")
        bus.publish("a", 2, key="k")
        bus.publish("a", "other", key="o")
        assert done.wait(WAIT)
    assert [body for body in seen if body != "other"] == [1, 2]


def test_a_hot_key_holds_nobody_else_up(place: Place) -> None:
    """However many messages wait behind one that was given back, other keys continue."""
    seen: list[Any] = []
    both = threading.Event()

    def handle(message: Message, delivery: Delivery) -> None:
        if message.key == "hot":
            delivery.retry(delay=3600.0)
            return
        seen.append(message.body)
        if len(seen) == 2:
            both.set()

    bus = place.bus("?durability=process")
    bus.subscribe("a", handle, name="s")
    with bus:
        for number in range(600):
            bus.publish("a", number, key="hot")
        bus.publish("a", "another key", key="cold")
        bus.publish("a", "no key")
        assert both.wait(WAIT)
        bus.stop(drain=False)
    assert seen == ["another key", "no key"]


# --- many at once, and what one of them does to the others -------------------------------------------------------------


def test_a_line_that_is_longer_than_a_transaction_is_written_in_several(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading thread's own job is done when it returns, and no caller gets a result before its job is done."""
    monkeypatch.setattr(writer, "BATCH", 2)
    seen: list[Any] = []
    bus = place.bus("?durability=process")
    bus.subscribe("a", lambda message: seen.append(message.body), name="s")

    def publish(first: int) -> None:
        for number in range(first, first + 20):
            assert bus.publish("a", number).mailboxes == 1

    async def main() -> None:
        async with bus:
            threads = [asyncio.to_thread(publish, 1000 * n) for n in range(4)]
            receipts = await asyncio.gather(*threads, *(bus.apublish("a", -number) for number in range(1, 101)))
            assert all(receipt.mailboxes == 1 for receipt in receipts[4:])
            await bus.adrain(timeout=WAIT)

    asyncio.run(main())
    assert sorted(seen) == sorted([*range(-100, 0), *(1000 * n + m for n in range(4) for m in range(20))])


def test_a_settlement_that_cannot_be_written_harms_no_other(place: Place) -> None:
    """A reason with half of a character is stored in escaped form, and all other settlements go through."""
    reasons = ["half \udcff", "fine"]

    @transform
    def refuse(message: Message) -> Message | Dropped:
        return Dropped(reasons[message.body]) if message.body < 2 else message

    bus = place.bus()
    bus.subscribe("a", lambda message: None, name="s", filters=[refuse])
    with bus:
        for number in range(4):
            bus.publish("a", number)
        bus.drain(timeout=WAIT)
        assert figures(bus)["dropped"] == {"fine": 1, "half \\udcff": 1}
        assert figures(bus)["acknowledged"] == 2


# --- what is kept, and for how long ------------------------------------------------------------------------------------


def sweep(bus: Bus) -> None:
    engine_of(bus).transport.file.write(retention.sweep)


def test_what_nobody_waits_for_goes_when_its_time_is_over(place: Place) -> None:
    """A message that somebody waits for never goes."""
    bus = place.bus("?window=0&retention=0")
    bus.subscribe("a", lambda message: None, name="s")
    waiting = bus.subscribe("b", name="reader")
    with bus:
        for subject in ("a", "b", "nobody"):
            bus.publish(subject, "x")
        bus.drain(timeout=WAIT)
        sweep(bus)
        assert place.rows("SELECT subject FROM message") == [("b",)]
        assert waiting.receive(timeout=WAIT).body == "x"
        engine_of(bus).transport.flush()
        sweep(bus)
        assert place.rows("SELECT subject FROM message") == []


def test_what_is_retained_can_be_read_from_the_beginning(place: Place) -> None:
    bus = place.bus("?retention=1h")
    with bus:
        for number in range(3):
            bus.publish("a", number)
        sweep(bus)
        every = bus.subscribe("a", name="all", deliver="all")
        last = bus.subscribe("a", name="last", deliver="last")
        assert [every.receive(timeout=WAIT).body for _ in range(3)] == [0, 1, 2]
        assert last.receive(timeout=WAIT).body == 2


def test_a_full_file_takes_no_more_and_loses_nothing(place: Place) -> None:
    """Waiting messages are not deleted, and when they are handled there is room again."""
    bus = place.bus("?max_bytes=1MiB&window=0")
    reader = bus.subscribe("a", name="s", mailbox=10)
    with bus:
        sent = 0
        told = ""
        while not told:
            try:
                bus.publish("a", "x" * 50_000)
                sent += 1
            except TransportError as error:
                told = str(error)
        assert "bus.db is full: " in told
        assert " max_bytes is 1,048,576; what waits in it is never deleted" in told
        assert 10 < sent < 25
        for _ in range(sent):
            assert len(reader.receive(timeout=WAIT).body) == 50_000
        engine_of(bus).transport.flush()
        assert bus.publish("a", "x" * 50_000)


def test_a_subscription_is_forgotten_only_when_asked(place: Place) -> None:
    """A name that nobody serves keeps what is for it, until it is removed."""
    bus = place.bus()
    bus.subscribe("a", lambda message: None, name="s")
    with bus, pytest.raises(TransportError, match="subscription s is in use"):
        engine_of(bus).transport.remove("s")
    bus = place.bus()
    with bus:
        assert bus.publish("a", 1).mailboxes == 1
        engine_of(bus).transport.remove("s")
        assert bus.publish("a", 1).mailboxes == 0
        with pytest.raises(TransportError, match="no subscription s"):
            engine_of(bus).transport.remove("s")


def test_replies_leave_nothing_behind(place: Place) -> None:
    bus = place.bus()
    bus.subscribe("echo", lambda message: message.body, name="echo")
    with bus:
        assert bus.request("echo", 1, timeout=WAIT).body == 1
        assert len(place.rows("SELECT name FROM subscription")) == 2
    assert place.rows("SELECT name FROM subscription") == [("echo",)]
    assert place.rows("SELECT * FROM owner") == []


def test_answers_reach_nobody_else(place: Place) -> None:
    """An answer does not even reach a subscription to everything, as in memory."""
    seen: list[str] = []
    bus = place.bus()
    bus.subscribe("echo", lambda message: message.body, name="echo")
    bus.subscribe(">", lambda message: seen.append(str(message.subject)), name="all")
    with bus:
        bus.request("echo", 1, timeout=WAIT)
        bus.drain(timeout=WAIT)
    assert seen == ["echo"]


def test_a_suspect_runs_alone_and_what_waited_beside_it_is_spared(place: Place) -> None:
    """What was out when its process ended comes one at a time in each process, whatever the workers; the others then follow."""
    running: list[Any] = []
    together: list[Any] = []
    lock = threading.Lock()

    def handle(message: Message, delivery: Delivery) -> None:
        with lock:
            running.append(delivery.attempt)
            if delivery.attempt > 1 and running.count(2) > 1:
                together.append(message.body)
        threading.Event().wait(0.005)
        with lock:
            running.remove(delivery.attempt)

    bus = place.bus()
    reader = bus.subscribe("a", name="s", mailbox=6)
    with bus:
        for number in range(12):
            bus.publish("a", number)
        with suppress(BusClosed), reader.delivery(timeout=WAIT):
            with closing(sqlite3.connect(place.path)) as connection, connection:
                connection.execute("INSERT INTO ready SELECT sub, seq, takings + 1, key, 1 FROM claimed")
                connection.execute("DELETE FROM claimed")
            bus.stop(drain=False)
    bus = place.bus()
    bus.subscribe("a", handle, name="s", workers=4)
    with bus:
        bus.drain(timeout=WAIT)
        assert figures(bus)["acknowledged"] == 12
    assert together == []


# --- what others do to the file ----------------------------------------------------------------------------------------


def test_requests_work_after_a_lease_was_lost(place: Place) -> None:
    """The subscription for this process's replies is made again."""
    bus = place.bus("?lease=300ms")
    bus.subscribe("echo", lambda message: message.body, name="echo")
    with bus:
        assert bus.request("echo", 1, timeout=WAIT).body == 1
        lose_lease(bus)
        assert bus.request("echo", 2, timeout=WAIT).body == 2


def test_what_is_held_while_the_lease_is_lost_is_still_ours_if_nobody_took_it(place: Place) -> None:
    """After a laptop slept, the handler continues, and its acknowledgement counts."""
    go, begun = threading.Event(), threading.Event()
    runs: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        begun.set()
        assert go.wait(WAIT)

    bus = place.bus("?lease=300ms")
    bus.subscribe("a", handle, name="s")
    with bus:
        bus.publish("a")
        assert begun.wait(WAIT)
        lose_lease(bus)
        go.set()
        bus.drain(timeout=WAIT)
        assert figures(bus)["acknowledged"] == 1
    assert runs == [1]


@pytest.mark.thorough
def test_a_subscription_that_somebody_removed_is_made_again(place: Place) -> None:
    """The subscription does not stay idle in silence: messages that are published from then on arrive."""
    bus = place.bus()
    reader = bus.subscribe("a", name="s")
    with bus:
        engine_of(place.bus()).transport.remove("s")
        while not bus.publish("a", "x").mailboxes:
            threading.Event().wait(0.01)
        assert reader.receive(timeout=WAIT).body == "x"


def test_delayed_messages_are_not_early_for_late_subscribers(place: Place) -> None:
    bus = place.bus("?retention=1h")
    with bus:
        bus.publish("a", "later", delay=3600.0)
        bus.publish("a", "now")
        reader = bus.subscribe("a", name="s", deliver="all")
        assert reader.receive(timeout=WAIT).body == "now"
        with pytest.raises(ReceiveTimeout):
            reader.receive(timeout=0.05)
        assert figures(bus)["pending"] == 1


# --- subscriptions without a name ----------------------------------------------------------------------------------------


def kept_names(place: Place) -> list[str]:
    """The subscriptions in the file, as the bus calls them."""
    return [name.partition(" of ")[0] for (name,) in place.rows("SELECT name FROM subscription ORDER BY sub")]


def lose_lease(bus: Bus) -> None:
    """Have another process take this one for dead, and wait until it notices."""
    keeper = engine_of(bus).transport._keeper
    owner = keeper.owner
    engine_of(bus).transport.file.write(lambda store: owners.leave(store, owner, counts=True))
    wait_until(lambda: keeper.owner != owner, "it is another owner")


def test_an_unnamed_subscription_is_in_the_file_as_long_as_it_lives(place: Place) -> None:
    """It counts in the file, beyond what its mailbox holds. A stop reports what waits for it, because that is gone then."""
    with place.bus() as bus:
        with bus.subscribe("a", mailbox=2) as reader:
            for number in range(5):
                assert bus.publish("a", number) == Receipt(1)
            assert (reader.stats()["accepted"], reader.stats()["pending"]) == (5, 5)
            assert (reader.receive(timeout=WAIT).body, kept_names(place)) == (0, [reader.name])
        assert bus.publish("a", 5) == Receipt(0)
        assert kept_names(place) == []
        handled: list[int] = []
        sub = bus.subscribe("a", handled.append)
        sub.pause()
        for number in range(5):
            bus.publish("a", number)
        report = bus.stop()
        assert (report.drained, report.left, handled) == (False, {sub.name: 5}, [])
        assert place.rows("SELECT * FROM subscription") == place.rows("SELECT * FROM ready") == []


def test_a_handler_may_end_its_unnamed_subscription(place: Place) -> None:
    """It gets nothing more, its own message is settled as its end says, and then nothing is left of it but the letter."""
    subs: list[Any] = []

    def handle(message: Message, bus: Bus) -> None:
        subs.pop().unsubscribe()
        assert bus.publish("a", "to nobody") == Receipt(0)
        raise ValueError("after its end")

    with place.bus() as bus:
        subs.append(bus.subscribe("a", handle))
        name = subs[0].name
        bus.publish("a", "last")
        wait_until(lambda: len(bus.dead_letters), "the letter is kept")
        (letter,) = bus.dead_letters.list(name)
        assert (letter.subscription, letter.message.body, letter.error) == (name, "last", "ValueError: after its end")
        wait_until(lambda: kept_names(place) == [], "the subscription is removed")
        with pytest.raises(DeadLetterError, match=f"its subscription {name} is gone; it stays"):
            bus.dead_letters.replay(letter)


def test_a_dead_letter_of_an_unnamed_subscription_is_replayed_while_it_lives(place: Place) -> None:
    failures = [ValueError("once")]
    handled: list[Any] = []

    def handle(message: Message) -> None:
        if failures:
            raise failures.pop()
        handled.append(message.body)

    with place.bus() as bus:
        sub = bus.subscribe("a", handle)
        bus.publish("a", 1)
        wait_until(lambda: len(bus.dead_letters), "it is dead")
        (letter,) = bus.dead_letters.list(sub.name)
        bus.dead_letters.replay(letter)
        wait_until(lambda: handled == [1], "it is handled")
        assert sub.stats()["dead"] == 0


def test_an_unnamed_subscription_is_made_again_after_a_lost_lease(place: Place) -> None:
    """It is gone with the lease, and with the lease's end it is there again; what waited for it is not lost."""
    bus = place.bus("?lease=300ms")
    reader = bus.subscribe("a", mailbox=2)
    with bus:
        for number in range(5):
            bus.publish("a", number)
        assert reader.receive(timeout=WAIT).body == 0
        bound = engine_of(bus).transport._keeper.bindings.get(reader.name)
        wait_until(lambda: bound.seen, "the keeper has looked at it")
        lose_lease(bus)
        wait_until(lambda: kept_names(place) == [reader.name], "it is made again")
        bus.publish("a", 5)
        assert [reader.receive(timeout=WAIT).body for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("cycles", [20, pytest.param(500, marks=pytest.mark.thorough)])
def test_unnamed_subscriptions_come_and_go_under_load(place: Place, cycles: int) -> None:
    """Whatever is under way when one ends: each delivery is settled before its subscription is removed, and all are removed."""
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            bus.publish("a")

    def handle(message: Message, bus: Bus) -> None:
        if ending:
            ending.pop().unsubscribe()

    ending: list[Any] = []
    with place.bus("?durability=process") as bus:
        publishers = [threading.Thread(target=publish) for _ in range(2)]
        for publisher in publishers:
            publisher.start()
        try:
            for number in range(cycles):
                with bus.subscribe("a", mailbox=1 + number % 7) as reader:
                    for _ in range(number % 4):
                        reader.receive(timeout=WAIT)
                bus.subscribe("a", lambda message: None, workers=2).unsubscribe()
                own = bus.subscribe("a", handle)
                ending.append(own)
                wait_until(lambda own=own: own not in bus.subscriptions, "its handler has ended it")
        finally:
            over.set()
            for publisher in publishers:
                publisher.join()
        wait_until(lambda: kept_names(place) == [], "all are removed")
        assert engine_of(bus).transport.file.commits.stale == 0


# --- what filters remember ---------------------------------------------------------------------------------------------


def test_a_durable_dedupe_forgets_when_its_time_is_over(place: Place) -> None:
    seen: list[Any] = []
    for _ in range(2):
        bus = place.bus("?window=0")
        bus.subscribe("a", lambda message: seen.append(message.body), name="s", filters=[Dedupe(durable=True, window=0.001)])
        with bus:
            bus.publish("a", "x", id="same")
            bus.drain(timeout=WAIT)
        while engine_of(bus).transport.seen("s", "str:'same'"):
            pass
    assert seen == ["x", "x"]


@pytest.mark.parametrize("durable", [True, False])
def test_what_a_transaction_takes_back_was_not_published(place: Place, durable: bool) -> None:
    """A Dedupe in front of the file forgets it too, so a second publish arrives."""
    seen: list[Any] = []

    def handle(message: Message, delivery: Delivery) -> None:
        with delivery.transaction():
            assert bus.publish("billed", delivery.attempt, id="bill-7")
            if delivery.attempt == 1:
                raise ConnectionError

    bus = place.bus("?window=0")
    bus.use(Dedupe(durable=durable))
    bus.subscribe("order", handle, name="s", filters=[Redeliver(wait=0.0)])
    bus.subscribe("billed", lambda message: seen.append(message.body), name="done")
    with bus:
        bus.publish("order", id="order-7")
        bus.drain(timeout=WAIT)
        assert figures(bus)["acknowledged"] == 1
    assert seen == [2]


def test_a_key_that_no_store_can_keep_is_told(place: Place) -> None:
    bus = place.bus()
    bus.subscribe("a", lambda message: None, name="s", filters=[Dedupe(key=lambda message: frozenset("x"), durable=True)])
    with bus:
        bus.publish("a")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
    assert "a key is text, bytes, a number, or a tuple of these, found frozenset" in letter.error


# --- asking for what it cannot do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["reject", "drop_newest", "drop_oldest"])
def test_overflow_rules_are_for_memory(place: Place, overflow: Any) -> None:
    bus = place.bus()
    with bus, pytest.raises(UnsupportedCapability, match=f'overflow="{overflow}" is for mailboxes in memory'):
        bus.subscribe("a", lambda message: None, name="s", overflow=overflow)


def test_publish_on_a_running_loop_names_its_twin(place: Place) -> None:
    async def main() -> None:
        async with place.bus() as bus:
            with pytest.raises(LifecycleError, match=r"await bus\.apublish"):
                bus.publish("a")
            assert (await bus.apublish("a")).mailboxes == 0

    asyncio.run(main())


@table(
    ("url", "text"),
    [
        ("sqlite:", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite://host/bus.db", '"host" is where a host would be, and a file has none'),
        ("sqlite:///bus.db?leese=1s", 'option "leese" is unknown; there are durability, lease'),
        ("sqlite:///bus.db?lease=1s&lease=2s", 'option "lease" is given twice'),
        ("sqlite:///bus.db?lease=0", "lease=0: it is at least 0.1 seconds"),
        ("sqlite:///bus.db?lease=soon", "lease='soon'"),
        ("sqlite:///bus.db?durability=none", 'it is "power" or "process"'),
        ("sqlite:///bus.db?max_bytes=1kB", "at least 1048576"),
        ("sqlite:///bus.db#x", '"#x" has no meaning'),
    ],
)
def test_a_bad_url_is_told_when_the_bus_is_made(url: str, text: str) -> None:
    with pytest.raises(UnsupportedCapability, match="the form is") as caught:
        Bus(url)
    assert text in str(caught.value)


def test_a_url_has_units(tmp_path: Path) -> None:
    options = Options.from_url(
        f"sqlite:///{tmp_path}/a%20b.db?lease=500ms&window=60&retention=7d&max_bytes=1GiB&durability=process"
    )
    assert options == Options(f"{tmp_path}/a b.db", "process", 0.5, 60.0, 604_800.0, 2**30)


# --- versions of the file ----------------------------------------------------------------------------------------------


def test_an_older_file_is_brought_up_to_date(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is done once, and the old contents are still there."""
    bus = place.bus()
    bus.subscribe("a", name="s")
    with bus:
        bus.publish("a", "kept")
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, "CREATE TABLE newer (x); INSERT INTO newer VALUES (1);"))
    for _ in range(2):
        bus = place.bus()
        reader = bus.subscribe("a", name="s")
        bus.start()
        bus.stop()
    assert place.rows("SELECT * FROM newer") == [(1,)]
    assert place.rows("PRAGMA user_version") == [(len(schema.STEPS),)]
    with bus:
        assert reader.receive(timeout=WAIT).body == "kept"


def test_a_step_that_fails_leaves_the_file_as_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.bus():
        pass
    before = len(schema.STEPS)
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, "CREATE TABLE newer (x); INSERT INTO nowhere VALUES (1);"))
    with pytest.raises(TransportError, match="no such table"):
        place.bus().start()
    assert place.rows("SELECT count(*) FROM sqlite_schema WHERE name = 'newer'") == [(0,)]
    assert place.rows("PRAGMA user_version") == [(before,)]


def test_looking_makes_no_file(place: Place) -> None:
    bus = place.bus()
    bus.subscribe("a", lambda message: None, name="s")
    assert figures(bus)["accepted"] == 0
    assert list(bus.dead_letters) == []
    assert not place.path.exists()


# --- readers -----------------------------------------------------------------------------------------------------------


def test_a_subscription_that_nobody_reads_leaves_its_messages_to_other_programs(place: Place) -> None:
    """A program may make a subscription for the readers of another one."""
    with place.bus() as maker:
        maker.subscribe("questions", name="person")
        maker.publish("questions", 1)
        maker.drain(WAIT)
        with place.bus() as other:
            assert other.subscribe("questions", name="person").receive(timeout=WAIT).body == 1


# --- a lost lease --------------------------------------------------------------------------------------------------------


def test_what_others_have_by_now_is_not_begun(place: Place) -> None:
    """The lease ended while the handler was busy, and another process has what waits in the mailbox."""
    began, go_on, got = threading.Event(), threading.Event(), []

    def handle(message: Message) -> None:
        got.append(message.body)
        began.set()
        assert go_on.wait(WAIT)

    bus = place.bus()
    bus.subscribe("a", handle, name="s", workers=1, mailbox=4)
    with bus:
        transport = engine_of(bus).transport
        before = transport._keeper.owner
        for number in range(4):
            bus.publish("a", number)
        assert began.wait(WAIT)
        wait_until(lambda: len(place.rows("SELECT * FROM claimed")) > 1, "more than one claim")
        with closing(sqlite3.connect(place.path)) as other:
            other.execute("UPDATE claimed SET owner = 999, takings = takings + 1")
            other.execute("INSERT INTO owner VALUES (999, ?, ?, ?, ?, 1e12, 2)", boot.me())
            other.execute("DELETE FROM owner WHERE owner = ?", (before,))
            other.commit()
        held = len(place.rows("SELECT * FROM claimed WHERE owner = 999"))
        bus.publish("b")  # the keeper looks into the file
        wait_until(lambda: transport._keeper.owner != before, "a new lease")
        go_on.set()
        bus.subscribe("b", name="t")
        wait_until(lambda: len(got) == 1 + 4 - held, "the messages that nobody else has")
        wait_until(lambda: not transport._keeper.bindings.get("s").out, "nothing is out")
        assert got == [0, *range(held, 4)]


def test_a_finaliser_may_leave_a_job_while_the_leader_looks_for_the_next_one(place: Place) -> None:
    """It runs in the leader's thread, which has the lock of the line, and the line grows under its hands."""

    class Watched(Job):
        """What a leader looks at when it looks for its successor."""

        @property
        def gate(self) -> None:
            if not found and engine_of(bus).transport.file.writer._lock._is_owned():
                found.append(True)
                engine_of(bus).transport.file.writer.leave([Job(lambda store: found.append("carried out"), False)])

        @gate.setter
        def gate(self, value: Any) -> None:
            return None

    found: list[Any] = []
    bus = place.bus()
    with bus:
        writer = engine_of(bus).transport.file.writer

        def lead(store: Any) -> None:
            writer.leave([Watched(None, False)], ring=False)

        writer.call(lead)
        wait_until(lambda: "carried out" in found, "the job of the finaliser")
        bus.publish("a")
