"""The runner of handlers on event loops, by itself: mailboxes that are handed to it when no loop is there any more."""

from __future__ import annotations

from typing import Any

from pipebus.clock import SYSTEM
from pipebus.running.loops import LoopRunner, LoopThread


class Resting:
    """A mailbox that has been closed, and only wants to come to rest."""

    def __init__(self) -> None:
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1


def runner() -> LoopRunner:
    warnings: list[Any] = []
    return LoopRunner(SYSTEM, LoopThread("test", warnings.append), lambda *told, **facts: warnings.append(told))


def test_a_mailbox_that_comes_after_the_stop_is_let_come_to_rest() -> None:
    """A publisher was held up on its way while the bus stopped: nobody would come to its mailbox, so it is done at once."""
    loops = runner()
    for _ in range(2):
        loops.start(None)
        loops.stop(0.0)
        mailbox = Resting()
        loops.submit(mailbox)

        assert mailbox.begun == 1
        assert loops.thread.stop(1.0) is None


def test_a_runner_that_was_never_started_makes_no_loop() -> None:
    """Before the first start a mailbox comes to rest, too, and no thread begins."""
    loops = runner()
    mailbox = Resting()
    loops.submit(mailbox)

    assert mailbox.begun == 1
    assert loops.thread._thread is None
