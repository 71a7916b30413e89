"""`${env:X}` and `${file:p}`: what replaces them, where they may appear, and that nobody is shown the value behind them."""

from __future__ import annotations

import json
import os
import threading
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipebus import Bus, ConfigError, Message
from pipebus.bus.bus import engine_of
from pipebus.config.reading.interpolation import LARGEST
from values_helpers import CALM

SECRET = "hunter2"
ENVIRONMENT = {
    "X": SECRET,
    "EMPTY": "",
    "N": "4",
    "OPEN": "${env:X}",
    "CLOSE": "}",
    "LINES": "a\nb",
    "QUOTES": "a\"b\\c'd",
    "_": "u",
}
UNSET = ("NOPE", "NOPE_2")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)


def quoted(text: str) -> str:
    """Write a text as TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def replaced(text: str, folder: Path) -> Any:
    """Return the value of a body that is this text."""
    bus = load(folder, f'[[every]]\ninterval = "1s"\nsubject = "a"\nbody = {quoted(text)}')
    (schedule,) = engine_of(bus).schedules
    return schedule.body


def refused(text: str, folder: Path) -> str:
    """Return what the error says about the text."""
    with pytest.raises(ConfigError) as caught:
        replaced(text, folder)
    (problem,) = caught.value.problems
    _, _, said = problem.text.partition(f"body = {json.dumps(text, ensure_ascii=False)}: ")
    return said or problem.text


def load(folder: Path, toml: str, **handed: Any) -> Bus:
    (folder / "bus.toml").write_text(f"version = 1\n{dedent(toml)}", encoding="utf-8", newline="")
    return Bus.from_config(folder / "bus.toml", **handed)


# --- forms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${env:X}", SECRET),
        ("a${env:X}b", f"a{SECRET}b"),
        ("${env:X}${env:N}", f"{SECRET}4"),
        ("${env:_}", "u"),
        ("${env:EMPTY}", ""),
        ("${env:EMPTY:-d}", "d"),
        ("${env:NOPE:-d}", "d"),
        ("${env:N:-d}", "4"),
        ("${env:NOPE:-}", ""),
        ("${env:N:?give it}", "4"),
        ("${env:N:?}", "4"),
        ("${env:LINES}", "a\nb"),
        ("${env:QUOTES}", "a\"b\\c'd"),
        ("\\${env:N}", "\\4"),
        ("%X% $X $(X) {env:X} #{env:X} $ {env:X}", "%X% $X $(X) {env:X} #{env:X} $ {env:X}"),
        ("costs 5$", "costs 5$"),
        ("$$", "$$"),
        ("}", "}"),
    ],
)
def test_each_form_is_replaced(text: str, found: str, tmp_path: Path) -> None:
    """A variable may have a default or be required, a text may hold several, and similar-looking text stays."""
    assert replaced(text, tmp_path) == found


@pytest.mark.parametrize(
    "default",
    [
        "a b", "a:b", ":-", "-", ":?x", "?", "{", "{{", "$", "$$", "a$b", '"', "'", "\\",
        "#", "=", "[x]", "\n", "\t", "é😀", "%s", "{0",
        "http://localhost:80/?a=b&c=d", "  ",
    ],
)  # fmt: skip
def test_a_default_may_hold_odd_characters(default: str, tmp_path: Path) -> None:
    """A default may hold every character but the `}` that ends it, and nothing in it is replaced."""
    assert replaced(f"<${{env:NOPE:-{default}}}>", tmp_path) == f"<{default}>"
    assert replaced(f"<${{env:EMPTY:-{default}}}>", tmp_path) == f"<{default}>"
    assert replaced(f"<${{env:N:-{default}}}>", tmp_path) == "<4>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$${", "${"),
        ("$${}", "${}"),
        ("$${env:X}", "${env:X}"),
        ("$${$${", "${${"),
        ("a $${b} ${env:N}", "a ${b} 4"),
        ("$${${env:N}", "${4"),
        ("$$$${env:X}", "$$${env:X}"),
    ],
)
def test_two_dollars_and_a_brace_are_the_text_itself(text: str, found: str, tmp_path: Path) -> None:
    """`$${` means `${`, even in front of something that could be replaced."""
    assert replaced(text, tmp_path) == found


def test_what_is_put_in_is_not_read_again(tmp_path: Path) -> None:
    """A variable that holds `${env:X}` or `}` gives exactly that, so it cannot reveal another variable."""
    assert replaced("${env:OPEN}", tmp_path) == "${env:X}"
    assert replaced("$${env:${env:OPEN}", tmp_path) == "${env:${env:X}"
    assert replaced("${env:CLOSE}${env:N}", tmp_path) == "}4"


@pytest.mark.parametrize(
    "text", ["${env:NOPE:-${env:X}}", "${env:N:-${env:X}}", "${env:NOPE:-a${env:NOPE_2:-b}c}", "${env:N:?${env:X}}"]
)
def test_one_inside_another_works_or_is_refused(text: str, tmp_path: Path) -> None:
    """The text is read as a shell would read it, or refused with a reason, but never read in part."""
    expected = {"NOPE:-${env:X}": SECRET, "NOPE:-a": "abc"}
    try:
        found = replaced(text, tmp_path)
    except ConfigError:
        return
    assert found == next((value for key, value in expected.items() if key in text), "4")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${env:NOPE}", "NOPE is not set; set it, or write ${env:NOPE:-default}"),
        ("${env:NOPE:?ask Ada}", "NOPE is not set: ask Ada"),
        ("${env:EMPTY:?ask: Ada}", "EMPTY is not set: ask: Ada"),
        ("${env:NOPE:?}", "NOPE is not set, and must be"),
        ("${", '"${" is not closed; write "$${" for the text itself'),
        ("a ${env:X", '"${" is not closed; write "$${" for the text itself'),
        ("$${a} ${env:X", '"${" is not closed; write "$${" for the text itself'),
        ("${}", "${}: it has to be ${env:NAME} or ${file:path}"),
        ("${X}", "${X}: it has to be ${env:NAME} or ${file:path}"),
        ("${env}", "${env}: it has to be ${env:NAME} or ${file:path}"),
        ("${evn:X}", '${evn:X}: it has to be ${env:NAME} or ${file:path}; did you mean "env"?'),
        ("${ENV:X}", '${ENV:X}: it has to be ${env:NAME} or ${file:path}; did you mean "env"?'),
        ("${flie:X}", '${flie:X}: it has to be ${env:NAME} or ${file:path}; did you mean "file"?'),
        ("${ env:X}", '${ env:X}: it has to be ${env:NAME} or ${file:path}; did you mean "env"?'),
        ("${env:}", "${env:}: '' is not the name of a variable"),
        ("${env:1A}", "${env:1A}: '1A' is not the name of a variable"),
        ("${env:X }", "${env:X }: 'X ' is not the name of a variable"),
        ("${env:X-d}", "${env:X-d}: 'X-d' is not the name of a variable"),
        ("${env:É}", "${env:É}: 'É' is not the name of a variable"),
        ("${env:X:d}", "${env:X:d}: after the name comes :-default or :?message"),
        ("${env:X:+d}", "${env:X:+d}: after the name comes :-default or :?message"),
        ("${env:X:}", "${env:X:}: after the name comes :-default or :?message"),
    ],
)
def test_what_cannot_be_replaced_is_told(text: str, says: str, tmp_path: Path) -> None:
    """The error names the variable and says what to write; a mistake in the form is an error even where the variable is set."""
    assert refused(text, tmp_path) == says


def test_the_rest_of_the_text_is_never_lost(tmp_path: Path) -> None:
    """Text around and between the replacements stays."""
    assert replaced(" é ${env:N} 😀 ${env:N}\n", tmp_path) == " é 4 😀 4\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@CALM
@given(st.text("ab${}:-?envfile\n", max_size=30))
def test_whatever_is_written_is_replaced_or_refused(folder: Path, text: str) -> None:
    """No other exception occurs, and a text without `${` does not change."""
    if "${" not in text:
        assert replaced(text, folder) == text
        return
    with suppress(ConfigError):
        assert isinstance(replaced(text, folder), str)


@CALM
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_whatever_a_variable_holds_is_put_in_as_it_is(folder: Path, value: str) -> None:
    """The value is taken letter by letter, whatever it looks like, and an escaped text comes back."""
    os.environ["X"] = value
    assert replaced("<${env:X}>", folder) == f"<{value}>"
    if "$$" not in value:
        assert replaced(value.replace("${", "$${"), folder) == value


# --- where they may appear -----------------------------------------------------------------------------------------------


def test_a_text_that_was_interpolated_is_read_as_what_is_due(tmp_path: Path) -> None:
    """It may be read as a number, duration, size, flag or choice, because an environment holds only texts."""
    bus = load(
        tmp_path,
        """
        [bus]
        pool = "${env:N}"
        debug = "${env:D:-true}"
        max_message_bytes = "${env:S:-64KiB}"
        dead_letters = "${env:L:-12}"

        [[pipelines]]
        at = "${env:A:-delivery}"
        on_error = "${env:O:-drop}"
        filters = [{ use = "retry", attempts = "${env:N}", wait = "${env:W:-0.5}", jitter = "${env:J:-0.1}" }]

        [[subscriptions]]
        name = "s"
        subject = "a"
        handler = "h"
        workers = "${env:N}"
        attempts = "1${env:N}"
        mailbox = "${env:N}00"
        run = "${env:R:-thread}"
        """,
        handlers={"h": lambda message: None},
    )
    described = bus.describe()
    assert (
        engine_of(bus).pool.size,
        engine_of(bus).services.debug,
        engine_of(bus).max_message_bytes,
        bus.dead_letters.cap,
    ) == (4, True, 65536, 12)
    (retry,) = described["delivery"][0]["filters"]
    assert described["delivery"][0]["pipeline"] == "drop"
    assert retry["settings"]["attempts"] == "${env:N}"
    (one,) = described["subscriptions"]
    assert (one["workers"], one["attempts"], one["mailbox"]["size"], one["run"]) == (4, 14, 400, "thread")


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[bus]\npool = "4"', 'pool = "4": it has to be a whole number'),
        ('[bus]\npool = "$${env:N}"', "pool = "),
        ('[bus]\npool = "${env:X}"', 'pool = "${env:X}": it has to be a whole number'),
        ('[bus]\npool = "${env:EMPTY}"', 'pool = "${env:EMPTY}": it has to be a whole number'),
        ('[bus]\npool = "${env:N}.5"', 'pool = "${env:N}.5": it has to be a whole number'),
        ('[bus]\npool = "-${env:N}"', 'pool = "-${env:N}": it has to be at least 1'),
        ('[bus]\ndebug = "true"', 'debug = "true": it has to be true or false'),
        ('[bus]\ndebug = "${env:N}"', 'debug = "${env:N}": it has to be true or false'),
        ('[bus]\nname = 5', "name = 5: it has to be text"),
        ('[[every]]\nsubject = "a"\ninterval = "${env:X}"', 'interval = "${env:X}": it has to be'),
    ],
)  # fmt: skip
def test_all_else_is_typed_strictly(tmp_path: Path, toml: str, says: str) -> None:
    """
    `workers = "4"` is a mistake; so is a variable that should be a number and is not, and the error does not show its value.
    """
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


def test_keys_are_not_replaced(tmp_path: Path) -> None:
    """Only values are replaced, because text from outside must never become structure."""
    bus = load(tmp_path, '[[every]]\ninterval = "1s"\nsubject = "a"\nbody = { "${env:X}" = 1, "$${" = 2 }')
    (schedule,) = engine_of(bus).schedules
    assert schedule.body == {"${env:X}": 1, "$${": 2}
    with pytest.raises(ConfigError, match="unknown key"):
        load(tmp_path, '[bus]\n"${env:K:-pool}" = 4')


def test_only_texts_of_all_kinds_hold_them(tmp_path: Path) -> None:
    """All four kinds of text in TOML can hold them, as deep as data goes, but comments cannot."""
    bus = load(
        tmp_path,
        '''
        [[every]]  # ${env:NOPE}
        interval = "1s"
        subject = "a"
        body = { a = "${env:N}", b = '${env:N}', c = """
        ${env:N}""", d = [["${env:N}", { e = '${env:N}' }]], f = 4, g = "\\u0024{env:N}" }
        ''',
    )
    (schedule,) = engine_of(bus).schedules
    assert schedule.body == {"a": "4", "b": "4", "c": "4", "d": [["4", {"e": "4"}]], "f": 4, "g": "4"}


def test_what_is_put_in_becomes_no_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, line breaks and brackets in a variable stay in the text."""
    monkeypatch.setenv("X", 'x"\n[bus]\npool = 4 #')
    bus = load(tmp_path, '[[every]]\ninterval = "1s"\nsubject = "a"\nbody = "${env:X}"')
    assert [one.body for one in engine_of(bus).schedules] == ['x"\n[bus]\npool = 4 #']
    assert not engine_of(bus).pool_is_given


def test_bodies_hold_plain_texts(tmp_path: Path) -> None:
    """A published text is a plain `str`, so no reader depends on where it came from."""
    bus = load(tmp_path, '[[every]]\ninterval = "1s"\nsubject = "a"\nbody = { a = ["${env:X}"] }\nkey = "${env:X}"')
    (schedule,) = engine_of(bus).schedules
    assert type(schedule.body["a"][0]) is str
    assert type(schedule.envelope["key"]) is str


def test_expressions_are_not_put_together(tmp_path: Path) -> None:
    """Text from outside would otherwise become code."""
    with pytest.raises(ConfigError, match="an expression cannot contain") as caught:
        load(tmp_path, '[[pipelines]]\nmatch = { expr = "body.kind == \'${env:X}\'" }\nfilters = ["log"]')
    assert SECRET not in str(caught.value)


def test_an_escaped_one_in_an_expression_is_text(tmp_path: Path) -> None:
    """`$${` was not replaced by text from outside, so it is allowed."""
    bus = load(tmp_path, '[[pipelines]]\nmatch = { expr = "body.kind == \'$${x}\'" }\nfilters = ["log"]')
    assert engine_of(bus).router.nodes[0].test.predicate(Message("a", {"kind": "${x}"})) is True  # type: ignore[union-attr]


def test_all_that_is_not_set_is_told_at_once(tmp_path: Path) -> None:
    """The error lists each missing value with its line."""
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            '[bus]\nname = "${env:NOPE}"\npool = "${env:NOPE_2}"\n[[every]]\nsubject = "${file:nope}"\ninterval = "1s"',
        )
    assert [problem.line for problem in caught.value.problems] == [3, 4, 6]


# --- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"top", "top"),
        (b"top\n", "top"),
        (b"top\r\n", "top"),
        (b"top\n\n", "top\n"),
        (b"\ntop\n", "\ntop"),
        (b" top \n", " top "),
        (b"a\nb\n", "a\nb"),
        (b"top\r", "top\r"),
        (b"top\r\n\n", "top\r\n"),
        (b"", ""),
        (b"\n", ""),
        ("é😀".encode(), "é😀"),
        (b"${env:X} $${", "${env:X} $${"),
        (b"a" * LARGEST, "a" * LARGEST),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_is_put_in_as_it_is(tmp_path: Path, content: bytes, found: str) -> None:
    """One newline at the end of the file is cut, because editors write one; nothing else is changed or replaced."""
    (tmp_path / "secret").write_bytes(content)
    assert replaced("${file:secret}", tmp_path) == found
    assert replaced("<${file:secret}>", tmp_path) == f"<{found}>"


@pytest.mark.parametrize("name", ["s", "a b", "a:b", "é", "a-b.txt", "$", "{", "a:-b", "sub/s", "./s", "sub/../s", "'q'"])
def test_names_of_files_may_be_odd(tmp_path: Path, name: str) -> None:
    """Every character but `}` belongs to the name, and a default is not possible."""
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_text(SECRET)
    assert replaced(f"${{file:{name}}}", tmp_path) == SECRET


def test_paths_begin_at_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path does not depend on where the program was started; a whole path is used as it is."""
    for folder, text in (("etc", "right"), ("elsewhere", "wrong")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_text(text)
    toml = 'version = 1\n[bus]\nname = "${file:name}"'
    (tmp_path / "etc" / "bus.toml").write_text(toml)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Bus.from_config("../etc/bus.toml").name == "right"
    assert Bus.from_config(tmp_path / "etc" / "bus.toml").name == "right"
    (tmp_path / "etc" / "bus.toml").write_text(toml.replace("name}", f"{tmp_path}/elsewhere/name}}"))
    assert Bus.from_config("../etc/bus.toml").name == "wrong"


def test_a_file_that_is_not_there_is_told_with_the_place(tmp_path: Path) -> None:
    """The error says where the file was looked for."""
    assert refused("${file:nope}", tmp_path) == f"${{file:nope}}: no such file (looked for it at {tmp_path}/nope)"
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    for name in ("", "loop", "dangling", "nope/x", "x" * 5000, "a\0b", "~/secret"):
        assert "${file:" in refused(f"${{file:{name}}}", tmp_path)


def in_time(call: Callable[[], str]) -> str:
    """Return the result of a call, and fail instead of hanging."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert found, "it hangs"
    return found[0]


@pytest.mark.parametrize("name", ["folder", "pipe", "to-pipe", "/dev/zero", "/dev/null", ".", "/"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str) -> None:
    """A folder, a pipe without a writer and an endless device are refused, because reading them would fail or hang."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "to-pipe")
    assert in_time(lambda: refused(f"${{file:{name}}}", tmp_path)).endswith(f"{tmp_path / name} is not a file")


def test_a_config_file_that_is_a_pipe_is_not_read(tmp_path: Path) -> None:
    """Loading does not hang on the pipe."""
    os.mkfifo(tmp_path / "bus.toml")

    def error() -> str:
        with pytest.raises(ConfigError) as caught:
            Bus.from_config(tmp_path / "bus.toml")
        return str(caught.value)

    assert in_time(error) == f"{tmp_path}/bus.toml: it is not a file; give a TOML file"


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    """A secret is a short text; the error does not show what is in the file."""
    (tmp_path / "large").write_bytes(b"a" * (LARGEST + 1))
    (tmp_path / "bytes").write_bytes(b"hunter2\xff")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    assert refused("${file:large}", tmp_path) == f"${{file:large}}: {tmp_path}/large is larger than 1024 KiB"
    assert refused("${file:sparse}", tmp_path) == f"${{file:sparse}}: {tmp_path}/sparse is larger than 1024 KiB"
    assert refused("${file:bytes}", tmp_path) == f"${{file:bytes}}: {tmp_path}/bytes is not UTF-8 text"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    """The error quotes the system's own words."""
    (tmp_path / "locked").touch(mode=0)
    assert refused("${file:locked}", tmp_path) == "${file:locked}: cannot be read: Permission denied"


# --- secrets -------------------------------------------------------------------------------------------------------------


def handle(message: Message) -> None:
    """A handler that the program hands in."""


HEADERS = 'use = "set_headers", headers = { auth = "Bearer ${env:X}", other = "$${env:X}" }'
KEPT: dict[str, str] = {
    "a name": '[bus]\nname = "bus-${env:X}"',
    "a setting": f"[[pipelines]]\nfilters = [{{ {HEADERS} }}]",
    "a named filter": '[filters.auth]\nuse = "enrich"\nadd = { token = "${env:X}" }\n[[pipelines]]\nfilters = ["auth", "auth"]',
    "a setting deep in a chain": (
        f'[[pipelines]]\nfilters = [{{ when = "a.>", filters = [{{ branch = "a.b", filters = [{{ {HEADERS} }}] }}] }}]'
    ),
    "a setting in a pipeline of its own": (
        f'[[pipelines]]\non_error = "drop"\nfilters = [{{ on_error = "reject", filters = [{{ {HEADERS} }}] }}]'
    ),
    "a setting around handlers": f'[[pipelines]]\nat = "delivery"\nfilters = [{{ {HEADERS} }}]',
    "data": '[[pipelines]]\nfilters = [{ use = "enrich", add = { l = ["${env:X}"], n = { m = "a${env:X}" } } }]',
    "values of fields": '[[pipelines]]\nfilters = [{ use = "fields", set = { "body.token" = "${env:X}" } }]',
    "paths of fields": (
        '[[pipelines]]\nfilters = [{ use = "fields", rename = { "body.a" = "body.${env:X}" }, remove = ["body.b${env:X}"] }]'
    ),
    "a list": '[[pipelines]]\nfilters = [{ use = "log", redact = ["a", "${env:X}"] }]',
    "a template": '[[pipelines]]\nfilters = [{ use = "reroute", to = "a.${env:X}" }]',
    "a match": '[[pipelines]]\nmatch = "a.${env:X}"\nfilters = ["log"]',
    "a detour": '[[pipelines]]\nfilters = ["log", { when = "a.${env:X}", filters = ["log"] }]',
    "a branch": '[[pipelines]]\nfilters = [{ branch = "a.${env:X}", filters = ["log"] }]',
    "a filter that is handed in": '[[pipelines]]\nfilters = ["${env:X}"]',
    "a filter that is handed in, in a table": '[[pipelines]]\nfilters = [{ use = "${env:X}" }]',
    "a schedule": """[[every]]
        interval = "9s"
        subject = "a"
        body = { token = "${env:X}", all = ["${env:X}"] }
        headers = { auth = "${env:X}" }
        key = "${env:X}"
        correlation_id = "${env:X}"
        """,
    "a schedule of one text": '[[every]]\ninterval = "9s"\nsubject = "a"\nbody = "$${env:X} ${env:X}"',
    "a schedule's subjects": '[[every]]\ninterval = "9s"\nsubject = "a.${env:X}"\nreply_to = "r.${env:X}"',
    "a subscription's name": '[[subscriptions]]\nname = "${env:X}"\nsubject = "a"\nhandler = "handle"',
    "a subscription's subject": '[[subscriptions]]\nname = "s"\nsubject = "a.${env:X}"\nhandler = "handle"',
    "a subscription's subjects": '[[subscriptions]]\nname = "s"\nsubject = ["a.${env:X}", "b"]\nhandler = "handle"',
    "where a subscription's values go": '[[subscriptions]]\nname = "s"\nsubject = "a"\nto = "b.${env:X}"\nhandler = "handle"',
    "a subscription's handler": '[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "${env:X}"',
    "filters of one": f'[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "handle"\nfilters = [{{ {HEADERS} }}]',
}  # fmt: skip


def handed() -> Mapping[str, Any]:
    return {"handlers": {"handle": handle, SECRET: handle}, "filters": {SECRET: lambda message, call_next: call_next(message)}}


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, inner in value.items() if key != "place" for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


PUBLIC = {
    "a name", "a match", "a detour", "a branch", "a schedule's subjects", "a subscription's name", "a subscription's subject",
    "a subscription's subjects", "where a subscription's values go",
}  # fmt: skip
"""Names, subjects and patterns are shown wherever messages are, so a secret must not be in them, as the documentation says."""

each = pytest.mark.parametrize("toml", KEPT.values(), ids=KEPT)


@pytest.mark.parametrize("name", sorted(KEPT.keys() - PUBLIC))
def test_no_picture_of_the_bus_shows_what_was_put_in(tmp_path: Path, name: str) -> None:
    """`repr(bus)`, `bus.describe()` and `bus.explain()` go into logs and tickets, so none of them may show it."""
    bus = load(tmp_path, KEPT[name], **handed())
    assert SECRET not in repr(bus)
    assert SECRET not in json.dumps(bus.describe(), default=repr)
    assert SECRET not in bus.explain("a") + bus.explain("b.c")


@each
def test_an_export_holds_what_was_written(tmp_path: Path, toml: str) -> None:
    """`${env:X}` and `$${` are exported as they were written, so the file works with another value and reveals none."""
    bus = load(tmp_path, toml, **handed())
    text = bus.export_config()
    assert SECRET not in text
    written = [one for one in texts(tomllib.loads(f"version = 1\n{dedent(toml)}")) if "${" in one]
    assert [one for one in written if one not in texts(tomllib.loads(text))] == []


@each
def test_an_export_loads_as_the_same(tmp_path: Path, toml: str) -> None:
    """The export loads as the same bus, and also with another value of the variable."""
    bus = load(tmp_path, toml, **handed())
    (tmp_path / "again.toml").write_text(bus.export_config())
    again = Bus.from_config(tmp_path / "again.toml", **handed())
    assert texts(again.describe()) == texts(bus.describe())
    assert again.export_config() == bus.export_config()


REFUSED: dict[str, str] = {
    "a transport": '[bus]\ntransport = "nope://ada:${env:X}@host/x"',
    "a transport's scheme": '[bus]\ntransport = "${env:X}://host"',
    "a transport's options": '[bus]\ntransport = "memory:?password=${env:X}"',
    "a capability": '[bus]\nrequire = { survives = "${env:X}" }',
    "a capability's name": '[bus]\nrequire = { x = "${env:X}" }',
    "a version": 'version = "${env:X}"',
    "a size": '[bus]\nmax_message_bytes = "${env:X}"',
    "a unit": '[[pipelines]]\nfilters = [{ use = "expire", ttl = "5 ${env:X}" }]',
    "a unit of the variable": '[[pipelines]]\nfilters = [{ use = "expire", ttl = "5${env:X}" }]',
    "a level": '[[pipelines]]\nfilters = [{ use = "log", level = "${env:X}" }]',
    "an exception": '[[pipelines]]\nfilters = [{ use = "retry", on = "${env:X}" }]',
    "a model": '[[pipelines]]\nfilters = [{ use = "validate", models = { ">" = "${env:X}" } }]',
    "a function": '[[pipelines]]\nfilters = [{ use = "tap", target = "${env:X}:f" }]',
    "a target": '[[pipelines]]\nfilters = [{ use = "python", target = "shop:${env:X}" }]',
    "a filter": '[[pipelines]]\nfilters = [{ use = "${env:X}x" }]',
    "a filter's name": '[[pipelines]]\nfilters = ["${env:X}x"]',
    "a filter's unknown key": '[[pipelines]]\nfilters = [{ use = "${env:L:-log}", levl = "${env:X}" }]',
    "a field": '[[pipelines]]\nfilters = [{ use = "fields", remove = ["${env:X}"] }]',
    "a cast": '[[pipelines]]\nfilters = [{ use = "fields", cast = { "body.x" = "${env:X}" } }]',
    "a value of a header": '[[pipelines]]\nfilters = [{ use = "set_headers", headers = { h = "a\\n${env:X}" } }]',
    "a template": '[[pipelines]]\nfilters = [{ use = "reroute", to = "{${env:X}}" }]',
    "a subject": '[[subscriptions]]\nname = "s"\nsubject = "a..${env:X}"',
    "subjects": '[[subscriptions]]\nname = "s"\nsubject = ["a", "${env:X}..b"]',
    "a pattern where a subject is due": '[[every]]\ninterval = "1s"\nsubject = "${env:X}.>"',
    "a name twice": '[[subscriptions]]\nname = "${env:X}"\nsubject = "a"\n[[subscriptions]]\nname = "${env:X}"\nsubject = "a"',
    "a name with a line break": '[[subscriptions]]\nname = "a\\n${env:X}"\nsubject = "a"',
    "a handler": '[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "${env:X}x"',
    "a handler's module": '[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "${env:X}:f"',
    "a run": '[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "handle"\nrun = "${env:X}"',
    "an overflow": '[[subscriptions]]\nname = "s"\nsubject = "a"\nmailbox = { overflow = "${env:X}" }',
    "an on_error": '[[pipelines]]\non_error = "${env:X}"\nfilters = ["log"]',
    "a side": '[[pipelines]]\nat = "${env:X}"\nfilters = ["log"]',
    "a match": '[[pipelines]]\nmatch = "a..${env:X}"\nfilters = ["log"]',
    "a detour": '[[pipelines]]\nfilters = [{ when = "a..${env:X}", filters = ["log"] }]',
    "a schedule's header": '[[every]]\ninterval = "1s"\nsubject = "a"\nheaders = { h = "a\\n${env:X}" }',
    "a schedule's key": '[[every]]\ninterval = "1s"\nsubject = "a"\nkey = "a\\n${env:X}"',
    "a schedule's time to live": '[[every]]\ninterval = "1s"\nsubject = "a"\nttl = "-${env:N}"\nreply_to = "${env:X}..x"',
    "a file": '[bus]\npool = "${file:secret}"',
    "a test's name": '[[tests]]\nname = "${env:X}"\npublish = {}\nexpect = {}',
    "a test's expectation": (
        '[[tests]]\nname = "t"\npublish = { subject = "${env:X}..a", json = "${env:X}" }\n'
        'expect = { outcome = "${env:X}", by = "${env:X}", reason = { matches = "(${env:X}" }, error = { absnt = "${env:X}" } }'
    ),
    "a test's stand-in": (
        '[[tests]]\nname = "t"\npublish = { subject = "a" }\nexpect = { dead = 0 }\n'
        'replace.filters.x = "${env:X}"\nreplace.handlers.y = "${env:X}"'
    ),
}  # fmt: skip


@pytest.mark.parametrize("toml", REFUSED.values(), ids=REFUSED)
def test_no_error_shows_what_was_put_in(tmp_path: Path, toml: str) -> None:
    """The error shows what the file says; its causes and `repr` show no more. Errors are printed, logged and sent around."""
    (tmp_path / "secret").write_text(SECRET)
    head = "" if toml.startswith("version") else "version = 1\n"
    (tmp_path / "bus.toml").write_text(head + toml)
    with pytest.raises(ConfigError) as caught:
        Bus.from_config(tmp_path / "bus.toml", **handed())
    shown: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        shown += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    assert [one for one in shown if SECRET in one] == []
