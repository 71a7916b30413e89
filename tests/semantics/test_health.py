"""`Bus.health`: what it finds, in words that an operator can act on; and that asking costs nothing and breaks nothing."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import WAIT, Boom, Hold, boom, fine, running, wait_until
from loop_helpers import LoopInThread
from pipebus import Bus, Health, Message
from pipebus.bus.bus import engine_of
from pipebus.bus.health import RECENT, UNANSWERED
from pipebus.testing import FakeClock
from pipebus.transports.memory import MemoryTransport
from state_helpers import Door


def test_a_bus_is_ready_only_while_it_runs() -> None:
    """A load balancer gets "not ready" before the start, while the bus stops and after it; nobody restarts it for that."""
    seen: list[Health] = []
    bus = Bus()
    bus.subscribe("s", lambda message: seen.append(bus.health()))
    assert bus.health() == Health(ready=False, reasons=("the bus is not started",))
    with bus:
        assert bus.health() == Health()
        bus.request_stop()
        assert bus.health() == Health(ready=False, reasons=("a stop was requested",))
        seen.clear()
        bus.observe(lambda event: seen.append(bus.health()))
    assert Health(ready=False, reasons=("the bus is stopping",)) in seen
    assert bus.health() == Health(ready=False, reasons=("the bus is stopped",))
    bus.start()
    assert bus.health() == Health()
    bus.stop()


def _full(bus: Bus) -> str:
    bus.subscribe("s", name="till", mailbox=2)
    bus.publish("s")
    assert bus.health() == Health()
    bus.publish("s")
    return r"a mailbox is full: till \(2 messages\)"


def _many_full(bus: Bus) -> str:
    for number in range(5):
        bus.subscribe(f"s.{number}", name=f"till-{number}", mailbox=1)
        bus.publish(f"s.{number}")
    return r"5 mailboxes are full: till-\d \(1 messages\), till-\d \(1 messages\), till-\d \(1 messages\) and 2 more"


def _paused(bus: Bus) -> str:
    bus.subscribe("s", fine, name="till").pause()
    return "a subscription is paused: till"


def _starved(bus: Bus) -> str:
    hold = Hold()
    for number in range(3):
        bus.subscribe("s", hold, name=f"till-{number}")
    bus.publish("s")
    hold.wait_started(2)
    wait_until(lambda: bus.health().degraded, "the third one waits")
    return "all 2 workers of the pool are busy, and 1 mailbox waits for one; .* threads of their own"


@pytest.mark.parametrize("spoil", [_full, _many_full, _paused, _starved], ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_is_not_as_it_should_be_is_named(spoil: Callable[[Bus], str]) -> None:
    """The bus stays live and ready, is degraded, and says which mailbox or subscription it is about."""
    with running(Bus(pool=2), drain=False) as bus:
        said = spoil(bus)
        health = bus.health()
        assert (health.live, health.ready, health.degraded, len(health.reasons)) == (True, True, True, 1)
        assert re.fullmatch(said, health.reasons[0])


def test_a_failing_observer_shows_for_a_minute() -> None:
    """An error of last month does not keep the bus degraded; one of this minute does."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    bus.observe(boom)
    with running(bus):
        [reason] = bus.health().reasons
        assert reason.startswith("observers have raised 1 errors")
        clock.advance(RECENT)
        assert bus.health() == Health()
        bus.publish("s")
        assert bus.health().degraded


# --- filters that pause -------------------------------------------------------------------------------------------------


def test_an_open_breaker_is_named() -> None:
    """An operator reads which subscriptions are paused, by which filter, and in which state it is; until the pause ends."""
    breaker, limit = Door(state="open", name="CircuitBreaker"), Door(waiting=9, name="Limit")
    bus = Bus()
    bus.use(limit, breaker, at="delivery")
    one, two = (bus.subscribe("s", fine, name=name) for name in ("till", "mail"))
    with running(bus):
        resumes = [breaker.shut("till")]
        assert bus.health().reasons == ("a subscription is paused by filter CircuitBreaker (open): till",)
        resumes.append(breaker.shut("mail"))
        two.pause()
        breaker.figures = {"state": "half_open"}
        health = bus.health()
        assert (health.live, health.ready, health.degraded) == (True, True, True)
        assert health.reasons == (
            "a subscription is paused: mail",
            "2 subscriptions are paused by filter CircuitBreaker (half_open): till, mail",
        )
        two.resume()
        for resume in resumes:
            resume()
        assert not one.paused
        assert bus.health().reasons == ()


@pytest.mark.parametrize("figures", [{}, {"state": "closed"}, {"state": 4}, Boom()], ids=str)
def test_a_pause_by_a_filter_that_does_not_say_why_is_a_reason_too(figures: Any) -> None:
    door = Door(figures)
    bus = Bus()
    bus.subscribe("s", fine, name="till", filters=[door])
    with running(bus):
        resume = door.shut("till")
        assert bus.health().reasons == ("a subscription is paused by a filter: till",)
        resume()


def test_an_open_breaker_of_the_publish_chain_is_a_reason() -> None:
    """It pauses nothing: publishers get errors. A closed one is none."""
    breaker = Door(state="open", name="CircuitBreaker")
    bus = Bus()
    bus.use(breaker)
    with running(bus):
        assert bus.health().reasons == ("the publish chain is interrupted by filter CircuitBreaker (open)",)
        breaker.figures = {"state": "closed"}
        assert bus.health().reasons == ()


# --- what only a new process helps against -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["own", "callers"])
def test_a_loop_that_a_coroutine_blocks_is_not_live(place: str) -> None:
    """A coroutine that never gives its loop back is noticed after half a minute, from another thread, without a wait."""
    clock, hold = FakeClock(), Hold()

    async def blocks(message: Message) -> None:
        hold(message)

    bus = Bus(clock=clock)
    bus.subscribe("s", blocks)
    with LoopInThread() as loop:
        if place == "own":
            bus.start()
        else:
            loop.run(bus.astart())
        bus.publish("s")
        hold.wait_started()
        assert bus.health().live
        clock.advance(UNANSWERED + 1)
        health = bus.health()
        assert (health.live, health.ready) == (False, False)
        assert "has not answered for 31 s" in health.reasons[0]
        hold.open()
        wait_until(lambda: bus.health().live, "it answers")
        if place == "own":
            bus.stop()
        else:
            loop.run(bus.astop())


def test_a_loop_that_is_closed_is_not_live() -> None:
    """The loop that the bus was started on has ended without a stop: no coroutine can be run any more."""
    bus = Bus()
    done = threading.Event()

    async def handle(message: Message) -> None:
        done.set()

    bus.subscribe("s", handle)

    async def main() -> None:
        await bus.astart()
        await bus.apublish("s")
        await asyncio.to_thread(done.wait, WAIT)

    asyncio.run(main())
    health = bus.health()
    assert not health.live
    assert "is closed; start it with `async with bus`" in health.reasons[0]
    bus.stop(timeout=0.0)


def _kill(thread: threading.Thread) -> None:
    """End a thread as an error in it would."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)) == 1


killed = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@killed
def test_a_worker_that_died_is_not_live() -> None:
    """Its messages would wait forever, so a supervisor has to start the program again."""
    bus = Bus(pool=1, name="shop")
    subscription = bus.subscribe("s", fine)
    bus.start()
    bus.publish("s")
    bus.drain(WAIT)
    [worker] = engine_of(bus).pool.workers
    wait_until(lambda: bool(engine_of(bus).pool.sleepers), "it sleeps")
    _kill(worker)
    bus.publish("s")
    worker.join(WAIT)
    health = bus.health()
    assert (health.live, health.reasons[0]) == (
        False, "the thread shop-1 has died, and no other takes its messages; start the program again",
    )  # fmt: skip
    assert subscription.stats()["pending"] == 1
    bus.stop(timeout=0.0, drain=False)


@killed
def test_a_timer_that_died_is_not_live() -> None:
    """What is delayed would never come."""
    bus = Bus(name="shop")
    bus.subscribe("s")
    bus.start()
    bus.publish("s", delay=0.01)
    thread = next(one for one in threading.enumerate() if one.name == "shop-timer")
    _kill(thread)
    bus.publish("s", delay=0.01)
    thread.join(WAIT)
    assert "shop-timer has died" in bus.health().reasons[0]
    bus.stop(timeout=0.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_bus_from_before_a_fork_is_not_live_in_the_child() -> None:
    """The child gets an answer, at once, though the parent may have held any lock at the fork."""
    with running() as bus:
        lock = engine_of(bus).router.lock
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                go.wait(WAIT)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(WAIT)
        child = os.fork()
        if child == 0:
            health = bus.health()
            os._exit(7 if not health.live and "before a fork" in health.reasons[0] else 1)
        go.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert bus.health() == Health()


# --- asking --------------------------------------------------------------------------------------------------------------


class Ill(MemoryTransport):
    def health(self) -> Any:
        raise OSError("no such disk")


def test_a_transport_that_cannot_say_is_a_reason_and_no_error() -> None:
    """A probe gets an answer even if a transport of somebody else raises."""
    with running(Bus(Ill())) as bus:  # type: ignore[arg-type]
        said = "the health of the transport cannot be told: OSError: no such disk"
        assert bus.health() == Health(degraded=True, reasons=(said,))


def test_it_may_be_asked_from_everywhere_at_once() -> None:
    """From threads that publish and subscribe, and from a coroutine, it gets an answer; and the bus stays well."""
    busy = Bus(pool=3)
    busy.subscribe("s.*", fine, workers=2)
    busy.start()
    failed: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            for turn in range(200):
                busy.publish(f"s.{turn}")
                if turn % 20 == number:
                    busy.subscribe(f"s.{number}", fine).unsubscribe()
                assert busy.health().live
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()

    async def main() -> Health:
        return busy.health()

    assert asyncio.run(main()).ready
    for thread in threads:
        thread.join()
    assert failed == []
    busy.drain(WAIT)
    assert busy.health() == Health()
    busy.stop()
