"""The lines of the keys in a TOML document: the scanner finds the same paths as tomllib, each on its line."""

from __future__ import annotations

import random
import re
import string
import sys
import tomllib
from datetime import date, datetime, time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipebus.config.reading.positions import DEEPEST, Path, positions
from scale_helpers import examples
from tables import table
from values_helpers import CALM

BARE = frozenset(string.ascii_letters + string.digits + "-_")


class Counted(str):
    """A text that counts what is read from it, and ends a scanner that reads it again and again."""

    __slots__ = ("read",)

    def __new__(cls, text: str) -> Counted:
        counted = super().__new__(cls, text)
        counted.read = 0
        return counted

    def __getitem__(self, key: Any) -> str:
        found = super().__getitem__(key)
        self._count(1 + len(found))
        return found

    def count(self, what: str, start: int = 0, end: int | None = None) -> int:
        self._count((len(self) if end is None else end) - start)
        return super().count(what, start, end)

    def _count(self, characters: int) -> None:
        self.read += characters
        assert self.read <= 10 * len(self) + 100, "the scanner reads the text more than a few times"


def scan(text: str) -> dict[Path, int]:
    return positions(Counted(text))


def paths(text: str) -> set[Path]:
    """All that tomllib finds in a document, except what is too deep for a position."""
    found: set[Path] = set()
    waiting: list[tuple[Path, Any]] = [((), tomllib.loads(text))]
    while waiting:
        path, value = waiting.pop()
        if len(path) > DEEPEST:
            continue
        found.add(path)
        if isinstance(value, dict):
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, index), inner) for index, inner in enumerate(value)]
    return found


def is_accepted(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def check(text: str) -> None:
    """Check what holds for every document, whether generated or written by hand."""
    found = scan(text)
    assert set(found) == paths(text)
    written = text.split("\n")
    for path, line in found.items():
        assert 1 <= line <= len(written)
        if not path:
            assert line == 1
        elif isinstance(path[-1], int):
            assert line >= found[path[:-1]]
            assert path[-1] == 0 or line >= found[(*path[:-1], path[-1] - 1)]
        elif path[-1] and BARE.issuperset(path[-1]):
            assert path[-1] in written[line - 1] or "\\" in written[line - 1]
        else:
            assert re.search("[\"']", written[line - 1])


# --- by hand -------------------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[str, dict[str | Path, int]]] = {
    # tables and keys
    "an empty document has only its root": ("", {}),
    "blank lines count": ("\n\na = 1\n\nb = 2", {"a": 3, "b": 5}),
    "blanks are optional": ("a=1\nb=[1,2]#\n[c]#\nd=''", {"a": 1, "b": 2, "b.0": 2, "b.1": 2, "c": 3, "c.d": 4}),
    "comments name nothing": ("# b = 1\na = 1 # c = 2\n# [d]", {"a": 2}),
    "each part of a dotted key has the line": ("[t]\n\na.b = 1", {"t": 1, "t.a": 3, "t.a.b": 3}),
    "a dotted table stands where it is named first": ("a.b = 1\na.c = 2", {"a": 1, "a.b": 1, "a.c": 2}),
    "blanks around dots do not matter": ("a . b\t.  c\t=\t1", {"a": 1, "a.b": 1, "a.b.c": 1}),
    "blanks in headers do not matter": (
        "[ a . 'b' ]\n\t[[ \"c\" . d ]]",
        {"a": 1, "a.b": 1, "c": 2, "c.d": 2, "c.d.0": 2},
    ),
    "a header names all on its way": ("[a]\n[a.b]\n[c.d]", {"a": 1, "a.b": 2, "c": 3, "c.d": 3}),
    "a header of its own counts more than a deeper one before": (
        "[a.b]\nc = 1\n[a]\nd = 2",
        {"a": 3, "a.b": 1, "a.b.c": 2, "a.d": 4},
    ),
    "a header goes on below a dotted key": ("a.b = 1\n[a.c]\nd = 2", {"a": 1, "a.b": 1, "a.c": 2, "a.c.d": 3}),
    "CRLF is one line end": (
        'a = 1\r\n\r\n[b] # c\r\nd = """\r\n\\\r\n"""\r\ne = [\r\n1]\r\n',
        {"a": 1, "b": 3, "b.d": 4, "b.e": 7, "b.e.0": 8},
    ),
    "only LF ends a line": ("a = '\u2028\x85'\nb = 1", {"a": 1, "b": 2}),
    # arrays of tables
    "an element has its header's line and the array that of the first": (
        "[[x]]\na = 1\n[[x]]\n[[x]]\na = 2",
        {"x": 1, "x.0": 1, "x.0.a": 2, "x.1": 3, "x.2": 4, "x.2.a": 5},
    ),
    "a header below an array of tables means the last element": (
        "[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2",
        {"a": 1, "a.0": 1, "a.0.b": 2, "a.0.b.c": 3, "a.1": 4, "a.1.b": 5, "a.1.b.c": 6},
    ),
    "arrays of tables nest and each counts anew": (
        "[[a]]\n[[a.b]]\n[[a.b]]\nc = 1\n[[a]]\n[[a.b]]\n[a.b.d]",
        {"a": 1, "a.0": 1, "a.0.b": 2, "a.0.b.0": 2, "a.0.b.1": 3, "a.0.b.1.c": 4}
        | {"a.1": 5, "a.1.b": 6, "a.1.b.0": 6, "a.1.b.0.d": 7},
    ),
    "an array of tables may stand before its parent": ("[[a.b]]\n[a]\nc = 1", {"a": 2, "a.b": 1, "a.b.0": 1, "a.c": 3}),
    # quoted keys
    "numbers and words are keys": ("3.14 = 1\ntrue = 2\n- = 3", {("3",): 1, ("3", "14"): 1, "true": 2, "-": 3}),
    "a quoted key is one key": ("'a.b' = 1\n\"c d\" = 2", {("a.b",): 1, "c d": 2}),
    "a key may be empty": ("'' = 1\na.\"\".b = 2", {"": 1, "a": 2, "a.": 2, "a..b": 2}),
    "a quoted key may look like syntax": ("\"#\" = 1\n'=' = 2\n[']']\n'\"' = 3", {"#": 1, "=": 2, "]": 3, ']."': 4}),
    "escapes are read in basic keys": (
        r'"\t\n\"\\\u00e9\U0001F600é€" = 1' + "\n" + r'"\b\f\r" = 2',
        {'\t\n"\\é\U0001f600é€': 1, "\b\f\r": 2},
    ),
    "escapes are not read in literal keys": (r"'\t\\' = 1", {r"\t\\": 1}),
    "an escaped backslash escapes nothing": (r'"a\\" = 1' + "\n" + r'"\\u0041" = 2', {"a\\": 1, r"\u0041": 2}),
    # arrays and inline tables
    "elements stand where they start": ("a = [1,\n\n2, 3,\n]\nb = 1", {"a": 1, "a.0": 1, "a.1": 3, "a.2": 3, "b": 5}),
    "comments in an array are none of it": ("a = [\n# 1, [\n1 # ]\n,# 2\n2\n]\nb = 1", {"a": 1, "a.0": 3, "a.1": 5, "b": 7}),
    "what is empty holds nothing": ("a = []\nb = {}\nc = [[],\n[ ]]", {"a": 1, "b": 2, "c": 3, "c.0": 3, "c.1": 4}),
    "arrays nest": (
        "a = [[1,\n2], [\n[3]]]\nb = 1",
        {"a": 1, "a.0": 1, "a.0.0": 1, "a.0.1": 2, "a.1": 2, "a.1.0": 3, "a.1.0.0": 3, "b": 4},
    ),
    "inline tables in arrays have their own keys": (
        "a = [{b = 1},\n{b.c = [\n2], 'd' = {}}]",
        {"a": 1, "a.0": 1, "a.0.b": 1, "a.1": 2, "a.1.b": 2, "a.1.b.c": 2, "a.1.b.c.0": 3, "a.1.d": 3},
    ),
    "double brackets in a value are no header": (
        "a = {b = [[{c = 1}]]}\nd = 2",
        {"a": 1, "a.b": 1, "a.b.0": 1, "a.b.0.0": 1, "a.b.0.0.c": 1, "d": 2},
    ),
    # strings and scalars
    "a string holds anything": ("a = '[b]' # c\nd = \"# e\"\nf = '\\'\ng = 1", {"a": 1, "d": 2, "f": 3, "g": 4}),
    "an escaped quote ends nothing": ('a = "\\"\\\\"\nb = "\\\\\\""\nc = 1', {"a": 1, "b": 2, "c": 3}),
    "quotes may stand inside a multi-line string": ('a = """\nb = 1\n"" " \\"""\n"""\nc = 2', {"a": 1, "c": 5}),
    "nothing is escaped in a literal multi-line string": ("a = '''\nb = 1\n'' ' \\'''\nc = 2", {"a": 1, "c": 4}),
    "lines after a line-ending backslash count": ('a = """b\\\n\n  c\\  \n"""\nd = 1', {"a": 1, "d": 5}),
    "a multi-line string may start and end with quotes": (
        'a = ["""b""""", """"c""", """""", "", \'\'\'d\'\'\'\'\', \'\'\'\'\'\',\n"e"]',
        {"a": 1, "a.0": 1, "a.1": 1, "a.2": 1, "a.3": 1, "a.4": 1, "a.5": 1, "a.6": 2},
    ),
    "a backslash before the last quotes may be escaped": (
        'a = """\\\\"""\nb = """\\\\\\""""\nc = 1',
        {"a": 1, "b": 2, "c": 3},
    ),
    "a date with a blank is one value": (
        "a = 1979-05-27 07:32:00Z\nb = [07:32:00, 1979-05-27 07:32:00.5 # c\n, 1e3, +inf,\n-nan, 0x1]",
        {"a": 1, "b": 2, "b.0": 2, "b.1": 2, "b.2": 3, "b.3": 3, "b.4": 4, "b.5": 4},
    ),
}


@table(("text", "lines"), ROWS.values(), ids=[sentence.replace(" ", "-") for sentence in ROWS])
def test_lines(text: str, lines: dict[str | Path, int]) -> None:
    """Every path of the document has its line."""
    expected: dict[Path, int] = {(): 1}
    for path, line in lines.items():
        keys = [int(key) if key.isdigit() else key for key in path.split(".")] if isinstance(path, str) else path
        expected[tuple(keys)] = line
    assert scan(text) == expected
    assert set(expected) == paths(text)


# --- at random -----------------------------------------------------------------------------------------------------------

ALPHABET = "abAB01-_ .\"'\\#=[]{},\t\n\r\x00\x7fé€\U0001f600\u2028"
KEYS = st.sampled_from(["a", "b", "c", "key", "a b", "a.b", "", "0", "true", '"', "'", "\\"]) | st.text(ALPHABET, max_size=4)
SCALARS = st.one_of(
    st.text(ALPHABET, max_size=12),
    st.sampled_from(['"""', "'''", '""', "''", "\\", "\n\n", '"\n"', " \n ", "[[a]]\n", "# a", "a = 1\n"]),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.booleans(),
    st.dates(),
    st.times(),
    st.datetimes().map(lambda moment: moment.replace(fold=0)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.lists(st.dictionaries(KEYS, inner, max_size=3), min_size=1, max_size=3),
    ),
    max_leaves=16,
)
TREES = st.dictionaries(KEYS, VALUES, max_size=6)

COMMENTS = ["#", "# a = 1", "#[[a]]", "# \"\"\" '''", '# "', "# ' ] }", "# é\t\\"]
SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def is_control(char: str) -> bool:
    return char < " " or char == "\x7f"


class Writer:
    """Writes a document in whatever style comes up, and keeps the line on which it wrote each path."""

    def __init__(self, luck: random.Random, data: dict[str, Any]) -> None:
        self.luck = luck
        self.parts: list[str] = []
        self.line = 1
        self.lines: dict[Path, int] = {(): 1}
        self.scope((), data)
        self.text = "".join(self.parts)
        if self.text.endswith("\n") and self.luck.random() < 0.3:
            self.text = self.text[:-1]
        share = self.luck.choice([0.0, 0.0, 0.5, 1.0])
        self.text = re.sub("\n", lambda _: "\r\n" if self.luck.random() < share else "\n", self.text)

    def put(self, *texts: str) -> None:
        for text in texts:
            self.parts.append(text)
            self.line += text.count("\n")

    def coin(self) -> bool:
        return self.luck.random() < 0.5

    def blank(self) -> str:
        return self.luck.choice(["", "", " ", "\t", "  "])

    def gap(self) -> str:
        """Return something that may come between the elements of an array."""
        return self.luck.choice(["", " ", "\n", f" {self.luck.choice(COMMENTS)}\n", f"\n\n  {self.luck.choice(COMMENTS)}\n\t"])

    def end(self) -> None:
        """The rest of a statement's line, and lines that say nothing."""
        self.put(self.blank(), self.luck.choice(["", "", self.luck.choice(COMMENTS)]), "\n")
        self.put(self.luck.choice(["", "", "", "\n", f"\t\n{self.luck.choice(COMMENTS)}\n"]))

    def note(self, path: Path) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], self.line)

    def scope(self, path: Path, table: dict[str, Any]) -> None:
        """The root, or one element of an array of tables; the headers below it may come in any order."""
        bodies: dict[Path, list[tuple[Path, Any]]] = {}
        arrays: dict[Path, list[dict[str, Any]]] = {}
        self.split(path, table, bodies, arrays)
        self.body(path, bodies.pop(path))
        order = [*bodies, *arrays]
        self.luck.shuffle(order)
        for section in order:
            if section in arrays:
                for index, element in enumerate(arrays[section]):
                    self.header((*section, index), 2)
                    self.scope((*section, index), element)
            elif bodies[section] or self.coin() or not any(other[: len(section)] == section != other for other in order):
                self.header(section, 1)
                self.body(section, bodies[section])

    def split(
        self,
        path: Path,
        table: dict[str, Any],
        bodies: dict[Path, list[tuple[Path, Any]]],
        arrays: dict[Path, list[dict[str, Any]]],
    ) -> None:
        """Decide which parts of a table get headers."""
        body: dict[str, Any] = {}
        for key, value in table.items():
            if isinstance(value, dict) and self.coin():
                self.split((*path, key), value, bodies, arrays)
            elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value) and self.coin():
                arrays[(*path, key)] = value
            else:
                body[key] = value
        bodies[path] = self.leaves(body)

    def leaves(self, table: dict[str, Any]) -> list[tuple[Path, Any]]:
        """The keys of a table, dotted or not, mixed up."""
        found: list[tuple[Path, Any]] = []
        for key, value in table.items():
            if isinstance(value, dict) and value and self.coin():
                found += [((key, *below), inner) for below, inner in self.leaves(value)]
            else:
                found.append(((key,), value))
        self.luck.shuffle(found)
        return found

    def header(self, path: Path, brackets: int) -> None:
        self.put(self.blank(), "[" * brackets, self.blank())
        self.key(path)
        self.put(self.blank(), "]" * brackets)
        self.note(path)
        self.lines[path] = self.line
        self.end()

    def body(self, path: Path, entries: list[tuple[Path, Any]]) -> None:
        for below, value in entries:
            self.put(self.blank())
            self.entry(path, below, value)
            self.end()

    def entry(self, path: Path, below: Path, value: Any) -> None:
        self.key(below)
        self.note(path + below)
        self.put(self.blank(), "=", self.blank())
        self.value(path + below, value)

    def key(self, path: Path) -> None:
        for number, part in enumerate(part for part in path if isinstance(part, str)):
            if number:
                self.put(self.blank(), ".", self.blank())
            if part and BARE.issuperset(part) and self.luck.random() < 0.7:
                self.put(part)
            else:
                self.put(self.luck.choice(self.one_line(part)))

    def value(self, path: Path, value: Any) -> None:
        if isinstance(value, dict):
            self.put("{", self.blank())
            for number, (below, inner) in enumerate(self.leaves(value)):
                self.put("," if number else "", self.blank())
                self.entry(path, below, inner)
                self.put(self.blank())
            self.put("}")
        elif isinstance(value, list):
            self.put("[", self.gap())
            for index, inner in enumerate(value):
                self.put("," if index else "", self.gap())
                self.note((*path, index))
                self.value((*path, index), inner)
                self.put(self.gap())
            self.put(self.luck.choice(["", ","]) if value else "", self.gap(), "]")
        elif isinstance(value, str):
            self.put(self.luck.choice(self.one_line(value) + self.many_lines(value)))
        elif isinstance(value, bool):
            self.put(str(value).lower())
        elif isinstance(value, datetime):
            self.put(value.isoformat(self.luck.choice("T ")))
        elif isinstance(value, (date, time)):
            self.put(value.isoformat())
        else:
            self.put(repr(value))

    def one_line(self, text: str) -> list[str]:
        found = ['"' + "".join(self.char(char, char in '"\\' or is_control(char)) for char in text) + '"']
        if "'" not in text and not any(is_control(char) and char != "\t" for char in text):
            found.append(f"'{text}'")
        return found

    def many_lines(self, text: str) -> list[str]:
        start = "\n" if text.startswith("\n") or self.coin() else ""
        basic = ""
        for char in text:
            if self.luck.random() < 0.1 and not char.isspace():  # a blank would be trimmed
                basic += self.luck.choice(["\\\n", "\\ \t\n\n  "])
            must = char == "\\" or (is_control(char) and char != "\n") or (char == '"' and basic.endswith('""'))
            basic += self.char(char, must)
        if self.luck.random() < 0.1:
            basic += "\\\n "
        found = [f'"""{start}{basic}"""']
        if "'''" not in text and not any(is_control(char) and char not in "\t\n" for char in text):
            found.append(f"'''{start}{text}'''")
        return found

    def char(self, char: str, must: bool) -> str:
        """Return the character as it is, if that is allowed, or escaped in one of three ways."""
        if not must and self.luck.random() < 0.9:
            return char
        ways = [SHORT[char]] if char in SHORT else []
        ways += [f"\\u{ord(char):04x}"] if ord(char) <= 0xFFFF else []
        return self.luck.choice([*ways, f"\\U{ord(char):08X}"])


@settings(CALM, max_examples=examples(15, 250))
@given(TREES, st.randoms(use_true_random=False))
def test_every_path_of_a_written_document_stands_where_it_was_written(data: dict[str, Any], luck: random.Random) -> None:
    """The paths are those of tomllib and the lines are those of the writer, whatever the style."""
    writer = Writer(luck, data)
    assert tomllib.loads(writer.text) == data
    assert scan(writer.text) == writer.lines
    check(writer.text)


PIECES = [
    *"\"'\\\n\t #[]{},.=a0",
    '"""',
    "'''",
    "\r\n",
    "\\\n",
    "\\u0061",
    "[a]\n",
    "[[a]]\n",
    "a.b = 1\n",
    "\n[a.b]\n",
    "[1,\n2]",
]


def changed(text: str, luck: random.Random) -> str:
    """A bit is lost, doubled, replaced or put in; or two lines change places."""
    start, other = sorted(luck.randrange(len(text) + 1) for _ in range(2))
    end = min(other, start + luck.randrange(12))
    lines = text.split("\n")
    match luck.randrange(5):
        case 0:
            return text[:start] + text[end:]
        case 1:
            return text[:other] + text[start:end] + text[other:]
        case 2:
            return text[:start] + luck.choice(PIECES) + text[end:]
        case 3:
            return text[:start] + luck.choice(PIECES) + text[start:]
        case _:
            first, second = luck.randrange(len(lines)), luck.randrange(len(lines))
            lines[first], lines[second] = lines[second], lines[first]
            return "\n".join(lines)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of escapes that neither TOML nor Python has
@settings(CALM, max_examples=examples(15, 150))
@given(TREES, st.randoms(use_true_random=False), st.integers(0, 2**32))
def test_a_document_that_was_changed_at_random_keeps_its_paths(data: dict[str, Any], luck: random.Random, seed: int) -> None:
    """tomllib decides whether the changed text is a document; if so, the paths are the same, and if not, the scanner ends."""
    text, luck = Writer(luck, data).text, random.Random(seed)
    for _ in range(40):
        candidate = changed(text, luck)
        if is_accepted(candidate):
            text = candidate
            check(text)
        else:
            scan(candidate)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(CALM, max_examples=examples(15, 250))
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_every_text_comes_to_an_end(text: str) -> None:
    """The scanner always ends and raises nothing, whether the text is a document or not."""
    scan(text)
    if is_accepted(text):
        check(text)


# --- deep and large ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000, "a = " + "{a = " * 5000, "a = " + "[" * 5000 + "]" * 5000],
    ids=["open-arrays", "open-tables", "arrays"],
)
def test_nesting_that_tomllib_refuses_is_no_recursion_here(text: str) -> None:
    """The scanner does not recurse, so it does not depend on how deep its caller is."""
    assert not is_accepted(text)
    assert max(map(len, scan(text))) == DEEPEST


@table(
    ("text", "last"),
    [
        ("a = " + "[" * 80 + "1, '" + "]'" + "]" * 80 + "\nlast = 1", 2),
        ("a = " + "{b = " * 80 + "{c = [']}'], d = {'}' = 1}}" + "}" * 80 + "\nlast = 1", 2),
        ("last = 1\n[" + "a." * 80 + "b]\nc = [1]\n[[" + "a." * 80 + "c]]\nd = 1\n[e]\n", 1),
        ("last = 1\n" + "".join("[[" + "a." * depth + "a]]\n" for depth in range(80)) + "[e]\n", 1),
        ("last = 1\n[" + "a." * 80 + "b]\n[" + "a." * DEEPEST + "b]\nd = 1\n[" + "a." * 62 + "a]\ne = 1", 1),
    ],
    ids=["arrays", "inline-tables", "headers", "arrays-of-tables", "deep-before-shallow"],
)
def test_what_is_too_deep_is_left_out(text: str, last: int) -> None:
    """All paths of up to `DEEPEST` keys are found and no longer ones, and what follows is not confused."""
    check(text)
    assert scan(text)[("last",)] == last
    assert max(map(len, scan(text))) == DEEPEST


def calls(text: str) -> int:
    """How many functions the scanner calls for a text."""
    number = 0

    def called(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        positions(text)
    finally:
        sys.setprofile(before)
    return number


SHAPES = {
    "keys": ("", "key = 'value' # comment\n", ""),
    "headers": ("", "[[a]]\nb = 1\n[a.c]\nd = 2\n", ""),
    "one line": ("a = [", "1,", "]"),
    "lines in an array": ("a = [", "1 # 2\n,", "]"),
    "inline tables": ("a = [", "{b = 1},", "]"),
    "open arrays": ("a = ", "[", ""),
    "open tables": ("a = ", "{b = ", ""),
    "closers": ("", "]", ""),
    "dots": ("", "a.", "b = 1"),
    "dots in a header": ("[", "a.", "b]"),
    "deep values": ("[" + "a." * 62 + "a]\nb = [", "1,", "]"),
    "blank lines": ("", " \n", ""),
    "comments": ("", "# a\n", ""),
    "escapes": ('a = "', "\\n", '"'),
    "quotes in a string": ('a = """', '"" ', '"""'),
    "escaped quotes": ('a = """', '\\"""', ""),
    "quotes": ("a = ", '"', ""),
    "apostrophes": ("a = ", "'", ""),
    "escapes in a key": ('"', "\\u00e9", '" = 1'),
    "lines in a string": ("a = '''", "\n", "'''\nb = 1"),
    "a long key": ("", "a", " = 1"),
}


@pytest.mark.parametrize(("before", "piece", "after"), SHAPES.values(), ids=[shape.replace(" ", "-") for shape in SHAPES])
@pytest.mark.few(6)
def test_twice_the_text_is_twice_the_work(before: str, piece: str, after: str) -> None:
    """The scanner looks at each character only a few times, whether the text is a document or not."""
    text, twice = (before + piece * (size // len(piece)) + after for size in (10_000, 20_000))
    assert calls(twice) <= 2.1 * calls(text) + 50
    scan(twice)


@pytest.mark.thorough
def test_a_large_document() -> None:
    """Every path in a megabyte is found, and the last one is on the last line."""
    block = "[[block]]\nname = 'block %d'\n[block.more]\nlist = [\n  1, # one\n  {a.b = 2},\n]\n"
    blocks = 10_000
    text = "".join(block % number for number in range(blocks)) + "# no more\n" * 30_000 + "[last]"
    assert len(text) > 1_000_000
    found = scan(text)
    assert len(found) == len([(), ("block",), ("last",)]) + 8 * blocks
    assert found["block", blocks - 1, "more", "list", 1, "a", "b"] == 7 * blocks - 1
    assert found["last",] == text.count("\n") + 1
