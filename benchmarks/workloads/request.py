"""request: ask, and wait for the answer, over two thread hops: to the handler's thread and back."""

from collections.abc import Callable, Mapping
from queue import Queue
from typing import Any

import limit_request
import simplest
from clocks import ROUND_TRIP, time_trips
from harness import Contender, Workload

SUBJECT = "prices.get"
QUESTION = {"sku": "x"}
ANSWER = {"sku": "x", "price": 12.5}
TIMEOUT = 5.0
SIMPLEST = "a thread each, a queue for each answer; no errors handled, no time-out"
OURS = "a time-out, the handler's error as an error of the request, a bounded mailbox, drain and stop"

Ask = Callable[[], Any]


def price(message) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Answer with a body, in the shape of all contenders."""
    return {"sku": message.body["sku"], "price": 12.5}


def is_answer(message: Any) -> bool:
    """Whether the right answer came back, in a message."""
    return bool(message.body == ANSWER)


def ask_limit() -> tuple[Ask, Callable[[], Any]]:
    """Open the limit."""
    requests = limit_request.open_requests(price)
    return lambda: requests.request(SUBJECT, QUESTION), requests.close


def ask_simplest() -> tuple[Ask, Callable[[], Any]]:
    """Send a queue along with the question."""
    bus = simplest.Bus()

    def answer(message: simplest.Message) -> None:
        body, answers = message.body
        answers.put(simplest.Message(SUBJECT, price(simplest.Message(SUBJECT, body))))

    def ask() -> simplest.Message:
        answers: Queue[simplest.Message] = Queue()
        bus.publish(SUBJECT, (QUESTION, answers))
        return answers.get()

    bus.subscribe(SUBJECT, answer)
    return ask, bus.stop


def ask_ours() -> tuple[Ask, Callable[[], Any]]:
    """Open a bus."""
    from pipebus import Bus

    bus = Bus()
    bus.subscribe(SUBJECT, price)
    bus.start()
    return lambda: bus.request(SUBJECT, QUESTION, timeout=TIMEOUT), bus.stop


def contender(
    guarantees: str, open_road: Callable[[], tuple[Ask, Callable[[], Any]]], reach_ratio: float | None = None
) -> Contender:
    """One caller that asks again and again."""

    def run(size: int) -> Mapping[str, float]:
        ask, close = open_road()
        figures = time_trips(ask, size, is_answer)
        close()
        return figures

    return Contender(guarantees, run, reach_ratio)


WORKLOAD = Workload(
    about="ask a handler on another thread and wait for its answer",
    columns=ROUND_TRIP,
    contenders={
        "limit": contender(limit_request.THREAD, ask_limit),
        "simplest": contender(SIMPLEST, ask_simplest),
        "pipebus": contender(OURS, ask_ours, 1.25),
    },
    size=20_000,
)
