"""Drop: end unwanted messages here, and count them by reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipebus import Bus, ConfigError, Dropped, Message, PipelineError, Receipt, Rejected, RequestDropped
from pipebus.filters import Drop
from pipebus.testing import Harness, check_filter, run_filter
from pipebus.testing.laws.laws import LAWS
from tables import table


def small(message: Message) -> bool:
    return message.body < 10


@pytest.mark.parametrize(
    ("body", "dropped"),
    [
        pytest.param(9, True, id="it holds"),
        pytest.param(10, False, id="it does not hold"),
    ],
)
def test_a_message_for_which_the_condition_holds_is_dropped(colour: Any, at: Any, body: int, dropped: bool) -> None:
    """A message that matches is dropped with the given reason; any other message passes unchanged."""
    sent = Message("a", body)
    run = run_filter(Drop(when=small, reason="too small"), sent, at=at, colour=colour)
    if dropped:
        assert run.forwards == []
        assert run.outcome == Dropped("too small", "Drop")
    else:
        assert run.forwarded is sent


def test_without_a_condition_every_message_is_dropped(colour: Any, at: Any) -> None:
    """Without a condition every message is dropped, and without a reason the reason is "not wanted"."""
    run = run_filter(Drop(), Message("a", 1), at=at, colour=colour)
    assert run.outcome == Dropped("not wanted", "Drop")
    assert run.next_calls == 0


@pytest.mark.parametrize("found", [0, None, "", []], ids=repr)
def test_what_is_as_good_as_no_is_no(found: Any, colour: Any) -> None:
    """A value that Python's `if` takes as false lets the message pass."""
    assert run_filter(Drop(when=lambda message: found), Message("a"), colour=colour).next_calls == 1


@pytest.mark.parametrize("found", [1, "yes", [0]], ids=repr)
def test_what_is_as_good_as_yes_is_yes(found: Any, colour: Any) -> None:
    """A value that Python's `if` takes as true drops the message."""
    run = run_filter(Drop(when=lambda message: found), Message("a"), colour=colour)
    assert run.outcome == Dropped("not wanted", "Drop")


def test_what_the_condition_raises_is_the_filter_s_error(colour: Any, at: Any) -> None:
    """If the condition raises, the message does not pass, and the caller gets the error."""

    def broken(message: Message) -> bool:
        raise ValueError("no scales")

    run = run_filter(Drop(when=broken), Message("a"), at=at, colour=colour)
    with pytest.raises(ValueError, match="no scales"):
        assert run.outcome
    assert run.next_calls == 0


def test_the_condition_is_asked_once_about_each_message(colour: Any) -> None:
    """The condition runs once for each message, with the message as it arrives at the filter."""
    asked: list[Message] = []
    sent = Message("a", 1)
    assert run_filter(Drop(when=asked.append), sent, colour=colour).forwarded is sent
    assert asked == [sent]
    assert asked[0] is sent


def test_a_dropped_publish_reaches_nobody_and_is_counted(harness: Harness) -> None:
    """The publisher gets `Dropped`, the bus counts it by filter and reason, and no mailbox gets the message."""
    bus = harness.bus
    bus.use(Drop(when=small, reason="too small"), Drop(when=lambda message: message.body == 13, reason="unlucky"))
    mailbox = bus.subscribe(">")
    harness.start()
    assert bus.publish("a", 9) == Dropped("too small", "Drop")
    assert bus.publish("a", 8) == Dropped("too small", "Drop")
    assert bus.publish("a", 13) == Dropped("unlucky", "Drop")
    assert bus.publish("a", 10) == Receipt(1)
    assert bus.stats()["dropped"] == {"Drop": {"too small": 2, "unlucky": 1}}
    assert mailbox.stats()["accepted"] == 1


def test_around_a_handler_a_dropped_message_is_counted_as_the_subscription_s(harness: Harness) -> None:
    """The other subscriptions get the message, and the publisher gets its receipt."""
    handled: list[Any] = []
    every: list[Any] = []
    subscription = harness.bus.subscribe("a", lambda message: handled.append(message.body), filters=[Drop(small, "too small")])
    harness.bus.subscribe("a", lambda message: every.append(message.body))
    bus = harness.start()
    for body in (9, 10, 8):
        assert bus.publish("a", body) == Receipt(2)
    harness.drain()
    assert (handled, every) == ([10], [9, 10, 8])
    stats = subscription.stats()
    assert (stats["accepted"], stats["dropped"], stats["acknowledged"]) == (3, {"too small": 2}, 1)
    assert (stats["dead"], bus.stats()["dropped"]) == (0, {})


def test_for_a_reader_a_dropped_message_is_passed_over(harness: Harness) -> None:
    """`receive` skips a dropped message and returns the next one."""
    subscription = harness.bus.subscribe("a", filters=[Drop(small)])
    bus = harness.start()
    bus.publish("a", 9)
    bus.publish("a", 10)
    assert subscription.receive(timeout=10).body == 10
    assert subscription.stats()["dropped"] == {"not wanted": 1}


def test_who_asks_with_a_dropped_message_is_told_at_once(harness: Harness) -> None:
    """A request that is dropped gets no answer, so it raises at once."""
    harness.bus.use(Drop(small))
    harness.bus.subscribe("a", lambda message: message.body)
    bus = harness.start()
    assert bus.request("a", 10).body == 10
    with pytest.raises(RequestDropped):
        bus.request("a", 9)
    assert harness.elapsed == 0.0


def test_without_a_bus_it_can_be_called() -> None:
    """A test may call the filter without a bus."""
    kept = Message("a", 10)
    assert Drop(small).transform(kept) is kept
    assert Drop(small, "too small").transform(Message("a", 9)) == Dropped("too small")


async def asynchronous(message: Message) -> bool:
    return True


class AsyncObject:
    async def __call__(self, message: Message) -> bool:
        return True


@table(
    ("settings", "says"),
    [
        pytest.param({"when": 5}, "Drop.when=5: it is a plain function of the message", id="a number"),
        pytest.param({"when": "body.n"}, "Drop.when='body.n': it is a plain function of the message", id="a text"),
        pytest.param({"when": False}, "Drop.when=False: it is a plain function of the message", id="no"),
        pytest.param({"when": asynchronous}, "it is a plain function of the message", id="an async function"),
        pytest.param({"when": AsyncObject()}, "it is a plain function of the message", id="an async object"),
        pytest.param({"when": partial(asynchronous)}, "it is a plain function of the message", id="a part of an async one"),
        pytest.param({"reason": ""}, "Drop.reason='': it is a text that is not empty", id="an empty reason"),
        pytest.param({"reason": None}, "Drop.reason=None: it is a text that is not empty", id="no reason"),
        pytest.param({"reason": 5}, "Drop.reason=5: it is a text that is not empty", id="a reason that is a number"),
        pytest.param({"reason": b"x"}, "Drop.reason=b'x': it is a text that is not empty", id="a reason that is bytes"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], says: str) -> None:
    """The error names the setting and says what it must be."""
    with pytest.raises(PipelineError) as error:
        Drop(**settings)
    assert says in str(error.value)


@pytest.mark.parametrize("side", ["publish", "delivery"])
@pytest.mark.thorough
def test_it_keeps_every_law(side: Any) -> None:
    """Drop keeps the laws that every filter must keep, on messages of which it drops one."""
    messages = [Message("a", 9), Message("a", 10), Message("a", 11)]
    held = check_filter(Drop(small), messages, at=side)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}


def test_it_describes_itself(harness: Harness) -> None:
    """`describe` lists the filter with its settings."""
    harness.bus.use(Drop(small, "too small"))
    (node,) = harness.bus.describe()["publish"]
    assert (node["filter"], node["shape"]) == ("Drop", "transform")
    assert node["settings"] == {"when": f"{__name__}:small", "reason": "too small"}


# --- in a config file --------------------------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path, harness: Harness) -> Callable[[str], Bus]:
    """A bus whose only filter is a drop with these settings."""

    def loaded(settings: str) -> Bus:
        path = tmp_path / "bus.toml"
        path.write_text(f'version = 1\n[[pipelines]]\nfilters = [{{ use = "drop"{settings} }}]\n', encoding="utf-8")
        return Bus.from_config(path)

    return loaded


def test_a_file_writes_the_condition_as_an_expression(harness: Harness, load: Callable[[str], Bus]) -> None:
    """A message for which the expression holds is dropped under the file's reason and the filter's name in the file."""
    bus = harness.start(load(', name = "scales", when = { expr = "body.grams < `10`" }, reason = "too small"'))
    assert bus.publish("a", {"grams": 9}) == Dropped("too small", "scales")
    assert bus.publish("a", {"grams": 10}) == Receipt(0)
    assert bus.stats()["dropped"] == {"scales": {"too small": 1}}


def test_a_file_needs_to_say_nothing(harness: Harness, load: Callable[[str], Bus]) -> None:
    """A drop without settings in a file drops everything, as in code."""
    bus = harness.start(load(""))
    assert bus.publish("a") == Dropped("not wanted", "Drop")
    assert bus.stats()["dropped"] == {"Drop": {"not wanted": 1}}


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        pytest.param("body.grams", "body.grams is a number, not true or false", id="a number"),
        pytest.param("body.tons", "body.tons is null", id="a field that is missing"),
    ],
)
def test_an_expression_that_is_neither_true_nor_false_refuses(
    harness: Harness, load: Callable[[str], Bus], expression: str, says: str
) -> None:
    """An expression must be true or false, so that a typing mistake in a file neither drops everything nor lets all pass."""
    bus = harness.start(load(f', when = {{ expr = "{expression}" }}'))
    with pytest.raises(Rejected, match=says) as error:
        bus.publish("a", {"grams": 9})
    assert error.value.by == "Drop"
    assert bus.stats()["dropped"] == {}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param(', reason = ""', 'reason = "": it has to be a text that is not empty', id="an empty reason"),
        pytest.param(", reason = 5", "reason = 5: it has to be text", id="a reason that is a number"),
        pytest.param(', when = { expr = "body.n <" }', "not an expression", id="no expression"),
        pytest.param(", when = true", "when = true", id="a flag"),
        pytest.param(', because = "x"', "because", id="an unknown setting"),
    ],
)
def test_wrong_settings_of_a_file_are_told_with_their_line(load: Callable[[str], Bus], settings: str, says: str) -> None:
    """An error about a setting in a file names its line, as for every filter."""
    with pytest.raises(ConfigError) as error:
        load(settings)
    (problem,) = error.value.problems
    assert (problem.line, problem.where) == (3, 'pipelines[0].filters[0] "drop"')
    assert says in problem.text
