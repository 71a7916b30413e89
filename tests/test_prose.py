"""Docstrings, comments, error texts and pages are plain English, without phrases that nobody would say to a colleague."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

EXEMPT = ["tests/test_prose.py"]

SAY_INSTEAD = {
    r"told(?! apart)": 'who says it: "the error says", "the caller learns", "is reported"',
    r"what (is|are) no": '"anything that is not a …"',
    r"(?<!there\s)(?<!what\s)(is|are|was|were) no (?!longer|more|less|better|worse|different|doubt)": '"is not a …"',
    r"(it|that|which|what|this|so) (is|are) (?-i:none)": '"is not one", "there is none"',
    r"(no matter who|who(m|so)?ever)": '"the caller", "the thread that", "any code that"',
    r"nobody has (it|them)": '"there is none", "it does not exist"',
    r"(what|where (it|they|one|you)) stands?": '"what is there", "where it is"',
    r"(stands?|stood|standing) (?!for\b|in for\b|alone\b|out\b|by\b|up\b|still\b)[a-z]+": '"is", "is written", "comes"',
    r"beside": '"next to", "as well as", "in addition to"',
    r"roads?": '"route", "path", "way"',
    r"(is|are|was|were) asked (about|of|whether|if)": 'the caller as the subject: "the bus asks …"',
    r"who asks?": '"the caller", "the requester"',
    r"(takings|(this|each|one|first|second|last|next|another|new) taking)": '"attempt", "delivery attempt"',
    r"(to|may|can|could|cannot) be had": '"is available", "can be obtained"',
    r"goes? on as if": '"continues as if", "behaves as if"',
    r"wants? to know": '"needs", "asks for", "reads"',
    r"(of|by|for) whom": 'the person or the part: "the caller that …"',
    r"anew": '"again", "from scratch"',
    r"unheard": '"its result is discarded"',
    r"nothing of (it|them|this|that)": '"none of it", "no part of …"',
    r"in vain": '"without success"',
    r"(is|are|was|were) at work": '"is running", "runs"',
    r"to its end": '"until it finishes", "completely"',
    r"by the way": '"along the way", "in passing"',
    r"says? of": '"says about"',
    r"for ever": '"forever"',
    r"time is over": '"time is up"',
}
PHRASES = {re.compile(rf"\b{phrase}\b".replace(" ", r"\s+"), re.IGNORECASE): say for phrase, say in SAY_INSTEAD.items()}


COMMENT = re.compile(r"(^\s*|  )# .*")
NAMES = re.compile(r"`[^`\n]+`|^ *\w+(, \w+)*:|\w+\.py\b", re.MULTILINE)
"""Names in a docstring: in backticks, of arguments, of files. They are code."""


def found(text: str) -> list[tuple[int, str, str]]:
    """The phrases in a text: (line counted from 0, the phrase, what to say instead)."""
    text = NAMES.sub(" ", text).replace("#", " ")
    matches = [(match, say) for phrase, say in PHRASES.items() for match in phrase.finditer(text)]
    return sorted((text.count("\n", 0, match.start()), " ".join(match[0].split()), say) for match, say in matches)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file, each with its first line: docstrings, comments and error texts; a page without its code."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blank = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
        yield 1, blank.sub(lambda code: "\n" * code[0].count("\n"), source)
        return
    for number, line in enumerate(source.splitlines(), 1):
        if comment := COMMENT.search(line):
            yield number, comment[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr):
            texts: list[ast.AST] = [node.value]
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")):
            texts = list(ast.walk(node)) if "src" in path.parts else []
        else:
            continue
        for text in texts:
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.lineno, text.value


def files(*trees: str) -> list[Path]:
    found = [path for tree in trees for path in sorted((ROOT / tree).rglob("*.[pm][yd]"))]
    exempt = [ROOT / name for name in EXEMPT]
    return [path for path in (ROOT / "README.md", *found) if not any(path == one or one in path.parents for one in exempt)]


@pytest.mark.parametrize(
    "trees",
    [("src", "docs", "benchmarks", "examples"), pytest.param(("tests",), marks=pytest.mark.thorough)],
    ids=["product", "tests"],
)
def test_prose_is_plain_english(trees: tuple[str, ...]) -> None:
    """Each failure names the file, the line, the phrase and what to say instead."""
    problems = {
        f'{path.relative_to(ROOT)}:{first + line}: "{phrase}"; say {say}'
        for path in files(*trees)
        for first, text in prose(path)
        for line, phrase, say in found(text)
    }
    assert not problems, "\n" + "\n".join(sorted(problems))
    assert [name for name in EXEMPT if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Whoever publishes\n    is told.", [(0, "Whoever"), (1, "told")]),
        ("What is\n# no message.", [(0, "What is no")]),
        ("There is no message; it is no longer there. Told apart by name.", []),
        ("The lock stands in the way, beside the road.", [(0, "beside"), (0, "road"), (0, "stands in")]),
        ("The token `*` stands for one token.", []),
    ],
)
def test_the_finder_finds(text: str, phrases: list[tuple[int, str]]) -> None:
    """A phrase is found across a line break, and its permitted neighbours are not."""
    assert sorted((line, phrase) for line, phrase, _ in found(text)) == sorted(phrases)
