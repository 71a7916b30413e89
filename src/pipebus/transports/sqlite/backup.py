"""A copy of a file as of one moment, while programs use it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress

from pipebus.errors import TransportError
from pipebus.transports.sql import statements as sql
from pipebus.transports.sqlite import glance
from pipebus.transports.sqlite.remedies import said


def backup(path: str, copy: str) -> int:
    """
    Copy all that a bus keeps in a file; returns the bytes of the copy, which is on the disk. A bus can use it as it is.

    It appears under its name when it is complete, and takes the place of no other file. Programs go on publishing meanwhile.
    (The bytes themselves must not be copied: part of the messages is in the log next to the file, and a program that closes
    the file drops the locks that SQLite has on it.)

    Raises:
        TransportError: the file cannot be read, or the copy not be written.
    """
    part = f"{copy}.part-{os.getpid()}"
    if os.path.lexists(copy):
        raise TransportError(f"{copy} exists; name a new file")
    with closing(glance.look_into(path, older=True)) as source:
        try:
            with closing(sqlite3.connect(part)) as target:
                source.backup(target)
                with target:  # nobody has the copy open: what programs held comes again at once
                    target.execute(sql.END_LEASES)
            size = _sync(part)
            os.link(part, copy)  # in contrast to `rename` it fails if somebody else was faster
            _sync(os.path.dirname(os.path.abspath(copy)))
        except FileExistsError:
            raise TransportError(f"{copy} exists; name a new file") from None
        except OSError as error:
            raise TransportError(f"{copy} cannot be written: {error.strerror}") from error
        except sqlite3.Error as error:
            raise TransportError(f"{path} cannot be copied to {copy}: {said(error)}") from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)
    return size


def _sync(path: str) -> int:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        return os.fstat(file).st_size
    finally:
        os.close(file)
