"""
Handlers on event loops: which loop, what a coroutine may do there, cancellation, stop and start (guarantees 13, 14, 17, 22, 25,
26, 30 and 32).
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    DropAll,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    bus_of,
    every_road,
    fine,
    running,
    wait_until,
)
from loop_helpers import AsyncHold, LoopInThread, amain, arunning, every_loop, on_loop, started_on_loop, until
from pipebus import (
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    DrainTimeout,
    LifecycleError,
    MailboxFull,
    Message,
    Pause,
    PipelineError,
    StopReport,
    SubscriptionError,
    Transform,
    around,
    transform,
)
from pipebus.events import Overflowed
from pipebus.running.loops import SOON
from pipebus.testing import FakeClock

one_or_three = pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])


async def afine(message: Message) -> None:
    """A coroutine that has nothing to do."""


def worker_tasks(loop: asyncio.AbstractEventLoop | None = None) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks(loop) if task.get_name() == "pipebus-worker"]


# --- which loop --------------------------------------------------------------------------------------------------------


class Places:
    """Handlers of both colours that record the loop and the thread on which they ran."""

    def __init__(self) -> None:
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.threads: set[threading.Thread] = set()

    def plain(self, message: Message) -> None:
        self.loops.add(asyncio.get_running_loop())
        self.threads.add(threading.current_thread())

    async def coroutine(self, message: Message) -> None:
        self.plain(message)

    def subscribe(self, bus: Bus) -> None:
        bus.subscribe("s", self.coroutine)
        bus.subscribe("s", self.coroutine, workers=3)
        bus.subscribe("s", self.plain, run="loop")


def test_s32_inside_async_with_handlers_run_on_the_callers_loop() -> None:
    """Handlers of both colours run on the loop of `async with` and in its thread, whichever thread publishes."""
    places = Places()

    async def main() -> None:
        async with arunning() as bus:
            places.subscribe(bus)
            await bus.apublish("s")
            await asyncio.to_thread(bus.publish, "s")
            await bus.adrain(WAIT)
        assert places.loops == {asyncio.get_running_loop()}
        assert places.threads == {threading.current_thread()}

    asyncio.run(main())


def test_s32_else_handlers_run_on_the_buss_own_loop() -> None:
    """If a thread has started the bus, all its handlers on loops share one loop, on a thread that ends with the bus."""
    places = Places()
    with running(Bus(name="shop")) as bus:
        places.subscribe(bus)
        for _ in range(10):
            bus.publish("s")
        asyncio.run(bus.apublish("s"))
        bus.drain(WAIT)

        (thread,) = places.threads
        assert len(places.loops) == 1
        assert thread is not threading.current_thread()
        assert thread.name.startswith("shop")
    assert not thread.is_alive()
    assert places.loops.pop().is_closed()


def test_s25_the_buss_own_loop_starts_when_it_is_first_needed() -> None:
    """A bus without handlers on loops has no loop, and neither has one whose handlers have nothing to do."""
    before = set(threading.enumerate())
    with running() as bus:
        bus.subscribe("s", afine)
        bus.subscribe("t", fine)
        bus.publish("t")
        bus.drain(WAIT)

        assert not [thread for thread in set(threading.enumerate()) - before if "loop" in thread.name]
        bus.publish("s")
        bus.drain(WAIT)


@pytest.mark.parametrize("ends", ["well", "with-an-error", "cancelling-itself"])
@every_loop
@pytest.mark.few(2)
def test_s14_one_task_handles_message_after_message(callers: bool, ends: str) -> None:
    """A thousand messages of one subscriber share one task, because a task for each message would cost too much."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(message: Message) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await asyncio.sleep(0)
        if ends == "with-an-error":
            raise Boom
        if ends == "cancelling-itself":
            task.cancel()

    with on_loop(Bus(), callers) as bus:
        bus.subscribe("s", handle)
        for body in range(1_000):
            bus.publish("s", body)
        bus.drain(WAIT)

        assert len(tasks) == 1


def test_s14_a_worker_keeps_nothing_of_its_publishers_context_alive() -> None:
    """The first publish makes the worker on the publisher's loop, but the worker does not keep the publisher's context."""

    class Thing:
        pass

    variable: contextvars.ContextVar[Thing | None] = contextvars.ContextVar("variable", default=None)

    async def publish(bus: Bus) -> weakref.ref[Thing]:
        thing = Thing()
        variable.set(thing)
        await bus.apublish("s")
        await bus.adrain(WAIT)
        return weakref.ref(thing)

    async def main() -> None:
        async with arunning() as bus:
            bus.subscribe("s", afine)
            thing = await asyncio.create_task(publish(bus))
            await asyncio.sleep(0)
            gc.collect()
            assert thing() is None
            assert len(worker_tasks()) == 1

    asyncio.run(main())


def test_s25_an_idle_bus_leaves_no_task_behind_on_the_callers_loop() -> None:
    """After `async with`, the caller's loop has the tasks of the caller and no others."""

    async def main() -> None:
        async with arunning() as bus:
            for number in range(200):
                bus.subscribe(f"s.{number}", afine)
            for number in range(200):
                await bus.apublish(f"s.{number}")
            await bus.adrain(WAIT)
            assert len(worker_tasks()) <= 64  # spare ones sleep until they are needed again
            for number in range(200):
                await bus.apublish(f"s.{number}")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@one_or_three
@every_loop
def test_s23_handlers_that_never_wait_leave_the_loop_to_others(callers: bool, workers: int) -> None:
    """A subscriber that feeds itself forever and never waits does not starve another one on its loop."""
    over = threading.Event()

    async def feed_myself(message: Message) -> None:
        if not over.is_set():
            await bus.apublish("endless")

    async def stop(message: Message) -> None:
        over.set()

    with on_loop(Bus(), callers) as bus:
        bus.subscribe("endless", feed_myself, workers=workers)
        bus.subscribe("stop", stop)
        bus.publish("endless")
        bus.publish("stop")

        assert over.wait(WAIT)


# --- starting again, on another loop -----------------------------------------------------------------------------------


def test_s25_a_bus_may_be_started_on_one_loop_after_the_other() -> None:
    """Each of three runs of `asyncio.run`, and then a thread, handles what the one before left over."""
    handled: list[tuple[int, asyncio.AbstractEventLoop]] = []

    async def handle(message: Message) -> None:
        handled.append((message.body, asyncio.get_running_loop()))

    bus = Bus()
    subscription = bus.subscribe("s", handle)

    async def main(round_: int) -> None:
        await bus.astart()
        await bus.adrain(WAIT)
        assert [body for body, _ in handled] == list(range(2 * round_))
        assert all(loop is asyncio.get_running_loop() for _, loop in handled[-1:])
        subscription.pause()
        await bus.apublish("s", 2 * round_)
        await bus.apublish("s", 2 * round_ + 1)
        report = await bus.astop(timeout=WAIT)
        assert sum(report.left.values()) == 2
        subscription.resume()

    for round_ in range(3):
        asyncio.run(main(round_))
    with running(bus):
        bus.drain(WAIT)

    assert [body for body, _ in handled] == list(range(6))
    assert len({id(loop) for _, loop in handled}) == 3


def test_s32_a_bus_is_used_from_many_loops_at_once() -> None:
    """If three other loops and threads publish, all messages are handled on the loop on which the bus was started."""
    handled: Counter[str] = Counter()
    loops: set[asyncio.AbstractEventLoop] = set()

    async def handle(message: Message) -> None:
        handled[message.body] += 1
        loops.add(asyncio.get_running_loop())

    async def publish(name: str) -> None:
        for _ in range(100):
            await bus.apublish("s", name)

    with LoopInThread() as home:
        bus = Bus()
        home.run(bus.astart())
        with running(bus):
            subscription = bus.subscribe("s", handle, mailbox=10, overflow_timeout=LONG)
            others = [InThread(lambda name=name: asyncio.run(publish(name))) for name in ("a", "b", "c")]
            others += [InThread(lambda: [bus.publish("s", "thread") for _ in range(100)])]
            for other in others:
                other.result()
            bus.drain(WAIT)

            assert handled == {"a": 100, "b": 100, "c": 100, "thread": 100}
            assert loops == {home.loop}
            assert_conserved(subscription, accepted=400)


def test_s32_a_loop_may_move_from_one_thread_to_another() -> None:
    """A loop that ran `run_until_complete` in one thread may run in another one; the messages of both are handled."""
    handled = Hold(open=True)

    async def handle(message: Message) -> None:
        handled(message)

    async def set_up() -> None:
        await bus.astart()
        await bus.apublish("s", 0)
        await bus.adrain(WAIT)

    bus = Bus()
    bus.subscribe("s", handle)
    with LoopInThread(set_up=set_up) as loop:
        with running(bus):
            for body in range(1, 20):
                bus.publish("s", body)
                handled.wait_started()
            loop.call(lambda: None)
            bus.drain(WAIT)

        assert handled.given == list(range(20))


def test_s25_a_loop_that_stands_still_does_not_hold_up_a_stop() -> None:
    """After `run_until_complete` the loop is idle but not closed: a thread can stop the bus, which can start there again."""
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    bus = Bus()
    subscription = bus.subscribe("s", handle)

    async def once(body: int) -> None:
        await bus.astart()
        await bus.apublish("s", body)
        await bus.adrain(WAIT)

    def whole_life_of_a_loop() -> None:
        loop = asyncio.new_event_loop()
        for body in range(3):
            loop.run_until_complete(once(body))
            assert InThread(bus.stop, LONG).result() == StopReport(drained=True)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    InThread(whole_life_of_a_loop).result()

    assert handled == [0, 1, 2]
    assert_conserved(subscription, accepted=3)


@every_road
def test_s32_a_filter_serves_many_loops(road: str) -> None:
    """A filter works on a bus that is used from several loops, and is bound to none of them."""

    class Count(Transform):
        seen = 0

        def transform(self, message: Message) -> Message:
            Count.seen += 1
            return message

    bus = bus_of(road)
    bus.use(Count())
    with running(bus):
        subscription = bus.subscribe("s", afine)
        for _ in range(3):
            asyncio.run(bus.apublish("s"))
        bus.publish("s")
        bus.drain(WAIT)

        assert Count.seen == 4
        assert_conserved(subscription, accepted=4)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@one_or_three
def test_s32_a_loop_whose_tasks_start_eagerly_is_as_good_as_any(workers: int) -> None:
    """With the eager task factory too, handlers do not run inside `publish`, and all messages are handled."""
    handled: list[int] = []
    inside: list[bool] = []
    publishing = False

    async def handle(message: Message) -> None:
        inside.append(publishing)
        handled.append(message.body)
        if message.body % 2:
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal publishing
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with arunning() as bus:
            bus.subscribe("s", handle, workers=workers)
            for body in range(20):
                publishing = True
                bus.publish("s", body)
                publishing = False
            await bus.adrain(WAIT)

    amain(main)
    assert sorted(handled) == list(range(20))
    assert not any(inside)


def test_s32_a_coroutine_that_waits_is_woken_though_its_loop_runs_in_another_thread_by_now() -> None:
    """A coroutine asks while one thread runs its loop, and wakes up although another thread runs it now."""
    questions: list[Message] = []
    asked, answered = threading.Event(), threading.Event()

    def take(message: Message) -> None:
        questions.append(message)
        asked.set()

    asking: list[asyncio.Task[Message]] = []

    async def ask() -> None:
        asking.append(asyncio.create_task(bus.arequest("question", timeout=LONG)))
        asking[0].add_done_callback(lambda _: answered.set())
        await until(asked)

    with running() as bus:
        bus.subscribe("question", take)
        with LoopInThread(set_up=ask) as loop:
            loop.loop.set_debug(True)  # so that a call from the wrong thread is an error, each time
            loop.call(lambda: None)
            bus.publish(questions[0].reply_to, "answer")

            assert answered.wait(WAIT)
            assert asking[0].result().body == "answer"


# --- what belongs to asyncio works in a handler ------------------------------------------------------------------------


@one_or_three
@every_loop
def test_s13_a_time_out_in_a_handler_ends_what_it_bounds(callers: bool, workers: int) -> None:
    """`asyncio.timeout` works as usual: a handler that does not catch its error fails, and the next message is handled."""
    handled: list[str] = []

    async def handle(message: Message) -> None:
        if message.body == "untouched":
            await asyncio.sleep(0)
        else:
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                if message.body == "fails":
                    raise
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        handled.append(message.body)

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        for body in ("catches", "fails", "untouched") * 5:
            bus.publish("s", body, key="in order")
        bus.drain(WAIT)

        assert handled == ["catches", "untouched"] * 5
        assert subscription.stats()["dead"] == 5
        assert all(letter.error.startswith("TimeoutError") for letter in bus.dead_letters)


@one_or_three
@every_loop
def test_s13_a_task_group_in_a_handler_does_its_work(callers: bool, workers: int) -> None:
    """If a task of the group fails, the group ends the handler with an ExceptionGroup, and the next message is handled."""
    done: list[str] = []

    async def part(name: str) -> None:
        await asyncio.sleep(0)
        if name == "fails":
            raise Boom("a part failed")
        done.append(name)

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def handle(message: Message) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(part(message.body))
            if message.body == "fails":
                group.create_task(for_ever())
                await for_ever()
        await asyncio.sleep(0)
        done.append(f"after {message.body}")

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        for body in ("works", "fails", "works"):
            bus.publish("s", body, key="in order")
        bus.drain(WAIT)

        assert done == ["works", "after works"] * 2
        assert subscription.stats()["dead"] == 1
        assert "ExceptionGroup" in bus.dead_letters.list()[0].error
        assert "Boom" in bus.dead_letters.list()[0].traceback


@every_loop
def test_s13_gather_wait_for_and_shield_work(callers: bool) -> None:
    """A handler may use the usual tools of asyncio."""
    results: list[Any] = []

    async def value(of: int) -> int:
        await asyncio.sleep(0)
        return of

    async def handle(message: Message) -> None:
        results.append(await asyncio.gather(value(1), value(2)))
        results.append(await asyncio.wait_for(value(3), LONG))
        results.append(await asyncio.shield(value(4)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0)
        results.append(await asyncio.to_thread(lambda: 5))
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(6)
        results.append(await queue.get())
        results.append(await asyncio.create_task(value(7)))

    with on_loop(Bus(), callers) as bus:
        bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)

        assert len(bus.dead_letters) == 0
    assert results == [[1, 2], 3, 4, 5, 6, 7]


@every_loop
def test_s14_an_async_generator_lives_in_its_handlers_context(callers: bool) -> None:
    """An async generator that sets a variable and waits between its values runs, and is closed, in one context."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    found: list[str] = []

    async def numbers() -> Any:
        token = variable.set("by the generator")
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield number
        finally:
            variable.reset(token)

    async def handle(message: Message) -> None:
        async for number in numbers():
            found.append(f"{number} {variable.get()}")
        found.append(variable.get())

    with on_loop(Bus(), callers) as bus:
        bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)

        assert len(bus.dead_letters) == 0
    assert found == [*(f"{number} by the generator" for number in range(3)), "nothing"]


@every_loop
def test_s13_an_awaitable_object_may_be_what_a_handler_returns(callers: bool) -> None:
    """An object whose `__call__` is async is a handler like any other."""

    class Handler:
        def __init__(self) -> None:
            self.handled: list[Any] = []

        async def __call__(self, message: Message) -> None:
            await asyncio.sleep(0)
            self.handled.append(message.body)

    handler = Handler()
    with on_loop(Bus(), callers) as bus:
        bus.subscribe("s", handler)
        bus.publish("s", 1)
        bus.drain(WAIT)

    assert handler.handled == [1]


@every_loop
@one_or_three
def test_s13_a_handler_may_return_any_awaitable(callers: bool, workers: int) -> None:
    """
    If a plain function declares `colour = "async"` and returns a future, the bus awaits it like a coroutine, and the variables
    that it sets are gone with its message.
    """
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    found: list[str] = []

    def handle(message: Message) -> asyncio.Future[None]:
        found.append(variable.get())
        variable.set("by the handler")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if message.body == "fails":
            future.set_exception(Boom("it fails"))
        else:
            asyncio.get_running_loop().call_soon(future.set_result, None)
        return future

    handle.colour = "async"  # type: ignore[attr-defined]
    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        for body in ("works", "fails", "works"):
            bus.publish("s", body)
        bus.drain(WAIT)

        assert (subscription.stats()["acknowledged"], subscription.stats()["dead"]) == (2, 1)
        assert found == ["nothing"] * 3


# --- a CancelledError of the handler's own -----------------------------------------------------------------------------


async def _raises(message: Message) -> None:
    raise asyncio.CancelledError


async def _waits_then_raises(message: Message) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def _awaits_what_was_cancelled(message: Message) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def _awaits_a_task_that_it_cancels(message: Message) -> None:
    task = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await task


async def _cancels_itself_and_waits(message: Message) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def _waits_then_cancels_itself_and_waits(message: Message) -> None:
    await asyncio.sleep(0)
    await _cancels_itself_and_waits(message)


async def _cancels_itself_three_times_and_waits(message: Message) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    task.cancel()
    await _cancels_itself_and_waits(message)


async def _times_out_then_raises(message: Message) -> None:
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError:
        raise asyncio.CancelledError from None


async def _times_out_and_waits_then_raises(message: Message) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def _loses_a_task_and_waits_then_raises(message: Message) -> None:
    async def fail() -> None:
        raise Boom("a part failed")

    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.Event().wait()
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def _cancels_itself_and_raises_another_error(message: Message) -> None:
    try:
        await _cancels_itself_and_waits(message)
    except asyncio.CancelledError:
        raise Boom("instead") from None


STRAY = (
    _raises, _waits_then_raises, _awaits_what_was_cancelled, _awaits_a_task_that_it_cancels, _cancels_itself_and_waits,
    _waits_then_cancels_itself_and_waits, _cancels_itself_three_times_and_waits, _times_out_then_raises,
    _times_out_and_waits_then_raises, _loses_a_task_and_waits_then_raises, _cancels_itself_and_raises_another_error,
)  # fmt: skip


@pytest.mark.parametrize("wants_delivery", [False, True], ids=["message", "delivery"])
@one_or_three
@every_loop
@pytest.mark.parametrize("stray", STRAY, ids=[stray.__name__.strip("_").replace("_", "-") for stray in STRAY])
def test_s13_a_handler_that_cancels_itself_has_failed_and_the_next_message_is_untouched(
    stray: Callable[[Message], Any], callers: bool, workers: int, wants_delivery: bool
) -> None:
    """Nobody else cancelled it, so its message is dead with that error, and the next message is handled as usual."""
    handled: list[int] = []

    async def handle(message: Message) -> None:
        if message.body == "cancelled":
            await stray(message)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        handled.append(message.body)

    async def with_delivery(message: Message, delivery: Delivery) -> None:
        await handle(message)

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", with_delivery if wants_delivery else handle, workers=workers)
        for body in (1, "cancelled", 2, "cancelled", 3):
            bus.publish("s", body, key="in order")
        bus.drain(WAIT)

        assert handled == [1, 2, 3]
        error = "Boom" if "another" in stray.__name__ else "CancelledError"
        assert [letter.error.partition(":")[0] for letter in bus.dead_letters] == [error] * 2
        assert not bus.stopping
        assert_conserved(subscription, accepted=5)


async def _cancels_itself_and_ends(message: Message) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def _waits_then_cancels_itself_and_ends(message: Message) -> None:
    await asyncio.sleep(0)
    await _cancels_itself_and_ends(message)


async def _times_out_then_cancels_itself_and_ends(message: Message) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    await _cancels_itself_and_ends(message)


async def _swallows_its_own_cancellation(message: Message) -> None:
    with suppress(asyncio.CancelledError):
        await _cancels_itself_and_waits(message)


def _plain_cancels_its_task(message: Message) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


ENDS_WELL = (
    _cancels_itself_and_ends, _waits_then_cancels_itself_and_ends, _times_out_then_cancels_itself_and_ends,
    _swallows_its_own_cancellation, _plain_cancels_its_task,
)  # fmt: skip


@one_or_three
@every_loop
@pytest.mark.parametrize("stray", ENDS_WELL, ids=[stray.__name__.strip("_").replace("_", "-") for stray in ENDS_WELL])
@pytest.mark.few(5)
def test_s13_a_cancellation_that_a_handler_leaves_behind_does_not_touch_the_next_message(
    stray: Callable[[Message], Any], callers: bool, workers: int
) -> None:
    """If a handler cancels its own task and then ends well, its message is acknowledged, and the next one is not cancelled."""
    handled: list[int] = []

    async def next_one(message: Message) -> None:
        await asyncio.sleep(0)
        handled.append(message.body)

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", stray, run="loop", workers=workers)
        other = bus.subscribe("other", next_one, workers=workers)
        for body in range(5):
            bus.publish("s", body)
            bus.drain(WAIT)
            bus.publish("other", body)  # the worker that is free is the one that was cancelled
            bus.drain(WAIT)

        assert handled == list(range(5))
        assert subscription.stats()["acknowledged"] == other.stats()["acknowledged"] == 5
        assert len(bus.dead_letters) == 0


@every_loop
def test_s13_a_handler_whose_helper_cancels_it_is_not_run_for_ever(callers: bool) -> None:
    """
    The helper is a hand-made time-out. On the bus's own loop only the bus cancels handlers, so the handler has failed at once.
    On a caller's loop it may have been the caller, so the message is tried as often as its subscription allows.
    """
    attempts: list[int] = []

    async def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.Event().wait()

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", handle, attempts=3)
        bus.publish("s")
        bus.drain(WAIT)

        assert attempts == ([1, 2, 3] if callers else [1])
        assert subscription.stats()["dead"] == 1
        assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize(
    "moment", ["asleep", "ended-asleep", "before-its-first-step", "just-woken", "in-a-handler", "in-a-burst"]
)
@one_or_three
@pytest.mark.few(6)
def test_s13_whoever_cancels_all_tasks_of_his_loop_does_not_stop_the_bus(moment: str, workers: int) -> None:
    """Code may cancel `asyncio.all_tasks()` to clean up: the bus's workers are among them, and others replace them."""
    handled: list[Any] = []

    async def main() -> None:
        async with arunning() as bus:
            hold = AsyncHold(open=moment != "in-a-handler")

            async def handle(message: Message) -> None:
                await hold(message)
                handled.append(message.body)

            async def quick(message: Message) -> None:
                handled.append(message.body)

            subscription = bus.subscribe("s", quick if moment == "in-a-burst" else handle, workers=workers)
            if moment in ("asleep", "ended-asleep", "just-woken"):
                await bus.apublish("s", "warm up")
                await bus.adrain(WAIT)
            if "asleep" not in moment:
                for body in range(200 if moment == "in-a-burst" else 3):
                    bus.publish("s", body)
            if moment == "in-a-handler":
                await asyncio.to_thread(hold.wait_started)
            if moment == "in-a-burst" or not worker_tasks():
                await asyncio.sleep(0)  # so that it is made, and no more
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert others
            for task in others:
                task.cancel()
            if moment == "ended-asleep":
                await asyncio.gather(*others, return_exceptions=True)
            hold.open()
            await bus.apublish("s", "last")
            await bus.adrain(WAIT)

            count = 200 if moment == "in-a-burst" else 0 if "asleep" in moment else 3
            warm_up = ["warm up"] * ("asleep" in moment or moment == "just-woken")
            assert Counter(handled) == Counter([*warm_up, *range(count), "last"])
            assert len(bus.dead_letters) == 0
            assert_conserved(subscription, accepted=len(handled))

    amain(main)


# --- cancelled by a stop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wants_delivery", [False, True], ids=["message", "delivery"])
@one_or_three
@every_loop
def test_s13_a_handler_cancelled_by_a_stop_gives_its_message_back_unharmed(
    callers: bool, workers: int, wants_delivery: bool
) -> None:
    """A cancelled delivery makes no dead letter and counts no attempt; the next start handles all messages, in order."""
    attempts: list[tuple[int, int]] = []
    hold = AsyncHold()

    async def handle(message: Message) -> None:
        await hold(message)

    async def with_delivery(message: Message, delivery: Delivery) -> None:
        attempts.append((message.body, delivery.attempt))
        await hold(message)

    bus = Bus()
    subscription = bus.subscribe("s", with_delivery if wants_delivery else handle, workers=workers)
    with started_on_loop(bus, callers):
        for body in range(5):
            bus.publish("s", body)
        hold.wait_started(workers)
        report = bus.stop(timeout=0.0)

        assert report == StopReport(drained=False, left={subscription.name: 5})
        assert sorted(hold.cancelled) == list(range(workers))
        assert subscription.stats()["pending"] == 5
        assert len(bus.dead_letters) == 0
    hold.open()
    hold.given.clear()
    attempts.clear()
    with on_loop(bus, callers):
        bus.drain(WAIT)

        assert sorted(hold.given) == list(range(5))
        assert workers > 1 or hold.given == list(range(5))
        assert not wants_delivery or sorted(attempts) == [(body, 1) for body in range(5)]
        assert_conserved(subscription, accepted=5)


@every_loop
def test_s13_a_message_that_was_returned_before_keeps_its_count_when_it_is_cancelled(callers: bool) -> None:
    """If a stop cancels the second attempt, the next start makes the second attempt again."""
    attempts: list[int] = []
    hold = AsyncHold()

    async def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            delivery.retry()
            return
        await hold(message)

    bus = Bus()
    subscription = bus.subscribe("s", handle, attempts=2)
    with started_on_loop(bus, callers):
        bus.publish("s")
        hold.wait_started()
        bus.stop(timeout=0.0)
    hold.open()
    with on_loop(bus, callers):
        bus.drain(WAIT)

        assert attempts == [1, 2, 2]
        assert subscription.stats()["acknowledged"] == 1


@every_loop
def test_s13_filters_see_a_cancellation_and_cannot_make_a_failure_of_it(callers: bool) -> None:
    """A cancellation passes unchanged through an Around that repeats failures and a plain filter with a `finally`."""
    seen: list[str] = []
    hold = AsyncHold()

    @around
    def again(message: Message) -> Any:
        for _ in range(3):
            try:
                return (yield message)
            except Exception as error:
                seen.append(repr(error))
        raise Boom("never")

    async def tidy(message: Message, call_next: Any) -> Any:
        try:
            return await call_next(message)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("tidied")

    bus = Bus()
    bus.use(again, at="delivery")
    subscription = bus.subscribe("s", hold, filters=[tidy])
    with started_on_loop(bus, callers):
        bus.publish("s")
        hold.wait_started()
        bus.stop(timeout=0.0)

    assert seen == ["cancelled", "tidied"]
    assert subscription.stats()["pending"] == 1
    assert len(bus.dead_letters) == 0


@pytest.mark.parametrize("wants_delivery", [False, True], ids=["message", "delivery"])
@pytest.mark.parametrize("way", ["to", "reply"])
@every_loop
def test_s13_a_handler_cancelled_while_its_value_is_published_gives_its_message_back(
    way: str, callers: bool, wants_delivery: bool
) -> None:
    """When a stop finds the value in an async publish filter, there is no dead letter, and the message comes again."""
    standing, go_on = threading.Event(), threading.Event()
    bus = Bus()

    @bus.use
    async def stand(message: Message, call_next: Any) -> Any:
        if message.body == "the value" and not go_on.is_set():
            standing.set()
            await asyncio.Event().wait()
        return await call_next(message)

    async def handle(message: Message) -> str:
        return "the value"

    async def with_delivery(message: Message, delivery: Delivery) -> str:
        return "the value"

    handler = with_delivery if wants_delivery else handle
    subscription = bus.subscribe("s", handler, to="out" if way == "to" else None)
    out = bus.subscribe("out")
    with started_on_loop(bus, callers):
        asker = InThread(bus.request, "s", timeout=LONG) if way == "reply" else InThread(bus.publish, "s")
        assert standing.wait(WAIT)
        bus.stop(timeout=0.0)
        if way == "reply":
            with pytest.raises(BusClosed):
                asker.result()

        assert len(bus.dead_letters) == 0
        assert subscription.stats()["pending"] == 1
    go_on.set()
    with on_loop(bus, callers):
        bus.drain(WAIT)
        assert subscription.stats()["acknowledged"] == 1
        assert out.stats()["accepted"] == (way == "to")


@one_or_three
@every_loop
def test_s25_a_stop_in_the_middle_of_a_burst_loses_no_message_and_no_mailbox(callers: bool, workers: int) -> None:
    """Ten stops cut off handlers that never wait between two messages, and each message is handled once in the end."""
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    bus = Bus()
    subscriptions = [bus.subscribe("s", handle, workers=workers), bus.subscribe("t", handle, workers=workers)]
    published = 0
    for _ in range(10):
        with started_on_loop(bus, callers):
            for _ in range(300):
                bus.publish("s" if published % 3 else "t", published)
                published += 1
            bus.stop(timeout=0.0, drain=False)
            assert_conserved(*subscriptions)
    with on_loop(bus, callers):
        bus.drain(WAIT)

        assert sorted(handled) == list(range(published))
        assert len(bus.dead_letters) == 0


@every_loop
def test_s25_a_stop_waits_for_handlers_and_not_for_workers_that_have_nothing_to_do(callers: bool) -> None:
    """When the last running handler ends, the stop is over, although other workers sleep and there is time left."""
    hold = AsyncHold()
    tasks: list[asyncio.Task[Any]] = []

    async def sleeper(message: Message) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)

    bus = Bus()
    subscription = bus.subscribe("s", hold)
    bus.subscribe("other", sleeper)
    with started_on_loop(bus, callers):
        bus.publish("s")
        hold.wait_started()
        bus.publish("other")
        wait_until(lambda: bool(tasks), "a worker has worked")
        stop = InThread(bus.stop, LONG, drain=False)
        wait_until(lambda: tasks[0].done(), "who sleeps has ended")
        hold.open()

        assert not stop.result().abandoned
        assert subscription.stats()["acknowledged"] == 1


def test_s25_an_error_that_leaves_the_async_block_stops_without_draining() -> None:
    """Running handlers may finish, waiting messages are left over, and the error propagates."""
    bus = Bus()
    hold = AsyncHold()
    subscription = bus.subscribe("s", hold)

    def open_when_it_is_closed() -> None:
        wait_until(lambda: bus.state == "stopped", "the bus takes nothing more")
        hold.open()

    async def main() -> None:
        async with bus:
            for body in range(5):
                await bus.apublish("s", body)
            await asyncio.to_thread(hold.wait_started)
            raise Boom("in the block")

    opener = InThread(open_when_it_is_closed)
    with pytest.raises(Boom):
        asyncio.run(main())
    opener.result()

    assert bus.state == "stopped"
    assert hold.given == [0]
    assert subscription.stats()["acknowledged"] == 1
    assert subscription.stats()["pending"] == 4
    assert_conserved(subscription, accepted=5)


# --- handlers that do not end ------------------------------------------------------------------------------------------


class Block:
    """A call that blocks its thread until the test frees it."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._free = threading.Event()

    def __call__(self) -> None:
        self._entered.set()
        assert self._free.wait(3 * WAIT)

    def wait_entered(self) -> None:
        assert self._entered.wait(WAIT)

    def free(self) -> None:
        self._free.set()


class Stubborn:
    """An async handler that swallows every cancellation until the test lets it end."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.errors: list[BaseException] = []
        self.started = threading.Event()
        self.ended = threading.Event()
        self.go: asyncio.Event
        self.afterwards: Callable[[], Any] = lambda: None

    async def __call__(self, message: Message) -> None:
        self.given.append(message.body)
        if message.body != "stubborn":
            return
        self.go = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.started.set()
        while not self.go.is_set():
            with suppress(asyncio.CancelledError):
                await self.go.wait()
        try:
            await self.afterwards()
        except BaseException as error:
            self.errors.append(error)
        self.ended.set()

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self.go.set)
        assert self.ended.wait(WAIT)


def test_s25_a_handler_that_swallows_its_cancellation_is_abandoned_and_reported() -> None:
    """The stop does not wait for the handler, the report names its subscription, and its later publishes are refused."""
    stubborn = Stubborn()
    bus = Bus()
    stubborn.afterwards = lambda: bus.apublish("s", "too late")
    with LoopInThread() as loop:
        loop.run(bus.astart())
        subscription = bus.subscribe("s", stubborn, name="stubborn-one")
        bus.publish("s", "stubborn")
        bus.publish("s", "behind it")
        assert stubborn.started.wait(WAIT)
        report = bus.stop(timeout=0.0)

        assert not report.drained
        assert report.left == {"stubborn-one": 1}
        assert [name for name in report.abandoned if "stubborn-one" in name]
        stubborn.let_go()
        (error,) = stubborn.errors
        assert isinstance(error, BusClosed)
        assert stubborn.given == ["stubborn"]
        assert_conserved(subscription, accepted=2)


@one_or_three
@every_loop
@pytest.mark.parametrize("first_on", ["own-loop-first", "callers-loop-first"])
@pytest.mark.thorough
def test_s25_an_abandoned_handler_does_not_disturb_the_bus_that_is_started_again(
    first_on: str, callers: bool, workers: int
) -> None:
    """When such a handler ends at last on its old loop, its worker takes nothing more; the new loop handles everything once."""
    stubborn = Stubborn()
    places: list[tuple[Any, asyncio.AbstractEventLoop]] = []

    async def handle(message: Message) -> None:
        places.append((message.body, asyncio.get_running_loop()))
        await asyncio.sleep(0)

    async def stubborn_or_not(message: Message) -> None:
        await (stubborn if message.body == "stubborn" else handle)(message)

    bus = Bus()
    one = bus.subscribe("s", stubborn_or_not, workers=workers)
    two = bus.subscribe("t", handle, workers=workers)
    with LoopInThread("old-loop") as old, LoopInThread("new-loop") as new:
        if first_on == "callers-loop-first":
            old.run(bus.astart())
        else:
            bus.start()
        bus.publish("s", "stubborn")
        assert stubborn.started.wait(WAIT)
        one.pause()
        for number in range(5):
            bus.publish("s", f"behind it {number}")
        bus.stop(timeout=0.0)
        one.resume()
        if callers:
            new.run(bus.astart())
        with running(bus):
            for number in range(10):
                bus.publish("t", f"early {number}")
            stubborn.let_go()
            for number in range(10):
                bus.publish("t", f"late {number}")
                bus.publish("s", f"late for s {number}")
            bus.drain(WAIT)

            assert stubborn.given == ["stubborn"]
            assert Counter(body.rstrip("0123456789") for body, _ in places) == {
                "behind it ": 5, "early ": 10, "late ": 10, "late for s ": 10,
            }  # fmt: skip
            assert stubborn.loop not in {loop for _, loop in places}
            assert len({loop for _, loop in places}) == 1
            assert_conserved(one, accepted=16)
            assert_conserved(two, accepted=20)
        assert not old.call(worker_tasks)


@every_loop
@pytest.mark.thorough
def test_s25_a_handler_that_blocks_its_loop_is_abandoned_and_the_bus_can_be_started_again(callers: bool) -> None:
    """Nobody can cancel such a handler, and its old loop does not disturb the workers of the next start."""
    blocked, free = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    async def block(message: Message) -> None:
        blocked.set()
        assert free.wait(3 * WAIT)

    bus = Bus()
    blocking = bus.subscribe("block", block, name="blocking")
    other = AsyncHold()
    waiting = bus.subscribe("other", other)
    with LoopInThread("old-loop") as old:
        if callers:
            old.run(bus.astart())
        else:
            bus.start()
        bus.publish("block")
        assert blocked.wait(WAIT)
        bus.publish("other", "before the stop")
        report = bus.stop(timeout=0.0)
        assert [name for name in report.abandoned if "blocking" in name]
        assert len(report.abandoned) == (1 if callers else 2)  # its own loop's thread is abandoned, too
        assert report.left == {waiting.name: 1}

        with running(bus):
            other.wait_started()
            bus.publish("other", "after the start")
            free.set()
            wait_until(lambda: blocking.stats()["in_flight"] == 0, "the blocking one has ended")
            old.call(lambda: None)
            assert other.cancelled == []
            assert other.given == ["before the stop"]
            other.open()
            bus.drain(WAIT)

            assert other.given == ["before the stop", "after the start"]
            assert_conserved(blocking, accepted=1)
    wait_until(lambda: set(threading.enumerate()) <= before, "the abandoned loop has ended too")


@pytest.mark.thorough
def test_s25_a_worker_that_is_cancelled_before_it_began_leaves_its_mailbox_to_the_next_start() -> None:
    """If the loop is blocked from the publish until the stop, the next start handles the message."""
    blocked, free = threading.Event(), threading.Event()
    hold = Hold(open=True)

    def block(message: Message) -> None:
        blocked.set()
        assert free.wait(3 * WAIT)

    async def handle(message: Message) -> None:
        hold(message)

    bus = Bus()
    bus.start()
    bus.subscribe("block", block, run="loop")
    subscriptions = [bus.subscribe("s", handle), bus.subscribe("s", handle, workers=3)]
    bus.publish("block")
    assert blocked.wait(WAIT)
    for body in range(3):
        bus.publish("s", body)
    bus.stop(timeout=0.0)
    free.set()
    with running(bus):
        bus.drain(WAIT)

        assert sorted(hold.given) == [0, 0, 1, 1, 2, 2]
        assert_conserved(*subscriptions, accepted=3)


@pytest.mark.thorough
def test_s25_a_thread_that_a_handler_has_left_behind_is_waited_for_and_reported() -> None:
    """A thread of `asyncio.to_thread` cannot be cancelled, so the bus's loop ends after it."""
    before = set(threading.enumerate())
    hold = Hold()

    async def handle(message: Message) -> None:
        await asyncio.to_thread(hold, message)

    bus = Bus()
    bus.start()
    subscription = bus.subscribe("s", handle)
    bus.publish("s")
    hold.wait_started()
    report = bus.stop(timeout=0.0)

    assert report.left == {subscription.name: 1}
    assert [name for name in report.abandoned if "loop" in name]
    hold.open()
    wait_until(lambda: set(threading.enumerate()) <= before, "the threads have ended")


@pytest.mark.thorough
def test_s25_a_worker_that_begins_after_the_stop_leaves_the_message_to_the_new_loop() -> None:
    """A worker whose loop is blocked before its first step leaves the message to the loop on which the bus runs by then."""
    handled: list[tuple[Any, asyncio.AbstractEventLoop]] = []
    first, second, third = Block(), Block(), Block()

    async def handle(message: Message) -> None:
        handled.append((message.body, asyncio.get_running_loop()))

    def stand(message: Message) -> None:
        third()

    bus = Bus()
    standing = bus.subscribe("stand", stand, run="loop")
    subscription = bus.subscribe("s", handle)
    with LoopInThread("old-loop") as old:
        old.run(bus.astart())
        standing.pause()
        bus.publish("stand")
        old.loop.call_soon_threadsafe(first)
        first.wait_entered()
        bus.publish("s", "a message")
        old.loop.call_soon_threadsafe(second)
        first.free()
        second.wait_entered()
        report = bus.stop(timeout=0.0)
        assert report.left == {standing.name: 1, subscription.name: 1}
        standing.resume()
        with running(bus):
            third.wait_entered()  # the new loop has not come to the message yet
            second.free()
            old.call(lambda: None)
            third.free()
            bus.drain(WAIT)

            assert [body for body, _ in handled] == ["a message"]
            assert handled[0][1] is not old.loop
            assert_conserved(subscription, accepted=1)


# --- a loop that ends before the bus -----------------------------------------------------------------------------------


@one_or_three
@pytest.mark.parametrize("ending", ["in-a-handler", "in-a-burst", "before-the-first-step", "when-a-sleeper-was-woken"])
def test_s25_asyncio_run_that_ends_without_astop_loses_nothing(ending: str, workers: int) -> None:
    """Although the loop is gone, `stop` reports what is left, and a new start handles it without a counted attempt."""
    attempts: Counter[int] = Counter()
    handled: list[int] = []
    over = [False]

    async def handle(message: Message, delivery: Delivery) -> None:
        attempts[message.body] = delivery.attempt
        if ending == "in-a-handler" and not over[0]:
            await asyncio.Event().wait()
        handled.append(message.body)

    bus = Bus()
    subscription = bus.subscribe("s", handle, workers=workers)

    async def main() -> None:
        await bus.astart()
        if ending == "when-a-sleeper-was-woken":
            bus.publish("s", -1)
            await bus.adrain(WAIT)
            assert handled == [-1]
        if ending in ("in-a-handler", "in-a-burst"):
            for body in range(200):
                bus.publish("s", body)
            for _ in range(3):
                await asyncio.sleep(0)
        else:
            asyncio.get_running_loop().call_soon(bus.publish, "s", 0)

    amain(main)
    over[0] = True
    accepted = subscription.stats()["accepted"]
    report = bus.stop(timeout=0.0)
    assert report.abandoned == ()
    assert sum(report.left.values()) == accepted - len(handled)
    assert len(bus.dead_letters) == 0
    with running(bus):
        bus.drain(WAIT)

        assert sorted(body for body in handled if body >= 0) == list(range(200 if "-a-" in ending[:5] else 1))
        assert set(attempts.values()) == {1}
        assert_conserved(subscription, accepted=accepted)


def test_s25_asyncio_run_ends_even_if_handlers_clean_up_with_tasks() -> None:
    """Some handlers start a task when they are cancelled: all messages still go back, and `asyncio.run` ends."""
    cleaned: list[str] = []

    async def clean_up(name: str) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        cleaned.append(name)

    async def cleans_up(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.create_task(clean_up(message.subject))
            raise

    async def waits(message: Message) -> None:
        await asyncio.Event().wait()

    bus = Bus()
    subscriptions = [bus.subscribe(f"s.{n}", cleans_up if n % 2 else waits) for n in range(6)]

    async def main() -> None:
        await bus.astart()
        for number in range(6):
            bus.publish(f"s.{number}")
        for _ in range(5):
            await asyncio.sleep(0)

    amain(main)
    report = bus.stop(timeout=0.0)

    assert sorted(cleaned) == ["s.1", "s.3", "s.5"]
    assert sum(report.left.values()) == 6
    assert len(bus.dead_letters) == 0
    assert_conserved(*subscriptions, accepted=1)


@one_or_three
def test_s25_asyncio_run_ends_even_if_a_handler_lets_its_cancellation_pass(workers: int) -> None:
    """A handler that swallows its cancellation and ends well is acknowledged, the rest is left, and `asyncio.run` ends."""
    started = threading.Event()

    async def handle(message: Message) -> None:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    bus = Bus()
    subscription = bus.subscribe("s", handle, workers=workers)

    async def main() -> None:
        await bus.astart()
        for body in range(5):
            bus.publish("s", body)
        await until(started)

    amain(main)

    assert bus.stop(timeout=0.0).left == {subscription.name: 5 - workers}
    assert subscription.stats()["acknowledged"] == workers
    assert_conserved(subscription, accepted=5)


@one_or_three
def test_s25_asyncio_run_ends_even_if_handlers_feed_each_other_for_ever(workers: int) -> None:
    """Such handlers never wait and always have a next message, so the bus cuts them off between two messages."""
    handled: list[Any] = []

    async def feed_myself(message: Message) -> None:
        handled.append(message.body)
        bus.publish("endless", len(handled))

    bus = Bus(max_hops=sys.maxsize)
    subscription = bus.subscribe("endless", feed_myself, workers=workers)

    async def main() -> None:
        await bus.astart()
        for _ in range(workers):
            bus.publish("endless")
        for _ in range(10):
            await asyncio.sleep(0)

    amain(main)

    assert bus.stop(timeout=0.0).left == {subscription.name: workers}
    assert len(bus.dead_letters) == 0
    assert_conserved(subscription, accepted=len(handled) + workers)


def test_s25_what_comes_after_the_loop_has_ended_is_kept_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Messages are still accepted although no loop runs: the log says why, and the next start handles them."""
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    bus = Bus()
    subscription = bus.subscribe("s", handle)

    async def main() -> None:
        await bus.astart()
        await bus.apublish("s", 0)
        await bus.adrain(WAIT)

    asyncio.run(main())
    with caplog.at_level(logging.WARNING, logger="pipebus"):
        for body in (1, 2):
            bus.publish("s", body)
    assert "loop.closed" in caplog.text
    assert "async with bus" in caplog.text
    assert bus.stop(timeout=0.0).left == {subscription.name: 2}
    with running(bus):
        bus.drain(WAIT)
        assert handled == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@one_or_three
@pytest.mark.parametrize("again", ["astart", "start"])
@pytest.mark.parametrize("end", ["asyncio.run", "asyncio.run-waits-for-a-thread", "closed-under-handlers"])
def test_s32_a_started_bus_goes_on_with_the_next_start_if_its_loop_is_closed(end: str, again: str, workers: int) -> None:
    """What a handler had in hand, what waited and what came in between is handled, without a counted attempt."""
    attempts: Counter[int] = Counter()
    handled: list[tuple[int, asyncio.AbstractEventLoop]] = []
    held = threading.Event()
    over = [False]

    async def handle(message: Message, delivery: Delivery) -> None:
        attempts[message.body] = delivery.attempt
        held.set()
        if not over[0]:
            await asyncio.Event().wait()
        handled.append((message.body, asyncio.get_running_loop()))

    bus = Bus()
    subscription = bus.subscribe("s", handle, workers=workers)

    async def first() -> None:
        await bus.astart()
        for body in range(5):
            bus.publish("s", body)
        await until(held)
        if end == "asyncio.run-waits-for-a-thread":
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait, 3 * SOON)

    def whole_life_of_a_loop() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(first())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.set_exception_handler(lambda *_: None)  # asyncio says that a task was destroyed: that is what this is about
        loop.close()

    async def second() -> asyncio.AbstractEventLoop:
        await bus.astart()
        await bus.adrain(WAIT)
        return asyncio.get_running_loop()

    InThread(whole_life_of_a_loop if end == "closed-under-handlers" else lambda: asyncio.run(first())).result()
    over[0] = True
    bus.publish("s", 5)
    if again == "astart":
        loop = amain(second)
        assert {used for _, used in handled} == {loop}
    else:
        bus.start()
        bus.drain(WAIT)
    assert sorted(body for body, _ in handled) == list(range(6))
    assert set(attempts.values()) == {1}
    assert_conserved(subscription, accepted=6)
    assert bus.stop(WAIT).drained


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@one_or_three
@pytest.mark.parametrize("begun", [True, False], ids=["in-a-handler", "before-the-first-step"])
def test_s25_a_loop_that_is_closed_under_a_handler_gives_its_message_to_the_next_start(begun: bool, workers: int) -> None:
    """If the loop is closed while a handler waits, the bus can still be stopped and started again."""
    handled: list[int] = []
    started = threading.Event()
    over = [False]
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    found: list[str] = []

    async def handle(message: Message) -> None:
        variable.set("by the handler")
        started.set()
        try:
            if not over[0]:
                await asyncio.Event().wait()
        finally:
            found.append(variable.get())
        handled.append(message.body)

    bus = Bus()
    subscription = bus.subscribe("s", handle, workers=workers)

    def publish() -> None:
        for body in range(5):
            bus.publish("s", body)

    async def main() -> None:
        await bus.astart()
        if begun:
            publish()
            await until(started)
        else:
            bus.subscribe("warm.up", afine)
            await bus.apublish("warm.up")
            await bus.adrain(WAIT)  # so that what is published on the loop is spread at once
            asyncio.get_running_loop().call_soon(publish)

    def whole_life_of_a_loop() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        if begun:
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.set_exception_handler(lambda *_: None)  # asyncio says that a task was destroyed: that is what this is about
        loop.close()

    InThread(whole_life_of_a_loop).result()
    gc.collect()
    over[0] = True
    report = bus.stop(timeout=0.0)
    assert report.abandoned == ()
    assert report.left == {subscription.name: 5}
    assert started.is_set() == begun
    with running(bus):
        bus.publish("s", 5)
        bus.drain(WAIT)

        assert sorted(handled) == list(range(6))
        assert set(found) == {"by the handler"}  # a `finally` runs in its handler's context, then too
        assert len(bus.dead_letters) == 0
        assert_conserved(subscription, accepted=6)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_s13_an_interrupt_in_a_task_of_a_handlers_ends_nobody_elses_work(interrupt: type[BaseException]) -> None:
    """asyncio raises such an error out of its loop, but the bus's loop continues for the others, and a stop is requested."""

    async def interrupted() -> None:
        raise interrupt

    async def handle(message: Message) -> None:
        await asyncio.create_task(interrupted())

    bus = Bus()
    bus.start()
    subscription = bus.subscribe("s", handle)
    other = AsyncHold()
    bus.subscribe("other", other)
    bus.publish("other", 1)
    other.wait_started()
    bus.publish("s")
    wait_until(lambda: bus.stopping, "a stop is requested")
    other.open()
    bus.publish("other", 2)
    wait_until(lambda: subscription.stats()["in_flight"] == 0, "the message has gone back")
    with pytest.raises(SystemExit) if interrupt is SystemExit else nullcontext():
        bus.stop(timeout=WAIT)
    report = bus.stop()

    assert other.given == [1, 2]
    assert report.left == {subscription.name: 1}
    assert report.abandoned == ()
    assert_conserved(subscription, accepted=1)


def passes(message: Message) -> Message:
    """A filter that passes every message on unchanged."""
    return message


@pytest.mark.parametrize(
    ("observed", "options"),
    [
        pytest.param(False, {}, id="plain"),
        pytest.param(True, {}, id="observed"),
        pytest.param(False, {"workers": 2}, id="several-workers"),
        pytest.param(False, {"filters": [transform(passes)]}, id="filtered"),
    ],
)
@pytest.mark.parametrize("end", ["waits", "fails"])
def test_s13_a_handler_whose_loop_is_closed_under_it_gives_its_message_back_however_it_ends(
    end: str, observed: bool, options: dict[str, Any]
) -> None:
    """A handler that waits or fails in its `finally` has not failed its message, and the next start handles it."""
    handled: list[Any] = []
    started = threading.Event()

    async def handle(message: Message) -> None:
        if started.is_set():
            handled.append(message.body)
            return
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            if end == "fails":
                raise ValueError("in a finally")
            await asyncio.sleep(0)

    bus = Bus()
    if observed:
        Ear(bus)
    subscription = bus.subscribe("s", handle, **options)

    async def main() -> None:
        await bus.astart()
        bus.publish("s", "once")
        await until(started)

    def whole_life_of_a_loop() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.set_exception_handler(lambda *_: None)  # asyncio says that a task was destroyed: that is what this is about
        loop.close()

    InThread(whole_life_of_a_loop).result()
    assert bus.stop(timeout=0.0).left == {subscription.name: 1}
    assert not bus.dead_letters
    with running(bus):
        bus.drain(WAIT)

        assert handled == ["once"]
        assert_conserved(subscription, accepted=1)


def test_s25_a_start_that_fails_leaves_no_loop_behind() -> None:
    """After an async `start` that raises, no thread is left, whether the bus is stopped or not, and the next start works."""

    class Fails(Transform):
        failing = True

        async def start(self, context: Any) -> None:
            if self.failing:
                raise Boom("cannot start")

        def transform(self, message: Message) -> Message:
            return message

    before = set(threading.enumerate())
    bus, fails = Bus(), Fails()
    bus.use(fails)
    with pytest.raises(Boom):
        bus.start()

    wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")
    fails.failing = False
    with running(bus):
        bus.subscribe("s", afine)
        bus.publish("s")


# --- twins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["bus", "sub"])
def test_s30_a_plain_block_in_a_coroutine_is_refused_at_its_beginning(block: str) -> None:
    """Its end would stop the loop. An error there would hide the program's own, and leave the bus running."""
    bus = Bus()
    subscription = bus.subscribe("s")

    async def main() -> None:
        with bus if block == "bus" else subscription:
            raise AssertionError("the block was let in")

    with pytest.raises(LifecycleError, match=f"`async with {block}`"):
        asyncio.run(main())
    assert bus.state == "new"
    assert bus.subscriptions == [subscription]


def test_s30_run_in_a_coroutine_is_refused_at_once() -> None:
    """It would stop the loop for as long as the bus runs."""
    bus = Bus()

    async def main() -> None:
        bus.run()

    with pytest.raises(LifecycleError, match=r"`await bus\.arun\(\)`"):
        amain(main)
    assert bus.state == "new"


@pytest.mark.parametrize("call", ["publish", "apublish", "arequest"])
def test_s27_on_a_loop_a_bus_that_is_not_started_names_the_async_block(call: str) -> None:
    """There `with bus` is of no use, so the error does not name it."""

    async def main() -> None:
        found = getattr(Bus(), call)("s", 1)
        if call != "publish":
            await found

    with pytest.raises(BusNotStarted, match=r"`async with bus:` or `await bus\.astart\(\)`"):
        asyncio.run(main())


@pytest.mark.parametrize("where", ["async-handler", "plain-on-loop", "coroutine"])
@pytest.mark.parametrize("call", ["receive", "delivery", "for", "stop", "unsubscribe", "drain", "request"])
def test_s30_what_would_stop_a_running_loop_raises_and_names_its_twin(where: str, call: str) -> None:
    """Handlers on loops, of both colours, and other coroutines get an error at once that says what to write instead."""
    refused: list[str] = []

    def try_it(bus: Bus, inbox: Any) -> None:
        def read_one() -> None:
            with inbox.delivery(timeout=LONG):
                pass

        calls: dict[str, Callable[[], object]] = {
            "receive": lambda: inbox.receive(timeout=LONG),
            "delivery": read_one,
            "for": lambda: next(iter(inbox)),
            "stop": lambda: bus.stop(timeout=LONG),
            "unsubscribe": lambda: inbox.unsubscribe(LONG),
            "drain": lambda: bus.drain(LONG),
            "request": lambda: bus.request("nobody", timeout=LONG),
        }
        try:
            calls[call]()
        except (LifecycleError, PipelineError) as error:
            refused.append(str(error))

    async def main() -> None:
        async with arunning() as bus:
            inbox = bus.subscribe("inbox")

            async def ahandle(message: Message) -> None:
                try_it(bus, inbox)

            def handle(message: Message) -> None:
                try_it(bus, inbox)

            if where == "coroutine":
                try_it(bus, inbox)
            else:
                bus.subscribe("s", ahandle if where == "async-handler" else handle, run="loop")
                await bus.apublish("s")
                await bus.adrain(WAIT)
            assert bus.state == "started"

    asyncio.run(main())
    if call == "stop" and where != "coroutine":
        assert refused == []  # in a handler it only requests
    elif call == "drain" and where != "coroutine":
        assert "handler" in refused[0]
    else:
        twin = {"for": "areceive"}.get(call, f"a{call}")
        assert [text for text in refused if twin in text], refused


@every_loop
def test_s25_astop_in_a_handler_only_requests(callers: bool) -> None:
    """Like `stop`, it returns at once, and the handler runs until it finishes."""
    reports: list[StopReport] = []

    async def handle(message: Message) -> None:
        reports.append(await bus.astop(timeout=LONG))

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)

        assert reports == [StopReport(drained=False)]
        assert bus.stopping
        assert bus.state == "started"
        assert subscription.stats()["acknowledged"] == 1


@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_s25_astop_in_an_async_filter_only_requests(at: Any) -> None:
    """`astop` only requests a stop on both sides of the mailbox, and the message passes."""
    reports: list[StopReport] = []

    async def main() -> None:
        bus = Bus()

        @bus.use
        async def let_pass(message: Message, call_next: Any) -> Any:
            return await call_next(message)

        async def stop(message: Message, call_next: Any) -> Any:
            reports.append(await bus.astop(timeout=LONG))
            return await call_next(message)

        if at == "publish":
            bus.use(stop)
        async with arunning(bus):
            subscription = bus.subscribe("s", afine, filters=[stop] if at == "delivery" else [])
            assert await bus.apublish("s")
            await bus.adrain(WAIT)

            assert reports == [StopReport(drained=False)]
            assert bus.stopping
            assert bus.state == "started"
            assert subscription.stats()["acknowledged"] == 1

    asyncio.run(main())


@every_loop
def test_s25_adrain_in_a_handler_raises_at_once(callers: bool) -> None:
    """`adrain` in a handler would wait for that handler, so it raises."""
    errors: list[str] = []

    async def handle(message: Message) -> None:
        try:
            await bus.adrain(timeout=LONG)
        except LifecycleError as error:
            errors.append(str(error))

    with on_loop(Bus(), callers) as bus:
        bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)

    assert len(errors) == 1
    assert "handler" in errors[0]


def test_s25_many_coroutines_may_drain_and_unsubscribe_at_once() -> None:
    """Two hundred coroutines wait for a handler that needs a thread itself, and they take no thread away from it."""

    async def main() -> None:
        async with arunning() as bus:
            hold = AsyncHold()

            async def handle(message: Message) -> None:
                await hold(message)
                await asyncio.to_thread(lambda: None)

            subscription = bus.subscribe("s", handle)
            await bus.apublish("s")
            await asyncio.to_thread(hold.wait_started)
            drains = [asyncio.create_task(bus.adrain(WAIT)) for _ in range(100)]
            ends = [asyncio.create_task(subscription.aunsubscribe(WAIT)) for _ in range(100)]
            for _ in range(10):
                await asyncio.sleep(0)
            hold.open()
            await asyncio.gather(*drains, *ends)

            assert subscription.stats()["acknowledged"] == 1

    asyncio.run(main())


def test_s26_an_aunsubscribe_that_runs_out_of_time_says_so() -> None:
    """If a handler does not end in time, `aunsubscribe` raises TimeoutError, and no other handler starts."""

    async def main() -> None:
        async with arunning() as bus:
            hold = AsyncHold()
            subscription = bus.subscribe("s", hold, name="slow")
            for body in range(3):
                await bus.apublish("s", body)
            await asyncio.to_thread(hold.wait_started)
            with pytest.raises(TimeoutError, match="slow"):
                await subscription.aunsubscribe(timeout=0.0)
            hold.open()
            await bus.adrain(WAIT)
            assert hold.given == [0]
            assert subscription.stats()["dropped"] == {"unsubscribed": 2}

    asyncio.run(main())


def test_s26_a_subscription_used_as_an_async_block_ends_with_it() -> None:
    """When the block of `async with bus.subscribe(…)` is over, no handler runs, and none will run."""

    async def main() -> None:
        async with arunning() as bus:
            hold = AsyncHold(open=True)
            async with bus.subscribe("s", hold) as subscription:
                await bus.apublish("s", 1)
                await asyncio.to_thread(hold.wait_started)
            assert not (await bus.apublish("s", 2)).mailboxes
            assert hold.given == [1]
            assert_conserved(subscription, accepted=1)

    asyncio.run(main())


@every_loop
def test_s25_a_task_that_a_handler_leaves_behind_is_an_outsider(callers: bool) -> None:
    """When the handler has ended, a task that it started may drain, read its subscription, and wait for room there."""
    results: list[Any] = []
    done, go = threading.Event(), threading.Event()
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await until(go)
        try:
            await bus.adrain(WAIT)
            results.append((await bus.arequest("s", "question")).body)
            results.append(await bus.apublish("s", "question"))
        except Exception as error:
            results.append(error)
        done.set()

    async def handle(message: Message) -> str | None:
        if message.body == "question":
            return "answer"
        tasks.append(asyncio.create_task(later()))
        return None

    with on_loop(Bus(), callers) as bus:
        bus.subscribe("s", handle)
        bus.publish("s", "start")
        bus.drain(WAIT)
        go.set()
        assert done.wait(WAIT)

    assert results[0] == "answer"
    assert results[1]


def test_s25_what_an_async_filter_does_in_a_handlers_publish_belongs_to_that_handler() -> None:
    """It may publish while the bus drains, as the handler may, and it does not wait for room in the handler's own mailbox."""
    refused: list[str] = []
    audited: list[Any] = []
    bus = Bus()

    @bus.use
    async def audit(message: Message, call_next: Any) -> Any:
        if message.subject == "second":
            await bus.apublish("audit", message.body)
            try:
                await bus.apublish("first", "again")
            except MailboxFull as error:
                refused.append(str(error))
        return await call_next(message)

    with running(bus):
        hold = Hold()

        def pass_on(message: Message) -> None:
            hold(message)
            bus.publish("second", message.body)

        bus.subscribe("first", pass_on, mailbox=1, overflow_timeout=LONG)
        bus.subscribe("second", fine)
        bus.subscribe("audit", lambda message: audited.append(message.body))
        bus.publish("first", 1)
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        wait_until(lambda: bus.state == "draining", "the bus drains")
        hold.open()

        assert stop.result().drained
        assert audited == [1]
        assert len(refused) == 1
        assert "its own handler" in refused[0]


@pytest.mark.parametrize("sets", [False, True], ids=["as-it-is", "with-a-variable"])
@one_or_three
@every_loop
def test_s25_a_task_that_a_handler_leaves_behind_is_an_outsider_while_the_next_one_runs(
    callers: bool, workers: int, sets: bool
) -> None:
    """The task does not count as part of the next message, although the worker has gone straight on to that message."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    results: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    go = threading.Event()
    hold = AsyncHold()

    async def later() -> None:
        if sets:
            variable.set("by the task")
        await until(go)
        try:
            await bus.adrain(timeout=0.0)
        except Exception as error:
            results.append(error)

    async def handle(message: Message) -> None:
        if message.body == "first":
            tasks.append(asyncio.create_task(later()))
            await asyncio.sleep(0)
        else:
            await hold(message)

    with on_loop(Bus(), callers) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        subscription.pause()
        for body in ("first", "second"):
            bus.publish("s", body, key="in order")
        subscription.resume()
        hold.wait_started()
        go.set()
        wait_until(lambda: bool(results), "the task has tried to drain")
        hold.open()

    assert isinstance(results[0], DrainTimeout), results  # not: "drain in a handler"


def _waiting_chain(bus: Bus, plain: Callable[[Message], object]) -> None:
    """A publish chain with a plain filter and one that may wait, so that a coroutine's publish passes it on a thread."""

    @around
    def may_wait(message: Message) -> Any:
        yield message

    may_wait.waits = True

    @bus.use
    def call_it(message: Message, call_next: Any) -> Any:
        plain(message)
        return call_next(message)

    bus.use(may_wait)


def test_s25_what_a_plain_filter_does_in_a_coroutines_publish_belongs_to_that_handler() -> None:
    """The chain runs on a thread because it may wait, and what its filter publishes during a drain counts as the handler's."""
    audited: list[Any] = []
    bus = Bus()
    _waiting_chain(bus, lambda message: message.subject == "second" and bus.publish("audit", message.body))
    with running(bus):
        hold = AsyncHold()

        async def pass_on(message: Message) -> None:
            await hold(message)
            await bus.apublish("second", message.body)

        bus.subscribe("first", pass_on)
        bus.subscribe("second", fine)
        bus.subscribe("audit", lambda message: audited.append(message.body))
        bus.publish("first", 1)
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        wait_until(lambda: bus.state == "draining", "the bus drains")
        hold.open()

        assert stop.result().drained
        assert audited == [1]
        assert len(bus.dead_letters) == 0


@pytest.mark.parametrize("error", [TimeoutError("late"), asyncio.CancelledError("cut"), Boom("boom")], ids=repr)
def test_s03_an_error_of_a_chain_that_runs_on_a_thread_reaches_the_coroutine_as_it_is(error: BaseException) -> None:
    """The coroutine gets the same error object, also where asyncio would make another one."""
    bus = Bus()

    def fail(message: Message) -> None:
        raise error

    _waiting_chain(bus, fail)
    with running(bus):
        bus.subscribe("s", fine)

        async def publish() -> BaseException | None:
            try:
                await bus.apublish("s")
            except BaseException as found:
                return found
            return None

        assert asyncio.run(publish()) is error


# --- room --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 100])
@every_road
@pytest.mark.few(4)
def test_s22_coroutines_on_the_handlers_own_loop_wait_for_room(road: str, size: int) -> None:
    """If publishers and the handler share a loop and a small mailbox, the loop is never blocked, and each keeps its order."""
    handled: dict[int, list[int]] = {me: [] for me in range(4)}

    async def handle(message: Message) -> None:
        me, number = message.body
        handled[me].append(number)
        await asyncio.sleep(0)

    async def publish(bus: Bus, me: int) -> None:
        for number in range(50):
            assert await bus.apublish("s", [me, number])

    async def main() -> None:
        async with arunning(bus_of(road)) as bus:
            subscription = bus.subscribe("s", handle, mailbox=size, overflow_timeout=LONG)
            await asyncio.gather(*(publish(bus, me) for me in range(4)))
            await bus.adrain(WAIT)
            assert_conserved(subscription, accepted=200)

    amain(main)
    assert handled == {me: list(range(50)) for me in range(4)}


@every_loop
def test_s22_publish_on_a_running_loop_into_a_full_mailbox_names_its_twin(callers: bool) -> None:
    """`publish` would block the loop, so it raises MailboxFull at once, and the text names `apublish`."""
    errors: list[str] = []

    async def handle(message: Message) -> None:
        try:
            bus.publish("full")
        except MailboxFull as error:
            errors.append(str(error))

    bus = Bus()
    with on_loop(bus, callers):
        bus.subscribe("full", mailbox=1, overflow_timeout=LONG)
        bus.subscribe("s", handle)
        bus.publish("full")
        bus.publish("s")
        bus.drain(WAIT)

    assert len(errors) == 1
    assert "apublish" in errors[0]


@every_loop
def test_s22_a_handler_that_waits_for_room_is_let_in_when_there_is_some(callers: bool) -> None:
    """An async handler waits for room in a full mailbox until a reader makes room, and its loop runs meanwhile."""
    bus = Bus()
    ear = Ear(bus)
    with on_loop(bus, callers):
        reader = bus.subscribe("out", mailbox=1, overflow_timeout=LONG)
        free = AsyncHold(open=True)
        bus.subscribe("free", free)

        async def pass_on(message: Message) -> None:
            await bus.apublish("out", message.body)

        bus.subscribe("s", pass_on)
        for body in range(5):
            bus.publish("s", body)
        for body in range(5):
            bus.publish("free", body)
        free.wait_started(5)

        assert [reader.receive(timeout=WAIT).body for _ in range(5)] == list(range(5))
        assert ear.of(Overflowed) == [] or all(event.policy == "block" for event in ear.of(Overflowed))


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["pool", "thread"])
def test_s11_an_async_handler_cannot_run_where_nothing_awaits_it(run: Any) -> None:
    """Such a handler is refused where it is subscribed, and the error says what to do."""
    with pytest.raises(SubscriptionError, match=f'run="{run}"'):
        Bus().subscribe("s", afine, run=run)


def test_s11_a_plain_handler_on_a_loop_takes_no_filter_that_waits() -> None:
    """Such a filter would block the loop, so the subscription is refused, and the error names the filter."""

    class Slow(Transform):
        pass

    @around
    def slow(message: Message) -> Any:
        yield Pause(1.0)
        yield message

    slow.waits = True
    with pytest.raises(PipelineError, match="slow"):
        Bus().subscribe("s", fine, run="loop", filters=[slow])


def test_s11_an_async_filter_around_a_plain_handler_is_refused_on_a_loop_too() -> None:
    """A delivery chain has the colour of its handler, wherever it runs."""

    async def asynchronous(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    with pytest.raises(PipelineError, match="asynchronous"):
        Bus().subscribe("s", fine, run="loop", filters=[asynchronous])


def test_s23_workers_on_a_loop_are_no_matter_of_the_pools_size() -> None:
    """Five workers on a loop take nothing from a pool of one."""
    with running(Bus(pool=1)) as bus:
        hold = AsyncHold()
        bus.subscribe("s", hold, workers=5)
        for body in range(5):
            bus.publish("s", body)
        hold.wait_started(5)


def test_s11_an_unknown_way_to_run_is_refused() -> None:
    """The error lists the ways to run."""
    with pytest.raises(SubscriptionError, match='"pool", "thread" or "loop"'):
        Bus().subscribe("s", fine, run="process")  # type: ignore[arg-type]


@every_loop
def test_s17_the_same_filter_gives_the_same_outcomes_on_a_loop_and_on_the_pool(callers: bool) -> None:
    """A Transform and an Around give the same outcomes around handlers of both colours, wherever those run."""
    seen: list[str] = []

    @around
    def watch(message: Message) -> Any:
        outcome = yield message
        seen.append(repr(outcome))
        return outcome

    async def ahandle(message: Message) -> str:
        return "value"

    def handle(message: Message) -> str:
        return "value"

    with on_loop(Bus(), callers) as bus:
        for handler, run in ((handle, None), (handle, "thread"), (handle, "loop"), (ahandle, None)):
            bus.subscribe("s", handler, run=run, filters=[watch])
            bus.subscribe("s", handler, run=run, filters=[watch, DropAll("dropped")])
        bus.publish("s")
        bus.drain(WAIT)

    assert Counter(seen) == {"Handled(value='value')": 4, "Dropped(reason='dropped', by='DropAll')": 4}


def test_s33_a_clock_that_is_moved_by_hand_stops_a_bus_with_handlers_on_a_loop() -> None:
    """The bus's clock measures the time of a stop; when the test moves it past the timeout, the handler is cancelled."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    hold = AsyncHold()
    bus.start()
    subscription = bus.subscribe("s", hold)
    bus.publish("s")
    hold.wait_started()
    stop = InThread(bus.stop, 100.0)
    clock.wait_until_waited_for()
    assert hold.cancelled == []
    clock.advance(100.0)

    report = stop.result()
    assert report.left == {subscription.name: 1}
    assert hold.cancelled == [None]
