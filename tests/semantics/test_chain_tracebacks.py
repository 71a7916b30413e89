"""A traceback shows users their own functions in a row, with few frames of pipebus between them (guarantee 16)."""

import asyncio
import sys
import traceback
from collections import deque
from typing import Any

import pytest

from pipebus import Bus, Delivery, Message, Pipeline, around, transform, when
from pipebus.events import Refused


class Boom(Exception):
    """An error of the application."""


def a(message, call_next):
    return call_next(message)


def b(message, call_next):
    return call_next(message)


def c(message, call_next):
    return call_next(message)


def d(message, call_next):
    return call_next(message)


def e(message, call_next):
    return call_next(message)


def boom(message, call_next):
    raise Boom("now")


async def aa(message, call_next):
    return await call_next(message)


async def ab(message, call_next):
    return await call_next(message)


async def ac(message, call_next):
    return await call_next(message)


async def ad(message, call_next):
    return await call_next(message)


async def ae(message, call_next):
    return await call_next(message)


async def aboom(message, call_next):
    raise Boom("now")


def handler(message):
    raise Boom("now")


PLAIN, ASYNC = [a, b, c, d, e], [aa, ab, ac, ad, ae]


def names(error: BaseException) -> list[str]:
    """The functions of an error's traceback, from the outermost to the one that raised."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def died(*filters: Any, at: str, handler: Any = handler) -> str:
    """The traceback of the dead letter that a failing handler leaves behind."""
    bus = Bus()
    if at == "bus":
        bus.use(*filters, at="delivery")
    bus.subscribe("x", handler, filters=filters if at == "own" else ())
    with bus:
        bus.publish("x", {})
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    return letter.traceback


def functions(text: str) -> list[str]:
    """The functions in the text of a traceback."""
    return [line.rsplit(" in ", 1)[1] for line in text.splitlines() if line.startswith('  File "')]


# --- tracebacks --------------------------------------------------------------------------------------------------------


def publish(bus):
    bus.publish("x")


def apublish(bus):
    asyncio.run(bus.apublish("x"))


@pytest.mark.parametrize(
    ("filters", "send"),
    [([*PLAIN, boom], publish), ([*PLAIN, boom], apublish), ([*ASYNC, aboom], publish), ([*ASYNC, aboom], apublish)],
    ids=["publish", "apublish-sync", "publish-async", "apublish"],
)
def test_s16_a_publisher_sees_its_filters_in_a_row(filters, send):
    """The traceback shows five filters and the one that raised, and no frame of pipebus between them."""
    bus = Bus()
    bus.use(*filters)
    with bus, pytest.raises(Boom) as caught:
        send(bus)

    assert names(caught.value)[-6:] == [filter.__name__ for filter in filters]
    assert names(caught.value).count(filters[0].__name__) == 1


@pytest.mark.parametrize("send", [publish, apublish], ids=["publish", "apublish"])
def test_s16_a_full_mailbox_is_told_behind_the_filters_in_a_row(send):
    """The end of the publish chain is code of pipebus, and the five filters before it still follow each other directly."""
    bus = Bus()
    bus.use(*PLAIN)
    bus.subscribe("x", mailbox=1, overflow="reject")
    with bus:
        bus.publish("x")
        with pytest.raises(Exception, match="no room") as caught:
            send(bus)

    found = names(caught.value)
    start = found.index("a")
    assert found[start : start + 5] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("at", ["bus", "own"])
def test_s16_a_dead_letter_shows_filters_and_handler_in_a_row(at):
    """The whole traceback is approved: six frames, and nothing else."""
    text = died(*PLAIN, at=at)

    assert functions(text) == ["a", "b", "c", "d", "e", "handler"]
    assert text.splitlines()[0] == "Traceback (most recent call last):"
    assert text.splitlines()[-1] == "Boom: now" or text.splitlines()[-1].endswith(".Boom: now")
    assert text.count("return call_next(message)") == 5
    assert 'raise Boom("now")' in text


def test_s16_a_handler_without_filters_stands_alone():
    """If a handler without filters fails, the traceback shows one function of the application: the handler."""
    assert functions(died(at="bus")) == ["handler"]


def test_s16_a_handler_with_a_typed_body_stands_alone_too():
    """The traceback does not show how the bus filled in the handler's parameters."""

    def typed(body: dict, delivery: Delivery):
        raise Boom("now")

    assert functions(died(a, at="bus", handler=typed)) == ["a", "typed"]


def test_s16_the_cause_of_an_error_is_shown_too():
    """`raise … from …` in a filter shows both errors, each with frames of the application only."""

    def translate(message, call_next):
        try:
            return call_next(message)
        except Boom as error:
            raise ValueError("translated") from error

    assert functions(died(a, translate, b, at="bus")) == ["translate", "b", "handler", "a", "translate"]


def test_s16_other_shapes_and_forks_show_at_most_one_frame_each():
    """A Transform, an Around, a `when` with a predicate and a Pipeline with a rule each show one frame of pipebus at most."""

    @transform
    def look(message):
        return message

    @around
    def wrap(message):
        return (yield message)

    bus = Bus()
    bus.use(a, look, b, wrap, c, when(lambda message: True, d), Pipeline(e, on_error="reject"), boom)
    with bus, pytest.raises(Boom) as caught:
        bus.publish("x")

    found = names(caught.value)
    user = [name for name in found if name in ("a", "b", "wrap", "c", "d", "e", "boom")]
    between = found[found.index("a") :]
    assert user == ["a", "b", "wrap", "c", "d", "e", "boom"]
    assert len(between) <= len(user) + 4


def test_s16_an_error_of_a_transform_shows_the_transform():
    """The last frame is the function that raised, also if it was not reached through a `call_next`."""

    @transform
    def look(message):
        raise Boom("now")

    assert functions(died(a, look, b, at="bus")) == ["a", "look"]


def test_s16_observers_get_the_same_traceback():
    """`Refused` has the error with the traceback that the publisher sees."""
    seen = []
    bus = Bus()
    bus.use(*PLAIN, boom)
    bus.observe(lambda event: seen.append(names(event.error)) if isinstance(event, Refused) else None)
    with bus, pytest.raises(Boom):
        bus.publish("x")

    assert seen[0][-6:] == ["a", "b", "c", "d", "e", "boom"]


def test_s16_an_error_that_is_raised_twice_keeps_clean_frames():
    """When one error object is raised for two messages, the second traceback has no frames of pipebus either."""
    error = Boom("one object")

    def raising(message, call_next):
        raise error

    bus = Bus()
    bus.use(a, raising)
    found = []
    with bus:
        for _ in range(2):
            error.__traceback__ = None
            with pytest.raises(Boom):
                bus.publish("x")
            found.append(names(error)[-2:])

    assert found == [["a", "raising"]] * 2


# --- the number of our frames ------------------------------------------------------------------------------------------


def stack(frame: Any) -> list[str]:
    """The modules of pipebus on the stack, innermost first."""
    found = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("pipebus."):
            found.append(module)
        frame = frame.f_back
    return found


def between(modules: list[str], runner: str) -> list[str]:
    """The modules before the first frame of `runner`."""
    return modules[: next(index for index, module in enumerate(modules) if module.startswith(runner))]


def on_message(seen):
    def handler(message):
        seen.append(stack(sys._getframe(1)))

    return handler


def on_body(seen):
    def handler(body: dict):
        seen.append(stack(sys._getframe(1)))

    return handler


def on_message_of(seen):
    def handler(message: Message[dict]):
        seen.append(stack(sys._getframe(1)))

    return handler


def on_everything(seen):
    def handler(body: dict, message: Message, delivery: Delivery, bus: Bus):
        seen.append(stack(sys._getframe(1)))

    return handler


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("make", [on_message, on_body, on_message_of, on_everything], ids=lambda f: f.__name__)
def test_s16_at_most_two_frames_of_ours_stand_between_the_runner_and_a_handler(make, workers):
    """Without filters, a profile shows the application and not pipebus."""
    seen: list[list[str]] = []
    bus = Bus()
    bus.subscribe("x", make(seen), workers=workers)
    with bus:
        bus.publish("x", {"a": 1})
        bus.drain(timeout=10)

    assert len(between(seen[0], "pipebus.running.worker")) <= 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("subscriptions", [1, 3])
def test_s16_at_most_two_frames_of_ours_stand_between_publish_and_the_mailbox(workers, subscriptions):
    """Without filters, on a known route, the bus has decided before which mailboxes a message goes to."""
    stacks: list[list[str]] = []

    def profile(frame, event, argument):
        if event == "c_call" and argument.__name__ == "append" and isinstance(argument.__self__, deque):
            stacks.append([module for module in stack(frame) if not module.startswith("pipebus.mailbox.")])

    bus = Bus()
    found = [bus.subscribe("x", lambda message: None, workers=workers) for _ in range(subscriptions)]
    for subscription in found:
        subscription.pause()
    with bus:
        bus.publish("x")
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            bus.publish("x")
        finally:
            sys.setprofile(before)
        for subscription in found:
            subscription.resume()

    assert len(stacks) == subscriptions
    assert all(modules[-1] == "pipebus.bus.bus" for modules in stacks)
    assert all(len(modules[:-1]) <= 2 for modules in stacks)
