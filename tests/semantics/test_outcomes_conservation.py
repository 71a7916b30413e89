"""
Guarantee 18: conservation. Every delivery ends as exactly one of acknowledged, dropped or dead, or is still pending or in
flight; and the figures always add up. (`running` checks the law itself at the end of every test, here and elsewhere.)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from flow_helpers import (
    WAIT,
    Boom,
    DropAll,
    Ear,
    Hold,
    InThread,
    apublish,
    asend,
    assert_all_published_accounted_for,
    assert_conserved,
    boom,
    bus_of,
    every_road,
    every_way,
    fine,
    publish,
    returning,
    running,
    send,
    wait_until,
)
from pipebus import (
    AlreadySettled,
    Bus,
    DeadLetterError,
    Delivery,
    HeaderError,
    MailboxFull,
    Message,
    MessageError,
    Pipeline,
    PipelineError,
    Rejected,
    Subscription,
    SubscriptionError,
)
from pipebus.events import Acknowledged, Died, Discarded, Returned, Taken
from pipebus.testing import FakeClock, Harness

workers = pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])

ZERO = {"accepted": 0, "acknowledged": 0, "dropped": {}, "dead": 0, "pending": 0, "in_flight": 0, "oldest": ANY}


def figures(**changed: Any) -> dict[str, Any]:
    """The figures of a subscription, which are zero unless they are given."""
    return {**ZERO, **changed}


# --- each fate, counted once -------------------------------------------------------------------------------------------


def _acknowledged(bus: Bus, **options: Any) -> Subscription:
    return _publish_one(bus, bus.subscribe("s", fine, **options))


def _settled_early(bus: Bus, **options: Any) -> Subscription:
    def handle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        raise Boom("after the settlement")

    return _publish_one(bus, bus.subscribe("s", handle, **options))


def _retried(bus: Bus, **options: Any) -> Subscription:
    return _publish_one(bus, bus.subscribe("s", returning(2), attempts=3, **options))


def _exhausted(bus: Bus, **options: Any) -> Subscription:
    return _publish_one(bus, bus.subscribe("s", returning(3), attempts=3, **options))


def _dropped_by_filter(bus: Bus, **options: Any) -> Subscription:
    return _publish_one(bus, bus.subscribe("s", fine, filters=[DropAll("not today")], **options))


def _failed(bus: Bus, **options: Any) -> Subscription:
    return _publish_one(bus, bus.subscribe("s", boom, **options))


def _refused_by_type(bus: Bus, **options: Any) -> Subscription:
    def wants_number(body: int) -> None:
        raise AssertionError("a body that is no number came through")

    return _publish_one(bus, bus.subscribe("s", wants_number, **options))


def _rejected(bus: Bus, **options: Any) -> Subscription:
    return _publish_one(bus, bus.subscribe("s", returning(0, then=lambda delivery: delivery.reject("no")), **options))


def _replayed(bus: Bus, **options: Any) -> Subscription:
    failures = [Boom("once")]

    def fails_once(message: Message) -> None:
        if failures:
            raise failures.pop()

    subscription = _publish_one(bus, bus.subscribe("s", fails_once, **options))
    bus.dead_letters.replay(bus.dead_letters.list()[0].id)
    bus.drain(WAIT)
    return subscription


def _dead_twice(bus: Bus, **options: Any) -> Subscription:
    subscription = _failed(bus, **options)
    bus.dead_letters.replay(bus.dead_letters.list()[0].id)
    bus.drain(WAIT)
    return subscription


def _discarded(bus: Bus, **options: Any) -> Subscription:
    subscription = _failed(bus, **options)
    bus.dead_letters.discard(bus.dead_letters.list()[0].id)
    return subscription


def _unsubscribed(bus: Bus, **options: Any) -> Subscription:
    subscription = bus.subscribe("s", fine, **options)
    subscription.pause()
    bus.publish("s", "x")
    subscription.unsubscribe()
    return subscription


def _overflowed(bus: Bus, **options: Any) -> Subscription:
    subscription = bus.subscribe("s", fine, mailbox=1, overflow="drop_newest", **options)
    subscription.pause()
    bus.publish("s", "x")
    bus.publish("s", "y")
    subscription.resume()
    bus.drain(WAIT)
    return subscription


def _pushed_out(bus: Bus, **options: Any) -> Subscription:
    subscription = bus.subscribe("s", fine, mailbox=1, overflow="drop_oldest", **options)
    subscription.pause()
    bus.publish("s", "x")
    bus.publish("s", "y")
    subscription.resume()
    bus.drain(WAIT)
    return subscription


def _pending(bus: Bus, **options: Any) -> Subscription:
    subscription = bus.subscribe("s", fine, **options)
    subscription.pause()
    bus.publish("s", "x")
    return subscription


def _in_flight(bus: Bus, **options: Any) -> Subscription:
    hold = Hold()
    subscription = bus.subscribe("s", hold, **options)
    bus.publish("s", "x")
    hold.wait_started()
    return subscription


def _publish_one(bus: Bus, subscription: Subscription) -> Subscription:
    bus.publish("s", "x")
    bus.drain(WAIT)
    return subscription


FATES = [
    (_acknowledged, figures(accepted=1, acknowledged=1)),
    (_settled_early, figures(accepted=1, acknowledged=1)),
    (_retried, figures(accepted=1, acknowledged=1)),
    (_exhausted, figures(accepted=1, dead=1)),
    (_dropped_by_filter, figures(accepted=1, dropped={"not today": 1})),
    (_failed, figures(accepted=1, dead=1)),
    (_refused_by_type, figures(accepted=1, dead=1)),
    (_rejected, figures(accepted=1, dead=1)),
    (_replayed, figures(accepted=1, acknowledged=1)),
    (_dead_twice, figures(accepted=1, dead=1)),
    (_discarded, figures(accepted=1, dropped={"discarded": 1})),
    (_unsubscribed, figures(accepted=1, dropped={"unsubscribed": 1})),
    (_overflowed, figures(accepted=2, acknowledged=1, dropped={"overflow": 1})),
    (_pushed_out, figures(accepted=2, acknowledged=1, dropped={"overflow": 1})),
    (_pending, figures(accepted=1, pending=1)),
    (_in_flight, figures(accepted=1, in_flight=1)),
]


@workers
@pytest.mark.parametrize(("fate", "expected"), FATES, ids=[fate.__name__.strip("_") for fate, _ in FATES])
def test_s18_each_fate_is_counted_exactly_once(
    fate: Callable[..., Subscription], expected: dict[str, Any], workers: int
) -> None:
    """However a message ends, it is counted under exactly one heading, and once in `accepted`."""
    with running() as bus:
        subscription = fate(bus, workers=workers)

        assert subscription.stats() == expected


def test_s18_an_expired_message_is_counted_under_expired(harness: Harness) -> None:
    """A message whose time to live had passed when it was taken is `dropped: expired`."""
    with running(harness.bus) as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "old", ttl=5.0)
        bus.publish("s", "young", ttl=50.0)
        harness.advance(6.0)

        assert subscription.receive(timeout=0).body == "young"
        assert subscription.stats() == figures(accepted=2, acknowledged=1, dropped={"expired": 1})


def test_s18_stats_of_the_bus_show_the_figures_of_each_subscription() -> None:
    """One call returns the figures of every subscription."""
    with running() as bus:
        bus.subscribe("s", fine, name="good")
        bus.subscribe("s", boom, name="bad")
        bus.subscribe("s", name="unread")
        bus.publish("s")
        bus.drain(WAIT)

        assert bus.stats()["subscriptions"] == {
            "good": figures(accepted=1, acknowledged=1),
            "bad": figures(accepted=1, dead=1),
            "unread": figures(accepted=1, pending=1),
        }


def test_s18_the_law_holds_at_every_step_of_one_message() -> None:
    """While a message is pending, in flight, returned, in flight again and acknowledged, the figures always add up."""
    steps: list[dict[str, Any]] = []
    with running() as bus:

        def handle(message: Message, delivery: Delivery) -> None:
            steps.append(subscription.stats())
            if delivery.attempt == 1:
                delivery.retry()
                steps.append(subscription.stats())

        subscription = bus.subscribe("s", handle)
        subscription.pause()
        bus.publish("s")
        steps.append(subscription.stats())
        subscription.resume()
        bus.drain(WAIT)
        steps.append(subscription.stats())

    flying, waiting = figures(accepted=1, in_flight=1), figures(accepted=1, pending=1)
    assert steps == [waiting, flying, waiting, flying, figures(accepted=1, acknowledged=1)]


# --- attempts ----------------------------------------------------------------------------------------------------------


@workers
def test_s18_attempt_counts_how_often_a_message_was_taken_from_the_mailbox(workers: int) -> None:
    """The first attempt is number 1; each return adds one, and `redelivered` is true from the second on."""
    seen: list[tuple[int, bool]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        seen.append((delivery.attempt, delivery.redelivered))
        if delivery.attempt < 3:
            delivery.retry()

    with running() as bus:
        bus.subscribe("s", handle, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

    assert seen == [(1, False), (2, True), (3, True)]


@workers
def test_s18_every_taking_ends_in_exactly_one_event(workers: int) -> None:
    """Whatever happens to 300 messages, observers hear one ending for each attempt, and their counts agree with the figures."""
    chance = random.Random(18)
    with running(Bus(dead_letters=20)) as bus:
        ear = Ear(bus)

        def handle(message: Message, delivery: Delivery) -> None:
            fate = message.body
            if fate == "raise" or (fate == "raise-once" and delivery.attempt > 1):
                raise Boom
            if fate in ("retry", "raise-once"):
                delivery.retry()
            elif fate == "reject":
                delivery.reject("no")
            elif fate == "ack-and-raise":
                delivery.ack()
                raise Boom

        class DropSome(DropAll):
            def transform(self, message: Message) -> Any:
                return super().transform(message) if message.body == "drop" else message

        subscription = bus.subscribe("s", handle, workers=workers, attempts=3, filters=[DropSome()])
        fates = ["fine", "raise", "raise-once", "retry", "reject", "ack-and-raise", "drop"]
        for _ in range(300):
            bus.publish("s", chance.choice(fates))
        bus.drain(WAIT)

        takings = Counter((event.message.id, event.attempt) for event in ear.of(Taken))
        assert set(takings.values()) == {1}
        endings = Counter(event.message.id for event in ear.of(Acknowledged, Returned, Died))
        endings.update(event.message.id for event in ear.of(Discarded) if event.reason == "unwanted")
        assert endings == Counter(message_id for message_id, _ in takings)
        stats = subscription.stats()
        assert stats["accepted"] == 300
        assert len(ear.of(Acknowledged)) == stats["acknowledged"]
        assert len(ear.of(Died)) == stats["dead"] + stats["dropped"]["evicted"]


# --- dead letters move, and are counted where they are -----------------------------------------------------------------


def test_s18_a_replayed_letter_moves_from_dead_to_pending() -> None:
    """The letter leaves the list, and its message goes only to the mailbox of the subscription that failed."""
    with running() as bus:
        subscription = bus.subscribe("s", boom, name="failing")
        other = bus.subscribe("s", fine, name="other")
        bus.publish("s")
        bus.drain(WAIT)
        subscription.pause()

        (letter,) = bus.dead_letters.list()
        bus.dead_letters.replay(letter.id)

        assert subscription.stats() == figures(accepted=1, pending=1)
        assert other.stats() == figures(accepted=1, acknowledged=1)
        assert bus.dead_letters.list() == []


def test_s18_a_replayed_message_counts_its_attempts_anew() -> None:
    """After a replay the attempts start at 1 again, and the message may be returned as often as a new one."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        delivery.retry()

    with running() as bus:
        bus.subscribe("s", handle, attempts=2)
        bus.publish("s")
        bus.drain(WAIT)
        bus.dead_letters.replay(bus.dead_letters.list()[0].id)
        bus.drain(WAIT)

    assert attempts == [1, 2, 1, 2]


@workers
def test_s18_a_letter_that_cannot_be_replayed_stays_dead(workers: int) -> None:
    """If the mailbox is full, the replay raises, the letter stays, and the figures do not change."""
    with running() as bus:
        subscription = bus.subscribe("s", boom, name="failing", mailbox=1, overflow="reject", workers=workers)
        bus.publish("s", "dead")
        bus.drain(WAIT)
        subscription.pause()
        bus.publish("s", "in the way")
        (letter,) = bus.dead_letters.list()

        with pytest.raises(DeadLetterError, match="failing"):
            bus.dead_letters.replay(letter.id)

        assert bus.dead_letters.show(letter.id) == letter
        assert subscription.stats() == figures(accepted=2, dead=1, pending=1)


def test_s18_a_letter_whose_subscription_is_gone_stays_dead() -> None:
    """After `unsubscribe` a letter cannot be replayed, and is kept so that people can read it."""
    with running() as bus:
        subscription = bus.subscribe("s", boom, name="failing")
        bus.publish("s")
        bus.drain(WAIT)
        subscription.unsubscribe()
        (letter,) = bus.dead_letters.list()

        with pytest.raises(DeadLetterError, match="failing"):
            bus.dead_letters.replay(letter.id)

        assert bus.dead_letters.list() == [letter]
        assert subscription.stats() == figures(accepted=1, dead=1)
        assert_conserved(subscription)


def test_s18_a_failed_replay_leaves_the_letters_in_their_order() -> None:
    """`list` starts with the oldest letter, and the cap evicts the oldest one; a failed replay changes neither."""
    with running(Bus(dead_letters=2)) as bus:
        subscription = bus.subscribe("s", boom)
        for body in ("oldest", "younger"):
            bus.publish("s", body)
        bus.drain(WAIT)
        subscription.unsubscribe()

        with pytest.raises(DeadLetterError):
            bus.dead_letters.replay(bus.dead_letters.list()[0].id)

        assert [letter.message.body for letter in bus.dead_letters.list()] == ["oldest", "younger"]


def test_s18_the_cap_evicts_the_oldest_letter_and_counts_it_where_it_came_from() -> None:
    """With three letters and a cap of two, the oldest is gone, and its own subscription counts it as `evicted`."""
    with running(Bus(dead_letters=2)) as bus:
        first = bus.subscribe("first", boom)
        second = bus.subscribe("second", boom)
        bus.publish("first", "oldest")
        bus.drain(WAIT)
        bus.publish("second", "middle")
        bus.drain(WAIT)
        bus.publish("second", "youngest")
        bus.drain(WAIT)

        assert [letter.message.body for letter in bus.dead_letters.list()] == ["middle", "youngest"]
        assert first.stats() == figures(accepted=1, dropped={"evicted": 1})
        assert second.stats() == figures(accepted=2, dead=2)
        assert bus.dead_letters.evicted == 1


def test_s18_letters_can_be_listed_shown_and_discarded() -> None:
    """Letters can be listed from the oldest on, for one subscription, or shown by id; a discarded letter is gone."""
    with running() as bus:
        bus.subscribe("a", boom, name="a")
        bus.subscribe("b", boom, name="b")
        for subject in ("a", "b", "a"):
            bus.publish(subject, subject.upper())
            bus.drain(WAIT)
        letters = bus.dead_letters

        assert [letter.subscription for letter in letters.list()] == ["a", "b", "a"]
        assert [letter.subscription for letter in letters.list("a")] == ["a", "a"]
        assert [letter.id for letter in letters] == [letter.id for letter in letters.list()]
        gone = letters.list("b")[0]
        assert letters.show(gone.id) == gone
        letters.discard(gone.id)
        assert letters.list("b") == []
        assert len(letters) == bus.stats()["dead_letters"] == 2


@pytest.mark.parametrize("verb", ["show", "replay", "discard"])
def test_s18_an_unknown_letter_is_an_error_that_names_it(verb: str) -> None:
    """A letter that does not exist, or does not exist any more, cannot be shown, replayed or discarded."""
    with running() as bus, pytest.raises(DeadLetterError, match='"d99"'):
        getattr(bus.dead_letters, verb)("d99")


def test_s18_a_letter_can_be_replayed_or_discarded_only_once() -> None:
    """The second discard finds nothing, so nothing is counted twice."""
    with running() as bus:
        subscription = bus.subscribe("s", boom)
        bus.publish("s")
        bus.drain(WAIT)
        (letter,) = bus.dead_letters.list()
        bus.dead_letters.discard(letter.id)

        for verb in (bus.dead_letters.discard, bus.dead_letters.replay):
            with pytest.raises(DeadLetterError):
                verb(letter.id)

        assert subscription.stats() == figures(accepted=1, dropped={"discarded": 1})


def test_s18_a_letter_of_the_publish_chain_is_published_anew_when_replayed() -> None:
    """A message that died before it reached a mailbox passes the whole chain again, to the current subscribers."""
    failures = [Boom("the database is away")]

    def fails_once(message: Message, call_next: Any) -> Any:
        if failures:
            raise failures.pop()
        return call_next(message)

    bus = Bus()
    bus.use(Pipeline(fails_once, on_error="dead_letter"))
    with running(bus):
        subscription = bus.subscribe("s")
        outcome = bus.publish("s", "x")
        (letter,) = bus.dead_letters.list("publish")
        assert not outcome
        assert subscription.stats() == figures()

        bus.dead_letters.replay(letter.id)

        assert subscription.receive(timeout=0).body == "x"
        assert len(bus.dead_letters) == 0


@workers
def test_s18_a_delivery_kept_beyond_its_handler_cannot_be_counted_again(workers: int) -> None:
    """A delivery is settled when its handler ends: code that kept it cannot acknowledge, retry or reject it again."""
    kept: list[Delivery] = []

    def keep(message: Message, delivery: Delivery) -> None:
        kept.append(delivery)
        if message.body == "fail":
            raise Boom

    with running() as bus:
        subscription = bus.subscribe("s", keep, workers=workers, attempts=5)
        bus.publish("s", "fine")
        bus.publish("s", "fail")
        bus.drain(WAIT)
        for delivery in kept:
            for verb in (delivery.ack, delivery.retry):
                _refused_as_settled(verb)
            _refused_as_settled(lambda delivery=delivery: delivery.reject("too late"))

        bus.drain(WAIT)
        assert subscription.stats() == figures(accepted=2, acknowledged=1, dead=1)


def _refused_as_settled(verb: Callable[[], object]) -> None:
    with pytest.raises(AlreadySettled):
        verb()


# --- the bus as a whole ------------------------------------------------------------------------------------------------


@every_way
@every_road
def test_s18_the_bus_accounts_for_every_message_that_publishers_handed_in(road: str, way: Any) -> None:
    """published = accepted + dropped + rejected + errors, whichever call and chain the messages used."""
    bus = bus_of(road)

    class Judge(DropAll):
        def transform(self, message: Message) -> Any:
            if message.body == "drop":
                return super().transform(message)
            if message.body == "reject":
                raise Rejected("bad manners")
            if message.body == "raise":
                raise Boom
            return message

    bus.use(Judge())
    with running(bus):
        subscription = bus.subscribe("s", fine)
        for body in ("fine", "drop", "fine"):
            way(bus, "s", body)
        with pytest.raises(Rejected):
            way(bus, "s", "reject")
        with pytest.raises(Boom):
            way(bus, "s", "raise")
        bus.drain(WAIT)

        stats = bus.stats()
        assert (stats["published"], stats["accepted"]) == (5, 2)
        assert stats["dropped"] == {"Judge": {"unwanted": 1}}
        assert stats["rejected"] == {"Judge": {"bad manners": 1}}
        assert stats["errors"] == {"Boom": 1}
        assert subscription.stats() == figures(accepted=2, acknowledged=2)


BAD_INPUT = [
    ({"headers": {"x": 1}}, HeaderError),
    ({"headers": {"x": 1}, "id": "mine"}, HeaderError),
    ({"key": 3}, MessageError),
    ({"ttl": -1}, MessageError),
    ({"delay": -1}, MessageError),
    ({"id": ""}, MessageError),
]


@pytest.mark.parametrize("way", [publish, apublish], ids=lambda way: way.__name__)
@pytest.mark.parametrize(("options", "error"), BAD_INPUT, ids=["-".join(options) for options, _ in BAD_INPUT])
def test_s18_a_publish_with_bad_input_is_not_counted_as_accepted(
    options: dict[str, Any], error: type[Exception], way: Any
) -> None:
    """A publish whose arguments do not make a message is not counted as accepted."""
    with running() as bus:
        subscription = bus.subscribe("s", fine)
        with pytest.raises(error):
            way(bus, "s", "x", **options)

        assert bus.stats()["accepted"] == 0
        assert_all_published_accounted_for(bus)
        assert subscription.stats() == figures()


@pytest.mark.parametrize("way", [send, asend], ids=lambda way: way.__name__)
def test_s18_a_message_may_be_sent_twice_and_is_two_deliveries(way: Any) -> None:
    """The bus itself does not compare ids: a message that is sent twice is delivered twice, and counted twice."""
    with running() as bus:
        subscription = bus.subscribe("s")
        for _ in range(2):
            way(bus, "s", "x", id="same")

        assert [subscription.receive(timeout=0).id for _ in range(2)] == ["same", "same"]
        assert bus.stats()["published"] == bus.stats()["accepted"] == 2


def test_s18_what_a_full_mailbox_refused_is_an_error_of_the_bus_and_not_accepted_there() -> None:
    """The bus counts a refused publish under `errors`, and the mailbox that refused it has not accepted it."""
    with running() as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="reject")
        bus.publish("s", 1)
        with pytest.raises(MailboxFull):
            bus.publish("s", 2)

        assert bus.stats()["errors"] == {"MailboxFull": 1}
        assert bus.stats()["accepted"] == 1
        assert_conserved(subscription, accepted=1)


def test_s18_figures_are_right_while_other_threads_are_at_work() -> None:
    """`stats()` may be called at any time, and once the bus is quiet it shows exactly what went in."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold)
        publisher = InThread(lambda: [bus.publish("s", n) for n in range(1_000)])
        hold.wait_started()
        publisher.result()
        wait_until(lambda: subscription.stats()["pending"] == 999, "one in flight, the others pending")
        assert_conserved(subscription, accepted=1_000)
        hold.open()
        bus.drain(WAIT)

        assert subscription.stats() == figures(accepted=1_000, acknowledged=1_000)


@pytest.mark.parametrize("cap", [0, -1, True, 1.5])
def test_s18_a_store_of_dead_letters_holds_at_least_one(cap: Any) -> None:
    """A cap that would lose every letter at once is a mistake, and `Bus` raises where it is made."""
    with pytest.raises(PipelineError, match="dead_letters"):
        Bus(dead_letters=cap)


def test_s18_attempts_is_a_whole_number_of_at_least_one() -> None:
    """`attempts` must be at least one, because a delivery needs at least one attempt."""
    with running() as bus, pytest.raises(SubscriptionError, match="attempts=0"):
        bus.subscribe("s", fine, attempts=0)


@pytest.mark.parametrize("store", ["memory:", "memory:?wire=json", "sqlite:///bus.db?durability=process"])
def test_s33_a_replayed_message_is_handled_although_its_time_to_live_is_over(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives a dead letter back wants it handled; expiring it would only lose the letter."""
    monkeypatch.chdir(tmp_path)
    clock = FakeClock(start=1_800_000_000.0)
    handled = []
    broken = True

    def handle(message: Message) -> None:
        if broken:
            raise ValueError("broken")
        handled.append(message.body)

    bus = Bus(store, clock=clock)
    bus.subscribe("s", handle, name="s")
    with bus:
        bus.publish("s", "x", ttl="5s")
        bus.drain(WAIT)
        broken = False
        (letter,) = bus.dead_letters.list()
        clock.advance(10.0)
        bus.dead_letters.replay(letter)
        bus.drain(WAIT)

    assert handled == ["x"]
