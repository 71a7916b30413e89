"""What one filter and one handler alone have in common: time, threads, log lines and replies."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
import structlog

from flow_helpers import WAIT
from pipebus import Bus, Dropped, Message, NoResponder, PipelineError, RequestFailed, when
from pipebus.testing import FilterBench, LawBroken, check_filter, run_filter, run_handler

Next = Callable[[Message], Any]


def on_a_thread_of_its_own(call: Callable[[], object]) -> None:
    """Run a call on a thread that swallows what it raises."""

    def run() -> None:
        with suppress(RuntimeError):
            call()

    thread = threading.Thread(target=run, name="stranger")
    thread.start()
    thread.join()


def threaded_filter(message: Message, call_next: Next) -> Any:
    on_a_thread_of_its_own(lambda: call_next(message))
    return call_next(message)


def threaded_handler(message: Message, bus: Bus) -> None:
    on_a_thread_of_its_own(lambda: bus.publish("seen"))


def _bench_twice() -> None:
    with FilterBench(threaded_filter) as bench:
        with pytest.raises(RuntimeError, match="thread stranger"):
            bench.send(1)
        bench.send(2)


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (lambda: run_filter(threaded_filter, 1), RuntimeError),
        (_bench_twice, RuntimeError),
        (lambda: run_handler(threaded_handler, 1), RuntimeError),
        (lambda: check_filter(threaded_filter, [1]), LawBroken),
    ],
    ids=["run_filter", "FilterBench", "run_handler", "check_filter"],
)
def test_a_thread_that_the_kit_does_not_control_fails_the_test(use: Callable[[], object], kind: type[Exception]) -> None:
    """The error is raised in the test, although the thread has swallowed it and what is tested has gone on."""
    with pytest.raises(kind, match="thread stranger uses a bus"):
        use()


# --- log lines ---------------------------------------------------------------------------------------------------------


def test_lines_of_both_kinds_of_logging_are_in_the_run_in_order() -> None:
    """Handlers log as the program does, through structlog or the standard library, with errors or without."""

    def handler(message: Message) -> None:
        logging.getLogger("shop").warning("%s left", 3)
        structlog.get_logger().info("sold")
        try:
            raise ValueError("odd")
        except ValueError:
            logging.getLogger("shop").exception("failed")

    found = run_handler(handler, 1)
    assert [(line["event"], line["log_level"]) for line in found.logs] == [
        ("3 left", "warning"), ("sold", "info"), ("failed", "error"),
    ]  # fmt: skip
    assert found.logs[2]["exc_info"][0] is ValueError


# --- time --------------------------------------------------------------------------------------------------------------


def sleeps(message: Message) -> float:
    """Wait three seconds, and say how long that took by each clock."""
    began = time.time(), time.perf_counter(), monotonic()
    time.sleep(3.0)
    ended = time.time(), time.perf_counter(), monotonic()
    assert [round(end - begin, 6) for begin, end in zip(began, ended, strict=True)] == [3.0, 3.0, 3.0]
    return 3.0


async def asleeps(message: Message) -> float:
    return sleeps(message)


def sleeping_filter(message: Message, call_next: Next) -> Any:
    sleeps(message)
    return call_next(message)


async def asleeping_filter(message: Message, call_next: Callable[[Message], Any]) -> Any:
    sleeps(message)
    return await call_next(message)


@pytest.mark.parametrize(
    "run",
    [
        lambda: run_filter(sleeping_filter, 1),
        lambda: run_filter(asleeping_filter, 1),
        lambda: run_handler(sleeps, 1),
        lambda: run_handler(asleeps, 1),
    ],
    ids=["filter", "async filter", "handler", "async handler"],
)
def test_the_clocks_of_the_time_module_are_virtual(run: Callable[[], Any]) -> None:
    """`time.sleep` takes no real time, and the clocks show the time of the run; afterwards they are the real ones again."""
    real = time.sleep, time.time, time.monotonic, time.perf_counter, monotonic
    found = run()
    assert found.error is None
    assert found.elapsed == 3.0
    assert (time.sleep, time.time, time.monotonic, time.perf_counter, monotonic) == real


def wait_for_a_queue(empty: queue.Queue[int], timeout: float) -> None:
    with suppress(queue.Empty):
        empty.get(timeout=timeout)


@pytest.mark.parametrize(
    ("make", "wait"),
    [
        (lambda: threading.Semaphore(0), lambda made, timeout: made.acquire(timeout=timeout)),
        (threading.Condition, lambda made, timeout: made.__enter__() and made.wait_for(lambda: False, timeout)),
        (threading.Event, lambda made, timeout: made.wait(timeout)),
        (lambda: queue.Queue[int](), wait_for_a_queue),
    ],
    ids=["semaphore", "condition", "event", "queue"],
)
@pytest.mark.few(1)
def test_waits_with_a_timeout_end_in_virtual_time_under_check_filter(
    make: Callable[[], Any], wait: Callable[[Any, float], object]
) -> None:
    """They take as long as they say by the clock of the run, and not until the real time is up."""
    took: list[float] = []

    def waits(message: Message, call_next: Next) -> Any:
        began = monotonic()
        wait(make(), 3.0)
        took.append(monotonic() - began)
        return call_next(message)

    check_filter(lambda: waits, [1], skip={"is safe under concurrency": "others take time meanwhile"})
    assert {round(seconds, 6) for seconds in took} == {3.0}


class Flusher:
    """Writes on a thread of a pool, through a queue that was made before the run."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Any] = queue.Queue()
        self.pool = ThreadPoolExecutor()
        self.written: list[Any] = []

    def start(self, context: Any) -> None:
        self.end = self.pool.submit(lambda: self.written.extend(iter(lambda: self.waiting.get(timeout=WAIT), None)))

    def stop(self) -> None:
        self.waiting.put(None)
        self.end.result(timeout=WAIT)
        self.pool.shutdown()

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.waiting.put(message.body)
        return call_next(message)


def test_a_filter_may_have_a_pool_of_its_own_that_waits_for_real() -> None:
    """What was made before the run, and its threads, work as on a bus."""
    flusher = Flusher()
    assert run_filter(flusher, 1).outcome
    assert flusher.written == [1]


class OncePerMinute:
    """Drops a message that comes within a minute after another one."""

    last = -60.0

    def __call__(self, message: Message, call_next: Next) -> Any:
        if monotonic() - self.last < 60.0:
            return Dropped("too soon")
        self.last = monotonic()
        return call_next(message)


def test_advance_moves_the_clock_that_the_filter_reads() -> None:
    """A filter may read the time as any code does, and a test of it needs no clock of its own."""
    with FilterBench(OncePerMinute()) as bench:
        first, second = bench.send(1), bench.send(2)
        bench.advance(61.0)
        third = bench.send(3)
    assert [run.dropped for run in (first, second, third)] == [None, "too soon", None]


# --- requests ----------------------------------------------------------------------------------------------------------


def price(message: Message, bus: Bus) -> Any:
    return bus.request("prices.get", message.body).body


async def aprice(message: Message, bus: Bus) -> Any:
    return (await bus.arequest("prices.get", message.body)).body


class Priced:
    """Adds the price that it asks for."""

    def start(self, context: Any) -> None:
        self.bus = context.bus

    def __call__(self, message: Message, call_next: Next) -> Any:
        return call_next(message.with_headers(price=str(self.bus.request("prices.get", message.body).body)))


class AsyncPriced(Priced):
    async def __call__(self, message: Message, call_next: Any) -> Any:
        reply = await self.bus.arequest("prices.get", message.body)
        return await call_next(message.with_headers(price=str(reply.body)))


def _in_a_bench(message: Any, **options: Any) -> Any:
    with FilterBench(Priced(), **options) as bench:
        bench.send("milk").error
        return bench.send(message)


ASKING = pytest.mark.parametrize(
    "run",
    [
        lambda message, **options: run_handler(price, message, **options),
        lambda message, **options: run_handler(aprice, message, **options),
        lambda message, **options: run_filter(Priced(), message, **options),
        lambda message, **options: run_filter(AsyncPriced(), message, **options),
        _in_a_bench,
    ],
    ids=["handler", "async handler", "filter", "async filter", "bench"],
)


async def _later(message: Message) -> float:
    await asyncio.sleep(2.0)
    return 5.0


@ASKING
@pytest.mark.parametrize("reply", [5.0, lambda message: 2.5 * (2 if message.body == "tea" else 0), _later])
def test_a_request_gets_the_reply_that_the_test_gives(run: Callable[..., Any], reply: Any) -> None:
    """The reply is a value or comes from a function; what is tested is the only one whose messages and settlement count."""
    found = run("tea", replies={"prices.get": reply})
    assert found.error is None
    if hasattr(found, "settlement"):
        assert (found.value, found.settlement, found.calls) == (5.0, "acknowledged", 1)
    else:
        assert found.forwarded.headers["price"] == "5.0"
    assert [message.subject for message in found.published] == ["prices.get"]


@ASKING
@pytest.mark.parametrize("error", [ConnectionError("down"), ConnectionError])
def test_a_request_fails_with_the_error_that_the_test_gives(run: Callable[..., Any], error: Any) -> None:
    """The error arrives as on a bus."""
    found = run("tea", replies={"prices.get": error})
    assert isinstance(found.error, RequestFailed)
    assert "ConnectionError" in str(found.error)


@ASKING
def test_a_request_that_nobody_answers_says_how_to(run: Callable[..., Any]) -> None:
    """The advice is one that a test can follow."""
    error = run("tea").error
    assert isinstance(error, NoResponder)
    assert 'replies={"subject": reply, …}' in error.__notes__[0]


@pytest.mark.parametrize("make", [Priced, AsyncPriced])
@pytest.mark.thorough
def test_a_filter_that_makes_requests_can_be_held_to_the_laws(make: Any) -> None:
    """With the replies that it needs, it is tried like any other; its pattern keeps it away from its own requests."""
    assert "keeps messages apart" in check_filter(lambda: when("test", make()), [1], replies={"prices.get": 5.0})


@pytest.mark.parametrize("wrong", [[5], {"prices.get": None}])
def test_replies_that_cannot_be_are_refused(wrong: Any) -> None:
    """The error names the argument and what was found."""
    with pytest.raises(PipelineError, match=r"replies=.*(a mapping|None is not a reply)"):
        run_handler(price, "tea", replies=wrong)
