"""
Time and life on this machine.

Leases and delays are counted on the clock since boot, which goes on while the machine sleeps and which nobody can set. It
starts anew with each boot; so a file keeps the boot's id and what has to be added to make its time go on.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from pipebus.errors import UnsupportedCapability


class Life(NamedTuple):
    """By what another process can tell whether this one lives."""

    boot: str
    space: str  # of process ids: in another one a pid means somebody else
    pid: int
    born: str  # a pid is given to another process after its end


def since_boot() -> float:
    """Seconds; goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """
    Raises:
        UnsupportedCapability: not on Linux.
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
    """True if that process has ended for certain; False also if it cannot be told from here."""
    if other.boot != mine.boot:
        return True
    if other.space != mine.space:
        return False
    try:
        return _born(str(other.pid)) != other.born
    except OSError:
        pass  # there is none of this number, or it is hidden from us
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _born(pid: str) -> str:
    """When a process was started, in ticks since boot; "" if it has ended, and its parent has not taken notice."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        rest = file.read().rpartition(b")")[2].split()
    if rest[0] in (b"Z", b"X"):
        return ""
    return rest[19].decode()
