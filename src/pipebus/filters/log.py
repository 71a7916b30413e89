"""Log: one line for each message, with its outcome."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pipebus.clock import SYSTEM, Clock
from pipebus.errors import PipelineError
from pipebus.filters.field_names import HIDDEN, FieldNames, Tables, fields_of, lower
from pipebus.foreign.logging import get_logger
from pipebus.foreign.objects import class_name, plain_text, said, shown, spared, text_of, visible
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import Around, Context, Steps


@dataclass(eq=False)
class Log(Around):
    """
    Log each message once, when the rest of the chain is done: `message.passed`, `message.dropped` or `message.failed`.

    Args:
        level: Level for passed and dropped messages: "debug", "info" or "warning". Failed messages are warnings.
        body: Also log the body. Off by default, because bodies can hold secrets.
        headers: Also log the headers.
        redact: Names of headers and body fields whose values are hidden: "email" at any depth, "author.email" in a table
            "author"; case does not matter.

    Keys:
        subject, message_id, correlation_id if there is one, and `ms` (milliseconds in the rest of the chain); `by` and `reason`
        of a drop, `error` of a failure; `mailboxes` on the publish side, `subscription` and `attempt` (from 1) on the other.
    """

    level: str = "info"
    body: bool = False
    headers: bool = False
    redact: Iterable[str] = ()

    def __post_init__(self) -> None:
        self.level = plain_text(self.level)
        if self.level not in ("debug", "info", "warning"):
            raise PipelineError(f'Log.level={self.level!r}: it is "debug", "info" or "warning"')
        self._hidden = FieldNames(self.redact, "Log.redact")
        self.redact = self._hidden.names
        when = "" if self.body or self.headers else "as soon as it shows bodies or headers, "
        self.follows = {"redacted": f"now {when}fields that it does not hide are logged before they are hidden"}
        if self.body:
            self.follows["size-limited"] = "now messages that are too large are logged in full"
        self._clock: Clock = SYSTEM
        self._attempt: Callable[[], int] = lambda: 1

    def start(self, context: Context) -> None:
        self._clock, self._attempt = context.clock, context.attempt

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return self.around if place == "publish" else functools.partial(self.around, subscription=place)

    def around(self, message: Message[Any], /, *, subscription: str = "") -> Steps:
        log = get_logger()
        facts: dict[str, Any] = {"subject": visible(said(message.subject)), "message_id": message.id}
        if message.correlation_id is not None:
            facts["correlation_id"] = message.correlation_id
        if subscription:
            facts |= {"subscription": subscription, "attempt": self._attempt()}
        if self.body:
            facts["body"] = self._readable(message.body)
        if self.headers:
            facts["headers"] = self._shown(message.headers, ("headers",))
        clock = self._clock
        begun = clock.monotonic()
        try:
            outcome = yield message
        except Exception as error:
            log.warning("message.failed", **facts, error=visible(text_of(error)), ms=_ms(clock.monotonic() - begun))
            raise
        facts["ms"] = _ms(clock.monotonic() - begun)
        write = getattr(log, self.level)
        if isinstance(outcome, Dropped):
            write("message.dropped", **facts, by=outcome.by, reason=visible(outcome.reason))
        elif (mailboxes := getattr(outcome, "mailboxes", None)) is not None:
            write("message.passed", **facts, mailboxes=mailboxes)
        else:
            write("message.passed", **facts)

    def _readable(self, body: Any) -> Any:
        """The body as it is logged; the name of its class if its methods fail, because logging must not refuse a message."""
        try:
            return self._shown(body, ("body",))
        except BaseException as error:
            spared(error)
            return f"<{class_name(body)}: cannot be shown: {class_name(error)}>"

    def _shown(self, value: Any, around: Tables) -> Any:
        """A copy of JSON-like data with the named values hidden. A model or dataclass becomes a table of its fields."""
        fields = fields_of(value)
        if fields is not None:
            return {
                key: HIDDEN if self._hidden.include(key, around) else self._shown(inner, (*around, lower(key)))
                for key, inner in fields.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._shown(inner, around) for inner in value]
        if isinstance(value, str):
            return visible(plain_text(value))
        return value if value is None or type(value) in (bool, int, float) else visible(shown(value))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
