"""What one filter or one handler did with one message."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.testing.harness.tape import Moment, tell
from pipebus.testing.harness.words import cut, gives


@dataclass(eq=False)
class Run:
    """
    What happened to one message.

    Args:
        title: What was run.
        message: The message that it got.
        elapsed: Virtual seconds from beginning to end.
        published: Messages that were published meanwhile.
        logs: What was logged through structlog or `logging`: a dictionary for each line, as from
            `structlog.testing.capture_logs`. Of `logging`, the levels that the loggers let through.
        moments: Everything that happened, in order: time, who, what.
        given: The message in a few words, as it was at the beginning.
        unseen: The error, until the test has read it. The pytest plugin fails a test that never does.
    """

    title: str
    message: Message[Any]
    elapsed: float = 0.0
    published: list[Message[Any]] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    given: str = ""
    unseen: BaseException | None = None
    _error: BaseException | None = None
    _traceback: TracebackType | None = None

    @property
    def error(self) -> BaseException | None:
        """What was raised, or None. (If a body does not validate as the handler's type, this is `Rejected`.)"""
        self.unseen = None
        return self._error

    @property
    def story(self) -> str:
        """What happened, step by step."""
        given = f", given {self.given}" if self.given else ""
        return f"{self.title}{given}\n{tell(self.moments)}"

    def _result(self, value: Any) -> Any:
        """The value; or raise the error in its place."""
        __tracebackhide__ = True
        error = self.error
        if error is not None:
            raise error.with_traceback(self._traceback)
        return value


@dataclass(eq=False)
class FilterRun(Run):
    """
    What a filter did with one message: a `Run`, and

    Args:
        forwards: The messages that it passed to the rest, one for each call of `call_next`.
        pauses: The `Pause`s that it asked for, in seconds.
        leaks: Names of context variables that it left changed.

    `published` is what it published on the bus of its context. For an actor that was not spawned elsewhere, it is what it
    published on `self.bus`.
    """

    forwards: list[Message[Any]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    leaks: tuple[str, ...] = ()
    _outcome: Any = None
    _tasks: list[Any] = field(default_factory=list)  # asyncio's, that it left running with nobody to hear of their ends

    @property
    def outcome(self) -> Any:
        """
        The outcome that the publisher (or the worker) would get: `Receipt`, `Handled` or `Dropped`.

        Raises:
            What the filter raised, if it did. (`error` returns it instead.)
        """
        __tracebackhide__ = True
        return self._result(self._outcome)

    @property
    def forwarded(self) -> Message[Any] | None:
        """The last message that it passed on; None: it passed on none."""
        return self.forwards[-1] if self.forwards else None

    @property
    def next_calls(self) -> int:
        """How often it ran the rest."""
        return len(self.forwards)

    @property
    def dropped(self) -> str | None:
        """The reason, if its outcome is `Dropped`."""
        return getattr(self._outcome, "reason", None)

    def __repr__(self) -> str:
        end = f"raised {cut(text_of(self._error))}" if self._error is not None else gives(self._outcome)
        return f"<{self.title}: {end}; next_calls={self.next_calls}, {self.elapsed:g} s>"
