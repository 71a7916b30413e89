"""
Whatever a file holds, what comes of it is a bus that is not started, or all that is wrong with it in lines that can be read.

`-m thorough` looks longer; so does `PIPEBUS_FUZZ=20000 python -m pytest tests/config/test_fuzz.py`: so many examples in all.
"""

from __future__ import annotations

import copy
import datetime
import faulthandler
import json
import math
import os
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import export_shop as shop
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from pipebus import Bus, ConfigError
from pipebus.config import catalogue
from scale_helpers import examples
from values_helpers import CALM

EXAMPLES: Final = int(os.environ.get("PIPEBUS_FUZZ", examples(50, 400)))
PATIENCE: Final = 300.0
"""Seconds after which a test that hangs is ended, with the place where it does; none is measured."""

HANDED: Final[dict[str, Any]] = {
    "allow_imports": ["export_shop"],
    "handlers": {"bill": shop.bill, "ship": shop.aship},
    "filters": {"audit": lambda message, call_next: call_next(message), "mark": shop.stamp},
}

# --- files that are well -----------------------------------------------------------------------------------------------

CHAINS: Final = """\
# chains of all kinds
version = 1

[bus]
transport = "memory:"
name = "shop"
pool = 8
dead_letters = 10_000
max_message_bytes = "1MiB"
require = { survives = "nothing", delay = true }
debug = false

[filters.check-order]
use = "validate"
models = { "orders.>" = "export_shop:Order", "ages.*" = "int" }

[filters."a b"]
use = "dedupe"
key = { expr = 'headers.tenant' }
window = "1h"
size = 1_000

[filters.paint]
use = "python"
target = "export_shop:Paint"
text = "x"
words = ["a", "b"]
table = { a = 1, "b c" = 2 }
limits = { least = 1, most = 2 }
day = 2026-11-25
colour = "blue"
mode = "slow"
model = "export_shop:Order"
rule = "export_shop:is_large"
errors = "ValueError"
wait = "200ms"
room = "64KiB"

[[pipelines]]
filters = ["log", "check-order", "audit", { use = "mark" }, "a b", "paint", "paint"]

[[pipelines]]
at = "publish"
match = "orders.>"
on_error = "reject"
filters = [
  { use = "retry", attempts = 5, wait = "200ms", max_wait = 10, jitter = 0.5, on = ["OSError", "export_shop:Late"] },
  { use = "python", target = "export_shop:stamp" },
  { when = "orders.eu.>", filters = [{ use = "set_headers", headers = { region = "eu", by = { expr = "subject" } } }] },
  { branch = { expr = 'body.total > `100`' }, filters = [{ use = "tap", target = "export_shop:look" }] },
  { switch = [
    { when = "orders.us.>", filters = ["log"] }, { when = { expr = "key == 'k'" }, filters = [] },
  ], otherwise = [{ use = "mark" }] },
  { filters = ["log", { use = "fields", set = { "body.a" = { expr = "key" } } }], on_error = "drop" },
  { use = "reroute", to = "shop.{subject}" },
]

[[pipelines]]
at = "delivery"
match = { python = "export_shop:is_keyed" }
on_error = "dead_letter"
filters = [{ use = "timeout", seconds = 5, abandon = true }, { use = "expire", ttl = "1d" }]
"""

SUBSCRIPTIONS: Final = """\
version = 1

[[subscriptions]]
name = "billing"
subject = "orders.created"
handler = "bill"
workers = 4
run = "pool"
mailbox = { size = 10_000, overflow = "block", timeout = "5s" }
attempts = 3
deliver = "new"
to = "orders.billed"
filters = [{ use = "retry", attempts = 2 }, { when = "orders.created", filters = ["log"] }]

[[subscriptions]]
name = "ship ${env:FUZZ_NAME:-it}"
subject = ["orders.*", "x.>"]
handler = "ship"
mailbox = 7

[[subscriptions]]
name = "by name"
subject = "ages.*"
handler = "export_shop:order"
run = "thread"
workers = "${env:FUZZ_WORKERS:-2}"

[[subscriptions]]
name = "pull"
subject = ">"
mailbox = { overflow = "drop_oldest" }
filters = [{ use = "set_headers", headers = { a = "${file:secret.txt}" } }]

[[every]]
interval = "60s"
subject = "headlines.fetch"
body = { any = "JSON", list = [1, 2.5, true, "x", { a = 1979-05-27T07:32:00Z }], "${env:X}" = "$${env:X}" }
headers = { tenant = "acme" }
key = "k"
ttl = 5
delay = "1s"
reply_to = "back"
correlation_id = "c"
"""

TESTS: Final = """\
version = 1

[[pipelines]]
filters = [{ use = "validate", models = { "orders.>" = "export_shop:Order" } }]

[filters.once]
use = "dedupe"

[[subscriptions]]
name = "billing"
subject = "orders.created"
handler = "bill"
filters = ["once"]

[[tests]]
name = "a bad order never reaches billing"
publish = { subject = "orders.created", json = { id = "x" }, headers = { tenant = "acme" }, key = "k", after = "10m", ttl = 5 }
replace.handlers.billing = { returns = 1 }
replace.filters.once = "pass"
advance = "1h"
expect = { outcome = "rejected", by = "validate", reason = { contains = "valid integer" }, deliveries = 0 }

[[tests]]
name = "a good one does"
publish = [{ subject = "orders.created", json = { id = 1 } }, { subject = "orders.created", json = { id = 2 }, id = "m" }]
[tests.replace.handlers]
"*" = { raises = "boom", times = 2 }
[tests.replace.filters]
validate = { rejects = "no", times = 1 }
[tests.expect]
outcome = ["rejected", "accepted"]
deliveries = { billing = 1 }
dead = { billing = 0 }
received = { billing = [{ subject = "orders.created", body = { contains = { id = 2 }, absent = ["card.number"] }, key = "k" }] }

[[tests]]
name = "matchers"
publish = { subject = "orders.created", json = [1] }
expect = { outcome = "rejected", reason = { matches = "^[A-Z]" }, error = { absent = true }, received = { billing = [] } }
"""

STRINGS: Final = (
    'version = 1 # a comment with "quotes" and [brackets]\r\n'
    "bus.name = 'it is'\r\n"
    """\
bus . "pool" = 0x08

[filters]
log2.use = "log"
log2.redact = [ # not shown
    "card",
    'number',   # a comma follows
]
"é ü".use = "enrich"
"é ü".add.""."".x = 1
"é ü".add.text = \"\"\"
  several
  lines \\
     joined, "quoted", \\u00e9 \\U0001F600\"\"\"
"é ü".add.raw = \'\'\'
[[pipelines]] $${file:secret.txt}
it's\'\'\'
"é ü".add.numbers = [1e3, +1, -0.0, inf, 0o17, 0b11, 1_000, 12:00:00, 2026-01-01]

[[pipelines]]
filters = [
    "log2", "é ü",

    { use = "log", body = true },
    ]

[[every]]
interval = 1.5
subject = "a"
[every.body]
deep = { a = { b = [ [ [ { c = [] } ] ] ] } }
[[every]]
subject = "b"
interval = 2
"""
)

FILES: Final = {"chains": CHAINS, "subscriptions": SUBSCRIPTIONS, "tests": TESTS, "strings": STRINGS}
ROOT: Final = Path(__file__).parents[2]
FILES.update({str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.glob("examples/*/*.toml"))})
OURS: Final = ["chains", "subscriptions", "tests", "strings"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for files and for what they refer to; everything that a file may import lazily has been imported."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "secret.txt").write_text("hunter2\n")
    for name in OURS:
        (folder / "bus.toml").write_text(FILES[name], encoding="utf-8", newline="")
        Bus.from_config(folder / "bus.toml", **HANDED)
    return folder


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A test that hangs ends the process with a traceback."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# --- the judge ---------------------------------------------------------------------------------------------------------


def judge(data: bytes, folder: Path) -> str:
    """What came of a file: "a bus", or "problems"; everything else is an error."""
    file = folder / "bus.toml"
    file.write_bytes(data)
    threads, modules = set(threading.enumerate()), set(sys.modules)
    environment, path, limit = dict(os.environ), list(sys.path), sys.getrecursionlimit()
    try:
        bus = Bus.from_config(file, **HANDED)
    except ConfigError as error:
        _judge_error(error, file, data)
        result = "problems"
    else:
        assert bus.state == "new"
        result = "a bus"
    assert set(threading.enumerate()) == threads
    assert {name for name in set(sys.modules) - modules if not name.startswith(("pydantic", "jmespath", "encodings"))} == set()
    assert (dict(os.environ), sys.path, sys.getrecursionlimit()) == (environment, path, limit)
    assert file.read_bytes() == data
    return result


def _judge_error(error: ConfigError, file: Path, data: bytes) -> None:
    assert error.problems
    last = data.count(b"\n") + data.count(b"\r") + 1
    for problem in error.problems:
        assert problem.file == str(file)
        assert problem.line is None or 1 <= problem.line <= last, problem
        assert problem.text
        assert problem.text == problem.text.strip()
        for said in (problem.text, problem.where, str(problem)):
            assert said.isprintable(), problem
            assert "0x7f" not in said or "byte 0x7f" in said, problem  # the address of an object
            assert len(said) < 2000, problem
        assert "hunter2" not in str(problem)
    lines = [problem.line or 0 for problem in error.problems]
    assert lines == sorted(lines)
    assert len(set(error.problems)) == len(error.problems)
    assert len(str(error).splitlines()) == len(lines) + (len(lines) > 1)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_well(name: str, folder: Path) -> None:
    """The files that the tests break are valid before."""
    if name in OURS:
        assert judge(FILES[name].encode(), folder) == "a bus"
    else:
        judge(FILES[name].encode(), folder)


# --- data as TOML ------------------------------------------------------------------------------------------------------


def toml(value: Any) -> str:
    """Write a value as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    return str(value.isoformat())


def document(data: dict[str, Any]) -> bytes:
    """A key in a line; for tables in a list, an element in a line."""
    lines = []
    for key, value in data.items():
        if isinstance(value, list):
            lines += [f"{toml(key)} = [", *(f"  {toml(inner)}," for inner in value), "]"]
        else:
            lines.append(f"{toml(key)} = {toml(value)}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


PARSED: Final = {name: tomllib.loads(text) for name, text in FILES.items()}
_WORDS: Final = """
    version bus filters pipelines subscriptions every tests transport name pool dead_letters max_message_bytes require
    debug use target at match on_error when branch switch otherwise expr python subject handler workers run mailbox size
    overflow timeout attempts deliver to interval body headers key ttl delay reply_to correlation_id publish json after id
    replace handlers advance expect outcome by reason deliveries dead received error equals contains matches absent
    returns raises times drops rejects models replace window add overwrite rename cast set remove missing level redact
    wait max_wait jitter on seconds abandon a.b é
"""
WORDS: Final = sorted(
    {
        *(*_WORDS.split(), "*"),
        "", "a b", "$${x}", "${env:X}", "\n", "\u2028", "\x1b[31m", "\"'", "billing", "check-order",
    }
)  # fmt: skip
TEXTS: Final = (
    "", "a", "log", "retry", "python", "validate", "audit", "bill", "ship", "check-order", "orders.>", "a.b", "a..b", ">",
    "*", ".",
    "export_shop:bill", "export_shop:Paint", "export_shop:nobody", "export_shop.nothing:x", "export_shop:__class__",
    "os:system",
    "export_shop:Order", "export_shop:SHARED_COUNT", "export_shop:Gate", "export_shop:Stateful", "export_shop:Colour.RED",
    "x:y:z",
    "export_shop:dataclass", "export_shop:FUNCTIONS", "export_shop:stamp", "export_shop:apassing", "export_shop:extra", ":",
    "a:",
    "5s", "5 parsecs", "1e400s", "-1s", "999999999999999999999d", "0s", "1MiB", "1.5B", "publish", "delivery", "reject", "drop",
    "dead_letter", "block", "pool", "thread", "loop", "new", "all", "memory:", "memory:?wire=json", "redis://x",
    "memory:?x=%ff",
    "accepted", "rejected", "pass", "true", "4", "int", "ValueError", "KeyboardInterrupt", "body.a", "headers.x", "body",
    "headers",
    "${env:FUZZ_NONE}", "${env:FUZZ_NONE:-x}", "${env:FUZZ_NONE:?no}", "${file:secret.txt}", "${file:../nope}", "${file:}",
    "${", "${}",
    "$${x}", "${env:}", "${env:A B}", "${env:PATH", "${file:\x00}", "${env:FUZZ_NONE:-${x}}", "{subject}",
    "{body.__class__}", "{", "{}{",
    "body.total > `100`", "body.total >", "body", "@", "*", "keys(@)", "&body", "nope", "`", "'", "[?a", "(" * 200,
    "a." * 600 + "a",
    "[A-Z", "(a+)+$", "\n", "a\nb", "\u2028", "\x1b[31m", "\x7f", "é", "\U0001f600", "x" * 3000, "\u202e",
)  # fmt: skip
atoms = st.one_of(
    st.sampled_from(TEXTS),
    st.text(max_size=5),
    st.booleans(),
    st.sampled_from([0, 1, -1, 4, 2**63 - 1, 2**63, -(2**64), 10**40, 10**4000, 3_600_000]),
    st.integers(-5, 20),
    st.floats(),
    st.sampled_from([0.5, 1e308, -0.0]),
    st.sampled_from(
        [datetime.date(2026, 11, 25), datetime.time(4, 0, 0, 5), datetime.datetime(1, 1, 1), datetime.datetime(9999, 1, 1,
        tzinfo=datetime.UTC)]
    ),
)  # fmt: skip
keys = st.sampled_from(WORDS) | st.text(max_size=3)
parts_of_files = st.sampled_from(list(PARSED)).flatmap(lambda name: st.sampled_from([value for _, value in walk(PARSED[name])]))
values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
) | st.deferred(lambda: parts_of_files)


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place of a document, with the value that is there."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from walk(inner, (*path, key))


# --- valid files with something wrong in them --------------------------------------------------------------------------

Edit = Callable[[Any, Any, Any], None]


def put(holder: Any, key: Any, value: Any) -> None:
    holder[key] = value


def drop(holder: Any, key: Any, value: Any) -> None:
    del holder[key]


def wrap_list(holder: Any, key: Any, value: Any) -> None:
    holder[key] = [holder[key], value]


def wrap_table(holder: Any, key: Any, value: Any) -> None:
    holder[key] = {str(value)[:9]: holder[key]}


def beside(holder: Any, key: Any, value: Any) -> None:
    """A key more, or an element more."""
    if isinstance(holder, list):
        holder.insert(key, value)
    else:
        holder[f"{key}"[:-1] if len(str(value)) % 2 else str(value)[:9]] = value


def again(holder: Any, key: Any, value: Any) -> None:
    """Repeat an entry next to the original."""
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[f"{key}2"] = copy.deepcopy(holder[key])


def as_text(holder: Any, key: Any, value: Any) -> None:
    holder[key] = str(holder[key])


def from_outside(holder: Any, key: Any, value: Any) -> None:
    """The same, by way of `${…}`."""
    holder[key] = f"${{env:FUZZ_NONE:-{holder[key]}}}"


EDITS: Final[tuple[Edit, ...]] = (put, put, put, drop, wrap_list, wrap_table, beside, beside, again, as_text, from_outside)
edits = st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 10**6), values), min_size=1, max_size=3)


@settings(CALM, max_examples=EXAMPLES * 2 // 5)
@given(name=st.sampled_from(list(PARSED)), changes=edits)
def test_valid_files_with_wrong_values(name: str, changes: list[tuple[Edit, int, Any]], folder: Path) -> None:
    """Every key gets other values, no value, too many values, values of other types and values from outside."""
    data = copy.deepcopy(PARSED[name])
    for edit, number, value in changes:
        places = [path for path, _ in walk(data) if path]
        if not places:
            break
        *above, key = places[number % len(places)]
        holder: Any = data
        for part in above:
            holder = holder[part]
        edit(holder, key, copy.deepcopy(value))
    event(judge(document(data), folder))


# --- files of the right words in any order -----------------------------------------------------------------------------

filters = st.deferred(lambda: st.lists(entries, max_size=3) | values)
nothing: st.SearchStrategy[dict[str, Any]] = st.just({})
named_values = st.integers(0, 7).flatmap(lambda number: nothing if number else st.dictionaries(keys, values, max_size=2))


def mostly(usual: Any) -> Any:
    """A value that is usually valid and sometimes anything."""
    return st.integers(0, 5).flatmap(lambda number: usual if number else values)


def merged(tables: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {key: value for table in tables for key, value in table.items()}


def some(**optional: Any) -> Any:
    return st.tuples(named_values, st.fixed_dictionaries({}, optional=optional)).map(merged)


settings_ = values | st.sampled_from(["5s", 1, 0.5, True, "body.a", {"expr": "body.a"}, "export_shop:look", {"a": 1}, ["a"]])
kinds = st.sampled_from([*sorted(catalogue.BUILT_IN), "python", "check", "a b", "audit"])
tests = st.sampled_from(["a.>", "*", {"expr": "key == 'k'"}, {"python": "export_shop:is_keyed"}, {"expr": "a"}])
entries = st.one_of(
    st.sampled_from(["log", "audit", "mark", "check", "dedupe", "retry", "nope", "${env:FUZZ_NONE:-log}"]),
    some(use=mostly(kinds), target=mostly(st.sampled_from(TEXTS)), attempts=settings_, wait=settings_, key=settings_,
    add=settings_,
         seconds=settings_, to=settings_, headers=settings_, set=settings_, level=settings_, models=settings_),
    some(when=mostly(tests), filters=filters),
    some(branch=mostly(tests), filters=filters),
    some(switch=mostly(st.lists(some(when=mostly(tests), filters=filters), max_size=2)), otherwise=filters),
    some(filters=filters, on_error=mostly(st.sampled_from(["drop", "reject", "dead_letter"]))),
    values,
)  # fmt: skip
subjects = mostly(st.sampled_from(["a", "a.>", "*", "a.${env:FUZZ_NONE:-b}", "a..b"]))
counts = mostly(st.integers(0, 3) | st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 2)))
expected = values | st.sampled_from(["x", {"contains": "x"}, {"matches": "^x"}, {"absent": True}, {"equals": 1}])
documents = some(
    version=mostly(st.just(1)),
    bus=mostly(some(pool=st.integers(0, 4), transport=mostly(st.just("memory:")), debug=mostly(st.booleans()))),
    filters=mostly(
        st.dictionaries(
            st.sampled_from(["check", "log", "python", "a b"]), some(use=mostly(kinds), target=st.sampled_from(TEXTS)),
            max_size=2
        )
    ),
    pipelines=mostly(
        st.lists(
            some(
                at=mostly(st.sampled_from(["publish", "delivery"])), match=mostly(tests), filters=filters,
                on_error=mostly(st.sampled_from(["drop", "dead_letter"])),
            ),
            max_size=3,
        )
    ),
    subscriptions=mostly(
        st.lists(
            some(
                name=mostly(st.sampled_from(["a", "b", "publish"])), subject=subjects | st.lists(subjects, max_size=2),
                handler=mostly(st.sampled_from(["bill", "ship", "export_shop:bill"])), filters=filters, to=subjects,
                mailbox=mostly(st.sampled_from([1, {}, {"size": 4}, {"overflow": "reject"}])), workers=mostly(st.just(2)),
                run=mostly(st.sampled_from(["pool", "loop", "thread"])),
            ),
            max_size=3,
        )
    ),
    every=mostly(
        st.lists(
            some(interval=mostly(st.just("5s")), subject=subjects, body=values, headers=mostly(st.just({"a": "b"})),
            ttl=settings_),
            max_size=2,
        )
    ),
    tests=mostly(
        st.lists(
            some(
                name=mostly(st.sampled_from(["t", "u"])), publish=mostly(some(subject=subjects, json=values, after=settings_)),
                replace=mostly(
                    some(
                        handlers=st.dictionaries(st.sampled_from(["a", "*"]), mostly(some(returns=values, raises=values)),
                        max_size=2),
                        filters=st.dictionaries(st.sampled_from(["log", "x"]), mostly(some(drops=values, rejects=values)),
                        max_size=2),
                    )
                ),
                advance=settings_,
                expect=mostly(
                    some(
                        outcome=mostly(st.sampled_from(["accepted", "dropped", ["accepted"]])), by=mostly(st.just("log")),
                        reason=expected, deliveries=counts, dead=counts, error=expected,
                        received=mostly(st.dictionaries(st.sampled_from(["a", "b"]),
                        some(body=expected) | st.lists(some(key=expected)))),
                    )
                ),
            ),
            max_size=2,
        )
    ),
)  # fmt: skip


@settings(CALM, max_examples=EXAMPLES // 5)
@given(data=documents)
def test_files_of_the_right_words(data: dict[str, Any], folder: Path) -> None:
    """Every table may be there or not, with any keys and any values."""
    event(judge(document(data), folder))


# --- bytes -------------------------------------------------------------------------------------------------------------

FRAGMENTS: Final = (
    b'"', b"'", b'"""', b"'''", b"[", b"]", b"[[", b"]]", b"{", b"}", b"=", b",", b".", b"#", b"\n", b"\r", b"\r\n", b"\t",
    b" ",
    b"\x00", b"\xff", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1b[31m", b"\xe2\x80\xa8", b"\xe2\x80\xae",
    b"\x7f",
    b"\\", b"\\u00e9", b"\\ud800", b"${", b"}", b"$", b"${env:FUZZ_NONE}", b"-", b"_", b"0", b"9", b"e", b"1e999", b"inf",
    b"true",
    b"x = 1\n", b"[bus]\n", b"[[pipelines]]\n", b"[pipelines.x]\n", b"[filters]\n", b"use = 1\n", b"version = 1\n", b"'''\n'''",
    b"a.b.c = 1\n", b"2026-02-30", b"[[tests]]\n", b"[[subscriptions]]\nname = \"x\"\n", b"{ a = 1, a = 2 }",
)  # fmt: skip
numbers = st.integers(0, 10**6)
byte_edits = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), numbers, st.sampled_from(FRAGMENTS) | st.binary(min_size=1, max_size=2)),
        st.tuples(st.just("delete"), numbers, st.integers(1, 12)),
        st.tuples(st.just("flip"), numbers, st.integers(1, 255)),
        st.tuples(st.just("replace"), numbers, st.sampled_from(FRAGMENTS)),
        st.tuples(st.just("double"), numbers, numbers),
        st.tuples(st.just("swap"), numbers, numbers),
        st.tuples(st.just("without"), numbers, st.just(0)),
        st.tuples(st.just("truncate"), numbers, st.just(0)),
    ),
    min_size=1,
    max_size=3,
)


def edited(data: bytes, how: str, number: int, what: Any) -> bytes:
    at = number % (len(data) + 1)
    lines = data.splitlines(keepends=True) or [b""]
    line = number % len(lines)
    if how == "insert":
        return data[:at] + what + data[at:]
    if how == "delete":
        return data[:at] + data[at + what :]
    if how == "flip":
        return data[:at] + bytes(byte ^ what for byte in data[at : at + 1]) + data[at + 1 :]
    if how == "replace":
        return data[:at] + what + data[at + len(what) :]
    if how == "double":
        lines.insert(what % len(lines), lines[line])
    elif how == "swap":
        other = what % len(lines)
        lines[line], lines[other] = lines[other], lines[line]
    elif how == "without":
        del lines[line]
    else:
        return data[:at]
    return b"".join(lines)


@settings(CALM, max_examples=EXAMPLES * 2 // 5)
@given(name=st.sampled_from(list(FILES)), changes=byte_edits)
@example(name="chains", changes=[("truncate", 0, 0)])
@example(name="strings", changes=[("insert", 0, b"\xef\xbb\xbf")])
def test_valid_files_with_other_bytes(name: str, changes: list[tuple[str, int, Any]], folder: Path) -> None:
    """Bytes are inserted, deleted, flipped and replaced, lines are doubled, swapped and left out, and files end too early."""
    data = FILES[name].encode()
    for how, number, what in changes:
        data = edited(data, how, number, what)
    event(judge(data, folder))


@pytest.mark.thorough
def test_every_line_left_out(folder: Path) -> None:
    """Each line of each file is left out once, and doubled once."""
    for name in OURS:
        lines = FILES[name].encode().splitlines(keepends=True)
        for number in range(len(lines)):
            judge(b"".join(lines[:number] + lines[number + 1 :]), folder)
            judge(b"".join(lines[: number + 1] + lines[number:]), folder)


# --- deep, long, large -------------------------------------------------------------------------------------------------

DEEP: Final[dict[str, Callable[[int], str]]] = {
    "lists in a body": lambda n: f'[[every]]\ninterval = 1\nsubject = "a"\nbody = {"[" * n}{"]" * n}',
    "tables in a body": lambda n: f'[[every]]\ninterval = 1\nsubject = "a"\nbody = {"{a = " * n}1{"}" * n}',
    "tables by headers": lambda n: f'[[every]]\ninterval = 1\nsubject = "a"\n[every.body{".a" * n}]\nb = 1',
    "dotted keys": lambda n: f'[[every]]\ninterval = 1\nsubject = "a"\nbody{".a" * n} = 1',
    "lists in a setting": lambda n: f'[[pipelines]]\nfilters = [{{ use = "enrich", add = {{ a = {"[" * n}{"]" * n} }} }}]',
    "lists for a setting of other types": lambda n: f'[[pipelines]]\nfilters = [{{ use = "retry", on = {"[" * n}{"]" * n} }}]',
    "lists for a number": lambda n: f"[bus]\npool = {'[' * n}{']' * n}",
    "lists for a type of pydantic's": lambda n: (
        f'[[pipelines]]\nfilters = [{{ use = "python", target = "export_shop:Paint", text = "", limits = {"[" * n}{"]" * n} }}]'
    ),
    "an unknown key": lambda n: f"x = {'[' * n}{']' * n}",
    "filters in filters": lambda n: f'[[pipelines]]\nfilters = {"[{filters = " * n}["log"]{"}]" * n}',
    "detours in detours": lambda n: f'[[pipelines]]\nfilters = {"[{when = 1, filters = " * n}["log"]{"}]" * n}',
    "what is contained": lambda n: (
        f'[[tests]]\nname = "a"\npublish = {{ subject = "a" }}\nexpect.reason = {"{contains = " * n}"a"{"}" * n}'
    ),
    "an expression": lambda n: f'[[pipelines]]\nmatch = {{ expr = "{"(" * n}body{")" * n}" }}\nfilters = []',
    "an expression of many steps": lambda n: f'[[pipelines]]\nmatch = {{ expr = "body{".a" * n}" }}\nfilters = []',
    "an expression of many nots": lambda n: f'[[pipelines]]\nmatch = {{ expr = "{"!" * n}body" }}\nfilters = []',
    "a template": lambda n: f'[[pipelines]]\nfilters = [{{ use = "reroute", to = "{"{" * n}a{"}" * n}" }}]',
}


@pytest.mark.parametrize("make", DEEP.values(), ids=DEEP)
@pytest.mark.few(2)
def test_deep(make: Callable[[int], str], folder: Path) -> None:
    """A file of any depth that tomllib can parse is read, or refused because it is too deep."""
    for depth in (1, 2, 50, 90, 100, 110, *range(150, 520, 11), 1000, 5000):
        judge(f"version = 1\n{make(depth)}\n".encode(), folder)


LARGE: Final[dict[str, Callable[[int], str]]] = {
    "filters": lambda n: "[[pipelines]]\nfilters = [" + '"log", ' * n + "]",
    "wrong filters": lambda n: "[[pipelines]]\nfilters = [" + '"lgo", ' * (n // 3) + "]",
    "branches": lambda n: (
        "[[pipelines]]\nfilters = [" + "".join(f'{{branch = "a{i}", filters = []}},' for i in range(n // 3)) + "]"
    ),
    "subscriptions": lambda n: "".join(f'[[subscriptions]]\nname = "{i}"\nsubject = "a"\nhandler = "bill"\n' for i in range(n)),
    "unknown keys": lambda n: "".join(f"key{i} = 1\n" for i in range(n)),
    "unknown keys in one line": lambda n: f"bus = {{ {', '.join(f'key{i} = 1' for i in range(n))} }}",
    "many dots": lambda n: f'[[subscriptions]]\nname = "a"\nsubject = "{"a." * n}a"',
    "dollars": lambda n: f'bus.name = "{"$" * n}{{{"${" * n}"',
    "quotes": lambda n: f"bus.name = '''{'a' * n}\n{chr(39)}{chr(34) * n}'''",
    "comments": lambda n: "# ${x}\n" * n,
    "digits": lambda n: f"bus.pool = {'9' * n}",
    "spaces before a unit": lambda n: f'[[every]]\nsubject = "a"\ninterval = "{" " * n}5{" " * n}x"',
    "a regular expression": lambda n: f'[[tests]]\nname = "a"\nexpect.reason.matches = "{"(a+)+" * (n // 10)}"',
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
@pytest.mark.few(2)
def test_large(make: Callable[[int], str], folder: Path) -> None:
    """Hundreds of entries of any kind do not break the loader."""
    for many in (10, 1000):
        judge(f"version = 1\n{make(many)}\n".encode(), folder)
