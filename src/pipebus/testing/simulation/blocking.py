"""`time.sleep`, the clocks of `time` and thread pools, in virtual time for the code under test."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from pipebus.testing.simulation import stories
from pipebus.testing.simulation.locks import UserRLock, imported, instead
from pipebus.testing.simulation.threads import Over, here


class Sleep(NamedTuple):
    """A call of `time.sleep` on an event loop, which nothing else can use meanwhile."""

    seconds: float
    place: str
    source: str


@contextmanager
def blocking(files: Collection[str]) -> Iterator[list[Sleep]]:
    """
    Until the block ends, a simulation's threads sleep in virtual time, and a job that one of them submits to a thread pool runs
    on a thread of its own. Yields the sleeps on event loops so far, which took no time.
    """
    real = {name: getattr(time, name) for name in ("sleep", "monotonic", "time")}
    real_submit = ThreadPoolExecutor.submit
    found: list[Sleep] = []

    def sleep(seconds: float) -> None:
        sim = here()
        if sim is None:
            real["sleep"](seconds)
        elif asyncio._get_running_loop() is None:
            sim.clock.sleep(seconds)
        else:
            frame = sys._getframe(1)
            where = frame.f_code.co_filename, frame.f_lineno
            found.append(Sleep(seconds, stories.place(*where), stories.source(*where)))

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
    with instead([*replaced, (ThreadPoolExecutor, "submit", submit)]):
        yield found
