"""
The pages of guarantees and the tests agree: each promise is there once, is in the table, and is tested.

A test cites a promise by its name, `test_s12_…` for guarantee 12, or in its docstring: "guarantee 12", "guarantees 12 and 14",
"guarantees 18 to 20".
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scale_helpers import THOROUGH
from tables import table

TESTS = Path(__file__).resolve().parent
FOLDER = TESTS.parent / "docs" / "understand" / "guarantees"
INDEX = (FOLDER / "index.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md")) if path.name != "index.md"}
KEPT = [*range(1, 40), 41]
LATER = (40,)


def promises(page: str) -> list[tuple[int, int]]:
    """The number of each promise's anchor, and the number that a reader sees."""
    return [(int(anchor), int(shown)) for anchor, shown in re.findall(r'^<a id="(\d+)"></a>\n\*\*(\d+)\.', page, re.MULTILINE)]


def sentences(page: str) -> dict[int, str]:
    """The bold sentence of each promise."""
    found = re.findall(r"^\*\*(\d+)\. ([^*]+\.)\*\*\s", page, re.MULTILINE)
    return {int(number): " ".join(text.split()) for number, text in found}


def cited(source: str) -> set[int]:
    """The numbers of the promises that a module of tests cites."""
    found = {int(number) for number in re.findall(r"def test_s(\d\d)_", source)}
    for numbers in re.findall(r"[Gg]uarantees?\s(\d+(?:(?:,\s|\sand\s|\sto\s)\d+)*)", source):
        for part in re.split(r",\s|\sand\s", numbers):
            first, *last = map(int, re.split(r"\sto\s", part))
            found.update(range(first, (last or [first])[0] + 1))
    return found


CITED = {
    path.relative_to(TESTS).as_posix(): cited(path.read_text(encoding="utf-8"))
    for path in TESTS.rglob("test_*.py")
    if path != Path(__file__).resolve()
}


def test_the_pages_have_each_promise_once_and_in_order() -> None:
    """A reader who looks for a number finds it, under an anchor of that name."""
    there = {name: promises(page) for name, page in PAGES.items()}

    assert sorted(number for page in there.values() for number in page) == [(number, number) for number in KEPT]
    assert all(page == sorted(page) for page in there.values())
    assert promises(INDEX) == [(number, number) for number in LATER]
    assert sum(len(re.findall(r"\*\*\d+\.", page)) for page in (INDEX, *PAGES.values())) == len(KEPT) + len(LATER)


def test_the_table_has_the_bold_sentence_of_each_promise() -> None:
    """The bold sentence is all that a hurried reader has to read; its number leads to the rest."""
    rows = [(int(shown), name, int(anchor), text) for shown, name, anchor, text in re.findall(
        r"^\| \[(\d+)\]\(([\w-]+\.md)#(\d+)\) \| (.+) \|$", INDEX, re.MULTILINE
    )]  # fmt: skip

    assert rows == [
        (number, name, number, text)
        for number, name, text in sorted(
            (number, name, text) for name in PAGES for number, text in sentences(PAGES[name]).items()
        )
    ]
    assert [row[0] for row in rows] == KEPT


@table("name", sorted(name for name in CITED if CITED[name]))
def test_each_number_that_a_test_cites_is_on_the_page(name: str) -> None:
    """A reader who follows a citation finds the promise."""
    assert CITED[name] - set(KEPT) == set()


def test_each_promise_is_cited_by_a_test() -> None:
    """No promise on the page is without a test."""
    assert set(KEPT) - set.union(*CITED.values()) == set()


@pytest.mark.thorough
def test_each_promise_is_cited_by_a_test_of_the_default_run() -> None:
    """The tests that a contributor always runs try every promise."""
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=TESTS.parent,
        env={name: value for name, value in os.environ.items() if name != THOROUGH},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    ran = [line.partition("[")[0] for line in collected.stdout.splitlines() if "::" in line]
    numbers = {number for name in ran for number in cited(f"def {name.rpartition('::')[2]}_")}

    assert collected.returncode == 0, collected.stdout[-2000:]
    assert set(KEPT) - numbers == set()


def test_citations_are_read_in_every_form() -> None:
    """The tests above miss no form of citation."""
    source = 'def test_s07_it(): "Guarantee 3: words (guarantees 11, 13,\n14 to 16 and 20). Guarantees 1 and 2."'

    assert cited(source) == {1, 2, 3, 7, 11, 13, 14, 15, 16, 20}
