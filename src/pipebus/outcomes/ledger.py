"""
The ledger: what became of messages on the publish side, counted by place and reason, and told to the observers.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus import events
from pipebus.errors import Rejected
from pipebus.foreign.logging import get_logger, logging_configured
from pipebus.foreign.objects import class_name, is_a, printable, spared, text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.outcomes.dead_letters import PUBLISH, digest_of
from pipebus.pipeline import blame
from pipebus.pipeline.callables import name_of
from pipebus.waiting.locks import Locks, free

REASONS: Final = 1000
"""Most different reasons counted by name; further ones are counted as "(other)"."""


class Ledger:
    """
    One for each bus.

    Args:
        name: The bus's, for its log lines.
        interrupted: Told of a SystemExit or KeyboardInterrupt in an observer.
        locks: Of its bus.
    """

    def __init__(self, name: str, interrupted: Callable[[BaseException], None], locks: Locks | None = None) -> None:
        self.name = name
        self.interrupted = interrupted
        self.observed = False
        self._observers: list[Callable[[Any], object]] = []
        self._kinds: dict[tuple[str, str, str], tuple[int, str]] = {}  # failures so far: how often, and the last one's text
        self._lock = (locks or Locks()).new()
        self._notes: deque[tuple[str, str, str]] = deque()  # what is not counted yet: figure, by whom, reason
        self._totals: Counter[str] = Counter()  # figures without a reason
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
                self._count("observer_errors")
                if is_a(error, (KeyboardInterrupt, SystemExit)):
                    self._live_on(error)
                self.failed("observer.failed", error, observer=_name_of(observer))

    def failed(self, event: str, error: BaseException, **facts: Any) -> None:
        """
        Log an error with its traceback, once for each kind: one event, one place, one class of error. Further ones are counted:
        where logging is configured each has a line without the traceback, else every tenth power has one, and `repeats` tells
        the rest. Never raises.
        """
        kind, text = (event, facts.get("subscription", ""), digest_of(error)), text_of(error)  # the error's own code: no lock
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= REASONS:
                kind = (event, "", "(other)")
            times = self._kinds[kind][0] + 1 if kind in self._kinds else 1
            self._kinds[kind] = (times, text)
        if times == 1:
            self.warn(event, **facts, error=text, exc_info=error)
        elif logging_configured() or _is_told(times):
            self.warn(event, **facts, error=text, times=times)

    def repeats(self) -> None:
        """At a stop: how often each kind of failure came, where the lines so far do not say it."""
        with self._lock:
            kinds, self._kinds = self._kinds, {}
        for (event, subscription, _), (times, text) in kinds.items():
            if not _is_told(times) and not logging_configured():
                self.warn(event, subscription=subscription, error=text, times=times)

    def warn(self, event: str, **facts: Any) -> None:
        """A warning from where nothing may be raised: a logger that fails is counted, not let through."""
        try:
            get_logger(bus=self.name).warning(event, **facts)
        except BaseException as error:
            self._count("log_errors")
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                self._live_on(error)

    def _live_on(self, error: BaseException) -> None:
        """A worker, or the timer, is not ended by somebody who only listens. The main thread may be interrupted anywhere."""
        if threading.current_thread() is threading.main_thread():
            raise error
        self.interrupted(error)

    def debug(self, event: str, **facts: Any) -> None:
        with suppress(Exception):  # nothing depends on this line
            get_logger(bus=self.name).debug(event, **facts)

    # --- counting ------------------------------------------------------------------------------------------------------

    def _count(self, figure: str, by: str = "", reason: str = "") -> None:
        """Code that has interrupted this thread while it counts leaves a note for it, or for whoever counts next."""
        self._notes.append((figure, by, reason))
        if not self._lock._is_owned():
            with self._lock:
                self._add_up()

    def _add_up(self) -> None:
        """Called with the lock held."""
        while self._notes:
            figure, by, reason = self._notes.popleft()
            if figure == "dropped":
                _count(self._dropped, by, reason)
            elif figure == "rejected":
                _count(self._rejected, by, reason)
            elif figure == "errors":
                self._errors[by] += 1
            else:
                self._totals[figure] += 1

    def unrouted(self, message: Message[Any]) -> None:
        self._count("unrouted")
        if self.observed:
            self.emit(events.Unrouted(message))

    def dropped(self, message: Message[Any], outcome: Dropped) -> None:
        self._count("dropped", outcome.by or "unknown", outcome.reason)
        if self.observed:
            self.emit(events.Discarded(message, PUBLISH, outcome.reason, outcome.by))

    def refused(self, message: Message[Any], error: BaseException) -> None:
        """An error leaves the bus: our frames and our signature are taken off."""
        mark = blame.unsign(error)
        blame.trim(error)
        if is_a(error, Rejected):
            self._count("rejected", *_refusal(error))
        else:
            self._count("errors", class_name(error))
        if self.observed:
            self.emit(events.Refused(message, error, mark.name if mark is not None else None))

    def figures(self, published: int) -> dict[str, Any]:
        """JSON-safe; `accepted` is what is left of `published`."""
        with free(self._lock):
            self._add_up()
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
                "unrouted": self._totals["unrouted"],
                "observer_errors": self._totals["observer_errors"],
                "log_errors": self._totals["log_errors"],
            }


def _is_told(times: int) -> bool:
    """A failure that has a line of its own where logging is not configured: the first, the tenth, the hundredth, …"""
    return str(times).strip("0") == "1"


def _refusal(error: Any) -> tuple[str, str]:
    """By whom a message was refused, and why; the error's class may be a stranger's."""
    try:
        return printable(error.by or "unknown"), printable("; ".join(error.errors))
    except BaseException as failure:
        spared(failure)
        return "unknown", text_of(error)


def _name_of(observer: object) -> str:
    try:
        return printable(name_of(observer))
    except BaseException as error:
        spared(error)
        return class_name(observer)


def _count(counters: dict[str, Counter[str]], by: str, reason: str) -> None:
    counter = counters.setdefault(by, Counter())
    counter[reason if reason in counter or len(counter) < REASONS else "(other)"] += 1
