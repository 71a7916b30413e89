"""
Scenarios for the scheduler: small dramas on a real bus. Each ends with a check of what its user was promised.

If nothing takes time, no time may pass: if it does, somebody was not woken, and a time-out hid that (`no_time`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from exploring import left_behind, tasks

from flow_helpers import assert_conserved
from pipebus import Bus, BusClosed, Delivery, Dropped, MailboxFull, Message, ReceiveTimeout, StopReport, Subscription
from pipebus.bus.bus import engine_of
from pipebus.running import worker as workers_of
from pipebus.running.pool import Pool
from pipebus.testing.simulation.scheduler import Simulation


class Record:
    """A handler that records its messages, and checks that no two calls overlap where that is not allowed."""

    def __init__(self, sim: Simulation, workers: int = 1, then: Callable[[Message], object] | None = None) -> None:
        self.sim = sim
        self.workers = workers
        self.then = then
        self.given: list[Any] = []
        self.inside: list[str | None] = []  # the keys that are being handled

    @property
    def handler(self) -> Callable[[Message], Any]:
        return self

    def __call__(self, message: Message) -> None:
        self.begin(message)
        self.sim.step()
        if self.then is not None:
            self.then(message)
        self.sim.step()
        self.end(message)

    def begin(self, message: Message) -> None:
        sim = self.sim
        sim.check(
            len(self.inside) < self.workers, f"{len(self.inside) + 1} at a time in a handler with {self.workers} worker(s)"
        )
        sim.check(message.key is None or message.key not in self.inside, f"two messages of key {message.key} at a time")
        self.inside.append(message.key)
        self.given.append(message.body)
        sim.say(f"handles {message.body}")

    def end(self, message: Message) -> None:
        self.inside.remove(message.key)

    def of(self, publisher: object) -> list[int]:
        return [number for who, number in self.given if who == publisher]


class Publisher:
    """Publishes `(name, 0)`, `(name, 1)` and so on, and records what was accepted, and what was refused and why."""

    def __init__(self, sim: Simulation, bus: Bus, name: str, count: int, subject: str = "s", **options: Any) -> None:
        self.sim, self.bus, self.name, self.count, self.subject, self.options = sim, bus, name, count, subject, options
        self.accepted: list[int] = []
        self.unheard: list[int] = []  # numbers whose receipt has no mailbox
        self.refused: dict[int, str] = {}
        sim.spawn(self.run, name=f"publisher {name}")

    def run(self) -> None:
        for number in range(self.count):
            options = {name: made(number) if callable(made) else made for name, made in self.options.items()}
            self.sim.say(f"publishes {number}")
            try:
                receipt = self.bus.publish(self.subject, (self.name, number), **options)
            except (MailboxFull, BusClosed) as error:
                self.refused[number] = type(error).__name__
            else:
                assert not isinstance(receipt, Dropped)
                (self.accepted if receipt.mailboxes else self.unheard).append(number)


@contextmanager
def bus_of(sim: Simulation, *filters: Any, **options: Any) -> Iterator[Bus]:
    """A started bus; at the end it is stopped, no thread is left behind, and the figures add up."""
    bus = Bus(clock=sim.clock, **{"pool": 3} | options)
    for filter in filters:
        bus.use(filter)
    bus.start()
    yield bus
    sim.join()
    subscriptions = bus.subscriptions
    sim.hasty = 0.0  # the races against time-outs are over, and a stop's own is not one of them
    bus.stop(timeout=60)
    at_rest(sim, bus, subscriptions)


def at_rest(sim: Simulation, bus: Bus, subscriptions: Iterable[Subscription] = ()) -> None:
    """Check that a stopped bus has left nothing behind."""
    assert left_behind(sim) == []
    assert not engine_of(bus).claims.live, f"{len(engine_of(bus).claims.live)} mailboxes are claimed, and nobody works"
    assert not engine_of(bus).pool.ready
    assert not engine_of(bus).pool.workers
    assert engine_of(bus).loops._crew is None
    assert all(loop.is_closed() for loop in sim.loops), "a loop was not ended"
    for subscription in subscriptions:
        assert subscription.stats()["in_flight"] == 0
        assert_conserved(subscription)


def no_time(sim: Simulation) -> None:
    assert sim.elapsed == 0, f"{sim.elapsed:g} s passed where nothing takes time: somebody was not woken, but timed out"


def all_of(record: Record, *publishers: Publisher, in_order: bool = True) -> None:
    """Check that every accepted message was handled once, in its publisher's order."""
    for publisher in publishers:
        found = record.of(publisher.name)
        expected = publisher.accepted
        assert (found if in_order else sorted(found)) == expected, f"{publisher.name}: accepted {expected}, handled {found}"


@contextmanager
def set_to(owner: Any, **values: Any) -> Iterator[None]:
    """Set constants to small values, so that few messages reach a state that otherwise takes many."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# --- one worker --------------------------------------------------------------------------------------------------------


def two_publishers(sim: Simulation) -> None:
    """Two publishers and one worker: each message is handled once, in its publisher's order."""
    record = Record(sim)
    with bus_of(sim) as bus:
        bus.subscribe("s", record)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
    all_of(record, *publishers)
    no_time(sim)


def draining(sim: Simulation) -> None:
    """When `drain` returns, everything that was accepted before it has been handled."""
    record = Record(sim)
    with bus_of(sim) as bus:
        bus.subscribe("s", record)
        other = Publisher(sim, bus, "other", 2)
        for number in range(3):
            bus.publish("s", ("main", number))
            if number % 2 == 0:
                bus.drain(timeout=10)
                assert record.of("main") == list(range(number + 1))
    all_of(record, other)
    no_time(sim)


def looking(sim: Simulation) -> None:
    """A thread looks at the figures while messages come and go: they add up at each look."""
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", lambda message: None)
        publisher = Publisher(sim, bus, "a", 4)

        def look() -> None:
            for _ in range(4):
                assert_conserved(subscription)

        sim.spawn(look)
        sim.join()
        bus.drain(timeout=10)
        assert_conserved(subscription, accepted=len(publisher.accepted))
    no_time(sim)


def pausing(sim: Simulation) -> None:
    """A subscription is paused and resumed while messages come: nothing is lost."""
    record = Record(sim)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]

        def pauser() -> None:
            for _ in range(2):
                subscription.pause()
                sim.step()
                subscription.resume()

        sim.spawn(pauser)
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers)
    no_time(sim)


def paused(sim: Simulation, workers: int = 1) -> None:
    """After a pause, one more handler per worker may just have started, and then none starts."""
    record = Record(sim, workers)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record, workers=workers)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        sim.step()
        subscription.pause()
        handled = len(record.given)
        sim.join()
        sim.rest()
        assert len(record.given) <= handled + workers, f"{len(record.given) - handled} were started after the pause"
        subscription.resume()
        bus.drain(timeout=10)
        all_of(record, *publishers, in_order=workers == 1)
    no_time(sim)


def paused_workers(sim: Simulation) -> None:
    """Pausing with several workers."""
    paused(sim, workers=2)


def two_pausers(sim: Simulation) -> None:
    """Two threads pause and resume at any time: after the last resume the subscription runs."""
    record = Record(sim)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record)
        publisher = Publisher(sim, bus, "a", 3)

        def pauser() -> None:
            for _ in range(2):
                subscription.pause()
                subscription.resume()

        sim.spawn(pauser, name="pauser 1")
        sim.spawn(pauser, name="pauser 2")
        sim.join()
        bus.drain(timeout=10)
        all_of(record, publisher)
    no_time(sim)


def unsubscribing(sim: Simulation) -> None:
    """When `unsubscribe` returns, no handler runs or will run, and all accepted messages are handled or counted as dropped."""
    record = Record(sim)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]

        def unsubscriber() -> None:
            sim.step()
            subscription.unsubscribe()
            sim.say("has unsubscribed")
            handled = len(record.given)
            sim.check(not record.inside, "a handler runs although unsubscribe has returned")
            sim.join(*tasks(sim, "publisher"))
            sim.check(len(record.given) == handled, "a handler ran after unsubscribe had returned")

        sim.spawn(unsubscriber)
        sim.join()
    stats = subscription.stats()
    accepted = sum(len(publisher.accepted) for publisher in publishers)
    assert stats["acknowledged"] == len(record.given) == len(set(record.given))
    assert stats["pending"] == 0
    # A put that finds the mailbox closed takes its message back; one that is counted as dropped is accepted and counted.
    assert stats["accepted"] == accepted, f"{accepted} receipts, but {stats}"
    assert_conserved(subscription)
    at_rest(sim, bus)
    no_time(sim)


def small_mailbox(sim: Simulation) -> None:
    """Publishers wait for room in a full mailbox: each gets in when there is room, and the bound is kept."""
    record = Record(sim)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record, mailbox=1)
        bounded(sim, subscription, 1)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
    assert not any(publisher.refused for publisher in publishers)
    all_of(record, *publishers)
    no_time(sim)


def bounded(sim: Simulation, subscription: Subscription, size: int) -> None:
    def check() -> str | None:
        mailbox = subscription
        if mailbox.plan.claims.lock.locked():
            return None  # it is between two states
        held = mailbox.waiting() + mailbox.in_flight
        return f"{held} messages in a mailbox of {size}" if held > size else None

    sim.always(check)


def impatient_publishers(sim: Simulation) -> None:
    """If room and time-out come at the same moment, the message is in or its publisher gets the error, never both."""
    record = Record(sim)
    with bus_of(sim) as bus:
        bus.subscribe("s", record, mailbox=1, overflow_timeout=0.5)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
    for publisher in publishers:
        assert len(publisher.accepted) + len(publisher.refused) == publisher.count
    all_of(record, *publishers)


def drop_oldest(sim: Simulation) -> None:
    """A full mailbox drops its oldest message: each drop is counted, and the other messages keep their order."""
    record = Record(sim)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record, mailbox=2, overflow="drop_oldest")
        bounded(sim, subscription, 2)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        sim.join()
        bus.drain(timeout=10)
        stats = subscription.stats()
        assert stats["acknowledged"] + stats["dropped"].get("overflow", 0) == 6, stats
        assert len(record.given) == stats["acknowledged"]
        for publisher in publishers:
            assert record.of(publisher.name) == sorted(set(record.of(publisher.name)))
    no_time(sim)


def returning(sim: Simulation) -> None:
    """A message that is given back comes again until it is settled, and each message is acknowledged once."""
    record = Record(sim)

    def handler(message: Message, delivery: Delivery) -> None:
        record(message)
        if delivery.attempt == 1:
            delivery.retry()

    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", handler)
        publishers = [Publisher(sim, bus, name, 2) for name in "ab"]
        sim.join()
        bus.drain(timeout=10)
        assert Counter(record.given) == {(publisher.name, number): 2 for publisher in publishers for number in range(2)}
        assert subscription.stats()["acknowledged"] == 4
    no_time(sim)


def delayed(sim: Simulation, workers: int = 1) -> None:
    """Delayed messages become due while others are handled: `drain` waits for them too."""
    record = Record(sim, workers)
    with bus_of(sim) as bus:
        bus.subscribe("s", record, workers=workers)
        publishers = [
            Publisher(sim, bus, "now", 2),
            Publisher(sim, bus, "later", 3, delay=lambda number: 0.1 * (3 - number)),
        ]
        sim.join()
        bus.drain(timeout=10)
        all_of(record, publishers[0], in_order=workers == 1)
        all_of(record, publishers[1], in_order=False)
        assert sim.elapsed <= 0.3 + 1e-6


def delayed_with_workers(sim: Simulation) -> None:
    """Delayed messages with several workers."""
    delayed(sim, workers=2)


def taking_turns(sim: Simulation) -> None:
    """A busy mailbox goes to the end of the ready list when its slice is over: nothing is lost, and the order is kept."""
    records = {name: Record(sim) for name in "ab"}
    with set_to(workers_of, CHUNK=1), bus_of(sim, pool=1) as bus:
        for name, record in records.items():
            bus.subscribe(name, record)
        publishers = [Publisher(sim, bus, name, 4, subject=name) for name in "ab"]
        sim.join()
        bus.drain(timeout=60)
        for publisher in publishers:
            all_of(records[publisher.name], publisher)


def workers_taking_turns(sim: Simulation) -> None:
    """The same for a mailbox with two workers."""
    record = Record(sim, workers=2)
    with set_to(workers_of, CHUNK=1), bus_of(sim) as bus:
        bus.subscribe("s", record, workers=2)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        sim.join()
        bus.drain(timeout=60)
        all_of(record, *publishers, in_order=False)
    no_time(sim)


# --- several workers, and several mailboxes ----------------------------------------------------------------------------


def keyed(sim: Simulation) -> None:
    """Two workers and two keys: messages of one key keep their order, and no two of them are handled at once."""
    record = Record(sim, workers=2)
    with bus_of(sim) as bus:
        bus.subscribe("s", record, workers=2)
        publishers = [Publisher(sim, bus, name, 4, key=lambda number: "odd" if number % 2 else "even") for name in "ab"]
        sim.join()
        bus.drain(timeout=10)
        for publisher in publishers:
            found = record.of(publisher.name)
            assert sorted(found) == [0, 1, 2, 3], found
            assert [n for n in found if n % 2] == [1, 3], found
            assert [n for n in found if not n % 2] == [0, 2], found
    no_time(sim)


def keyed_and_paused(sim: Simulation) -> None:
    """The same in a mailbox that is soon full, and is paused and resumed meanwhile."""
    record = Record(sim, workers=2)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record, workers=2, mailbox=2)
        publishers = [Publisher(sim, bus, name, 3, key="k") for name in "ab"]

        def pauser() -> None:
            subscription.pause()
            sim.step()
            subscription.resume()

        sim.spawn(pauser)
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers)
    no_time(sim)


def together(sim: Simulation) -> None:
    """Two mailboxes and two workers: both handlers run at once, so one may wait for the other."""
    gate = sim.closed_gate()
    with bus_of(sim, pool=2) as bus:
        bus.subscribe("first", lambda message: gate.acquire())
        bus.subscribe("second", lambda message: gate.release())
        sim.spawn(bus.publish, "first", name="publisher 1")
        sim.spawn(bus.publish, "second", name="publisher 2")
    no_time(sim)


def three_together(sim: Simulation) -> None:
    """There are as many mailboxes as workers: each mailbox gets a worker, although the other handlers wait."""
    with bus_of(sim, pool=3) as bus:
        for _ in range(2):
            gates = [sim.closed_gate() for _ in range(2)]
            waits = [bus.subscribe(f"wait{n}", lambda message, gate=gate: gate.acquire()) for n, gate in enumerate(gates)]
            opens = bus.subscribe("open", lambda message, gates=gates: [gate.release() for gate in gates])
            tasks = [sim.spawn(bus.publish, subject, name=f"publisher {subject}") for subject in ("wait0", "open", "wait1")]
            sim.join(*tasks)
            bus.drain(timeout=10)
            for subscription in (*waits, opens):
                subscription.unsubscribe()
    no_time(sim)


class Errand:
    """A stand-in for a mailbox: a worker that takes it does one thing and leaves."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.begin = lambda worker: call()  # it gives None: there is nothing more to do


def errands(sim: Simulation) -> None:
    """The pool alone, with two workers: one errand makes another and waits for a third, and all of them are done."""
    gate = sim.closed_gate()
    pool = Pool(2, sim.clock, "pool", lambda ready, workers: None)
    pool.start()

    def submit(call: Callable[[], object]) -> None:
        pool.submit(Errand(call))  # type: ignore[arg-type]

    def wait() -> None:
        gate.acquire()

    sim.spawn(submit, lambda: submit(wait), name="first")
    sim.spawn(submit, gate.release, name="second")
    sim.join()
    sim.rest()
    assert not pool.ready, "an errand waits for a worker, and a worker sleeps"
    pool.stop(None)
    assert left_behind(sim) == []
    no_time(sim)


def substitute(sim: Simulation) -> None:
    """A handler that waits for room lends its slot: in a pool of one, another worker makes the room."""
    record = Record(sim)
    with bus_of(sim, pool=1) as bus:
        bus.subscribe("out", record, mailbox=1)

        def forward(message: Message) -> None:
            bus.publish("out", message.body)
            bus.publish("out", message.body)

        bus.subscribe("in", forward)
        publishers = [Publisher(sim, bus, name, 2, subject="in") for name in "ab"]
        sim.join()
        bus.drain(timeout=60)
        for publisher in publishers:
            assert record.of(publisher.name) == [0, 0, 1, 1]
    no_time(sim)


# --- reading -----------------------------------------------------------------------------------------------------------


def readers(sim: Simulation) -> None:
    """Three readers and two publishers: each message is read once, and no reader sleeps while a message waits."""
    read: list[Any] = []
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s")
        publishers = [Publisher(sim, bus, name, 2) for name in "ab"]

        def reader(count: int) -> None:
            for _ in range(count):
                read.append(subscription.receive(timeout=10).body)

        for number, count in enumerate((1, 1, 2)):
            sim.spawn(reader, count, name=f"reader {number}")
    assert Counter(read) == {(publisher.name, number): 1 for publisher in publishers for number in range(2)}
    no_time(sim)


def two_readers(sim: Simulation) -> None:
    """Two readers and two messages: a reader that finds a message before it sleeps leaves its wake-up call to the other."""
    read: list[Any] = []
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s")
        bus.publish("s")  # so that the route is known, and few steps can change places
        subscription.receive()
        for number in range(2):
            sim.spawn(lambda: read.append(subscription.receive(timeout=10).body), name=f"reader {number}")
        Publisher(sim, bus, "a", 2)
    assert sorted(read) == [("a", 0), ("a", 1)]
    no_time(sim)


def impatient_readers(sim: Simulation) -> None:
    """If a message and a time-out come at the same moment, a reader that gives up passes its wake-up call on to another."""
    read: list[Any] = []
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s")
        publisher = Publisher(sim, bus, "a", 2)

        def impatient() -> None:
            try:
                read.append(subscription.receive(timeout=0.5).body)
            except ReceiveTimeout:
                sim.say("gave up")
            else:
                bus.publish("s", ("impatient", 0))  # in place of the one that it took

        def patient() -> None:
            for _ in range(publisher.count):
                read.append(subscription.receive().body)

        sim.spawn(impatient)
        sim.spawn(patient)
    assert len(read) == len(set(read))
    assert {("a", 0), ("a", 1)} <= set(read)
    assert sim.elapsed < 10, f"{sim.elapsed:g} s passed: a message waited for a reader that slept"


def reading_by_deliveries(sim: Simulation) -> None:
    """A reader whose block fails gives its message back, and somebody reads it again."""
    read: list[Any] = []
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s")
        publisher = Publisher(sim, bus, "a", 2)

        def reader() -> None:
            try:
                with subscription.delivery(timeout=10) as delivery:
                    if delivery.attempt == 1:
                        raise ValueError
                    read.append(delivery.message.body)
            except ValueError:
                sim.say("gave it back")

        for number in range(4):
            sim.spawn(reader, name=f"reader {number}")
    assert sorted(read) == [("a", number) for number in range(publisher.count)]
    no_time(sim)


def reading_when_it_stops(sim: Simulation) -> None:
    """A stop ends the wait of every reader, and messages that nobody has read are left over."""
    read: list[Any] = []
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s")
    bus.start()
    publisher = Publisher(sim, bus, "a", 3)
    for number in range(2):
        sim.spawn(lambda: read.extend(message.body for message in subscription), name=f"reader {number}")
    sim.step()
    report = bus.stop(timeout=10)
    sim.join()
    left = subscription.stats()["pending"]
    assert len(read) + left == len(publisher.accepted), (read, left, publisher.accepted)
    assert report.left.get(subscription.name, 0) >= left  # what was in a reader's hands is in the report too
    at_rest(sim, bus, [subscription])
    no_time(sim)


def paused_readers(sim: Simulation) -> None:
    """Two readers wait at a paused subscription; when it is resumed, each gets its message."""
    read: list[Any] = []
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s")
        subscription.pause()
        Publisher(sim, bus, "a", 2)
        for number in range(2):
            sim.spawn(lambda: read.append(subscription.receive(timeout=10).body), name=f"reader {number}")
        sim.spawn(subscription.resume, name="resumer")
    assert sorted(read) == [("a", 0), ("a", 1)]
    no_time(sim)


# --- stopping ----------------------------------------------------------------------------------------------------------


def stopping(
    sim: Simulation, drain: bool, workers: int = 1, names: str = "ab", record: Record | None = None, **options: Any
) -> None:
    record = record or Record(sim, workers)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handler, workers=workers, **options)
    bus.start()
    bus.publish("s", ("main", 0))
    publishers = [Publisher(sim, bus, name, 3) for name in names]
    sim.step()
    report = bus.stop(timeout=60, drain=drain)
    sim.join()
    settle_after_stop(sim, bus, subscription, record, report, publishers, already=1)
    assert not drain or (report.drained and not report.left), report
    no_time(sim)


def settle_after_stop(
    sim: Simulation, bus: Bus, subscription: Subscription, record: Record, report: StopReport, publishers: list[Publisher],
    already: int = 0,
) -> None:  # fmt: skip
    """Check that accepted messages were handled, or are left over and come when the bus starts again."""
    accepted = sum(len(publisher.accepted) for publisher in publishers) + already
    left = report.left.get(subscription.name, 0)
    handled = len(record.given)
    assert handled + left <= accepted <= handled + subscription.stats()["pending"], (
        f"{accepted} accepted; {handled} handled and {left} left over when it stopped: {subscription.stats()}"
    )
    at_rest(sim, bus, [subscription])
    bus.start()
    bus.drain(timeout=10)
    bus.stop(timeout=10)
    for publisher in publishers:
        assert sorted(record.of(publisher.name)) == publisher.accepted, (
            f"{publisher.name}: accepted {publisher.accepted}, handled {record.of(publisher.name)}"
        )
    at_rest(sim, bus, [subscription])


def stopping_at_once(sim: Simulation) -> None:
    """After a stop without a drain, each accepted message is handled, or left over and handled after the next start."""
    stopping(sim, drain=False)


def stopping_when_nearly_idle(sim: Simulation) -> None:
    """The same, but the worker has time to rest between two messages."""
    stopping(sim, drain=False, names="a")


def stopping_and_draining(sim: Simulation) -> None:
    """A stop drains while messages come: each one is handled, or its publisher is refused."""
    stopping(sim, drain=True)


def stopping_with_workers(sim: Simulation) -> None:
    """A stop without a drain, with several workers."""
    stopping(sim, drain=False, workers=2)


def stopping_before_a_full_mailbox(sim: Simulation) -> None:
    """A stop ends the wait of publishers for room in a full mailbox."""
    stopping(sim, drain=False, mailbox=1)


def stopping_twice(sim: Simulation) -> None:
    """Two threads stop the bus: both return when it has stopped, with the same report."""
    record = Record(sim)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record)
    bus.start()
    publishers = [Publisher(sim, bus, "a", 3)]
    reports: list[StopReport] = []
    for number in range(2):
        sim.spawn(lambda: reports.append(bus.stop(timeout=60)), name=f"stopper {number}")
    sim.join()
    assert reports[0] is reports[1]
    assert bus.state == "stopped"
    settle_after_stop(sim, bus, subscription, record, reports[0], publishers)
    no_time(sim)


def starting_again(sim: Simulation) -> None:
    """The bus stops and starts while messages come: each one is refused to its publisher, or handled once."""
    record = Record(sim)
    with bus_of(sim) as bus:
        bus.subscribe("s", record)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        for _ in range(2):
            bus.stop(timeout=60, drain=False)
            bus.start()
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers)
    no_time(sim)


def pausing_when_it_stops(sim: Simulation) -> None:
    """If pause, resume and stop happen at the same time, nothing is lost, whichever comes first."""
    record = Record(sim)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record)
    bus.start()
    publishers = [Publisher(sim, bus, "a", 3)]

    def pauser() -> None:
        for _ in range(2):
            subscription.pause()
            subscription.resume()

    sim.spawn(pauser)
    report = bus.stop(timeout=60, drain=False)
    sim.join()
    settle_after_stop(sim, bus, subscription, record, report, publishers)
    no_time(sim)


def unsubscribing_when_it_stops(sim: Simulation) -> None:
    """A subscription ends while the bus stops: both calls return, and every message is handled or counted."""
    record = Record(sim)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record)
    bus.start()
    publisher = Publisher(sim, bus, "a", 3)
    sim.spawn(subscription.unsubscribe, name="unsubscriber")
    bus.stop(timeout=60, drain=False)
    sim.join()
    stats = subscription.stats()
    assert stats["accepted"] == len(publisher.accepted), f"{len(publisher.accepted)} receipts, but {stats}"
    assert stats["acknowledged"] == len(record.given)
    at_rest(sim, bus, [subscription])
    no_time(sim)


def delayed_when_it_stops(sim: Simulation) -> None:
    """The bus stops while a delayed message waits: it is left over, and comes after the next start."""
    record = Record(sim)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record)
    bus.start()
    publishers = [Publisher(sim, bus, "a", 3, delay=lambda number: 0.1 * number)]
    sim.clock.sleep(0.1)
    report = bus.stop(timeout=60, drain=False)
    sim.join()
    settle_after_stop(sim, bus, subscription, record, report, publishers)
