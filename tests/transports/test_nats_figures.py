"""The figures of NATS are counted where things happen, so that a loss shows in them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsStage, with_client

from pipebus import Bus
from pipebus.testing.contract.tools import Seen, assert_conserved, figures, running, until
from pipebus.transports.nats.transport import NatsTransport


class LosesOne(NatsTransport):
    """It acknowledges a message on the server, and forgets what became of it."""

    def settle(self, token: Any, verdict: Any, delay: float = 0.0, why: Any = "") -> None:
        if token.number == 7:
            self.link.post(partial(token.puller.verdicts.tell, token, b"+ACK"))
        else:
            super().settle(token, verdict, delay, why)


def test_a_planted_loss_shows(stage: NatsStage) -> None:
    """Ten messages are accepted, and nine are acknowledged: nothing waits, and so the figures do not add up."""
    seen = Seen()
    with Bus(LosesOne.from_url(stage.url)) as bus:
        bus.subscribe("a", seen, name="s")
        for number in range(10):
            bus.publish("a", number)
        until(stage, lambda: figures(bus, "s")["acknowledged"] == 9 and not figures(bus, "s")["in_flight"], "nine are counted")
        found = figures(bus, "s")
        assert (found["accepted"], found["pending"], found["dead"], found["dropped"]) == (10, 0, 0, {})
        with pytest.raises(AssertionError):
            assert_conserved(bus)


def test_letters_of_others_are_counted_once(stage: NatsStage) -> None:
    """The figures add up in each of two programs, whichever of them has made, replayed or discarded a letter."""
    first, second = stage.open(), stage.open()
    for bus in (first, second):
        bus.subscribe("a", fail_at_odd, name="s", attempts=1)
    with first:
        for number in range(6):
            first.publish("a", number)
        until(stage, lambda: len(first.dead_letters) == 3, "three are dead")
    with second:
        second.dead_letters.discard(second.dead_letters.list()[0])
        assert_conserved(second)
        second.dead_letters.replay(second.dead_letters.list()[0])
        until(stage, lambda: len(second.dead_letters) == 2, "it is dead again")
        assert_conserved(second)
        with first:
            assert_conserved(first)
            first.dead_letters.replay(first.dead_letters.list()[0])
            until(stage, lambda: len(first.dead_letters) == 2, "it is dead again")
            first.drain(timeout=stage.patience)
            for bus in (first, second):
                assert_conserved(bus)
                assert figures(bus, "s")["dead"] == 2


def fail_at_odd(body: int) -> None:
    if body % 2:
        raise ValueError("odd")


def test_what_the_server_deletes_unread_is_dropped(stage: NatsStage, caplog: pytest.LogCaptureFixture) -> None:
    """The stream is purged while messages wait: a warning says so, and they are counted as dropped, not forgotten."""
    seen = Seen(held=True)
    bus = stage.open()
    bus.subscribe("a", seen, name="s", mailbox=1)
    with running(stage, bus, seen):
        for number in range(20):
            bus.publish("a", number)
        until(stage, lambda: seen.bodies == [0] and figures(bus, "s")["pending"] == 19, "one has begun, and the others wait")

        async def purge(client: Any) -> None:
            await client.jetstream().purge_stream(stage.stream)

        with_client(stage.server, purge)
        until(stage, lambda: "messages.deleted" in caplog.text, "the warning")
        found = figures(bus, "s")
    assert (found["accepted"], found["pending"], found["dropped"]) == (20, 0, {"deleted on the server": 19})
