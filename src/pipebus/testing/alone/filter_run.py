"""What one filter did with one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.testing.alone.run import Run
from pipebus.testing.harness.words import cut, gives


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

    @property
    def outcome(self) -> Any:
        """
        The outcome that the publisher (or the worker) would get: `Receipt`, `Handled` or `Dropped`.

        Raises:
            What the filter raised, if it did. (`error` returns it instead.)
        """
        __tracebackhide__ = True
        error = self.error
        if error is not None:
            raise error.with_traceback(self._traceback)
        return self._outcome

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
