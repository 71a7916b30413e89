"""
Stories of this test, for whoever shows them when it fails: the pytest plugin.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

KEPT: Final = 5
"""Runs of one test whose stories are shown: the last are what the failed assertion is about."""


class Told(Protocol):
    """Something that has a story."""

    title: str

    @property
    def story(self) -> str: ...


_runs: list[Told] = []
_open: list[Any] = []
_unheard: list[Any] = []


def add(run: Told) -> None:
    _runs.append(run)
    _unheard.extend(old for old in _runs[:-KEPT] if getattr(old, "unseen", None) is not None)
    del _runs[:-KEPT]


def unseen() -> list[Any]:
    """Runs that ended in an error which the test has not looked at."""
    return [run for run in (*_unheard, *_runs) if getattr(run, "unseen", None) is not None]


def begin(harness: Any) -> None:
    """A harness's block begins; its story is of interest until the next test."""
    _open.append(harness)
    add(harness)


def end(harness: Any) -> None:
    if harness in _open:
        _open.remove(harness)


def harnesses() -> list[Any]:
    """Those whose blocks have not ended."""
    return list(_open)


def clear() -> None:
    """Another test begins; harnesses that are open may be its fixtures."""
    _runs[:] = _open
    _unheard.clear()


def stories() -> list[tuple[str, str]]:
    """Title and text of each that has something to tell."""
    return [(run.title, run.story) for run in _runs if run.story]
