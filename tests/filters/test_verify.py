"""Verify: only what was signed with a key, lately, and has not passed before; and a refusal says no more than that."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from signing_helpers import KEY, OLD, signed

from flow_helpers import WAIT, InThread, Way, every_way, hasty_threads, wait_until
from missing import needs
from pipebus import Bus, ConfigError, Delivery, Dropped, Handled, Message, Pipeline, PipelineError, Receipt, Rejected, when
from pipebus.errors import UnsupportedCapability
from pipebus.filters import RateLimit, Redeliver, Retry, Sign, Tap, Verify
from pipebus.filters.replays import Replays
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Context
from pipebus.testing import FakeClock, FilterBench, Harness, check_filter
from pipebus.testing.laws.laws import LAWS
from scale_helpers import scaled
from tables import table
from values_helpers import named

START = 1_000_000_000.0
"""A time that a float holds exactly, as well as a window before it."""


class Boom(Exception):
    """The error of these tests."""


def good(at: str) -> Receipt | Handled:
    return Receipt(1) if at == "publish" else Handled()


def verdict(bench: FilterBench, message: Message[Any], next: Any = None) -> bool:
    """Whether the filter lets a message pass; a refusal is the same in any case."""
    run = bench.send(message, next=next)
    if run.error is None:
        assert run.next_calls == 1
        return True
    assert isinstance(run.error, Rejected)
    assert (run.error.reasons, run.next_calls) == (("not verified",), 0)
    return False


def now(bench: FilterBench) -> float:
    return bench.harness.clock.now()


# --- what is refused ----------------------------------------------------------------------------------------------------


def flipped(data: bytes) -> list[bytes]:
    """The data with one bit changed, for each bit."""
    number, length = int.from_bytes(data, "big"), len(data)
    return [(number ^ 1 << bit).to_bytes(length, "big") for bit in range(8 * length)]


@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
def test_a_body_changed_by_one_bit_is_refused(text: bool, at: Any) -> None:
    """Whichever bit of a body of bytes it is; and the same for a text, for each bit that leaves it a text."""
    body = b"pay 10 to Bob"
    others: list[Any] = [one.decode() for one in flipped(body) if one.isascii()] if text else flipped(body)
    assert len(others) == len(body) * (7 if text else 8)
    with FilterBench(Verify([KEY]), at=at) as bench:
        message = signed(body.decode() if text else body, time=now(bench))
        assert [one for one in others if verdict(bench, message.with_body(one))] == []
        assert verdict(bench, message)


def test_a_signature_changed_by_one_bit_is_refused() -> None:
    """Every digit of a signature counts, and so does its length."""
    with FilterBench(Verify([KEY])) as bench:
        message = signed(time=now(bench))
        right = message.headers["signature"]
        wrong = [one.decode() for one in flipped(right.encode()) if one.isascii() and one.decode().isprintable()]
        wrong += [
            "",
            "v1=",
            right[3:],
            right + "0",
            right[:-1],
            right.upper(),
            f" {right}",
            f"{right} ",
            "ü" * 67,
            "v2" + right[2:],
        ]
        assert [one for one in wrong if verdict(bench, message.with_headers(signature=one))] == []
        assert verdict(bench, message)


CHANGES: dict[str, Callable[[Message[Any]], Message[Any]]] = {
    "subject": lambda message: message.replace(subject="b"),
    "id": lambda message: message.replace(id="other"),
    "earlier": lambda message: message.replace(time=message.time - 0.001),
    "later": lambda message: message.replace(time=message.time + 0.001),
    "key": lambda message: message.replace(key="k"),
    "no key": lambda message: message.replace(key=None),
    "ttl": lambda message: message.replace(ttl=6.0),
    "reply_to": lambda message: message.replace(reply_to="evil"),
    "a number as text": lambda message: message.with_body({"n": "1"}),
    "a whole number with a fraction": lambda message: message.with_body({"n": 1.0}),
    "true for one": lambda message: message.with_body({"n": True}),
    "a field more": lambda message: message.with_body({"n": 1, "m": None}),
    "no body": lambda message: message.with_body(None),
    "bytes": lambda message: message.with_body(b'{"n":1}'),
    "an object": lambda message: message.with_body(object()),
    "a header added": lambda message: message.with_headers(other=""),
    "a header changed": lambda message: message.with_headers(tenant="Acme"),
    "a header renamed": lambda message: message.replace(headers={"Tenant": "acme", "signature": message.headers["signature"]}),
    "a header removed": lambda message: message.replace(headers={"signature": message.headers["signature"]}),
    "no signature": lambda message: message.replace(headers={"tenant": "acme"}),
    "no headers": lambda message: message.replace(headers={}),
    "another key": lambda message: Sign(OLD).transform(message),
    "a signature of another message": lambda message: message.with_headers(signature=signed(2).headers["signature"]),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in CHANGES.items()])
def test_what_has_been_changed_is_refused(change: Callable[[Message[Any]], Message[Any]]) -> None:
    """Each part of a message that is signed counts, and all of these changes look the same from outside."""
    with FilterBench(Verify([KEY])) as bench:
        message = signed({"n": 1}, headers={"tenant": "acme"}, key="c", ttl=5.0, reply_to="r", time=now(bench))
        assert not verdict(bench, change(message))
        assert verdict(bench, message)


@pytest.mark.parametrize("of", ["publish", "delivery"])
def test_a_clock_off_by_the_window_is_refused(of: Any) -> None:
    """The window counts in both directions, and its ends belong to it."""
    bus = Bus(clock=FakeClock(START))
    bus.use(Verify([KEY], window="5m"), at=of)
    handled: list[str] = []
    bus.subscribe("a", lambda message: handled.append(message.body))
    with bus:
        for off in (-300.001, -300, 0, 300, 300.001):
            with suppress(Rejected):
                bus.send(signed(off, time=START + off))
        bus.drain(timeout=WAIT)
        assert handled == [-300, 0, 300]
        place = "publish" if of == "publish" else bus.dead_letters.list()[0].subscription
        assert bus.stats()["filters"][place]["Verify"] == {"remembered": 3, "refused": 2}
    assert len(bus.dead_letters) == (2 if of == "delivery" else 0)


def test_a_new_key_and_an_old_one() -> None:
    """While keys are replaced, both are good; then the old one is not."""
    with FilterBench(Verify([KEY, OLD])) as bench:
        assert [verdict(bench, signed(by=by, time=now(bench))) for by in (KEY, OLD, OLD + "!")] == [True, True, False]
    with FilterBench(Verify([KEY])) as bench:
        assert [verdict(bench, signed(by=by, time=now(bench))) for by in (KEY, OLD)] == [True, False]


def test_the_log_says_why_at_level_debug() -> None:
    """An operator can find out what is wrong; a line is short, whatever the message is."""
    with FilterBench(Verify([KEY])) as bench:
        long = "x" * 10_000
        message = signed(time=now(bench), id=long)
        old = signed(time=now(bench) - 301)
        runs = [bench.send(one, next=None) for one in (message, message, old, Message("a", id=long, time=now(bench)))]
    assert [isinstance(run.error, Rejected) for run in runs] == [False, True, True, True]
    lines = [line for run in runs for line in run.logs]
    assert [(line["event"], line["log_level"], line["why"]) for line in lines] == [
        ("message.not_verified", "debug", why) for why in ("replay", "time", "signature")
    ]
    assert max(len(str(line)) for line in lines) < 500


# --- replays ------------------------------------------------------------------------------------------------------------


def test_an_id_passes_once(colour: Any, at: Any) -> None:
    """A copy is refused, and so is another message with the same id, for as long as the window lets them in."""
    with FilterBench(Verify([KEY], window=10.0), at=at, colour=colour) as bench:
        future = signed(1, id="1", time=now(bench) + 10.0)
        assert verdict(bench, future)
        for _ in range(8):
            assert not verdict(bench, future)
            assert not verdict(bench, signed(2, id="1", time=now(bench)))
            bench.advance(2.4)
        bench.advance(1.0)
        assert not verdict(bench, future)
        assert verdict(bench, signed(2, id="1", time=now(bench)))  # the id is free again when its message is too old


def test_a_message_that_failed_may_come_again(colour: Any, at: Any) -> None:
    """An error or a drop further in had no effect, so the same message may come again; once it has worked, it may not."""
    with FilterBench(Verify([KEY]), at=at, colour=colour) as bench:
        message = signed(time=now(bench))
        assert isinstance(bench.send(message, next=Boom).error, Boom)
        assert bench.send(message, next=Dropped("not yet", "further in")).dropped == "not yet"
        assert [verdict(bench, message), verdict(bench, message)] == [True, False]


def test_a_copy_of_a_letter_that_was_replayed_and_handled_is_a_replay(harness: Harness) -> None:
    """A letter passes, however old it is, and then its message is remembered like any other."""
    seen: list[int] = []

    def handle(message: Message) -> None:
        seen.append(1)
        if len(seen) == 1:
            raise Boom

    harness.allow(Boom)
    harness.bus.subscribe("a", handle, name="s", filters=[Verify([KEY], window=5.0)])
    bus = harness.start()
    message = signed(time=harness.clock.now())
    bus.send(message)
    harness.drain()
    (letter,) = bus.dead_letters.list()
    harness.advance(4.0)
    bus.dead_letters.replay(letter.id)
    harness.drain()
    bus.send(message)
    harness.drain()
    assert (len(seen), [one.error for one in bus.dead_letters.list()]) == (2, ["Rejected: rejected by Verify: not verified"])


def test_a_delivery_that_is_tried_again_is_no_replay(harness: Harness) -> None:
    """`Redeliver`, and a handler that gives its delivery back, bring the same message again, and it passes."""
    seen: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        seen.append(delivery.attempt)
        if delivery.attempt == 1:
            raise Boom
        if delivery.attempt == 2:
            delivery.retry(delay=1.0)

    bus = harness.bus
    bus.subscribe("a", handle, name="s", filters=[Redeliver(wait=2.0), Verify([KEY]), Retry(attempts=1)], attempts=3)
    harness.start()
    message = signed(time=harness.clock.now())
    for _ in range(2):
        bus.send(message)
        harness.drain()
    assert seen == [1, 2, 3]
    stats = bus.stats()["subscriptions"]["s"]
    assert (stats["acknowledged"], stats["dead"]) == (1, 1)


def test_a_delivery_that_a_limit_puts_off_is_no_replay(harness: Harness) -> None:
    """A limit behind it gives deliveries back, with a copy among them: each message is handled once."""
    bus = harness.bus
    bus.subscribe("a", lambda message: None, name="s", filters=[Verify([KEY], "1h"), RateLimit(1, "10s")])
    harness.start()
    messages = [signed(number, time=harness.clock.now()) for number in range(3)]
    for message in [*messages, messages[0]]:
        bus.send(message)
    harness.drain()
    assert harness.elapsed >= 20.0
    assert [message.body for message in harness.delivered_to("s")] == [0, 1, 2]
    stats = bus.stats()["subscriptions"]["s"]
    assert (stats["acknowledged"], stats["dead"]) == (3, 1)


def test_a_copy_that_comes_while_the_first_one_runs_is_refused(harness: Harness) -> None:
    """Of two at once one passes, however long it takes."""
    slow = when(lambda message: message.body == "slow", Tap(lambda message: harness.clock.sleep(90.0)))
    harness.bus.use(Verify([KEY], window=60.0), slow)
    harness.bus.subscribe("a")
    bus = harness.start()
    message = signed("slow", id="1", time=harness.clock.now())
    first = harness.thread(bus.send, message)
    harness.advance(30.0)
    with pytest.raises(Rejected, match="not verified"):
        bus.send(message)
    assert first.result() == Receipt(1)
    assert bus.stats()["filters"]["publish"]["Verify"] == {"remembered": 1, "refused": 1}


@every_way
@pytest.mark.few(1)
def test_of_many_threads_that_publish_the_same_messages_each_passes_once(way: Way) -> None:
    """Twenty publishers send the same forty messages, each at its own pace: exactly forty get a receipt."""
    bus = Bus()
    bus.use(Verify([KEY]))
    bus.subscribe("a")
    messages = [signed(number, id=str(number)) for number in range(40)]
    barrier = threading.Barrier(20)

    def publisher(first: int) -> list[str]:
        barrier.wait(WAIT)
        passed = []
        for message in messages[first:] + messages[:first]:
            try:
                bus.send(message)
                passed.append(message.id)
            except Rejected:
                pass
        return passed

    with bus, hasty_threads():
        publishers = [InThread(publisher, number % 2) for number in range(20)]
        passed = [id for publisher in publishers for id in publisher.result()]
        assert sorted(passed) == sorted(message.id for message in messages)
        assert bus.stats()["filters"]["publish"]["Verify"] == {"remembered": 40, "refused": 19 * 40}


def test_of_many_tasks_that_publish_the_same_message_one_passes(harness: Harness) -> None:
    """Many tasks on one loop send a message, and one of them gets a receipt."""

    async def slow(message: Message, call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(message)

    async def main() -> list[Any]:
        return await asyncio.gather(*[harness.bus.asend(message) for _ in range(20)], return_exceptions=True)

    harness.bus.use(Verify([KEY]), slow)
    harness.bus.subscribe("a")
    harness.start()
    message = signed(time=harness.clock.now())
    outcomes = harness.run(main())
    assert (outcomes.count(Receipt(1)), sum(isinstance(one, Rejected) for one in outcomes)) == (1, 19)


def test_each_subscriber_gets_its_copy(harness: Harness) -> None:
    """One filter object around two handlers and in the publish chain keeps three memories."""
    bus, verify = harness.bus, Verify([KEY])
    bus.use(verify)
    bus.use(verify, at="delivery")
    for name in ("one", "other"):
        bus.subscribe("a", lambda message: None, name=name)
    harness.start()
    bus.send(signed(time=harness.clock.now()))
    harness.drain()
    assert len(harness.delivered_to("one")) == len(harness.delivered_to("other")) == 1
    found = bus.stats()["filters"]
    assert {place: found[place]["Verify"]["remembered"] for place in found} == {"publish": 1, "one": 1, "other": 1}
    assert verify.stats("nobody") == {"remembered": 0, "refused": 0}


# --- a full memory ------------------------------------------------------------------------------------------------------


def test_a_full_memory_lets_no_replay_pass() -> None:
    """What is forgotten for want of room cannot come again: messages of its time and older ones are refused from then on."""
    with FilterBench(Verify([KEY], size=2)) as bench:
        first, second, third = (signed(number, time=now(bench) + number) for number in (1, 2, 3))
        late = signed(0, time=now(bench) + 1.5)
        assert [verdict(bench, one) for one in (second, first, third)] == [True, True, True]
        assert [verdict(bench, one) for one in (first, second, third)] == [False, False, False]
        assert verdict(bench, late)  # which is forgotten at once, because it is the oldest
        assert not verdict(bench, late)
        assert not verdict(bench, signed(time=now(bench) + 1.5))
        assert bench.nodes[0].filter.stats("publish") == {"remembered": 2, "refused": 5}  # type: ignore[union-attr]


def test_a_message_that_ran_while_others_were_forgotten_does_not_open_the_door() -> None:
    """What is forgotten last may be older than what was forgotten before; the younger one decides."""
    memory = Replays()
    slow = memory.enter("slow", 1.0, None, 0.0)
    for time in (2.0, 3.0, 4.0):
        memory.leave(str(time), time, memory.enter(str(time), time, None, 0.0), True, size=1)  # type: ignore[arg-type]
    memory.leave("slow", 1.0, slow, True, size=1)  # type: ignore[arg-type]
    assert [memory.enter("new", time, None, 0.0) is None for time in (1.0, 2.0, 3.0, 3.5)] == [True, True, True, False]


def test_only_genuine_messages_are_remembered() -> None:
    """Nobody can fill the memory who has no key."""
    with FilterBench(Verify([KEY], size=2)) as bench:
        message = signed(time=now(bench))
        assert verdict(bench, message)
        for number in range(10):
            assert not verdict(bench, signed(number, by=OLD, time=now(bench) + 1))
        assert not verdict(bench, message)
        assert bench.nodes[0].filter.stats("publish") == {"remembered": 1, "refused": 11}  # type: ignore[union-attr]


def test_what_is_too_old_to_pass_is_forgotten() -> None:
    """Each message forgets two that are older than the window, so the memory shrinks again."""
    with FilterBench(Verify([KEY], window=10.0)) as bench:
        remembered = []
        for seconds in [0.0] * 5 + [11.0] + [0.0] * 4:
            bench.advance(seconds)
            assert verdict(bench, signed(time=now(bench)))
            remembered.append(bench.nodes[0].filter.stats("publish")["remembered"])  # type: ignore[union-attr]
    assert remembered == [1, 2, 3, 4, 5, 4, 3, 3, 4, 5]


class BackClock(FakeClock):
    """A clock that can be set back, as people and time servers do."""

    off = 0.0

    def now(self) -> float:
        return super().now() + self.off


def test_a_clock_that_is_set_back_lets_no_replay_pass() -> None:
    """What was forgotten because it was too old stays refused when the clock is set back to its time."""
    clock = BackClock(START)
    bus = Bus(clock=clock)
    bus.use(Verify([KEY], window=10.0))
    bus.subscribe("a")
    with bus:
        first = signed(1, time=START)
        assert bus.send(first)
        clock.off = 100.0
        assert bus.send(signed(2, time=START + 100))
        clock.off = 0.0
        with pytest.raises(Rejected, match="not verified"):
            bus.send(first)
        assert bus.send(signed(3, time=START + 1))


# --- the model ----------------------------------------------------------------------------------------------------------


def drive(filter: Callable[[Message[Any]], Any], message: Message[Any], end: Any) -> bool | None:
    """Run a filter by hand; the rest returns `end`, or raises it. Whether the message passes; None: it is refused."""
    steps = filter(message)
    try:
        assert next(steps) is message
        steps.throw(end) if isinstance(end, Exception) else steps.send(end)
    except StopIteration as stopped:
        return bool(stopped.value)
    except Boom:
        return False
    except Rejected as error:
        return None if error.reasons == ("not verified",) else pytest.fail(str(error))
    raise AssertionError("it runs the rest twice")


@scaled(300, 10_000)
def test_it_passes_what_an_oracle_of_ten_lines_passes(count: int) -> None:
    """Random schedules of genuine, old, early, repeated and forged messages that work, fail or are dropped."""
    for seed in range(count):
        chance = random.Random(seed)
        window, size = chance.choice([3.0, 8.0]), chance.choice([2, 4, 1000])
        clock, verify = FakeClock(START), Verify([KEY, OLD], window, size=size)
        verify.start(Context(bus=None, clock=clock, log=None, name="Verify"))
        filter = verify.at(chance.choice(["publish", "s"]))
        kept: dict[str, float] = {}  # id -> time of what has passed and is remembered
        bound = float("-inf")  # the newest time of what was forgotten
        for step in range(25):
            clock.advance(chance.choice([0.0, 0.0, 1.0, 2.0]))
            time = clock.now() + chance.choice([-9, -8.001, -8, -3, -2, -1, 0, 0, 0, 1, 2, 3, 3.001, 8, 9])
            id, by = str(chance.randrange(8)), chance.choice([KEY, OLD, f"{KEY}!"])
            message = signed(chance.randrange(2), id=id, time=time, by=by)
            if forged := chance.random() < 0.1:
                message = message.with_body("forged")
            end = chance.choice([Receipt(1), Receipt(1), Receipt(1), Boom(), Dropped("further in")])
            passes = not forged and by in (KEY, OLD) and abs(clock.now() - time) <= window and time > bound
            passes = passes and kept.get(id, float("-inf")) < clock.now() - window
            if passes and isinstance(end, Receipt):
                kept[id] = time
                if len(kept) > size:
                    bound = max(bound, min(kept.values()))
                    del kept[min(kept, key=lambda one: (kept[one], one))]
            expected = isinstance(end, Receipt) if passes else None
            assert drive(filter, message, end) is expected, f"seed {seed}, step {step}"


# --- stores -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite", "nats", "nats binary"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if not request.param.startswith("nats"):
        yield "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'bus.db'}"
        return
    needs("nats")
    from nats_server import NatsStage

    stage = NatsStage(request.getfixturevalue("server"))
    yield f"{stage.url}&events=binary" if request.param.endswith("binary") else str(stage.url)
    stage.wipe()


def test_what_a_transport_carries_is_verified(url: str) -> None:
    """A message that is signed when it is published is genuine at the handler's, with all that it has; a forged one is dead."""
    bus = Bus(url)
    bus.use(Pipeline(when(lambda message: message.key != "forged", Sign(KEY))))
    handled: list[Message[Any]] = []
    bus.subscribe("a", handled.append, name="s", filters=[Verify([KEY])])
    bodies = [{"größe": [1.5, 2**70, None], "a": "😀"}, b"\x00\xff", None, "text"]
    with bus:
        for body in bodies:
            bus.publish("a", body, headers={"tenant": "ü"}, key="k 1", ttl="1h", reply_to="answers", id=f"id of {body!r}")
        bus.publish("a", "forged", key="forged")
        wait_until(lambda: len(handled) == len(bodies) and len(bus.dead_letters) == 1, "four handled, one dead")
        assert [letter.error for letter in bus.dead_letters.list()] == ["Rejected: rejected by Verify: not verified"]
    assert [message.body for message in handled] == bodies


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'bus.db'}"


def test_a_store_remembers_for_other_processes_and_later_ones(store: str) -> None:
    """With `durable`, a restart does not open the door for replays."""
    message = signed(id="1")
    for passes in (True, False):
        bus = Bus(store)
        bus.use(Verify([KEY], durable=True))
        bus.subscribe("a", name="s")
        with bus:
            if passes:
                assert bus.send(message)
            else:
                with pytest.raises(Rejected, match="not verified"):
                    bus.send(message)


def test_a_transport_without_memory_cannot_be_durable() -> None:
    """It is an error at the start, which says what to do."""
    bus = Bus()
    bus.use(Verify([KEY], durable=True))
    with pytest.raises(UnsupportedCapability, match=r"Verify\(durable=True\): memory: keeps no memory for filters"):
        bus.start()


@pytest.mark.parametrize("durable", [False, True])
def test_what_a_transaction_undoes_is_not_remembered(store: str, durable: bool) -> None:
    """If the handler's transaction is rolled back, what was published in it may be published again."""
    message, outcomes = signed(subject="b"), []

    def handle(_: Message, delivery: Delivery) -> None:
        with delivery.transaction():
            outcomes.append(bus.send(message))
            if delivery.attempt == 1:
                raise Boom

    bus = Bus(store)
    bus.use(when("b", Verify([KEY], durable=durable)))
    bus.subscribe("a", handle, name="s", filters=[Redeliver(wait=0.01)], attempts=3)
    bus.subscribe("b", name="inbox")
    with bus:
        bus.publish("a")
        wait_until(lambda: bus.stats()["subscriptions"]["s"]["acknowledged"] == 1, "it is handled")
        assert [bool(one) for one in outcomes] == [True, True]
        assert bus.stats()["subscriptions"]["inbox"]["pending"] == 1


def test_what_the_store_itself_repeats_makes_no_dead_letter(harness: Harness) -> None:
    """A delivery that comes again after its message was handled is refused without a dead letter; so nothing is lost twice."""
    verify = Verify([KEY])

    def again(message: Message, call_next: Any) -> Any:
        """What was handled, and then lost on the way to the store."""
        outcome = call_next(message)
        if outcome:
            raise Boom
        return outcome

    bus = harness.bus
    bus.subscribe("a", lambda message: None, name="s", filters=[Redeliver(wait=1.0), again, verify], attempts=3)
    harness.start()
    bus.send(signed(time=harness.clock.now()))
    harness.drain()
    stats = bus.stats()["subscriptions"]["s"]
    assert (stats["dropped"], stats["dead"]) == ({"not verified": 1}, 0)


def test_it_knows_the_delivery_without_help(harness: Harness) -> None:
    """It sees that a delivery comes again, also if neither the handler nor another filter asks for deliveries."""
    seen: list[Any] = []
    look = Tap(lambda message: seen.append(state.delivery.get()))
    harness.bus.subscribe("a", lambda message: None, filters=[Verify([KEY]), look])
    harness.start().send(signed(time=harness.clock.now()))
    harness.drain()
    assert [type(one) for one in seen] == [Delivery]


# --- dead letters -------------------------------------------------------------------------------------------------------


def test_a_replayed_dead_letter_needs_its_signature_only(harness: Harness) -> None:
    """An operator may replay a letter long after the window; a forged one stays dead."""
    working: list[Any] = []

    def handle(message: Message) -> None:
        if not working:
            raise Boom

    harness.fail_fast = False  # a handler that fails is what this is about
    bus = harness.bus
    bus.subscribe("a", handle, name="s", filters=[Verify([KEY], window=10.0)])
    harness.start()
    bus.send(signed(id="genuine", time=harness.clock.now()))
    bus.send(signed(id="forged", by=OLD, time=harness.clock.now()))
    harness.drain()
    working.append(True)
    harness.advance(1000.0)
    for letter in bus.dead_letters.list():
        bus.dead_letters.replay(letter)
    harness.drain()
    assert [letter.message.id for letter in bus.dead_letters.list()] == ["forged"]
    assert bus.stats()["subscriptions"]["s"]["acknowledged"] == 1


def test_what_the_handler_of_a_replayed_letter_publishes_is_verified(harness: Harness) -> None:
    """The exception is for that delivery, and not for what is published meanwhile."""
    harness.fail_fast = False  # a handler that fails is what this is about
    outcomes: list[Any] = []
    bus = harness.bus
    bus.use(when("b", Verify([KEY], window=10.0)))
    old = signed(subject="b", time=harness.clock.now())

    def handle(message: Message) -> None:
        if message.body == "first" and not outcomes:
            outcomes.append("failed")
            raise Boom
        try:
            outcomes.append(bus.send(old))
        except Rejected as error:
            outcomes.append(error.reasons)

    bus.subscribe("a", handle, name="s")
    harness.start()
    bus.publish("a", "first")
    harness.drain()
    harness.advance(100.0)
    (letter,) = bus.dead_letters.list()
    bus.dead_letters.replay(letter)
    harness.drain()
    assert outcomes == ["failed", ("not verified",)]


# --- settings -----------------------------------------------------------------------------------------------------------


@table(
    ("given", "says"),
    [
        ({"keys": []}, "Verify.keys: it is a list of at least one key"),
        ({"keys": KEY}, "Verify.keys: it is a list of at least one key"),
        ({"keys": [KEY, "hunter2"]}, r"Verify.keys[1]: it has fewer than 16 bytes"),
        ({"keys": [5]}, r"Verify.keys[0]: it is a text, bytes or a SecretStr, found int"),
        ({"keys": [KEY], "window": 0}, "Verify.window=0: "),
        ({"keys": [KEY], "window": "soon"}, "Verify.window='soon'"),
        ({"keys": [KEY], "size": 0}, "Verify.size=0: it is a whole number of messages, at least 1"),
        ({"keys": [KEY], "size": True}, "Verify.size=True"),
        ({"keys": [KEY], "headers": "tenant"}, "Verify.headers='tenant': it is a list of names"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(given: dict[str, Any], says: str) -> None:
    """The error names the setting and what to write, and never shows a key."""
    with pytest.raises(PipelineError) as caught:
        Verify(**given)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "01234" not in str(caught.value)


def test_a_file_names_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from the environment or from files; what is shown and exported is where they come from."""
    monkeypatch.setenv("NEW", KEY)
    monkeypatch.setenv("OLD", OLD)
    path = tmp_path / "bus.toml"
    keys = '["${env:NEW}", "${env:OLD}"]'
    path.write_text(f'version = 1\n[[pipelines]]\nfilters = [{{ use = "verify", keys = {keys}, window = "10m" }}]\n')
    bus = Bus.from_config(path)
    assert f"keys = {keys}" in bus.export_config()
    assert bus.describe()["publish"][0]["settings"]["keys"] == ["${env:NEW}", "${env:OLD}"]
    bus.subscribe("a")
    with bus:
        assert bus.send(signed(by=OLD))
    monkeypatch.setenv("OLD", "hunter2")
    with pytest.raises(ConfigError) as caught:
        Bus.from_config(path)
    assert "bus.toml:3" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_filter_alone_can_be_driven_by_hand() -> None:
    """Without a bus, the filter uses the computer's clock."""
    verify, message = Verify([KEY]), signed()
    steps = verify.around(message)
    assert next(steps) is message
    with pytest.raises(StopIteration) as passed:
        steps.send(Receipt(1))
    assert passed.value.value == Receipt(1)
    with pytest.raises(Rejected):
        next(verify.around(message))


@pytest.mark.thorough
def test_it_keeps_every_law() -> None:
    """Verify keeps the laws that every filter must keep."""
    messages = [signed(body, subject="test") for body in (1, {"a": [2]}, None)]
    held = check_filter(Verify([KEY]), messages=messages, examples=3)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}
