"""
The clock, and which processes are alive, on this machine.

Leases and delays are measured by the clock since boot, which goes on while the machine sleeps and which nobody can set. It
starts from zero with each boot. So a file stores the id of the boot and what to add to that clock to make its time go on.
"""

from __future__ import annotations

import os
import sys
import time

from pipebus.errors import UnsupportedCapability
from pipebus.transports.sql import owners
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.records import Life
from pipebus.transports.sql.store import Store


def since_boot() -> float:
    """Seconds; goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """
    An id that is different after each boot.

    Raises:
        UnsupportedCapability: this system is not Linux.
    """
    if not hasattr(time, "CLOCK_BOOTTIME") or not os.path.exists("/proc/sys/kernel/random/boot_id"):
        raise UnsupportedCapability(
            f"the SQLite transport needs Linux (its boot id, its clock since boot, its file locks); this is {sys.platform}"
        )
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def me() -> Life:
    """This process."""
    return Life(boot_id(), str(os.stat("/proc/self/ns/pid").st_ino), os.getpid(), _born("self"))


def ended(other: Life, mine: Life) -> bool:
    """True: that process has certainly ended. False: it is alive, or that cannot be determined from here."""
    if other.boot != mine.boot:
        return True
    if other.space != mine.space:
        return False
    try:
        return _born(str(other.pid)) != other.born
    except OSError:
        pass  # there is no such process, or it is hidden from this one
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _born(pid: str) -> str:
    """When a process was started, in ticks since boot; "" if it is a zombie."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        rest = file.read().rpartition(b")")[2].split()
    if rest[0] in (b"Z", b"X"):
        return ""
    return rest[19].decode()


def catch_up(store: Store, boot_now: str) -> float:
    """
    What to add to the clock since boot to get the file's time.

    After a new boot the file's time continues by what has passed on the calendar, and never goes back; and all owners from
    before that boot have ended.
    """
    base = store.meta("base")
    if base is not None and store.meta("boot") == boot_now:
        return float(base)
    store.execute("BEGIN IMMEDIATE")
    try:
        last = store.execute(sql.LAST_STORED).fetchone()
        base = max(time.time(), last[0] if last is not None else 0.0) - since_boot()
        store.set_meta("boot", boot_now)
        store.set_meta("base", base)
        for owner in owners.owners(store.connection):
            owners.leave(store, owner.owner, counts=True)
        store.execute("COMMIT")
    except BaseException:
        store.roll_back()
        raise
    return float(base)
