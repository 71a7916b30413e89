"""What a workload and a contender are, and the one clock that all message workloads share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from threading import Event
from time import perf_counter, process_time
from typing import Any, NamedTuple, TypeVar

SUBJECT = "orders.created"
BODY = {"id": 1, "customer": "ada", "amount": 12.5}
WARM_UP = 5_000
MICROSECONDS = {"us": "µs a message", "cpu": "CPU µs"}

Handler = Callable[[Any], None]
Expectation = Callable[[Any], bool]
Promises = TypeVar("Promises", "Guarantees", "Durable")


class Guarantees(NamedTuple):
    """
    What a contender promises, in the four points where message buses differ most, a word or three each, and in words.

    Args:
        words: What it is, and what else it promises or does not.
        queues: Where a message waits for a handler that is busy.
        errors: What a handler that raises does to the others, and to itself.
        bounds: What happens when a handler is too slow.
        order: In which order one handler sees the messages of one publisher.
        package: The package on PyPI that it is from; a contender whose package is absent is shown as "not installed".
    """

    words: str
    queues: str
    errors: str
    bounds: str
    order: str
    package: str = ""


class Durable(NamedTuple):
    """
    What a contender promises where messages are kept in a file or on a server, a word or three each, and in words.

    Args:
        words: As in `Guarantees`.
        synced: Whether a message is on the disk, safe from a power cut, when its publish returns.
        acknowledged: Whether a message is kept until its handler has returned.
        order: In which order one handler sees the messages of one publisher.
        killed: What becomes of the message that a killed process was handling.
        package: As in `Guarantees`.
    """

    words: str
    synced: str
    acknowledged: str
    order: str
    killed: str
    package: str = ""


def also(words: str, guarantees: Durable) -> Durable:
    """The same promises, in another way."""
    return guarantees._replace(words=f"the same {words}")


class Flow(NamedTuple):
    """An open route from `publish(subject, body)` to a handler on another thread, and how to end it."""

    publish: Callable[[str, Any], Any]
    close: Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """
    One way to do the work of a workload.

    Args:
        guarantees: What it promises, or does not; one phrase where all contenders promise the same.
        run: Does the work once, `size` times over, and returns one figure for each column of the workload.
        reach_ratio: How many times the limit we mean to stay under, in the first column, or by column. Printed by
            `--check`, never enforced.
        reach_value: The same for the figure itself, in the column's unit.
        against: The contender that its ratios are taken to; None: the limit.
    """

    guarantees: Guarantees | Durable | str
    run: Callable[[int], Mapping[str, float]]
    reach_ratio: float | Mapping[str, float] | None = None
    reach_value: float | Mapping[str, float] | None = None
    against: str | None = None

    @property
    def words(self) -> str:
        """The phrase."""
        return self.guarantees if isinstance(self.guarantees, str) else self.guarantees.words

    @property
    def package(self) -> str:
        """What has to be installed for it, or nothing."""
        return "" if isinstance(self.guarantees, str) else self.guarantees.package


@dataclass(frozen=True)
class Workload:
    """
    A question, and those who answer it.

    Args:
        columns: Key of a figure -> its heading. The first one is what min, max and the reach are about.
        contenders: By name; the first one is the limit that the others are divided by.
        size: How many messages (or subscribers) one run takes.
        sized_by: What `size` counts; `--messages` only changes workloads that count messages.
        rounds: How often each contender runs unless the command line says otherwise.
        when_named: It takes long, and runs only when it is asked for by name.
        without_ratio: Columns that are not compared: a ratio of small counts says nothing.
        where: Says what else than the machine figures depend on, and refuses to run where they would mean nothing.
    """

    about: str
    columns: Mapping[str, str]
    contenders: Mapping[str, Contender]
    size: int = 200_000
    sized_by: str = "messages"
    rounds: int = 5
    when_named: bool = False
    without_ratio: Collection[str] = ()
    where: Callable[[], str] | None = None


def anything(message: Any) -> bool:
    """Expect no work done to a message."""
    return True


def flow_contender(
    guarantees: Guarantees,
    open_flow: Callable[[Sequence[Any], Handler], Flow],
    filters: Callable[[], Sequence[Any]] = tuple,
    *,
    expect: Expectation = anything,
    reach_ratio: float | None = None,
    most: int | None = None,
) -> Contender:
    """
    Make a contender of a message workload; its filters are made in the child, when it runs.

    Args:
        most: Messages that it is measured with at most, where more would take minutes.
    """

    def run(size: int) -> Mapping[str, float]:
        return time_flow(lambda handle: open_flow(filters(), handle), min(size, most or size), expect)

    return Contender(measured_with(guarantees, most, "messages"), run, reach_ratio)


def measured_with(guarantees: Promises, most: int | None, what: str) -> Promises:
    """Say that a contender is measured with fewer than the others."""
    return guarantees._replace(words=f"{guarantees.words}; measured with at most {most:,} {what}") if most else guarantees


def time_flow(open_flow: Callable[[Handler], Flow], size: int, expect: Expectation) -> dict[str, float]:
    """
    Time from the first publish until the handler, on another thread, has seen the last message.

    Args:
        open_flow: Makes the route to a handler.
        size: Messages, after a warm-up that is not counted.
        expect: Looks at the last message that arrived, after the clock stopped: contenders that are compared
            must have done the same work.

    Raises:
        RuntimeError: A message was lost, or arrived without the work done to it.
    """
    seen = target = 0
    last: Any = None
    finished = Event()

    # No annotation on the parameter: for pipebus that means the message itself, as everybody else hands over.
    def handle(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal seen, last
        seen += 1
        if seen == target:
            last = message
            finished.set()

    flow = open_flow(handle)

    def run(size: int) -> tuple[float, float]:
        nonlocal seen, target
        seen, target = 0, size
        finished.clear()
        publish = flow.publish
        start, work = perf_counter(), process_time()
        for _ in repeat(None, size):
            publish(SUBJECT, BODY)
        if not finished.wait(timeout=60.0):
            raise RuntimeError(f"{size} messages published, {seen} handled after 60 s")
        return perf_counter() - start, process_time() - work

    run(min(WARM_UP, size))
    elapsed, worked = run(size)
    flow.close()
    if not expect(last):
        raise RuntimeError(f"the last message arrived without the work done to it: {last!r}")
    return {"us": elapsed / size * 1e6, "cpu": worked / size * 1e6}
