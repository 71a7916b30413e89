"""
What is read and written: every statement of the transport, each method within somebody's transaction.

A delivery is a row in `ready`, `later` or `claimed`, and each settlement moves or deletes that row: so nothing is counted
twice, and what a killed process has left undone is what its rows say. The row in `claimed` names its owner and its takings;
who settles has to name the same two (the fencing token), so that whoever lost a delivery cannot settle it any more.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern, PatternTree
from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.transports.base import Verdict
from pipebus.transports.sqlite.boot import Life

REPLY: Final = "_reply."
"""How the subjects of answers begin; see replies.py."""
SUBJECTS: Final = 16_384
"""Most subjects whose subscriptions are remembered."""
ASIDE: Final = 256
"""How many further messages of keys that it has just taken a claim looks past; the next one skips all of them."""
REASONS: Final = 1_000
"""Most reasons of drops that a subscription counts apart."""
CHUNK: Final = 500
"""Parameters in one statement."""


class Outgoing(NamedTuple):
    """One message on its way into the file; `due` is its time in the file's seconds, 0: at once."""

    id: str
    subject: str
    key: str | None
    data: bytes
    delay: float


class Found(NamedTuple):
    """One delivery, as it was claimed."""

    seq: int
    takings: int
    suspect: bool
    replayed: bool
    data: bytes


class Claim:
    """One delivery in this process's hands: what the bus gives back when it settles it."""

    __slots__ = ("binding", "generation", "owner", "refused", "replayed", "seq", "since", "sub", "suspect", "takings")

    def __init__(self, binding: Any, generation: int, sub: int, owner: int, found: Found) -> None:
        self.binding = binding
        self.generation = generation  # of the file: in another one its numbers mean other messages
        self.refused: str | None = None  # why it could not be settled
        self.sub = sub
        self.owner = owner
        self.seq = found.seq
        self.takings = found.takings
        self.suspect = found.suspect
        self.since = time.monotonic()
        self.replayed = found.replayed

    @property
    def fence(self) -> tuple[int, int, int, int]:
        return (self.sub, self.seq, self.owner, self.takings)


class Settlement(NamedTuple):
    claim: Claim
    verdict: Verdict
    delay: float
    why: str | DeadLetter


class Owner(NamedTuple):
    owner: int
    life: Life
    until: float


class Directory:
    """Who listens to what, as of some version of the file; shared by the connections of one transport."""

    def __init__(self) -> None:
        self.version: Any = None
        self.tree: PatternTree[int] = PatternTree()
        self.replies: PatternTree[int] = PatternTree()  # answers to requests reach nobody else
        self.reach: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def subscriptions(self, subject: str) -> tuple[int, ...]:
        found = self.reach.get(subject)
        if found is None:
            tree = self.replies if subject.startswith(REPLY) else self.tree
            found = tuple(dict.fromkeys(tree.match(subject)))
            if len(self.reach) >= SUBJECTS:
                self.reach.popitem(last=False)
            self.reach[subject] = found
        return found


class Store:
    """
    The statements, on one connection.

    Args:
        now: The file's time, in seconds; see boot.py.
        window: Seconds for which an id is known.
        retention: Seconds for which what nobody waits for is kept.
        letters: Most dead letters.
        generation: Of the file's contents, in this process.
    """

    def __init__(
        self, connection: sqlite3.Connection, directory: Directory, now: Callable[[], float], window: float,
        retention: float, letters: int, generation: int = 0,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.execute = connection.execute
        self.many = connection.executemany
        self.directory = directory
        self.now = now
        self.window = window
        self.retention = max(retention, window)
        self.letters = letters
        self.generation = generation
        self.touched: set[int] = set()  # subscriptions that have got something to claim
        self._swept = 0

    # --- the file's own values ---------------------------------------------------------------------------------------

    def meta(self, name: str) -> Any:
        row = self.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row is not None else None

    def set_meta(self, name: str, value: Any) -> None:
        self.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))

    def take_numbers(self, count: int) -> int:
        """The first of so many new numbers. They are never given twice: their order is the order of publishing."""
        first = int(self.meta("seq")) + 1
        self.execute("UPDATE meta SET value = ? WHERE name = 'seq'", (first + count - 1,))
        return first

    # --- publishing --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Know the subscriptions as they are in this transaction."""
        version = self.meta("subscriptions")
        directory = self.directory
        if directory.version == version:
            return
        tree: PatternTree[int] = PatternTree()
        replies: PatternTree[int] = PatternTree()
        for sub, patterns in self.execute("SELECT sub, patterns FROM subscription ORDER BY sub"):
            for pattern in json.loads(patterns):
                (replies if pattern.startswith(REPLY) else tree).add(Pattern(pattern), sub)
        directory.tree, directory.replies, directory.reach, directory.version = tree, replies, OrderedDict(), version

    def publish(self, outgoing: Sequence[Outgoing]) -> list[Receipt]:
        """Keep messages, and a delivery for each subscription that a message matches; an id that is known changes nothing."""
        self.look()
        now = self.now()
        known = self._known({one.id for one in outgoing}, now - self.window) if self.window > 0 else set()
        reach = self.directory.subscriptions
        receipts: list[Receipt] = []
        messages: list[tuple[Any, ...]] = []
        ready: list[tuple[int, int, str | None]] = []
        later: list[tuple[float, int, int, str | None]] = []
        seq = self.take_numbers(len(outgoing))
        gained: Counter[int] = Counter()
        subs: tuple[int, ...] = ()
        for id, subject, key, data, delay in outgoing:
            subs = reach(subject)
            if id in known:
                receipts.append(Receipt(len(subs), duplicate=True))
                continue
            if self.window > 0:
                known.add(id)
            messages.append((seq, id, subject, key, now, data, now + delay if delay > 0 else 0.0))
            for sub in subs:
                if delay > 0:
                    later.append((now + delay, sub, seq, key))
                else:
                    ready.append((sub, seq, key))
            gained.update(subs)
            receipts.append(_RECEIPTS[len(subs)] if len(subs) < len(_RECEIPTS) else Receipt(len(subs)))
            seq += 1
        self.many("INSERT INTO message (seq, id, subject, key, stored, data, due) VALUES (?, ?, ?, ?, ?, ?, ?)", messages)
        if ready:
            if len(ready) == len(messages) * len(subs) and all(sub in subs for sub in gained):  # each to the same ones
                for sub in subs:
                    self.execute(
                        "INSERT INTO ready (sub, seq, takings, key) "
                        "SELECT ?, seq, 0, key FROM message WHERE seq BETWEEN ? AND ?",
                        (sub, messages[0][0], messages[-1][0]),
                    )
            else:
                self.many("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", ready)
            self.touched.update(gained)
        if later:
            self.many("INSERT INTO later VALUES (?, ?, ?, 0, ?)", later)
        if gained:
            self.many(
                "UPDATE subscription SET accepted = accepted + ? WHERE sub = ?", [(count, sub) for sub, count in gained.items()]
            )
        return receipts

    def _known(self, ids: Iterable[str], since: float) -> set[str]:
        found: set[str] = set()
        left = list(ids)
        while left:
            some, left = left[:CHUNK], left[CHUNK:]
            marks = _marks(len(some))
            rows = self.execute(f"SELECT id FROM message WHERE id IN ({marks}) AND stored > ?", (*some, since))
            found.update(id for (id,) in rows)
        return found

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, name: str, patterns: Sequence[str], start: str, owner: int | None) -> int:
        """The number of a subscription, new or known; with what `start` gives a new one."""
        texts = json.dumps(list(patterns))
        row = self.execute("SELECT sub, patterns FROM subscription WHERE name = ?", (name,)).fetchone()
        if row is not None:
            sub = int(row[0])
            if row[1] != texts:
                self.execute("UPDATE subscription SET patterns = ? WHERE sub = ?", (texts, sub))
                self._changed()
            return sub
        found = self.execute(
            "INSERT INTO subscription (name, patterns, owner) VALUES (?, ?, ?)", (name, texts, owner)
        ).lastrowid
        assert found is not None
        self._changed()
        if start != "new":
            self._start(found, patterns, start)
        return found

    def subscribe_again(
        self, gone: int, name: str, patterns: Sequence[str], owner: int | None, since: int, known: set[int]
    ) -> int:
        """
        A subscription that somebody has deleted while it was served: what it has coming is still its own, if that is there,
        and what was published since for want of it is added.

        Args:
            gone: Its number.
            since: The last message that was published when it was seen last.
            known: What was claimed after that.
        """
        sub = self.number(name)
        if sub is None:
            sub = gone
            self.execute("DELETE FROM subscription WHERE sub = ?", (gone,))  # of another name by now
            self.execute(
                "INSERT INTO subscription (sub, name, patterns, owner) VALUES (?, ?, ?, ?)",
                (sub, name, json.dumps(list(patterns)), owner),
            )
        else:
            for table in ("ready", "later"):
                self.execute(f"UPDATE OR IGNORE {table} SET sub = ? WHERE sub = ?", (sub, gone))
        self._changed()
        parsed = [Pattern(pattern) for pattern in patterns]
        rows = self.execute(
            "SELECT seq, subject, key, due FROM message WHERE seq > ? AND replayed IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM ready WHERE sub = ? AND seq = message.seq) "
            "AND NOT EXISTS (SELECT 1 FROM later WHERE sub = ? AND seq = message.seq) "
            "AND NOT EXISTS (SELECT 1 FROM claimed WHERE sub = ? AND seq = message.seq)",
            (since, sub, sub, sub),
        ).fetchall()
        now = self.now()
        for seq, subject, key, due in rows:
            if seq not in known and any(pattern.matches(subject) for pattern in parsed):
                if due > now:
                    self.execute("INSERT INTO later VALUES (?, ?, ?, 0, ?)", (due, sub, seq, key))
                else:
                    self.execute("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", (sub, seq, key))
        coming = " + ".join(f"(SELECT count(*) FROM {table} WHERE sub = ?1)" for table in ("ready", "later", "claimed", "dead"))
        self.execute(
            f"UPDATE subscription SET accepted = acknowledged + {coming} "
            "+ (SELECT coalesce(sum(count), 0) FROM dropped WHERE sub = ?1) WHERE sub = ?1",
            (sub,),
        )
        self.touched.add(sub)
        return sub

    def _start(self, sub: int, patterns: Sequence[str], start: str) -> None:
        parsed = [Pattern(pattern) for pattern in patterns]
        order = "ORDER BY seq DESC" if start == "last" else "ORDER BY seq"
        kept: list[tuple[int, int, str | None, float]] = []
        for seq, subject, key, due in self.execute(
            f"SELECT seq, subject, key, due FROM message WHERE replayed IS NULL {order}"
        ):
            if any(pattern.matches(subject) for pattern in parsed):
                kept.append((sub, seq, key, due))
                if start == "last":
                    break
        now = self.now()
        ready = [one[:3] for one in kept if one[3] <= now]
        later = [(due, *one) for *one, due in kept if due > now]
        self.many("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", ready)
        self.many("INSERT INTO later VALUES (?, ?, ?, 0, ?)", later)
        self.execute("UPDATE subscription SET accepted = accepted + ? WHERE sub = ?", (len(kept), sub))
        self.touched.add(sub)

    def remove(self, sub: int) -> None:
        """A subscription with all that it has coming. Its dead letters stay."""
        for table in ("ready", "later", "claimed", "dropped", "subscription"):
            self.execute(f"DELETE FROM {table} WHERE sub = ?", (sub,))
        self._changed()

    def number(self, name: str) -> int | None:
        row = self.execute("SELECT sub FROM subscription WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row is not None else None

    def _changed(self) -> None:
        self.execute("UPDATE meta SET value = value + 1 WHERE name = 'subscriptions'")

    # --- claiming ----------------------------------------------------------------------------------------------------

    def claim(self, sub: int, owner: int, limit: int, careful: bool | None) -> list[Found]:
        """
        Take deliveries, the oldest first.

        Of messages with equal keys one at a time is out, in all processes. One that was out when its process ended may have
        killed it: such a suspect is taken by itself, and not at all if `careful`, for then this process has one already. What
        is only waiting its turn beside a deadly one does not share its fate again and again. (`careful` None: whoever reads
        may want many at once, so they are taken like all others.)
        """
        rows = self._ready(sub, 0, limit)
        if any(row[2] is not None for row in rows):
            rows = self._one_of_a_key(sub, rows, limit)
        for number, row in enumerate(rows):
            if row[3] and careful is not None:
                rows = rows[: number or not careful]
                break
        if not rows:
            return []
        if all(row[2] is None for row in rows):  # then they are all without a key that there are between the first and the last
            between = "FROM ready WHERE sub = ? AND seq BETWEEN ? AND ? AND key IS NULL"
            ends = (sub, rows[0][0], rows[-1][0])
            self.execute(f"INSERT INTO claimed SELECT sub, seq, takings, key, suspect, ? {between}", (owner, *ends))
            self.execute(f"DELETE {between}", ends)
        else:
            self.many("DELETE FROM ready WHERE sub = ? AND seq = ?", [(sub, row[0]) for row in rows])
            self.many("INSERT INTO claimed VALUES (?, ?, ?, ?, ?, ?)", [(sub, *row[:4], owner) for row in rows])
        return [Found(seq, takings, bool(suspect), again is not None, data) for seq, takings, _, suspect, again, data in rows]

    def _ready(self, sub: int, after: int, limit: int) -> list[Any]:
        """What may be claimed: nothing whose key is out, or waits for its next taking."""
        return self.execute(
            "SELECT r.seq, r.takings, r.key, r.suspect, m.replayed, m.data FROM ready r JOIN message m ON m.seq = r.seq "
            "WHERE r.sub = ?1 AND r.seq > ?2 AND (r.key IS NULL OR r.key NOT IN ("
            "SELECT key FROM claimed WHERE sub = ?1 AND key IS NOT NULL UNION ALL "
            "SELECT key FROM later WHERE sub = ?1 AND takings > 0 AND key IS NOT NULL)) ORDER BY r.seq LIMIT ?3",
            (sub, after, limit),
        ).fetchall()

    def _one_of_a_key(self, sub: int, rows: list[Any], limit: int) -> list[Any]:
        """The first of each key; of those behind, as many as make up for the others, if they are not far."""
        kept: list[Any] = []
        taken: set[str] = set()
        past = 0
        while rows:
            for row in rows:
                if row[2] is None or row[2] not in taken:
                    kept.append(row)
                    taken.add(row[2])
            past += len(rows)
            if len(kept) >= limit or past >= limit + ASIDE:
                break
            rows = self._ready(sub, rows[-1][0], max(limit, 64))
        return kept[:limit]

    def wake(self) -> None:
        """Deliveries whose time has come may be claimed."""
        rows = self.execute(
            "SELECT due, sub, seq, takings, key FROM later WHERE due <= ? ORDER BY due LIMIT 1000", (self.now(),)
        ).fetchall()
        if rows:
            self.many("DELETE FROM later WHERE due = ? AND sub = ? AND seq = ?", [row[:3] for row in rows])
            self.many("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, ?, ?)", [row[1:] for row in rows])
            self.touched.update(row[1] for row in rows)

    # --- settling ----------------------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> int:
        """Carry out what became of deliveries; how many came too late, because their lease had ended."""
        stale = 0
        handled: dict[int, list[tuple[int, int, int, int]]] = {}
        for settlement in settlements:
            claim = settlement.claim
            if settlement.verdict == "acknowledge":
                handled.setdefault(claim.sub, []).append(claim.fence)
            else:
                stale += not self._settle_one(settlement)
        for sub, fences in handled.items():
            done = self._delete(sub, fences)
            self.execute("UPDATE subscription SET acknowledged = acknowledged + ? WHERE sub = ?", (done, sub))
            stale += len(fences) - done
            self.touched.add(sub)
        return stale

    def _delete(self, sub: int, fences: list[tuple[int, int, int, int]]) -> int:
        """Take deliveries out of `claimed`: how many were there. Numbers without a gap go by their ends."""
        fences.sort(key=itemgetter(1))
        _, low, owner, takings = fences[0]
        dense = fences[-1][1] - low + 1 == len(fences)
        if dense and len(fences) > 1 and all(fence[2] == owner and fence[3] == takings for fence in fences):
            query = "DELETE FROM claimed WHERE sub = ? AND seq BETWEEN ? AND ? AND owner = ? AND takings = ?"
            return self.execute(query, (sub, low, fences[-1][1], owner, takings)).rowcount
        return self.many("DELETE FROM claimed WHERE sub = ? AND seq = ? AND owner = ? AND takings = ?", fences).rowcount

    def _settle_one(self, settlement: Settlement) -> bool:
        claim, verdict, delay, why = settlement
        row = self.execute(
            "DELETE FROM claimed WHERE sub = ? AND seq = ? AND owner = ? AND takings = ? RETURNING key, suspect", claim.fence
        ).fetchone()
        if row is None:
            return False
        sub, seq = claim.sub, claim.seq
        self.touched.add(sub)
        if verdict == "return" and delay > 0:
            self.execute("INSERT INTO later VALUES (?, ?, ?, ?, ?)", (self.now() + delay, sub, seq, claim.takings + 1, row[0]))
        elif verdict in ("return", "release"):
            takings = claim.takings + (verdict == "return")
            suspect = row[1] if verdict == "release" else 0  # who gives it back has survived it
            self.execute("INSERT INTO ready VALUES (?, ?, ?, ?, ?)", (sub, seq, takings, row[0], suspect))
        elif isinstance(why, DeadLetter):
            [(name,)] = self.execute("SELECT name FROM subscription WHERE sub = ?", (sub,))
            [(data,)] = self.execute("SELECT data FROM message WHERE seq = ?", (seq,))
            self.bury(why, data, sub, name)
        else:
            self.drop(sub, _text(why) or "dropped")
        return True

    def drop(self, sub: int, reason: str) -> None:
        """Count a drop; of reasons that are never the same, the first so many by themselves."""
        if not self.execute("SELECT 1 FROM dropped WHERE sub = ? AND reason = ?", (sub, reason)).fetchone():
            [known] = self.execute("SELECT count(*) FROM dropped WHERE sub = ?", (sub,)).fetchone()
            reason = reason if known < REASONS else "(other)"
        self.execute(
            "INSERT INTO dropped VALUES (?, ?, 1) ON CONFLICT (sub, reason) DO UPDATE SET count = count + 1", (sub, reason)
        )

    # --- owners ------------------------------------------------------------------------------------------------------

    def enter(self, life: Life, until: float) -> int:
        """A new owner."""
        found = self.execute(
            "INSERT INTO owner (boot, space, pid, born, until) VALUES (?, ?, ?, ?, ?)", (*life, until)
        ).lastrowid
        assert found is not None
        return found

    def renew(self, owner: int, until: float) -> bool:
        """False: others thought it had ended, and have taken its deliveries."""
        return self.execute("UPDATE owner SET until = ? WHERE owner = ?", (until, owner)).rowcount == 1

    def is_owner(self, owner: int) -> bool:
        return self.execute("SELECT 1 FROM owner WHERE owner = ?", (owner,)).fetchone() is not None

    def owners(self) -> list[Owner]:
        rows = self.execute("SELECT owner, boot, space, pid, born, until FROM owner").fetchall()
        return [Owner(row[0], Life(*row[1:5]), row[5]) for row in rows]

    def expire(self, owner: Owner, ended: bool) -> None:
        """An owner seems to have gone: if it has not renewed its lease since it was looked at, what it had is free."""
        row = self.execute("SELECT until FROM owner WHERE owner = ?", (owner.owner,)).fetchone()
        if row is not None and (ended or row[0] <= self.now()):
            self.leave(owner.owner, counts=True)

    def leave(self, owner: int, counts: bool) -> None:
        """
        An owner has gone: what it had may be claimed again.

        Args:
            counts: These were takings: it was killed, perhaps by one of them.
        """
        for (sub,) in self.execute("SELECT sub FROM subscription WHERE owner = ?", (owner,)).fetchall():
            self.remove(sub)
        rows = self.execute(
            "DELETE FROM claimed WHERE owner = ? RETURNING sub, seq, takings, key, suspect", (owner,)
        ).fetchall()
        self.many(
            "INSERT INTO ready VALUES (?, ?, ?, ?, ?)",
            [(sub, seq, takings + counts, key, counts or suspect) for sub, seq, takings, key, suspect in rows],
        )
        self.touched.update(row[0] for row in rows)
        self.execute("DELETE FROM owner WHERE owner = ?", (owner,))

    def adopt(self, claims: Iterable[Claim], owner: int) -> list[tuple[Claim, int]]:
        """Take back, under a new owner, those deliveries that nobody else has claimed meanwhile; with their takings."""
        adopted: list[tuple[Claim, int]] = []
        for claim in claims:
            row = self.execute(
                "DELETE FROM ready WHERE sub = ? AND seq = ? AND takings > ? RETURNING takings, key, suspect",
                (claim.sub, claim.seq, claim.takings),
            ).fetchone()
            if row is not None:
                self.execute("INSERT INTO claimed VALUES (?, ?, ?, ?, ?, ?)", (claim.sub, claim.seq, *row, owner))
                adopted.append((claim, row[0]))
        return adopted

    # --- dead letters ------------------------------------------------------------------------------------------------

    def bury(self, letter: DeadLetter, data: bytes, sub: int | None, name: str) -> None:
        """Keep a letter; over the cap the oldest goes."""
        self.execute(
            "INSERT INTO dead (id, sub, subscription, data, author, error, digest, traceback, attempts, first_time, time) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                letter.id, sub, name, data, letter.by and _text(letter.by), _text(letter.error), letter.digest,
                _text(letter.traceback), letter.attempts, letter.first_time, letter.time,
            ),
        )  # fmt: skip
        over = self.execute(
            "DELETE FROM dead WHERE letter <= (SELECT letter FROM dead ORDER BY letter DESC LIMIT 1 OFFSET ?) RETURNING sub",
            (self.letters,),
        ).fetchall()
        for (old,) in over:
            if old is not None:
                self.drop(old, "evicted")

    def revive(self, letter: str) -> str | None:
        """Give a dead letter's message back to its subscription; the reason why not, or None."""
        row = self.execute("SELECT sub, subscription, data FROM dead WHERE id = ?", (letter,)).fetchone()
        if row is None:
            return "there is no such letter any more"
        sub, name, data = row
        if not self.execute("SELECT 1 FROM subscription WHERE sub = ?", (sub,)).fetchone():
            return f"its subscription {name} is gone"
        seq = self.take_numbers(1)
        wire = _attributes(data)
        self.execute(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
            (seq, wire.get("id", letter), wire.get("type", ""), wire.get("partitionkey"), self.now(), data, letter),
        )
        self.execute("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", (sub, seq, wire.get("partitionkey")))
        self.execute("DELETE FROM dead WHERE id = ?", (letter,))
        self.touched.add(sub)
        return None

    # --- room --------------------------------------------------------------------------------------------------------

    def sweep(self, keep: float | None = None, most: int = 2000, anew: bool = False) -> int:
        """
        Delete messages that nobody waits for and whose time is over: how many. Each call looks at the next `most`.

        Args:
            keep: Seconds to keep them; None: as the URL says.
            anew: Begin with the oldest.
        """
        if anew:
            self._swept = 0
        horizon = self.now() - (self.retention if keep is None else keep)
        rows = self.execute(
            "SELECT seq, stored FROM message WHERE seq > ? ORDER BY seq LIMIT ?", (self._swept, most)
        ).fetchall()
        rows = [row for row in rows if row[1] <= horizon]  # later ones are younger
        self._swept = rows[-1][0] if len(rows) == most else 0
        self.execute("DELETE FROM seen WHERE until <= ?", (self.now(),))
        if not rows:
            return 0
        low, high = rows[0][0], rows[-1][0]
        waited = {seq for (seq,) in self.execute("SELECT seq FROM claimed")}
        for (sub,) in self.execute("SELECT sub FROM subscription").fetchall():
            for table in ("ready", "later"):
                query = f"SELECT seq FROM {table} WHERE sub = ? AND seq BETWEEN ? AND ?"
                waited.update(seq for (seq,) in self.execute(query, (sub, low, high)))
        free = [(seq,) for seq, _ in rows if seq not in waited]
        self.many("DELETE FROM message WHERE seq = ?", free)
        return len(free)

    def size(self) -> int:
        """Bytes in use."""
        pages, free, size = (
            self.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


_RECEIPTS: Final = tuple(Receipt(count) for count in range(64))
"""One value for each usual number of subscriptions."""


def _marks(count: int) -> str:
    return ",".join("?" * count)


def _text(text: str) -> str:
    """What SQLite can keep: an error's text may hold half of a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _attributes(data: bytes) -> dict[str, Any]:
    """Of a message's bytes, what there is of its envelope: text only."""
    try:
        wire = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in wire.items() if isinstance(value, str)} if isinstance(wire, dict) else {}
