"""
Where the time goes: `python benchmarks/run.py --profile W1`.

Two views from outside. *Steps*: timings of the same work with one step more each time; a step is the
difference. While publishing is timed, the interpreter does not switch threads, so that the two sides
do not mix. *Calls*: how often each function runs for one message. They are counted by a profile hook and
exact, where the times such a hook gives for functions this small would be mostly its own.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import limit
import ours
from harness import BODY, SUBJECT, WARM_UP, Flow, Handler, anything, time_flow
from workloads import w2, w2n

ROUNDS = 25
COUNTED = 2_000  # messages for the counts of calls

Filters = Callable[[], Sequence[Any]]
Opener = Callable[[Sequence[Any], Handler], Flow]

CHAINS: dict[str, dict[str, tuple[Filters, Filters]]] = {  # workload -> chain -> (limit's, pipebus's)
    "W1": {"no filter": (list, list)},
    "W2n": {"three no-ops": (w2n.noops, w2n.noops)},
    "W2": {
        "plain": (partial(w2.limit_filters, False), partial(w2.plain_filters, False)),
        "built-in": (partial(w2.limit_filters, False), partial(w2.built_in_filters, False)),
    },
    "W2k": {
        "plain": (partial(w2.limit_filters, True), partial(w2.plain_filters, True)),
        "built-in": (partial(w2.limit_filters, True), partial(w2.built_in_filters, True)),
    },
}


def report(workload: str, size: int) -> str:
    """Profile each chain of a workload that pipebus runs."""
    if workload not in CHAINS:
        return f"nothing to profile in {workload}; there is something in {', '.join(CHAINS)}, sqlite_publishers, sqlite_through"
    parts = [
        f"{workload}, {chain}\n\n{compare(hand_written, filters, size)}\n\n{calls(filters)}"
        for chain, (hand_written, filters) in CHAINS[workload].items()
    ]
    return "\n\n\n".join(parts)


def compare(hand_written: Filters, filters: Filters, size: int) -> str:
    """Lay the steps of the limit and of pipebus side by side; each is the median of some rounds, taken in turns."""
    rounds = [(steps(limit.open_flow, hand_written, size), steps(ours.open_wide, filters, size)) for _ in range(ROUNDS)]
    lines = ["ns a message: limit, pipebus"]
    for step in rounds[0][0]:
        least, found = (median(both[side][step] for both in rounds) for side in (0, 1))
        lines.append(f"{least:8.0f} {found:8.0f}  {step}")
    return "\n".join(lines)


def steps(open_flow: Opener, filters: Filters, size: int) -> dict[str, float]:
    """Time the steps of one contender once."""
    bare, _ = apart(open_flow, (), size)
    publish, drain = apart(open_flow, filters(), size)
    whole = time_flow(partial(open_flow, filters()), size, anything)["us"] * 1e3
    return {
        "publish: the message, its route, the put": bare,
        "filters": publish - bare,
        "drain: take, call the handler, settle": drain,
        "both threads at once, over the sum": whole - publish - drain,
        "whole": whole,
    }


def each(act: Callable[[str, Any], Any], size: int) -> float:
    """Call something `size` times; nanoseconds a call."""
    start = perf_counter()
    for _ in repeat(None, size):
        act(SUBJECT, BODY)
    return (perf_counter() - start) / size * 1e9


def apart(open_flow: Opener, filters: Sequence[Any], size: int) -> tuple[float, float]:
    """Publish everything, then let it be handled; nanoseconds a message of both."""
    left = 0
    finished = threading.Event()

    def handle(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal left
        left -= 1
        if not left:
            finished.set()

    flow = open_flow(filters, handle)
    usual = sys.getswitchinterval()
    publish = drain = 0.0
    for number in (WARM_UP, size):
        left = number
        finished.clear()
        sys.setswitchinterval(60.0)
        publish = each(flow.publish, number)
        start = perf_counter()
        finished.wait(timeout=60.0)
        drain = (perf_counter() - start) / number * 1e9
        sys.setswitchinterval(usual)
    flow.close()
    return publish, drain


def calls(filters: Filters) -> str:
    """Count how often functions run for a message, on the publisher's thread and on the worker's."""
    here = threading.get_ident()
    counts: Counter[tuple[bool, str]] = Counter()
    counting = False

    def see(frame: FrameType, event: str, arg: Any) -> None:
        if counting and event == "call":
            counts[threading.get_ident() == here, place(frame.f_code)] += 1
        elif counting and event == "c_call":
            counts[threading.get_ident() == here, f"  {arg.__qualname__} (C)"] += 1

    left = WARM_UP
    warm = threading.Event()

    def handle(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal left
        left -= 1
        if not left:
            warm.set()

    threading.setprofile(see)  # every thread that starts from here on: the workers, with the first messages
    flow = ours.open_wide(filters(), handle)
    each(flow.publish, WARM_UP)
    warm.wait(timeout=60.0)
    threading.setprofile(None)
    counting = True
    sys.setprofile(see)
    each(flow.publish, COUNTED)
    sys.setprofile(None)
    flow.close()
    rows = [
        f"{count / COUNTED:8.2f}  {'publisher' if publisher else 'worker   '}  {what}"
        for (publisher, what), count in sorted(counts.items(), key=lambda item: (not item[0][0], -item[1]))
        if count >= COUNTED / 5  # rarer: the worker comes and goes
    ]
    return "\n".join(["calls a message, pipebus", *rows])


def place(code: CodeType) -> str:
    """Name a function as a reader finds it."""
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.name}:{code.co_firstlineno} {code.co_qualname}"
