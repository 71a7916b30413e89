"""
A table whose rows take the same path is one test that goes through its rows; a test for each row costs more than the row.

    @table(("text", "seconds"), [("5s", 5.0), ("1m", 60.0)])
    def test_durations(text, seconds):
        assert read(text) == seconds

All rows run. The first error that a row raises is raised, with a note that names its row and some others that failed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def table(
    names: str | Sequence[str], rows: Iterable[Any], ids: Iterable[str] | Callable[[Any], Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on each row. The arguments are those of `pytest.mark.parametrize`."""
    single = isinstance(names, str) and "," not in names
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    given = [row if isinstance(row, ParameterSet) else pytest.param(*([row] if single else row)) for row in rows]
    cases = [row.values for row in given]
    labels = (
        [str(ids(row[0])) for row in cases] if callable(ids) else list(ids or (row.id or repr(row.values) for row in given))
    )
    assert len(labels) == len(cases), "there is not one id for each row"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        missing = [name for name in columns if name not in signature.parameters]
        assert not missing, f"{test.__name__} does not take {missing}"

        @functools.wraps(test)
        def run(*args: Any, **fixtures: Any) -> None:
            failed: list[tuple[str, BaseException]] = []
            for label, row in zip(labels, cases, strict=True):
                try:
                    test(*args, **fixtures, **dict(zip(columns, row, strict=True)))
                except (Exception, pytest.fail.Exception) as error:
                    failed.append((label, error))
            if failed:
                (label, error), *others = failed
                error.add_note(f"in the row {label}" + "".join(f"; also in {other}" for other, _ in others[:5]))
                raise error

        kept = [parameter for name, parameter in signature.parameters.items() if name not in columns]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate
