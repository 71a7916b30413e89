"""The laws on what a filter does to its surroundings: event loops, its bus, threads and files."""

import contextvars
import gc
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pipebus.bus.bus import Bus
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.pipeline import routes
from pipebus.testing.alone.replies import subscribe
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.alone.script import after
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.tape import tell
from pipebus.testing.laws.case import PATIENCE, Case, Problems, result
from pipebus.testing.simulation import threads
from pipebus.testing.simulation.threads import Stuck

MOST_DELIVERIES: Final = 100
"""So many deliveries that follow from one message are considered endless."""

DEPTH: Final = 10
"""A message that is published inside so many others is considered endless."""

SHOWN: Final = 10
"""How many lines of an endless story are shown."""

OPEN_FILES: Final = "/dev/fd"

_depth: contextvars.ContextVar[int] = contextvars.ContextVar("pipebus.testing.depth", default=0)


def works_on_every_loop(case: Case) -> Problems:
    """It keeps nothing that belongs to one event loop: `apublish` runs on the loop of its caller."""
    given = case.numbered(6)
    with case.bench("async", after(0.01, case.ending("accepts"))) as bench:
        try:
            first, second = bench.together(given[:3]), bench.together(given[3:])
        except Stuck:
            return  # messages that pass together wait for each other, which is another law
        run = FilterRun(f"6 messages on two loops, through {case.tested.title}", given[0])
        run.moments = list(bench.harness.tape.moments)
        case.runs = [run]
    known = {type(end) for end in first}
    new = next((end for end in second if isinstance(end, BaseException) and type(end) not in known), None)
    if case.tested.chose(new):
        return
    if new is not None:
        yield (
            f"after three messages on one event loop, one on another loop {result(new)}; a lock, queue, event or future of "
            "asyncio belongs to the loop that first waits for it: keep one for each loop"
        )


def blocks_no_loop(case: Case) -> Problems:
    """In an async chain, it waits without stopping the event loop."""
    for _ in case.sends("accepts", "fails", colour="async"):
        if case.tested.blocked:
            what, remedy, place, source = case.tested.blocked[0]
            yield f"{place} {what} on the event loop, which stops every other task: {source}; {remedy}"


class _Endless(BaseException):
    """A message was published inside a message that was published inside …"""


def publishes_not_through_itself(case: Case) -> Problems:
    """What it publishes does not make it publish again, without end."""
    message = case.messages()[0]
    endless: list[Any] = []

    @contextmanager
    def publishing(message: Message[Any]) -> Iterator[None]:
        token = _depth.set(_depth.get() + 1)
        try:
            if _depth.get() > DEPTH:
                endless.append(message.subject)
                raise _Endless
            yield
        finally:
            _depth.reset(token)

    # Two plain filters, not one Around: they settle the colour of the chain.
    def sync(message: Message[Any], call_next: Callable[..., Any]) -> Any:
        with publishing(message):
            return call_next(message)

    async def asynchronous(message: Message[Any], call_next: Callable[..., Any]) -> Any:
        with publishing(message):
            return await call_next(message)

    asynchronous.__name__ = sync.__name__
    colour = case.colours[0]
    with Harness(fail_fast=False, told=False, patience=PATIENCE) as harness:
        bus = harness.attach(Bus(max_hops=MOST_DELIVERIES))  # the law finds the loop, before the bus ends it
        harness.tape.quiet(bus)
        bus.use(sync if colour == "sync" else asynchronous)
        bus.use(case.tested.make(), at=case.at)
        bus.subscribe(message.subject, _handled if colour == "sync" else _ahandled, name="rest")
        subscribe(bus, case.tested.replies)
        harness.start(bus)
        with suppress(Exception, _Endless):  # it may refuse the message
            if colour == "sync":
                bus.send(message)
            else:
                harness.run(bus.asend(message))
        steps = 0
        while harness.usable and steps < MOST_DELIVERIES and harness.step() is not None:
            steps += 1
        for subscription in bus.subscriptions:
            subscription.pause()
        if steps == MOST_DELIVERIES:
            endless.append(harness.published[-1].subject)
        moments = [moment for moment in harness.tape.moments if moment.who != sync.__name__]
    if endless:
        case.runs = []
        case.story = "\n".join([*tell(moments[:SHOWN]).splitlines(), "…"])
        yield (
            f"what it publishes on {str(endless[0])!r} passes through it again, and so without end; let such messages pass "
            "without publishing, or use it under a pattern only, and check it as when(pattern, filter)"
        )


def _handled(message: Message[Any]) -> None:
    """The handler of a bus on which a filter is tried."""


async def _ahandled(message: Message[Any]) -> None:
    """The same on an event loop."""


def leaves_nothing_behind(case: Case) -> Problems:
    """What it opens or begins is closed by its `stop`, or with it: threads, files, coroutines and tasks."""
    left: list[str] = []
    for _ in range(2):  # what is opened once for all filters, such as a log file, may stay
        before, files = set(threading.enumerate()), _open_files()
        with warnings.catch_warnings(record=True) as warned, case.bench() as bench:
            warnings.simplefilter("always")
            ends: list[str] = []
            bench.harness._simulation.loop_failed = lambda text, error, ends=ends: ends.append(f"{text}: {text_of(error)}")  # type: ignore[misc]
            for message in case.messages():
                run = case.send(bench, message, case.ending("accepts"))
                kept = [value for step in routes.steps(bench.nodes) for value in getattr(step.filter, "__dict__", {}).values()]
                ends += [
                    f"{text_of(task.get_coro())} goes on" for task in run._tasks if not any(_holds(one, task) for one in kept)
                ]
                if ends:
                    yield (
                        f"nobody waits for a task, so its error is lost ({ends[0]}); await it, use a TaskGroup, or keep it and "
                        "add a callback"
                    )
        del bench
        if set(threading.enumerate()) - before or _open_files() - files:
            gc.collect()  # filters that are not used any more close their files when they are forgotten
        never = next((str(one.message) for one in warned if "was never awaited" in str(one.message)), None)
        if never is not None:
            yield f"{never}; write `await` before the call, or do not make it"
        started = [thread for thread in threading.enumerate() if thread not in before]
        for thread in started:
            threads.real_join(thread, PATIENCE)
        left = [f"thread {thread.name}" for thread in started if threads.real_is_alive(thread)]
        left += [f"file {name}" for _, name in sorted(_open_files() - files)]
        if not left:
            return
    case.runs = []
    yield f"after `stop` there is still {' and '.join(left)}; end in `stop` what `start` or a message begins"


def _holds(value: Any, task: Any) -> bool:
    return value is task or (isinstance(value, (list, set, dict, tuple, deque)) and any(one is task for one in value))


def _open_files() -> set[tuple[int, str]]:
    """The descriptors of this process and what they are, where the system has a list of them."""
    found = set()
    with suppress(OSError):
        for number in os.listdir(OPEN_FILES):
            with suppress(OSError):  # the one that lists them
                found.add((int(number), os.readlink(f"{OPEN_FILES}/{number}")))
    return found
