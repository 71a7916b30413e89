"""
What a page costs the bus that it shows.

    python benchmarks/watched.py                          1 and 1,000 subscriptions, 15 rounds
    python benchmarks/watched.py --messages 50000 --rounds 3
    python benchmarks/watched.py --check                  exit code 1 if a bus that is watched loses more than LIMIT

A page that nobody looks at, one whose graph is looked at, and one whose messages are looked at (both streams) are compared with
no page. A round publishes as many messages as the bus can take, and waits until they are handled, once with the page and once
without it, in a random order. Who looks is another program, which reads all that comes, as a browser does. The figures are the
median of the ratios of the rounds, and the middle half of them; and what the threads of the page take of the CPU time, which a
busy machine does not blur.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from pipebus import Bus
from pipebus.web.serving import serving

LIMIT = 0.05
SETTLE = 1.0
"""Seconds before a measurement: a program that begins takes much of the processor."""
WAYS: dict[str, tuple[str, ...]] = {"nobody": (), "graph": ("api/events",), "messages": ("api/events", "api/messages")}
"""For each way to look the streams that are read."""

READER = """
import sys, threading, urllib.request
def read(url):
    with urllib.request.urlopen(url) as stream:
        for line in stream:
            if line.startswith(b"data"):
                print(url, flush=True)
for url in sys.argv[1:]:
    threading.Thread(target=read, args=(url,), daemon=True).start()
sys.stdin.read()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    worst = 0.0
    for subscriptions in (1, 1_000):
        bus = Bus(name="watched")
        for number in range(subscriptions):
            bus.subscribe(f"load.{number}", lambda message: None, name=f"worker-{number:03}")
        with bus:
            work(bus, args.messages // 4, subscriptions)
            for way, streams in WAYS.items():
                rounds = [round_of(bus, streams, args.messages, subscriptions) for _ in range(args.rounds)]
                figures = [sorted(looked[side] / alone[side] - 1 for alone, looked in rounds) for side in (0, 1)]
                own = median(looked[2] / looked[1] for _, looked in rounds)
                figured = f"time {shown(figures[0])}, CPU {shown(figures[1])}, its own threads {own:.2%}"
                print(f"{subscriptions:,} subscriptions, {way:<8} {figured}", flush=True)
                worst = max(worst, min(map(median, figures)))
    return int(args.check and worst > LIMIT)


Cost = tuple[float, float, float]
"""Seconds that pass, seconds of CPU, and those of them that the threads of the page take."""


def round_of(bus: Bus, streams: tuple[str, ...], messages: int, subscriptions: int) -> tuple[Cost, Cost]:
    """The cost without the page, and with it."""
    found = {}
    for way in random.sample([None, streams], 2):
        with watched(bus, way):
            found[way] = work(bus, messages, subscriptions)
    return found[None], found[streams]


def shown(ratios: list[float]) -> str:
    """The median, and the middle half."""
    return f"{median(ratios):+6.1%} ({ratios[len(ratios) // 4]:+.1%} to {ratios[-1 - len(ratios) // 4]:+.1%})"


@contextmanager
def watched(bus: Bus, streams: tuple[str, ...] | None) -> Iterator[None]:
    """Serve the page and read its streams; None: there is no page."""
    with ExitStack() as stack:
        if streams is not None:
            url = stack.enter_context(serving(bus, "127.0.0.1:0"))
        if streams:
            command = [sys.executable, "-c", READER, *(url + stream for stream in streams)]
            reader = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert reader.stdin
            assert reader.stdout
            stack.callback(reader.kill)
            reader.stdout.readline()
        time.sleep(SETTLE)
        yield


def work(bus: Bus, messages: int, subscriptions: int) -> Cost:
    """Publish and handle."""
    subjects = [f"load.{number}" for number in range(subscriptions)]
    begun, cpu, page = time.perf_counter(), time.process_time(), page_time()
    for number in range(messages):
        bus.publish(subjects[number % subscriptions], number)
    bus.drain()
    return time.perf_counter() - begun, time.process_time() - cpu, page_time() - page


def page_time() -> float:
    """Seconds of CPU that the page's server and the workers that look for it have taken."""
    names = ("pipebus-page", "AnyIO worker thread")
    found = [thread.ident for thread in threading.enumerate() if thread.name.startswith(names)]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in found if ident)


if __name__ == "__main__":
    sys.exit(main())
