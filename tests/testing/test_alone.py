"""What one filter and one handler alone have in common: time, threads, log lines and replies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from pipebus import Bus, Message
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
    with pytest.raises(kind, match=r"thread stranger uses a bus .* use a ThreadPoolExecutor"):
        use()
