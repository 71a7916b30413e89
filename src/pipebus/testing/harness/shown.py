"""The stories of the current test, which the pytest plugin shows if it fails."""

from typing import Any, Final, Protocol

KEPT: Final = 5
"""How many runs of one test are shown: a failed assertion is about the last ones."""


class Told(Protocol):
    """A run or a harness."""

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
    """Runs that ended in an error that the test has not read."""
    return [run for run in (*_unheard, *_runs) if getattr(run, "unseen", None) is not None]


def begin(harness: Any) -> None:
    """A harness's block begins; its story is kept until the next test."""
    _open.append(harness)
    add(harness)


def end(harness: Any) -> None:
    if harness in _open:
        _open.remove(harness)


def harnesses() -> list[Any]:
    """The harnesses whose blocks have not ended."""
    return list(_open)


def clear() -> None:
    """Another test begins. Keep the harnesses that are open: they may be its fixtures."""
    _runs[:] = _open
    _unheard.clear()


def stories() -> list[tuple[str, str]]:
    """Title and text of each story that is not empty."""
    return [(run.title, run.story) for run in _runs if run.story]
