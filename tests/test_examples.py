"""Every example runs as its first lines say, prints what it should, and ends by itself or when its input does."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import missing

ROOT = Path(__file__).resolve().parents[1]
DURABLE = ROOT / "examples" / "08_durable.py"
"""This example leaves a file and gets killed, so it has its own test."""
PROCESSES = ROOT / "examples" / "09_two_processes.py"
"""This example needs a server, so tests/transports/test_nats_processes.py runs it."""
OUTBOX = ROOT / "examples" / "10_outbox.py"
"""This example needs packages of other people, and gets killed."""
TELEMETRY = ROOT / "examples" / "11_telemetry.py"
"""This example needs FastAPI, whose versions have spans of their own or none."""
PAGE = ROOT / "examples" / "12_page.py"
"""This example serves a page until it is stopped."""
ALONE = (DURABLE, PROCESSES, OUTBOX, TELEMETRY, PAGE)
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path not in ALONE)
FILES = sorted((ROOT / "examples").glob("*/pipebus.toml"))
KEYS = {"RELAY_KEY": "a key that is long enough", "RELAY_OLD_KEY": "another one, also long enough"}
"""What examples/relay reads from the environment."""
ENV = os.environ | KEYS | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}

SAYS = {
    "01_first_bus.py": """
billing: 4.20 for tea
billing: 7.50 for honey
shipping: tea, from orders.created
shipping: honey, from orders.created
the second order: Receipt(mailboxes=2, duplicate=False)
the third message: Receipt(mailboxes=0, duplicate=False)
billing accepted 2 and acknowledged 2
shipping accepted 2 and acknowledged 2
""",
    "02_filters.py": """
sales.bread Receipt(mailboxes=1, duplicate=False)
sales.clock Receipt(mailboxes=1, duplicate=False)
sales.bag Dropped(reason='nothing to pay', by='not_for_free')
refunds.cup Receipt(mailboxes=1, duplicate=False)
sales.pear rejected by Validate: price: Input should be a valid number, unable to parse string as a number
the book
(no answer, so once more)
sales.bread Sale(item='bread', price=3.5)
sales.clock Sale(item='clock', price=108.0)
refunds.cup a cup that leaks, signed by the manager
the road of a message on
sales.clock
publish chain
journal examples/02_filters.py:*
branch("refunds.*") not taken: sales.clock does not match examples/02_filters.py:*
Validate(models={'sales.*': '__main__:Sale'}) examples/02_filters.py:*
when(expensive) asked for each message examples/02_filters.py:*
Discount(percent=10) examples/02_filters.py:*
not_for_free examples/02_filters.py:*
mailboxes
book on sales.*, refunds.* [pool, 1 worker; block at 10,000, 5 s] examples/02_filters.py:*
twice examples/02_filters.py:*
-> write
""",
    "03_actor.py": """
> hello
pipebus-scribe line 1: hello
>
MainThread tidy dropped it: nothing in it
> two words
pipebus-scribe line 2: two words
> no end of line
pipebus-scribe line 3: no end of line
>
3 in the log
""",
    "04_threads_and_asyncio.py": """
tea
orders.new the waiter's thread
till a worker thread
orders.paid a worker thread
barista the event loop
orders.ready the event loop
cocoa
orders.new the event loop
till a worker thread
orders.paid a worker thread
barista the event loop
orders.ready the event loop
chai
orders.new the event loop
till a worker thread
orders.paid a worker thread
barista the event loop
orders.ready the event loop
""",
    "05_request_reply.py": """
tea: 4.2
two jars: 1 left
gold: LookupError, we have no gold
a guess: nobody listens to prices.guess; subscribe a handler that returns a value
an offer: no reply on prices.haggle in 0.05 s (a handler that returns None does not reply)
honey: 7.5
tea and bread: 7.3
one jar: 0 left
dead letters: 0
""",
    "07_testing_a_filter.py": """
ok a small order pays for its parcel
ok a retry waits longer each time
ok what is shipped is announced
ok an order for nothing is rejected
ok a depot that is closed is tried again
ok the postage keeps the laws of filters
ok one worker sells each ticket once
ok two workers would sell it twice
""",
    "06_agents.py": """
editor to planner A line on the first tea in Europe, please.
planner to researcher When did the first tea come to Europe, and on whose ships?
researcher to planner In 1610, on ships of the Dutch East India Company.
planner to writer One short line on tea: Europe, 1610, the Dutch East India Company.
planner to editor I could not say that: token budget used up.
editor to budget 50
editor to planner You have 50 more, go on.
planner to writer One short line on tea: Europe, 1610, the Dutch East India Company.
writer to planner Europe's first tea came in 1610, and it came on Dutch ships.
planner to editor Europe's first tea came in 1610, and it came on Dutch ships.
Europe's first tea came in 1610, and it came on Dutch ships.
29 tokens left; dropped by the budget: {'token budget used up': 1}
""",
}

TYPED = {"03_actor.py": "hello\n\n  two  words \nno end of line"}
"""What comes through a pipe to the examples that read."""


def run(example: Path) -> subprocess.CompletedProcess[str]:
    """Run an example in its own process, from the project's folder, with this tree's package."""
    return subprocess.run(
        [sys.executable, "-W", "error", example.relative_to(ROOT)],
        cwd=ROOT,
        env=ENV,
        input=TYPED.get(example.name, ""),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(output: str) -> list[str]:
    """The lines that say something, spaced by single blanks, without line numbers of the example itself."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    return [re.sub(r"(examples/\w+\.py):\d+", r"\1:*", line) for line in lines if line]


FAILING = {"05_request_reply.py": "request.failed", "07_testing_a_filter.py": "attempt.failed"}
"""Examples that show a failure, and the event that each of them logs on standard error."""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.few(3)
def test_an_example_says_what_it_promises(example: Path) -> None:
    """A user who runs an example sees exactly this output and no warning, and gets the prompt back."""
    done = run(example)

    if example.name in FAILING:
        assert FAILING[example.name] in done.stderr
    else:
        assert done.stderr == ""
    assert done.returncode == 0
    assert said(done.stdout) == said(SAYS[example.name])


@pytest.mark.thorough
def test_the_tests_of_an_example_pass_under_pytest() -> None:
    """The fixtures come with the package, so nothing has to be set up."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/07_testing_a_filter.py"],
        cwd=ROOT,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.parent.name)
@pytest.mark.few(1)
def test_the_tests_of_a_file_pass(file: Path) -> None:
    """It passes `check`, without a hint about the order of its filters, and its tests; its first lines say how to run it."""
    allow = ["--allow", f"{file.parent.name},pipebus.demo"]
    for command in ("check", "test"):
        done = subprocess.run(
            [sys.executable, "-m", "pipebus", command, str(file), *allow],
            cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "swap the two" not in done.stdout
    assert done.stdout.count("passed  ") == file.read_text(encoding="utf-8").count("[[tests]]") >= 4
    assert "#     pipebus run examples/" in file.read_text(encoding="utf-8")


def test_ctrl_c_ends_the_prompt_as_the_end_of_input_does() -> None:
    """A user who has seen enough presses Ctrl-C, and gets the last line instead of a traceback."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "examples/03_actor.py"],
        cwd=ROOT,
        env=ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write("hello\n")
        process.stdin.flush()
        seen = [process.stdout.readline(), process.stdout.readline()]
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):  # one that came just before the process went to read: once more
                process.wait(timeout=5)
        rest, errors = process.stdout.read(), process.stderr.read()

    assert said("".join(seen)) == ["> hello", "pipebus-scribe line 1: hello"]
    assert said(rest)[-1] == "1 in the log"
    assert errors == ""
    assert process.returncode == 0


def killed_after(count: int, command: list[str], env: dict[str, str]) -> list[str]:
    """The first lines of an example, which is killed then."""
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(count)]
        process.kill()
        process.stdout.read()
    return lines


@pytest.mark.thorough
def test_the_durable_example_is_killed_and_loses_nothing(tmp_path: Path) -> None:
    """
    The example is killed twice in the middle of its work; its third run ends it, with one bill for each order and no double
    shipment.
    """
    command = [sys.executable, "-W", "error", str(DURABLE), str(tmp_path / "shop.db")]
    env = ENV | {"PACE": "0.02"}
    placed = "[0-9]+ billed before, [0-9]+ waiting in the file, [0-9]+ new"
    for count in (3, 4):
        lines = killed_after(count, command, env)
        assert all(re.fullmatch(rf"({placed}|billed [0-9]+( \(at last\))?)\n", line) for line in lines), lines
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "20 orders, 20 bills, 20 shipped")
    line = next(line for line in done.stdout.splitlines() if re.fullmatch(placed, line))
    before, waiting, new = map(int, re.findall("[0-9]+", line))
    assert (before >= 5, before + waiting, new) == (True, 20, 0)


@pytest.mark.thorough
def test_the_outbox_example_is_killed_and_keeps_orders_and_messages_together(tmp_path: Path) -> None:
    """
    The example is killed twice in the middle. Each time there is a message for each order and an order for each message; its
    third run ends with 400 of both.
    """
    for package in ("fastapi", "httpx2", "sqlalchemy"):
        missing.needs(package)
    file = tmp_path / "orders.db"
    command = [sys.executable, "-W", "error", str(OUTBOX), str(file)]
    for count in (2, 5):
        lines = killed_after(count, command, ENV)
        assert all(re.fullmatch("order [0-9]*0: 402\n", line) for line in lines), lines
        with closing(sqlite3.connect(file)) as database:
            numbers = {
                name: {number for (number,) in database.execute(query)}
                for name, query in (
                    ("orders", "SELECT number FROM orders"),
                    ("mailed", "SELECT number FROM mail"),
                    ("messages", "SELECT data ->> 'data' FROM message WHERE subject = 'orders.created'"),
                )
            }
        assert numbers["messages"] | numbers["mailed"] == numbers["orders"]
        assert 0 < len(numbers["orders"]) < 400
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "500 ordered, 100 rolled back: 400 orders, 400 messages, 0 failed"


TRACED = """
Dropped(reason='nothing was ordered', by='with_price')
Receipt(mailboxes=1, duplicate=False)
rejected by with_price: no item
trace 1  charge the card
trace 1  filter with_price      changed
trace 1  handle bill
trace 1  process orders.*       handled
trace 1  send orders.*          accepted
trace 1  settle orders.*        acknowledged
trace 2  filter with_price      dropped, nothing was ordered
trace 2  send orders.*          dropped, nothing was ordered
trace 3  filter with_price      refused, Rejected
trace 3  send orders.*          Rejected
"""
"""Lines of two threads may come in any order."""


@pytest.mark.thorough
def test_the_telemetry_example_prints_the_traces_of_its_requests() -> None:
    """Each order is one trace: what sent it, each filter with its verdict, and the handler with the application's own span."""
    for package in ("fastapi", "httpx2"):
        missing.needs(package)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(TELEMETRY)],
        cwd=ROOT,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if not re.match(r"trace \d  (fastapi\.|POST )", line)]
    assert sorted(lines) == TRACED.split("\n")[1:-1]


@pytest.mark.thorough
def test_the_page_example_shows_its_bus_until_ctrl_c() -> None:
    """The example prints the address of the page, which shows a bus that works; Ctrl-C ends it without a traceback."""
    missing.needs("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-W", "error", str(PAGE), port]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        page = process.stdout.readline().strip()
        assert page == f"http://127.0.0.1:{port}/bus/"
        while not (billed := answer(f"http://127.0.0.1:{port}/")) or json.loads(billed)["billed"] < 3:
            assert process.poll() is None, process.stderr.read()
        assert "page.js" in answer(page.removesuffix("/"))
        assert json.loads(answer(f"{page}api/figures"))["messages"]["rejected"].keys() <= {"has_country"}
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()

    assert process.returncode == 0, errors
    assert "KeyboardInterrupt" not in errors


def answer(url: str) -> str:
    """What a server answers; nothing while it is not there yet."""
    with suppress(URLError), urlopen(url, timeout=10) as found:
        return str(found.read().decode())
    return ""


NO_PACKAGE = "import runpy, sys; sys.modules['nats'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
"""Runs an example as if nats-py was not installed."""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param(["-c", NO_PACKAGE], "nats:// needs the package nats-py: .*", id="no package"),
        pytest.param(
            [], "no connection to localhost:1 .*start nats-server there.*", id="no server", marks=pytest.mark.thorough
        ),
    ],
)
def test_an_example_that_needs_a_server_says_so(options: list[str], why: str) -> None:
    """A newcomer without a server or its package reads one line instead of a traceback."""
    done = subprocess.run(
        [sys.executable, *options, PROCESSES, "nats://localhost:1"],
        cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"This example needs a NATS server: {why}\n", done.stderr)


def test_no_example_is_forgotten() -> None:
    """The tests look at every example in the folder."""
    assert [path.name for path in EXAMPLES] == sorted(SAYS)
