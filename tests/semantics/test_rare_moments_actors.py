"""
Actors at a bad moment: spawned again while still at work, ended from within, mailed once more when they have stopped, asked by
somebody who is interrupted. Guarantees 13, 25 and 28.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

import flow_helpers
from actor_helpers import Answers, Asked, AsyncNotes, Notes
from flow_helpers import LONG, WAIT, Hold, InThread, every_way, running, wait_until
from loop_helpers import AsyncHold, amain, arunning, every_loop, on_loop, until
from pipebus import Actor, Bus, Message, Receipt, SubscriptionError
from pipebus.clock import Gate, SystemClock


class Single(Actor):
    """Notes how many of its messages it is at, at most; stands still with the one whose body is 1."""

    def __init__(self) -> None:
        super().__init__("single")
        self.hold: Any = Hold()
        self.given: list[int] = []
        self.at = self.most = 0

    def begin(self, message: Message) -> None:
        self.given.append(message.body)
        self.at += 1
        self.most = max(self.most, self.at)

    def on_message(self, message: Message) -> Any:
        self.begin(message)
        if message.body == 1:
            self.hold(message)
        self.at -= 1


class AsyncSingle(Single):
    """The same on an event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = AsyncHold()

    async def on_message(self, message: Message) -> None:
        self.begin(message)
        if message.body == 1:
            await self.hold(message)
        self.at -= 1


@pytest.mark.parametrize("single", [Single, AsyncSingle], ids=["pool", "loop"])
def test_s25_an_actor_that_is_spawned_again_and_again_is_given_one_message_at_a_time(single: type[Single]) -> None:
    """Its first life is still at its message: the third waits for it as the second would have."""
    actor, marker = single(), Hold(open=True)

    async def amark(message: Message) -> None:
        marker(message)

    with running(Bus(pool=2)) as bus:
        bus.subscribe("marker", marker if single is Single else amark)
        bus.spawn(actor)
        bus.publish(actor, 1)
        actor.hold.wait_started()
        for _ in range(2):
            actor.stop()
            bus.spawn(actor)
        bus.publish(actor, 2)
        bus.publish("marker")
        marker.wait_started()  # who is behind it in line has had its turn

        assert (actor.given, actor.most) == ([1], 1)
        actor.hold.open()
        bus.drain(WAIT)
        assert (actor.given, actor.most) == ([1, 2], 1)


@every_loop
def test_s25_an_actor_that_ends_itself_on_a_loop_and_that_nobody_holds_is_collected(callers: bool) -> None:
    """The worker that has given it its last message sleeps, and does not keep it alive."""

    def end(message: Message) -> None:
        ended.append(message.body)
        message.subject.stop()

    ended: list[Any] = []
    with on_loop(Bus(), callers) as bus:
        actor = bus.spawn(AsyncNotes(act=end))
        bus.publish(actor, "end")
        bus.drain(WAIT)
        actor.mail.clear()  # a message knows its subject
        seen = weakref.ref(actor)
        del actor

        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")
        assert ended == ["end"]


def test_s25_a_task_that_a_paused_actor_has_left_behind_is_an_outsider() -> None:
    """Its handler has ended: the task may drain the bus, which a handler may not."""

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []
        go = threading.Event()

        async def later() -> None:
            await until(go)
            await bus.adrain(WAIT)

        def act(message: Message) -> None:
            tasks.append(asyncio.create_task(later()))
            actor.subscription.pause()

        async with arunning() as bus:
            actor = bus.spawn(AsyncNotes(act=act))
            await bus.apublish(actor)
            await bus.adrain(WAIT)
            go.set()
            await tasks[0]

    amain(main)


@every_way
def test_s28_a_stopped_actor_that_is_mailed_once_more_is_collected(way: flow_helpers.Way) -> None:
    """The mail reaches nobody, and the bus does not remember where it was to go."""
    with running() as bus:
        actor = bus.spawn(Notes())
        actor.stop()
        seen = weakref.ref(actor)

        assert way(bus, actor, "anybody there?") == Receipt(0)
        del actor
        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")


@pytest.mark.parametrize("name", ["publish", "zero\u200bwidth"], ids=["reserved", "unprintable"])
def test_s28_an_actors_name_has_to_be_one_that_a_subscription_may_have(name: str) -> None:
    """As "publish" its messages would be taken for those that pass the publish chain, and dropped as seen before."""
    bus = Bus()
    with pytest.raises(SubscriptionError, match="name"):
        bus.spawn(Notes(name))

    assert not bus.subscriptions


def test_s13_an_interrupted_publish_asks_its_filter_actor_nothing_any_more() -> None:
    """Ctrl-C while it waits for the answer: the question is taken back, and the actor (a quota, say) never sees it."""

    class Interrupting(SystemClock):
        """A clock with which one wait is interrupted, once."""

        armed: threading.Thread | None = None

        def wait(self, gate: Gate, timeout: float | None) -> bool:  # type: ignore[override]
            if self.armed is threading.current_thread():
                self.armed = None
                raise KeyboardInterrupt
            return SystemClock.wait(gate, timeout)

    clock, answer = Interrupting(), Answers()
    bus = Bus(clock=clock)
    actor = bus.use(Asked(answer=answer))
    actor.filter_timeout = LONG  # type: ignore[misc]
    with running(bus):
        first = InThread(bus.publish, "s", "first")
        answer.wait_started()
        clock.armed = threading.current_thread()
        with pytest.raises(KeyboardInterrupt):
            bus.publish("s", "interrupted")
        answer.open()
        assert first.result() == Receipt(0)
        assert bus.publish("s", "last") == Receipt(0)

        assert actor.questions == ["first", "last"]
