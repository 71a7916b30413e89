"""
What `pipebus doctor` says about a file: where it is, what is in it, who serves it, and what endangers it.

Nothing is made and nothing is changed.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from pipebus.errors import PipebusError
from pipebus.transports.base import Finding
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql import subscriptions
from pipebus.transports.sql.store import PAUSED
from pipebus.transports.sqlite import connections, glance, schema
from pipebus.transports.sqlite.options import Options
from pipebus.transports.sqlite.remedies import said
from pipebus.transports.sqlite.signs import FULL

LONG_LOG: Final = 64 * 2**20
"""Bytes of a long log."""
LARGE: Final = 100 * 2**20
"""Bytes of a file whose check takes long."""
SHORT_LEASE: Final = 5.0
"""Seconds."""
LOCAL: Final = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "nilfs2"))
"""File systems of disks, with shared memory and locks that all processes see."""
REMOTE: Final = re.compile(
    r"nfs\d*|cifs|smb\w*|ncpfs|afs|9p|virtiofs|ceph|glusterfs|lustre|gpfs|beegfs|orangefs|gfs2?|ocfs2|davfs\d*|vboxsf|vmhgfs|"
    r"fuse\.(sshfs|ceph\w*|glusterfs|s3fs|gcsfuse|rclone|davfs\d*|mfs\w*|vmhgfs-fuse|juicefs|grpcfuse)"
)
"""File systems that several machines may share, or whose locks and syncs another system provides."""

ROOM: Final = 2**30
LEAST_ROOM: Final = 100 * 2**20
"""Free bytes that are few, and too few."""


def examine(options: Options) -> Iterator[Finding]:
    """Examine the file that a URL names."""
    yield _version()
    yield from _settings(options)
    path, folder = options.path, os.path.dirname(options.path)
    if not os.path.isdir(folder):
        yield Finding("wrong", "folder", f"{folder} is not there; make it, or correct the path")
        return
    yield _file_system(folder)
    yield _room(folder)
    yield _rights("folder", folder, os.W_OK | os.X_OK)
    if not os.path.exists(path):
        yield Finding("hint", "file", f"{path} is not there yet; the first bus that uses it makes it")
        return
    if not os.path.isfile(path):
        yield Finding("wrong", "file", f"{path} is not a file; choose another path")
        return
    for one in (path, f"{path}-wal", f"{path}-shm", f"{path}-lock"):
        if one == path or (os.path.exists(one) and not os.access(one, os.W_OK)):
            yield _rights("file", one, os.W_OK)
    yield from _sizes(path, options.max_bytes)
    try:
        yield from _contents(path)
    except (sqlite3.Error, PipebusError) as error:
        yield Finding("wrong", "file", f"{path} cannot be read: {said(error)}")


def _version() -> Finding:
    if sqlite3.sqlite_version_info < schema.OLDEST:
        least = ".".join(map(str, schema.OLDEST))
        return Finding(
            "wrong", "SQLite", f"{sqlite3.sqlite_version} is too old; at least {least} is needed: use a newer Python"
        )
    if sqlite3.sqlite_version_info < schema.FIXED:
        fixed = ".".join(map(str, schema.FIXED))
        return Finding(
            "hint", "SQLite",
            f"{sqlite3.sqlite_version}: before {fixed} a checkpoint that races with a commit of another connection can lose "
            "pages (the WAL-reset bug). pipebus makes its own while nobody writes; other connections must not make any "
            "while the file is in use: PRAGMA wal_autocheckpoint = 0 on each of them that writes",
        )  # fmt: skip
    return Finding("ok", "SQLite", f"{sqlite3.sqlite_version} has no WAL-reset bug")


def _settings(options: Options) -> Iterator[Finding]:
    if options.durability == "process":
        yield Finding(
            "hint", "durability",
            "process: what was acknowledged survives the death of processes, but the last moments before a power cut or a "
            "crash of the system may be lost; leave durability out to be safe from that too",
        )  # fmt: skip
    if options.window == 0:
        yield Finding("hint", "window", "0: a publish that is repeated with the same id is kept twice; 120s is the default")
    if options.lease < SHORT_LEASE:
        yield Finding(
            "hint", "lease",
            f"{options.lease:g} s: a process that pauses for that long (swapping, a stopped container) loses its deliveries, "
            "and others handle them a second time; 30s is the default",
        )  # fmt: skip


def _sizes(path: str, most: int | None) -> Iterator[Finding]:
    size = os.stat(path).st_size
    if most is not None and size >= most * FULL:
        yield Finding(
            "hint", "size",
            f"{_bytes(size)}, and max_bytes is {_bytes(most)}: when that is in use, publishing is refused; look at the "
            "subscriptions below, and at window and retention, or raise max_bytes",
        )  # fmt: skip
    else:
        yield Finding("ok", "size", _bytes(size))
    try:
        log = os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return
    if log > LONG_LOG:
        yield Finding(
            "hint", "log",
            f"{path}-wal has {_bytes(log)}: another program reads an old state of the file (did it leave a "
            "transaction open?), or no bus runs that would move the log into the file",
        )  # fmt: skip
    else:
        yield Finding("ok", "log", f"{path}-wal has {_bytes(log)}")


def _contents(path: str) -> Iterator[Finding]:
    with closing(connections.connect_to_look(path, glance.WAIT)) as connection:
        found = connections.kind(connection)
        refused = connections.refusal(found, path)
        if refused is not None:
            yield Finding("wrong", "file", refused)
            return
        if not found.application:
            yield Finding("hint", "file", f"{path} holds no bus yet; the first one that uses it makes its tables")
            return
        version, newest = found.version, len(schema.STEPS)
        if version < newest:
            yield Finding(
                "hint",
                "version",
                f"{version}; the next bus that opens it updates it to {newest}, and older ones refuse it then",
            )
        else:
            yield Finding("ok", "version", str(version))
        yield _journal(connection, path)
        if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != connections.INCREMENTAL:
            yield Finding(
                "hint", "space",
                "an older pipebus made this file, which never shrinks; while no bus runs, "
                f"sqlite3 {path} 'PRAGMA auto_vacuum = {connections.INCREMENTAL}; VACUUM' lets it",
            )  # fmt: skip
        yield _integrity(connection, path)
        if version == newest:
            yield from _users(connection)


def _journal(connection: sqlite3.Connection, path: str) -> Finding:
    if connections.in_use(path):
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    else:
        with open(path, "rb") as file:  # no connection is open here, so closing it drops no locks
            mode = "wal" if file.read(20)[19:] == b"\2" else "a rollback journal"
    if mode == "wal":
        return Finding("ok", "journal_mode", "wal")
    return Finding("hint", "journal_mode", f"{mode}: another program has changed it; the next bus that opens it makes it wal")


def _integrity(connection: sqlite3.Connection, path: str) -> Finding:
    size = os.stat(path).st_size
    if size >= LARGE:
        return Finding(
            "ok",
            "integrity",
            f"not looked at, since the file is large; on a copy of it: sqlite3 COPY 'PRAGMA quick_check' ({path})",
        )
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found == ["ok"]:
        return Finding("ok", "integrity", "quick_check: ok")
    return Finding(
        "wrong", "integrity",
        f"quick_check: {'; '.join(found)}: it is damaged. Stop what uses it, keep a copy with its -wal, and run "
        "`sqlite3 COPY .recover`, or restore a backup",
    )  # fmt: skip


def _users(connection: sqlite3.Connection) -> Iterator[Finding]:
    connection.execute("BEGIN")  # all of it is of one moment
    served = glance.owners(connection)
    anybody = any(one.lives for one in served)
    durable = connection.execute(sql.DURABLE).fetchall()
    for sub, name, _ in durable:
        yield _subscription(connection, sub, name, anybody)
    letters = connection.execute(sql.LETTERS_OF_PUBLISHES).fetchone()[0]
    if letters:
        yield Finding("ok", "publish", f"{letters:,} dead")
    if not durable:
        yield Finding(
            "hint", "subscriptions", "none: messages without a subscription are kept only for as long as retention says"
        )
    for one in served:
        yield _owner(one)
    if not served:
        yield Finding("ok", "processes", "none has the file open as a bus")
    connection.execute("COMMIT")


def _subscription(connection: sqlite3.Connection, sub: int, name: str, served: bool) -> Finding:
    def count(table: str) -> int:
        return int(connection.execute(sql.COUNT.format(table=table), (sub,)).fetchone()[0])

    pending, out = count("ready") + count("parked") + count("later"), count("claimed")
    paused = connection.execute(sql.META, (f"{PAUSED}{sub}",)).fetchone() is not None
    text = f"{'paused, ' if paused else ''}{pending:,} pending, {out:,} in flight, {count('dead'):,} dead"
    oldest = subscriptions.oldest(connection, sub)
    if oldest is not None:
        text += f"; the oldest pending one is {_age(glance.moment(connection) - oldest)} old"
    if pending + out and not served:
        return Finding("hint", f"subscription {name}", f"{text}; no living process serves the file: start one")
    return Finding("ok", f"subscription {name}", text)


def _owner(one: glance.Served) -> Finding:
    about, out = f"process {one.pid}", f"{one.out:,} in flight"
    if one.ended:
        return Finding("hint", about, f"has died, {out}; the next process that serves the file takes these over")
    if one.left <= 0:
        return Finding(
            "hint", about, f"has given no sign of life for longer than its lease, {out}: is it stopped? Others take these over"
        )
    return Finding("ok", about, f"lives, {out}; its lease has {one.left:.0f} s left")


def _age(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _file_system(folder: str) -> Finding:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            kind, point = file_system(folder, file.read())
    except OSError as error:
        return Finding("hint", "file system", f"unknown ({error.strerror}); it must be a local disk")
    return place(kind, point)


def place(kind: str, point: str) -> Finding:
    """Judge a type of file system."""
    text = f"{kind} (at {point})"
    if kind in LOCAL:
        return Finding("ok", "file system", text)
    if REMOTE.fullmatch(kind):
        return Finding(
            "wrong", "file system",
            f"{text} is shared over a network, or with another machine: SQLite's locks and shared memory do not work there, "
            "and the file can be damaged; use a local disk",
        )  # fmt: skip
    if kind in ("tmpfs", "ramfs"):
        return Finding(
            "hint", "file system", f"{text} is memory: nothing in it survives a power cut or a restart of the machine"
        )
    if kind == "overlay":
        return Finding(
            "hint", "file system", f"{text} is a container's own layer, and gone with it; use a volume of a local disk"
        )
    return Finding("hint", "file system", f"{text} is not one that pipebus knows; it must be local, with locks and mmap")


def file_system(path: str, mounts: str) -> tuple[str, str]:
    """
    Type and mount point of the file system that contains a path.

    Args:
        mounts: The text of /proc/self/mountinfo.
    """
    best = ("unknown", "")
    for line in mounts.splitlines():
        front, dash, back = line.partition(" - ")
        fields = front.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[1]):  # of two file systems at one point, the later one hides the other
            best = (back.split(" ")[0], point)
    return best


def _room(folder: str) -> Finding:
    found = os.statvfs(folder)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = f"{_bytes(free)} of {_bytes(total)} are free"
    if free < LEAST_ROOM:
        return Finding("wrong", "disk", f"{text}: too little to go on; make room")
    if free < ROOM or free < total / 20:
        return Finding("hint", "disk", f"{text}: when it is full nothing can be published; make room, or set max_bytes")
    return Finding("ok", "disk", text)


def _rights(what: str, path: str, how: int) -> Finding:
    if os.access(path, how):
        return Finding("ok", what, f"{path} is writable")
    return Finding("wrong", what, f"{path} is not writable; give this user the right to write the file and its folder")


def _bytes(count: float) -> str:
    """A number of bytes, for people."""
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
