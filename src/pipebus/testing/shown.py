"""
Stories of this test, for whoever shows them when it fails: the pytest plugin.
"""

from __future__ import annotations

from typing import Final, Protocol

KEPT: Final = 5
"""Runs of one test whose stories are shown: the last are what the failed assertion is about."""


class Told(Protocol):
    """Something that has a story."""

    title: str

    @property
    def story(self) -> str: ...


_runs: list[Told] = []


def add(run: Told) -> None:
    _runs.append(run)
    del _runs[:-KEPT]


def clear() -> None:
    """Another test begins."""
    _runs.clear()


def all() -> list[Told]:
    return list(_runs)
