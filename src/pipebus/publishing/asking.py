"""The requester's side of a request: the place where it waits, and what it gets."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pipebus.errors import NoResponder, RequestDropped, RequestFailed, RequestTimeout
from pipebus.foreign.objects import shown
from pipebus.mailbox.asked import Waiting
from pipebus.message.headers import ERROR_HEADER
from pipebus.message.message import Message
from pipebus.message.subject import Address
from pipebus.waiting.latch import Latch

W = TypeVar("W")


class Answer(Address, Latch):
    """The place where one request waits for its answer: a reply, or an error to raise."""

    __slots__ = ("_drops", "_expected", "asker", "subject")

    def __init__(self, subject: Any, asker: Any) -> None:
        super().__init__()
        self.subject = subject  # of the request
        self.asker = asker  # the mailbox whose handler waits here
        self._drops: list[tuple[str, str]] = []
        self._expected: int | None = None

    def dropped(self, reason: str, by: str) -> None:
        """Record that one of the mailboxes will not answer, because its delivery was dropped."""
        self._drops.append((reason, by))
        self._see()

    def expect(self, mailboxes: int) -> None:
        """Record how many mailboxes have the request."""
        self._expected = mailboxes
        if self._drops:
            self._see()

    def _see(self) -> None:
        if self._expected is not None and len(self._drops) >= self._expected:
            reasons, names = zip(*self._drops, strict=True)
            self.give(RequestDropped("; ".join(dict.fromkeys(reasons)), ", ".join(dict.fromkeys(names))))

    def __repr__(self) -> str:
        return "<Answer>"


class Asking(Generic[W]):
    """
    One request in progress, for a `with` block. (Not a `contextmanager`, which changes the errors that pass through it; they
    are the user's.)

    It notes who can answer before the request is published, so that in a circle of requests the last one finds it.

    Args:
        open: The open requests of the bus, by the addresses for their answers.
    """

    __slots__ = ("_open", "_subject", "_waiting", "address", "answer", "waiter")

    def __init__(
        self, open: dict[Any, Answer], subject: Any, address: Any, answer: Answer, waiter: W, waiting: Waiting | None
    ) -> None:  # fmt: skip
        self.address = address
        self.answer = answer
        self.waiter = waiter
        self._open = open
        self._subject = subject
        self._waiting = waiting

    def __enter__(self) -> Asking[W]:
        if self._waiting is not None:
            circle = self._waiting.__enter__()
            if circle is not None:
                self._waiting.__exit__()
                raise NoResponder(
                    f"a request on {shown(self._subject)} would be answered only after the handler that makes it has ended "
                    f"({' -> '.join(circle)}); publish instead"
                )
        self._open[self.address] = self.answer
        return self

    def __exit__(self, *_: object) -> None:
        self._open.pop(self.address, None)
        self.answer.close()
        if self._waiting is not None:
            self._waiting.__exit__()


def too_late(message: Message[Any], timeout: float) -> RequestTimeout:
    return RequestTimeout(f"no reply on {message.subject} in {timeout:g} s (a handler that returns None does not reply)")


def result(found: Any) -> Message[Any]:
    """Return the reply, or raise the error that was found in place of one."""
    if isinstance(found, Message):
        if ERROR_HEADER in found.headers:
            body = found.body if isinstance(found.body, dict) else {}
            facts = body.get("type", "Exception"), body.get("text", ""), body.get("who", "the handler")
            raise RequestFailed(*map(str, facts))
        return found
    raise found
