"""What the tests of values share: hypothesis' settings, and programs in an interpreter of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, settings

import pipebus
from scale_helpers import examples, thorough

CALM: Final = settings(
    max_examples=examples(50, 200),
    derandomize=not thorough(),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""A busy machine must not fail a property. Examples are the same in each run, and differ each time with `-m thorough`."""

HOME: Final = Path(pipebus.__file__).resolve().parents[1]
"""The directory that pipebus is imported from."""


def named(value: Any) -> str:
    """A parameter's id: its text, the same in each process (without addresses, and a set's members in order)."""
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def environment() -> dict[str, str]:
    """This process's environment, in which a child finds the same pipebus."""
    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def run_python(code: str, *options: str) -> str:
    """
    Run a program in a fresh interpreter, its warnings being errors.

    Returns:
        Its standard output; it must end well and say nothing on standard error.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
