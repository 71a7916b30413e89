"""Cancellation and concurrency: cancelled tasks, stuck handlers, and several buses at once."""

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from pipebus.delivery.delivery import Delivery
from pipebus.filters.timeout import Timeout
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.tools import Seen, deliver, figures, handle_the_rest, opened, running, serving, together, until
from pipebus.testing.history.history import History


class TestCancellation:
    """Cancelled tasks, stuck handlers, and several buses at once."""

    def test_cancelled_receive_loses_nothing(self, stage: Stage) -> None:
        """A `receive` that is cancelled at any of its steps returns the message, or the next reader gets it; never both."""
        bus = opened(stage, None)
        (subscription,) = bus.subscriptions

        async def main() -> list[Any]:
            got: list[Any] = []
            async with bus:
                for before in range(4):
                    for after in range(8):
                        reading = asyncio.create_task(subscription.areceive())
                        await steps(before)
                        await bus.apublish("a", len(got))
                        await steps(after)
                        reading.cancel()
                        try:
                            got.append((await reading).body)
                        except asyncio.CancelledError:
                            got.append((await subscription.areceive(timeout=stage.patience)).body)
                await bus.apublish("a", "last")
                got.append((await subscription.areceive(timeout=stage.patience)).body)
            return got

        assert asyncio.run(main()) == [*range(32), "last"]
        assert figures(bus, "s")["acknowledged"] == 33

    def test_cancelled_publish_is_clean(self, stage: Stage) -> None:
        """A cancelled publish has kept its message or has not. The next request gets its own reply, not another's."""
        history, seen = History(), Seen()
        history.record_subscription("s", "a", attempts=1)
        bus = opened(stage, seen)
        history.watch(bus)

        def echo(message: Message) -> list[int]:
            return [message.body]

        bus.subscribe("echo", echo, name="echo")

        async def main() -> None:
            async with bus:
                for count in range(16):
                    history.record_attempt(str(count), "a")
                    publishing = asyncio.create_task(bus.apublish("a", count, id=str(count)))
                    await steps(count % 8)
                    publishing.cancel()
                    with suppress(asyncio.CancelledError):
                        await publishing
                        history.record_accepted(str(count))
                    history.record_attempt(f"ask{count}", "echo")
                    assert (await bus.arequest("echo", count, id=f"ask{count}", timeout=stage.patience)).body == [count]
                await bus.adrain(timeout=stage.patience)

        asyncio.run(main())
        judgement = history.judge()
        judgement.raise_if_broken()
        assert len(seen.messages) >= judgement.counts["accepted"]

    def test_handler_timeout_frees_its_worker(self, stage: Stage) -> None:
        """A handler that takes too long causes a TimeoutError in its chain, and its worker handles the next message."""
        seen, leave = Seen(), threading.Event()

        async def slow(message: Message) -> None:
            seen.note(message)
            if message.body == "slow":
                await asyncio.sleep(3600)

        def deaf(message: Message) -> None:
            seen.note(message)
            if message.body == "slow":
                leave.wait(60.0)  # does not notice the timeout

        bus = stage.open()
        bus.subscribe("a", slow, name="slow", filters=[Timeout(0.5)])
        bus.subscribe("a", deaf, name="deaf", filters=[Timeout(0.5, abandon=True)])
        with running(stage, bus):
            deliver(stage, bus, "slow", "next")
            letters = bus.dead_letters.list()
            for name in ("slow", "deaf"):
                assert (figures(bus, name)["acknowledged"], figures(bus, name)["dead"]) == (1, 1)
            leave.set()
        assert Counter(seen.bodies) == {"slow": 2, "next": 2}
        assert [letter.error.split(":")[0] for letter in letters] == ["TimeoutError"] * 2

    def test_two_buses_on_two_loops(self, stage: Stage) -> None:
        """Two buses on the event loops of two threads share only the store."""
        seen: dict[str, list[Any]] = {"one": [], "two": []}
        first_has_ended = threading.Event()

        def program(name: str) -> Callable[[], object]:
            bus = stage.open(name)

            async def handle(message: Message) -> None:
                seen[name].append(message.body)

            bus.subscribe(f"{name}.a", handle, name=name)

            async def main() -> None:
                async with bus:
                    for number in range(100):
                        if (name, number) == ("two", 50):
                            assert await asyncio.to_thread(first_has_ended.wait, stage.patience)
                        await bus.apublish(f"{name}.a", [name, number])
                    await bus.adrain(timeout=stage.patience)
                if name == "one":
                    first_has_ended.set()

            return lambda: asyncio.run(main())

        assert together(stage, program("one"), program("two")) == []
        assert {name: sorted(bodies) for name, bodies in seen.items()} == {
            name: [[name, number] for number in range(100)] for name in seen
        }

    @pytest.mark.parametrize(
        "kind",
        [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, BaseException, ExceptionGroup],
        ids=lambda kind: kind.__name__,
    )
    @pytest.mark.parametrize("on_loop", [False, True], ids=["pool", "loop"])
    def test_what_each_kind_of_exception_does(self, stage: Stage, kind: type[BaseException], on_loop: bool) -> None:
        """
        Any exception of a handler makes a dead letter, except for those that mean "stop": they return the message and stop the
        bus. `SystemExit` also counts as an attempt, and ends the program.
        """
        seen = Seen()

        def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            if len(seen.messages) == 1:
                if kind is ExceptionGroup:
                    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
                raise kind("no")

        async def ahandle(message: Message, delivery: Delivery) -> None:
            handle(message, delivery)

        handler = ahandle if on_loop else handle
        bus = opened(stage, handler)
        bus.start()
        bus.publish("a", 1)
        if kind in (KeyboardInterrupt, SystemExit):
            until(stage, lambda: bus.stopping, "the bus is asked to stop")
            with pytest.raises(SystemExit) if kind is SystemExit else nullcontext():
                bus.stop(timeout=stage.patience, drain=False)
            assert bus.dead_letters.list() == []
            handle_the_rest(stage, bus, handler)
            assert (seen.bodies, seen.attempts) == ([1, 1], [1, 2] if kind is SystemExit else [1, 1])
            return
        with running(stage, bus):
            deliver(stage, bus, 2)
            (letter,) = bus.dead_letters.list()
            assert (figures(bus, "s")["acknowledged"], figures(bus, "s")["dead"]) == (1, 1)
        assert letter.error.startswith(kind.__name__)
        assert seen.bodies == [1, 2]

    def test_running_tasks_are_not_collected(self, stage: Stage) -> None:
        """The garbage collector does not collect a delivery that is going on."""
        many = min(stage.many, 2000)
        seen: Counter[int] = Counter()

        async def handle(message: Message) -> None:
            if message.body % 500 == 0:
                gc.collect()
            elif message.body % 50 == 0:
                gc.collect(1)
            await asyncio.sleep(0)
            seen[message.body] += 1

        with serving(stage, handle, workers=20) as bus:
            for number in range(many):
                bus.publish("a", number)
            bus.drain(timeout=3 * stage.patience)
        assert seen == Counter(range(many))


async def steps(count: int) -> None:
    """Let the event loop run this many rounds."""
    for _ in range(count):
        await asyncio.sleep(0)
