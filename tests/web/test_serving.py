"""The page by itself: `serving`, and `pipebus run --http`."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from cli_helpers import ENV, Live, Shop, assert_said_well, subscription

from flow_helpers import WAIT
from pipebus import Bus, PipebusError
from pipebus.web import connection
from pipebus.web.serving import serving
from web_helpers import TOKEN

OK = subscription("till", "orders.>", "ok")
TICKS = '[[every]]\ninterval = "20ms"\nsubject = "orders.tick"\nbody = { n = 1 }\n'
SLOW = """
    import os

    class Slow:
        def __call__(self, message, call_next):
            return call_next(message)

        def start(self, context):
            os.write(int(os.environ["NOTES"]), b"starting\\n")
            while not os.path.exists("go"):
                context.clock.sleep(0.02)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def get(url: str, path: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=WAIT) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def page_in(live: Live) -> str:
    [line] = live.err.wait_for(1)[:1]  # type: ignore[union-attr]
    assert line.startswith("page: http://")
    return line.removeprefix("page: ").strip()


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("9000", "write HOST:PORT"),
        (":9000", "write HOST:PORT"),
        ("127.0.0.1:", "write HOST:PORT"),
        ("127.0.0.1:65536", "write HOST:PORT"),
        ("http://127.0.0.1:9000", "write HOST:PORT"),
        ("127.0.0.1:90/", "write HOST:PORT"),
        ("0.0.0.0:0", "set the environment variable PIPEBUS_HTTP_TOKEN"),
        ("[::]:0", "set the environment variable PIPEBUS_HTTP_TOKEN"),
        ("192.0.2.1:0", "set the environment variable PIPEBUS_HTTP_TOKEN"),
    ],
)
def test_an_address_that_is_malformed_or_open_to_others_is_refused(address: str, part: str) -> None:
    """Before anything listens; the text says what to write, or that a token is missing."""
    with pytest.raises(PipebusError, match=part), serving(Bus(), address):
        raise AssertionError("it serves")


@pytest.mark.thorough
def test_a_page_is_served_in_a_block_and_gone_after_it() -> None:
    """The bus may start and stop meanwhile, and an open stream does not hold up the end."""
    bus = Bus()
    with serving(bus, "127.0.0.1:0") as url:
        assert get(url, "livez") == (200, b"ok")
        assert get(url, "readyz")[0] == 503
        with bus:
            assert get(url, "readyz") == (200, b"ok")
            assert get(url, "api/bus", Host="evil.example")[0] == 403
            stream = urllib.request.urlopen(url + "api/events", timeout=WAIT)
            assert stream.readline().startswith(b"retry")
        assert get(url, "readyz")[0] == 503
    with stream:
        stream.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=WAIT)
    assert not any(thread.name == "pipebus-page" for thread in threading.enumerate())


@pytest.mark.thorough
def test_more_streams_than_places_get_a_reason() -> None:
    with serving(Bus(), "127.0.0.1:0") as url:
        streams = [urllib.request.urlopen(url + "api/events", timeout=WAIT) for _ in range(16)]
        assert b"close another page" in get(url, "api/events")[1]
        assert get(url, "api/figures")[0] == 200
        for stream in streams:
            stream.close()


@pytest.mark.thorough
def test_odd_requests_get_an_answer_and_the_next_one_too() -> None:
    """A header twice, none at all, a large body, half a request: each is refused, and the page goes on."""
    with serving(Bus(), "127.0.0.1:0") as url:
        place = url.removeprefix("http://").rstrip("/")
        for lines in (
            ["GET /api/bus HTTP/1.1"],
            ["GET /api/bus HTTP/1.1", f"Host: {place}", "Host: evil.example"],
            ["POST /api/path HTTP/1.1", f"Host: {place}", "Content-Type: application/json", "Content-Length: -1"],
            ["\x00\x01"],
        ):
            host, port = place.split(":")
            with socket.create_connection((host, int(port)), timeout=WAIT) as raw:
                raw.sendall("\r\n".join([*lines, "", ""]).encode())
                assert raw.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
        connection = http.client.HTTPConnection(place, timeout=WAIT)
        connection.request("POST", "/api/path", b"x" * 3_000_000, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 413
        connection.close()
        assert get(url, "livez") == (200, b"ok")


@pytest.mark.thorough
def test_clients_that_send_no_request_keep_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a few of them, who need no token, would make a supervisor restart the program."""
    monkeypatch.setattr(connection, "DEADLINE", 0.5)
    with serving(Bus(), "127.0.0.1:0") as url:
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=WAIT) for _ in range(100)]
        silent[0].sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        assert get(url, "livez") == (200, b"ok")
        for one in silent:
            with one, suppress(ConnectionResetError):
                assert one.recv(100) == b""


# --- the command -----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_run_shows_its_page_until_a_signal_ends_it(shop: Shop) -> None:
    """It prints where the page is, before anything else; SIGTERM ends both, also while a page is open."""
    shop.config(OK, TICKS)
    with shop.live("run", "bus.toml", "--allow", "shop", "--http", "127.0.0.1:0", "--no-dry-run") as live:
        url = page_in(live)
        live.err.wait_for(2)  # type: ignore[union-attr]
        assert get(url, "readyz") == (200, b"ok")
        stream = urllib.request.urlopen(url + "api/events", timeout=WAIT)
        seen = ""
        while '"till"' not in seen:
            seen = stream.readline().decode()
        found = json.loads(get(url, "api/bus")[1])
        assert (found["state"], found["dry_run"]) == ("started", False)
        live.signal(signal.SIGTERM)
        assert live.wait() == 0
        with stream:
            stream.read()
    assert "Traceback" not in live.err.text  # type: ignore[union-attr]


@pytest.mark.thorough
def test_the_page_is_there_while_the_bus_starts(shop: Shop) -> None:
    """A supervisor sees that it lives, and is not ready, however long a filter takes to start."""
    shop.write("slow.py", SLOW)
    shop.config('[[pipelines]]\nfilters = [{ use = "python", target = "slow:Slow" }]\n', OK)
    with shop.live("run", "bus.toml", "--allow", "shop,slow", "--http", "127.0.0.1:0", notes=True) as live:
        url = page_in(live)
        assert live.notes.readline() == "starting\n"
        assert get(url, "livez") == (200, b"ok")
        assert get(url, "readyz")[0] == 503
        shop.write("go", "")
        live.err.wait_for(2)  # type: ignore[union-attr]
        assert get(url, "readyz") == (200, b"ok")
        live.signal(signal.SIGTERM)
        assert live.wait() == 0


@pytest.mark.thorough
def test_a_token_comes_from_the_environment(shop: Shop) -> None:
    """Never from the arguments, which everybody on the computer can read."""
    shop.config(OK)
    options: dict[str, Any] = {"env": ENV | {"PIPEBUS_HTTP_TOKEN": TOKEN}}
    with shop.live("run", "bus.toml", "--allow", "shop", "--http", "0.0.0.0:0", **options) as live:
        url = page_in(live)
        assert TOKEN not in url
        assert get(url, "api/bus")[0] == 401
        assert get(url, "api/bus", Authorization=f"Bearer {TOKEN}")[0] == 200
        live.signal(signal.SIGTERM)
        assert live.wait() == 0


@pytest.mark.thorough
def test_what_cannot_be_served_is_one_line_and_nothing_starts(shop: Shop) -> None:
    """A taken port, an address that others reach, a token that is empty: exit code 2, before the input is read."""
    shop.config(OK)
    shop.write("x.jsonl", '{"n": 1}\n')
    run = ["run", "bus.toml", "--allow", "shop", "--input", "x.jsonl", "--subject", "orders.x", "--http"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shop.run(*run, f"127.0.0.1:{port}")
    assert_said_well(done, 2, f"pipebus run: --http: cannot listen on 127.0.0.1:{port}", "take another port")
    assert_said_well(shop.run(*run, "0.0.0.0:0"), 2, "pipebus run: --http: other computers", "PIPEBUS_HTTP_TOKEN")
    empty = shop.run(*run, "127.0.0.1:0", env=ENV | {"PIPEBUS_HTTP_TOKEN": ""})
    assert_said_well(empty, 2, "pipebus run: --http: the token of the page is empty")
    assert not (shop.folder / "notes").exists()


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
@pytest.mark.few(1)
def test_a_package_that_is_missing_is_one_line(shop: Shop, package: str) -> None:
    shop.config(OK)
    shop.write(f"missing/{package}.py", f'raise ModuleNotFoundError("No module named {package!r}")\n')
    env = ENV | {"PYTHONPATH": f"{shop.folder}/missing:{ENV['PYTHONPATH']}"}
    done = shop.run("run", "bus.toml", "--allow", "shop", "--http", "127.0.0.1:0", env=env)
    assert_said_well(done, 2, f"needs the package {package}", ".[web]")


def test_a_run_on_records_has_a_page_too(shop: Shop) -> None:
    """The summary is the same with it."""
    shop.config(OK)
    shop.write("x.jsonl", '{"n": 1}\n')
    run = ["run", "bus.toml", "--allow", "shop", "--input", "x.jsonl", "--subject", "orders.x", "--json", "--quiet"]
    with_page, without = shop.run(*run, "--http", "127.0.0.1:0"), shop.run(*run)
    found, wanted = (json.loads(done.stdout) for done in (with_page, without))
    assert with_page.returncode == without.returncode == 0
    assert found["accepted"] == wanted["accepted"] == 1
    assert with_page.stderr.startswith("page: http://127.0.0.1:")
    assert len(with_page.stderr.splitlines()) == 1 + len(without.stderr.splitlines())
