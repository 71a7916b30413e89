"""
The ledger: what became of messages on the publish side, counted by place and reason, and told to the observers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus import events, links
from pipebus.binding import handler_name
from pipebus.dead_letters import PUBLISH
from pipebus.errors import Rejected
from pipebus.message import Dropped, Message
from pipebus.services import get_logger

REASONS: Final = 1000
"""Most different reasons counted by name; further ones are counted as "(other)"."""


class Ledger:
    """
    One for each bus.

    Args:
        name: The bus's, for its log lines.
        interrupted: Told of a SystemExit or KeyboardInterrupt in an observer.
    """

    def __init__(self, name: str, interrupted: Callable[[str], None]) -> None:
        self.name = name
        self.interrupted = interrupted
        self.observed = False
        self._observers: list[Callable[[Any], object]] = []
        self._observer_errors = 0
        self._log_errors = 0
        self._lock = threading.Lock()
        self._unrouted = 0
        self._dropped: dict[str, Counter[str]] = {}
        self._rejected: dict[str, Counter[str]] = {}
        self._errors: Counter[str] = Counter()

    # --- telling -------------------------------------------------------------------------------------------------------

    def observe(self, observer: Callable[[Any], object]) -> None:
        self._observers.append(observer)
        self.observed = True

    def emit(self, event: events.Event | None) -> None:
        """Tell the observers; what one of them raises is counted and logged, and goes no further."""
        if event is None:
            return
        for observer in self._observers:
            try:
                observer(event)
            except BaseException as error:
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    self._live_on(error)
                with self._lock:
                    self._observer_errors += 1
                self.warn("observer.failed", observer=handler_name(observer), error=repr(error))

    def warn(self, event: str, **facts: Any) -> None:
        """A warning from where nothing may be raised: a logger that fails is counted, not let through."""
        try:
            get_logger(bus=self.name).warning(event, **facts)
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._live_on(error)
            with self._lock:
                self._log_errors += 1

    def _live_on(self, error: BaseException) -> None:
        """A worker, or the timer, is not ended by somebody who only listens. The main thread may be interrupted anywhere."""
        if threading.current_thread() is threading.main_thread():
            raise error
        self.interrupted(type(error).__name__)

    def debug(self, event: str, **facts: Any) -> None:
        with suppress(Exception):  # nothing depends on this line
            get_logger(bus=self.name).debug(event, **facts)

    # --- counting ------------------------------------------------------------------------------------------------------

    def unrouted(self, message: Message[Any]) -> None:
        with self._lock:
            self._unrouted += 1
        if self.observed:
            self.emit(events.Unrouted(message))

    def dropped(self, message: Message[Any], outcome: Dropped) -> None:
        with self._lock:
            _count(self._dropped, outcome.by or "unknown", outcome.reason)
        if self.observed:
            self.emit(events.Discarded(message, PUBLISH, outcome.reason, outcome.by))

    def refused(self, message: Message[Any], error: BaseException) -> None:
        """An error leaves the bus: our frames and our signature are taken off."""
        mark = links.unsign(error)
        links.trim(error)
        with self._lock:
            if isinstance(error, Rejected):
                _count(self._rejected, error.by or "unknown", "; ".join(error.errors))
            else:
                self._errors[type(error).__name__] += 1
        if self.observed:
            self.emit(events.Refused(message, error, mark.name if mark is not None else None))

    def figures(self, published: int) -> dict[str, Any]:
        """JSON-safe; `accepted` is what is left of `published`."""
        with self._lock:
            rejected = {by: dict(reasons) for by, reasons in sorted(self._rejected.items())}
            dropped = {by: dict(reasons) for by, reasons in sorted(self._dropped.items())}
            errors = dict(sorted(self._errors.items()))
            lost = sum(errors.values()) + sum(sum(r.values()) for part in (rejected, dropped) for r in part.values())
            return {
                "published": published,
                "accepted": published - lost,
                "rejected": rejected,
                "dropped": dropped,
                "errors": errors,
                "unrouted": self._unrouted,
                "observer_errors": self._observer_errors,
                "log_errors": self._log_errors,
            }


def _count(counters: dict[str, Counter[str]], by: str, reason: str) -> None:
    counter = counters.setdefault(by, Counter())
    counter[reason if reason in counter or len(counter) < REASONS else "(other)"] += 1
