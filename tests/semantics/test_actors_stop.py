"""
Guarantee 25, continued: the end of an actor, the end of its bus, and what either leaves in memory.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import flow_helpers
from actor_helpers import AsyncNotes, Notes, PassingNotes, Sort, every_sort
from flow_helpers import (
    LONG,
    WAIT,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    every_way,
    fine,
    hasty_threads,
    running,
    wait_until,
)
from loop_helpers import AsyncHold, amain, arunning, every_loop, on_loop, until
from pipebus import (
    Actor,
    Bus,
    BusClosed,
    Delivery,
    Message,
    Receipt,
    RequestDropped,
    SubscriptionError,
    Transform,
)
from pipebus.events import Acknowledged, Discarded
from scale_helpers import scaled

# --- stop --------------------------------------------------------------------------------------------------------------


@every_sort
def test_s25_stop_ends_an_actor_after_its_current_message(sort: Sort) -> None:
    """`stop` does not wait; queued mail is dropped, counted as `stopped` and reported; later mail reaches nobody."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(5):
            bus.publish(actor, body)
        hold.wait_started()

        actor.stop()

        assert actor not in [listener for one in bus.subscriptions for listener in one.patterns]
        assert bus.publish(actor, 5) == Receipt(0)
        assert bus.publish("greeter", 6) == Receipt(0)
        hold.open()
        ear.wait_for(Acknowledged)
        bus.drain(WAIT)
        assert hold.given == [0]
        stats = actor.subscription.stats()
        assert (stats["acknowledged"], stats["dropped"], stats["pending"]) == (1, {"stopped": 4}, 0)
        assert_conserved(actor.subscription, accepted=5)
        assert [(event.message.body, event.place, event.reason) for event in ear.of(Discarded)] == [
            (body, "greeter", "stopped") for body in range(1, 5)
        ]
        assert "greeter" not in bus.stats()["subscriptions"]


@every_sort
def test_s25_an_actor_may_stop_itself(sort: Sort) -> None:
    """An actor that stops itself in `on_message` finishes that message and acknowledges it, but does not begin the next one."""
    hold = Hold()

    def stop_at_two(message: Message) -> None:
        if message.body == 2:
            actor.stop()

    with running() as bus:
        actor = sort.spawn(bus, "greeter", stop_at_two)
        actor.subscription.pause()
        for body in range(5):
            bus.publish(actor, body)
        actor.subscription.resume()
        bus.drain(WAIT)
        hold.open()

        assert actor.given == [0, 1, 2]
        stats = actor.subscription.stats()
        assert (stats["acknowledged"], stats["dropped"]) == (3, {"stopped": 2})
        assert_conserved(actor.subscription, accepted=5)


@every_sort
def test_s25_what_an_actor_returns_to_its_mailbox_after_its_stop_is_dropped(sort: Sort) -> None:
    """If an actor retries the message in which it stopped itself, that message is dropped and counted."""

    class Returns(sort.cls):
        def on_message(self, message: Message, delivery: Delivery) -> None:
            self.stop()
            delivery.retry()

    class AsyncReturns(sort.cls):
        async def on_message(self, message: Message, delivery: Delivery) -> None:
            self.stop()
            delivery.retry()

    with running() as bus:
        cls: Any = AsyncReturns if issubclass(sort.cls, AsyncNotes) else Returns
        actor = bus.spawn(cls("greeter"), run=sort.run)
        bus.publish(actor)
        bus.drain(WAIT)

        assert actor.subscription.stats()["dropped"] == {"stopped": 1}
        assert_conserved(actor.subscription, accepted=1)


@every_sort
@pytest.mark.few(1)
def test_s25_twenty_threads_and_the_actor_itself_may_stop_it_at_once(sort: Sort) -> None:
    """However often it is stopped, each waiting message is counted once."""
    with running() as bus, hasty_threads():
        for _ in range(20):
            hold = Hold()
            actor = sort.spawn(bus, "greeter", hold)
            for body in range(10):
                bus.publish(actor, body)
            hold.wait_started()
            for thread in [InThread(actor.stop) for _ in range(20)]:
                thread.result()
            hold.open()
            bus.drain(WAIT)

            stats = actor.subscription.stats()
            assert (stats["acknowledged"], stats["dropped"]) == (1, {"stopped": 9})


def test_s25_stop_on_a_running_loop_does_not_wait() -> None:
    """A coroutine may stop an actor that is busy on a thread, or on this very loop."""

    async def main() -> None:
        async with Bus() as bus:
            hold = Hold()
            threaded, here = bus.spawn(Notes("threaded", hold)), bus.spawn(AsyncNotes("here", hold))
            for actor in (threaded, here):
                bus.publish(actor, actor.name)
                bus.publish(actor, "waits")
            await asyncio.to_thread(hold.wait_started, 2)

            threaded.stop()
            here.stop()

            hold.open()
            await bus.adrain(WAIT)
            assert sorted(hold.given) == ["here", "threaded"]
            for actor in (threaded, here):
                wait_until(lambda actor=actor: actor.subscription.stats()["acknowledged"] == 1, "its message is handled")
                assert actor.subscription.stats()["dropped"] == {"stopped": 1}

    asyncio.run(main())


def test_s25_an_actor_may_be_stopped_by_another_one() -> None:
    """A supervisor may end a worker when it gets mail to do so."""
    with running() as bus:
        worker = bus.spawn(Notes("worker"))
        boss = bus.spawn(Notes("boss", lambda message: worker.stop()))
        bus.publish(worker, 1)
        bus.drain(WAIT)
        bus.publish(boss)
        bus.drain(WAIT)

        assert bus.publish(worker, 2) == Receipt(0)
        assert worker.given == [1]


@pytest.mark.parametrize("state", ["not-spawned", "new", "stopped"])
def test_s25_stop_is_callable_in_every_state(state: str) -> None:
    """Before the spawn, `stop` does nothing; on a bus that is not started it ends the actor; a second `stop` does nothing."""
    bus = Bus()
    actor = Notes("greeter")
    if state != "not-spawned":
        bus.spawn(actor)
    if state == "stopped":
        with bus:
            pass

    actor.stop()
    actor.stop()

    with running(bus):
        assert bus.publish("greeter") == Receipt(0)


@every_sort
def test_s25_a_stopped_actor_may_be_spawned_again(sort: Sort) -> None:
    """It keeps its state and its name, on the same bus or on another one, and its figures start from zero."""
    with running() as bus, running() as elsewhere:
        actor = sort.spawn(bus, "greeter")
        for home in (bus, bus, elsewhere, bus):
            if actor.given:
                home.spawn(actor, run=sort.run)
            assert actor.bus is home
            home.publish(actor, len(actor.given))
            home.drain(WAIT)
            assert_conserved(actor.subscription, accepted=1)
            actor.stop()

        assert actor.given == [0, 1, 2, 3]


def watched(hold: Hold, free: Hold, again: Callable[[], None], sort: Sort) -> Any:
    """An `on_message` that checks that it never runs twice at once; for "first" it calls `again` and waits."""
    inside: list[Any] = []

    def begin(message: Message) -> None:
        assert inside == [], f"{message.body} came while {inside} was handled"
        inside.append(message.body)
        if message.body == "first":
            again()

    def handle(message: Message) -> None:
        begin(message)
        try:
            if message.body == "first":
                hold(message)
        finally:
            inside.clear()
        free(message)

    async def ahandle(message: Message) -> None:
        begin(message)
        try:
            if message.body == "first":
                await asyncio.to_thread(hold, message)
        finally:
            inside.clear()
        free(message)

    return ahandle if issubclass(sort.cls, AsyncNotes) else handle


@every_sort
@pytest.mark.parametrize("spawned_by", ["outside", "itself"])
def test_s24_an_actor_spawned_again_at_once_still_has_one_message_at_a_time(sort: Sort, spawned_by: str) -> None:
    """If it was stopped while busy, its new mail waits for the old message to end, and a drain waits for that too."""
    hold, free = Hold(), Hold(open=True)

    def again() -> None:
        actor.stop()
        bus.spawn(actor, run=sort.run)
        bus.publish(actor, "second")

    with running() as bus:
        actor = sort.spawn(bus, act=watched(hold, free, again if spawned_by == "itself" else lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        if spawned_by == "outside":
            again()
        draining = InThread(bus.drain, WAIT)
        assert actor.subscription.stats()["pending"] == 1
        assert draining.running
        hold.open()
        draining.result()

        assert free.given == ["first", "second"]
        assert bus.dead_letters.list() == []


@every_sort
def test_s24_an_actor_may_be_stopped_and_spawned_again_and_again_while_it_is_busy(sort: Sort) -> None:
    """Its first message outlives three mailboxes: only the mail of the last one is handled, and the rest is dropped."""
    hold, free = Hold(), Hold(open=True)
    with running() as bus:
        actor = sort.spawn(bus, act=watched(hold, free, lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        old = []
        for number in range(3):
            old.append(actor.subscription)
            actor.stop()
            bus.spawn(actor, run=sort.run)
            bus.publish(actor, number)
        hold.open()
        bus.drain(WAIT)

        assert free.given == ["first", 2]
        assert [sum(one.stats()["dropped"].values()) for one in (*old, actor.subscription)] == [0, 1, 1, 0]
        assert_conserved(*old, actor.subscription, accepted=1)


@every_sort
def test_s24_an_actor_that_is_spawned_again_waits_for_the_message_it_is_at_now(sort: Sort) -> None:
    """It waits for the message that it handles now, and not for the one that it handled at its last spawn."""
    first, second = Hold(), Hold()
    inside: list[Any] = []

    def handle(message: Message) -> None:
        assert inside == []
        inside.append(message.body)
        {"first": first, "second": second}.get(message.body, fine)(message)
        inside.clear()

    async def ahandle(message: Message) -> None:
        assert inside == []
        inside.append(message.body)
        await asyncio.to_thread({"first": first, "second": second}.get(message.body, fine), message)
        inside.clear()

    with running() as bus:
        actor = sort.spawn(bus, act=ahandle if issubclass(sort.cls, AsyncNotes) else handle)
        bus.publish(actor, "first")
        first.wait_started()
        for name, hold in (("second", first), ("third", second)):
            actor.stop()
            bus.spawn(actor, run=sort.run)
            bus.publish(actor, name)
            assert actor.subscription.stats()["pending"] == 1
            hold.open()
            if name == "second":
                second.wait_started()
        bus.drain(WAIT)

        assert actor.given == ["first", "second", "third"]
        assert bus.dead_letters.list() == []


@pytest.mark.parametrize("cls", [Notes, PassingNotes])
def test_s24_mail_that_comes_while_a_busy_actor_is_spawned_again_waits_too(cls: type[Notes]) -> None:
    """It handles one message at a time, also while another thread publishes to it all the time."""
    for _ in range(20):
        hold, enough = Hold(), threading.Event()
        inside: list[Any] = []

        def handle(message: Message, hold: Hold = hold, inside: list[Any] = inside) -> None:
            assert inside == [], f"{message.body} came while {inside} was handled"
            inside.append(message.body)
            if message.body == "first":
                hold(message)
            inside.clear()

        with running() as bus, hasty_threads():
            actor = bus.spawn(cls(act=handle))

            def write(actor: Notes = actor, bus: Bus = bus, enough: threading.Event = enough) -> None:
                while not enough.is_set():
                    bus.publish(actor, "more")

            bus.publish(actor, "first")
            hold.wait_started()
            writing = InThread(write)
            for _ in range(5):
                actor.stop()
                bus.spawn(actor)
            enough.set()
            writing.result()
            hold.open()
            bus.drain(WAIT)

            assert bus.dead_letters.list() == []


@every_sort
def test_s24_a_pause_holds_for_an_actor_that_was_spawned_again_while_it_was_busy(sort: Sort) -> None:
    """When its last message from before ends, the actor is still paused."""
    hold, free = Hold(), Hold(open=True)
    with running() as bus:
        actor = sort.spawn(bus, act=watched(hold, free, lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        actor.stop()
        old = actor.subscription
        bus.spawn(actor, run=sort.run)
        actor.subscription.pause()
        bus.publish(actor, "second")
        hold.open()
        bus.drain(WAIT)
        assert (free.given, actor.subscription.paused) == (["first"], True)
        assert_conserved(old, accepted=1)
        actor.subscription.resume()
        bus.drain(WAIT)

        assert free.given == ["first", "second"]


@every_sort
@pytest.mark.parametrize("meanwhile", ["stopped", "started-again"])
@pytest.mark.few(1)
def test_s25_an_actor_spawned_again_while_it_was_busy_outlives_a_restart(sort: Sort, meanwhile: str) -> None:
    """Its last message outlives even the bus: newer mail is handled after it, once the bus runs."""
    hold, free = Hold(), Hold(open=True)
    with running(drain=False) as bus:
        actor = sort.spawn(bus, act=watched(hold, free, lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        actor.stop()
        bus.spawn(actor, run=sort.run)
        bus.publish(actor, "second")
        bus.stop(timeout=0.01)
        if meanwhile == "stopped":
            hold.open()
            if sort.run != "loop" and not issubclass(sort.cls, AsyncNotes):
                free.wait_started()  # (on the loop it was cancelled)
            bus.start()
        else:
            bus.start()
            hold.open()
        bus.drain(WAIT)

        assert free.given[-1:] == ["second"]


def test_s25_a_request_that_waits_in_a_stopped_actors_mailbox_is_told_at_once() -> None:
    """The requester gets RequestDropped at once, and not a time-out."""
    with running() as bus:
        hold = Hold()
        actor = bus.spawn(Notes("greeter", hold))
        bus.publish(actor)
        hold.wait_started()
        asks = InThread(bus.request, actor, timeout=LONG)
        wait_until(lambda: actor.subscription.stats()["pending"] == 1, "the request is queued")

        actor.stop()

        with pytest.raises(RequestDropped, match="stopped"):
            asks.result()
        hold.open()


@every_sort
def test_s25_publishers_in_front_of_a_stopping_actors_full_mailbox_are_let_go(sort: Sort) -> None:
    """Publishers that waited for room return at once, and their message reaches nobody."""
    with running() as bus:
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold, mailbox=1, overflow_timeout=LONG)
        bus.publish(actor)
        hold.wait_started()
        waits = InThread(bus.publish, actor)
        mailbox = actor.subscription
        wait_until(lambda: mailbox.rare is not None and len(mailbox.rare.waiters) == 1, "the publisher stands in line")

        actor.stop()

        assert waits.result() == Receipt(0)
        hold.open()


def test_s25_the_thread_of_a_stopped_actor_ends() -> None:
    """With run="thread", the thread ends, whether the actor was busy, idle or stopped itself."""
    with running() as bus:
        before = threading.active_count()
        hold = Hold()
        busy, idle, own = (
            bus.spawn(Notes(name, act), run="thread")
            for name, act in (("busy", hold), ("idle", None), ("own", lambda message: own.stop()))
        )
        for actor in (busy, idle, own):
            bus.publish(actor)
        hold.wait_started()
        wait_until(lambda: idle.subscription.stats()["acknowledged"] == 1, "the idle one is idle")
        busy.stop()
        idle.stop()
        hold.open()

        wait_until(lambda: threading.active_count() == before, "their threads have ended")


@every_sort
def test_s25_an_actor_may_be_unsubscribed_like_any_subscription(sort: Sort) -> None:
    """`actor.subscription.unsubscribe()` waits for the message in hand, and counts the rest as `unsubscribed`."""
    with running() as bus:
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(3):
            bus.publish(actor, body)
        hold.wait_started()
        leaving = InThread(actor.subscription.unsubscribe, WAIT)
        wait_until(lambda: actor.subscription.stats()["dropped"] == {"unsubscribed": 2}, "the rest is dropped")
        assert leaving.running
        hold.open()
        leaving.result()

        assert actor.subscription.stats()["acknowledged"] == 1
        bus.spawn(actor, run=sort.run)


# --- the bus stops and starts ------------------------------------------------------------------------------------------


@every_sort
def test_s25_an_actor_outlives_a_restart_of_its_bus(sort: Sort) -> None:
    """Its state is kept, and mail that was left over is handled after the next start, once and in order."""
    bus = Bus()
    hold = Hold()
    with running(bus):
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(5):
            bus.publish(actor, body)
        hold.wait_started()
        stop = InThread(bus.stop, WAIT, drain=False)
        wait_until(lambda: bus.state == "stopped", "the bus has stopped")
        hold.open()
        assert stop.result().left == {"greeter": 4}
        with pytest.raises(BusClosed):
            bus.publish(actor, 5)

        bus.start()
        bus.publish(actor, 5)
        bus.publish("greeter", 6)
        bus.drain(WAIT)

        assert hold.given == [0, 1, 2, 3, 4, 5, 6]
        assert_conserved(actor.subscription, accepted=7)


@every_sort
def test_s25_leaving_the_block_lets_actors_finish_their_mail(sort: Sort) -> None:
    """When the `with` block is left, every accepted message has been handled."""
    with Bus() as bus:
        actor = sort.spawn(bus)
        for body in range(200):
            bus.publish(actor, body)

    assert actor.given == list(range(200))
    assert_conserved(actor.subscription, accepted=200)


@every_sort
def test_s25_a_paused_actor_keeps_its_mail(sort: Sort) -> None:
    """After `actor.subscription.pause()`, nothing is handled until `resume`, and a drain does not wait for it."""
    with running() as bus:
        actor = sort.spawn(bus, "greeter")
        actor.subscription.pause()
        for body in range(3):
            bus.publish(actor, body)
        bus.drain(WAIT)
        assert actor.given == []
        assert actor.subscription.stats()["pending"] == 3

        actor.subscription.resume()
        bus.drain(WAIT)

        assert actor.given == [0, 1, 2]


@every_sort
def test_s25_an_actor_that_is_paused_while_it_is_busy_finishes_that_message_and_begins_no_other(sort: Sort) -> None:
    """The mail behind that message is kept."""
    with running() as bus:
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(3):
            bus.publish(actor, body)
        hold.wait_started()
        actor.subscription.pause()
        hold.open()
        bus.drain(WAIT)
        assert hold.given == [0]
        assert_conserved(actor.subscription, accepted=3)

        actor.subscription.resume()
        bus.drain(WAIT)
        assert hold.given == [0, 1, 2]


@pytest.mark.parametrize("what", ["actor", "subscription"])
def test_s25_what_a_filters_start_spawns_on_a_thread_is_started_too(what: str) -> None:
    """If a filter spawns a helper in its `start`, the helper's first mail is handled."""
    hold = Hold(open=True)

    class Brings(Transform):
        def start(self, context: Any) -> None:
            if what == "actor":
                context.bus.spawn(Notes("helper", hold), run="thread")
            else:
                context.bus.subscribe("helper", hold, run="thread")

        def transform(self, message: Message) -> Message:
            return message

    bus = Bus()
    bus.use(Brings())
    with running(bus):
        bus.publish("helper", "hello")
        hold.wait_started()

        assert hold.given == ["hello"]


def test_s25_an_async_start_of_a_filter_may_spawn_and_subscribe() -> None:
    """An async `start` runs on the bus's loop, and can use the bus like a plain one."""
    hold = Hold(open=True)

    class Brings(Transform):
        async def start(self, context: Any) -> None:
            context.bus.spawn(Notes("helper", hold))
            context.bus.subscribe("helper", hold)

        def transform(self, message: Message) -> Message:
            return message

    bus = Bus()
    bus.use(Brings())
    starting = InThread(bus.start)
    starting.result()
    with running(bus):
        assert bus.publish("helper", "hello") == Receipt(2)
        hold.wait_started(2)


def test_s27_two_buses_share_no_actor_and_no_name() -> None:
    """Two buses may each have an actor of the same name."""
    with running() as one, running() as two:
        here, there = one.spawn(Notes("greeter")), two.spawn(Notes("greeter"))
        one.publish("greeter", 1)
        two.publish("greeter", 2)
        assert two.publish(here, 3) == Receipt(0)
        one.drain(WAIT)
        two.drain(WAIT)

        assert (here.given, there.given) == ([1], [2])


# --- memory ------------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("name", ["greeter", None], ids=["named", "unnamed"])
@pytest.mark.parametrize("mailed", [True, False], ids=["mailed", "silent"])
def test_s25_a_stopped_actor_that_nobody_holds_is_collected(sort: Sort, name: str | None, mailed: bool) -> None:
    """The bus, its workers and its routes forget the actor, although they still run."""
    with running() as bus:
        bus.subscribe(">", fine)
        actor = sort.spawn(bus, name)
        if mailed:
            bus.publish(actor, "hello")
            bus.drain(WAIT)
            actor.mail.clear()  # a message knows its subject
        seen = weakref.ref(actor)

        actor.stop()
        del actor

        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")


def test_s25_an_actor_that_failed_to_spawn_is_collected_too() -> None:
    """A failed spawn leaves nothing behind."""
    with running() as bus:
        bus.spawn(Notes("greeter"))
        actor = Notes("greeter")
        seen = weakref.ref(actor)
        with pytest.raises(SubscriptionError):
            bus.spawn(actor)
        del actor
        gc.collect()

        assert seen() is None


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@scaled(2_000, 50_000)
@pytest.mark.few(1)
def test_s25_thousands_of_actors_live_in_one_process(named: bool, count: int) -> None:
    """Thousands are spawned, get their mail and are stopped; none is left, and there are only the threads of the pool."""
    handled: list[int] = []
    append = handled.append

    class Tiny(Actor):
        __slots__ = ()

        def on_message(self, message: Message) -> None:
            append(message.body)

    gc.collect()
    before = threading.active_count()
    with Bus(pool=2) as bus:
        actors = [bus.spawn(Tiny(f"tiny.{number}" if named else None)) for number in range(count)]
        assert threading.active_count() == before
        for number, actor in enumerate(actors):
            bus.publish(f"tiny.{number}" if named else actor, number)
        bus.drain(LONG)
        assert threading.active_count() <= before + 2
        for actor in actors:
            actor.stop()

        assert sorted(handled) == list(range(count))
        assert bus.subscriptions == []
        assert bus.publish(actors[0]) == Receipt(0)


class Single(Actor):
    """An actor that records how many messages it handles at once; it waits in the one whose body is 1."""

    def __init__(self) -> None:
        super().__init__("single")
        self.hold: Any = Hold()
        self.given: list[int] = []
        self.at = self.most = 0

    def begin(self, message: Message) -> None:
        self.given.append(message.body)
        self.at += 1
        self.most = max(self.most, self.at)

    def on_message(self, message: Message) -> Any:
        self.begin(message)
        if message.body == 1:
            self.hold(message)
        self.at -= 1


class AsyncSingle(Single):
    """A Single on an event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = AsyncHold()

    async def on_message(self, message: Message) -> None:
        self.begin(message)
        if message.body == 1:
            await self.hold(message)
        self.at -= 1


@pytest.mark.parametrize("single", [Single, AsyncSingle], ids=["pool", "loop"])
def test_s25_an_actor_that_is_spawned_again_and_again_is_given_one_message_at_a_time(single: type[Single]) -> None:
    """While its first life still handles a message, the third life waits for it, as the second one would have."""
    actor, marker = single(), Hold(open=True)

    async def amark(message: Message) -> None:
        marker(message)

    with running(Bus(pool=2)) as bus:
        bus.subscribe("marker", marker if single is Single else amark)
        bus.spawn(actor)
        bus.publish(actor, 1)
        actor.hold.wait_started()
        for _ in range(2):
            actor.stop()
            bus.spawn(actor)
        bus.publish(actor, 2)
        bus.publish("marker")
        marker.wait_started()  # the one behind it in line has had its turn

        assert (actor.given, actor.most) == ([1], 1)
        actor.hold.open()
        bus.drain(WAIT)
        assert (actor.given, actor.most) == ([1, 2], 1)


@every_loop
def test_s25_an_actor_that_ends_itself_on_a_loop_and_that_nobody_holds_is_collected(callers: bool) -> None:
    """The worker that gave it its last message sleeps, but does not keep the actor alive."""

    def end(message: Message) -> None:
        ended.append(message.body)
        message.subject.stop()

    ended: list[Any] = []
    with on_loop(Bus(), callers) as bus:
        actor = bus.spawn(AsyncNotes(act=end))
        bus.publish(actor, "end")
        bus.drain(WAIT)
        actor.mail.clear()  # a message knows its subject
        seen = weakref.ref(actor)
        del actor

        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")
        assert ended == ["end"]


def test_s25_a_task_that_a_paused_actor_has_left_behind_is_an_outsider() -> None:
    """The handler has ended, so the task may drain the bus, which a handler may not."""

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []
        go = threading.Event()

        async def later() -> None:
            await until(go)
            await bus.adrain(WAIT)

        def act(message: Message) -> None:
            tasks.append(asyncio.create_task(later()))
            actor.subscription.pause()

        async with arunning() as bus:
            actor = bus.spawn(AsyncNotes(act=act))
            await bus.apublish(actor)
            await bus.adrain(WAIT)
            go.set()
            await tasks[0]

    amain(main)


@every_way
def test_s28_a_stopped_actor_that_is_mailed_once_more_is_collected(way: flow_helpers.Way) -> None:
    """Mail to a stopped actor reaches nobody, and the bus does not keep the actor alive as its address."""
    with running() as bus:
        actor = bus.spawn(Notes())
        actor.stop()
        seen = weakref.ref(actor)

        assert way(bus, actor, "anybody there?") == Receipt(0)
        del actor
        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")
