"""request: ask, and wait for the answer, over two thread hops: to the handler's thread and back."""

from collections.abc import Callable, Mapping
from functools import partial
from queue import Queue
from typing import Any

import limit_request
import ours
import simplest
from clocks import ROUND_TRIP, time_trips
from harness import Contender, Guarantees, Workload
from peers import pykka, pymessagebus

SUBJECT = "prices.get"
QUESTION = {"sku": "x"}
ANSWER = {"sku": "x", "price": 12.5}
TIMEOUT = 5.0
SIMPLEST = simplest.GUARANTEES._replace(words="a thread each, a queue for each answer; no time-out")
OURS = ours.GUARANTEES._replace(words="a time-out, drain and stop", errors="to the caller")
PYKKA = pykka.GUARANTEES._replace(words="ask an actor: a future with a time-out", errors="to the caller")

Ask = Callable[[], Any]


def price(message) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Answer with a body, in the shape of all contenders."""
    return {"sku": message.body["sku"], "price": 12.5}


def is_answer(answer: Any) -> bool:
    """Whether the right answer came back, in a message or as it is."""
    return bool(getattr(answer, "body", answer) == ANSWER)


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


def ask_peer(
    open_requests: Callable[[Callable[[Any], Any]], tuple[Callable[[Any], Any], Callable[[], Any]]],
) -> tuple[Ask, Callable[[], Any]]:
    """Open a peer that is asked with a body."""
    ask, close = open_requests(price)
    return lambda: ask(QUESTION), close


def contender(
    guarantees: Guarantees, open_route: Callable[[], tuple[Ask, Callable[[], Any]]], reach_ratio: float | None = None
) -> Contender:
    """One caller that asks again and again."""

    def run(size: int) -> Mapping[str, float]:
        ask, close = open_route()
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
        "pipebus": contender(OURS, ask_ours, 1.3),
        "pykka": contender(PYKKA, partial(ask_peer, pykka.open_requests)),
        "pymessagebus": contender(pymessagebus.GUARANTEES, partial(ask_peer, pymessagebus.open_requests)),
    },
    size=20_000,
)
