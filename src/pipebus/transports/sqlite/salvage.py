"""Saving what can be saved when the files behind a path were swapped."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from pipebus.transports.sqlite.place import Change, Place


def save(place: Place, change: Change, connection: sqlite3.Connection, wait: float) -> tuple[bool, str]:
    """
    Save what is in a log that has lost its name or its database, and tidy up. Called before the connection is closed.

    Args:
        wait: Seconds to wait for other programs that read.

    Returns:
        Whether everything that was kept is in the file that is opened next; and what has become of it, for people.
    """
    same, fate = False, "what was not yet handled is gone with it"
    match change.what:
        case "index":
            same, fate = True, "nothing is lost"
        case "log":
            # If others have written since, their pages are newer than ours, and ours must not overwrite them.
            same = place.written or (place.log_is_free and place.unharmed() and _checkpoint(connection, wait))
            fate = "nothing is lost" if same else "others have written since, so what was only in that log is lost"
        case "file" if place.there:  # a link leads elsewhere now, and the file goes on without us
            place.unlock()
            fate = "what it held is in the file that it meant before"
        case "file":
            if place.moved and place.unharmed() and _checkpoint(connection, min(wait, 1.0)):
                fate = "what it held is in the file that was renamed"
        case "content":
            fate = "nothing more is kept in it: stop what uses it, run `pipebus doctor`, and restore it from a backup"
    with suppress(OSError):  # it is tried again before another file is opened
        tidy(place, change)
    return same, fate


def _checkpoint(connection: sqlite3.Connection, wait: float) -> bool:
    """Move the whole log into the database. False: that failed."""
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        [busy, frames, done] = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except sqlite3.Error:
        return False
    return not busy and frames == done


def tidy(place: Place, change: Change) -> None:
    """
    Remove the files that another database, or this one without its log, would take for its own log and index.

    Raises:
        OSError: they cannot be removed.
    """
    gone = not place.there
    if gone or change.what == "log":
        place.remove(log=gone)
