"""
Everything pipebus raises, as one small tree.

    PipebusError
    ├── SubjectError (ValueError)           a subject or pattern breaks the grammar
    ├── HeaderError (ValueError)            a header's name or value breaks the grammar
    ├── MessageError (TypeError)            a field of a message has an impossible value
    ├── PipelineError                       a chain that cannot be built, or cannot run where it was called
    │   └── ContractError                   a filter broke its contract while it ran
    │       └── SubjectChanged              a filter that is not a rerouter changed the subject
    ├── SubscriptionError                   a handler, name or option that cannot be subscribed
    ├── ConfigError                         a config file that cannot be loaded, or a bus that cannot be written as one
    ├── Rejected                            a filter or a handler's type refused a message permanently
    ├── MailboxFull                         one or more mailboxes had no room
    ├── LifecycleError
    │   ├── BusNotStarted                   used before start
    │   └── BusClosed                       used while stopping or after stop
    ├── DrainTimeout (TimeoutError)         drain ran out of time
    ├── ReceiveTimeout (TimeoutError)       nothing arrived in time
    ├── NoSubscriber                        nobody listens, and the publish or the bus is strict
    ├── RequestError                        a request got no reply
    │   ├── RequestFailed                   its handler failed
    │   ├── RequestDropped                  a filter or a rule dropped it
    │   ├── NoResponder                     nobody listens
    │   └── RequestTimeout (TimeoutError)   nothing came in time
    ├── AlreadySettled                      a delivery was settled twice
    ├── AttemptsExhausted                   a delivery was returned as often as its subscription allows
    ├── TooManyHops                         handlers have passed a conversation on too often, in a loop
    ├── DeadLetterError                     no such dead letter, or it cannot be replayed now
    ├── UnsupportedCapability               the transport cannot do what was asked
    ├── MessageTooLarge                     above the bus's limit; nothing was written
    ├── TransportError                      the store or server failed or refused, so the operation did not happen
    ├── PublishUnknown                      sent, but it is not known whether it was stored
    └── CodecError (ValueError)             bytes that are not a message, or a message that cannot be encoded
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipebus.foreign.objects import is_a, plain_text, said, shown, text_of


class PipebusError(Exception):
    """The root: `except PipebusError` catches every error that pipebus itself raises."""


class SubjectError(PipebusError, ValueError):
    """A subject or pattern breaks the grammar."""


class HeaderError(PipebusError, ValueError):
    """A header's name or value breaks the grammar, or the name is reserved."""


class MessageError(PipebusError, TypeError):
    """A field of a message has an impossible value."""


class PipelineError(PipebusError):
    """A chain that cannot be built, or cannot run where it was called; the text names the filter."""


class ContractError(PipelineError):
    """
    A filter broke its contract while it ran.

    Args:
        text: What it did, and what to do instead. The chain fills in `by`, the name of the filter.
    """

    def __init__(self, text: str) -> None:
        self.by: str | None = None
        super().__init__(text)

    def __str__(self) -> str:
        return f"filter {self.by or '(unknown)'} {self.args[0]}"


class SubjectChanged(ContractError):
    """A filter that is not a rerouter changed the subject. The filter that received the old subject is to blame."""

    def __init__(self, was: object, found: object) -> None:
        self.was, self.found = was, found
        super().__init__(
            f"changed the subject from {shown(was)} to {shown(found)}; "
            "only a publish filter with `reroutes = True`, such as Reroute, may do that"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (SubjectChanged, (self.was, self.found), {"by": self.by})


class SubscriptionError(PipebusError):
    """A handler, name or option that cannot be subscribed."""


class ConfigProblem(NamedTuple):
    """
    One thing wrong with a config file.

    Args:
        file: The path as the caller wrote it.
        line: Counted from 1; None: the problem concerns the file as a whole.
        where: The table, as in `pipelines[0].filters[2] "retry"`; "" at the top level.
        text: What was found, and what to do.
    """

    file: str
    line: int | None
    where: str
    text: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.where}: {self.text}" if self.where else f"{place}: {self.text}"


class ConfigError(PipebusError):
    """
    A config file that cannot be loaded, with everything that is wrong with it; or a bus that cannot be written as a file.

    Args:
        problems: In the order of their lines.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if len(lines) == 1:
            return lines[0]
        what = "loaded" if any(problem.line is not None for problem in self.problems) else "written"
        return "\n".join([f"{self.problems[0].file}: {len(lines)} problems; nothing was {what}", *lines])


class Rejected(PipebusError):
    """
    A message was refused permanently: a retry would be refused too.

    Args:
        reasons: Each a sentence for a person, as in `Rejected("too large")`.
        by: Name of the filter or handler that refused; the chain fills it in.

    Raises:
        MessageError: a reason is not a text.
    """

    def __init__(self, *reasons: str, by: str | None = None) -> None:
        self.by: str | None = plain_text(by)
        self.reasons: tuple[str, ...] = tuple(map(plain_text, reasons))
        for reason in self.reasons:
            if type(reason) is not str:
                raise MessageError(
                    f'Rejected: a reason is a text, found {shown(reason)}; write Rejected("too large"), or str() of an error'
                )
        super().__init__(*self.reasons)

    def __str__(self) -> str:
        return f"rejected by {self.by or 'a filter'}: {'; '.join(self.reasons) or 'no reason given'}"


class MailboxFull(PipebusError):
    """
    One or more mailboxes had no room in time.

    Args:
        accepted: Names of the subscriptions that accepted the message.
        refused: Names of those that did not.
        hint: What to do about it.
    """

    def __init__(self, accepted: Sequence[str] = (), refused: Sequence[str] = (), hint: str = "") -> None:
        self.accepted = tuple(accepted)
        self.refused = tuple(refused)
        self.hint = hint
        super().__init__(self.accepted, self.refused, hint)

    def __str__(self) -> str:
        text = f"no room in the mailbox of {', '.join(self.refused)}"
        if self.accepted:
            text += f" (accepted by {', '.join(self.accepted)})"
        return f"{text}; {self.hint}" if self.hint else text


class LifecycleError(PipebusError):
    """The state of the bus does not allow the call."""


class BusNotStarted(LifecycleError):
    """The bus was used before `start`."""


class BusClosed(LifecycleError):
    """The bus (or the subscription) is stopping or stopped."""


class DrainTimeout(PipebusError, TimeoutError):
    """
    `drain` ran out of time.

    Args:
        pending: How many messages still wait, by subscription name.
    """

    def __init__(self, text: str, pending: dict[str, int] | None = None) -> None:
        self.pending = pending or {}
        super().__init__(text, self.pending)

    def __str__(self) -> str:
        return str(self.args[0])


class ReceiveTimeout(PipebusError, TimeoutError):
    """Nothing arrived in time."""


class NoSubscriber(PipebusError):
    """Nobody listens to a message that was published with `strict=True`, or on a strict bus."""


class RequestError(PipebusError):
    """A request got no reply."""


class RequestFailed(RequestError):
    """
    The handler of a request failed, or a filter around it or on the way of its reply.

    Args:
        type: Name of the exception's class.
        text: The exception's text.
        who: "the handler", or "filter" and the name of a filter.
    """

    def __init__(self, type: str, text: str, who: str = "the handler") -> None:
        self.type, self.text, self.who = type, text, who
        super().__init__(type, text, who)

    def __str__(self) -> str:
        return f"{self.who} failed with {self.type}: {self.text}" if self.text else f"{self.who} failed with {self.type}"


class RequestDropped(RequestError):
    """
    A request was dropped on purpose, or had expired, so no handler will answer it.

    Args:
        reason: Why.
        by: Name of the filter or subscription that dropped it.
    """

    def __init__(self, reason: str, by: str) -> None:
        self.reason, self.by = reason, by
        super().__init__(reason, by)

    def __str__(self) -> str:
        return f"the request was dropped by {self.by}: {self.reason}"


class NoResponder(RequestError):
    """No handler can answer a request: nobody listens, or its handler would wait for itself."""


class RequestTimeout(RequestError, TimeoutError):
    """No reply came in time."""


class AlreadySettled(PipebusError):
    """A delivery was already acknowledged, retried or rejected; the first settlement counts."""


class AttemptsExhausted(PipebusError):
    """A delivery was returned as often as its subscription allows; this is the reason of its dead letter."""


class TooManyHops(PipebusError):
    """Handlers have passed a conversation on more often than `max_hops` allows; this is the reason of the dead letter."""


class DeadLetterError(PipebusError):
    """There is no such dead letter, or it cannot be replayed now, in which case it stays."""


class UnsupportedCapability(PipebusError):
    """The transport cannot do what the call needs."""


class MessageTooLarge(PipebusError):
    """The encoded message exceeds the limit; nothing was written."""


class TransportError(PipebusError):
    """The store or server behind a transport failed or refused, so the operation did not happen. The text says what helps."""


class PublishUnknown(PipebusError):
    """
    The message was sent, but no answer came in time, so it may or may not be stored. Publish it again with the same id.

    Args:
        id: The message's id.
    """

    def __init__(self, text: str, id: str) -> None:
        self.id = id
        super().__init__(text, id)

    def __str__(self) -> str:
        return str(self.args[0])


class CodecError(PipebusError, ValueError):
    """Bytes that are not a message, or a message that cannot be written as bytes."""


def reason_of(error: BaseException) -> str:
    """The text of an error. An error of pipebus is written for people; any other gets its type in front."""
    return said(error) if is_a(error, PipebusError) else text_of(error)
