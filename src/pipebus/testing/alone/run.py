"""
What a run of one filter and a run of one handler have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pipebus.message.message import Message
from pipebus.testing.harness.tape import Moment, tell


@dataclass(eq=False)
class Run:
    """
    What happened to one message.

    Args:
        title: What was run.
        message: The message that it got.
        elapsed: Virtual seconds from beginning to end.
        published: Messages that were published meanwhile.
        logs: What was logged through structlog: a dictionary for each line, as from `structlog.testing.capture_logs`.
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
        return f"{self.title}, given {self.given}\n{tell(self.moments)}"
