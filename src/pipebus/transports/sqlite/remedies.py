"""What helps against the errors of SQLite and of the operating system."""

from __future__ import annotations

from typing import Final

_DISK: Final = "look at the disk and the system's log; it goes on by itself if that passes"
_RIGHTS: Final = "give this user the right to write the file, its -wal, its -shm and its folder"
_ROOM: Final = "make room on the disk; it goes on by itself"

REMEDIES: Final = {
    "disk is full": _ROOM,
    "disk I/O error": _DISK,
    "readonly database": _RIGHTS,
    "unable to open": "look whether the folder exists and this user may write into it",
    "database is locked": "a connection of this or another program holds it; end its transaction, or publish within it",
    "not a database": "it is damaged or no SQLite file; restore it from a backup, or choose another file",
    "malformed": "it is damaged: run `sqlite3 FILE .recover` on a copy, or restore it from a backup",
    "no such table": "it was changed by another program; restore it from a backup",
    # What the operating system says when a file next to the database cannot be made or removed.
    "No space left": _ROOM,
    "Input/output error": _DISK,
    "Permission denied": _RIGHTS,
    "Read-only file system": _RIGHTS,
}
"""Part of an error's text -> remedy."""


def said(error: BaseException) -> str:
    """The error's text, with the remedy if there is one."""
    text = str(error)
    return next((f"{text}: {remedy}" for part, remedy in REMEDIES.items() if part in text), text)
