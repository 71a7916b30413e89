"""`pipebus top`: what waits and how fast it is handled, on a terminal, as a table and as JSON Lines."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import (
    ENV,
    PATIENCE,
    WITHOUT_RICH,
    Live,
    Shop,
    assert_said_well,
    on_terminal,
    plain,
    run,
    subscription,
)
from rich.cells import cell_len

from pipebus.cli import board
from pipebus.cli.figures import amount, duration, figures_of, ordered

TOKEN = "PIPEBUS_HTTP_TOKEN"
TICK = '[[every]]\ninterval = "20ms"\nsubject = "orders.tick"\nbody = { n = 1 }\n'


def row(name: str, pending: int = 0, **more: Any) -> dict[str, Any]:
    known = {
        "in_flight": 1,
        "dead": 0,
        "size": 1000,
        "oldest": None,
        "paused": False,
        "in": 0,
        "out": 0,
        "p50": None,
        "p99": None,
    }
    return {"name": name, "pending": pending, **known, **more}


def bus(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Figures, as the server of a bus answers."""
    return {
        "time": 1.0, "state": "started",
        "health": {"live": True, "ready": True, "degraded": True, "reasons": ["billing is nearly full"]},
        "messages": {"published": 123456, "accepted": 123400, "unrouted": 0, "rejected": {"has_country": {"no country": 56}},
                     "dropped": {}, "errors": {"KeyError": 1}, "dead_letters": 2},
        "rates": {"published": 1200.4, "accepted": 1199.0, "handled": 0.4},
        "subscriptions": list(rows), "a new key": 1,
    } | more  # fmt: skip


BILLING = row("billing", 900, dead=2, oldest=100.2, **{"in": 1200.4, "out": 0.4, "p50": 0.0012, "p99": 0.25})
AUDIT = row("audit\x1b[2J\u202e", 12345, paused=True, size=100_000)
JAPANESE = row("注文" * 9, 3, oldest=0.5)
MANY = [row(f"s{number:04}", number) for number in range(1000)]


def drawn(data: dict[str, Any], width: int, height: int, **more: Any) -> list[str]:
    return [line.plain.rstrip() for line in board.draw(figures_of(data), width, height, about="http://127.0.0.1:9000", **more)]


class TestBoard:
    """What is drawn is a function of the figures and of the terminal's size."""

    def test_a_terminal_of_80_columns_shows_everything(self) -> None:
        """Names that no terminal can show do no harm, and wide characters keep the columns straight."""
        assert drawn(bus(BILLING, AUDIT, JAPANESE), 80, 10) == [
            "http://127.0.0.1:9000  started, ready, degraded: billing is nearly full",
            "123k published (1,200/s), 123k accepted, 0.4/s handled, 56 rejected, 1 error, 2…",
            "3 subscriptions: 13,248 pending, 3 in flight, 2 dead, 1 paused",
            "subscription  depth   pending flight  in/s out/s oldest   p50   p99  dead paused",
            "audit\\x1b[2J… █░░░░░░   12.3k      1     0     0      -     -     -     0 paused",
            "billing       ███████     900      1 1,200   0.4  1m40s 1.2ms 250ms     2",
            "注文注文注文… █░░░░░░       3      1     0     0  500ms     -     -     0",
            "",
            "",
            "q quit  p pause  sort: d depth  a age  r rate  n name  ↑↓ PgUp PgDn     1-3 of 3",
        ]  # fmt: skip

    def test_a_narrow_one_shows_what_matters_most(self) -> None:
        assert drawn(bus(BILLING), 40, 7)[3:5] == [
            "subscription depth         pending  dead",
            "billing      ████████████░     900     2",
        ]

    def test_what_a_filter_pauses_is_told_from_what_the_program_pauses(self) -> None:
        """An open circuit breaker ends the pause by itself; that of the program waits for somebody."""
        held = row("held", paused=True, paused_by=["filter CircuitBreaker (open)"])
        assert [line.split()[-1] for line in drawn(bus(held, AUDIT, BILLING), 80, 10)[4:7]] == ["paused", "2", "filter"]

    def test_what_is_wrong_takes_the_place_of_the_state(self) -> None:
        """The last figures stay below, and a frozen display says that it is one."""
        lines = drawn(bus(BILLING), 80, 7, trouble="http://127.0.0.1:9000 does not answer; trying again", frozen=True)

        assert lines[0] == "http://127.0.0.1:9000 does not answer; trying again"
        assert lines[4].startswith("billing ")
        assert lines[-1].endswith(" paused  1-1 of 1")

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (30, 6), (9, 3), (1, 1)])
    def test_only_what_fits_is_drawn(self, width: int, height: int) -> None:
        """A thousand subscriptions are scrolled, and no line is wrapped."""
        lines = board.draw(figures_of(bus(*MANY, JAPANESE, AUDIT)), width, height, "name", 500)

        assert len(lines) == height
        assert max(cell_len(line.plain) for line in lines) <= width
        assert [line.plain.split()[0][:5] for line in lines[4:-1]] == [f"s{number:04}" for number in range(499, 494 + height)]

    @pytest.mark.parametrize(
        ("sort", "first"), [("depth", "audit"), ("age", "billing"), ("rate", "billing"), ("name", "audit")]
    )
    def test_the_largest_comes_first(self, sort: str, first: str) -> None:
        names = [
            one.name for one in ordered(figures_of(bus(row("audit", 9), JAPANESE, row("billing", 1, oldest=9, out=3))), sort)
        ]
        assert names[0] == first
        assert len(names) == 3

    def test_numbers_and_times_fit_into_five_characters(self) -> None:
        """A column never moves, whatever its numbers are."""
        numbers = [0, 0.01, 0.5, 9.96, 12.7, 9999, 9999.6, 99_949, 999_600, 123_456_789, 10**400, None]
        times = [0, 0.00002, 0.00099951, 0.00996, 0.9996, 9.96, 99.6, 599.6, 5999.7, 36_000, 360_000, 1e300, None]

        assert " ".join(map(amount, numbers)) == "0 <0.1 0.5 10 13 9,999 10k 99.9k 1M 123M 999P -"
        assert " ".join(map(duration, times)) == "0µs 20µs 1.0ms 10ms 1.0s 10s 1m40s 10m 1h40m 10h 4d 999d -"


class Fake:
    """A server with one page. `answer` returns its status and what it says; requests are kept."""

    def __init__(self, answer: Callable[[], tuple[int, Any]]) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self)
                status, said = fake.answer()
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._handler = Handler
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: ThreadingHTTPServer | None = None

    def begin(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def end(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A server of a bus with a thousand subscriptions."""
    fake = Fake(lambda: (200, bus(*MANY)))
    fake.begin()
    yield fake
    fake.end()


class TestOnce:
    """Without a terminal it is a table or JSON."""

    def test_a_pipe_gets_one_table(self, fake: Fake) -> None:
        """Scripts and mails get all rows, in full, with the same header."""
        fake.answer = lambda: (200, bus(BILLING, JAPANESE))
        done = run("top", f"{fake.url}/bus/", "--sort", "name")

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[0] == f"{fake.url}/bus/  started, ready, degraded: billing is nearly full"
        assert done.stdout.splitlines()[4:] == [
            "subscription        pending  flight   in/s  out/s  oldest    p50    p99  dead",
            "billing                 900       1  1,200    0.4   1m40s  1.2ms  250ms     2",
            "注文注文注文注文注文注文注文注文注文        3       1      0      0   500ms      -      -     0",
        ]
        assert fake.asked[0].path == "/bus/api/figures"
        assert run("top", fake.url, "--once", program=WITHOUT_RICH).stdout.splitlines()[4:] == done.stdout.splitlines()[4:]

    def test_json_is_what_the_server_said(self, fake: Fake) -> None:
        """Keys that this version does not know are there too."""
        done = run("top", fake.url, "--once", "--json")

        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == bus(*MANY)

    def test_a_server_that_is_away_is_asked_again(self) -> None:
        """It says so once, and goes on when the server is back; a signal ends it, and all is well."""
        fake = Fake(lambda: (200, bus(BILLING)))
        with Live("top", fake.url, "--json") as live:
            assert live.err
            assert live.err.wait_for(1) == [f"pipebus top: {fake.url} does not answer (Connection refused); trying again\n"]
            fake.begin()
            out = live.collect_out()
            assert json.loads(out.wait_for(1)[0])["state"] == "started"
            live.signal(signal.SIGINT)
            assert live.wait() == 0
            fake.end()
        assert_said_well(run("top", fake.url, "--once"), 1, f"{fake.url} does not answer (Connection refused)")

    def test_the_token_is_sent_to_the_server_and_to_nobody_else(self, fake: Fake) -> None:
        """It goes through no proxy, and follows no redirect."""
        proxy = "http://127.0.0.1:1"
        env = ENV | {TOKEN: "s3cret é\n", "http_proxy": proxy, "HTTP_PROXY": proxy, "all_proxy": proxy}

        assert run("top", fake.url, env=env).returncode == 0
        assert fake.asked[0].headers["Authorization"] == "Bearer s3cret é".encode().decode("latin-1")
        fake.answer = lambda: (302, b"")
        assert_said_well(run("top", fake.url, env=env), 2, "not the server of a bus", "302")

    @pytest.mark.parametrize(
        ("status", "said", "token", "text"),
        [
            (401, {"error": "no"}, "", f"asks for its token: set the environment variable {TOKEN} to it"),
            (401, {"error": "no"}, "s3cret", f"does not take the token in the environment variable {TOKEN}"),
            (403, {"error": "this host\x1b[2J may not look"}, "", r"refuses: this host\x1b[2J may not look"),
            (404, {"error": "no"}, "", "is not the server of a bus (api/figures is answered with 404); name the address"),
            (200, b"<html>", "", "is not the figures of a bus"),
            (200, b"[" * 100_000, "", "is not the figures of a bus"),
            (200, b'{"time": NaN, "subscriptions": []}', "", "is not the figures of a bus"),
            (200, {"time": 1, "subscriptions": [{"name": "a", "pending": "many"}]}, "", "is not the figures of a bus"),
            (200, bus(), "two\nlines", f"{TOKEN} is one line"),
        ],
        ids=["no-token", "wrong-token", "forbidden", "other-site", "html", "deep", "nan", "no-number", "no-header"],
    )  # fmt: skip
    def test_what_refuses_or_is_no_bus_is_one_line(self, fake: Fake, status: int, said: Any, token: str, text: str) -> None:
        fake.answer = lambda: (status, said)
        done = run("top", fake.url, env=ENV | ({TOKEN: token} if token else {}))

        assert_said_well(done, 2, "pipebus top: ", text)
        assert "s3cret" not in done.stderr

    @pytest.mark.parametrize("url", ["http://", "http://u:p@127.0.0.1:1", "http://127.0.0.1:1/?token=x", "http://127.0.0.1:x"])
    def test_a_url_that_is_none_is_one_line(self, url: str) -> None:
        assert_said_well(run("top", url), 2, "pipebus top: http:")

    def test_a_server_that_speaks_no_http_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet() -> None:
                with listener.accept()[0] as client:
                    client.recv(1000)
                    client.sendall(b"220 mail\r\n\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            done = run("top", f"http://127.0.0.1:{listener.getsockname()[1]}")
            thread.join()
        assert_said_well(done, 2, "is not the server of a bus (the answer is not HTTP: BadStatusLine)")


class TestStore:
    """A store is looked at from outside."""

    STORE = '[bus]\ntransport = "sqlite:///bus.db"\n'
    URL = "sqlite:///bus.db"

    @pytest.fixture
    def shop(self, tmp_path: Path) -> Shop:
        shop = Shop(tmp_path)
        shop.config(self.STORE, subscription("billing", "orders.>", "ok"), subscription("idle", "x", "ok"))
        assert shop.run("publish", "bus.toml", "--allow", "shop", "orders.new", '"tea"').returncode == 0
        return shop

    @pytest.mark.thorough
    def test_a_bus_that_runs_is_seen(self, shop: Shop) -> None:
        """The program of `pipebus run --http` answers `top`, with rates and times of handling."""
        shop.config(subscription("billing", "orders.>", "ok"), TICK, name="live.toml")
        with shop.live("run", "live.toml", "--allow", "shop", "--http", "127.0.0.1:0", notes=True) as live:
            assert live.err
            url = live.err.wait_for(1)[0].split()[-1]
            assert live.notes.readline() == "{'n': 1}\n"
            table = run("top", url).stdout.splitlines()
            [billing] = json.loads(run("top", url, "--json", "--once").stdout)["subscriptions"]

        assert table[0] == f"{url}  started, ready"
        assert table[5].split()[0] == "billing"
        assert billing["in"] > 0
        assert billing["p99"] > 0

    @pytest.mark.thorough
    def test_it_shows_what_waits_although_no_program_runs(self, shop: Shop) -> None:
        shop.run("subscriptions", "pause", self.URL, "idle")
        table = shop.run("top", "bus.toml", "--allow", "shop").stdout.splitlines()
        found = json.loads(shop.run("top", self.URL, "--json", "--once").stdout)

        assert table[:3] == ["bus.toml", "0/s accepted, 0/s handled", "2 subscriptions: 1 pending, 0 in flight, 1 paused"]
        assert table[4].split() == ["subscription", "pending", "flight", "in/s", "out/s", "oldest", "dead", "paused"]
        assert [line.split()[:3] for line in table[5:]] == [["billing", "1", "0"], ["idle", "0", "0"]]
        assert (found["state"], found["health"], found["messages"]) == (None, None, None)
        assert [one["in"] for one in found["subscriptions"]] == [0.0, 0.0]
        assert [one["oldest"] is None for one in found["subscriptions"]] == [False, True]

    @pytest.mark.thorough
    def test_two_looks_make_a_rate(self, shop: Shop) -> None:
        """A second program publishes and handles, and a third one sees how fast."""
        with (
            shop.live("top", self.URL, "--json") as top,
            shop.live("run", "bus.toml", "--allow", "shop", env=ENV, notes=True) as live,
        ):
            assert live.notes.readline() == "tea\n"
            assert top.process.stdout
            looks = map(json.loads, top.process.stdout)
            next(looks)
            shop.run("publish", "bus.toml", "--allow", "shop", "orders.new", '"honey"')
            assert live.notes.readline() == "honey\n"
            rates = next(look["rates"] for look in looks if look["rates"]["accepted"] and look["rates"]["handled"])
            assert rates["published"] is None

    def test_what_holds_no_store_is_one_line_and_nothing_is_made(self, shop: Shop) -> None:
        shop.config(subscription("a", "b", "ok"), name="memory.toml")
        assert_said_well(shop.run("top", "sqlite:///none.db"), 2, "none.db: no such file")
        assert_said_well(shop.run("top", "memory.toml", "--allow", "shop"), 2, "a bus in memory", "--http")
        assert not (shop.folder / "none.db").exists()


ON_ITS_TERMINAL = [
    sys.executable,
    "-c",
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from pipebus.cli import main; sys.exit(main())",
]
"""The program, which the terminal sends signals to."""


class Terminal:
    """The program as the owner of a terminal, whose user types and looks."""

    def __init__(self, *args: object) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self._theirs)
        self.raw = b""
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        self.process = subprocess.Popen(
            [*ON_ITS_TERMINAL, *map(str, args)], env=ENV | {"TERM": "xterm-256color"}, start_new_session=True, **ends
        )
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._watchdog.cancel()
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def see(self, text: str) -> list[str]:
        """Wait for a drawing with this text, and return its lines."""
        while text not in (drawing := self._drawing()):
            self._read()
        return drawing.split("\n")

    def _drawing(self) -> str:
        """The last drawing that is complete."""
        drawings = self.raw.decode(errors="replace").split("\x1b[H")
        return plain(drawings[-1] if "PgDn" in drawings[-1] else drawings[-2] if len(drawings) > 1 else "").replace("\r", "")

    def _read(self) -> None:
        self.raw += os.read(self._ours, 65536)

    def ends(self) -> int:
        """Wait for its end, and read what it has printed until then."""
        reader = threading.Thread(target=self._read_all, daemon=True)
        reader.start()
        code = self.process.wait(PATIENCE)
        os.write(self._theirs, b"the end")
        reader.join(PATIENCE)
        return code

    def _read_all(self) -> None:
        while not self.raw.endswith(b"the end"):
            self._read()

    def assert_restored(self) -> None:
        """It is as it was: echo, the first screen, and the cursor."""
        assert termios.tcgetattr(self._theirs) == self.before
        assert self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h") >= 0
        assert self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l") >= 0


class TestLive:
    """On a terminal it is live, and the keys work."""

    @pytest.mark.thorough
    def test_a_journey(self, fake: Fake) -> None:
        """A user sorts, scrolls, makes the window larger, freezes it, and quits."""
        with Terminal("top", fake.url) as terminal:
            lines = terminal.see("1-19 of 1,000")
            assert len(lines) == 24
            assert lines[4].startswith("s0999 ")
            terminal.type("n")
            terminal.see("s0000 ")
            terminal.type("\x1b[6~\x1b[B\x1b[")  # PageDown, arrow down, and the beginning of a key
            assert terminal.see("21-39 of 1,000")[4].startswith("s0020 ")
            terminal.type("5~")
            terminal.see("2-20 of 1,000")
            terminal.resize(60, 200)
            lines = terminal.see("2-56 of 1,000")
            assert len(lines) == 60
            assert {len(line) for line in lines} == {200}
            terminal.type("p")
            terminal.see("paused  2-56")
            fake.answer = lambda: (200, bus(BILLING))
            asked = len(fake.asked)
            terminal.type("d")
            terminal.see("paused  1-55")
            assert len(fake.asked) == asked
            terminal.type("p")
            terminal.see("1-1 of 1")
            terminal.type("q")
            assert terminal.ends() == 0
            terminal.assert_restored()

    @pytest.mark.few(2)
    @pytest.mark.parametrize("way", ["ctrl-c", "SIGTERM", "SIGHUP", "refused", "away"])
    def test_the_terminal_is_restored_on_every_way_out(self, fake: Fake, way: str) -> None:
        """Whatever ends it, the shell is usable. A server that goes away does not end it."""
        with Terminal("top", fake.url) as terminal:
            terminal.see("1-19 of 1,000")
            if way == "ctrl-c":
                terminal.type("\x03")
            elif way == "refused":
                fake.answer = lambda: (401, {"error": "a token is needed"})
            elif way == "away":
                fake.end()
                assert terminal.see("does not answer (Connection refused); trying again")[4].startswith("s0999 ")
                terminal.type("q")
            else:
                terminal.process.send_signal(getattr(signal, way))
            assert terminal.ends() == (2 if way == "refused" else 0)
            terminal.assert_restored()
            assert (b"pipebus top: " in terminal.raw) == (way == "refused")

    def test_without_rich_it_says_what_to_install(self, fake: Fake) -> None:
        done = on_terminal("top", fake.url, program=WITHOUT_RICH)

        assert done.code == 2
        assert "the live table needs rich: pip install" in done.text
        assert "--once" in done.text
