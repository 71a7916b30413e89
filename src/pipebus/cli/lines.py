"""Messages as they come, printed as JSON Lines."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli.arguments import checked
from pipebus.cli.messages import message_json
from pipebus.cli.show import as_json
from pipebus.errors import CodecError
from pipebus.message.codec import JsonCodec
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.message.subject import REPLY
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import Branch
from pipebus.pipeline.places import Place
from pipebus.pipeline.recognise import node as node_of
from pipebus.pipeline.shapes import transform
from pipebus.pipeline.step import Step
from pipebus.transports.base import Follower


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
    subscription that prints; "" if there is none.
    """
    if pattern is None:
        yield ""
        return
    checked(Pattern, pattern)
    engine, wanted, printed = engine_of(bus), Pattern(pattern), 0

    def show(message: Message[Any]) -> None:
        nonlocal printed
        if count is not None and printed >= count:
            return
        printed += lines.print(message_json(message))
        if printed == count:
            bus.request_stop(f"{count} printed")

    if not engine.transport.local:
        yield bus.subscribe(pattern, show).name  # without a name of its own, with which it would stay there
        return

    @transform
    def look(message: Message[Any]) -> Message[Any]:
        subject = message.subject
        if isinstance(subject, str) and wanted.matches(subject) and names_answers(pattern) >= names_answers(subject):
            expired = message.ttl is not None and engine.clock.now() - message.time > message.ttl
            if not expired:  # otherwise nobody receives it
                show(message)
        return message

    # Not a subscription: with it, no message would be one that nobody listens to.
    engine.router.nodes = _with_end(engine.router.nodes, node_of(look, 1, Place("--tail", 0), "tail"))
    yield ""


def _with_end(nodes: tuple[Node, ...], last: Node) -> tuple[Node, ...]:
    """A chain with one more filter at its end, and at those of its branches, which skip the rest of the chain."""

    def inside(node: Node) -> Node:
        if isinstance(node, Step):
            return node
        return node.of(_with_end(node.nodes, last) if isinstance(node, Branch) else tuple(map(inside, node.nodes)))

    found = tuple(map(inside, nodes))
    ends = bool(found) and isinstance(found[-1], Step) and found[-1].traits.terminal
    return found if ends else (*found, last)


def names_answers(subject: str) -> bool:
    """True for the subjects of answers to requests, which nobody means by a pattern such as ">"."""
    return subject.startswith(REPLY)


def stored_json(follower: Follower, pattern: str, pause: Callable[[float], bool]) -> Iterator[dict[str, Any]]:
    """Yield the messages of a store as JSON. Answers to requests are left out unless the pattern names them."""
    for kept in follower.read(pattern, pause):
        if names_answers(kept.subject) and not names_answers(pattern):
            continue
        try:
            yield message_json(JsonCodec().decode(kept.data))
        except CodecError as error:
            yield {"subject": kept.subject, "id": kept.id, "body": None, "body_error": str(error)}


@contextmanager
def following(follower: Follower, pattern: str, lines: Lines) -> Iterator[None]:
    """Print the messages that any process stores meanwhile, including those stored last."""
    ended = threading.Event()
    failed: list[Exception] = []

    def show() -> None:
        try:
            for message in stored_json(follower, pattern, lambda seconds: not ended.wait(seconds)):
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
