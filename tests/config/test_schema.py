"""The schema for editors: it is valid, accepts every file that loads, refuses mistakes, and explains each setting."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import importlib
import json
import math
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

import pipebus
from pipebus import Bus, ConfigError, Message
from pipebus.config import catalogue
from pipebus.config.settings import settings_of
from pipebus.config.writing.schema import schema
from pipebus.filters import Log
from tables import table
from values_helpers import CALM

NAME = __name__
HERE = Path(__file__).parent
EXAMPLES = Path(pipebus.__file__).resolve().parents[2] / "examples"


@dataclasses.dataclass
class Order:
    id: int


def bill(message: Message) -> Any:
    return None


def is_large(message: Message) -> bool:
    return True


def stamp(message: Message, call_next: Any) -> Any:
    return call_next(message)


class Stateful:
    """A class without settings, of a program's own."""

    def __init__(self, size: int = 1, *, limits: dict[str, int] | None = None, names: tuple[str, ...] = ()) -> None:
        self.size = size

    def __call__(self, message: Message, call_next: Any) -> Any:
        return call_next(message)


GOOD: dict[str, str] = {
    "nothing": "",
    "empty tables": "[bus]\n[filters]",
    "a bus": """
        [bus]
        transport = "memory:"
        name = "shop"
        pool = 8
        dead_letters = 10_000
        max_message_bytes = "1MiB"
        require = { survives = "nothing" }
        debug = true
        """,
    "numbers for durations and sizes": """
        [bus]
        max_message_bytes = 1024
        [[pipelines]]
        filters = [
            { use = "expire", ttl = 5 }, { use = "timeout", seconds = 1.5, abandon = true }, { use = "expire", ttl = " 5 s " },
        ]
        """,
    "named filters": f"""
        [filters.check-order]
        use = "validate"
        models = {{ "orders.>" = "{NAME}:Order", "texts" = "str" }}
        [filters."with a space"]
        use = "log"
        [[pipelines]]
        filters = ["log", "check-order", {{ use = "with a space" }}, "check-order"]
        """,
    "every built-in filter": f"""
        [[pipelines]]
        at = "delivery"
        on_error = "dead_letter"
        filters = [
            {{ use = "dedupe", key = {{ expr = "body.id" }}, window = "1d", size = 10 }},
            {{ use = "drop", when = {{ expr = "body.old" }}, reason = "old" }},
            {{ use = "enrich", add = {{ a = [1, {{ b = 2026-01-02 }}], c = 04:00:00 }} }},
            {{ use = "enrich", add = {{ expr = "{{a: subject}}" }}, overwrite = false }},
            {{ use = "expire", ttl = "1h" }},
            {{ use = "fields", rename = {{ "body.a" = "body.b" }}, cast = {{ "body.c" = "datetime" }}, remove = ["body.d"] }},
            {{ use = "fields", set = {{ "body.e" = {{ expr = "subject" }}, "body.f" = [1, {{ x = 1 }}], "headers.g" = "h" }} }},
            {{ use = "log", level = "debug", body = true, headers = true, redact = ["card"] }},
            {{ use = "retry", attempts = 5, wait = "200ms", max_wait = 3, jitter = 0.5, on = "ConnectionError" }},
            {{ use = "retry", on = ["OSError", "ValueError"] }},
            {{ use = "set_headers", headers = {{ a = "x", b = {{ expr = "subject" }}, c = {{ python = "{NAME}:bill" }} }} }},
            {{ use = "tap", target = "{NAME}:bill" }},
            {{ use = "tap", target = {{ python = "{NAME}:bill" }} }},
            {{ use = "timeout", seconds = "2s", abandon = true }},
            {{ use = "validate", models = {{ ">" = "dict" }}, replace = false, name = "v" }},
        ]
        [[pipelines]]
        filters = [{{ use = "reroute", to = "eu.{{subject}}" }}]
        """,
    "names of filters": """
        [filters.a]
        use = "log"
        name = "lines"
        [[pipelines]]
        filters = ["a", { use = "expire", ttl = 1, name = "old" }, { use = "validate", models = { a = "dict" }, name = "v" }]
        """,
    "python": f"""
        [filters.mine]
        use = "python"
        target = "{NAME}:Stateful"
        size = 4
        limits = {{ a = 1 }}
        [[pipelines]]
        filters = [
            "mine",
            {{ use = "python", target = "{NAME}:stamp" }},
            {{ use = "python", target = "{NAME}:Stateful", names = ["a"] }},
        ]
        """,
    "chains in chains": f"""
        [[pipelines]]
        match = "orders.>"
        on_error = "reject"
        filters = [
            "log",
            {{ when = "orders.eu.>", filters = ["log", {{ branch = {{ expr = "body.total > `100`" }}, filters = [] }}] }},
            {{ when = {{ python = "{NAME}:is_large" }}, filters = [{{ filters = ["log"], on_error = "drop" }}] }},
            {{ filters = [] }},
            {{ switch = [
                {{ when = "orders.us.>", filters = ["log"] }}, {{ when = {{ expr = "key == 'k'" }}, filters = [] }},
            ], otherwise = ["log"] }},
            {{ switch = [{{ when = "orders.us.>", filters = ["log"] }}] }},
        ]
        [[pipelines]]
        match = {{ expr = "headers.tenant == 'acme'" }}
        filters = []
        """,
    "subscriptions": f"""
        [[subscriptions]]
        name = "billing"
        subject = "orders.created"
        handler = "bill"
        workers = 4
        run = "thread"
        mailbox = {{ size = 10_000, overflow = "block", timeout = "5s" }}
        attempts = 3
        deliver = "new"
        to = "orders.billed"
        filters = ["log", {{ when = "orders.>", filters = [] }}]
        [[subscriptions]]
        name = "pull"
        subject = ["a.>", "b.*"]
        mailbox = 5
        [[subscriptions]]
        name = "imported"
        subject = "c"
        handler = "{NAME}:bill"
        run = "pool"
        mailbox = {{ overflow = "drop_oldest" }}
        """,
    "schedules": """
        [[every]]
        interval = "60s"
        subject = "headlines.fetch"
        body = { any = [1, "x", { deep = true }] }
        headers = { tenant = "acme" }
        key = "k"
        ttl = 5
        delay = "1s"
        reply_to = "answers"
        correlation_id = "c"
        [[every]]
        interval = 0.5
        subject = "tick"
        body = 5
        """,
    "tests": """
        [filters.check]
        use = "log"
        [[pipelines]]
        filters = ["check"]
        [[subscriptions]]
        name = "billing"
        subject = "orders.>"
        handler = "bill"
        [[tests]]
        name = "one"
        publish = { subject = "orders.a", json = { id = -1 }, headers = { t = "a" }, key = "k", id = "m", ttl = 1, after = 5 }
        replace.handlers.billing = { returns = 1 }
        replace.handlers."*" = {}
        replace.filters.check = "pass"
        advance = "1h"
        expect = { outcome = "accepted", deliveries = { billing = 1 }, dead = 0 }
        [[tests]]
        name = "many"
        publish = [{ subject = "orders.a" }, { subject = "orders.b", json = "x" }]
        replace.filters.check = { drops = "why" }
        replace.handlers.billing = { raises = "no", times = 2 }
        [tests.expect]
        outcome = ["dropped", "dropped"]
        by = "check"
        reason = { contains = "wh" }
        deliveries = 0
        dead = { billing = 0 }
        error = { matches = "^x" }
        received.billing = [{ subject = "a", body = { contains = { a = 1 } }, headers = { absent = ["x"] }, key = "k" }]
        [[tests]]
        name = "three"
        publish = { subject = "orders.a" }
        replace.filters.check = { rejects = "why" }
        expect = { outcome = "rejected", received.billing = { body = { equals = [1] } }, reason = "why" }
        [[tests]]
        name = "four"
        publish = { subject = "orders.a" }
        replace.filters.check = { raises = "why", times = 1 }
        expect = { outcome = "failed" }
        """,
    "interpolated numbers": """
        [bus]
        pool = "${env:N}"
        debug = "${env:D:-true}"
        max_message_bytes = "${env:S:-64KiB}"
        name = "${env:N}-${env:N}"
        [[pipelines]]
        filters = [
            { use = "retry", attempts = "${env:N}", wait = "${env:W:-1s}", jitter = "${env:J:-0.1}" },
            { use = "log", level = "${env:L:-debug}", body = "${env:D:-true}" },
            { use = "expire", ttl = "${env:N}m" },
            { use = "fields", remove = ["body.a"], missing = "${env:M:-skip}" },
        ]
        [[subscriptions]]
        name = "s"
        subject = "${env:SUBJECT:-a}"
        handler = "bill"
        workers = "${env:N}"
        run = "${env:R:-thread}"
        mailbox = "${env:N}0"
        [[subscriptions]]
        name = "t"
        subject = "a"
        mailbox = { size = "${env:N}", overflow = "${env:O:-reject}", timeout = "${env:T:-5}" }
        [[every]]
        interval = "${env:N}s"
        subject = "a"
        ttl = "${env:N}"
        """,
    "interpolated words of chains": """
        [[pipelines]]
        at = "${env:AT:-delivery}"
        on_error = "${env:O:-drop}"
        match = "${env:MATCH:-a.>}"
        filters = [{ on_error = "${env:O:-drop}", filters = [] }, { when = "a.${env:N}", filters = [] }]
        """,
    "interpolated values in tables and lists": f"""
        [filters.mine]
        use = "python"
        target = "{NAME}:Stateful"
        size = "${{env:N}}"
        limits = {{ a = "${{env:N}}" }}
        [[pipelines]]
        filters = [
            "mine",
            {{ use = "enrich", add = {{ a = "${{env:N}}" }} }},
            {{ use = "fields", cast = {{ "body.a" = "${{env:C:-int}}" }} }},
        ]
        [[tests]]
        name = "t"
        publish = {{ subject = "a", ttl = "${{env:N}}" }}
        advance = "${{env:N}}"
        expect = {{ dead = "${{env:Z:-0}}" }}
        """,
    "an interpolated kind and version": 'version = "${env:V:-1}"\n[filters.a]\nuse = "${env:K:-log}"\nlevel = "debug"',
    "a named filter that is called as a kind": """
        [filters.expire]
        use = "expire"
        ttl = "5s"
        [[pipelines]]
        filters = ["expire"]
        """,
    "what the program hands in": '[[pipelines]]\nfilters = ["given", { use = "given" }]',
}  # fmt: skip


def whole(toml: str) -> str:
    text = dedent(toml)
    return text if "version" in text else f"version = 1\n{text}"


def as_json(value: Any) -> Any:
    """Convert TOML values to those that an editor sees."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else value


def problems(text: str) -> list[str]:
    """Return what an editor would underline."""
    found = jsonschema.Draft7Validator(schema()).iter_errors(as_json(tomllib.loads(text)))
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


def load(folder: Path, text: str) -> Bus:
    (folder / "bus.toml").write_text(text, encoding="utf-8")
    return Bus.from_config(folder / "bus.toml", allow_imports=[NAME], handlers={"bill": bill}, filters={"given": Log()})


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "4")
    for name in ("D", "S", "W", "J", "L", "M", "SUBJECT", "R", "O", "T", "AT", "MATCH", "C", "Z", "V", "K"):
        monkeypatch.delenv(name, raising=False)


# --- good files ----------------------------------------------------------------------------------------------------------


def test_it_is_a_schema_of_draft_7() -> None:
    """Draft 7 is the newest that editors for TOML understand; the schema is valid JSON, and all its references resolve."""
    made = schema()
    jsonschema.Draft7Validator.check_schema(made)
    assert made["$schema"] == "http://json-schema.org/draft-07/schema#"
    text = json.dumps(made, allow_nan=False)
    assert json.loads(text) == made
    for reference in references(made):
        assert reference.removeprefix("#/definitions/") in made["definitions"]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("toml", GOOD.values(), ids=GOOD)
def test_a_file_that_loads_is_not_underlined(tmp_path: Path, toml: str) -> None:
    """An editor that underlines correct text teaches users to ignore it."""
    load(tmp_path, whole(toml))
    assert problems(whole(toml)) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/pipebus.toml")), ids=lambda path: path.parent.name)
def test_the_examples_are_not_underlined(path: Path) -> None:
    """The examples are the first files that people copy."""
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("toml", GOOD.values(), ids=GOOD)
def test_what_a_bus_exports_is_not_underlined(tmp_path: Path, toml: str) -> None:
    """An exported file is like any other."""
    bus = load(tmp_path, whole(toml))
    try:
        text = bus.export_config()
    except ConfigError:
        return
    assert problems(text) == []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@CALM
@given(st.sampled_from(list(GOOD)), st.data())
@pytest.mark.thorough
def test_a_changed_file_that_loads_is_not_underlined(folder: Path, name: str, data: st.DataObject) -> None:
    """The schema accepts every file that `from_config` accepts, whatever is put in, taken out or written as `${env:N}`."""
    found = tomllib.loads(whole(GOOD[name]))
    path = data.draw(st.sampled_from([place for place in places(found) if place]))
    at: Any = found
    for part in path[:-1]:
        at = at[part]
    change = data.draw(
        st.sampled_from(
            ["out", "${env:N}", "4", 4, 0, -1, 1.5, True, "", [], {}, ["log"], {"a": 1}, {"expr": "body"}, "double"]
        )
    )
    if change == "out":
        del at[path[-1]]
    elif change == "double" and isinstance(at, list):
        at.append(copy.deepcopy(at[path[-1]]))
    else:
        at[path[-1]] = copy.deepcopy(change)
    text = tomlkit.dumps(found)
    try:
        load(folder, text)
    except ConfigError:
        return
    assert problems(text) == []


# --- wrong files ---------------------------------------------------------------------------------------------------------

TEST = "[[tests]]\nname = 'a'\npublish = { subject = 'a' }\nexpect = { dead = 0 }\n"
WRONG: dict[str, str] = {
    "no version": "[bus]\nname = 'version'",
    "another version": "version = 2",
    "a version as a text": 'version = "1"',
    "an unknown key at the top": "[pipeline]",
    "an unknown key of the bus": "[bus]\nnme = 'x'",
    "a number for a name": "[bus]\nname = 5",
    "a text for a number": "[bus]\npool = '4'",
    "too few": "[bus]\npool = 0",
    "a fraction": "[bus]\npool = 1.5",
    "a text for a flag": "[bus]\ndebug = 'true'",
    "a number for a flag": "[bus]\ndebug = 1",
    "a size in a unit that is none": "[bus]\nmax_message_bytes = '1KB'",
    "a size that is negative": "[bus]\nmax_message_bytes = -1",
    "one table for many": "[pipelines]\nfilters = []",
    "no filters": "[[pipelines]]\nmatch = 'a'",
    "a text for filters": "[[pipelines]]\nfilters = 'log'",
    "a number for a filter": "[[pipelines]]\nfilters = [5]",
    "an empty table for a filter": "[[pipelines]]\nfilters = [{}]",
    "an unknown side": "[[pipelines]]\nat = 'deliver'\nfilters = []",
    "an unknown ruling": "[[pipelines]]\non_error = 'retry'\nfilters = []",
    "a number for a match": "[[pipelines]]\nmatch = 5\nfilters = []",
    "two ways at once": "[[pipelines]]\nmatch = { expr = 'body', python = 'a:b' }\nfilters = []",
    "a match of an unknown form": "[[pipelines]]\nmatch = { regex = 'a' }\nfilters = []",
    "a python that is no name": "[[pipelines]]\nmatch = { python = 'a.b' }\nfilters = []",
    "when without filters": "[[pipelines]]\nfilters = [{ when = 'a' }]",
    "when with a ruling": "[[pipelines]]\nfilters = [{ when = 'a', filters = [], on_error = 'drop' }]",
    "when and branch": "[[pipelines]]\nfilters = [{ when = 'a', branch = 'b', filters = [] }]",
    "a switch without cases": "[[pipelines]]\nfilters = [{ switch = [] }]",
    "a case without filters": "[[pipelines]]\nfilters = [{ switch = [{ when = 'a' }] }]",
    "an otherwise alone": "[[pipelines]]\nfilters = [{ otherwise = ['log'] }]",
    "an otherwise among the cases": "[[pipelines]]\nfilters = [{ switch = [{ otherwise = ['log'] }] }]",
    "an unknown setting": "[[pipelines]]\nfilters = [{ use = 'retry', attemps = 5 }]",
    "a text for a setting": "[[pipelines]]\nfilters = [{ use = 'retry', attempts = '5' }]",
    "a setting in parsecs": "[[pipelines]]\nfilters = [{ use = 'retry', wait = '5 parsecs' }]",
    "a setting that is missing": "[[pipelines]]\nfilters = [{ use = 'expire' }]",
    "a text for a list": "[[pipelines]]\nfilters = [{ use = 'log', redact = 'card' }]",
    "a number in a list": "[[pipelines]]\nfilters = [{ use = 'log', redact = [5] }]",
    "a cast to nothing": "[[pipelines]]\nfilters = [{ use = 'fields', cast = { 'body.a' = 'integer' } }]",
    "a header that is a number": "[[pipelines]]\nfilters = [{ use = 'set_headers', headers = { a = 5 } }]",
    "a model that is no name": "[[pipelines]]\nfilters = [{ use = 'validate', models = { a = 'strr' } }]",
    "a target that is no name": "[[pipelines]]\nfilters = [{ use = 'python', target = 'stamp' }]",
    "python without a target": "[[pipelines]]\nfilters = [{ use = 'python' }]",
    "deep in a chain": "[[pipelines]]\nfilters = [{ when = 'a', filters = [{ filters = [{ use = 'retry', x = 1 }] }] }]",
    "a named filter without use": "[filters.a]\nlevel = 'debug'",
    "a named filter with a wrong setting": "[filters.a]\nuse = 'log'\nlevl = 'debug'",
    "a named filter that is a text": "[filters]\na = 'log'",
    "a subscription without a name": "[[subscriptions]]\nsubject = 'a'",
    "a subscription without a subject": "[[subscriptions]]\nname = 'a'",
    "no subjects": "[[subscriptions]]\nname = 'a'\nsubject = []",
    "an unknown key of a subscription": "[[subscriptions]]\nname = 'a'\nsubject = 'a'\nworker = 4",
    "no workers": "[[subscriptions]]\nname = 'a'\nsubject = 'a'\nworkers = 0",
    "an unknown run": "[[subscriptions]]\nname = 'a'\nsubject = 'a'\nrun = 'process'",
    "an unknown overflow": "[[subscriptions]]\nname = 'a'\nsubject = 'a'\nmailbox = { overflow = 'blok' }",
    "a mailbox that is a text": "[[subscriptions]]\nname = 'a'\nsubject = 'a'\nmailbox = 'large'",
    "an unknown key of a mailbox": "[[subscriptions]]\nname = 'a'\nsubject = 'a'\nmailbox = { sise = 4 }",
    "a schedule without an interval": "[[every]]\nsubject = 'a'",
    "a schedule that is soon": "[[every]]\nsubject = 'a'\ninterval = 'soon'",
    "a schedule with an unknown key": "[[every]]\nsubject = 'a'\ninterval = '1s'\njson = 1",
    "a schedule with headers that are none": "[[every]]\nsubject = 'a'\ninterval = '1s'\nheaders = { a = 5 }",
    "a test without a name": "[[tests]]\npublish = { subject = 'a' }\nexpect = { dead = 0 }",
    "a test without expect": "[[tests]]\nname = 'a'\npublish = { subject = 'a' }",
    "an unknown outcome": "[[tests]]\nname = 'a'\npublish = { subject = 'a' }\nexpect = { outcome = 'rejekted' }",
    "an unknown expectation": "[[tests]]\nname = 'a'\npublish = { subject = 'a' }\nexpect = { delivered = 1 }",
    "an unknown key of publish": "[[tests]]\nname = 'a'\npublish = { subject = 'a', body = 1 }\nexpect = { dead = 0 }",
    "an unknown stand-in": TEST + "replace.filters.x = 'skip'",
    "an unknown thing to replace": TEST + "replace.filter.x = 'pass'",
}  # fmt: skip


@pytest.mark.parametrize("toml", WRONG.values(), ids=WRONG)
@pytest.mark.few(20)
def test_a_wrong_file_is_underlined(tmp_path: Path, toml: str) -> None:
    """The editor refuses what `from_config` refuses."""
    with pytest.raises(ConfigError):
        load(tmp_path, whole(toml))
    assert problems(whole(toml)) != []


# --- words ---------------------------------------------------------------------------------------------------------------


@table("name", sorted(catalogue.BUILT_IN))
def test_every_setting_of_every_built_in_filter_is_explained(name: str) -> None:
    """The explanation is a sentence or two without markup, and gives the default."""
    one = schema()["definitions"][f"filter-{name}"]
    assert len(one["description"]) > 10
    settings = settings_of(catalogue.BUILT_IN[name])
    assert set(one["properties"]) == {"use", "name", *settings}
    for setting, described in settings.items():
        found = one["properties"][setting]
        assert len(found.get("description", "")) > 5, setting
        assert "`" not in found["description"]
        if not described.required and isinstance(described.default, (str, int, float)):
            assert found["default"] == described.default


def test_every_key_of_the_other_tables_is_explained() -> None:
    """An editor shows the explanation under the mouse."""
    made = schema()["properties"]
    tables = {
        "bus": made["bus"], "pipelines": made["pipelines"]["items"], "subscriptions": made["subscriptions"]["items"],
        "every": made["every"]["items"], "tests": made["tests"]["items"],
        "expect": made["tests"]["items"]["properties"]["expect"],
    }  # fmt: skip
    keys = [(f"{table}.{key}", inner) for table, one in tables.items() for key, inner in one["properties"].items()]
    silent = [key for key, inner in keys if not inner.get("description")]
    assert silent == []


# --- filters of others ---------------------------------------------------------------------------------------------------

ACME = '''
import enum, math
from dataclasses import dataclass, field
from typing import Literal
from pydantic import BaseModel
from pipebus import Transform
from pipebus.values.quantities import Seconds

class Node(BaseModel):
    name: str
    size: int = 1
    children: list["Node"] = []

class Colour(enum.Enum):
    RED = "red"

@dataclass(eq=False)
class Quota(Transform):
    """
    Only so many.

    Args:
        limit: How many of them.
        window: How long.
        mode: What happens, as in `hard`.
        most: No bound, if left out.
        root: A tree.
        sizes: By name.
        pair: Two things.
    """
    limit: int
    window: Seconds = 60.0
    mode: Literal["hard", "soft"] = "soft"
    most: float = math.inf
    root: Node | None = None
    colour: Colour = Colour.RED
    sizes: dict[str, int] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "a")
    def transform(self, message, /):
        return message

def stamp(message, call_next):
    """Stamps."""
    return call_next(message)

odd = 5
'''


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that is installed, with filters of its own; some of its entry points lead nowhere."""
    (tmp_path / "acme_filters.py").write_text(ACME)
    info = tmp_path / "acme_filters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-filters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pipebus.filters]\nquota = acme_filters:Quota\nacme.quota/v2 ~%x = acme_filters:Quota\nstamp = acme_filters:stamp\n"
        "broken = acme_nowhere:Filter\nodd = acme_filters:odd\nlog = acme_filters:Quota\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("acme_filters", None)


def test_filters_of_other_packages_are_in_it(acme: Path) -> None:
    """Their settings, kinds and words are included; a filter that is named like a built-in one is not."""
    made = schema()
    jsonschema.Draft7Validator.check_schema(made)
    quota = made["definitions"]["filter-quota"]
    assert quota["description"] == "Only so many."
    assert quota["properties"]["limit"]["description"] == "How many of them."
    assert quota["properties"]["mode"]["description"] == "What happens, as in hard."
    assert quota["required"] == ["use", "limit"]
    assert "limit" not in made["definitions"]["filter-log"]["properties"]


ACME_GOOD = [
    '{ use = "quota", limit = 5, window = "1m", mode = "hard", sizes = { a = 1 }, colour = "red" }',
    '{ use = "quota", limit = "${env:N}", mode = "${env:M:-hard}", window = "${env:N}", most = "${env:N}" }',
    '{ use = "quota", limit = 5, root = { name = "a", children = [{ name = "b", size = 2, children = [{ name = "c" }] }] } }',
    '{ use = "quota", limit = 5, pair = [2, "b"] }',
    '{ use = "quota", limit = 5, sizes = { a = "${env:N}" } }',
    '{ use = "quota", limit = 5, root = { name = "${env:N}", size = "${env:N}" } }',
    '{ use = "acme.quota/v2 ~%x", limit = 5 }',
    '"stamp"',
    '{ use = "stamp" }',
]
ACME_WRONG = [
    '{ use = "quota" }', '{ use = "quota", limit = "5" }', '{ use = "quota", limit = 5, limits = 5 }',
    '{ use = "quota", limit = 5, mode = "medium" }', '{ use = "quota", limit = 5, root = { size = 5 } }',
    '{ use = "quota", limit = 5, root = { name = "a", size = "x" } }', '{ use = "quota", limit = 5, pair = [2] }',
    '{ use = "quota", limit = 5, pair = [2, "b", 3] }', '{ use = "quota", limit = 5, colour = "RED" }',
    '{ use = "quota", limit = 5, sizes = { a = "x" } }', '{ use = "acme.quota/v2 ~%x" }', '{ use = "stamp", x = 1 }',
]  # fmt: skip


@pytest.mark.parametrize("entry", ACME_GOOD)
def test_good_settings_of_other_packages_are_not_underlined(acme: Path, entry: str) -> None:
    """Nested models, trees, pairs and interpolated values are accepted."""
    text = whole(f"[[pipelines]]\nfilters = [{entry}]")
    load(acme, text)
    assert problems(text) == []


@pytest.mark.parametrize("entry", ACME_WRONG)
def test_wrong_settings_of_other_packages_are_underlined(acme: Path, entry: str) -> None:
    """An editor underlines them like those of built-in filters."""
    text = whole(f"[[pipelines]]\nfilters = [{entry}]")
    with pytest.raises(ConfigError):
        load(acme, text)
    assert problems(text) != []


def test_the_whole_is_json_with_filters_of_others(acme: Path) -> None:
    """The schema leaves out a default that JSON cannot express."""
    text = json.dumps(schema(), allow_nan=False)
    assert math.isfinite(len(text))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", 'filter "broken" (of acme_nowhere:Filter) cannot be loaded: ModuleNotFoundError'),
        ("odd", "is not callable (int)"),
    ],
)
def test_a_filter_of_others_that_cannot_be_loaded_is_a_problem_of_the_file_that_uses_it(
    acme: Path, name: str, says: str
) -> None:
    """Files that do not use the filter still load, and the schema is still made."""
    load(acme, whole('[[pipelines]]\nfilters = ["log", { use = "quota", limit = 1 }]'))
    for entry in (f'"{name}"', f'{{ use = "{name}" }}'):
        with pytest.raises(ConfigError) as caught:
            load(acme, whole(f"[[pipelines]]\nfilters = [{entry}]"))
        assert says in str(caught.value)
    assert f"filter-{name}" in schema()["definitions"]


def test_a_filter_of_others_whose_module_exits_is_a_problem_of_the_file_that_uses_it(acme: Path) -> None:
    """The exit ends neither the program nor `pipebus schema`."""
    (acme / "acme_exits.py").write_text("raise SystemExit(3)")
    with (acme / "acme_filters-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("exits = acme_exits:Filter\n")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError) as caught:
        load(acme, whole('[[pipelines]]\nfilters = ["exits"]'))
    assert 'filter "exits" (of acme_exits:Filter) cannot be loaded: SystemExit: 3' in str(caught.value)
    assert "filter-exits" in schema()["definitions"]


def test_a_filter_of_others_that_nobody_uses_is_not_imported(acme: Path) -> None:
    """Loading a file imports only what the file names."""
    load(acme, whole('[[pipelines]]\nfilters = ["log"]'))
    assert "acme_filters" not in sys.modules
    load(acme, whole('[[pipelines]]\nfilters = [{ use = "quota", limit = 1 }]'))
    assert "acme_filters" in sys.modules
