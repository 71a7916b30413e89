"""
A bus gets errors and values whose own methods raise, refuse or lie, wherever it calls code of the application. After each of
them the figures add up, nothing is in flight, all subscriptions continue, and `stop` ends in time (guarantee 34).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from strangers import ERRORS, THINGS, touchy

from pipebus import Actor, Around, Bus, Delivery, Dropped, Message, Ref, Transform, around, transform, when
from pipebus.errors import RequestError
from pipebus.filters import Dedupe, Expire, Log, Redeliver, Retry, Tap, Timeout, Validate

WAYS: dict[str, dict[str, Any]] = {
    "pool": {},
    "two workers": {"workers": 2},
    "own thread": {"run": "thread"},
    "loop": {"run": "loop"},
    "loop, two workers": {"run": "loop", "workers": 2},
}
PLACES: dict[str, tuple[str, dict[str, Any]]] = {name: ("memory:", way) for name, way in WAYS.items()} | {
    "encoded": ("memory:?wire=json", {}),
    "sqlite": ("sqlite", {}),
    "sqlite, loop": ("sqlite", {"run": "loop"}),
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


@pytest.fixture
def bus(request: pytest.FixtureRequest, tmp_path: Any) -> Bus:
    url = getattr(request, "param", "memory:")
    return Bus(f"sqlite:///{tmp_path}/bus.db" if url == "sqlite" else url, pool=4)


def add_up(bus: Bus) -> None:
    """Check that the law of conservation holds for each subscription, and that no message is in flight."""
    for name, counts in bus.stats()["subscriptions"].items():
        ended = counts["acknowledged"] + sum(counts["dropped"].values()) + counts["dead"]
        assert counts["accepted"] == ended + counts["pending"] + counts["in_flight"], (name, counts)
        assert (counts["pending"], counts["in_flight"]) == (0, 0), (name, counts)


def refusal(act: Callable[[], object]) -> Exception | None:
    """The error that `act` raises, or None."""
    try:
        act()
    except Exception as error:
        return error
    return None


def counts(bus: Bus, name: str) -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["subscriptions"][name]
    return found


def handler(way: dict[str, Any], act: Callable[[Message], Any]) -> Callable[[Message], Any]:
    """`act` as a handler of the colour that the way needs."""
    if way.get("run") != "loop":
        return act

    async def handle(message: Message) -> Any:
        return act(message)

    return handle


class TestHandlers:
    @pytest.mark.parametrize(("bus", "way"), PLACES.values(), ids=PLACES, indirect=["bus"])
    @errors
    def test_s34_an_error_of_any_kind_is_a_dead_letter_and_the_subscription_goes_on(
        self, bus: Bus, error: Callable[[], BaseException], way: dict[str, Any]
    ) -> None:
        """If a handler raises an error that cannot be printed or changed, its message dies, and the next ones are handled."""

        def act(message: Message) -> None:
            if message.body == "bad":
                raise error()

        bus.subscribe("a", handler(way, act), name="one", **way)
        bus.subscribe("a", lambda _: None, name="neighbour")
        with bus:
            for body in ("good", "bad", "bad", "good"):
                bus.publish("a", body)
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["dead"] == 2
            assert counts(bus, "one")["acknowledged"] == 2
            assert counts(bus, "neighbour")["acknowledged"] == 4
            assert [letter.subscription for letter in bus.dead_letters.list()] == ["one", "one"]
            assert all(letter.error for letter in bus.dead_letters.list())
        report = bus.stop()
        assert not report.abandoned

    @errors
    def test_an_error_of_any_kind_reaches_whoever_asked(self, bus: Bus, error: Callable[[], BaseException]) -> None:
        """A request whose handler raises such an error fails at once, with the name of the error's class."""

        def act(message: Message) -> None:
            raise error()

        bus.subscribe("a", act, name="one")
        with bus, pytest.raises(RequestError):
            bus.request("a", timeout=10.0)
        add_up(bus)

    @pytest.mark.parametrize("filters", [[Retry(2, wait=0.0)], [Redeliver(wait=0.0)], [Timeout(5.0, abandon=True)], [Log()]],
                             ids=["retry", "redeliver", "timeout", "log"])  # fmt: skip
    @errors
    def test_an_error_of_any_kind_passes_the_filters_around_a_handler(
        self, bus: Bus, error: Callable[[], BaseException], filters: list[Any]
    ) -> None:
        """Retry, Redeliver, Timeout and Log give up on such an error as on any other."""

        def act(message: Message) -> None:
            raise error()

        bus.subscribe("a", act, name="one", filters=filters)
        with bus:
            bus.publish("a")
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["dead"] == 1

    @errors
    def test_an_actor_that_raises_any_error_gets_its_next_mail(self, bus: Bus, error: Callable[[], BaseException]) -> None:
        class Fragile(Actor):
            def on_message(self, message: Message) -> None:
                if message.body == "bad":
                    raise error()

            __repr__ = touchy(object).__repr__

        actor = bus.spawn(Fragile("fragile"))
        with bus:
            for body in ("bad", "good"):
                bus.publish(actor, body)
            bus.drain(10.0)
            add_up(bus)
            assert (counts(bus, "fragile")["dead"], counts(bus, "fragile")["acknowledged"]) == (1, 1)


class TestFilters:
    @staticmethod
    def filters(error: Callable[[], BaseException]) -> dict[str, Any]:
        def raise_it(*_: Any) -> Any:
            raise error()

        @around
        def on_the_way_back(message: Message) -> Any:
            yield message
            raise error()

        async def awaited(message: Message, call_next: Any) -> Any:
            raise error()

        return {
            "plain": lambda message, call_next: raise_it(),
            "transform": transform(raise_it),
            "around": on_the_way_back,
            "async": awaited,
            "predicate": when(raise_it, Log()),
        }

    @pytest.mark.parametrize("shape", ["plain", "transform", "around", "async", "predicate"])
    @errors
    def test_the_publisher_gets_the_very_error_of_a_filter(
        self, bus: Bus, error: Callable[[], BaseException], shape: str
    ) -> None:
        """The publisher gets the same kind of error that a publish filter raised, and the bus continues."""
        bus.use(when("a", self.filters(error)[shape]))
        bus.subscribe(">", lambda _: None, name="one")
        with bus:
            with pytest.raises(type(error())):
                bus.publish("a")
            bus.publish("b")
            bus.drain(10.0)
            add_up(bus)

    @pytest.mark.parametrize("shape", ["plain", "transform", "around", "predicate"])
    @errors
    def test_a_message_dies_of_a_delivery_filters_error(self, bus: Bus, error: Callable[[], BaseException], shape: str) -> None:
        bus.subscribe("a", lambda _: None, name="one", filters=[self.filters(error)[shape]])
        with bus:
            bus.publish("a")
            bus.publish("a")
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["dead"] == 2

    @pytest.mark.parametrize("on_error", ["dead_letter", "drop"])
    @errors
    def test_on_error_rules_errors_of_any_kind(self, bus: Bus, error: Callable[[], BaseException], on_error: Any) -> None:
        """`on_error` decides about each `Exception`, also about one that refuses attributes."""
        from pipebus import Pipeline

        bus.use(Pipeline(self.filters(error)["transform"], on_error=on_error))
        bus.subscribe("a", lambda _: None, name="one")
        with bus:
            if isinstance(type(error()), type) and issubclass(type(error()), Exception):
                assert isinstance(bus.publish("a"), Dropped)
                assert len(bus.dead_letters) == (on_error == "dead_letter")
            else:
                with pytest.raises(type(error())):
                    bus.publish("a")

    @errors
    def test_on_error_rules_errors_of_any_kind_around_a_coroutine(self, bus: Bus, error: Callable[[], BaseException]) -> None:
        """Around a handler on a loop, an `Exception` is dropped, and anything else makes a dead letter."""
        from pipebus import Pipeline

        async def handle(message: Message) -> None:
            pass

        bus.subscribe("a", handle, name="one", filters=[Pipeline(self.filters(error)["transform"], on_error="drop")])
        with bus:
            bus.publish("a")
            bus.drain(10.0)
            add_up(bus)
            dropped = issubclass(type(error()), Exception)
            assert (sum(counts(bus, "one")["dropped"].values()), counts(bus, "one")["dead"]) == (int(dropped), int(not dropped))

    @errors
    def test_a_filter_actor_that_raises_any_error_answers_the_next_question(
        self, bus: Bus, error: Callable[[], BaseException]
    ) -> None:
        class Gate(Actor):
            def filter(self, message: Message) -> Any:
                if message.body == "bad":
                    raise error()
                return message

            def on_message(self, message: Message) -> None:
                pass

        bus.use(Gate("gate"))
        bus.subscribe("a", lambda _: None, name="one")
        with bus:
            with pytest.raises(type(error())):
                bus.publish("a", "bad")
            bus.publish("a", "good")
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["acknowledged"] == 1

    @errors
    def test_an_error_at_the_start_stops_the_filters_that_had_started(
        self, bus: Bus, error: Callable[[], BaseException]
    ) -> None:
        calls: list[str] = []

        class First(Transform):
            def start(self, context: Any) -> None:
                calls.append("started")

            def stop(self) -> None:
                calls.append("stopped")

            def transform(self, message: Message) -> Message:
                return message

        class Second(First):
            def start(self, context: Any) -> None:
                raise error()

        bus.use(First(), Second())
        with pytest.raises(type(error())):
            bus.start()
        assert calls == ["started", "stopped"]

    @errors
    def test_an_error_at_the_stop_keeps_no_other_filter_from_stopping(
        self, bus: Bus, error: Callable[[], BaseException]
    ) -> None:
        calls: list[str] = []

        class Fine(Transform):
            def stop(self) -> None:
                calls.append("stopped")

            def transform(self, message: Message) -> Message:
                return message

        class Bad(Fine):
            def stop(self) -> None:
                raise error()

        bus.use(Fine(), Bad(), Fine())
        bus.start()
        report = bus.stop()
        assert calls == ["stopped", "stopped"]
        assert len(report.errors) == 1
        assert report.errors[0].startswith("Bad: ")
        bus.start()
        bus.stop()


class TestObservers:
    @errors
    def test_an_observers_error_of_any_kind_goes_no_further(self, bus: Bus, error: Callable[[], BaseException]) -> None:
        """The start, publishes, deliveries and the stop are the same as without the observer."""

        def observe(event: object) -> None:
            raise error()

        bus.observe(observe)
        bus.subscribe("a", lambda _: None, name="one")
        with bus:
            assert bus.publish("a")
            bus.drain(10.0)
            add_up(bus)
            assert bus.stats()["observer_errors"] > 0
        assert bus.stop().drained

    def test_an_observer_that_cannot_even_be_named_goes_no_further(self, bus: Bus) -> None:
        bus.observe(touchy(object, __call__=lambda self, event: 1 / 0)())
        with bus:
            assert not bus.publish("a").mailboxes
        assert bus.stop().drained


class TestValues:
    @pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
    def test_a_body_is_nobodys_business_but_the_handlers(self, bus: Bus, thing: Callable[[], Any]) -> None:
        """In memory, a body that raises on every access passes filters that need not read it, and reaches its handler."""
        got: list[Any] = []
        body = thing()
        bus.use(Log(body=True, headers=True), Tap(lambda message: None), Dedupe(), Expire(60.0))
        bus.subscribe("a", lambda message: got.append(message.body), name="one", filters=[Retry(2), Timeout(5.0, abandon=True)])
        with bus:
            bus.publish("a", body)
            bus.drain(10.0)
            add_up(bus)
        assert [one is body for one in got] == [True]

    @pytest.mark.parametrize("way", [WAYS["pool"], WAYS["loop"]], ids=["pool", "loop"])
    @pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
    def test_whatever_a_handler_returns_reaches_whoever_asked(
        self, bus: Bus, thing: Callable[[], Any], way: dict[str, Any]
    ) -> None:
        value = thing()
        bus.subscribe("a", handler(way, lambda message: value), name="one", **way)
        with bus:
            assert bus.request("a", timeout=10.0).body is value
            bus.publish("a")  # a publish without `reply_to`, so the value has no receiver
            bus.drain(10.0)
            add_up(bus)

    @pytest.mark.parametrize("url", ["memory:?wire=json", "sqlite"])
    @pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
    def test_a_body_that_cannot_be_written_fails_its_own_publish_alone(
        self, thing: Callable[[], Any], url: str, tmp_path: Any
    ) -> None:
        bus = Bus(f"sqlite:///{tmp_path}/bus.db" if url == "sqlite" else url)
        bus.subscribe("a", lambda _: None, name="one")
        with bus:
            fault = refusal(lambda: bus.publish("a", thing()))
            assert fault is None or str(fault)
            bus.publish("a", "good")
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["acknowledged"] >= 1

    @pytest.mark.parametrize("field", ["reply_to", "key", "ttl", "id", "correlation_id"])
    @pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
    @pytest.mark.parametrize("way", [WAYS["pool"], WAYS["two workers"]], ids=["pool", "two workers"])
    def test_an_impossible_envelope_is_refused_or_harmless(
        self, bus: Bus, field: str, thing: Callable[[], Any], way: dict[str, Any]
    ) -> None:
        """A strange value of an envelope field is an error of the publish, or changes nothing."""
        bus.subscribe("a", lambda _: "a value", name="one", **way)
        with bus:
            fault = refusal(lambda: bus.publish("a", 1, **{field: thing()}))
            assert fault is None or str(fault)
            bus.publish("a", 2)
            bus.drain(10.0)
            add_up(bus)

    @pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
    def test_an_expired_message_is_dropped_whatever_its_reply_address(self, bus: Bus, thing: Callable[[], Any]) -> None:
        """A message expires although its reply address cannot even be looked up."""
        one = bus.subscribe("a", lambda _: 1, name="one")
        with bus:
            one.pause()
            fault = refusal(lambda: bus.publish("a", reply_to=thing(), ttl=0.000001))
            assert fault is None or str(fault)
            bus.publish("a")
            one.resume()
            bus.drain(10.0)
            add_up(bus)

    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
    def test_mail_for_an_object_that_cannot_be_printed_dies_like_any_other(self, bus: Bus, way: dict[str, Any]) -> None:
        class Shy:
            __repr__ = __str__ = __format__ = touchy(object).__repr__

        def act(message: Message) -> None:
            raise ValueError("no")

        address = Ref(Shy())
        bus.use(Log())
        bus.subscribe(address, handler(way, act), name="one", **way)
        with bus:
            bus.publish(address)
            bus.publish(address)
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["dead"] == 2
            assert [letter.summary()["subscription"] for letter in bus.dead_letters.list()] == ["one", "one"]
            assert bus.explain(address)
            assert bus.describe()

    def test_a_reason_of_any_kind_settles_the_delivery(self, bus: Bus) -> None:
        """`delivery.reject` with a strange reason raises an error in the handler, or rejects the delivery."""

        def act(message: Message, delivery: Delivery) -> None:
            delivery.reject(THINGS["every dunder raises"]())

        bus.subscribe("a", act, name="one")
        with bus:
            bus.publish("a")
            bus.publish("a")
            bus.drain(10.0)
            add_up(bus)
            assert counts(bus, "one")["dead"] == 2

    @pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
    @pytest.mark.parametrize("side", ["publish", "delivery"])
    def test_a_filter_that_returns_anything_is_named(self, bus: Bus, thing: Callable[[], Any], side: Any) -> None:
        """A value that is neither an outcome nor a message is the filter's error, also if the value cannot be printed."""

        def odd(message: Message) -> Any:
            return thing()

        class Odd(Around):
            def around(self, message: Message) -> Any:
                yield thing()

        bus.use(when("a", transform(odd)), when("b", Odd()), at=side)
        bus.subscribe(["a", "b"], lambda _: None, name="one")
        with bus:
            for fault in (refusal(lambda: bus.publish("a")), refusal(lambda: bus.publish("b"))):
                assert fault is None or "odd" in str(fault).lower()
            bus.drain(10.0)
            add_up(bus)
            assert all("odd" in letter.error.lower() for letter in bus.dead_letters.list())

    def test_validate_refuses_a_body_that_it_cannot_read(self, bus: Bus) -> None:
        bus.use(Validate({"a": int}))
        bus.subscribe("a", lambda _: None, name="one")
        with bus:
            with pytest.raises(Exception, match=r".+"):
                bus.publish("a", touchy(object)())
            bus.publish("a", 1)
            bus.drain(10.0)
            add_up(bus)
