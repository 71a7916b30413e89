"""A test that goes through a table runs on every row, and says which rows failed."""

from __future__ import annotations

import inspect

import pytest

from tables import table


def test_every_row_runs_and_the_first_failure_names_its_row() -> None:
    """The rows behind a failure run, too, and are named if they fail."""
    seen: list[int] = []

    @table(("number", "text"), [(1, "a"), (2, "b"), (3, "c")], ids=["one", "two", "three"])
    def check(number: int, text: str) -> None:
        seen.append(number)
        assert number < 2, text

    with pytest.raises(AssertionError, match="b") as failed:
        check()
    assert seen == [1, 2, 3]
    assert failed.value.__notes__ == ["in the row two; also in three"]


def test_what_pytest_raises_for_a_row_is_a_failure_of_that_row() -> None:
    """`pytest.raises` without an error is not an `Exception`, but a failure all the same."""

    @table("number", [0, 1])
    def check(number: int) -> None:
        with pytest.raises(ZeroDivisionError):
            1 / number

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE") as failed:
        check()
    assert failed.value.__notes__ == ["in the row (1,)"]


def test_fixtures_are_what_is_left_of_the_parameters() -> None:
    """pytest fills them as for any test."""

    @table("number", [1])
    def check(tmp_path: object, number: int) -> None: ...

    assert list(inspect.signature(check).parameters) == ["tmp_path"]
