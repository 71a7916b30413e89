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
    What became of one message.

    Args:
        title: What was run.
        message: What it was given.
        elapsed: Virtual seconds from beginning to end.
        published: Messages that were published by the way.
        logs: What was written through structlog: one dictionary a line, as `structlog.testing.capture_logs` has them.
        moments: All of it in order: time, who, what.
        given: The message in a few words, as it came.
        unseen: The error, until the test has looked at it: with the pytest plugin it fails the test that never does.
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
        """What was raised, or None. (A body that a handler's type refuses is `Rejected`.)"""
        self.unseen = None
        return self._error

    @property
    def story(self) -> str:
        """What happened, step by step."""
        return f"{self.title}, given {self.given}\n{tell(self.moments)}"
