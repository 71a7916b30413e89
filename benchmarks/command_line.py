"""
`pipebus run` on the records of a file, against a plain Python loop that does the same.

    python benchmarks/command_line.py                        200,000 records, 5 rounds
    python benchmarks/command_line.py --records 20000 --rounds 1
    python benchmarks/command_line.py --check                exit code 1 if it costs more than LIMIT times the loop
    python benchmarks/command_line.py --profile              where the time goes on the thread that reads

Each round runs both, each in a process of its own, and takes the seconds that it reports for the records, without its start. On
a busy machine the CPU time says more; it counts both threads of the bus, which otherwise overlap.
The five filters are those of many pipelines: log (nothing is shown), expire, validate (pydantic), set_headers, reroute. The
handler only counts. The loop reads a line, does what the five filters do, and calls the handler, on one thread, with no queue,
no counts, no dead letters and no limit on memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

SOURCE = Path(__file__).resolve().parents[1] / "src"
LIMIT = 8.0

HANDLERS = """
from pydantic import BaseModel

seen = 0


class Order(BaseModel):
    id: int
    country: str
    total: float


def count(message):
    global seen
    seen += 1
"""

CONFIG = """
version = 1

[[pipelines]]
filters = [
    "log",
    { use = "expire", ttl = "1h" },
    { use = "validate", models = { "orders" = "work:Order" } },
    { use = "set_headers", headers = { tenant = "acme" } },
    { use = "reroute", to = "orders.{body.country}" },
]

[[subscriptions]]
name = "count"
subject = "orders.*"
handler = "work:count"
"""

LOOP = """
import json, logging, sys, time
import work

log = logging.getLogger("loop")
validate = work.Order.__pydantic_validator__.validate_python
handlers = {}

def logged(message, rest):
    begun = time.monotonic()
    rest(message)
    if log.isEnabledFor(logging.INFO):
        log.info("passed %s in %f", message["subject"], time.monotonic() - begun)

def fresh(message, rest):
    if time.time() - message["time"] <= 3600:
        rest(message)

def validated(message, rest):
    rest({**message, "body": validate(message["body"])})

def stamped(message, rest):
    rest({**message, "headers": {"tenant": "acme"}})

def rerouted(message, rest):
    rest({**message, "subject": f"orders.{message['body'].country}"})

def handle(message):
    if message["subject"].startswith("orders."):
        work.count(message)

call = handle
for step in (rerouted, stamped, validated, fresh, logged):
    call = (lambda step, rest: lambda message: step(message, rest))(step, call)
begun = time.perf_counter()
with open(sys.argv[1], encoding="utf-8") as file:
    for line in file:
        call({"subject": "orders", "body": json.loads(line), "time": time.time(), "headers": {}})
print(json.dumps({"elapsed_s": time.perf_counter() - begun, "seen": work.seen}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pipebus-") as name:
        folder = Path(name)
        (folder / "work.py").write_text(HANDLERS)
        (folder / "bus.toml").write_text(CONFIG)
        (folder / "loop.py").write_text(LOOP)
        with (folder / "orders.jsonl").open("w") as file:
            for number in range(args.records):
                country = ("fr", "de", "us")[number % 3]
                file.write(json.dumps({"id": number, "country": country, "total": number % 100 + 0.5}) + "\n")
        command = ["run", "bus.toml", "--allow", "work", "--input", "orders.jsonl", "--subject", "orders", "--json"]
        if args.profile:
            code = "import cProfile, sys; from pipebus.cli import main; cProfile.run('main(sys.argv[1:])', sort='tottime')"
            print(run(folder, "-c", code, *command)[0][:6000])
            return 0
        (folder / "none.jsonl").write_text("")
        rounds = [round_of(folder, command, args.records) for _ in range(args.rounds)]
    for what, side in (("elapsed", 0), ("CPU time of all threads", 1)):
        loop, ours = (median(one[who][side] for one in rounds) / args.records * 1e6 for who in (0, 1))
        ratio = median(ours[side] / loop[side] for loop, ours in rounds)
        each = f"loop {loop:.2f} µs, pipebus run {ours:.2f} µs a record ({1e6 / ours:,.0f} records a second)"
        print(f"{what}: {each}; {ratio:.1f} times")
        if not side:
            code = int(args.check and ratio > LIMIT)
    return code


Cost = tuple[float, float]
"""Seconds that pass, and seconds of CPU."""


def round_of(folder: Path, command: list[str], records: int) -> tuple[Cost, Cost]:
    """What the records cost the loop and `pipebus run`. The CPU time of a run without records is left out."""
    loop, loop_cpu = run(folder, "loop.py", "orders.jsonl")
    ours, our_cpu = run(folder, "-m", "pipebus", *command)
    if not json.loads(loop)["seen"] == json.loads(ours)["subscriptions"]["count"]["acknowledged"] == records:
        raise SystemExit(f"not all {records} records were handled: {loop}, {ours}")
    _, loop_start = run(folder, "loop.py", "none.jsonl")
    _, our_start = run(folder, "-m", "pipebus", *(part.replace("orders.jsonl", "none.jsonl") for part in command))
    elapsed = [json.loads(text)["elapsed_s"] for text in (loop, ours)]
    return (elapsed[0], loop_cpu - loop_start), (elapsed[1], our_cpu - our_start)


def run(folder: Path, *command: str) -> tuple[str, float]:
    """The output of a program, and the seconds of CPU that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
