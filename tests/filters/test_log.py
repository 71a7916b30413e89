"""Log: one line for each message, no secrets, no forged lines, nothing on standard output."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

import pipebus
from pipebus import Bus, Dropped, Message, PipelineError, Ref, transform
from pipebus.filters import Log

SECRET = "hunter2"
Logs = Callable[[], list[Any]]


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


@transform
def drop(message: Message) -> Dropped:
    return Dropped("not today")


@transform
def fail(message: Message) -> Message:
    raise ValueError("broken")


# --- what is logged ----------------------------------------------------------------------------------------------------


def test_a_message_that_passed_is_one_line(through: Any, logs: Logs) -> None:
    """Subject, id, how long the rest took, and how many mailboxes have it; not the body, not the headers."""
    message = Message("orders.created", {"card": SECRET}, headers={"token": SECRET}, id="m-1")
    assert through(Log(), message).message is message
    (line,) = logs()
    milliseconds = line.pop("ms")
    assert isinstance(milliseconds, float)
    assert milliseconds >= 0
    assert line == {
        "event": "message.passed", "log_level": "info", "subject": "orders.created", "id": "m-1", "mailboxes": 1
    }  # fmt: skip


def test_a_message_that_was_dropped_is_logged_with_who_and_why(through: Any, logs: Logs) -> None:
    """A short-circuit further in is told on the way back."""
    passed = through(Log(), drop, Message("orders.created"))
    assert passed.outcome == Dropped("not today", "drop")
    (line,) = logs()
    assert (line["event"], line["log_level"]) == ("message.dropped", "info")
    assert (line["by"], line["reason"]) == ("drop", "not today")


def test_an_error_is_logged_as_a_warning_and_goes_on(through: Any, logs: Logs) -> None:
    """Log hides no error: the publisher gets the same one."""
    with pytest.raises(ValueError, match="broken"):
        through(Log(level="debug"), fail, Message("orders.created"))
    (line,) = logs()
    assert (line["event"], line["log_level"], line["error"]) == ("message.failed", "warning", "ValueError: broken")


def test_an_error_whose_text_cannot_be_read_still_reaches_the_publisher(through: Any, logs: Logs) -> None:
    """A user's own `__str__` may fail; the line says so, and the error is the one that was raised."""

    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @transform
    def raises(message: Message) -> Message:
        raise Unreadable

    with pytest.raises(Unreadable):
        through(Log(), raises, Message("a"))
    (line,) = logs()
    assert line["event"] == "message.failed"
    assert "Unreadable" in line["error"]


def test_around_a_handler_it_logs_what_became_of_the_delivery(logs: Logs) -> None:
    """On the delivery side "passed" means handled, and there are no mailboxes to count."""
    bus = Bus()

    def handle(message: Message) -> None:
        if message.body == "bad":
            raise ValueError("broken")

    bus.subscribe("a", handle, filters=[Log()])
    with bus:
        bus.publish("a", "good")
        bus.publish("a", "bad")
        bus.drain(timeout=10)
    lines = logs()
    assert [line["event"] for line in lines] == ["message.passed", "message.failed"]
    assert "mailboxes" not in lines[0]


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_the_level_is_a_setting(through: Any, logs: Logs, level: str) -> None:
    """For passed and dropped messages."""
    through(Log(level=level), Message("a"))
    through(Log(level=level), drop, Message("a"))
    assert [line["log_level"] for line in logs()] == [level, level]


def test_mail_for_an_object_is_logged_by_its_text(through: Any, logs: Logs) -> None:
    """A subject that is no string is written as one."""
    bus_wide = through(Log(), Message(Ref("billing")))
    assert bus_wide.outcome
    assert logs()[0]["subject"] == "Ref('billing')"


# --- secrets -----------------------------------------------------------------------------------------------------------


def test_body_and_headers_are_logged_when_asked(through: Any, logs: Logs) -> None:
    """Each by a setting of its own."""
    message = Message("a", {"id": 1}, headers={"tenant": "acme"})
    through(Log(body=True), message)
    through(Log(headers=True), message)
    assert (logs()[0]["body"], "headers" in logs()[0]) == ({"id": 1}, False)
    assert (logs()[1]["headers"], "body" in logs()[1]) == ({"tenant": "acme"}, False)


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
def test_redacted_fields_are_not_shown(through: Any, logs: Logs, body: Any) -> None:
    """At any depth, in whatever has fields; the message itself goes on whole."""
    passed = through(Log(body=True, redact=["password"]), Message("a", body))
    assert SECRET not in repr(logs())
    assert "[redacted]" in repr(logs())
    assert passed.message.body is body


def test_redacted_headers_are_not_shown(through: Any, logs: Logs) -> None:
    """Header names are redacted in any case, too."""
    through(
        Log(headers=True, redact=["authorization"]), Message("a", None, headers={"Authorization": SECRET, "tenant": "acme"})
    )
    assert logs()[0]["headers"] == {"Authorization": "[redacted]", "tenant": "acme"}


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
def test_nobody_writes_a_log_line_of_their_own(through: Any, logs: Logs, sign: str) -> None:
    """Line breaks and terminal escapes in what users send are escaped: in bodies, reasons and errors."""
    forged = f"fine{sign}2024-01-01 [info] all is well"

    @transform
    def drop_it(message: Message) -> Dropped:
        return Dropped(message.body)

    @transform
    def refuse_it(message: Message) -> Message:
        raise ValueError(message.body)

    through(Log(body=True), Message("a", forged))
    through(Log(body=True), Message("a", {"text": [forged]}))
    through(Log(), drop_it, Message("a", forged))
    with pytest.raises(ValueError, match="fine"):
        through(Log(), refuse_it, Message("a", forged))
    shown = [logs()[0]["body"], logs()[1]["body"]["text"][0], logs()[2]["reason"], logs()[3]["error"]]
    assert [len(text.splitlines()) for text in shown] == [1, 1, 1, 1]
    assert all(text.isprintable() for text in shown)


# --- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        pytest.param({"level": "loud"}, "Log.level='loud'", id="unknown level"),
        pytest.param({"level": "INFO"}, "Log.level='INFO'", id="level in capitals"),
        pytest.param({"redact": "password"}, r"redact=\['password'\]", id="a text instead of a list"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error says which setting, what was found and what would do."""
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


def run(setup: str) -> subprocess.CompletedProcess[str]:
    source = Path(pipebus.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)], env={"PYTHONPATH": str(source)}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip


def test_a_program_that_configures_no_logging_sees_nothing() -> None:
    """Standard output belongs to the program, and silence is the default: not even a dead letter is written there."""
    done = run("")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_program_that_configures_the_standard_library_gets_lines_there() -> None:
    """Without structlog's configuration, lines go to the logger `pipebus`."""
    done = run("import logging; logging.basicConfig(level=logging.INFO, stream=sys.stderr)")
    assert done.stdout == ""
    assert "INFO:pipebus:event='message.passed'" in done.stderr
    assert "body='hello'" in done.stderr


def test_a_program_that_configures_structlog_gets_its_own_format() -> None:
    """The library never configures structlog, it uses what is there."""
    done = run(
        "import structlog; structlog.configure(processors=[structlog.processors.JSONRenderer()],"
        " logger_factory=structlog.PrintLoggerFactory(sys.stderr))"
    )
    assert done.stdout == ""
    assert '"event": "message.passed"' in done.stderr


def test_the_standard_library_s_level_is_respected(caplog: pytest.LogCaptureFixture, through: Any) -> None:
    """Who listens at WARNING does not see passing messages."""
    caplog.set_level(logging.WARNING, logger="pipebus")
    through(Log(), Message("a"))
    through(Log(level="warning"), Message("a", id="m-2"))
    (record,) = (record for record in caplog.records if record.name == "pipebus")
    assert "m-2" in record.getMessage()
