"""The pool's wake-up chain, step by step: a worker that others rely on always wakes the next."""

from __future__ import annotations

from typing import Any

import pytest

from pipebus.clock import SYSTEM
from pipebus.running.runners import Pool, Worker


@pytest.fixture
def pool() -> Pool:
    pool = Pool(size=3, clock=SYSTEM, name="pool", starved=lambda ready, workers: None)
    pool.start()
    return pool


def on_its_way(pool: Pool) -> Worker:
    """A worker that a submit has woken and that has not looked yet. (Its thread is not started: the test takes its steps.)"""
    worker = Worker(pool, 1)
    pool.workers[worker] = None
    pool.waking = worker.woken = True
    return worker


def test_a_woken_worker_whose_mailbox_another_took_wakes_the_next_all_the_same(pool: Pool) -> None:
    """Two submits relied on it meanwhile: it takes the one mailbox, and the other must not wait for it to end."""
    worker = on_its_way(pool)
    later: list[Any] = ["second", "third"]
    pool.ready.extend(later)  # its own was taken by a worker that was awake; these came while it was on its way

    assert pool.sleep(worker) is True
    assert worker.woken, "it would work on `second` and leave `third` to nobody"


def test_a_worker_that_turns_back_before_it_sleeps_wakes_the_next(pool: Pool) -> None:
    """The second look, after it stood among the sleepers, finds mailboxes that came meanwhile."""

    class Late(list[Any]):
        """Mailboxes that come between the first look and the second."""

        looks = 0

        def __bool__(self) -> bool:
            self.looks += 1
            return self.looks > 1

    worker = on_its_way(pool)
    pool.ready = Late(["second", "third"])  # type: ignore[assignment]

    assert pool.sleep(worker) is True
    assert worker.woken
    assert pool.sleepers == []
    assert not pool.waking


def test_a_worker_that_finds_nothing_is_on_its_way_no_longer(pool: Pool) -> None:
    """So that the next submit wakes somebody. (A pool that stops lets it end instead of sleep.)"""
    worker = on_its_way(pool)
    pool.stopping = True

    assert pool.sleep(worker) is False
    assert not pool.waking
    assert worker not in pool.workers
