"""Messages and what became of them, as JSON Lines."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError
from pipebus.cli.show import as_json

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus
    from pipebus.transports.sqlite.tail import Follower
    from pipebus.transports.sqlite.transport import SqliteTransport

TAIL = "(tail)"
"""The name of the subscription that prints."""


class Lines:
    """
    JSON Lines on stdout, from several threads.

    Args:
        lost: Called once, when nobody reads any more, or there is no room for more. `error` says which.
    """

    def __init__(self, lost: Callable[[], object]) -> None:
        self.error: OSError | None = None
        self._lost = lost
        self._stream = sys.stdout  # it may be redirected later, for what others print
        self._lock = threading.Lock()

    def print(self, value: Any) -> bool:
        """False if it was not printed."""
        with self._lock:
            if self.error is not None:
                return False
            try:
                self._stream.write(as_json(value, self._stream.encoding) + "\n")
                self._stream.flush()
            except OSError as error:
                self.error = error
        if self.error is not None:
            self._lost()
        return self.error is None


@contextmanager
def tailing(bus: "Bus", pattern: str | None, lines: Lines, count: int | None = None) -> Iterator[str]:
    """Print what a pattern's subscribers get; after `count` of them, request the stop. Gives the subscription's name, or ""."""
    from pipebus.errors import SubjectError
    from pipebus.message.message import Message

    printed = 0

    def show(message: Message[Any]) -> None:
        nonlocal printed
        if count is not None and printed >= count:
            return
        printed += lines.print(message_told(message))
        if printed == count:
            bus.request_stop(f"{count} printed")

    name = ""
    if pattern is not None:
        try:
            # One with a name would stay where others use the transport.
            name = bus.subscribe(pattern, show, name=TAIL if engine_of(bus).transport.local else None).name
        except SubjectError as error:
            raise CommandError(str(error)) from None
    yield name


def kept_told(
    store: "SqliteTransport", follower: "Follower", pattern: str, pause: Callable[[float], bool]
) -> Iterator[dict[str, Any]]:
    """The messages of a file, as JSON Lines have them; the answers to requests only for a pattern that names them."""
    from pipebus.errors import CodecError
    from pipebus.publishing.replies import PREFIX

    for kept in follower.read(pattern, pause):
        if kept.subject.startswith(PREFIX) and not pattern.startswith(PREFIX):
            continue
        try:
            yield message_told(store.codec.decode(kept.data))
        except CodecError as error:
            yield {"subject": kept.subject, "id": kept.id, "body": None, "body_error": str(error)}


@contextmanager
def following(store: "SqliteTransport", pattern: str, lines: Lines) -> Iterator[None]:
    """Print what is stored in a file meanwhile, by a bus that runs here or by anybody; what comes last is waited for."""
    from pipebus.transports.sqlite.tail import Follower

    checked_pattern(pattern)
    store.file.write(lambda store: None)  # make the file, if it is not there yet
    follower = Follower(store.options.path)
    ended = threading.Event()
    failed: list[Exception] = []

    def show() -> None:
        try:
            for told in kept_told(store, follower, pattern, lambda seconds: not ended.wait(seconds)):
                if not lines.print(told):
                    break
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=show, name="pipebus-tail", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failed:
        raise failed[0]


def checked_pattern(pattern: str) -> None:
    """
    Raises:
        CommandError: it is none.
    """
    from pipebus.errors import SubjectError
    from pipebus.message.patterns import Pattern

    try:
        Pattern(pattern)
    except SubjectError as error:
        raise CommandError(str(error)) from None


def message_told(message: Any) -> dict[str, Any]:
    """A message, as JSON Lines have it: what is not there is left out."""
    told = {
        "subject": str(message.subject),
        "id": message.id,
        "time": message.time,
        "key": message.key,
        "headers": dict(message.headers),
        "ttl": message.ttl,
        "reply_to": None if message.reply_to is None else str(message.reply_to),
        "correlation_id": message.correlation_id,
    }
    return {key: value for key, value in told.items() if value not in (None, {})} | body_told(message)


def body_told(message: Any) -> dict[str, Any]:
    """The body, or why there is none to be seen."""
    from pipebus.values.expressions import plain

    try:
        return {"body": plain(message.body)}
    except ValueError as error:
        return {"body": None, "body_error": str(error)}


def outcome_told(outcome: Any) -> dict[str, Any]:
    """A `Receipt` or `Dropped`, for JSON."""
    if not outcome:
        return {"outcome": "dropped", "by": outcome.by, "reason": outcome.reason}
    return {"outcome": "accepted" if outcome.mailboxes else "unrouted", "mailboxes": outcome.mailboxes}
