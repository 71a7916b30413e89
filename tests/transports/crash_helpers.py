"""Running programs under strace: counting what they write, killing them there, and letting their calls fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from missing import missing

CALLS: Final = "?pwrite64,?pwritev,?write,?fsync,?fdatasync,?ftruncate,?unlink,?unlinkat,?rename,?renameat,?renameat2"
"""System calls that change a file or bring it to the disk; "?" marks those that not every machine has."""
HERE: Final = Path(__file__).parent


def need_strace() -> None:
    """Skip where strace is missing or not allowed; in CI that is a failure."""
    strace = shutil.which("strace")
    if strace is None:
        why = "strace is not installed"
    else:
        tried = subprocess.run(
            [strace, "-f", "-o", os.devnull, "true"], capture_output=True, text=True, timeout=60, check=False
        )
        if tried.returncode == 0:
            return
        why = f"strace may not trace here: {tried.stderr.strip()}"
    missing(why)


def strace(
    command: Sequence[str], database: Path, *, inject: str | None = None, log: Path | None = None, also: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """
    Run a program; what it does with the files of a database is seen.

    Args:
        inject: What befalls its calls, as in "pwrite64:signal=KILL:when=7".
        log: Where the calls are written down.
        also: Other files to see.
    """
    files = [f"{database}{end}" for end in ("", "-wal", "-shm", "-journal", "-lock")]
    paths = [word for file in (*files, *map(str, also)) for word in ("-P", file)]
    injected = ["-e", f"inject={inject}"] if inject is not None else []
    return subprocess.run(
        ["strace", "-f", "-qq", "-y", "-o", str(log or os.devnull), *paths, "-e", f"trace={CALLS}", *injected, *command],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def script(name: str, *arguments: object) -> list[str]:
    """The command that runs a script of this folder."""
    return [sys.executable, str(HERE / name), *map(str, arguments)]


def calls(log: Path) -> list[tuple[str, str]]:
    """Return each call in a log that ended well: (its name, the file's name)."""
    found = []
    open_calls: dict[str, tuple[str, str]] = {}  # of each thread, what another one's line has cut
    for line in log.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        begun = re.match(r"\s*(\w+)\((?:\d+<([^>]*)>|[^\"]*\"([^\"]*)\")", rest)
        if begun is not None:
            call = (begun[1], Path(begun[2] or begun[3]).name)
            if "<unfinished" in rest:
                open_calls[thread] = call
            else:
                found.append(call)
        elif "resumed>" in rest and thread in open_calls:
            found.append(open_calls.pop(thread))
    return found


def counted(log: Path) -> Counter[str]:
    """How often each call was made."""
    return Counter(name for name, _ in calls(log))
