"""Log: one line for each message, no secrets, no forged lines, nothing on standard output."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

import pipebus
from pipebus import Dropped, Handled, Message, PipelineError, Receipt, Ref, when
from pipebus.filters import Log
from pipebus.testing import FilterRun, Harness, after, run_filter
from tables import table

SECRET = "hunter2"


class Login(BaseModel):
    user: str
    password: str


@dataclass
class LoginData:
    user: str
    password: str


class LoginStruct(msgspec.Struct):
    user: str
    password: str


LoginTuple = namedtuple("LoginTuple", "user password")


def lines(run: FilterRun) -> list[Any]:
    """The log lines of Log, without those of the bus."""
    return [line for line in run.logs if line["event"].startswith("message.")]


# --- what is logged ----------------------------------------------------------------------------------------------------


def test_a_message_that_passed_is_one_line(colour: Any) -> None:
    """The line has the subject, the id, the time and the number of mailboxes, but not the body and not the headers."""
    message = Message("orders.created", {"card": SECRET}, headers={"token": SECRET}, id="m-1")
    run = run_filter(Log(), message, next=after(1.5, Receipt(3)), colour=colour)
    assert run.outcome == Receipt(3)
    assert run.forwarded is message
    assert lines(run) == [
        {
            "event": "message.passed", "log_level": "info", "subject": "orders.created", "message_id": "m-1", "ms": 1500.0,
            "mailboxes": 3,
        }
    ]  # fmt: skip


def test_a_message_that_was_dropped_is_logged_with_who_and_why(colour: Any, at: Any) -> None:
    """If a filter further in drops the message, the log line says so on the way back."""
    run = run_filter(Log(), Message("orders.created"), next=Dropped("not today", "drop"), colour=colour, at=at)
    assert run.outcome == Dropped("not today", "drop")
    (line,) = lines(run)
    assert (line["event"], line["log_level"]) == ("message.dropped", "info")
    assert (line["by"], line["reason"]) == ("drop", "not today")


def test_an_error_is_logged_as_a_warning_and_goes_on(colour: Any, at: Any) -> None:
    """Log hides no error: the publisher gets the same one."""
    error = ValueError("broken")
    rest = after(0.25, error)
    run = run_filter(Log(level="debug"), Message("orders.created"), next=rest, colour=colour, at=at)
    assert run.error is error
    (line,) = lines(run)
    assert (line["event"], line["log_level"], line["error"]) == ("message.failed", "warning", "ValueError: broken")
    assert line["ms"] == 250.0


def test_an_error_whose_text_cannot_be_read_still_reaches_the_publisher(colour: Any) -> None:
    """A user's own `__str__` may fail; the line says so, and the error is the one that was raised."""

    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    error = Unreadable()
    run = run_filter(Log(), Message("a"), next=error, colour=colour)
    assert run.error is error
    (line,) = lines(run)
    assert line["event"] == "message.failed"
    assert "Unreadable" in line["error"]


def test_around_a_handler_there_are_no_mailboxes_to_count(colour: Any) -> None:
    """On the delivery side "passed" means handled, whatever the handler returned."""
    run = run_filter(Log(), Message("a"), next="done", colour=colour, at="delivery")
    assert run.outcome == Handled("done")
    (line,) = lines(run)
    assert line["event"] == "message.passed"
    assert "mailboxes" not in line


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_the_level_is_a_setting(colour: Any, level: str) -> None:
    """The level applies to passed and to dropped messages."""
    for rest in (None, Dropped("not today")):
        run = run_filter(Log(level=level), Message("a"), next=rest, colour=colour)
        assert [line["log_level"] for line in lines(run)] == [level]


def test_mail_for_an_object_is_logged_by_its_text(colour: Any) -> None:
    """A subject that is not a string is logged as its text."""
    run = run_filter(Log(), Message(Ref("billing")), colour=colour)
    assert run.outcome
    assert [line["subject"] for line in lines(run)] == ["Ref('billing')"]


# --- secrets -----------------------------------------------------------------------------------------------------------


def test_body_and_headers_are_logged_when_asked(colour: Any) -> None:
    """The body and the headers each have a setting of their own."""
    message = Message("a", {"id": 1}, headers={"tenant": "acme"})
    (body,) = lines(run_filter(Log(body=True), message, colour=colour))
    (headers,) = lines(run_filter(Log(headers=True), message, colour=colour))
    assert (body["body"], "headers" in body) == ({"id": 1}, False)
    assert (headers["headers"], "body" in headers) == ({"tenant": "acme"}, False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"user": "ada", "password": SECRET}, id="mapping"),
        pytest.param({"logins": [{"deep": {"PassWord": SECRET}}]}, id="deep, another case"),
        pytest.param({"password": {"all": [SECRET]}}, id="whatever the field holds"),
        pytest.param(({"password": SECRET},), id="tuple"),
        pytest.param(Login(user="ada", password=SECRET), id="model"),
        pytest.param([Login(user="ada", password=SECRET)], id="list of models"),
        pytest.param(LoginData("ada", SECRET), id="dataclass"),
        pytest.param({"login": LoginData("ada", SECRET)}, id="dataclass in a mapping"),
        pytest.param(LoginStruct("ada", SECRET), id="msgspec struct"),
        pytest.param(LoginTuple("ada", SECRET), id="named tuple"),
    ],
)
def test_redacted_fields_are_not_shown(colour: Any, body: Any) -> None:
    """Redacted fields are hidden at any depth and in any kind of object, and the message itself stays whole."""
    run = run_filter(Log(body=True, redact=["password"]), Message("a", body), colour=colour)
    (line,) = lines(run)
    assert SECRET not in repr(line)
    assert "[redacted]" in repr(line)
    (message,) = run.forwards
    assert message.body is body


def test_redacted_headers_are_not_shown(colour: Any) -> None:
    """Redacted header names match in any case."""
    message = Message("a", None, headers={"Authorization": SECRET, "tenant": "acme"})
    (line,) = lines(run_filter(Log(headers=True, redact=["authorization"]), message, colour=colour))
    assert line["headers"] == {"Authorization": "[redacted]", "tenant": "acme"}


# --- forged lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param("\n", id="LF"),
        pytest.param("\r\n", id="CR LF"),
        pytest.param("\r", id="CR"),
        pytest.param("\x0b", id="vertical tab"),
        pytest.param("\x85", id="next line"),
        pytest.param("\u2028", id="line separator"),
        pytest.param("\x1b[2K", id="terminal escape"),
    ],
)
def test_nobody_writes_a_log_line_of_their_own(colour: Any, sign: str) -> None:
    """Line breaks and terminal escapes are escaped in bodies, reasons and errors, so that a sender cannot forge a log line."""
    forged = f"fine{sign}2024-01-01 [info] all is well"

    def line(log: Log, body: Any = None, rest: Any = None) -> Any:
        run = run_filter(log, Message("a", body), next=rest, colour=colour)
        assert run.error is (rest if isinstance(rest, ValueError) else None)
        (line,) = lines(run)
        return line

    shown = [
        line(Log(body=True), forged)["body"],
        line(Log(body=True), {"text": [forged]})["body"]["text"][0],
        line(Log(), rest=Dropped(forged))["reason"],
        line(Log(), rest=ValueError(forged))["error"],
    ]
    assert [len(text.splitlines()) for text in shown] == [1, 1, 1, 1]
    assert all(text.isprintable() and "fine" in text for text in shown)


# --- settings ----------------------------------------------------------------------------------------------------------


@table(
    ("settings", "text"),
    [
        pytest.param({"level": "loud"}, "Log.level='loud'", id="unknown level"),
        pytest.param({"level": "INFO"}, "Log.level='INFO'", id="level in capitals"),
        pytest.param({"redact": "password"}, r"as in \['password'\]", id="a text instead of a list"),
        pytest.param({"redact": ["cards[].number"]}, "is not a name", id="a path"),
        pytest.param({"redact": [5]}, "is a list of names", id="a number"),
        pytest.param({"redact": 5}, "is a list of names", id="a number instead of a list"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what is allowed."""
    with pytest.raises(PipelineError, match=text):
        Log(**settings)


# --- where lines go ----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pipebus import Bus
from pipebus.filters import Log
{setup}
def bad(message): raise ValueError("no")
bus = Bus()
bus.use(Log(body=True))
bus.subscribe("a", bad)
with bus:
    bus.publish("a", "hello")
    bus.drain(timeout=10)
"""


def program(setup: str) -> subprocess.CompletedProcess[str]:
    source = Path(pipebus.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)], env={"PYTHONPATH": str(source)}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip


def test_a_program_that_configures_no_logging_sees_lines_on_standard_error() -> None:
    """Standard output belongs to the program; the lines of its `Log` filter and of lost messages go to standard error."""
    done = program("")
    assert done.stdout == ""
    assert "message.passed" in done.stderr
    assert "delivery.died" in done.stderr


@pytest.mark.thorough
def test_a_program_that_configures_the_standard_library_gets_lines_there() -> None:
    """Without structlog's configuration, lines go to the logger `pipebus`."""
    done = program("import logging; logging.basicConfig(level=logging.INFO, stream=sys.stderr)")
    assert done.stdout == ""
    assert "INFO:pipebus:event='message.passed'" in done.stderr
    assert "body='hello'" in done.stderr


@pytest.mark.thorough
def test_a_program_that_configures_structlog_gets_its_own_format() -> None:
    """The library never configures structlog, it uses what is there."""
    done = program(
        "import structlog; structlog.configure(processors=[structlog.processors.JSONRenderer()],"
        " logger_factory=structlog.PrintLoggerFactory(sys.stderr))"
    )
    assert done.stdout == ""
    assert '"event": "message.passed"' in done.stderr


def test_the_standard_library_s_level_is_respected(caplog: pytest.LogCaptureFixture, harness: Harness) -> None:
    """A program that listens at WARNING does not see messages that pass."""
    caplog.set_level(logging.WARNING, logger="pipebus")
    harness.bus.use(when("quiet", Log()), when("loud", Log(level="warning")))
    bus = harness.start()
    bus.publish("quiet")
    bus.publish("loud", id="m-2")
    (record,) = (record for record in caplog.records if record.name == "pipebus")
    assert "m-2" in record.getMessage()
