"""
The README and the pages of docs/, with their blocks.

A block opened with "```python" starts a program of its own; one opened with "```python continues" goes on with the program
before it. A "```text" block right behind a Python block is what that block prints. A block whose fence has a name, as in
"```python shop.py" or "```toml pipebus.toml", is a file of the page: it lies in one folder with the page's other files, where
the page's programs run and the commands of its "```console" blocks. "…" in what is shown stands for anything in a line, and on
a line of its own for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
TEXTS: Final = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


@dataclass
class Block:
    """One fenced block: the text after the opening fence, and the lines between the fences."""

    page: str
    line: int
    info: str
    text: str
    follows: bool  # nothing but blank lines since the block before

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def file(self) -> str:
        """The name of the file that this block is, or "" if it is not one."""
        name = self.info.partition(" ")[2]
        return name if "." in name else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Program:
    """Python blocks that build on each other, each with what it prints."""

    page: str
    line: int
    parts: list[tuple[Block, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    opened, fence, info, lines, follows = 0, "", "", list[str](), False
    for number, line in enumerate(TEXTS[page].splitlines(), 1):
        if opened and line == fence:
            yield Block(page, opened, info, "\n".join(lines), follows)
            opened, follows = 0, True
        elif opened:
            lines.append(line)
        elif found := re.match(r"(`{3,})(.*)", line):
            opened, fence, info, lines = number, found[1], found[2], []
        elif line.strip():
            follows = False


def programs(page: str) -> Iterator[Program]:
    found = list(blocks(page))
    program: Program | None = None
    for index, block in enumerate(found):
        if block.info not in ("python", "python continues"):
            continue
        if program is None or block.info == "python":
            if program is not None:
                yield program
            program = Program(page, block.line)
        after = found[index + 1] if index + 1 < len(found) else None
        prints = after.text if after is not None and after.info == "text" and after.follows else ""
        program.parts.append((block, prints))
    if program is not None:
        yield program


BLOCKS: Final = [block for page in PAGES for block in blocks(page)]
PROGRAMS: Final = [program for page in PAGES for program in programs(page)]


def write_files(page: str, folder: Path) -> list[str]:
    """Write the files of a page into a folder; returns their names."""
    named = [block for block in BLOCKS if block.page == page and block.file]
    for block in named:
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.text + "\n", encoding="utf-8")
    return [block.file for block in named]


def console(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a session, with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, prints = part.partition("\n")
        while command.endswith("\\"):
            more, _, prints = prints.partition("\n")
            command = f"{command}\n{more}"
        yield command, prints.rstrip()


def alike(real: str, shown: str) -> bool:
    """Whether a program printed what a page shows, apart from times, speeds, ids and the places of `…`."""
    pattern = ""
    for line in masked(shown).splitlines():
        pattern += "(?:.*\n)*" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n"
    return re.fullmatch(pattern, masked(real) + "\n" if real else "") is not None


def masked(text: str) -> str:
    """Return the text without what differs from run to run."""
    text = re.sub(r"\d+\.\d\d s(, [\d,]+ records a second)?", "N s", text)
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "HH:MM:SS", text)
    text = re.sub(r"\b[0-9a-f]{12}-[0-9a-f]{16}-[0-9a-f]{10}\b", "ID", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def links_of(page: str) -> Iterator[tuple[Path, str]]:
    """Each file of the project that a page links to, itself included, with the place in it."""
    for link in re.findall(r"\]\(([^)\"\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            yield ((ROOT / page).parent / name).resolve() if name else ROOT / page, anchor


def anchors(markdown: str) -> set[str]:
    """The places that a link may lead to: headings, as GitHub names them, and explicit anchors."""
    shown = re.sub(r"^(`{3,}).*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", shown, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)"></a>', shown))
