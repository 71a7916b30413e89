"""Delivery: which subscription gets which message, and when."""

import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest

from pipebus.bus.bus import engine_of
from pipebus.delivery.actor import Actor
from pipebus.delivery.delivery import Delivery
from pipebus.errors import SubjectError, UnsupportedCapability
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.table import NO_PATTERN, NO_SUBJECT, ROWS
from pipebus.testing.contract.tools import (
    Seen,
    assert_refused,
    deliver,
    figures,
    never,
    opened,
    recorded,
    running,
    serving,
    survives,
    together,
    until,
)
from pipebus.testing.history.history import History


class TestDelivery:
    """Which subscription gets which message, and when."""

    def test_every_subscription_gets_a_copy(self, stage: Stage) -> None:
        """Each of five subscriptions to a subject gets every message, once."""
        history = History()
        bus = stage.open()
        history.watch(bus)
        for number in range(5):
            bus.subscribe("a", Seen(), name=f"s{number}")
            history.record_subscription(f"s{number}", "a", attempts=1)
        with running(stage, bus):
            for number in range(200):
                assert recorded(history, bus, number, str(number)) == Receipt(5)
            bus.drain(timeout=stage.patience)
            assert [figures(bus, f"s{number}")["acknowledged"] for number in range(5)] == [200] * 5
        history.judge().raise_if_broken()

    def test_group_gets_each_message_once(self, stage: Stage) -> None:
        """The workers of a group share the messages: together they get all of them, and each message goes to one worker."""
        seen = Seen()
        if stage.capabilities.groups:
            buses, workers = [stage.open(f"member-{number}") for number in range(3)], 1
        else:
            assert_refused(stage, groups=True)
            buses, workers = [stage.open()], 4
        for bus in buses:
            bus.subscribe("a", seen, name="group", workers=workers)
            bus.start()
        for number in range(500):
            buses[number % len(buses)].publish("a", number)
        until(stage, lambda: len(seen.messages) >= 500, "the group has all 500")
        for bus in buses:
            bus.stop(timeout=stage.patience)
        assert sorted(seen.bodies) == list(range(500))

    def test_two_groups_are_independent(self, stage: Stage) -> None:
        """Two groups both get every message, and a paused one does not delay the other."""
        first, second = Seen(), Seen()
        bus = stage.open()
        paused = bus.subscribe("a", first, name="paused")
        bus.subscribe("a", second, name="running")
        with running(stage, bus):
            paused.pause()
            for number in range(100):
                bus.publish("a", number)
            until(stage, lambda: len(second.messages) == 100, "the running group has all")
            assert first.messages == []
            paused.resume()
            bus.drain(timeout=stage.patience)
        assert sorted(first.bodies) == sorted(second.bodies) == list(range(100))

    def test_subjects_are_isolated(self, stage: Stage) -> None:
        """With messages on twenty subjects at the same time, each subscriber gets all messages of its subject and no others."""
        seen = [Seen() for _ in range(20)]
        bus = stage.open()
        for number, handler in enumerate(seen):
            bus.subscribe(f"load.{number}", handler, name=f"s{number}")

        def publish(number: int) -> None:
            for n in range(25):
                bus.publish(f"load.{number}", (number, n))

        with running(stage, bus):
            assert together(stage, *(partial(publish, number) for number in range(20))) == []
            bus.drain(timeout=stage.patience)
        for number, handler in enumerate(seen):
            assert sorted(map(tuple, handler.bodies)) == [(number, n) for n in range(25)]

    def test_wildcard_matrix(self, stage: Stage) -> None:
        """Patterns match the same subjects on every transport; invalid subjects and patterns raise."""
        seen = {pattern: Seen() for pattern, _, _ in ROWS}
        bus = stage.open()
        for number, (pattern, handler) in enumerate(seen.items()):
            bus.subscribe(pattern, handler, name=f"p{number}")
        with running(stage, bus):
            for subject in dict.fromkeys(subject for _, subject, _ in ROWS):
                bus.publish(subject)
            bus.drain(timeout=stage.patience)
            for text in NO_SUBJECT:
                with pytest.raises(SubjectError):
                    bus.publish(text)
            for text in NO_PATTERN:
                with pytest.raises(SubjectError):
                    bus.subscribe(text, Seen(), name="never")
        found = {pattern: {message.subject for message in handler.messages} for pattern, handler in seen.items()}
        wrong = [(pattern, subject) for pattern, subject, matches in ROWS if (subject in found[pattern]) is not matches]
        assert wrong == []

    def test_overlapping_subscriptions(self, stage: Stage) -> None:
        """A subscription gets a message once even if two of its patterns match; two subscriptions get one copy each."""
        both, other = Seen(), Seen()
        bus = stage.open()
        bus.subscribe(["orders.>", "*.created"], both, name="both")
        bus.subscribe("orders.*", other, name="other")
        with running(stage, bus):
            assert bus.publish("orders.created") == Receipt(2)
            bus.drain(timeout=stage.patience)
        assert (len(both.messages), len(other.messages)) == (1, 1)

    def test_subscribe_is_effective_on_return(self, stage: Stage) -> None:
        """A message that is published right after `subscribe` returns reaches the new subscription."""
        bus = stage.open()
        with running(stage, bus):
            for number in range(200):
                subscription = bus.subscribe("a", name="s")
                bus.publish("a", number)
                assert subscription.receive(timeout=stage.patience).body == number
                subscription.unsubscribe()

    def test_unsubscribe_is_final(self, stage: Stage) -> None:
        """
        When `unsubscribe` returns, no handler is running and none will start. Queued messages go back to the store, or are
        counted as dropped.
        """
        seen, other = Seen(held=True), Seen()
        bus = opened(stage, seen)
        (subscription,) = bus.subscriptions
        bus.subscribe("a", other, name="other")
        with running(stage, bus, seen):
            for number in range(3):
                bus.publish("a", number)
            until(stage, lambda: len(seen.messages) == 1, "the first handler has begun")
            until(stage, lambda: len(other.messages) == 3, "the others have arrived")
            returned = threading.Event()

            def leave() -> None:
                subscription.unsubscribe()
                returned.set()

            threading.Thread(target=leave, daemon=True).start()
            never(returned.is_set, "unsubscribe returned while its handler ran")
            seen.go.set()
            assert returned.wait(stage.patience)
            assert len(seen.messages) == len(seen.done) == 1
            deliver(stage, bus, 3)
            never(lambda: len(seen.messages) > 1, "a handler began after its subscription had ended")
            if engine_of(bus).transport.local:
                assert subscription.stats()["dropped"] == {"unsubscribed": 2}
            if survives(stage):
                again = Seen()
                bus.subscribe("a", again, name="s")
                bus.drain(timeout=stage.patience)
                assert [body for body in again.bodies if body < 3] == [1, 2]

    def test_named_actor_is_addressed_by_its_object(self, stage: Stage) -> None:
        """
        Mail to a named actor's object reaches it, as a subject, as the address of an answer, and as the one for returned
        values. Where messages are encoded, that is its name.
        """
        seen = Seen()

        class Clerk(Actor):
            def on_message(self, message: Message, delivery: Delivery) -> str:
                seen(message, delivery)
                return f"{message.body}, answered"

        def answer(message: Message) -> str:
            return f"{message.body}, returned"

        bus = stage.open()
        clerk = bus.spawn(Clerk("clerk"))
        bus.subscribe("questions", answer, name="questions", to=clerk)
        with running(stage, bus):
            assert bus.publish(clerk, "published") == Receipt(1)
            assert bus.send(Message(clerk, "sent")) == Receipt(1)
            assert bus.request(clerk, "asked", timeout=stage.patience).body == "asked, answered"
            bus.publish("questions", "x", reply_to=clerk)
            bus.drain(timeout=stage.patience)
        assert sorted(seen.bodies) == ["asked", "published", "sent", "x, returned", "x, returned"]
        address = clerk if stage.capabilities.objects else "clerk"
        assert {message.subject for message in seen.messages} == {address}

    def test_unnamed_subscription_lives_as_long_as_its_reader(self, stage: Stage) -> None:
        """
        An unnamed subscription gets what is published while it is there, and shares it with no other one, also if another
        program has the same. Nothing is kept of it or for it when it has ended, or its bus has stopped.
        """
        buses = [stage.open(f"program-{number}") for number in range(2 if stage.capabilities.multi_process else 1)]
        first, last = buses[0], buses[-1]
        with running(stage, first, drain=False):
            with ExitStack() as others:
                for bus in buses[1:]:
                    others.enter_context(running(stage, bus, drain=False))
                with first.subscribe("a") as other:
                    with last.subscribe("a") as reader:
                        first.publish("a", 1)
                        last.publish("a", 2)
                        for one in (reader, other):
                            assert sorted(one.receive(timeout=stage.patience).body for _ in range(2)) == [1, 2]
                    last.publish("a", 3)
                    assert other.receive(timeout=stage.patience).body == 3
                last.subscribe("a", Seen())
                if survives(stage):
                    assert engine_of(first).transport.kept() == []
            if first is not last:
                assert first.publish("a") == Receipt(0)

    def test_late_subscriber_gets_new_messages(self, stage: Stage) -> None:
        """A new subscription gets new messages; earlier ones only if the transport keeps them and the subscription asks."""
        new, all_, last = Seen(), Seen(), Seen()
        bus = stage.open()
        with running(stage, bus):
            for number in range(3):
                bus.publish("a", number)
            bus.subscribe("a", new, name="new")
            if stage.capabilities.replay:
                bus.subscribe("a", all_, name="all", deliver="all")
                bus.subscribe("a", last, name="last", deliver="last")
            else:
                assert_refused(stage, replay=True)
                for which in ("all", "last"):
                    with pytest.raises(UnsupportedCapability):
                        bus.subscribe("a", all_, name="refused", deliver=which)
            deliver(stage, bus, 3)
        assert new.bodies == [3]
        if stage.capabilities.replay:
            assert (all_.bodies, last.bodies) == ([0, 1, 2, 3], [2, 3])

    def test_idle_subscription_wakes_up(self, stage: Stage) -> None:
        """After some time without messages, the next message still arrives."""
        seen = Seen()
        with serving(stage, seen) as bus:
            for number, idle in enumerate((0.0, 0.001, 0.01, 0.05, 0.3)):
                time.sleep(idle)  # the idle time itself, not a wait for something
                bus.publish("a", number)
                until(stage, lambda number=number: len(seen.messages) > number, f"message {number} after {idle} s")  # type: ignore[misc]
        assert seen.bodies == list(range(5))

    def test_delayed_message_comes_in_time(self, stage: Stage) -> None:
        """A delayed message arrives, not before its time; also in the next run, if messages outlive the program."""
        seen = Seen()
        bus = opened(stage, seen)
        if not stage.capabilities.delay:
            with running(stage, bus):
                with pytest.raises(UnsupportedCapability):
                    bus.publish("a", "never", delay=0.2)
                assert figures(bus, "s")["accepted"] == 0
            assert_refused(stage, delay=True)
            return
        for restart in (False, survives(stage)):
            with running(stage, bus, drain=False):
                begun = time.monotonic()
                bus.publish("a", "late", delay=0.3)
                bus.publish("a", "now")
                until(stage, lambda: "now" in seen.bodies, "the message without a delay has come")
                if not restart:
                    until(stage, lambda: len(seen.messages) == 2, "the delayed message has come")
            if restart:
                with serving(stage, seen):
                    until(stage, lambda: len(seen.messages) == 2, "the delayed message has come, in the next run")
            assert seen.bodies == ["now", "late"]
            assert seen.times[1] - begun >= 0.29
            seen.messages.clear()
            seen.times.clear()

    def test_expired_message_is_dropped(self, stage: Stage) -> None:
        """A message whose time to live has passed is not handled, and is counted as expired."""
        seen = Seen()
        with serving(stage, seen) as bus:
            bus.subscriptions[0].pause()
            bus.publish("a", "old", ttl=0.05)
            bus.publish("a", "good")
            published = time.time()
            until(stage, lambda: time.time() > published + 0.1, "its time has passed")
            bus.subscriptions[0].resume()
            bus.drain(timeout=stage.patience)
            assert figures(bus, "s")["dropped"] == {"expired": 1}
        assert seen.bodies == ["good"]
