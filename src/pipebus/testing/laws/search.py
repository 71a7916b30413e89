"""Trying a law: on each message of a list, or on messages that hypothesis makes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from pipebus.errors import PipelineError
from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message
from pipebus.pipeline.compose import Side
from pipebus.testing.laws.case import CORRELATION, RESERVED, Case, Seen
from pipebus.testing.laws.laws import Law


class LawBroken(AssertionError):
    """
    A filter breaks a law.

    Args:
        law: The name of the law, as in `skip`.
        message: The smallest message found that breaks it.
    """

    def __init__(self, law: str, text: str, message: Message[Any] | None) -> None:
        super().__init__(text)
        self.law = law
        self.message = message


def try_all(
    law: Law, make: Callable[[], Any], messages: Any, at: Side, colours: tuple[str, ...], title: str, examples: int, seen: Seen
) -> None:
    """Try a law on all messages. Raise LawBroken with the smallest message that breaks it."""
    __tracebackhide__ = True

    def one(message: Message[Any]) -> None:
        __tracebackhide__ = True
        try_one(law, Case(make, prepared(message), at, colours, seen), title)

    given = messages if isinstance(messages, (list, tuple)) else _strategy(messages)
    if isinstance(given, (list, tuple)):
        for message in given:
            one(message if isinstance(message, Message) else Message("test", message))
    else:
        _search(one, given, examples)


def _strategy(messages: Any) -> Any:
    try:
        from pipebus.testing.laws import strategies
    except ImportError as error:
        raise PipelineError(
            "check_filter makes its messages with hypothesis, which is not installed; install pipebus[testing], "
            "or give messages=[Message(…), …]"
        ) from error
    return strategies.chosen(messages)


def _search(one: Callable[[Message[Any]], None], strategy: Any, examples: int) -> None:
    """Raise LawBroken with the smallest message that breaks the law."""
    __tracebackhide__ = True
    import hypothesis

    broken: list[LawBroken] = []
    phases = set(hypothesis.Phase) - {
        hypothesis.Phase.explain
    }  # it takes longer than everything else, and its result is not shown

    @hypothesis.settings(
        max_examples=examples, phases=phases, database=None, deadline=None, derandomize=True, report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    @hypothesis.given(strategy)
    def search(message: Message[Any]) -> None:
        try:
            one(message)
        except LawBroken as error:
            broken.append(error)
            raise

    with suppress(LawBroken):
        search()
    if broken:
        raise broken[-1].with_traceback(None)  # hypothesis runs the smallest one last


def try_one(law: Law, case: Case, title: str) -> None:
    __tracebackhide__ = True
    problem = next(law.holds(case), None)
    if problem is None:
        return
    lines = [f'check_filter({title}): law "{law.name}" is broken', f"  {problem}"]
    if not law.once:
        lines.append(f"  smallest message: {_shown(case.given)}")
        if case.shown is not None:
            lines += ["", *(f"  {line}" for line in case.shown.story.splitlines())]
    raise LawBroken(law.name, "\n".join(lines), None if law.once else case.given)


def prepared(message: Message[Any]) -> Message[Any]:
    """The message, with the id, correlation and header that a filter must keep."""
    headers = frozen_headers({**message.headers, **RESERVED})
    return msgspec.structs.replace(
        message, id=message.id, headers=headers, correlation_id=message.correlation_id or CORRELATION
    )


def _shown(message: Message[Any]) -> str:
    """The message as text, without what `prepared` has added."""
    headers = {name: value for name, value in message.headers.items() if name not in RESERVED}
    text = f"Message({str(message.subject)!r}, {message.body!r}"
    if headers:
        text += f", headers={headers!r}"
    for name in ("key", "ttl", "correlation_id"):
        value = getattr(message, name)
        if value is not None and value != CORRELATION:
            text += f", {name}={value!r}"
    return f"{text})"
