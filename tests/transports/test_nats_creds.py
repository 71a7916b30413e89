"""Credentials in a file, as programs have them where a nats-server knows its users by JWT."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipebus.bus.bus import engine_of

pytest.importorskip("nats")
pytest.importorskip("nkeys")

from nats_jwt import Authority, write_creds
from nats_server import NatsServer, NatsStage

from pipebus import Bus
from pipebus.errors import TransportError
from pipebus.foreign.packages import install
from pipebus.testing.contract.tools import Seen, until

pytestmark = pytest.mark.thorough  # on a real server

AUTHORITY = Authority()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "server", AUTHORITY.config) as server:
        yield server


def refusal(url: str) -> str:
    """Return the error of a start that fails, and check that it comes in time."""
    found: list[BaseException] = []

    def start() -> None:
        try:
            Bus(url).start()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it neither starts nor fails"
    assert isinstance(found[0], TransportError), found
    return str(found[0])


def test_who_has_the_file_comes_in(server: NatsServer, tmp_path: Path) -> None:
    """A user with the file comes in, and again after the server was away."""
    file = write_creds(tmp_path / "ann.creds", *AUTHORITY.user())
    stage, seen = NatsStage(server, patience=20.0), Seen()
    bus = Bus(f"{server.url}?creds={file}")
    bus.subscribe("a", seen, name="s")
    with bus:
        bus.publish("a", 1)
        bus.drain(timeout=10)
        server.stop()
        server.start()
        until(stage, lambda: engine_of(bus).transport.link.client is not None, "it is connected again")
        bus.publish("a", 2)
        bus.drain(timeout=10)
    assert seen.bodies == [1, 2]


@pytest.mark.parametrize("who", ["of another account", "with another's key", "of yesterday", "nobody"])
def test_only_who_is_known_comes_in(server: NatsServer, tmp_path: Path, who: str) -> None:
    """The refusal shows nothing of what is in the file."""
    jwt, seed = AUTHORITY.user()
    if who == "of another account":
        jwt, seed = Authority().user()
    elif who == "with another's key":
        _, seed = AUTHORITY.user()
    elif who == "of yesterday":
        jwt, seed = AUTHORITY.user(exp=int(time.time()) - 86400)
    else:
        jwt = "no.j.wt"
    file = write_creds(tmp_path / "ann.creds", jwt, seed)
    text = refusal(f"{server.url}?creds={file}&connect_timeout=5s")
    assert "authorization violation" in text.lower()
    assert "creds=" in text
    assert jwt not in text
    assert seed not in text


def test_without_credentials_it_says_so(server: NatsServer) -> None:
    """The error names the ways to give credentials."""
    text = refusal(server.url)
    assert "authorization violation" in text.lower()
    assert "creds=" in text


@pytest.mark.parametrize(("name", "why"), [("nowhere.creds", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, why: str) -> None:
    """The error comes before any connection: there is no server here."""
    file = tmp_path / name
    text = refusal(f"nats://127.0.0.1:9?creds={file}")
    assert f"creds={file}" in text
    assert why in text


JWT, SEED = AUTHORITY.user()
HEAD, TAIL = "-----BEGIN NATS USER JWT-----", "------END NATS USER JWT------"
SEED_HEAD, SEED_TAIL = "-----BEGIN USER NKEY SEED-----", "------END USER NKEY SEED------"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\1" * 100,
        "just a line\n",
        f"{HEAD}\n{JWT}\n{TAIL}\n",
        f"{SEED_HEAD}\n{SEED}\n{SEED_TAIL}\n",
        f"{HEAD}\n{JWT}\n{TAIL}\n\n{SEED_HEAD}\n",
        f"{HEAD}\n{JWT}\n{TAIL}\n\n{SEED_HEAD}\n{SEED[:-4]}\n{SEED_TAIL}\n",
        f"{HEAD}\n{JWT}\n{TAIL}\n\n{SEED_HEAD}\n{AUTHORITY.account.seed}\n{SEED_TAIL}\n",
    ],
    ids=["empty", "binary", "text", "no_seed", "no_jwt", "cut_off", "seed_cut_off", "seed_of_an_account"],
)
def test_a_broken_file_is_named(server: NatsServer, tmp_path: Path, text: str) -> None:
    """The error comes in time, and shows nothing of what is in the file."""
    file = tmp_path / "ann.creds"
    file.write_text(text)
    said = refusal(f"{server.url}?creds={file}&connect_timeout=1s")
    assert f"creds={file}" in said
    assert not any(secret in said for secret in (JWT, SEED, SEED[:-4], AUTHORITY.account.seed))


def test_lines_may_end_as_on_windows(server: NatsServer, tmp_path: Path) -> None:
    """The tools of NATS read such a file too."""
    file = write_creds(tmp_path / "ann.creds", JWT, SEED)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    with Bus(f"{server.url}?creds={file}") as bus:
        assert bus.publish("a", 1) is not None


def test_a_file_that_is_broken_for_a_while_does_no_harm(server: NatsServer, tmp_path: Path) -> None:
    """It is read for each connection, so that new credentials need no restart; a bad one stops no thread."""
    file = write_creds(tmp_path / "ann.creds", JWT, SEED)
    stage = NatsStage(server, patience=20.0)
    with Bus(f"{server.url}?creds={file}&publish_timeout=1s") as bus:
        assert bus.publish("a", 1) is not None
        file.write_text(f"{SEED_HEAD}\n{SEED}\n{SEED_TAIL}\n")
        server.stop()
        server.start()
        with pytest.raises(TransportError, match=r"ann\.creds"):
            bus.publish("a", 2)
        write_creds(file, *AUTHORITY.user("ann, again"))
        until(stage, lambda: engine_of(bus).transport.link.client is not None, "it is connected again")
        assert bus.publish("a", 3) is not None


def test_the_package_that_it_needs_is_named() -> None:
    """Without nkeys, the error says which package to install."""
    program = (
        "import sys; sys.modules['nkeys'] = None\n"
        "from pipebus import Bus\n"
        "from pipebus.errors import TransportError\n"
        f"try:\n    Bus('nats://127.0.0.1:9?creds={__file__}').start()\n"
        "except TransportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "nkeys" in done.stdout
    assert install("nats") in done.stdout
