"""
Signals that come while a program waits for input, or a moment before: the program sees each at once, and nothing breaks off.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_helpers import Shop

from pipebus.cli.interrupts import Interrupted, Interrupts
from pipebus.inputs.records import JsonRecords

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.fixture
def hurried() -> list[int]:
    return []


@pytest.fixture
def interrupts(hurried: list[int]) -> Iterator[Interrupts]:
    with Interrupts(lambda: hurried.append(1)) as interrupts:
        yield interrupts


def later(call: object) -> threading.Thread:
    """Call it on another thread, after this thread has had time to wait."""
    thread = threading.Timer(0.05, call)  # type: ignore[arg-type]
    thread.start()
    return thread


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_wait(interrupts: Interrupts, number: signal.Signals) -> None:
    """The wait is for a pipe whose writer is silent."""
    with pipe() as (ear, _):
        thread = later(lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted):
            interrupts.wait(ear)
        thread.join()
    assert (interrupts.count, interrupts.number, interrupts.name) == (1, number, number.name)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_a_wait_is_not_missed(interrupts: Interrupts, number: signal.Signals) -> None:
    """The signal only sets a note, and the next wait finds it even if there is something to read."""
    signal.raise_signal(number)
    with pipe() as (ear, hand):
        os.write(hand, b"x")
        with pytest.raises(Interrupted):
            interrupts.wait(ear)


def test_what_the_interpreter_has_not_told_us_yet_is_heard() -> None:
    """The wake-up byte comes before the handler runs, so a wait wakes even if the signal came just before it."""
    with Interrupts(lambda: None) as interrupts, pipe() as (ear, hand):
        interrupts._hand.send(b"!")  # as set_wakeup_fd does
        os.write(hand, b"x")
        interrupts.wait(ear)  # it looks again, and nobody has asked for an end
        assert not interrupts.asked


def test_what_can_be_read_is_read(interrupts: Interrupts) -> None:
    """Data wakes the wait, and so does the end of the data."""
    ear, hand = os.pipe()
    os.write(hand, b"x")
    interrupts.wait(ear)
    assert os.read(ear, 1) == b"x"
    os.close(hand)
    interrupts.wait(ear)
    os.close(ear)


def test_wake_ends_a_wait_and_is_no_signal(interrupts: Interrupts) -> None:
    """Any thread may wake it, any number of times, even when nothing waits any more."""
    with pipe() as (ear, _):
        thread = later(interrupts.ring)
        with pytest.raises(Interrupted):
            interrupts.wait(ear)
        thread.join()
    for _ in range(100_000):
        interrupts.ring()
    assert (interrupts.count, interrupts.name, interrupts.asked) == (0, None, True)


def test_wake_after_the_end_does_nothing() -> None:
    """A handler that was left behind may still find that nobody reads its output."""
    with Interrupts(lambda: None) as interrupts:
        pass
    interrupts.ring()


def test_a_second_one_hurries_and_a_third_breaks_off(interrupts: Interrupts, hurried: list[int]) -> None:
    """A third signal is for a program that hangs."""
    signal.raise_signal(signal.SIGTERM)
    assert hurried == []
    signal.raise_signal(signal.SIGINT)
    assert hurried == [1]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_opening_is_broken_off(interrupts: Interrupts, tmp_path: object) -> None:
    """
    A named pipe that nobody writes into.

    A signal that comes just before the system call does not break it off. So another one, which nobody listens to, follows
    again and again.
    """
    path = f"{tmp_path}/fifo"
    os.mkfifo(path)
    over, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while not over.wait(0.05):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    thread = later(interrupt)
    try:
        with pytest.raises(Interrupted):
            interrupts.opening(lambda: os.open(path, os.O_RDONLY))
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(Interrupted):
        interrupts.opening(lambda: pytest.fail("it was opened after a signal"))


def test_afterwards_signals_are_as_they_were() -> None:
    """The signal handlers and the wake-up descriptor are restored."""
    before = [signal.getsignal(number) for number in NUMBERS]
    former = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(former)
    with Interrupts(lambda: None):
        pass
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert signal.set_wakeup_fd(former) == former


def test_records_of_a_pipe_are_waited_for(interrupts: Interrupts, tmp_path: object) -> None:
    """Every read of a pipe waits and none of a file does; a whole record is delivered, whatever follows."""
    path = f"{tmp_path}/fifo"
    os.mkfifo(path)
    waits: list[int] = []

    def wait(descriptor: int) -> None:
        waits.append(descriptor)
        interrupts.wait(descriptor)

    hand = os.open(path, os.O_RDWR)
    os.write(hand, b"1\n2\n")
    with JsonRecords(path, wait) as records:
        rows = iter(records)
        assert [next(rows), next(rows)] == [1, 2]
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            next(rows)
    os.close(hand)
    assert len(waits) >= 2

    waits.clear()
    with open(f"{tmp_path}/file", "wb") as file:
        file.write(b"1\n")
    with JsonRecords(f"{tmp_path}/file", wait) as records:
        assert list(records) == [1]
    assert waits == []


def test_ctrl_c_while_modules_are_imported_ends_the_program_at_once(tmp_path: Path) -> None:
    """Nothing has begun yet: there is no traceback, and no exception that an import could swallow."""
    shop = Shop(tmp_path)
    shop.write("slow.py", "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n")
    shop.config('[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "slow:f"\n')
    with shop.live("run", "bus.toml", "--allow", "slow") as live:
        assert live.wait() == 130
    assert live.err.text == ""
