"""SetHeaders: give every message of a chain the same headers."""

from __future__ import annotations

from typing import Any

import pytest

from pipebus import HeaderError, Message, PipebusError, PipelineError, Receipt, Rejected
from pipebus.filters import SetHeaders
from pipebus.testing import run_filter
from tables import table


def test_headers_are_added_and_put_in_place(colour: Any) -> None:
    """Headers that the filter does not name stay, and the message that was sent does not change."""
    sent = Message("a", "body", headers={"tenant": "?", "other": "stays"}, id="m")
    run = run_filter(SetHeaders({"tenant": "acme", "stage": "test"}), sent, colour=colour)
    assert run.outcome == Receipt(1)
    (message,) = run.forwards
    assert message.headers == {"tenant": "acme", "other": "stays", "stage": "test"}
    assert sent.headers == {"tenant": "?", "other": "stays"}
    assert (message.id, message.body) == ("m", "body")


def test_headers_that_are_there_win_when_told(colour: Any) -> None:
    """`overwrite=False` adds only headers that are missing."""
    fill = SetHeaders({"tenant": "acme", "stage": "test"}, overwrite=False)
    run = run_filter(fill, Message("a", None, headers={"tenant": "own"}), colour=colour)
    assert [message.headers for message in run.forwards] == [{"tenant": "own", "stage": "test"}]


def test_nothing_to_add_is_the_same_message(colour: Any) -> None:
    """If nothing changes, the filter passes the same message on, and makes no copy."""
    sent = Message("a", None, headers={"tenant": "own"})
    assert run_filter(SetHeaders({"tenant": "acme"}, overwrite=False), sent, colour=colour).forwarded is sent


def test_a_function_of_the_message_says_the_text(colour: Any) -> None:
    """One filter may set some headers from functions and others from fixed texts."""
    stamp = SetHeaders({"origin": lambda message: message.body["origin"], "stage": "test"})
    run = run_filter(stamp, Message("a", {"origin": "JFK"}), colour=colour)
    assert [message.headers for message in run.forwards] == [{"origin": "JFK", "stage": "test"}]


@pytest.mark.parametrize(("found", "text"), [(5, "5"), (1.5, "1.5"), (True, "true"), (False, "false"), (0, "0")])
def test_numbers_and_flags_are_written_as_texts(colour: Any, found: Any, text: str) -> None:
    """Numbers and truth values become texts as JSON writes them, which is also what Fields does."""
    run = run_filter(SetHeaders({"h": lambda message: found}), Message("a"), colour=colour)
    assert [dict(message.headers) for message in run.forwards] == [{"h": text}]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        pytest.param([5], 'header "h": it is a list, not text', id="no text"),
        pytest.param(None, 'header "h": there is no value', id="nothing"),
        pytest.param("two\nlines", "CR, LF", id="a line break"),
        pytest.param("\0", "NUL", id="NUL"),
    ],
)
def test_what_a_function_returns_is_checked(colour: Any, found: Any, problem: str) -> None:
    """A header is a text without line breaks, wherever it comes from; a message that would have another goes nowhere."""
    run = run_filter(SetHeaders({"h": lambda message: found}), Message("a"), colour=colour)
    with pytest.raises((HeaderError, Rejected), match=problem):
        assert run.outcome
    assert run.next_calls == 0


@table(
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
    """The filter checks the names of headers and fixed texts when it is made."""
    with pytest.raises(PipebusError, match=text):
        SetHeaders(headers)


async def asynchronous(message: Message) -> str:
    return "x"


def test_an_async_function_is_refused() -> None:
    """Nobody would await an async function, so it is refused before the first message."""
    with pytest.raises(PipelineError, match=r"SetHeaders\.headers"):
        SetHeaders({"h": asynchronous})
