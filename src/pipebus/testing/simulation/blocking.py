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
from pipebus.testing.simulation.locks import UserRLock, Waiter, imported, instead
from pipebus.testing.simulation.threads import Over, here


class Blocked(NamedTuple):
    """A wait on an event loop, which nothing else can use meanwhile: in which line, and what to write instead."""

    what: str
    remedy: str
    place: str
    source: str


SLEEPS: Final = "sleeps", "await asyncio.sleep(…), or yield Pause(…) in an Around"
WAITS: Final = "waits for a thread, a process or a socket", "await asyncio.to_thread(…), or use what is made for asyncio"


@contextmanager
def blocking(files: Collection[str]) -> Iterator[list[Blocked]]:
    """
    Until the block ends, a simulation's threads sleep in virtual time, and a job that one of them submits to a thread pool runs
    on a thread of its own. Yields the waits on event loops so far: sleeps, and waits for threads, processes and sockets.
    """
    real = {name: getattr(time, name) for name in ("sleep", "monotonic", "time")}
    real_submit = ThreadPoolExecutor.submit
    found: list[Blocked] = []

    def on_loop(what: tuple[str, str]) -> bool:
        """Whether the calling thread runs an event loop; then note the filter's line."""
        if here() is None or asyncio._get_running_loop() is None:
            return False
        frame: Any = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename not in files:
            frame = frame.f_back
        if frame is not None:
            where = frame.f_code.co_filename, frame.f_lineno
            found.append(Blocked(*what, stories.place(*where), stories.source(*where)))
        return True

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
        elif not on_loop(SLEEPS):
            sim.clock.sleep(seconds)

    def monotonic() -> float:
        sim = here()
        return real["monotonic"]() if sim is None else sim.clock.monotonic()

    def now() -> float:
        sim = here()
        return real["time"]() if sim is None else sim.clock.now()

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

    shims = {"sleep": sleep, "monotonic": monotonic, "time": now}
    replaced = [(module, name, shims[key]) for key in real for module, name in imported(real[key], files)]
    replaced += [(time, name, shim) for name, shim in shims.items()]
    replaced += [waits(socket.socket, name) for name in ("connect", "accept", "recv", "recv_into", "sendall")]
    replaced += [waits(subprocess.Popen, name) for name in ("wait", "communicate")]
    with instead([*replaced, waits(Waiter, "will_wait"), (ThreadPoolExecutor, "submit", submit)]):
        yield found
