"""Every public call gets objects whose own methods raise. It refuses or accepts them, and the bus works either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from strangers import ERRORS, THINGS, refuse

from pipebus import Actor, Around, Bus, Dropped, Message, Pipeline, Ref, Subject, Transform, branch, transform, when
from pipebus.filters import (
    CircuitBreaker,
    Concurrency,
    Dedupe,
    Drop,
    Enrich,
    Expire,
    Fallback,
    Fields,
    Log,
    RateLimit,
    Redact,
    Redeliver,
    Reroute,
    Retry,
    SetHeaders,
    Sign,
    SizeLimit,
    Tap,
    Timeout,
    Validate,
    Verify,
)

CALLS: dict[str, Callable[[Bus, Any], object]] = {
    "publish to": lambda bus, thing: bus.publish(thing),
    "publish headers": lambda bus, thing: bus.publish("a", headers=thing),
    "publish a header": lambda bus, thing: bus.publish("a", headers={"name": thing}),
    "publish an option": lambda bus, thing: bus.publish("a", ttl=thing, delay=thing),
    "publish later": lambda bus, thing: bus.publish("a", delay=thing),
    "send": lambda bus, thing: bus.send(thing),
    "request of": lambda bus, thing: bus.request(thing, timeout=5.0),
    "request for so long": lambda bus, thing: bus.request("a", timeout=thing),
    "subscribe to": lambda bus, thing: bus.subscribe(thing, print),
    "subscribe to these": lambda bus, thing: bus.subscribe([thing], print),
    "subscribe a handler": lambda bus, thing: bus.subscribe("b", thing),
    "subscribe as": lambda bus, thing: bus.subscribe("b", print, name=thing),
    "subscribe with filters": lambda bus, thing: bus.subscribe("b", print, filters=thing),
    "subscribe with a filter": lambda bus, thing: bus.subscribe("b", print, filters=[thing]),
    "subscribe to=": lambda bus, thing: bus.subscribe("b", print, to=thing),
    "subscribe workers": lambda bus, thing: bus.subscribe("b", print, workers=thing),
    "subscribe run": lambda bus, thing: bus.subscribe("b", print, run=thing),
    "subscribe mailbox": lambda bus, thing: bus.subscribe("b", print, mailbox=thing),
    "subscribe overflow": lambda bus, thing: bus.subscribe("b", print, overflow=thing),
    "subscribe overflow_timeout": lambda bus, thing: bus.subscribe("b", print, overflow_timeout=thing),
    "subscribe attempts": lambda bus, thing: bus.subscribe("b", print, attempts=thing),
    "subscribe deliver": lambda bus, thing: bus.subscribe("b", print, deliver=thing),
    "on": lambda bus, thing: bus.on("b")(thing),
    "spawn": lambda bus, thing: bus.spawn(thing),
    "include": lambda bus, thing: bus.include(thing),
    "observe": lambda bus, thing: bus.observe(thing),
    "every": lambda bus, thing: bus.every(thing, "a"),
    "every to": lambda bus, thing: bus.every(60.0, thing),
    "explain": lambda bus, thing: bus.explain(thing),
    "drain": lambda bus, thing: bus.drain(thing),
    "show a letter": lambda bus, thing: bus.dead_letters.show(thing),
    "replay a letter": lambda bus, thing: bus.dead_letters.replay(thing),
    "discard a letter": lambda bus, thing: bus.dead_letters.discard(thing),
    "letters of": lambda bus, thing: bus.dead_letters.list(thing),
}
things = pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)


def attempt(act: Callable[[], object]) -> None:
    """The call may work, or raise an error that has a text."""
    try:
        act()
    except Exception as error:
        text = str(error)
    else:
        text = "taken"
    assert text


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@things
def test_a_call_with_a_strange_argument_leaves_the_bus_as_it_was(
    call: Callable[[Bus, Any], object], thing: Callable[[], Any]
) -> None:
    """After such a call, messages are published, handled and answered, `describe` and `stats` work, and the bus stops."""
    bus = Bus()
    bus.subscribe("a", lambda message: message.body, name="one")
    bus.start()
    try:
        attempt(lambda: call(bus, thing()))
        assert bus.request("a", 1, timeout=10.0).body == 1
        bus.drain(10.0)
        assert bus.stats()["subscriptions"]["one"]["in_flight"] == 0
        assert bus.describe()
        assert bus.explain("a")
    finally:
        assert not bus.stop(timeout=10.0).abandoned


BUILDS: dict[str, Callable[[Any], object]] = {
    "when": lambda thing: when(thing, Log()),
    "branch": lambda thing: branch(thing, Log()),
    "when with": lambda thing: when("a", thing),
    "Pipeline": Pipeline,
    "on_error": lambda thing: Pipeline(Log(), on_error=thing),
    "Message": Message,
    "a header": lambda thing: Message("a", headers={"x": thing}),
    "with_headers": lambda thing: Message("a").with_headers(x=thing),
    "Subject": Subject,
    "Ref": Ref,
    "Dropped": Dropped,
    "CircuitBreaker": lambda thing: CircuitBreaker(on=thing),
    "CircuitBreaker window": lambda thing: CircuitBreaker(window=thing, failures=thing),
    "Concurrency": Concurrency,
    "Concurrency key": lambda thing: Concurrency(1, key=thing),
    "Dedupe": lambda thing: Dedupe(window=thing),
    "Drop": Drop,
    "Enrich": lambda thing: Enrich({"a": thing}),
    "Expire": Expire,
    "Fallback to": lambda thing: Fallback(subject=thing),
    "Fallback on": lambda thing: Fallback(subject="b", on=thing),
    "Fields": lambda thing: Fields(remove=thing),
    "Log": lambda thing: Log(redact=thing),
    "RateLimit": RateLimit,
    "RateLimit key": lambda thing: RateLimit(1, key=thing),
    "RateLimit on_limit": lambda thing: RateLimit(1, on_limit=thing),
    "Redact": Redact,
    "Redact mask": lambda thing: Redact(["a"], mask=thing),
    "Redeliver": lambda thing: Redeliver(wait=thing),
    "Reroute": Reroute,
    "Retry": lambda thing: Retry(on=thing),
    "SetHeaders": SetHeaders,
    "Sign": Sign,
    "Sign headers": lambda thing: Sign("0123456789abcdef", headers=thing),
    "SizeLimit": SizeLimit,
    "Tap": Tap,
    "Timeout": Timeout,
    "Validate": Validate,
    "Verify": Verify,
    "Verify keys": lambda thing: Verify([thing]),
    "Verify headers": lambda thing: Verify(["0123456789abcdef"], headers=thing),
    "transform": transform,
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@things
def test_what_is_built_of_a_strange_object_is_refused_or_used(build: Callable[[Any], Any], thing: Callable[[], Any]) -> None:
    """Either it is refused at once, or it fails only its own messages once it is in a chain."""
    try:
        made = build(thing())
    except Exception as error:
        text = str(error)
        assert text
        return
    bus = Bus()
    attempt(lambda: bus.use(when("odd", made)))
    bus.subscribe(">", lambda message: message.body, name="one")
    bus.start()
    try:
        attempt(lambda: bus.publish("odd", {"a": 1}))
        assert bus.request("a", 1, timeout=10.0).body == 1
        bus.drain(10.0)
        assert bus.describe()
    finally:
        assert not bus.stop(timeout=10.0).abandoned


@pytest.mark.parametrize("base", [Transform, Around, Actor], ids=["Transform", "Around", "Actor"])
def test_a_filter_that_cannot_be_printed_works_like_any_other(base: type) -> None:
    """A filter that cannot be printed does its work, and goes by the name of its class."""
    quiet = dict.fromkeys(("__repr__", "__str__", "__bool__", "__len__", "__iter__", "__format__"), refuse)
    methods: dict[str, Any] = {
        "transform": lambda self, message: message,
        "around": lambda self, message: (yield message),
        "filter": lambda self, message: message,
        "on_message": lambda self, message: None,
    }
    stranger = type("Shy", (base,), quiet | methods)()
    bus = Bus()
    bus.use(stranger)
    bus.subscribe("a", lambda message: message.body, name="one", filters=[stranger] if base is not Actor else [])
    with bus:
        assert bus.request("a", 1, timeout=10.0).body == 1
        assert "Shy" in bus.explain("a")
        assert bus.describe()


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_leaving_the_block_through_a_strange_error_stops_the_bus(error: Callable[[], BaseException]) -> None:
    """The caller gets the very error, and the bus has stopped."""
    bus = Bus()
    bus.subscribe("a", lambda message: None, name="one")

    def leave() -> None:
        with bus:
            bus.publish("a")
            raise error()

    with pytest.raises(type(error())):
        leave()
    bus.start()
    bus.stop()
