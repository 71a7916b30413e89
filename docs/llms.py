"""
Write llms.txt, the list of all pages for language models (https://llmstxt.org): `python docs/llms.py`.

It is made from the index pages: their tables of contents say which pages there are, and their lists, or tables with one page a
row, what is on each. A test compares the file with them. Its links lead to the pages of the site: only they have what is made
there, such as the tables of settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

DOCS: Final = Path(__file__).resolve().parent
TREE: Final = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]+\)")


class Page(NamedTuple):
    file: Path
    title: str
    line: str  # what the index page says about it

    def __str__(self) -> str:
        link = self.file.relative_to(DOCS).with_suffix(".html").as_posix()
        return f"- [{self.title}]({link})" + (f": {self.line}" if self.line else "")


def listed(index: Path) -> Iterator[Page]:
    """The pages in the table of contents of an index page."""
    text = index.read_text(encoding="utf-8")
    names = [line for tree in TREE.findall(text) for line in tree.splitlines() if line and not line.startswith(":")]
    for name in names:
        file = index.parent / f"{name}.md"
        yield Page(file, title_of(file), said(text, re.escape(f"]({name}.md)")))


def title_of(file: Path) -> str:
    found = re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else file.stem.capitalize()


def said(text: str, link: str) -> str:
    """What an index page says about a page: behind its link in a list, or the longest cell of its row in a table."""
    if found := re.search(rf"^(?:-|\d+\.) .*{link}: (.+(?:\n +[^- \n].*)*)", text, re.MULTILINE):
        line = found[1]
    elif found := re.search(rf"^\|.*{link}.*\|$", text, re.MULTILINE):
        line = max((cell for cell in found[0].strip("|").split(" | ") if "](" not in cell), key=len, default="")
    else:
        line = ""
    return " ".join(LINK.sub(r"\1", line).split())


def pages(index: Path) -> Iterator[Page]:
    """The pages below an index page, at any depth."""
    for page in listed(index):
        yield page
        if page.file.name == "index.md":
            yield from pages(page.file)


def text() -> str:
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    about = re.findall(r"\A# .+\n\n((?:.+\n)+)", first)[0]
    parts = ["# pipebus", "> " + " ".join(LINK.sub(r"\1", about).split())]
    more = []
    for page in listed(DOCS / "index.md"):
        if page.file.name == "index.md":
            parts += [f"## {page.title}", page.line[:1].upper() + page.line[1:], "\n".join(map(str, pages(page.file)))]
        else:
            more.append(str(page))
    return "\n\n".join([*parts, "## More", *(["\n".join(more)] if more else [])]) + "\n"


if __name__ == "__main__":
    (DOCS / "llms.txt").write_text(text(), encoding="utf-8")
