"""The runner of handlers on event loops alone: it gets mailboxes when its loop has ended."""

from __future__ import annotations

from typing import Any

from pipebus.clock import SYSTEM
from pipebus.running.loop_thread import LoopThread
from pipebus.running.loops import LoopRunner


class Resting:
    """A mailbox that is closed and only has to come to rest."""

    def __init__(self) -> None:
        self.begun = 0

    def begin(self, worker: object) -> None:
        self.begun += 1


def runner() -> LoopRunner:
    warnings: list[Any] = []
    return LoopRunner(SYSTEM, LoopThread("test", warnings.append), lambda *told, **facts: warnings.append(told))


def test_a_mailbox_that_comes_after_the_stop_is_let_come_to_rest() -> None:
    """A publisher may be held up while the bus stops: no worker would serve its mailbox later, so the stop does it at once."""
    loops = runner()
    for _ in range(2):
        loops.start(None)
        loops.stop(0.0)
        mailbox = Resting()
        loops.submit(mailbox)

        assert mailbox.begun == 1
        assert loops.thread.stop(1.0) is None


def test_a_runner_that_was_never_started_makes_no_loop() -> None:
    """A mailbox comes to rest even before the first start, and no thread begins."""
    loops = runner()
    mailbox = Resting()
    loops.submit(mailbox)

    assert mailbox.begun == 1
    assert loops.thread._thread is None
