"""Messages and what became of them, as JSON Lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.cli.show import as_json

if TYPE_CHECKING:
    from pipebus.bus import Bus

TAIL = "(tail)"
"""The name of the subscription that prints."""


class Tail:
    """Prints messages; `broken` when nobody reads them any more."""

    def __init__(self, stop: Callable[[], object], count: int | None = None) -> None:
        self.broken = False
        self.printed = 0
        self._stop = stop
        self._count = count

    def __call__(self, message: Any) -> None:
        if self.broken or (self._count is not None and self.printed >= self._count):
            return
        try:
            print(as_json(message_told(message)), flush=True)
        except BrokenPipeError:
            self.broken = True
            self._stop()
            return
        self.printed += 1
        if self._count is not None and self.printed >= self._count:
            self._stop()


@contextmanager
def tailing(bus: "Bus", pattern: str | None, count: int | None = None) -> Iterator[Tail]:
    """Print what a pattern's subscribers would get."""
    from pipebus.message import Message

    tail = Tail(lambda: bus.request_stop("nobody reads"), count)
    if pattern is not None:

        def show(message: Message[Any]) -> None:
            tail(message)

        bus.subscribe(pattern, show, name=TAIL)
    yield tail


def message_told(message: Any) -> dict[str, Any]:
    """A message, as JSON Lines have it: what is not there is left out."""
    from pipebus.expressions import plain

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
    return {key: value for key, value in told.items() if value not in (None, {})} | {"body": plain(message.body)}


def outcome_told(outcome: Any) -> dict[str, Any]:
    """A `Receipt` or `Dropped`, for JSON."""
    if not outcome:
        return {"outcome": "dropped", "by": outcome.by, "reason": outcome.reason}
    return {"outcome": "accepted" if outcome.mailboxes else "unrouted", "mailboxes": outcome.mailboxes}
