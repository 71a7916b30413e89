"""
Where the time goes on a NATS server: `python benchmarks/run.py --profile nats_through` (or nats_publish, nats_publishers).

The limit and pipebus run once each, with a clock around each step, as in `steps_sqlite.py`. A coroutine is timed, and counted,
each time it goes on; so what it waits for does not count, and a loop that works through a line counts once for each time that
it is woken. The clocks more than double the whole: compare steps, not sums.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, Final

import server
import steps_sqlite
from workloads import nats_publish, nats_through

Run = Callable[[int], Mapping[str, float]]

RUNS: Final[dict[str, tuple[Run, Run, int]]] = {
    "nats_publish": (nats_publish.limit_one, nats_publish.our_awaited, nats_publish.FIRST),
    "nats_publishers": (
        partial(nats_publish.limit_many, False),
        partial(nats_publish.our_many, False),
        nats_publish.FIRST_MANY,
    ),
    "nats_through": (
        partial(nats_through.through, partial(nats_through.limit_road, False)),
        partial(nats_through.through, partial(nats_through.our_road, False)),
        nats_through.FIRST,
    ),
}


def report(workload: str, size: int) -> str:
    """Microseconds of each step for one message, and how often it happens for one; of the limit, and of pipebus."""
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription
    from nats.protocol.parser import Parser

    from pipebus import Bus
    from pipebus.message.codec import JsonCodec
    from pipebus.transports.nats import transport, wire
    from pipebus.transports.nats.claim import Claim
    from pipebus.transports.nats.feed import Feed
    from pipebus.transports.nats.link import Link
    from pipebus.transports.nats.publisher import Publisher
    from pipebus.transports.nats.puller import Puller
    from pipebus.transports.nats.sender import Results
    from pipebus.transports.nats.verdicts import Verdicts

    clocks = Clocks()
    for where, name, label in (
        (Bus, "apublish", "publish: the bus, its chain"),
        (JsonCodec, "encode", "publish: encode"),
        (transport.NatsTransport, "asend", "publish: the transport, a future"),
        (Link, "post", "to the link's loop"),
        (Link, "_called", "on the link's loop, but for what stands here"),
        (Publisher, "send", "publish: into the window"),
        (Link, "_write", "the link's writer"),
        (Client, "publish", "nats-py: make a frame"),
        (Client, "_flusher", "nats-py: write to the socket"),
        (Client, "_read_loop", "nats-py: read from the socket"),
        (Parser, "parse", "nats-py: parse"),
        (Client, "_process_msg", "nats-py: make a message, read its headers"),
        (Subscription, "_wait_for_msgs", "nats-py: hand messages to callbacks, and what the limit does in them"),
        (Publisher, "_answered", "publish: read the server's word"),
        (Results, "give", "publish: to the loop that waits"),
        (Results, "_set", "publish: set the futures"),
        (Puller, "_arrived", "deliver: the subscription"),
        (Claim, "__init__", "deliver: a claim"),
        (wire, "decode", "deliver: whose message it is"),
        (JsonCodec, "decode", "deliver: decode"),
        (Feed, "_hand_in", "deliver: into the mailbox"),
        (transport.NatsTransport, "settle", "settle: note it"),
        (Verdicts, "settle", "settle: tell the server"),
        (Puller, "pull", "ask for more"),
    ):
        clocks.watch(where, name, label)  # type: ignore[arg-type]
    *both, first = RUNS[workload]
    wholes, found = [], []
    for run in both:
        wholes.append(run(size))
        found.append({label: (sum(cpu for cpu, _ in times), len(times)) for label, times in clocks.times.items()})
        for times in clocks.times.values():
            times.clear()
    messages = size + first
    lines = [f"{workload}, {server.told()}", "CPU µs a message, times a message: of the limit, of pipebus"]
    for label in clocks.times:
        if not any(one[label][1] for one in found):
            continue
        cells = (f"{took / messages * 1e6:8.2f} {times / messages:8.3f}" for took, times in (one[label] for one in found))
        lines.append(f"{'   '.join(cells)}   {label}")
    known = [sum(took for took, _ in one.values()) / messages * 1e6 for one in found]
    for label, values in (
        (
            "all else: event loops, tasks, mailbox, handler",
            [whole["cpu"] - each for whole, each in zip(wholes, known, strict=True)],
        ),
        ("whole", [whole["cpu"] for whole in wholes]),
        ("by the wall: whole", [whole["us"] for whole in wholes]),
    ):
        lines.append(f"{'   '.join(f'{value:8.2f}         ' for value in values)}   {label}")
    return "\n".join(lines)


class Clocks(steps_sqlite.Clocks):
    """And the times of coroutines."""

    def watch(self, where: type, name: str, label: str) -> None:
        inner = getattr(where, name)
        if iscoroutinefunction(inner):
            step = self.timed(lambda go_on, what: go_on(what), label)

            @wraps(inner)
            async def timed(*args: Any, **options: Any) -> Any:
                return await Steps(inner(*args, **options), step)

            setattr(where, name, timed)
        else:
            super().watch(where, name, label)


class Steps:
    """A coroutine that is timed each time it goes on."""

    def __init__(self, coroutine: Any, step: Callable[..., Any]) -> None:
        self._coroutine, self._step = coroutine, step

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on, what = self._coroutine.send, None
        while True:
            try:
                found = self._step(go_on, what)
            except StopIteration as end:
                return end.value
            try:
                go_on, what = self._coroutine.send, (yield found)
            except BaseException as error:
                go_on, what = self._coroutine.throw, error
