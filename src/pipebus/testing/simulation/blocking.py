"""`time.sleep`, the clocks of `time` and thread pools, in virtual time for the code under test."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from pipebus.testing.simulation import stories
from pipebus.testing.simulation.locks import BETWEEN, SimLock, UserRLock, Waiter, imported, instead, locks
from pipebus.testing.simulation.threads import Over, here


class Blocked(NamedTuple):
    """A wait on an event loop, which nothing else can use meanwhile: in which line, and what to write instead."""

    what: str
    remedy: str
    place: str
    source: str


SLEEPS: Final = "sleeps", "await asyncio.sleep(…), or yield Pause(…) in an Around"
WAITS: Final = "waits for a thread, a process or a socket", "await asyncio.to_thread(…), or use what is made for asyncio"

_found: list[Blocked] | None = None
"""What the block that is entered has found."""


@contextmanager
def clocks(files: Collection[str]) -> Iterator[list[Blocked]]:
    """
    Until the block ends, a simulation's threads sleep and read the time in virtual time. Yields the waits on event loops so
    far: sleeps, and waits for threads, processes and sockets. Inside another such block, it is the outer one that counts.
    """
    global _found  # noqa: PLW0603
    if _found is not None:
        yield _found
        return
    real = {name: getattr(time, name) for name in ("sleep", "monotonic", "perf_counter", "time")}
    found = _found = []

    def on_loop(what: tuple[str, str]) -> None:
        """If the calling thread runs an event loop, note the filter's line."""
        if here() is None or asyncio._get_running_loop() is None:
            return
        frame: Any = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename not in files:
            frame = frame.f_back
        if frame is not None:
            where = frame.f_code.co_filename, frame.f_lineno
            found.append(Blocked(*what, stories.place(*where), stories.source(*where)))

    def waits(owner: Any, name: str) -> tuple[Any, str, Any]:
        """A method that waits, unless it is of a socket that never does."""
        call = getattr(owner, name)

        def shim(one: Any, *arguments: Any, **options: Any) -> Any:
            if owner is not socket.socket or one.gettimeout() != 0:
                on_loop(WAITS)
            return call(one, *arguments, **options)

        return owner, name, shim

    def sleep(seconds: float) -> None:
        sim = here()
        if sim is None:
            real["sleep"](seconds)
        else:
            on_loop(SLEEPS)
            sim.clock.sleep(seconds)

    def monotonic() -> float:
        sim = here()
        return real["monotonic"]() if sim is None else sim.clock.monotonic()

    def perf_counter() -> float:
        sim = here()
        return real["perf_counter"]() if sim is None else sim.clock.monotonic()

    def now() -> float:
        sim = here()
        return real["time"]() if sim is None else sim.clock.now()

    shims = {"sleep": sleep, "monotonic": monotonic, "perf_counter": perf_counter, "time": now}
    replaced = imported([(real[name], shim) for name, shim in shims.items()], files)
    replaced += [(time, name, shim) for name, shim in shims.items()]
    replaced += [waits(socket.socket, name) for name in ("connect", "accept", "recv", "recv_into", "sendall")]
    replaced += [waits(subprocess.Popen, name) for name in ("wait", "communicate")]
    try:
        with instead([*replaced, waits(Waiter, "will_wait")]):
            yield found
    finally:
        _found = None


@contextmanager
def blocking(files: Collection[str]) -> Iterator[list[Blocked]]:
    """`clocks` and `locks`; and a job that a simulation's thread submits to a thread pool runs on a thread of its own."""
    real, real_submit = time.monotonic, ThreadPoolExecutor.submit

    def still_waiting() -> float:
        """The clock by which a semaphore, condition or queue knows how long it still waits: that of its lock."""
        waiter = sys._getframe(1).f_locals.get("self")
        lock = getattr(waiter, "mutex", None) or getattr(getattr(waiter, "_cond", waiter), "_lock", None)
        return time.monotonic() if isinstance(lock, SimLock) else real()

    def submit(pool: Any, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        sim = here()
        if sim is None or pool._shutdown:
            return real_submit(pool, call, *arguments, **options)
        future: Future[Any] = Future()
        future._condition = threading.Condition(UserRLock(sim))  # type: ignore[arg-type]

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    value = call(*arguments, **options)
                except Over:
                    raise
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(value)

        sim.adopt(threading.Thread(target=run, name=f"a thread of {type(pool).__name__}", daemon=True))
        return future

    replaced = [*imported([(real, still_waiting)], BETWEEN), (ThreadPoolExecutor, "submit", submit)]
    with clocks(files) as found, locks(files), instead(replaced):
        yield found
