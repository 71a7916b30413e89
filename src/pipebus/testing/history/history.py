"""The history: what was published, delivered and settled, recorded while it happens and judged afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pipebus import events
from pipebus.bus.bus import Bus
from pipebus.testing.history import records
from pipebus.testing.history.judge import Judge, Judgement


class History:
    """
    What happened, in order, in one process or many: the lines that each has written are merged. Any thread may record.

    Args:
        path: Also write each record to this file, as a line that survives the process; for `from_jsonl`.

    Example:
        >>> history = History()
        >>> history.record_subscription("billing", "orders.>")
        >>> history.record_attempt("m1", "orders.created")
        >>> history.record_accepted("m1")
        >>> print(history.judge())
        1 broken promises (1 attempted, 1 accepted):
          lost: billing never settled, and no longer has: m1
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.records: list[records.AnyRecord] = []
        self._subscriptions: set[str] = set()
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if path is not None else None

    # --- recording -------------------------------------------------------------------------------------------------------

    def record(self, record: records.AnyRecord) -> None:
        """Add one record; its `at` is filled in if it is 0."""
        with self._lock:
            if not record.at:
                record = msgspec.structs.replace(record, at=time.monotonic_ns())
            self.records.append(record)
            if isinstance(record, records.Subscribed):
                self._subscriptions.add(record.subscription)
            if self._file is not None:
                os.write(self._file, _line(record))  # one call: lines of several processes do not mix

    def record_subscription(
        self,
        subscription: str,
        patterns: str | Sequence[str],
        *,
        attempts: int | None = None,
        order: Literal["none", "subject", "key"] = "none",
    ) -> None:
        found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        self.record(records.Subscribed(subscription=subscription, patterns=found, attempts=attempts, order=order))

    def record_attempt(self, id: str, subject: str, *, publisher: str = "", key: str | None = None, late: bool = False) -> None:
        """To be called before `publish`."""
        self.record(records.Attempted(id=id, subject=subject, publisher=publisher, key=key, late=late))

    def record_accepted(self, id: str, *, duplicate: bool = False) -> None:
        """To be called when `publish` has returned a receipt."""
        self.record(records.Accepted(id=id, duplicate=duplicate))

    def record_delivery(
        self, subscription: str, id: str, *, attempt: int = 1, redelivered: bool | None = None, worker: str = ""
    ) -> None:
        """To be called when a handler begins. `redelivered`: as the delivery says; None: `attempt` > 1."""
        again = attempt > 1 if redelivered is None else redelivered
        self.record(records.Delivered(subscription=subscription, id=id, attempt=attempt, redelivered=again, worker=worker))

    def record_settled(
        self, subscription: str, id: str, how: records.How = "acknowledged", *, attempt: int = 1, worker: str = ""
    ) -> None:
        self.record(records.Settled(subscription=subscription, id=id, attempt=attempt, how=how, worker=worker))

    def record_replayed(self, subscription: str, id: str) -> None:
        """To be called before `dead_letters.replay`; `id` is the message's."""
        self.record(records.Replayed(subscription=subscription, id=id))

    def record_end(self, worker: str) -> None:
        self.record(records.Ended(worker=worker))

    def record_kept(self, subscription: str, id: str, state: Literal["pending", "dead"] = "pending") -> None:
        self.record(records.Kept(subscription=subscription, id=id, state=state))

    def record_figures(self, subscription: str, stats: dict[str, Any], *, worker: str = "") -> None:
        """To be called at the end, with the `stats()` of a subscription."""
        names = ("accepted", "acknowledged", "dropped", "dead", "pending", "in_flight")
        found: dict[str, Any] = {name: stats[name] for name in names}
        self.record(records.Figures(subscription=subscription, worker=worker, **found))

    def watch(self, bus: Bus, worker: str = "") -> None:
        """
        Record how deliveries to the recorded subscriptions of this bus end; to be called before the bus is started.

        The caller records its own publishes: only it knows of those that never returned.
        """

        def hear(event: Any) -> None:
            name = getattr(event, "subscription", getattr(event, "place", None))
            if name is not None and name not in self._subscriptions:
                return  # the bus has subscriptions of its own, for replies
            match event:
                case events.Taken(message, subscription, attempt):
                    self.record_delivery(subscription, message.id, attempt=attempt, worker=worker)
                case events.Acknowledged(message, subscription, attempt):
                    self.record_settled(subscription, message.id, attempt=attempt, worker=worker)
                case events.Returned(message, subscription, attempt, _):
                    self.record_settled(subscription, message.id, "returned", attempt=attempt, worker=worker)
                case events.Discarded(message, place, _, _):
                    self.record_settled(place, message.id, "dropped", attempt=0, worker=worker)
                case events.Died(message, place, _, _, _):
                    self.record_settled(place, message.id, "dead", attempt=0, worker=worker)
                case events.StateChanged(_, "started"):
                    self.record_end(worker)

        bus.observe(hear)

    # --- as text -----------------------------------------------------------------------------------------------------------

    def to_jsonl(self) -> str:
        """One JSON object on each line, in the order of recording."""
        with self._lock:
            return b"".join(map(_line, self.records)).decode()

    @classmethod
    def from_jsonl(cls, *texts: str | Path) -> History:
        """
        One history of several processes' lines, merged by time.

        Args:
            texts: The lines, or files with lines. An unfinished last line, as a killed process may leave, is ignored.

        Raises:
            ValueError: A line is not a record; names its number.
        """
        found: list[records.AnyRecord] = []
        for text in texts:
            lines = (text.read_text() if isinstance(text, Path) else text).split("\n")
            for number, line in enumerate(lines[:-1], 1):
                try:
                    found.append(_decoder.decode(line))
                except msgspec.DecodeError as error:
                    raise ValueError(f"line {number} is not a record: {error}") from error
        history = cls()
        history.records = sorted(found, key=lambda record: record.at)
        return history

    # --- judging -------------------------------------------------------------------------------------------------------------

    def judge(self) -> Judgement:
        """Judge the history. Everything that was accepted must have been settled, or be recorded as kept."""
        with self._lock:
            records = list(self.records)
        judge = Judge(records)
        for record in records:
            judge.see(record)
        judge.close()
        return Judgement(tuple(judge.violations), dict(judge.counts))


_decoder: Final = msgspec.json.Decoder(records.AnyRecord)


def _line(record: records.AnyRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"
