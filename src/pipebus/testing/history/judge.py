"""The judge: one pass over the records that looks for broken promises, and what it finds."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from pipebus.message.patterns import Pattern
from pipebus.testing.history import records

ENDS: Final = ("acknowledged", "dropped", "dead")
"""After one of these a message does not come again."""

COUNTED: Final = (
    "attempted", "accepted", "duplicates", "delivered", "redelivered", "recovered", "stale", "acknowledged", "dropped", "dead",
    "returned", "released",
)  # fmt: skip
"""Recovered: delivered without a receipt. Stale: settled after a later delivery. Duplicates: receipts."""

Kind = Literal[
    "lost", "unexpected", "duplicate", "over_budget", "mislabelled", "double_settlement", "order", "conservation"
]  # fmt: skip

SHOWN: Final = 20
"""How many violations an error shows, and how many ids a violation names."""


class Violation(msgspec.Struct, frozen=True):
    """One broken promise; `text` names the messages."""

    kind: Kind
    text: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class HistoryBroken(AssertionError):
    """A history breaks a promise; the text lists the violations."""


class Judgement(msgspec.Struct, frozen=True):
    """The result of judging a history: the violations, in the order in which they were found, and the counts of COUNTED."""

    violations: tuple[Violation, ...]
    counts: dict[str, int]

    def of(self, kind: Kind) -> tuple[Violation, ...]:
        """The violations of one kind."""
        return tuple(one for one in self.violations if one.kind == kind)

    def raise_if_broken(self) -> None:
        """Raise HistoryBroken, with a line for each violation."""
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


@dataclass(slots=True)
class Mail:
    """One message in one subscription."""

    taken: Counter[int] = field(default_factory=Counter)  # deliveries by attempt, without those that were released
    settled: Counter[int] = field(default_factory=Counter)  # settlements by attempt
    open: dict[tuple[int, str], int] = field(default_factory=dict)  # (attempt, worker) -> deliveries not settled
    ended: int = 0  # settlements that end it, without those that came too late
    ever: Counter[str] = field(default_factory=Counter)  # how it was settled


class Judge:
    """One pass over the records."""

    def __init__(self, given: Iterable[records.AnyRecord]) -> None:
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.subscribed = {r.subscription: r for r in given if isinstance(r, records.Subscribed)}
        self.patterns = {name: [Pattern(p) for p in r.patterns] for name, r in self.subscribed.items()}
        self.attempts: dict[str, records.Attempted] = {}  # the first of each id
        self.places: dict[str, int] = {}  # id -> its place in the order of publishing
        self.tries: Counter[str] = Counter()
        self.receipts: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self.mail: dict[tuple[str, str], Mail] = defaultdict(Mail)
        self.last: dict[tuple[str, ...], str] = {}  # by group: the latest message in order
        self.kept: dict[tuple[str, str], str] = {}
        self.figures: list[records.Figures] = []
        self._numbers = itertools.count()
        for record in given:  # first, because a delivery may be recorded before its publish, and merged times may be equal
            if isinstance(record, records.Attempted):
                self.tries[record.id] += 1
                if record.id not in self.attempts:
                    self.attempts[record.id] = record
                    self.places[record.id] = next(self._numbers)
            elif isinstance(record, records.Accepted):
                self.receipts[record.id] += 1
                self.duplicates[record.id] += record.duplicate

    def broken(self, kind: Kind, text: str, *ids: str) -> None:
        self.violations.append(Violation(kind, text, ids))

    def copies(self, id: str) -> int:
        """How many copies there may be: one, unless it was published several times and the duplicates were not recognised."""
        return max(1, self.tries[id] - self.duplicates[id])

    def see(self, record: records.AnyRecord) -> None:
        match record:
            case records.Attempted():
                self.counts["attempted"] += 1
            case records.Accepted():
                self.counts["accepted"] += 1
                self.counts["duplicates"] += record.duplicate
                if record.id not in self.attempts:
                    self.broken("unexpected", f"a receipt for {record.id}, which nobody published", record.id)
            case records.Delivered():
                self.delivered(record)
            case records.Settled():
                self.settled(record)
            case records.Replayed():
                mail = self.mail[record.subscription, record.id]
                mail.taken.clear()
                mail.settled.clear()
                mail.ended = 0
            case records.Ended():
                for mail in self.mail.values():
                    for attempt, worker in [key for key in mail.open if key[1] == record.worker]:
                        mail.taken[attempt] -= mail.open.pop((attempt, worker))
            case records.Kept():
                self.kept[record.subscription, record.id] = record.state
            case records.Figures():
                self.figures.append(record)

    def delivered(self, one: records.Delivered) -> None:
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

    def in_order(self, name: str, published: records.Attempted) -> None:
        """Check the order of a first delivery."""
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

    def settled(self, one: records.Settled) -> None:
        name, id, attempt = one.subscription, one.id, one.attempt
        self.counts[one.how] += 1
        mail = self.mail[name, id]
        if not attempt and mail.open:  # the attempt is not known: take the newest that this worker has
            attempt = max((key[0] for key in mail.open if key[1] == one.worker), default=0)
        if not attempt and one.how == "dropped" and mail.ever["dead"] > mail.ever["discarded"]:
            mail.ever["discarded"] += 1  # a dead letter that was discarded or evicted
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

    def conserved(self, one: records.Figures) -> None:
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
        counted: Counter[str] = Counter()  # what the figures say about messages that are not recorded by id
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
