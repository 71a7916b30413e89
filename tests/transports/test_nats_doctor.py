"""What `pipebus doctor` says about a NATS server: its version, what a user may do, the streams and the consumers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage, with_client

from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.testing.contract.tools import Seen, running
from pipebus.transports.base import Finding
from pipebus.transports.nats import health

pytestmark = pytest.mark.thorough  # on a real server


def examined(url: str) -> list[Finding]:
    return list(engine_of(Bus(url)).transport.examine())


def of(found: list[Finding], about: str, level: str = "") -> str:
    """The texts about one part, of one level if it is given."""
    return "\n".join(one.text for one in found if one.about == about and level in ("", one.level))


def wrong(found: list[Finding]) -> list[str]:
    return [f"{one.about}: {one.text}" for one in found if one.level == "wrong"]


def change(stage: NatsStage, work: Any) -> None:
    """Change something on the server as another program would."""

    async def do(client: Any) -> None:
        await work(client.jetstream())

    with_client(stage.server, do)


class TestServer:
    """The doctor shows where the server is, what it is, and which user the program is there."""

    def test_a_server_that_nobody_has_used_is_well_and_stays_as_it_was(self, stage: NatsStage) -> None:
        """The doctor only looks, and makes no stream."""
        found = examined(stage.url)
        assert wrong(found) == []
        assert of(found, "server") == "2.15.1"
        assert of(found, "encryption") == "none; the server is on this machine"
        assert "all that is needed" in of(found, "permissions")
        assert "not there yet" in of(found, f"stream {stage.stream}", "hint")

        async def look(client: Any) -> None:
            assert stage.stream not in [one.config.name for one in await client.jetstream().streams_info()]

        with_client(stage.server, look)

    def test_nobody_there(self) -> None:
        """The text is the same as at a start."""
        (one,) = examined("nats://127.0.0.1:9?connect_timeout=300ms")
        assert (one.level, one.about) == ("wrong", "server")
        assert "start nats-server there" in one.text

    def test_without_jetstream(self, tmp_path: Path) -> None:
        """The doctor says what to do; plain NATS needs no JetStream."""
        with NatsServer(tmp_path / "nats", jetstream=False) as server:
            assert "start the server with JetStream" in of(examined(server.url), "JetStream", "wrong")
            assert wrong(examined(f"{server.url}?core=yes")) == []

    def test_what_a_user_may_not_do_is_named(self, tmp_path: Path) -> None:
        """The doctor names it before a program fails, and shows no secret."""
        rules = (
            'publish: {allow: ["pipebus.>", "_INBOX.>", "$JS.API.>", "$SYS.REQ.USER.INFO"], deny: ["$JS.API.STREAM.CREATE.*"]}'
        )
        config = f'authorization {{ users = [{{user: ann, password: hunter2, permissions: {{{rules}, subscribe: ">"}}}}] }}'
        with NatsServer(tmp_path / "nats", config) as server:
            found = examined(f"nats://ann:hunter2@{server.place}")
        text = of(found, "permissions", "wrong")
        assert text.startswith("user ann may not publish on ")
        assert "$JS.ACK.PIPEBUS.>" in text
        assert "$JS.API.STREAM.CREATE.PIPEBUS" in text
        assert "subscribe" not in text
        assert "$JS.API.STREAM.INFO.PIPEBUS," not in text
        assert not any("hunter2" in str(one) for one in found)
        assert of(found, "login") == ""

    @pytest.mark.parametrize(
        ("version", "level", "text"),
        [
            ("2.9.25", "wrong", "at least 2.10.0 is needed"),
            ("", "wrong", "of no version"),
            ("2.10.29", "hint", "can be forged"),
            ("2.11.14", "hint", "can be forged"),
            ("2.11.15", "ok", "2.11.15"),
            ("2.12.2", "hint", "can be forged"),
            ("2.12.3", "hint", "work-queue"),
            ("2.12.4-RC.1", "hint", "work-queue"),
            ("2.12.5", "hint", "can be forged"),
            ("v2.12.6", "ok", "2.12.6"),
            ("3.0.0", "ok", "3.0.0"),
        ],
    )
    def test_known_versions(self, version: str, level: str, text: str) -> None:
        """The doctor knows versions that are too old, or have a known problem."""
        found = health.judge_version(version)
        assert found.level == level
        assert text in found.text

    @pytest.mark.parametrize(
        ("rules", "lacking"),
        [
            ({}, []),
            ({"publish": {"allow": ["a.>"]}}, []),
            ({"publish": {"allow": ["a.*"]}}, ["publish on a.>"]),
            ({"publish": {"allow": [">"], "deny": ["a.secret"]}}, ["publish on a.>"]),
            ({"publish": {"allow": ["a.>"]}, "subscribe": {"allow": ["x"]}}, ["subscribe on b.*"]),
            ({"publish": {"deny": ["b.>"]}}, []),
        ],
    )
    def test_rules_against_needs(self, rules: dict[str, Any], lacking: list[str]) -> None:
        """
        The rules count as the server applies them: a denied subject is denied, and if any are allowed, all others are not.
        """
        assert list(health.refused({"publish": ["a.>"], "subscribe": ["b.*"]}, rules)) == lacking

    @pytest.mark.parametrize(("there", "hint"), [("2020-01-01T00:00:00.123456789Z", "ahead of"), ("soon", "")])
    def test_clocks(self, there: str, hint: str) -> None:
        """A ttl counts from the publisher's clock, so clocks must agree."""
        found = list(health._clock(there))
        assert bool(found) == bool(hint)
        assert all(hint in one.text and one.level == "hint" for one in found)


class TestStream:
    """The doctor shows what the stream keeps, and whether the URL's promises hold."""

    def test_a_stream_in_use(self, stage: NatsStage) -> None:
        """The doctor shows the stream's size, its consumers, and what to know about it."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            bus.publish("a", 1)
            bus.drain(timeout=stage.patience)
            found = examined(stage.url)
            assert wrong(found) == []
            assert "1 messages" in of(found, f"stream {stage.stream}", "ok")
            assert "sync_interval" in of(found, f"stream {stage.stream}", "hint")
            assert of(found, "consumer s", "ok") == "0 pending, 0 in flight"
            assert of(found, "dead letters") == "0"

    def test_a_subscription_that_nobody_serves(self, stage: NatsStage) -> None:
        """The doctor reports messages that wait while nobody reads them."""
        bus = stage.open()
        bus.subscribe("a", Seen(), name="s")
        with running(stage, bus):
            pass
        publisher = stage.open()
        with running(stage, publisher):
            publisher.publish("a", 1)
        assert "1 pending, 0 in flight; nobody asks for them" in of(examined(stage.url), "consumer s", "hint")

    def test_what_the_url_would_change(self, stage: NatsStage) -> None:
        """The doctor warns about a change that would affect everybody who uses the stream."""
        bus = stage.open()
        bus.subscribe("a", Seen(), name="s")
        with running(stage, bus):
            pass
        found = examined(f"{stage._base}&window=1m&lease=7s")
        assert "changes its duplicate_window" in of(found, f"stream {stage.stream}", "hint")
        assert "its lease is 30 s" in of(found, "consumer s", "hint")

    def test_a_stream_that_promises_less(self, stage: NatsStage) -> None:
        """The doctor finds what a start would refuse."""

        async def make(jetstream: Any) -> None:
            await jetstream.add_stream(name=stage.stream, subjects=[f"{stage.stream.lower()}.>"], storage="memory")

        change(stage, make)
        assert "keeps messages in memory" in of(examined(stage.url), f"stream {stage.stream}", "wrong")

    def test_consumers_of_others(self, stage: NatsStage) -> None:
        """The doctor reports consumers that other programs read, that lose messages, or that let few messages out at a time."""
        with running(stage, stage.open()):
            pass

        async def make(jetstream: Any) -> None:
            from nats.js.api import ConsumerConfig

            await jetstream.add_consumer(stage.stream, ConsumerConfig(durable_name="push", deliver_subject="x"))
            config = ConsumerConfig(durable_name="few", ack_policy="explicit", max_deliver=3, max_ack_pending=1, ack_wait=30)
            await jetstream.add_consumer(stage.stream, config)

        change(stage, make)
        found = examined(stage.url)
        assert "another program's" in of(found, "consumer push", "hint")
        assert "max_deliver=3" in of(found, "consumer few", "wrong")
        assert "max_ack_pending=1" in of(found, "consumer few", "hint")

    def test_a_stream_that_is_nearly_full(self, stage: NatsStage) -> None:
        """The doctor warns before publishing fails."""
        url = f"{stage._base}&max_bytes=64KiB"
        with Bus(url) as bus:
            for number in range(54):
                bus.publish("a", "x" * 700, id=f"m{number}")
        assert "max_bytes" in of(examined(url), f"stream {stage.stream}", "hint")


def test_the_command(stage: NatsStage) -> None:
    """The command prints one line or one JSON object for each finding, and returns 1 if something is wrong."""
    command = [sys.executable, "-m", "pipebus", "doctor", stage.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert {"level": "ok", "about": "server", "text": "2.15.1"} in found
    absent = [*command[:4], "nats://127.0.0.1:9?connect_timeout=300ms"]
    assert subprocess.run(absent, capture_output=True, text=True, timeout=60, check=False).returncode == 1
