"""SetHeaders: headers that every message of a chain carries."""

from __future__ import annotations

from typing import Any

import pytest

from pipebus import HeaderError, Message, PipebusError, PipelineError
from pipebus.filters import SetHeaders


def test_headers_are_added_and_put_in_place(through: Any) -> None:
    """What is there and not named stays; the message that was sent does not change."""
    sent = Message("a", "body", headers={"tenant": "?", "other": "stays"}, id="m")
    message = through(SetHeaders({"tenant": "acme", "stage": "test"}), sent).message
    assert message.headers == {"tenant": "acme", "other": "stays", "stage": "test"}
    assert sent.headers == {"tenant": "?", "other": "stays"}
    assert (message.id, message.body) == ("m", "body")


def test_headers_that_are_there_win_when_told(through: Any) -> None:
    """`overwrite=False` fills gaps only."""
    message = through(
        SetHeaders({"tenant": "acme", "stage": "test"}, overwrite=False), Message("a", None, headers={"tenant": "own"})
    ).message
    assert message.headers == {"tenant": "own", "stage": "test"}


def test_nothing_to_add_is_the_same_message(through: Any) -> None:
    """No copy is made where nothing changes."""
    sent = Message("a", None, headers={"tenant": "own"})
    assert through(SetHeaders({"tenant": "acme"}, overwrite=False), sent).message is sent


def test_a_function_of_the_message_says_the_text(through: Any) -> None:
    """Beside fixed texts."""
    stamp = SetHeaders({"origin": lambda message: message.body["origin"], "stage": "test"})
    assert through(stamp, Message("a", {"origin": "JFK"})).message.headers == {"origin": "JFK", "stage": "test"}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        pytest.param(5, "int", id="no text"),
        pytest.param(None, "NoneType", id="nothing"),
        pytest.param("two\nlines", "CR, LF", id="a line break"),
        pytest.param("\0", "NUL", id="NUL"),
    ],
)
def test_what_a_function_returns_is_checked(through: Any, found: Any, problem: str) -> None:
    """A header is a text without line breaks, wherever it comes from."""
    with pytest.raises(HeaderError, match=problem):
        through(SetHeaders({"h": lambda message: found}), Message("a"))


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        pytest.param({}, "SetHeaders.headers", id="nothing to set"),
        pytest.param("tenant", "SetHeaders.headers", id="a text"),
        pytest.param([("a", "b")], "SetHeaders.headers", id="a list"),
        pytest.param({"tenant": 5}, "tenant", id="no text"),
        pytest.param({"tenant": "a\r\nb"}, "tenant", id="a line break"),
        pytest.param({"two words": "x"}, "two words", id="a space in the name"),
        pytest.param({"": "x"}, "name", id="no name"),
        pytest.param({5: "x"}, "5", id="a name that is no text"),
        pytest.param({"pipebus-secret": "x"}, "reserved", id="a reserved name"),
        pytest.param({"Nats-Msg-Id": lambda message: "x"}, "reserved", id="a reserved name with a function"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(headers: Any, text: str) -> None:
    """Names always, and fixed texts, when the filter is made."""
    with pytest.raises(PipebusError, match=text):
        SetHeaders(headers)


async def asynchronous(message: Message) -> str:
    return "x"


def test_an_async_function_is_refused() -> None:
    """It could not be awaited; the error comes before the first message."""
    with pytest.raises(PipelineError, match=r"SetHeaders\.headers"):
        SetHeaders({"h": asynchronous})
