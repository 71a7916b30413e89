"""
Everything pipebus raises, as one small tree.

    PipebusError
    ├── SubjectError (ValueError)           a subject or pattern breaks the grammar
    ├── HeaderError (ValueError)            a header's name or value breaks the grammar
    ├── MessageError (TypeError)            an envelope field has an impossible value
    ├── PipelineError                       a chain that cannot be built, or cannot run where it was called
    │   └── ContractError                   a filter broke its contract while it ran
    │       └── SubjectChanged              one that is no rerouter changed the subject
    ├── SubscriptionError                   a handler, name or option that cannot be subscribed
    ├── ConfigError                         a config file that cannot be loaded, or a bus that no file can hold
    ├── Rejected                            a filter or a handler's type refused a message, for good
    ├── MailboxFull                         one or more mailboxes had no room
    ├── LifecycleError
    │   ├── BusNotStarted                   used before start
    │   └── BusClosed                       used while stopping or after stop
    ├── DrainTimeout (TimeoutError)         drain ran out of time
    ├── ReceiveTimeout (TimeoutError)       nothing arrived in time
    ├── RequestError                        a request got no reply
    │   ├── RequestFailed                   its handler failed
    │   ├── NoResponder                     nobody listens, or it was dropped
    │   └── RequestTimeout (TimeoutError)   nothing came in time
    ├── AlreadySettled                      a delivery was settled twice
    ├── AttemptsExhausted                   a delivery was returned as often as its subscription allows
    ├── DeadLetterError                     no such dead letter, or it cannot be replayed now
    ├── UnsupportedCapability               the transport cannot do what was asked
    ├── MessageTooLarge                     over the bus's limit, before a byte was written
    ├── TransportError                      the store or server failed, or refused; what was asked for was not done
    ├── PublishUnknown                      sent, but whether it was stored is not known
    └── CodecError (ValueError)             bytes that are no message, or a message that has no bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipebus.foreign.objects import is_a, plain_text, said, shown, text_of


class PipebusError(Exception):
    """The root: `except PipebusError` catches whatever pipebus itself raises."""


class SubjectError(PipebusError, ValueError):
    """A subject or pattern breaks the grammar."""


class HeaderError(PipebusError, ValueError):
    """A header's name or value breaks the grammar, or the name is reserved."""


class MessageError(PipebusError, TypeError):
    """An envelope field has an impossible value."""


class PipelineError(PipebusError):
    """A chain that cannot be built, or cannot run where it was called; the text names the filter."""


class ContractError(PipelineError):
    """
    A filter broke its contract while it ran.

    Args:
        text: What it did, and what to do instead; `by`, its name, is filled in on the way out.
    """

    def __init__(self, text: str) -> None:
        self.by: str | None = None
        super().__init__(text)

    def __str__(self) -> str:
        return f"filter {self.by or '(unknown)'} {self.args[0]}"


class SubjectChanged(ContractError):
    """A filter that is no rerouter changed the subject. The one to blame saw the old one come in."""

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
        file: As it was given.
        line: Counted from 1; None: of the file as a whole.
        where: The table, as in `pipelines[0].filters[2] "retry"`; "" at the top.
        text: What was found, and the next move.
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
    A config file that cannot be loaded: all that is wrong with it. Or a bus that no file can hold.

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
    A message was refused, for good: a retry would be refused again.

    Args:
        by: Name of the filter or handler that refused; the chain fills it in when it is None.
        errors: Every reason, each a sentence for a person.
    """

    def __init__(self, by: str | None = None, errors: Sequence[str] | str = ()) -> None:
        self.by: str | None = plain_text(by)
        self.errors: tuple[str, ...] = tuple(map(plain_text, (errors,) if isinstance(errors, str) else errors))
        super().__init__(self.by, self.errors)

    def __str__(self) -> str:
        return f"rejected by {self.by or 'a filter'}: {'; '.join(self.errors) or 'no reason given'}"


class MailboxFull(PipebusError):
    """
    One or more mailboxes had no room in time.

    Args:
        accepted: Names of the subscriptions that took the message.
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
    """The bus is not in a state that allows the call."""


class BusNotStarted(LifecycleError):
    """The bus was used before `start`."""


class BusClosed(LifecycleError):
    """The bus (or the subscription) is stopping or stopped."""


class DrainTimeout(PipebusError, TimeoutError):
    """
    `drain` ran out of time.

    Args:
        pending: Messages that still wait, by subscription name.
    """

    def __init__(self, text: str, pending: dict[str, int] | None = None) -> None:
        self.pending = pending or {}
        super().__init__(text, self.pending)

    def __str__(self) -> str:
        return str(self.args[0])


class ReceiveTimeout(PipebusError, TimeoutError):
    """Nothing arrived in time."""


class RequestError(PipebusError):
    """A request got no reply."""


class RequestFailed(RequestError):
    """
    The handler that a request was for has failed.

    Args:
        type: Name of its exception's class.
        text: Its exception's text.
    """

    def __init__(self, type: str, text: str) -> None:
        self.type, self.text = type, text
        super().__init__(type, text)

    def __str__(self) -> str:
        return f"the handler failed with {self.type}: {self.text}" if self.text else f"the handler failed with {self.type}"


class NoResponder(RequestError):
    """Nobody can answer a request: nobody listens, it was dropped, or its handler would wait for itself."""


class RequestTimeout(RequestError, TimeoutError):
    """No reply came in time."""


class AlreadySettled(PipebusError):
    """A delivery was acknowledged, retried or rejected before: the first settlement stands."""


class AttemptsExhausted(PipebusError):
    """A delivery was returned as often as its subscription allows; the reason of its dead letter."""


class DeadLetterError(PipebusError):
    """No such dead letter, or it cannot be replayed now (it stays dead)."""


class UnsupportedCapability(PipebusError):
    """The transport cannot do what was asked of it."""


class MessageTooLarge(PipebusError):
    """The encoded message is over the limit; nothing was written."""


class TransportError(PipebusError):
    """The store or server behind a transport failed, or refused: what was asked for was not done. The text says what helps."""


class PublishUnknown(PipebusError):
    """
    Sent, but no answer came in time: the message may or may not be stored. Publish it again with the same id.

    Args:
        id: The message's id.
    """

    def __init__(self, text: str, id: str) -> None:
        self.id = id
        super().__init__(text, id)

    def __str__(self) -> str:
        return str(self.args[0])


class CodecError(PipebusError, ValueError):
    """Bytes that are no message, or a message that cannot be written as bytes."""


def reason_of(error: BaseException) -> str:
    """The text of an error of ours, which is written for people; of any other its type too."""
    return said(error) if is_a(error, PipebusError) else text_of(error)
