"""
The ledger: counts what happens to messages on the publish side, and notifies the observers.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from pipebus import events
from pipebus.errors import Rejected
from pipebus.foreign.logging import get_logger, logging_configured
from pipebus.foreign.objects import class_name, is_a, printable, said, spared, text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.outcomes.dead_letters import PUBLISH, digest_of
from pipebus.pipeline import blame
from pipebus.pipeline.callables import name_of
from pipebus.waiting.locks import Locks, free

REASONS: Final = 1000
"""The most reasons that are counted by name; further ones are counted as "(other)"."""


class Sampler(Protocol):
    """Notes some of the deliveries, for those who look at a running bus. Its methods must not raise."""

    def began(self, subscription: str, message: Message[Any]) -> float:
        """An attempt begins. Returns the time, for `ended`."""
        ...

    def ended(self, subscription: str, began: float) -> None: ...


class Ledger:
    """
    One for each bus.

    Args:
        name: The name of the bus, for log lines.
        interrupted: Called with a SystemExit or KeyboardInterrupt that an observer raised.
        locks: Those of its bus.
    """

    def __init__(self, name: str, interrupted: Callable[[BaseException], None], locks: Locks | None = None) -> None:
        self.name = name
        self.interrupted = interrupted
        self.observed = False  # somebody hears every event
        self.follows = False  # deliveries are reported one by one: to observers, or to a sampler
        self.sampler: Sampler | None = None
        self._samples = False
        self._observers: list[Callable[[Any], object]] = []
        self._kinds: dict[
            tuple[str, str, str], tuple[int, str]
        ] = {}  # each kind of failure: how often it happened, and its last text
        self._lock = (locks or Locks()).new()
        self._notes: deque[tuple[str, str, str]] = deque()  # events that are not counted yet: (figure, filter, reason)
        self._totals: Counter[str] = Counter()  # figures without a reason
        self._dropped: dict[str, Counter[str]] = {}
        self._rejected: dict[str, Counter[str]] = {}
        self.errors: dict[str, Counter[str]] = {}  # by the filter that raised them, or ""
        self._unrouted: dict[str, Counter[str]] = {}

    # --- notifying -----------------------------------------------------------------------------------------------------

    def observe(self, observer: Callable[[Any], object]) -> None:
        self._observers.append(observer)
        self.observed = self.follows = True

    def sample(self, on: bool) -> None:
        """Report the attempts that begin from now on to the sampler, or no longer. A worker notices within 32 messages."""
        self._samples = on
        self.follows = self.observed or on

    def taken(self, subscription: str, parcel: Any) -> None:
        """An attempt begins."""
        if self.observed:
            self.emit(events.Taken(parcel.message, subscription, parcel.attempt))
        if self._samples and self.sampler is not None:
            parcel.began = self.sampler.began(subscription, parcel.message)

    def ended(self, subscription: str, parcel: Any) -> None:
        """An attempt that belongs to a sample has ended, perhaps after the sample."""
        began, parcel.began = parcel.began, 0.0
        if self.sampler is not None:
            self.sampler.ended(subscription, began)

    def emit(self, event: events.Event | None) -> None:
        """Notify the observers; an error of an observer is counted and logged, but not raised."""
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
        Log an error with its traceback, once for each kind (event, place and class of error). If logging is configured, further
        errors of a kind get a line without traceback; otherwise only the tenth, hundredth, … do, and `repeats` logs the total.
        Never raises.
        """
        kind, text = (
            (event, facts.get("subscription", ""), digest_of(error)),
            text_of(error),
        )  # runs code of the error, so not under the lock
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= REASONS:
                kind = (event, "", "(other)")
            times = self._kinds[kind][0] + 1 if kind in self._kinds else 1
            self._kinds[kind] = (times, text)
        if times == 1:
            self.warn(event, **facts, error=text, exc_info=error)
        elif logging_configured() or _has_line(times):
            self.warn(event, **facts, error=text, times=times)

    def repeats(self) -> None:
        """At a stop: log how often each kind of failure happened, unless its last line already says so."""
        with self._lock:
            kinds, self._kinds = self._kinds, {}
        for (event, subscription, _), (times, text) in kinds.items():
            if not _has_line(times) and not logging_configured():
                facts = {"subscription": subscription} if subscription else {}
                self.warn(event, **facts, error=text, times=times)

    def warn(self, event: str, **facts: Any) -> None:
        """Log a warning where nothing may be raised: an error of the logger is only counted."""
        try:
            get_logger(bus=self.name).warning(event, **facts)
        except BaseException as error:
            self._count("log_errors")
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                self._live_on(error)

    def _live_on(self, error: BaseException) -> None:
        """An observer must not end a worker or the timer. On the main thread the interruption is raised, as usual in Python."""
        if threading.current_thread() is threading.main_thread():
            raise error
        self.interrupted(error)

    def debug(self, event: str, **facts: Any) -> None:
        with suppress(Exception):  # a logger that fails must not affect the caller
            get_logger(bus=self.name).debug(event, **facts)

    @property
    def observer_errors(self) -> int:
        """How many errors observers have raised so far; read without the lock."""
        return self._totals["observer_errors"]

    # --- counting ------------------------------------------------------------------------------------------------------

    def _count(self, figure: str, by: str = "", reason: str = "") -> None:
        """Count an event. A signal handler that interrupts this only adds a note, which this call or the next one counts."""
        self._notes.append((figure, by, reason))
        if not self._lock._is_owned():
            with self._lock:
                self._add_up()

    def _add_up(self) -> None:
        """Count all notes; the caller holds the lock."""
        while self._notes:
            figure, by, reason = self._notes.popleft()
            if figure == "dropped":
                _count(self._dropped, by, reason)
            elif figure == "rejected":
                _count(self._rejected, by, reason)
            elif figure == "unrouted":
                _count(self._unrouted, by, reason)
            elif figure == "errors":
                _count(self.errors, by, reason)
            else:
                self._totals[figure] += 1

    def unrouted(self, message: Message[Any]) -> None:
        self._count("unrouted", "", said(message.subject))
        if self.observed:
            self.emit(events.Unrouted(message))

    def dropped(self, message: Message[Any], outcome: Dropped) -> None:
        self._count("dropped", outcome.by or "unknown", outcome.reason)
        if self.observed:
            self.emit(events.Discarded(message, PUBLISH, outcome.reason, outcome.by))

    def refused(self, message: Message[Any], error: BaseException) -> None:
        """An error leaves the bus: remove the bus's frames and signature, and count it."""
        step = blame.unsign(error, keep=True)
        blame.trim(error)
        if is_a(error, Rejected):
            self._count("rejected", *refusal(error))
        else:
            self._count("errors", "" if step is None else step.name, class_name(error))
        if self.observed:
            self.emit(events.Refused(message, error, step.name if step is not None else None))

    def figures(self, published: int) -> dict[str, Any]:
        """The counts, JSON-safe; `accepted` is `published` less everything that was rejected, dropped or failed."""
        with free(self._lock):
            self._add_up()
            rejected = {by: dict(reasons) for by, reasons in sorted(self._rejected.items())}
            dropped = {by: dict(reasons) for by, reasons in sorted(self._dropped.items())}
            errors = dict(sorted(sum(self.errors.values(), Counter()).items()))
            lost = sum(errors.values()) + sum(sum(r.values()) for part in (rejected, dropped) for r in part.values())
            unrouted = self._unrouted.get("", Counter())
            return {
                "published": published,
                "accepted": published - lost,
                "rejected": rejected,
                "dropped": dropped,
                "errors": errors,
                "unrouted": sum(unrouted.values()),
                "unrouted_subjects": dict(unrouted),
                "observer_errors": self._totals["observer_errors"],
                "log_errors": self._totals["log_errors"],
            }


def _has_line(times: int) -> bool:
    """True for a failure that is logged even if logging is not configured: the first, the tenth, the hundredth, …"""
    return str(times).strip("0") == "1"


def refusal(error: Any) -> tuple[str, str]:
    """Who refused a message, and why. A user may have subclassed the error, so reading it may fail."""
    try:
        return printable(error.by or "unknown"), printable("; ".join(error.reasons))
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
