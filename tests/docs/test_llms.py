"""llms.txt names every page, as the lists of the index pages do."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from pages import PAGES, ROOT

DOCS = ROOT / "docs"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llms", DOCS / "llms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_llms_txt_is_what_the_script_writes() -> None:
    """After a change of an index page, run `python docs/llms.py`."""
    assert (DOCS / "llms.txt").read_text(encoding="utf-8") == load().text()


def test_llms_txt_names_every_page() -> None:
    """A model that has only this file finds each page of the site, once."""
    links = re.findall(r"\]\((.+?)\)", (DOCS / "llms.txt").read_text(encoding="utf-8"))
    sections = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob("*/index.md")}
    pages = {Path(page).relative_to("docs").with_suffix("").as_posix() for page in PAGES if page.startswith("docs/")}
    assert sorted(links) == sorted(f"{page}.html" for page in pages - sections - {"index"})
