"""Where the files of the durable workloads lie: a new folder for each run, on a disk that really syncs."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_MEMORY = ("tmpfs", "ramfs")  # a sync costs nothing there

CHOSEN = "PIPEBUS_BENCHMARK_FOLDER"  # in the environment: all processes of a run know it


def folder() -> str:
    """
    The one that was chosen; else `/var/tmp`, which is on a disk nearly everywhere, or the usual temporary folder.

    Raises:
        SystemExit: There is no such folder, or it is in memory.
    """
    found = os.environ.get(CHOSEN) or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())
    if not os.path.isdir(found):
        raise SystemExit(f"{found} is no folder; name one with --folder")
    if file_system(found) in IN_MEMORY:
        raise SystemExit(
            f"{found} is in memory ({file_system(found)}), where a sync costs nothing; name another one with --folder"
        )
    return found


def file_system(path: str) -> str:
    """The type of the file system that a path lies on (Linux)."""
    whole = os.path.realpath(path)
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    fitting = [(point, kind) for point, kind in mounts if os.path.commonpath([whole, point]) == point]
    return max(fitting, key=lambda mount: len(mount[0]))[1]  # of two on one point the later one hides the other


def told() -> str:
    """What figures of a disk may be compared by."""
    where = folder()
    return f"files in {where} ({file_system(where)}), SQLite {sqlite3.sqlite_version}"


@contextmanager
def new_folder() -> Iterator[str]:
    """The path of an empty folder; it goes with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="pipebus-benchmark-", dir=folder()) as inside:
        yield inside


@contextmanager
def new_file() -> Iterator[str]:
    """The path of a file that is not there yet; it goes with its folder."""
    with new_folder() as inside:
        yield f"{inside}/bus.db"


def settled(path: str) -> None:
    """Wait until a file that was filled is on the disk: else the system writes it out while others are timed."""
    for name in (path, f"{path}-wal"):
        if os.path.exists(name):
            file = os.open(name, os.O_RDWR)
            os.fsync(file)
            os.close(file)
