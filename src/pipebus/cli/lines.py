"""Messages as they come, printed as JSON Lines."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli.arguments import checked
from pipebus.cli.messages import message_json
from pipebus.cli.show import as_json
from pipebus.errors import CodecError
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.message.subject import REPLY

if TYPE_CHECKING:
    from pipebus.transports.sqlite.tail import Follower
    from pipebus.transports.sqlite.transport import SqliteTransport

TAIL = "(tail)"
"""The name of the subscription that prints."""


class Lines:
    """
    Prints JSON Lines on stdout, from several threads.

    Args:
        lost: Called once, when a write fails because the reader is gone or the disk is full. `error` is that failure.
        conversation: Print only the message with this id, and those with this correlation id; None: all.
    """

    def __init__(self, lost: Callable[[], object], conversation: str | None = None) -> None:
        self._conversation = conversation
        self.error: OSError | None = None
        self._lost = lost
        self._stream = sys.stdout  # kept, because what handlers print may be redirected later
        self._lock = threading.Lock()

    def print(self, value: Any) -> bool:
        """Return False if it was not printed."""
        if self._conversation is not None and self._conversation not in (value.get("correlation_id"), value["id"]):
            return False
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
def tailing(bus: Bus, pattern: str | None, lines: Lines, count: int | None = None) -> Iterator[str]:
    """
    Print the messages that subscribers of a pattern receive; after `count` messages, request the stop. Yields the name of the
    subscription that prints; "" without a pattern.
    """
    printed = 0

    def show(message: Message[Any]) -> None:
        nonlocal printed
        if count is not None and printed >= count:
            return
        printed += lines.print(message_json(message))
        if printed == count:
            bus.request_stop(f"{count} printed")

    name = ""
    if pattern is not None:
        # A named subscription would remain in a transport that other processes use.
        own = TAIL if engine_of(bus).transport.local else None
        name = checked(bus.subscribe, pattern, show, name=own).name
    yield name


def stored_json(
    store: "SqliteTransport", follower: "Follower", pattern: str, pause: Callable[[float], bool]
) -> Iterator[dict[str, Any]]:
    """Yield the messages of a file as JSON. Answers to requests are left out unless the pattern names them."""
    for kept in follower.read(pattern, pause):
        if kept.subject.startswith(REPLY) and not pattern.startswith(REPLY):
            continue
        try:
            yield message_json(store.codec.decode(kept.data))
        except CodecError as error:
            yield {"subject": kept.subject, "id": kept.id, "body": None, "body_error": str(error)}


@contextmanager
def following(store: "SqliteTransport", pattern: str, lines: Lines) -> Iterator[None]:
    """Print the messages that any process stores in a file meanwhile, including those stored last."""
    from pipebus.transports.sqlite.tail import Follower

    checked(Pattern, pattern)
    store.file.write(lambda store: None)  # make the file, if it is not there yet
    follower = Follower(store.options.path)
    ended = threading.Event()
    failed: list[Exception] = []

    def show() -> None:
        try:
            for message in stored_json(store, follower, pattern, lambda seconds: not ended.wait(seconds)):
                lines.print(message)
                if lines.error is not None:
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
