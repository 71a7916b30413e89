"""The page on concurrency gives the numbers of the tests as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import test_claims
import test_interleavings
import test_planted_races

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "understand" / "concurrency.md").read_text(encoding="utf-8")


def scenarios() -> set[Any]:
    """The scenarios of every test that explores seeds."""
    tests = [test for name, test in vars(test_interleavings).items() if name.startswith("test_")]
    marks = [mark for test in tests for mark in test.pytestmark if mark.args[0] == ("scenario", "options")]
    return {case.values[0] for mark in marks for case in mark.args[1]}


def test_the_page_counts_what_there_is() -> None:
    """A reader who counts the plays, the planted mistakes and the scenarios finds as many as the page says."""
    assert (len(test_claims.DRAMAS), len(test_claims.BREAKS)) == (13, 13)
    assert "runs thirteen small plays in every order" in " ".join(PAGE.split())
    assert "in each of thirteen lines of the protocol a mistake was planted" in " ".join(PAGE.split())
    assert f"[{len(scenarios())} scenarios]" in PAGE
    assert f"[{len(test_planted_races.every_break.args[1])} planted races]" in PAGE
