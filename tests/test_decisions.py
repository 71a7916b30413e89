"""The table of decisions and the pages agree."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "understand" / "decisions"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*-*.md"))}


def test_the_table_has_each_decision_with_its_title_date_and_line() -> None:
    """A reader finds every decision in the table, and what the table says is what its page says."""
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((\S+)\) \| (.+?) \| (.+) \|$", index, re.MULTILINE)

    assert [name for _, _, name, _, _ in rows] == list(PAGES)
    for number, title, name, date, line in rows:
        assert " ".join(PAGES[name].partition("\n## ")[0].split()) == f"# {number}. {title} {line} Decided on {date}."


def test_each_decision_has_its_four_parts_on_one_screen() -> None:
    """Each page says what the problem was, what was chosen, what follows, and what was rejected."""
    for name, page in PAGES.items():
        assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Context", "Decision", "Consequences", "Rejected"], name
        assert len(page.splitlines()) <= 40, name
