"""
Every statement of the rules. A test pins the plan of each one: none visits rows that it does not return, apart from those it
names. What is between braces is filled in by its caller, with the name of a table of this file.

A publish may run on a connection of the application's. So it selects `+id` instead of `id`: the value is the same, but it has
no declared type, for which the application may have registered a converter.
"""

from __future__ import annotations

from typing import Final

# --- meta: values of the whole file --------------------------------------------------------------------------------------

META: Final = "SELECT value FROM meta WHERE name = ?"
SET_META: Final = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
ADD_META: Final = "UPDATE meta SET value = value + ? WHERE name = ?"
DELETE_META: Final = "DELETE FROM meta WHERE name = ?"
PAUSED: Final = "SELECT name FROM meta WHERE name GLOB ?"

# --- messages ------------------------------------------------------------------------------------------------------------

INSERT_MESSAGE: Final = "INSERT INTO message (seq, id, subject, key, stored, data, due) VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_REPLAYED: Final = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, 0, ?)"
KNOWN_IDS: Final = "SELECT +id FROM message WHERE id IN ({marks}) AND stored > ?"
DATA: Final = "SELECT data FROM message WHERE seq = ?"
STORED: Final = "SELECT stored FROM message WHERE seq = ?"
LAST: Final = "SELECT max(coalesce((SELECT max(seq) FROM message), 0), (SELECT value FROM meta WHERE name = 'swept'))"
LAST_STORED: Final = "SELECT stored FROM message ORDER BY seq DESC LIMIT 1"
MESSAGES_AFTER: Final = "SELECT seq, subject, key, due FROM message WHERE seq > ? AND replayed IS NULL ORDER BY seq LIMIT ?"
MESSAGES_BACKWARDS: Final = "SELECT seq, subject, key, due FROM message WHERE replayed IS NULL ORDER BY seq DESC"
FOLLOW: Final = "SELECT seq, id, subject, data FROM message WHERE seq > ? AND replayed IS NULL ORDER BY seq LIMIT ?"
MESSAGES_OUTSIDE: Final = (
    "SELECT seq, subject, key, due FROM message WHERE seq > ? AND replayed IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM ready WHERE sub = ? AND seq = message.seq) "
    "AND NOT EXISTS (SELECT 1 FROM parked WHERE sub = ? AND seq = message.seq) "
    "AND NOT EXISTS (SELECT 1 FROM later WHERE sub = ? AND seq = message.seq) "
    "AND NOT EXISTS (SELECT 1 FROM claimed WHERE sub = ? AND seq = message.seq)"
)
DELETE_MESSAGE: Final = "DELETE FROM message WHERE seq = ?"
OLD_MESSAGES: Final = "SELECT seq, stored FROM message WHERE seq > ? ORDER BY seq LIMIT ?"
LOOSE: Final = "SELECT seq FROM loose ORDER BY seq LIMIT ?"
LOOSEN: Final = "INSERT INTO loose VALUES (?) ON CONFLICT DO NOTHING"
LOOSEN_ALL: Final = "INSERT INTO loose SELECT seq FROM {table} WHERE sub = ? AND seq <= ? ON CONFLICT DO NOTHING"
FORGET_LOOSE: Final = "DELETE FROM loose WHERE seq = ?"

# --- deliveries ----------------------------------------------------------------------------------------------------------

DELIVER: Final = "INSERT INTO ready VALUES (?, ?, ?, ?, ?)"
DELIVER_RANGE: Final = "INSERT INTO ready SELECT ?, seq, 0, key, 0 FROM message WHERE seq BETWEEN ? AND ?"
TAKE_HEAD: Final = "INSERT INTO head VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
DELIVER_HEAD: Final = "INSERT INTO ready SELECT sub, seq, ?, key, ? FROM head WHERE sub = ? AND key = ? AND seq = ?"
PARK: Final = "INSERT INTO parked SELECT sub, key, ?, ?, ? FROM head WHERE sub = ? AND key = ? AND seq <> ?"
LEAVE_HEAD: Final = "DELETE FROM head WHERE sub = ? AND key = ?"
NEXT_HEAD: Final = "INSERT INTO head SELECT sub, key, seq FROM parked WHERE sub = ? AND key = ? ORDER BY seq LIMIT 1"
UNPARK: Final = (
    "INSERT INTO ready SELECT p.sub, p.seq, p.takings, p.key, p.suspect FROM head h "
    "JOIN parked p ON p.sub = h.sub AND p.key = h.key AND p.seq = h.seq WHERE h.sub = ? AND h.key = ?"
)
UNPARKED: Final = "DELETE FROM parked WHERE sub = ? AND key = ? AND seq = (SELECT seq FROM head WHERE sub = ? AND key = ?)"
CLAIMABLE: Final = (
    "SELECT r.seq, r.takings, r.key, r.suspect, m.replayed, m.data FROM ready r JOIN message m ON m.seq = r.seq "
    "WHERE r.sub = ? ORDER BY r.seq LIMIT ?"
)
CLAIM: Final = "INSERT INTO claimed SELECT sub, seq, takings, key, suspect, ? FROM ready WHERE sub = ? AND seq BETWEEN ? AND ?"
CLAIMED: Final = "DELETE FROM ready WHERE sub = ? AND seq BETWEEN ? AND ?"
CLAIM_AGAIN: Final = "INSERT INTO claimed VALUES (?, ?, ?, ?, ?, ?)"
TAKE_BACK: Final = "DELETE FROM ready WHERE sub = ? AND seq = ? AND takings > ? RETURNING takings, key, suspect"
END: Final = "DELETE FROM claimed WHERE sub = ? AND seq = ? AND owner = ? AND takings = ?"
END_RANGE: Final = "DELETE FROM claimed WHERE sub = ? AND seq BETWEEN ? AND ? AND owner = ? AND takings = ?"
END_RETURNING: Final = f"{END} RETURNING key, suspect"
END_OWNED: Final = "DELETE FROM claimed WHERE owner = ? RETURNING sub, seq, takings, key, suspect"
POSTPONE: Final = "INSERT INTO later VALUES (?, ?, ?, ?, ?)"
DUE: Final = "SELECT due, sub, seq, takings, key FROM later WHERE due <= ? ORDER BY due LIMIT 1000"
NO_LONGER_LATER: Final = "DELETE FROM later WHERE due = ? AND sub = ? AND seq = ?"
NEXT_DUE: Final = "SELECT due FROM later ORDER BY due LIMIT 1"
NEXT_DUE_OF: Final = "SELECT min(due) FROM later WHERE sub = ?"
MOVE: Final = {
    "ready": "DELETE FROM ready WHERE sub = ? RETURNING seq, takings, key, suspect",
    "parked": "DELETE FROM parked WHERE sub = ? RETURNING seq, takings, key, suspect",
    "later": "DELETE FROM later WHERE sub = ? RETURNING due, seq, takings, key",
}
ANYTHING: Final = (
    "SELECT 1 WHERE (EXISTS (SELECT 1 FROM ready WHERE sub = ?) "
    "OR EXISTS (SELECT 1 FROM subscription WHERE sub = ? AND filling IS NOT NULL)) "
    "AND NOT EXISTS (SELECT 1 FROM meta WHERE name = ?)"
)
WAITED: Final = "SELECT seq FROM {table} WHERE sub = ? AND seq BETWEEN ? AND ?"
NEXT_WAITING: Final = "SELECT min(sub) FROM {table} WHERE sub > ?"
OLDEST: Final = "SELECT min(seq) FROM {table} WHERE sub = ?"
OLDEST_READY: Final = (
    "SELECT stored FROM message WHERE seq = min(coalesce((SELECT min(seq) FROM ready WHERE sub = ?), 9223372036854775807), "
    "coalesce((SELECT min(seq) FROM parked WHERE sub = ?), 9223372036854775807))"
)
NUMBERS: Final = "SELECT seq FROM {table} WHERE sub = ?"
COUNT: Final = "SELECT count(*) FROM {table} WHERE sub = ?"

# --- subscriptions -------------------------------------------------------------------------------------------------------

PATTERNS: Final = "SELECT +sub, +patterns, +filling FROM subscription ORDER BY sub"
SUBSCRIPTION: Final = "SELECT sub, patterns FROM subscription WHERE name = ?"
SUBSCRIPTION_NAME: Final = "SELECT name FROM subscription WHERE sub = ?"
SUBSCRIBE: Final = "INSERT INTO subscription (name, patterns, owner, filling) VALUES (?, ?, ?, ?)"
SUBSCRIBE_AS: Final = "INSERT INTO subscription (sub, name, patterns, owner) VALUES (?, ?, ?, ?)"
SET_PATTERNS: Final = "UPDATE subscription SET patterns = ? WHERE sub = ?"
FILLING: Final = "SELECT filling, patterns FROM subscription WHERE sub = ?"
FILL: Final = "UPDATE subscription SET filling = ? WHERE sub = ?"
LEAST_FILLED: Final = "SELECT min(filling) FROM subscription WHERE filling IS NOT NULL"
ACCEPT: Final = "UPDATE subscription SET accepted = accepted + ? WHERE sub = ?"
ACKNOWLEDGE: Final = "UPDATE subscription SET acknowledged = acknowledged + ? WHERE sub = ?"
FIGURES: Final = "SELECT sub, accepted, acknowledged, filling, patterns FROM subscription WHERE name = ?"
DROPPED: Final = "SELECT reason, count FROM dropped WHERE sub = ? ORDER BY reason"
RECOUNT: Final = (
    "UPDATE subscription SET accepted = acknowledged + "
    + " + ".join(f"(SELECT count(*) FROM {table} WHERE sub = ?)" for table in ("ready", "parked", "later", "claimed", "dead"))
    + " + (SELECT coalesce(sum(count), 0) FROM dropped WHERE sub = ?) WHERE sub = ?"
)
DURABLE: Final = "SELECT sub, name, patterns FROM subscription WHERE owner IS NULL ORDER BY name"
OWNED: Final = "SELECT sub FROM subscription WHERE owner = ?"
REMOVE: Final = "DELETE FROM {table} WHERE sub = ?"

# --- owners --------------------------------------------------------------------------------------------------------------

ENTER: Final = "INSERT INTO owner (boot, space, pid, born, until, version) VALUES (?, ?, ?, ?, ?, ?)"
RENEW: Final = "UPDATE owner SET until = ? WHERE owner = ?"
EXISTS: Final = "SELECT 1 FROM owner WHERE owner = ?"
UNTIL: Final = "SELECT until FROM owner WHERE owner = ?"
OWNERS: Final = "SELECT owner, boot, space, pid, born, until FROM owner WHERE owner <> ?"
OWNERS_WITH_DELIVERIES: Final = (
    "SELECT boot, space, pid, born, until, (SELECT count(*) FROM claimed c WHERE c.owner = o.owner) FROM owner o"
)
LAST_LEASE: Final = "SELECT max(until) FROM owner"  # visits all owners
END_LEASES: Final = "UPDATE owner SET until = 0"
LEAVE: Final = "DELETE FROM owner WHERE owner = ?"

# --- dead letters --------------------------------------------------------------------------------------------------------

INSERT_LETTER: Final = (
    "INSERT INTO dead (id, sub, subscription, data, author, error, digest, traceback, attempts, first_time, time) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
EVICT: Final = "DELETE FROM dead WHERE letter IN (SELECT letter FROM dead ORDER BY letter LIMIT ?) RETURNING sub"
LETTER: Final = "SELECT sub, subscription, data FROM dead WHERE id = ?"
DELETE_LETTER: Final = "DELETE FROM dead WHERE id = ? RETURNING sub"
LETTERS: Final = (
    "SELECT id, subscription, data, author, error, digest, traceback, attempts, first_time, time FROM dead {where} "
    "ORDER BY letter"
)
LETTERS_OF_PUBLISHES: Final = "SELECT count(*) FROM dead WHERE sub IS NULL"
REASON: Final = "SELECT 1 FROM dropped WHERE sub = ? AND reason = ?"
REASONS: Final = "SELECT count(*) FROM dropped WHERE sub = ?"
COUNT_DROP: Final = "INSERT INTO dropped VALUES (?, ?, 1) ON CONFLICT (sub, reason) DO UPDATE SET count = dropped.count + 1"

# --- what filters remember, and schedules --------------------------------------------------------------------------------

KNOWS: Final = "SELECT 1 FROM seen WHERE scope = ? AND key = ? AND until > ?"
LEARN: Final = "INSERT INTO seen VALUES (?, ?, ?) ON CONFLICT (scope, key) DO UPDATE SET until = excluded.until"
FORGET: Final = "DELETE FROM seen WHERE until <= ?"
RECORD_SLOT: Final = (
    "INSERT INTO schedule VALUES (?, ?, ?) ON CONFLICT (name) "
    "DO UPDATE SET slot = excluded.slot, spec = excluded.spec WHERE excluded.slot > schedule.slot"
)
FORGET_SLOTS: Final = "DELETE FROM schedule WHERE name = ?"
SLOT: Final = "SELECT slot FROM schedule WHERE name = ?"
SLOTS: Final = "SELECT name, slot, spec FROM schedule ORDER BY name"
