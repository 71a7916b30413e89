"""
The history checker: what was published, delivered and settled, written down while it happens and judged afterwards.

One judge for every run, in one process or in many: each process writes a JSON line for each event, and the lines are merged.
Nothing is de-duplicated before it is judged.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pipebus import events
from pipebus.bus.bus import Bus
from pipebus.message.subject import Pattern

Kind = Literal[
    "lost", "unexpected", "duplicate", "over_budget", "mislabelled", "double_settlement", "order", "conservation"
]  # fmt: skip
How = Literal["acknowledged", "dropped", "dead", "returned", "released"]
"""How a delivery was settled. "returned": to come again, this taking counts; "released": the same, it does not."""

ENDS: Final = ("acknowledged", "dropped", "dead")
"""After one of these a message does not come again."""

COUNTED: Final = (
    "attempted", "accepted", "duplicates", "delivered", "redelivered", "recovered", "stale", "acknowledged", "dropped", "dead",
    "returned", "released",
)  # fmt: skip

SHOWN: Final = 20
"""Violations that an error's text shows, and ids that one violation names."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", omit_defaults=True):
    """One event. `at`: when, in nanoseconds of the monotonic clock, which all processes of one computer share."""

    at: int = 0


class Subscribed(Record, frozen=True, kw_only=True, tag="subscribed"):
    """
    A subscription, and what it was promised.

    Args:
        patterns: Any of them matches.
        attempts: Most takings of one message; None: no bound.
        order: Within what first deliveries keep the order of publishing: none, subject (each publisher's), key.
    """

    subscription: str
    patterns: tuple[str, ...]
    attempts: int | None = None
    order: Literal["none", "subject", "key"] = "none"


class Attempted(Record, frozen=True, kw_only=True, tag="attempted"):
    """A publish is about to be tried. One that is delayed (`late`) has no place in the order."""

    id: str
    subject: str
    publisher: str = ""
    key: str | None = None
    late: bool = False


class Accepted(Record, frozen=True, kw_only=True, tag="accepted"):
    """A publish came back with a receipt."""

    id: str
    duplicate: bool = False


class Delivered(Record, frozen=True, kw_only=True, tag="delivered"):
    """A message was taken; `worker` says by whom: a process, a bus, a thread."""

    subscription: str
    id: str
    attempt: int = 1
    redelivered: bool = False
    worker: str = ""


class Settled(Record, frozen=True, kw_only=True, tag="settled"):
    """A delivery was settled. `attempt` is 0 if it was dropped before it was taken."""

    subscription: str
    id: str
    attempt: int = 1
    how: How = "acknowledged"
    worker: str = ""


class Replayed(Record, frozen=True, kw_only=True, tag="replayed"):
    """A dead letter was given back to its subscription: attempts are counted anew."""

    subscription: str
    id: str


class Ended(Record, frozen=True, kw_only=True, tag="ended"):
    """A worker has stopped or was killed: what it had taken and not settled may come again, as the same attempt or the next."""

    worker: str


class Kept(Record, frozen=True, kw_only=True, tag="kept"):
    """Found at the end: a message that is still there."""

    subscription: str
    id: str
    state: Literal["pending", "dead"] = "pending"


class Figures(Record, frozen=True, kw_only=True, tag="figures"):
    """What a subscription's `stats()` said at the end; those of several workers are added up."""

    subscription: str
    accepted: int
    acknowledged: int
    dropped: dict[str, int] = {}
    dead: int = 0
    pending: int = 0
    in_flight: int = 0
    worker: str = ""


AnyRecord = Subscribed | Attempted | Accepted | Delivered | Settled | Replayed | Ended | Kept | Figures


class Violation(msgspec.Struct, frozen=True):
    """One broken promise; `text` names the messages."""

    kind: Kind
    text: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class HistoryBroken(AssertionError):
    """A history breaks a promise; the text tells all violations."""


class Judgement(msgspec.Struct, frozen=True):
    """
    What a history is worth.

    Args:
        violations: In the order in which they were found; empty: every promise was kept.
        counts: How many there were: attempted, accepted, duplicates (receipts), delivered, redelivered, recovered (messages
            without a receipt that came all the same), stale (settlements after a later taking), acknowledged, dropped, dead,
            returned, released.
    """

    violations: tuple[Violation, ...]
    counts: dict[str, int]

    def of(self, kind: Kind) -> tuple[Violation, ...]:
        """The violations of one kind."""
        return tuple(one for one in self.violations if one.kind == kind)

    def raise_if_broken(self) -> None:
        """
        Raises:
            HistoryBroken: with a line for each violation.
        """
        if self.violations:
            raise HistoryBroken(str(self))

    def __str__(self) -> str:
        figures = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        if not self.violations:
            return f"every promise was kept ({figures})"
        lines = [f"  {one}" for one in self.violations[:SHOWN]]
        if len(self.violations) > SHOWN:
            lines.append(f"  … and {len(self.violations) - SHOWN} more")
        return "\n".join([f"{len(self.violations)} broken promises ({figures}):", *lines])


class History:
    """
    What happened, in order. The methods may be called from any thread.

    Args:
        path: Also write each record to this file, as a line of its own that survives the process; for `from_jsonl`.

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
        self.records: list[AnyRecord] = []
        self._subscriptions: set[str] = set()
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if path is not None else None

    # --- writing down ----------------------------------------------------------------------------------------------------

    def record(self, record: AnyRecord) -> None:
        """Add one record; its `at` is filled in if it is 0."""
        with self._lock:
            if not record.at:
                record = msgspec.structs.replace(record, at=time.monotonic_ns())
            self.records.append(record)
            if isinstance(record, Subscribed):
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
        self.record(Subscribed(subscription=subscription, patterns=found, attempts=attempts, order=order))

    def record_attempt(self, id: str, subject: str, *, publisher: str = "", key: str | None = None, late: bool = False) -> None:
        """Before `publish` is called."""
        self.record(Attempted(id=id, subject=subject, publisher=publisher, key=key, late=late))

    def record_accepted(self, id: str, *, duplicate: bool = False) -> None:
        """After it has returned a receipt."""
        self.record(Accepted(id=id, duplicate=duplicate))

    def record_delivery(
        self, subscription: str, id: str, *, attempt: int = 1, redelivered: bool | None = None, worker: str = ""
    ) -> None:
        """When a handler begins. `redelivered`: what the delivery says; None: what `attempt` means."""
        again = attempt > 1 if redelivered is None else redelivered
        self.record(Delivered(subscription=subscription, id=id, attempt=attempt, redelivered=again, worker=worker))

    def record_settled(
        self, subscription: str, id: str, how: How = "acknowledged", *, attempt: int = 1, worker: str = ""
    ) -> None:
        self.record(Settled(subscription=subscription, id=id, attempt=attempt, how=how, worker=worker))

    def record_replayed(self, subscription: str, id: str) -> None:
        """Before `dead_letters.replay`; `id` is the message's."""
        self.record(Replayed(subscription=subscription, id=id))

    def record_end(self, worker: str) -> None:
        self.record(Ended(worker=worker))

    def record_kept(self, subscription: str, id: str, state: Literal["pending", "dead"] = "pending") -> None:
        self.record(Kept(subscription=subscription, id=id, state=state))

    def record_figures(self, subscription: str, stats: dict[str, Any], *, worker: str = "") -> None:
        """At the end: what `stats()` says of a subscription."""
        names = ("accepted", "acknowledged", "dropped", "dead", "pending", "in_flight")
        found: dict[str, Any] = {name: stats[name] for name in names}
        self.record(Figures(subscription=subscription, worker=worker, **found))

    def watch(self, bus: Bus, worker: str = "") -> None:
        """
        Write down what becomes of deliveries to the recorded subscriptions in this bus; to be called before it is started.

        Publishes are the caller's to record: only he knows of those that never came back.
        """

        def hear(event: Any) -> None:
            name = getattr(event, "subscription", getattr(event, "place", None))
            if name is not None and name not in self._subscriptions:
                return  # the bus has some of its own: for replies
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
        """One JSON object a line, in the order of recording."""
        with self._lock:
            return b"".join(map(_line, self.records)).decode()

    @classmethod
    def from_jsonl(cls, *texts: str | Path) -> History:
        """
        One history of several processes' lines, merged by time.

        Args:
            texts: The lines themselves, or files with them. A last line that a killed process has left unfinished is no record.

        Raises:
            ValueError: a line that is no record, with its number.
        """
        found: list[AnyRecord] = []
        for text in texts:
            lines = (text.read_text() if isinstance(text, Path) else text).split("\n")
            for number, line in enumerate(lines[:-1], 1):
                try:
                    found.append(_decoder.decode(line))
                except msgspec.DecodeError as error:
                    raise ValueError(f"line {number} is no record: {error}") from error
        history = cls()
        history.records = sorted(found, key=lambda record: record.at)
        return history

    # --- judging -------------------------------------------------------------------------------------------------------------

    def judge(self) -> Judgement:
        """What the history is worth; everything that was published must have come to its end, or be told as kept."""
        with self._lock:
            records = list(self.records)
        judge = _Judge(records)
        for record in records:
            judge.see(record)
        judge.close()
        return Judgement(tuple(judge.violations), dict(judge.counts))


_decoder: Final = msgspec.json.Decoder(AnyRecord)


def _line(record: AnyRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"


@dataclass(slots=True)
class _Mail:
    """One message, as one subscription met it."""

    taken: Counter[int] = field(default_factory=Counter)  # deliveries by attempt; what was released is taken out
    settled: Counter[int] = field(default_factory=Counter)  # settlements by attempt
    open: dict[tuple[int, str], int] = field(default_factory=dict)  # (attempt, worker) -> deliveries not settled
    ended: int = 0  # settlements that end it, those that came too late left out
    ever: Counter[str] = field(default_factory=Counter)  # how it was settled


class _Judge:
    """One pass over the records."""

    def __init__(self, records: Iterable[AnyRecord]) -> None:
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.subscribed = {r.subscription: r for r in records if isinstance(r, Subscribed)}
        self.patterns = {name: [Pattern(p) for p in r.patterns] for name, r in self.subscribed.items()}
        self.attempts: dict[str, Attempted] = {}  # the first of each id
        self.places: dict[str, int] = {}  # of each id in the order of publishing
        self.tries: Counter[str] = Counter()
        self.receipts: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self.mail: dict[tuple[str, str], _Mail] = defaultdict(_Mail)
        self.last: dict[tuple[str, ...], str] = {}  # by group: the message that was furthest in order
        self.kept: dict[tuple[str, str], str] = {}
        self.figures: list[Figures] = []
        self._numbers = itertools.count()
        for record in records:  # a delivery may be written down before its publisher gets to it, and merged clocks may tie
            if isinstance(record, Attempted):
                self.tries[record.id] += 1
                if record.id not in self.attempts:
                    self.attempts[record.id] = record
                    self.places[record.id] = next(self._numbers)
            elif isinstance(record, Accepted):
                self.receipts[record.id] += 1
                self.duplicates[record.id] += record.duplicate

    def broken(self, kind: Kind, text: str, *ids: str) -> None:
        self.violations.append(Violation(kind, text, ids))

    def copies(self, id: str) -> int:
        """How often it may come in all: once, unless it was published more often and nobody recognised it."""
        return max(1, self.tries[id] - self.duplicates[id])

    def see(self, record: AnyRecord) -> None:
        match record:
            case Attempted():
                self.counts["attempted"] += 1
            case Accepted():
                self.counts["accepted"] += 1
                self.counts["duplicates"] += record.duplicate
                if record.id not in self.attempts:
                    self.broken("unexpected", f"a receipt for {record.id}, which nobody published", record.id)
            case Delivered():
                self.delivered(record)
            case Settled():
                self.settled(record)
            case Replayed():
                mail = self.mail[record.subscription, record.id]
                mail.taken.clear()
                mail.settled.clear()
                mail.ended = 0
            case Ended():
                for mail in self.mail.values():
                    for attempt, worker in [key for key in mail.open if key[1] == record.worker]:
                        mail.taken[attempt] -= mail.open.pop((attempt, worker))
            case Kept():
                self.kept[record.subscription, record.id] = record.state
            case Figures():
                self.figures.append(record)

    def delivered(self, one: Delivered) -> None:
        name, id, attempt = one.subscription, one.id, one.attempt
        self.counts["delivered"] += 1
        self.counts["redelivered"] += one.redelivered
        published = self.attempts.get(id)
        if published is None:
            self.broken("unexpected", f"{name} got {id}, which nobody published", id)
            return
        patterns = self.patterns.get(name)
        if patterns is not None and not any(pattern.matches(published.subject) for pattern in patterns):
            self.broken("unexpected", f"{name} got {id}, which was published to {published.subject}", id)
            return
        first = (name, id) not in self.mail or not self.mail[name, id].taken
        mail = self.mail[name, id]
        if not self.receipts[id] and first:
            self.counts["recovered"] += 1
        if one.redelivered != (attempt > 1):
            self.broken("mislabelled", f"{name} got {id} as attempt {attempt} with redelivered={one.redelivered}", id)
        budget = self.subscribed[name].attempts if name in self.subscribed else None
        if budget is not None and attempt > budget:
            self.broken("over_budget", f"{name} got {id} as attempt {attempt} of {budget}", id)
        if mail.ended >= self.copies(id):
            self.broken("duplicate", f"{name} got {id} again after it was settled", id)
        elif mail.taken[attempt] >= self.copies(id):
            self.broken("duplicate", f"{name} got {id} as attempt {attempt} more than once", id)
        mail.taken[attempt] += 1
        key = (attempt, one.worker)
        mail.open[key] = mail.open.get(key, 0) + 1
        if first:
            self.in_order(name, published)

    def in_order(self, name: str, published: Attempted) -> None:
        """First deliveries only."""
        order = self.subscribed[name].order if name in self.subscribed else "none"
        if order == "none" or published.late or (order == "key" and published.key is None):
            return
        group = (name, published.publisher) if order == "subject" else (name, published.publisher, str(published.key))
        last = self.last.get(group)
        if last is not None and self.places[last] > self.places[published.id]:
            who = f"publisher {published.publisher}" if published.publisher else "its publisher"
            what = f"{who}, key {published.key}" if order == "key" else who
            self.broken("order", f"{name} got {published.id} after {last}, which {what} sent later", published.id, last)
        else:
            self.last[group] = published.id

    def settled(self, one: Settled) -> None:
        name, id, attempt = one.subscription, one.id, one.attempt
        self.counts[one.how] += 1
        mail = self.mail[name, id]
        if not attempt and mail.open:  # whoever tells it does not know which: the newest that this worker has
            attempt = max((key[0] for key in mail.open if key[1] == one.worker), default=0)
        if not attempt and one.how == "dropped" and mail.ever["dead"] > mail.ever["discarded"]:
            mail.ever["discarded"] += 1  # a dead letter that was thrown away, or evicted
            return
        key = (attempt, one.worker)
        if mail.open.get(key, 0) > 1:
            mail.open[key] -= 1
        else:
            mail.open.pop(key, None)
        if one.how == "released":
            mail.taken[attempt] -= 1
            return
        mail.ever[one.how] += 1
        if attempt:
            mail.settled[attempt] += 1
            if mail.settled[attempt] > self.copies(id):
                self.broken("double_settlement", f"{name} settled attempt {attempt} of {id} more than once", id)
                return
        if one.how not in ENDS:
            return
        if attempt and max((taking for taking, count in mail.taken.items() if count > 0), default=0) > attempt:
            self.counts["stale"] += 1  # its lease had ended
        else:
            mail.ended += 1
            if not attempt and mail.ended > self.copies(id):
                self.broken("double_settlement", f"{name} settled {id}, which was settled before", id)

    def close(self) -> None:
        for figures in self.figures:
            self.conserved(figures)
        for name in self.subscribed:
            self.nothing_lost(name)

    def conserved(self, one: Figures) -> None:
        """accepted = acknowledged + dropped + dead + pending + in flight."""
        dropped = sum(one.dropped.values())
        parts = (one.acknowledged, dropped, one.dead, one.pending, one.in_flight)
        if one.accepted != sum(parts) or min(*parts, *one.dropped.values()) < 0:
            self.broken(
                "conservation",
                f"{one.subscription}: accepted {one.accepted} is not acknowledged {one.acknowledged} + dropped {dropped}"
                f" + dead {one.dead} + pending {one.pending} + in flight {one.in_flight}",
            )

    def nothing_lost(self, name: str) -> None:
        missing, named = [], Counter[str]()
        for id, published in self.attempts.items():
            state = self.kept.get((name, id))
            mail = self.mail.get((name, id))
            if state is not None or (mail is not None and any(mail.ever[how] for how in ENDS)):
                named["dropped"] += mail.ever["dropped"] if mail is not None else 0
                named["dead"] += state == "dead" or (mail is not None and mail.ever["dead"] > 0)
                named["pending"] += state == "pending"
            elif self.receipts[id] and any(pattern.matches(published.subject) for pattern in self.patterns[name]):
                missing.append(id)
        counted: Counter[str] = Counter()  # what figures tell of messages whose ids nobody has told
        for figures in self.figures:
            if figures.subscription == name:
                counted["dropped"] += sum(figures.dropped.values())
                counted["dead"] += figures.dead
                counted["pending"] += figures.pending + figures.in_flight
        spare = sum(max(0, counted[what] - named[what]) for what in counted)
        if len(missing) > spare:
            shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
            but = f" (and {spare} of these are counted as dropped, dead or pending)" if spare else ""
            self.broken("lost", f"{name} never settled, and no longer has: {shown}{but}", *missing)
