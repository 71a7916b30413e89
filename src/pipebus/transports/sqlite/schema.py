"""The tables, and the versions of a file."""

from __future__ import annotations

import re
from typing import Final

APPLICATION: Final = 0x70627573
"""The application id of our files: "pbus"."""
OLDEST: Final = (3, 37, 0)
"""The oldest SQLite that works."""
FIXED: Final = (3, 51, 3)
"""The first SQLite without the WAL-reset bug; see lock.py."""

TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Each message once, in the order of publishing. It stays while a subscription waits for it, and for as long as the URL says.
-- `stored` and `due` are in the file's time; `replayed` is the id of the dead letter that it was.
CREATE TABLE message (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, subject TEXT NOT NULL, key TEXT, stored REAL NOT NULL, data BLOB NOT NULL,
    due REAL NOT NULL DEFAULT 0, replayed TEXT
);
CREATE INDEX message_id ON message (id);

-- `owner`: the subscription is removed with this owner. The counters never fall.
CREATE TABLE subscription (
    sub INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, patterns TEXT NOT NULL, owner INTEGER,
    accepted INTEGER NOT NULL DEFAULT 0, acknowledged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE dropped (
    sub INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (sub, reason)
) WITHOUT ROWID;

-- A delivery is in one of these until it is settled: it may be claimed, must wait for its time, or is claimed.
-- `takings`: how often it was claimed before and came back. `suspect`: its process ended while it was out.
CREATE TABLE ready (
    sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, suspect INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (sub, seq)
) WITHOUT ROWID;
CREATE TABLE later (
    due REAL, sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, PRIMARY KEY (due, sub, seq)
) WITHOUT ROWID;
CREATE INDEX later_of ON later (sub, seq);
CREATE INDEX later_taken ON later (sub, key) WHERE takings > 0 AND key IS NOT NULL;
CREATE TABLE claimed (
    sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, suspect INTEGER NOT NULL, owner INTEGER NOT NULL,
    PRIMARY KEY (sub, seq)
) WITHOUT ROWID;

-- One row for each start of a transport; `until` is the end of its lease.
CREATE TABLE owner (
    owner INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL,
    born TEXT NOT NULL, until REAL NOT NULL
);

CREATE TABLE dead (
    letter INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, sub INTEGER, subscription TEXT NOT NULL,
    data BLOB NOT NULL, author TEXT, error TEXT NOT NULL, digest TEXT NOT NULL, traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL, first_time REAL NOT NULL, time REAL NOT NULL
);
CREATE INDEX dead_of ON dead (sub);

-- What filters remember.
CREATE TABLE seen (scope TEXT, key TEXT, until REAL NOT NULL, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until);

INSERT INTO meta VALUES ('seq', 0), ('subscriptions', 0);
"""

KEYS: Final = """
-- Of deliveries of a subscription with equal keys, one is at the head; the others are parked until it has ended.
CREATE TABLE head (sub INTEGER, key TEXT, seq INTEGER NOT NULL, PRIMARY KEY (sub, key)) WITHOUT ROWID;
CREATE TABLE parked (
    sub INTEGER, key TEXT, seq INTEGER, takings INTEGER NOT NULL, suspect INTEGER NOT NULL, PRIMARY KEY (sub, key, seq)
) WITHOUT ROWID;
CREATE INDEX parked_of ON parked (sub, seq);

-- Without defaults for their last columns, so that a process of an older pipebus, which slept while the file was brought up to
-- date, can neither publish nor become an owner again.
ALTER TABLE ready RENAME TO ready_1;
CREATE TABLE ready (
    sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, suspect INTEGER NOT NULL, PRIMARY KEY (sub, seq)
) WITHOUT ROWID;
DROP TABLE owner;
CREATE TABLE owner (
    owner INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL,
    born TEXT NOT NULL, until REAL NOT NULL, version INTEGER NOT NULL
);

DELETE FROM ready_1 WHERE sub IN (SELECT sub FROM subscription WHERE owner IS NOT NULL);
DELETE FROM later WHERE sub IN (SELECT sub FROM subscription WHERE owner IS NOT NULL);
DELETE FROM claimed WHERE sub IN (SELECT sub FROM subscription WHERE owner IS NOT NULL);
DELETE FROM dropped WHERE sub IN (SELECT sub FROM subscription WHERE owner IS NOT NULL);
DELETE FROM subscription WHERE owner IS NOT NULL;
INSERT INTO ready_1 SELECT sub, seq, takings + 1, key, 1 FROM claimed;
DELETE FROM claimed;
INSERT OR IGNORE INTO head SELECT sub, key, seq FROM later WHERE takings > 0 AND key IS NOT NULL ORDER BY seq;
INSERT OR IGNORE INTO head SELECT sub, key, min(seq) FROM ready_1 WHERE key IS NOT NULL GROUP BY sub, key;
INSERT INTO parked SELECT r.sub, r.key, r.seq, r.takings, r.suspect FROM ready_1 r
    JOIN head h ON h.sub = r.sub AND h.key = r.key WHERE h.seq <> r.seq;
INSERT INTO ready SELECT * FROM ready_1 r
    WHERE NOT EXISTS (SELECT 1 FROM parked p WHERE p.sub = r.sub AND p.key = r.key AND p.seq = r.seq);
DROP TABLE ready_1;
DROP INDEX later_taken;

-- `filling`: number of the last message that was given to a subscription that began with older ones; NULL: it has them all.
ALTER TABLE subscription ADD COLUMN filling INTEGER;
-- Messages that the sweep has passed, and of which a delivery has ended since.
CREATE TABLE loose (seq INTEGER PRIMARY KEY);
-- The last slot of each schedule that all processes share, in seconds of the calendar.
CREATE TABLE schedule (name TEXT PRIMARY KEY, slot REAL NOT NULL, spec TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
INSERT INTO meta SELECT 'letters', count(*) FROM dead;
INSERT INTO meta SELECT 'swept', coalesce((SELECT min(seq) - 1 FROM message), value) FROM meta WHERE name = 'seq';
DELETE FROM meta WHERE name = 'seq';
"""

STEPS: Final[tuple[str, ...]] = (TABLES, KEYS)
"""Step N makes version N + 1 out of version N. To change the tables, add a step; never change one."""
NAMES: Final = frozenset(re.findall(r"(?m)^CREATE \w+ (\w+)", "".join(STEPS)))
"""Of the tables and indexes."""
