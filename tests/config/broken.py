"""
The table of broken files: each mistake in words, the file, and the whole text of its `ConfigError`.

Line 1 of a file is the line behind the opening quotes. In what is expected, {here} is the directory that holds bus.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import dedent
from typing import Any, NamedTuple

from pipebus import Message


class Broken(NamedTuple):
    """
    One broken file.

    Args:
        mistake: In words; the test's id.
        toml: The text of bus.toml.
        says: The text of the error.
        handlers, filters, allow: What the program hands in, and the packages that it allows.
        modules: Modules by name, written next to bus.toml, where imports find them.
        idle: Those among them that must not have been imported afterwards.
        env: Environment variables; None: not set.
        files: Other files next to bus.toml.
        secret: What the error must not hold.
    """

    mistake: str
    toml: str
    says: str
    handlers: Mapping[str, Any] = {}
    filters: Mapping[str, Any] = {}
    allow: tuple[str, ...] = ()
    modules: Mapping[str, str] = {}
    idle: tuple[str, ...] = ()
    env: Mapping[str, str | None] = {}
    files: Mapping[str, str | bytes] = {}
    secret: str | None = None


TABLE: list[Broken] = []


def broken(mistake: str, toml: str, *says: str, **rest: Any) -> None:
    """Write down one case; `says`: the lines of the error."""
    TABLE.append(Broken(mistake, dedent(toml), "\n".join(says), **rest))


def bill(message: Message[Any]) -> None:
    """A handler that the program hands in."""


async def abill(message: Message[Any]) -> None:
    """An async handler."""


def audit(message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
    """A plain sync filter that the program hands in."""
    return call_next(message)


async def aaudit(message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
    """A plain async filter."""
    return await call_next(message)


BILL: Mapping[str, Any] = {"bill": bill}
ABILL: Mapping[str, Any] = {"bill": abill}
AUDIT: Mapping[str, Any] = {"audit": audit}
AAUDIT: Mapping[str, Any] = {"audit": aaudit}

ORDER = "import dataclasses\n@dataclasses.dataclass\nclass Order:\n    id: int\n"
"""A module with a model."""

# --- the first twenty: one of each kind ----------------------------------------------------------------------------------

broken(
    "no equals sign",
    """\
    version = 1
    [bus]
    name "shop"
    """,
    "bus.toml:3: not TOML: Expected '=' after a key in a key/value pair (column 6)",
)

broken(
    "no version",
    """\
    [bus]
    name = "shop"
    """,
    'bus.toml:1: "version" is missing',
)

broken(
    "a typo in a key at the top",
    """\
    version = 1

    [[pipeline]]
    filters = ["log"]
    """,
    'bus.toml:3: unknown key "pipeline"; did you mean "pipelines"?',
)

broken(
    "a typo in a setting of a filter",
    """\
    version = 1

    [[pipelines]]
    filters = [
      "log",
      { use = "retry", wait = "1s", attemps = 5 },
    ]
    """,
    'bus.toml:6: pipelines[0].filters[1] "retry": unknown key "attemps"; did you mean "attempts"?',
)

broken(
    "a typo in a setting of a filter that a test names",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "retry", name = "again", attemps = 5 }]
    [[tests]]
    name = "it may be passed"
    publish = { subject = "a" }
    replace.filters.again = "pass"
    expect.outcome = "unrouted"
    """,
    'bus.toml:3: pipelines[0].filters[0] "retry": unknown key "attemps"; did you mean "attempts"?',
)

broken(
    "a setting that no filter has",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "retry", colour = "blue" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "retry": unknown key "colour"; there are attempts, wait, max_wait, jitter, on',
)

broken(
    "a typo in the name of a filter",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "vaildate", models = { ">" = "builtins:int" } }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "vaildate": no filter "vaildate"; did you mean "validate"?',
)

broken(
    "no subject",
    """\
    version = 1

    [[subscriptions]]
    name = "billing"
    handler = "bill"
    """,
    'bus.toml:3: subscriptions[0] "billing": "subject" is missing',
    handlers=BILL,
)

broken(
    "text for a number",
    """\
    version = 1

    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    workers = "four"
    """,
    'bus.toml:7: subscriptions[0] "billing": workers = "four": it has to be a whole number',
    handlers=BILL,
)

broken(
    "no workers",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    workers = 0
    handler = "bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": workers = 0: it has to be at least 1',
    handlers=BILL,
)

broken(
    "a typo in the overflow rule",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    mailbox = { size = 10, overflow = "blok" }
    """,
    'bus.toml:6: subscriptions[0] "billing".mailbox: overflow = "blok": '
    'it has to be block, reject, drop_newest or drop_oldest; did you mean "block"?',
    handlers=BILL,
)

broken(
    "a duration in parsecs",
    """\
    version = 1
    [filters.again]
    use = "retry"
    wait = "5 parsecs"
    """,
    'bus.toml:4: filters.again: wait = "5 parsecs": unknown unit "parsecs"; there are us, ms, s, m, h, d',
)

broken(
    "no duration at all",
    """\
    version = 1
    [[every]]
    interval = "soon"
    subject = "headlines.fetch"
    """,
    'bus.toml:3: every[0]: interval = "soon": it has to be a number of seconds, or text such as "200ms", "5s", "10m"',
)

broken(
    "a typo in the name of a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bil"
    """,
    'bus.toml:5: subscriptions[0] "billing": no handler "bil" is handed in; did you mean "bill"?',
    handlers=BILL,
)

broken(
    "a handler of a package that is not allowed",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shopify01.billing:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shopify01.billing:bill": package "shopify01" is n'
    'ot allowed; did you mean "shop"? Otherwise pass allow_imports=["shopify01"], or --allow shopify01',
    allow=("shop",),
    modules={"shopify01.billing": "def bill(message): ..."},
    idle=("shopify01", "shopify01.billing"),
)

broken(
    "a module that is not there",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop02.billing:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop02.billing:bill": cannot import shop02.billin'
    "g: ModuleNotFoundError: No module named 'shop02'; add the folder that contains it to sys.path",
    allow=("shop02",),
)

broken(
    "a typo in the name of a function",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop03.billing:bil"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop03.billing:bil": shop03.billing has no "bil"; did you mean "bill"?',
    allow=("shop03",),
    modules={"shop03.billing": "def bill(message): ..."},
)

broken(
    "two subscriptions of one name",
    """\
    version = 1

    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"

    [[subscriptions]]
    subject = "orders.paid"
    name = "billing"
    handler = "bill"
    """,
    'bus.toml:10: subscriptions[1] "billing": name "billing" is taken (line 4); choose another',
    handlers=BILL,
)

broken(
    "two dots in a subject",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders..created"
    handler = "bill"
    """,
    'bus.toml:4: subscriptions[0] "billing": subject = "orders..created": "orders..created" has an empty token at position 2; '
    'tokens are joined by single dots, as in "orders.created"',
    handlers=BILL,
)

broken(
    "a variable that is not set",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    workers = "${env:PIPEBUS_N01}"
    """,
    'bus.toml:6: subscriptions[0] "billing": workers = "${env:PIPEBUS_N01}": PIPEBUS_N01 is not set; set it, or '
    "write ${env:PIPEBUS_N01:-default}",
    handlers=BILL,
    env={"PIPEBUS_N01": None},
)

broken(
    "several mistakes at once",
    """\
    version = 1

    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    workers = "four"
    handler = "bill"

    [[pipelines]]
    filters = [
      "log",
      { use = "retry", attemps = 5 },
    ]

    [[tests]]
    name = "a bad order never reaches billing"
    publish = { subject = "orders.created" }
    expect = { outcome = "rejekted" }
    """,
    "bus.toml: 3 problems; nothing was loaded",
    'bus.toml:6: subscriptions[0] "billing": workers = "four": it has to be a whole number',
    'bus.toml:12: pipelines[0].filters[1] "retry": unknown key "attemps"; did you mean "attempts"?',
    'bus.toml:18: tests[0] "a bad order never reaches billing".expect: outcome = "rejekted": '
    'it has to be accepted, dropped, rejected, unrouted or failed; did you mean "rejected"?',
    handlers=BILL,
)

# --- not TOML ------------------------------------------------------------------------------------------------------------

broken(
    "a table's header that is not closed",
    """\
    version = 1
    [bus
    name = "shop"
    """,
    "bus.toml:2: not TOML: Expected ']' at the end of a table declaration (column 5)",
)

broken(
    "a key twice",
    """\
    version = 1
    [bus]
    name = "shop"
    pool = 4
    name = "store"
    """,
    "bus.toml:5: not TOML: Cannot overwrite a value (column 15); the key is there twice",
)

broken(
    "a table twice",
    """\
    version = 1
    [bus]
    name = "shop"

    [bus]
    pool = 4
    """,
    "bus.toml:5: not TOML: Cannot declare ('bus',) twice (column 5); it is there twice; write [[…]] before each of several",
)

broken(
    "a key twice in one inline table",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "log", use = "retry" }]
    """,
    "bus.toml:3: not TOML: Duplicate inline table key 'use' (column 40)",
)

broken(
    "a list that is not closed",
    """\
    version = 1
    [[pipelines]]
    filters = [
      "log",
    """,
    "bus.toml:4: not TOML: Invalid value (at the end of the file)",
)

broken(
    "a text that is not closed",
    """\
    version = 1
    [bus]
    name = "shop
    pool = 4
    """,
    "bus.toml:3: not TOML: Illegal character '\\n' (column 13)",
)

broken(
    "a duration without quotes",
    """\
    version = 1
    [[every]]
    interval = 5s
    subject = "headlines.fetch"
    """,
    "bus.toml:3: not TOML: Expected newline or end of document after a statement (column 13)",
)

broken(
    "YAML",
    """\
    version: 1
    bus:
      name: shop
    """,
    "bus.toml:1: not TOML: Expected '=' after a key in a key/value pair (column 8)",
)

broken(
    "yes for true",
    """\
    version = 1
    [bus]
    debug = yes
    """,
    "bus.toml:3: not TOML: Invalid value (column 9); texts must be in quotes, and the only words are true and false",
)

broken(
    "an inline table over two lines",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { use = "retry",
        attempts = 5 },
    ]
    """,
    "bus.toml:4: not TOML: Invalid initial character for a key part (column 19); a table in braces must be on one line",
)

broken(
    "a file in Latin-1",
    'version = 1\n[bus]\nname = "caf?"\n',
    "bus.toml:3: not UTF-8: byte 0xe9",
    files={"bus.toml": b'version = 1\n[bus]\nname = "caf\xe9"\n'},
)

# --- version -------------------------------------------------------------------------------------------------------------

broken("an empty file", "", 'bus.toml:1: "version" is missing')

broken(
    "a version of the future",
    """\
    # written by pipebus 9
    version = 2
    """,
    "bus.toml:2: version = 2: this pipebus reads version 1",
)

broken('version "1"', 'version = "1"\n', 'bus.toml:1: version = "1": it has to be a whole number')

broken("version 1.0", "version = 1.0\n", "bus.toml:1: version = 1.0: it has to be a whole number")

broken("version true", "version = true\n", "bus.toml:1: version = true: it has to be a whole number")

# --- unknown keys --------------------------------------------------------------------------------------------------------

broken(
    "a key at the top that is like none",
    """\
    version = 1
    colour = "blue"
    """,
    'bus.toml:2: unknown key "colour"; there are version, bus, filters, pipelines, subscriptions, every, cron, tests',
)

broken(
    "a typo in a key of the bus",
    """\
    version = 1
    [bus]
    name = "shop"
    transprot = "memory:"
    """,
    'bus.toml:4: bus: unknown key "transprot"; did you mean "transport"?',
)

broken(
    "a key of the bus that is like none",
    """\
    version = 1
    bus = { zzz = 1 }
    """,
    'bus.toml:2: bus: unknown key "zzz"; there are transport, name, pool, dead_letters, max_message_bytes, max_hops, require, '
    "drain, strict, debug, telemetry",
)

broken(
    "an unknown telemetry",
    """\
    version = 1
    bus = { telemetry = "otl" }
    """,
    'bus.toml:2: bus: telemetry = "otl": it has to be "otel", or a table, as in { use = "otel", spans = "filters" }',
)

broken(
    "a telemetry with an unknown value",
    """\
    version = 1
    [bus.telemetry]
    spans = "all"
    parents = "link"
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:3: bus.telemetry: spans = "all": it has to be messages or filters',
    'bus.toml:4: bus.telemetry: unknown key "parents"; did you mean "parent"?',
)

broken(
    "a typo in a dotted key",
    """\
    version = 1

    bus.name = "shop"
    bus.poool = 4
    """,
    'bus.toml:4: bus: unknown key "poool"; did you mean "pool"?',
)

broken(
    "a quoted key with a dot in it",
    """\
    version = 1
    [bus]
    "name.pool" = 4
    """,
    'bus.toml:3: bus: unknown key "name.pool"; did you mean "pool"?',
)

broken(
    "a capability that there is not",
    """\
    version = 1
    [bus]
    name = "shop"
    require = { survive = "power" }
    """,
    'bus.toml:4: bus: require = { survive = "power" }: there is no capability "survive"; there are survives, '
    "order, groups, exclusive_keys, delay, dedup_window, replay, objects, multi_process, dead_letters, memory, transactions, "
    "outbox, schedules, max_size",
)

broken(
    "a typo in a setting of a named filter",
    """\
    version = 1

    [filters.check-order]
    use = "validate"
    models = { "orders.>" = "shop04:Order" }
    replce = false

    [[pipelines]]
    filters = ["check-order"]
    """,
    'bus.toml:6: filters.check-order: unknown key "replce"; did you mean "replace"?',
    allow=("shop04",),
    modules={"shop04": ORDER},
)

broken(
    "a setting of a named filter that is like none",
    """\
    version = 1
    [filters.lines]
    zzz = 1
    use = "log"
    """,
    'bus.toml:3: filters.lines: unknown key "zzz"; there are level, body, headers, redact',
)

broken(
    "a typo in a key of a pipeline",
    """\
    version = 1
    [[pipelines]]
    matches = "orders.>"
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: unknown key "matches"; did you mean "match"?',
)

broken(
    "a key of a pipeline that is like none",
    """\
    version = 1
    [[pipelines]]
    filters = ["log"]
    [[pipelines]]
    filters = ["log"]
    zzz = 1
    """,
    'bus.toml:6: pipelines[1]: unknown key "zzz"; there are at, match, on_error, filters',
)

broken(
    "a key of a detour that is like none",
    """\
    version = 1
    [[pipelines]]
    filters = [{ when = "orders.>", filters = ["log"], zzz = 1 }]
    """,
    'bus.toml:3: pipelines[0].filters[0]: unknown key "zzz"; there are when, filters',
)

broken(
    "a typo in a setting of a filter in a branch in a detour",
    """\
    version = 1
    [[pipelines]]
    filters = [
      "log",
      { when = "orders.>", filters = [
        { branch = "orders.eu.>", filters = [
          "log",
          { use = "expire", tll = "5s", ttl = "6s" },
        ] },
      ] },
    ]
    """,
    'bus.toml:8: pipelines[0].filters[1].filters[0].filters[1] "expire": unknown key "tll"; did you mean "ttl"?',
)

broken(
    "a typo in a key of a pipeline in a pipeline",
    """\
    version = 1
    [[pipelines]]
    filters = [{ filters = ["log"], on_eror = "drop" }]
    """,
    'bus.toml:3: pipelines[0].filters[0]: unknown key "on_eror"; did you mean "on_error"?',
)

broken(
    "a detour that is written as a table of its own",
    """\
    version = 1

    [[pipelines]]
    match = "orders.>"

    [[pipelines.filters]]
    use = "log"

    [[pipelines.filters]]
    use = "retry"
    atempts = 5
    """,
    'bus.toml:11: pipelines[0].filters[1] "retry": unknown key "atempts"; did you mean "attempts"?',
)

broken(
    "a typo in a key of a subscription",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handlers = "bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": unknown key "handlers"; did you mean "handler"?',
    handlers=BILL,
)

broken(
    "a key of a subscription that is like none",
    """\
    version = 1
    [[subscriptions]]
    zzz = 1
    name = "billing"
    subject = "orders.created"
    """,
    'bus.toml:3: subscriptions[0] "billing": unknown key "zzz"; '
    "there are name, subject, handler, workers, run, mailbox, attempts, deliver, to, filters",
)

broken(
    "a key in capitals",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    WORKERS = 4
    """,
    'bus.toml:6: subscriptions[0] "billing": unknown key "WORKERS"; did you mean "workers"?',
    handlers=BILL,
)

broken(
    "a typo in a filter of a subscription",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    filters = ["log", { use = "retry", jiter = 0.5 }]
    """,
    'bus.toml:6: subscriptions[0] "billing".filters[1] "retry": unknown key "jiter"; did you mean "jitter"?',
    handlers=BILL,
)

broken(
    "a typo in a key of a mailbox",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    [subscriptions.mailbox]
    sise = 10
    """,
    'bus.toml:6: subscriptions[0] "billing".mailbox: unknown key "sise"; did you mean "size"?',
)

broken(
    "a key of a mailbox that is like none",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    mailbox.zzz = 1
    """,
    'bus.toml:5: subscriptions[0] "billing".mailbox: unknown key "zzz"; there are size, overflow, timeout',
)

broken(
    "a typo in a key of a schedule",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    dealy = "5s"
    """,
    'bus.toml:5: every[0]: unknown key "dealy"; did you mean "delay"?',
)

broken(
    "a key of a schedule that is like none",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    zzz = 1
    """,
    'bus.toml:5: every[0]: unknown key "zzz"; '
    "there are interval, subject, body, headers, key, ttl, delay, reply_to, correlation_id, strict, name, now, missed",
)

broken(
    "a typo in a key of a test",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    advanced = "1h"
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:5: tests[0] "a bad order": unknown key "advanced"; did you mean "advance"?',
)

broken(
    "a key of a test that is like none",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    expect = { outcome = "unrouted" }
    zzz = 1
    """,
    'bus.toml:6: tests[0] "a bad order": unknown key "zzz"; there are name, publish, replace, advance, expect',
)

broken(
    "a typo in a key of what a test publishes",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created", jsn = { id = -1 } }
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:4: tests[0] "a bad order".publish: unknown key "jsn"; did you mean "json"?',
)

broken(
    "a key of the second of what a test publishes",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = [
      { subject = "orders.created" },
      { subject = "orders.paid", zzz = 1 },
    ]
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:6: tests[0] "a bad order".publish[1]: unknown key "zzz"; there are subject, json, headers, key, id, ttl, after',
)

broken(
    "an expectation that there is not",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    expect = { outcome = "unrouted", delivered = 0 }
    """,
    'bus.toml:5: tests[0] "a bad order".expect: unknown key "delivered"; did you mean "deliveries"?',
)

broken(
    "an expectation that is like none",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    [tests.expect]
    outcome = "unrouted"
    zzz = 1
    """,
    'bus.toml:7: tests[0] "a bad order".expect: unknown key "zzz"; '
    "there are outcome, by, reason, deliveries, dead, published, received, error",
)

broken(
    "a typo in a matcher",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    expect = { outcome = "dropped", reason = { contain = "old" } }
    """,
    'bus.toml:5: tests[0] "a bad order".expect: reason = { contain = "old" }: unknown key "contain"; did you '
    'mean "contains"? For a body with this key, write { equals = … }',
)

broken(
    "a typo in what is received",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    expect.received.billing = [
      { body = { id = 1 } },
      { bodi = { id = 2 } },
    ]
    """,
    'bus.toml:10: tests[0] "a bad order".expect.received.billing[1]: unknown key "bodi"; did you mean "body"?',
)

broken(
    "a typo in what a test replaces",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    replace.handler.billing = { returns = 1 }
    expect = { outcome = "accepted" }
    """,
    'bus.toml:9: tests[0] "a bad order".replace: unknown key "handler"; did you mean "handlers"?',
    handlers=BILL,
)

broken(
    "a typo in what a replaced handler does",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    replace.handlers.billing = { return = 1 }
    expect = { outcome = "accepted" }
    """,
    'bus.toml:9: tests[0] "a bad order".replace.handlers.billing: unknown key "return"; did you mean "returns"?',
    handlers=BILL,
)

broken(
    "a mistake behind texts and comments that look like it",
    '''\
    version = 1
    # [[subscriptions]]
    # workers = "four"
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    body = """
    [[subscriptions]]
    workers = "four"
    """
    headers = { text = "workers = 'four' # [[subscriptions]]" }

    [[subscriptions]] # the first one
    name = "billing"  # workers = "four"
    subject = [
      "orders.created", # workers = "four"
      'orders.]',
    ]
    handler = "bill"
    "workers" = "four" # here
    ''',
    'bus.toml:20: subscriptions[0] "billing": workers = "four": it has to be a whole number',
    handlers=BILL,
)

# --- missing keys --------------------------------------------------------------------------------------------------------

broken(
    "a subscription without a name",
    """\
    version = 1
    # this one:

    [[subscriptions]]
    subject = "orders.created"
    handler = "bill"
    """,
    'bus.toml:4: subscriptions[0]: "name" is missing',
    handlers=BILL,
)

broken(
    "an empty schedule",
    """\
    version = 1
    [[every]]
    interval = 60
    subject = "headlines.fetch"
    [[every]]
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:5: every[1]: "interval" is missing',
    'bus.toml:5: every[1]: "subject" is missing',
)

broken(
    "a test without a name",
    """\
    version = 1
    [[tests]]
    publish = { subject = "orders.created" }
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:2: tests[0]: "name" is missing',
)

broken(
    "a test that publishes to nowhere",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { json = { id = -1 } }
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:4: tests[0] "a bad order".publish: "subject" is missing',
)

broken(
    "a reroute to nowhere",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { use = "reroute" },
    ]
    """,
    'bus.toml:4: pipelines[0].filters[0] "reroute": "to" is missing',
)

broken(
    "a filter that lacks a setting, by its name alone",
    """\
    version = 1
    [[pipelines]]
    filters = [
      "log",
      "expire",
    ]
    """,
    'bus.toml:5: pipelines[0].filters[1]: "expire" needs ttl; write { use = "expire", ttl = … }',
)

broken(
    "a filter without use",
    """\
    version = 1
    [[pipelines]]
    filters = [{ attempts = 5 }]
    """,
    'bus.toml:3: pipelines[0].filters[0]: it has none of "use", "when", "branch", "switch" and "filters"',
)

broken(
    "a named filter without use",
    """\
    version = 1
    [filters.check-order]
    models = { "orders.>" = "shop05:Order" }
    """,
    'bus.toml:2: filters.check-order: "use" is missing',
    allow=("shop05",),
    modules={"shop05": ORDER},
    idle=("shop05",),
)

broken(
    "python without a target",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "python" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "python": "target" is missing',
)

broken(
    "a pipeline without filters",
    """\
    version = 1
    [[pipelines]]
    match = "orders.>"
    """,
    'bus.toml:2: pipelines[0]: "filters" is missing',
)

broken(
    "a detour without filters",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { when = "orders.>" },
    ]
    """,
    'bus.toml:4: pipelines[0].filters[0]: "filters" is missing',
)

broken(
    "a subscription to nothing",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = []
    handler = "bill"
    """,
    'bus.toml:4: subscriptions[0] "billing": subject = []: it is empty; give at least one',
    handlers=BILL,
)

broken(
    "a filter and a detour in one",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "log", when = "orders.>" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "log": unknown key "when"; there are level, body, headers, redact',
)

broken(
    "a detour and a branch in one",
    """\
    version = 1
    [[pipelines]]
    filters = [{ when = "orders.>", branch = "orders.eu.>", filters = ["log"] }]
    """,
    'bus.toml:3: pipelines[0].filters[0]: unknown key "branch"; there are when, filters',
)

# --- wrong types ---------------------------------------------------------------------------------------------------------

broken(
    "a number for text",
    """\
    version = 1
    [bus]
    name = 5
    """,
    "bus.toml:3: bus: name = 5: it has to be text",
)

broken(
    "text for true or false",
    """\
    version = 1
    [bus]
    debug = "yes"
    """,
    'bus.toml:3: bus: debug = "yes": it has to be true or false',
)

broken(
    "a number for true or false",
    """\
    version = 1
    [bus]
    debug = 1
    """,
    "bus.toml:3: bus: debug = 1: it has to be true or false",
)

broken(
    "digits for a number",
    """\
    version = 1
    [bus]
    pool = "8"
    """,
    'bus.toml:3: bus: pool = "8": it has to be a whole number',
)

broken(
    "half a worker",
    """\
    version = 1
    [bus]
    pool = 2.5
    """,
    "bus.toml:3: bus: pool = 2.5: it has to be a whole number",
)

broken(
    "true for a number",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    workers = true
    """,
    'bus.toml:6: subscriptions[0] "billing": workers = true: it has to be a whole number',
    handlers=BILL,
)

broken(
    "a list for a number",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    attempts = [1, 2]
    """,
    'bus.toml:6: subscriptions[0] "billing": attempts = [1, 2]: it has to be a whole number',
    handlers=BILL,
)

broken(
    "a date for a number",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    attempts = 2024-01-31
    """,
    'bus.toml:6: subscriptions[0] "billing": attempts = 2024-01-31: it has to be a whole number',
    handlers=BILL,
)

broken(
    "a table for text",
    """\
    version = 1
    [[subscriptions]]
    name = { first = "billing" }
    subject = "orders.created"
    """,
    'bus.toml:3: subscriptions[0]: name = { first = "billing" }: it has to be text',
)

broken(
    "a number for a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = 5
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = 5: it has to be text',
)

broken(
    "a number for a subject",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = 5
    """,
    'bus.toml:4: subscriptions[0] "billing": subject = 5: it has to be text, or a list',
)

broken(
    "a number among the subjects",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = [
      "orders.created",
      5,
    ]
    """,
    'bus.toml:6: subscriptions[0] "billing": subject[1] = 5: it has to be text',
)

broken(
    "text for a list",
    """\
    version = 1
    [[pipelines]]
    filters = "log"
    """,
    'bus.toml:3: pipelines[0]: filters = "log": it has to be a list, as in ["log"]',
)

broken(
    "a number for a filter",
    """\
    version = 1
    [[pipelines]]
    filters = [
      "log",
      5,
    ]
    """,
    'bus.toml:5: pipelines[0]: filters[1] = 5: it has to be a name, as in "log", or a table with "use", '
    '"when", "branch", "switch" or "filters"',
)

broken(
    "text for a mailbox",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    mailbox = "big"
    """,
    'bus.toml:5: subscriptions[0] "billing": mailbox = "big": it has to be a whole number, or a table, as in { size = 100 }',
)

broken(
    "text for a table",
    """\
    version = 1
    [bus]
    require = "power"
    """,
    'bus.toml:3: bus: require = "power": it has to be a table',
)

broken(
    "a number for the bus",
    """\
    version = 1
    bus = 5
    """,
    "bus.toml:2: bus = 5: it has to be a table",
)

broken(
    "two brackets for the bus",
    """\
    version = 1
    [[bus]]
    name = "shop"
    """,
    'bus.toml:2: bus = [{ name = "shop" }]: it has to be a table',
)

broken(
    "one bracket for the subscriptions",
    """\
    version = 1

    [subscriptions]
    name = "billing"
    """,
    "bus.toml:3: subscriptions is one table; write [[subscriptions]], with double brackets",
)

broken(
    "a list of texts for the schedules",
    """\
    version = 1
    every = ["60s"]
    """,
    'bus.toml:2: every[0] = "60s": it has to be a table, as in [[every]]',
)

broken(
    "a list for the named filters",
    """\
    version = 1
    filters = ["log"]
    """,
    'bus.toml:2: filters = ["log"]: it has to be a table',
)

broken(
    "text for a named filter",
    """\
    version = 1
    [filters]
    lines = "log"
    """,
    'bus.toml:3: filters: lines = "log": it has to be a table, as in { use = "log" }',
)

broken(
    "text for a filter's true or false",
    """\
    version = 1
    [filters.tenant]
    use = "enrich"
    add = { tenant = "acme" }
    overwrite = "no"
    """,
    'bus.toml:5: filters.tenant: overwrite = "no": it has to be true or false',
)

broken(
    "text for a filter's number",
    """\
    version = 1
    [filters.again]
    use = "retry"
    jitter = "some"
    """,
    'bus.toml:4: filters.again: jitter = "some": it has to be a number',
)

broken(
    "text for a filter's list",
    """\
    version = 1
    [filters.lines]
    use = "log"
    redact = "password"
    """,
    'bus.toml:4: filters.lines: redact = "password": it has to be a list',
)

broken(
    "a number for a filter's table",
    """\
    version = 1
    [filters.check-order]
    use = "validate"
    models = 5
    """,
    "bus.toml:4: filters.check-order: models = 5: it has to be a table",
)

broken(
    "a number for a schedule's header",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    headers = { tenant = 5 }
    """,
    "bus.toml:5: every[0].headers: tenant = 5: it has to be text",
)

broken(
    "text for what a test publishes",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = "orders.created"
    expect = { outcome = "accepted" }
    """,
    'bus.toml:4: tests[0] "a bad order": publish = "orders.created": it has to be a table, as in { subject = '
    '"orders.created" }, or a list of such',
)

broken(
    "text for a number of deliveries",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    expect = { deliveries = "none" }
    """,
    'bus.toml:5: tests[0] "a bad order".expect: deliveries = "none": it has to be a whole number, or a table',
)

# --- bad values ----------------------------------------------------------------------------------------------------------

broken(
    "a pipeline at both sides",
    """\
    version = 1
    [[pipelines]]
    at = "both"
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: at = "both": it has to be publish or delivery',
)

broken(
    "on_error continue",
    """\
    version = 1
    [[pipelines]]
    on_error = "continue"
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: on_error = "continue": it has to be reject, dead_letter or drop',
)

broken(
    "on_error ignore, in a pipeline in a pipeline",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { filters = ["log"], on_error = "ignore" },
    ]
    """,
    'bus.toml:4: pipelines[0].filters[0]: on_error = "ignore": it has to be reject, dead_letter or drop',
)

broken(
    "a delivery that is to be rejected",
    """\
    version = 1
    [[pipelines]]
    at = "delivery"
    on_error = "reject"
    filters = ["log"]
    """,
    'bus.toml:4: pipelines[0]: on_error = "reject": it has to be dead_letter or drop at "delivery"',
)

broken(
    "a handler in a process of its own",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    run = "process"
    """,
    'bus.toml:6: subscriptions[0] "billing": run = "process": it has to be pool, thread or loop',
    handlers=BILL,
)

broken(
    "deliver what is old",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    deliver = "yesterday"
    """,
    'bus.toml:5: subscriptions[0] "billing": deliver = "yesterday": it has to be new, all or last',
)

broken(
    "deliver all from a transport that keeps nothing",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    deliver = "all"
    """,
    'bus.toml:5: subscriptions[0] "billing": this transport keeps no messages, so deliver must be "new"',
)

broken(
    "less than one of everything",
    """\
    version = 1
    [bus]
    pool = 0
    dead_letters = -1

    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    attempts = 0
    mailbox = 0

    [[subscriptions]]
    name = "audit"
    subject = ">"
    mailbox.size = -5
    """,
    "bus.toml: 5 problems; nothing was loaded",
    "bus.toml:3: bus: pool = 0: it has to be at least 1",
    "bus.toml:4: bus: dead_letters = -1: it has to be at least 1",
    'bus.toml:10: subscriptions[0] "billing": attempts = 0: it has to be at least 1',
    'bus.toml:11: subscriptions[0] "billing": mailbox = 0: it has to be at least 1',
    'bus.toml:16: subscriptions[1] "audit".mailbox: size = -5: it has to be at least 1',
    handlers=BILL,
)

broken(
    "a transport that there is not",
    """\
    version = 1
    [bus]
    transport = "carrier-pigeon://roof"
    """,
    'bus.toml:3: bus: transport = "carrier-pigeon://roof": no transport for "carrier-pigeon" '
    "(in 'carrier-pigeon://roof'); there are: memory, nats, sqlite, tls",
)

broken(
    "a transport that promises less than is required",
    """\
    version = 1
    [bus]
    transport = "memory:"
    require = { survives = "power" }
    """,
    'bus.toml:4: bus: require = { survives = "power" }: transport "MemoryTransport" cannot promise '
    "survives='power' (it has 'nothing')",
)

broken(
    "a size in acres",
    """\
    version = 1
    [bus]
    max_message_bytes = "1 acre"
    """,
    'bus.toml:3: bus: max_message_bytes = "1 acre": unknown unit "acre"; there are B, kB, MB, GB, KiB, MiB, GiB',
)

broken(
    "no size at all",
    """\
    version = 1
    [bus]
    max_message_bytes = "big"
    """,
    'bus.toml:3: bus: max_message_bytes = "big": it has to be a whole number of bytes, or text such as "64KiB", "1MiB"',
)

broken(
    "a negative size",
    """\
    version = 1
    [bus]
    max_message_bytes = -1
    """,
    "bus.toml:3: bus: max_message_bytes = -1: it has to be a whole number of bytes, at least 0",
)

broken(
    "true for a duration",
    """\
    version = 1
    [filters.again]
    use = "retry"
    wait = true
    """,
    'bus.toml:4: filters.again: wait = true: it has to be a number of seconds, or text such as "200ms", "5s", "10m"',
)

broken(
    "a negative duration",
    """\
    version = 1
    [filters.again]
    use = "retry"
    wait = -1
    """,
    "bus.toml:4: filters.again: wait = -1: it has to be at least 0 seconds, and finite",
)

broken(
    "an endless duration",
    """\
    version = 1
    [filters.again]
    use = "retry"
    max_wait = inf
    """,
    "bus.toml:4: filters.again: max_wait = inf: it has to be at least 0 seconds, and finite",
)

broken(
    "a time to live of nothing",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "expire", ttl = "0s" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "expire": ttl = "0s": it has to be greater than 0 seconds, and finite',
)

broken(
    "every no seconds",
    """\
    version = 1
    [[every]]
    interval = 0
    subject = "headlines.fetch"
    """,
    "bus.toml:3: every[0]: interval = 0: it has to be greater than 0 seconds, and finite",
)

broken(
    "schedules that cannot be",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    missed = "once"
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    name = "head lines"
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    name = "headlines"
    missed = "twice"
    [[cron]]
    expression = "0 3 * * 1-8"
    subject = "report.nightly"
    [[cron]]
    subject = "report.nightly"
    expression = "0 3 * * 1-5"
    timezone = "Berlin"
    [[cron]]
    subject = "report.nightly"
    name = "report"
    """,
    "bus.toml: 6 problems; nothing was loaded",
    'bus.toml:5: every[0]: missed="once" needs a name, under which the last message is remembered',
    "bus.toml:9: every[1]: name='head lines'; it is letters, digits, and any of . _ -, as in \"headlines\"",
    'bus.toml:14: every[2]: missed = "twice": it has to be skip or once',
    "bus.toml:16: cron[0]: cron='0 3 * * 1-8': Bad day-of-week; it is minute, hour, day of month, month and day of week, as in "
    '"0 3 * * 1-5"; a sixth field, before them, is seconds',
    "bus.toml:21: cron[1]: timezone='Berlin' is unknown; it is a name such as \"Europe/Berlin\" (where the system has no time "
    "zones, pip install tzdata)",
    'bus.toml:22: cron[2]: "expression" is missing',
)

broken(
    "a mailbox that waits for minus five seconds",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    mailbox = { size = 10, timeout = "-5s" }
    """,
    'bus.toml:5: subscriptions[0] "billing".mailbox: timeout = "-5s": '
    'it has to be a number of seconds, or text such as "200ms", "5s", "10m"',
)

broken(
    "no attempts of a filter",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { use = "retry", wait = "1s",  attempts = 0 },
    ]
    """,
    'bus.toml:4: pipelines[0].filters[0] "retry": attempts = 0: it has to be a whole number of runs, at least 1',
)

broken(
    "a jitter of two",
    """\
    version = 1
    [filters.again]
    use = "retry"
    attempts = 2
    jitter = 2
    """,
    "bus.toml:5: filters.again: jitter = 2: it has to be a fraction from 0 to 1",
)

broken(
    "a level that there is not",
    """\
    version = 1
    [filters.lines]
    use = "log"
    level = "loud"
    """,
    'bus.toml:4: filters.lines: level = "loud": it has to be "debug", "info" or "warning"',
)

broken(
    "two settings of a filter that contradict each other",
    """\
    version = 1
    [filters.again]
    use = "retry"
    wait = "2s"
    max_wait = "1s"
    """,
    "bus.toml:5: filters.again: max_wait=1 is shorter than wait=2; raise it, or wait less",
)

broken(
    "a template that is none",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "reroute", to = "flights.{body}" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "reroute": to = "flights.{body}": {body} is not a field; '
    "there are subject, key, id, headers.NAME and body.FIELD",
)

broken(
    "a name that the bus keeps for itself",
    """\
    version = 1
    [[subscriptions]]
    name = "publish"
    subject = "orders.created"
    """,
    'bus.toml:3: subscriptions[0] "publish": name = "publish": that is what the publish chain is called; choose another',
)

broken(
    "an empty name",
    """\
    version = 1
    [[subscriptions]]
    name = ""
    subject = "orders.created"
    """,
    'bus.toml:3: subscriptions[0] "": name = "": a name is a printable string that is not empty',
)

broken(
    "workers without a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    workers = 4
    """,
    'bus.toml:5: subscriptions[0] "billing": workers are for handlers; a subscription without a handler is read with receive()',
)

broken(
    "results without a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    to = "orders.billed"
    """,
    'bus.toml:5: subscriptions[0] "billing": `to` is for what a handler returns; this subscription has no handler',
)

broken(
    "run without a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    run = "thread"
    """,
    "bus.toml:5: subscriptions[0] \"billing\": run='thread' is for handlers; "
    "a subscription without a handler is read with receive()",
)

broken(
    "a subscription that takes every worker",
    """\
    version = 1
    [bus]
    pool = 8
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    workers = 8
    """,
    'bus.toml:8: subscriptions[0] "billing": workers=8 would take every worker of Bus(pool=8); make the pool larger',
    handlers=BILL,
)

broken(
    "a header with a space in its name",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    headers = { "tenant id" = "acme" }
    """,
    'bus.toml:5: every[0].headers: "tenant id" = "acme": \'tenant id\' cannot be a header\'s name; use printable '
    "characters without spaces or colons",
)

# --- subjects and patterns -----------------------------------------------------------------------------------------------

broken(
    "two dots in one of several subjects",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = [
      "orders.created",
      "orders..paid",
    ]
    """,
    'bus.toml:6: subscriptions[0] "billing": subject[1] = "orders..paid": "orders..paid" has an empty token at position 2; '
    'tokens are joined by single dots, as in "orders.created"',
)

broken(
    "a pattern that goes on behind its end",
    """\
    version = 1
    [[pipelines]]
    match = "orders.>.eu"
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: match = "orders.>.eu": "orders.>.eu" has ">" at position 2; it can only be the last token',
)

broken(
    "a pattern with a space",
    """\
    version = 1
    [[pipelines]]
    filters = [{ when = "orders created", filters = ["log"] }]
    """,
    "bus.toml:3: pipelines[0].filters[0]: when = \"orders created\": 'orders created' contains ' '; white s"
    "pace and control characters cannot be in a subject; an expression is written { expr = … }",
)

broken(
    "an empty pattern",
    """\
    version = 1
    [[pipelines]]
    filters = [{ branch = "", filters = ["log"] }]
    """,
    'bus.toml:3: pipelines[0].filters[0]: branch = "": "" is empty; a subject is tokens joined by single dots, '
    'as in "orders.created"',
)

broken(
    "a schedule for many subjects",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.*"
    """,
    'bus.toml:4: every[0]: subject = "headlines.*": "headlines.*" has the wildcard "*"; '
    "wildcards are for subscriptions, publish to a literal subject",
)

broken(
    "results for many subjects",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    to = "orders.>"
    """,
    'bus.toml:6: subscriptions[0] "billing": to = "orders.>": "orders.>" has the wildcard ">"; '
    "wildcards are for subscriptions, publish to a literal subject",
    handlers=BILL,
)

broken(
    "a test that publishes to many subjects",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.>" }
    expect = { outcome = "accepted" }
    """,
    'bus.toml:4: tests[0] "a bad order".publish: subject = "orders.>": "orders.>" has the wildcard ">"; '
    "wildcards are for subscriptions, publish to a literal subject",
)

broken(
    "a pattern of models that is none",
    """\
    version = 1
    [filters.check-order]
    use = "validate"
    models = { "orders..>" = "shop06:Order" }
    """,
    'bus.toml:4: filters.check-order: "orders..>" has an empty token at position 2; '
    'tokens are joined by single dots, as in "orders.created"',
    allow=("shop06",),
    modules={"shop06": ORDER},
)

# --- filters by name -----------------------------------------------------------------------------------------------------

broken(
    "a typo in the name of a filter, in a list of names",
    """\
    version = 1
    [[pipelines]]
    filters = [
      "log",
      "vaildate",
    ]
    """,
    'bus.toml:5: pipelines[0].filters[1]: no filter "vaildate"; did you mean "validate"?',
)

broken(
    "a filter that there is not",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "frobnicate", colour = "blue" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "frobnicate": no filter "frobnicate"; `pipebus filters` lists them',
)

broken(
    "a typo in the name of a named filter",
    """\
    version = 1
    [filters.check-order]
    use = "log"
    [[pipelines]]
    filters = ["check-ordr"]
    """,
    'bus.toml:5: pipelines[0].filters[0]: no filter "check-ordr"; did you mean "check-order"?',
)

broken(
    "a typo in the name of a filter that is handed in",
    """\
    version = 1
    [[pipelines]]
    filters = ["adit"]
    """,
    'bus.toml:3: pipelines[0].filters[0]: no filter "adit"; did you mean "audit"?',
    filters=AUDIT,
)

broken(
    "a kind of filter that there is not, in a named filter",
    """\
    version = 1
    [filters.check-order]
    use = "valdate"
    """,
    'bus.toml:3: filters.check-order: no filter "valdate"; did you mean "validate"?',
)

broken(
    "a filter that is in another list of names",
    """\
    version = 1
    [filters.spare]
    use = "log"
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    filters = ["bill"]
    """,
    'bus.toml:8: subscriptions[0] "billing".filters[0]: no filter "bill"; `pipebus filters` lists them',
    handlers=BILL,
)

broken(
    "a named filter that is broken, and that nobody uses",
    """\
    version = 1
    [filters.spare]
    use = "expire"
    ttl = "1 week"
    [[pipelines]]
    filters = ["log"]
    """,
    'bus.toml:4: filters.spare: ttl = "1 week": unknown unit "week"; there are us, ms, s, m, h, d',
)

broken(
    "a named filter that is broken, and that is used twice",
    """\
    version = 1
    [[pipelines]]
    filters = ["old"]
    [[pipelines]]
    match = "orders.>"
    filters = ["old"]
    [filters.old]
    use = "expire"
    ttl = -5
    """,
    "bus.toml:9: filters.old: ttl = -5: it has to be at least 0 seconds, and finite",
)

broken(
    "a filter that is handed in and is none",
    """\
    version = 1
    [[pipelines]]
    filters = ["audit"]
    """,
    "bus.toml:3: pipelines[0]: filter bill (position 1 of pipelines[0] at bus.toml:3) takes (message: "
    "'Message[Any]') -> 'None'; its form is f(message, call_next); a function of the message alone is made a "
    "filter by @transform",
    filters={"audit": bill},
)

broken(
    "a function of the message alone for a filter",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "python", target = "shop20:enrich" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "python": filter enrich (position 1 of pipelines[0] at bus.toml:3) '
    "takes (message); its form is f(message, call_next); "
    "a function of the message alone is made a filter by @transform",
    allow=("shop20",),
    modules={"shop20": "def enrich(message): return message"},
)

CONVERT = """
from dataclasses import dataclass
from pipebus import Transform

@dataclass(eq=False)
class Convert(Transform):
    rate: float
    places: int = 2

    def transform(self, message):
        return message
"""

broken(
    "a typo in an argument of a class",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "python", target = "shop21:Convert", rate = 1.25, place = 3 }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "python": unknown key "place"; did you mean "places"?',
    allow=("shop21",),
    modules={"shop21": CONVERT},
)

broken(
    "an argument of a class that is missing",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "python", target = "shop22:Convert" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "python": "rate" is missing',
    allow=("shop22",),
    modules={"shop22": CONVERT},
)

broken(
    "an argument of a class that has the wrong type",
    """\
    version = 1
    [filters.convert]
    use = "python"
    target = "shop23:Convert"
    rate = "much"
    """,
    'bus.toml:5: filters.convert: rate = "much": it has to be a number',
    allow=("shop23",),
    modules={"shop23": CONVERT},
)

broken(
    "an argument of a function",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "python", target = "shop24:audit", rate = 2 }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "python": unknown key "rate"; there is none',
    allow=("shop24",),
    modules={"shop24": "def audit(message, call_next): return call_next(message)"},
)

broken(
    "a class whose constructor fails",
    """\
    version = 1
    [filters.door]
    use = "python"
    target = "shop25:Door"
    """,
    "bus.toml:2: filters.door: cannot be made: RuntimeError: no key",
    allow=("shop25",),
    modules={"shop25": "class Door:\n    def __init__(self):\n        raise RuntimeError('no key')"},
)

# --- chains --------------------------------------------------------------------------------------------------------------

broken(
    "a filter behind a branch that takes all",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { branch = ">", filters = ["log"] },
      { use = "retry" },
    ]
    """,
    'bus.toml:5: pipelines[0]: filter Retry (position 2 of pipelines[0] at bus.toml:5) comes after branch(">") '
    '(at bus.toml:4), which takes all of its messages, so it can never run; move it in front of branch(">")',
)

broken(
    "a filter behind a branch of another pipeline",
    """\
    version = 1
    [[pipelines]]
    match = "orders.>"
    filters = [{ branch = "orders.>", filters = ["log"] }]

    [[pipelines]]
    match = "orders.eu.>"
    filters = ["log"]
    """,
    'bus.toml:6: pipelines[1]: when("orders.eu.>") (at bus.toml:6) comes after '
    'branch("orders.>") (at bus.toml:4), which takes all of its messages, so it can never run; '
    'move it in front of branch("orders.>")',
)

broken(
    "a detour that excludes the one around it",
    """\
    version = 1
    [[pipelines]]
    match = "orders.>"
    filters = [
      "log",
      { when = "flights.>", filters = ["log"] },
    ]
    """,
    'bus.toml:6: pipelines[0]: when("flights.>") (at bus.toml:6) is inside "orders.>", which no subject of '
    '"flights.>" matches, so its filters can never run; move it out, or change its pattern',
)

broken(
    "a detour around a handler that none of its messages takes",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.us"
    handler = "bill"
    filters = [{ when = "orders.eu", filters = ["log"] }]
    """,
    'bus.toml:6: subscriptions[0] "billing": when("orders.eu") (at bus.toml:6) of subscription billing can never '
    "run: no message on orders.us matches it; take it out, or change its pattern",
    handlers=BILL,
)

broken(
    "a rerouter around a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    filters = [
      "log",
      { use = "reroute", to = "orders.{body.country}" },
    ]
    """,
    'bus.toml:8: subscriptions[0] "billing": filter Reroute (position 2 of subscriptions[0] "billing" at '
    "bus.toml:8) changes subjects, which only a publish filter may; publish the message again from the handler, "
    "or use(…) it on the publish side",
    handlers=BILL,
)

broken(
    "a rerouter around every handler",
    """\
    version = 1
    [filters.by-country]
    use = "reroute"
    to = "orders.{body.country}"

    [[pipelines]]
    at = "delivery"
    filters = ["by-country"]
    """,
    "bus.toml:8: pipelines[0]: filter by-country (position 1 of pipelines[0] at bus.toml:8) changes subjects, "
    "which only a publish filter may; publish the message again from the handler, or use(…) it on the publish side",
)

broken(
    "a plain sync filter around an async handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    filters = ["audit"]
    """,
    'bus.toml:6: subscriptions[0] "billing": filter audit (position 1 of subscriptions[0] "billing" at '
    "bus.toml:6) is a plain sync filter, but handler abill is async; make it `async def`, or write it as "
    "@transform / @around",
    handlers=ABILL,
    filters=AUDIT,
)

broken(
    "a plain sync filter around all handlers, one of which is async",
    """\
    version = 1
    [[pipelines]]
    at = "delivery"
    filters = ["audit"]

    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    """,
    "bus.toml:4: pipelines[0]: filter audit (position 1 of pipelines[0] at bus.toml:4) is a plain sync filter, "
    "but handler abill is async; make it `async def`, or write it as @transform / @around",
    handlers=ABILL,
    filters=AUDIT,
)

broken(
    "an async filter around a plain handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    filters = ["audit"]
    """,
    'bus.toml:6: subscriptions[0] "billing": filter aaudit (position 1 of subscriptions[0] "billing" at '
    "bus.toml:6) is async, but handler bill is sync; write it as @transform or @around, or make the handler async",
    handlers=BILL,
    filters=AAUDIT,
)

broken(
    "a time limit around a plain handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    filters = [{ use = "timeout", seconds = "5s" }]
    """,
    'bus.toml:6: subscriptions[0] "billing": filter Timeout (position 1 of subscriptions[0] "billing" at '
    "bus.toml:6) bounds the rest's time, which a sync chain can only do by leaving the rest behind, and h"
    "andler bill is sync; say abandon = true",
    handlers=BILL,
)

broken(
    "a retry around a handler that there is not",
    """\
    version = 1
    [[subscriptions]]
    name = "inbox"
    subject = "orders.created"
    filters = ["retry"]
    """,
    'bus.toml:5: subscriptions[0] "inbox": filter Retry (position 1 of subscriptions[0] "inbox" at bus.toml:5) '
    "wraps a handler, but inbox has none; make it a Transform",
)

broken(
    "an async handler in the pool",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    run = "pool"
    """,
    'bus.toml:6: subscriptions[0] "billing": its handler is async, so run="pool" cannot await it; '
    "leave `run` out, or make it a plain `def`",
    handlers=ABILL,
)

broken(
    "a filter in front of what it requires",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { use = "python", target = "shop26:priced" },
      { use = "validate", models = { "orders.>" = "shop26:Order" } },
    ]
    """,
    'bus.toml:4: pipelines[0]: filter priced (position 1 of pipelines[0] at bus.toml:4) requires "validated", '
    "which Validate (position 2 of pipelines[0] at bus.toml:5) provides only later; swap the two",
    allow=("shop26",),
    modules={
        "shop26": f"{ORDER}from pipebus import transform\n"
        "@transform\ndef priced(message): return message\npriced.requires = ('validated',)"
    },
)

broken(
    "two mistakes in one chain",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { use = "python", target = "shop27:priced" },
      { branch = ">", filters = ["log"] },
      { use = "expire", ttl = "1h" },
    ]
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:4: pipelines[0]: filter priced (position 1 of pipelines[0] at bus.toml:4) requires "validated", '
    "which no filter before it provides; add one in front of it",
    "bus.toml:6: pipelines[0]: filter Expire (position 3 of pipelines[0] at bus.toml:6) comes after "
    'branch(">") (at bus.toml:5), which takes all of its messages, so it can never run; move it in front of '
    'branch(">")',
    allow=("shop27",),
    modules={
        "shop27": "from pipebus import transform\n"
        "@transform\ndef priced(message): return message\npriced.requires = ('validated',)"
    },
)

broken(
    "a switch without cases, and cases that are not tables in a list",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { switch = [] },
      { switch = { when = "a.>", filters = ["log"] } },
      { switch = ["log", { when = "a.>" }, { branch = "a.>", filters = [] }] },
    ]
    """,
    "bus.toml: 6 problems; nothing was loaded",
    "bus.toml:4: pipelines[0].filters[0]: switch = []: it is empty; give at least one",
    'bus.toml:5: pipelines[0].filters[1]: switch = { when = "a.>", filters = ["log"] }: it has to be a list of cases, as in '
    '[{ when = "orders.>", filters = ["log"] }]',
    'bus.toml:6: pipelines[0].filters[2]: switch[0] = "log": it has to be a table',
    'bus.toml:6: pipelines[0].filters[2].switch[1]: "filters" is missing',
    'bus.toml:6: pipelines[0].filters[2].switch[2]: "when" is missing',
    'bus.toml:6: pipelines[0].filters[2].switch[2]: unknown key "branch"; there are when, filters',
)

broken(
    "an otherwise in a wrong place",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { switch = [
        { otherwise = ["log"] },
        { when = "a.>", filters = ["log"] },
      ] },
      { when = "a.>", filters = [], otherwise = ["log"] },
      { otherwise = ["log"] },
      { switch = [{ when = "a.>", filters = ["log"] }], otherwise = "log" },
      { switch = [{ when = "a.>", filters = ["log"] }], filters = ["log"] },
    ]
    """,
    "bus.toml: 5 problems; nothing was loaded",
    'bus.toml:5: pipelines[0].filters[0]: switch[0] = { otherwise = ["log"] }: otherwise comes after the cases of a switch, '
    'as in { switch = […], otherwise = ["log"] }',
    "bus.toml:8: pipelines[0].filters[1]: otherwise comes after the cases of a switch, as in "
    '{ switch = […], otherwise = ["log"] }',
    "bus.toml:9: pipelines[0].filters[2]: otherwise comes after the cases of a switch, as in "
    '{ switch = […], otherwise = ["log"] }',
    'bus.toml:10: pipelines[0].filters[3]: otherwise = "log": it has to be a list, as in ["log"]',
    'bus.toml:11: pipelines[0].filters[4]: unknown key "filters"; there are switch, otherwise',
)

broken(
    "two otherwises in one switch",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { switch = [{ when = "a.>", filters = ["log"] }], otherwise = ["log"], otherwise = [] },
    ]
    """,
    "bus.toml:4: not TOML: Cannot mutate immutable namespace ('otherwise',) (column 88); the key is there twice",
)

broken(
    "mistakes inside a switch",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { switch = [
        { when = "a.>", filters = ["lgo"] },
        { when = { expr = "body.x >" }, filters = [{ use = "expire", ttl = "soon" }] },
        { when = { expr = "`true`" }, filters = [] },
      ], otherwise = [
        "lg",
        5,
        { use = "expire", tl = 5 },
      ] },
    ]
    """,
    "bus.toml: 8 problems; nothing was loaded",
    'bus.toml:5: pipelines[0].filters[0].switch[0].filters[0]: no filter "lgo"; did you mean "log"?',
    'bus.toml:6: pipelines[0].filters[0].switch[1]: when = { expr = "body.x >" }: not an expression: Incomplete expression',
    'bus.toml:6: pipelines[0].filters[0].switch[1].filters[0] "expire": ttl = "soon": it has to be a number of seconds, or '
    'text such as "200ms", "5s", "10m"',
    'bus.toml:7: pipelines[0].filters[0].switch[2]: when = { expr = "`true`" }: it reads nothing of the message, so it is the '
    "same for all; the filters for messages that no case takes are the otherwise of the switch",
    'bus.toml:9: pipelines[0].filters[0].otherwise[0]: no filter "lg"; did you mean "log"?',
    'bus.toml:10: pipelines[0].filters[0]: otherwise[1] = 5: it has to be a name, as in "log", or a table with "use", "when", '
    '"branch", "switch" or "filters"',
    'bus.toml:11: pipelines[0].filters[0].otherwise[2] "expire": "ttl" is missing',
    'bus.toml:11: pipelines[0].filters[0].otherwise[2] "expire": unknown key "tl"; did you mean "ttl"?',
)

broken(
    "cases behind one that takes all of their messages",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { switch = [
        { when = "a.>", filters = ["log"] },
        { when = "a.b", filters = ["log"] },
      ] },
      { switch = [
        { when = ">", filters = ["log"] },
      ], otherwise = ["log"] },
    ]
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:6: pipelines[0]: when("a.b") (at bus.toml:6) comes after when("a.>") (at bus.toml:5), which takes all of its '
    'messages, so it can never run; move it in front of when("a.>")',
    'bus.toml:10: pipelines[0]: otherwise (at bus.toml:10) comes after when(">") (at bus.toml:9), which takes all of its '
    "messages, so it can never run; take it out",
)


# --- imports -------------------------------------------------------------------------------------------------------------

broken(
    "a handler that nobody hands in",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": no handler "bill" is handed in; '
    'write "module:function", or pass handlers={"bill": …}',
)

broken(
    "a handler with a dot for the colon",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop30.billing.bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": no handler "shop30.billing.bill" is handed in; '
    'write "module:function", or pass handlers={"shop30.billing.bill": …}',
    allow=("shop30",),
    modules={"shop30.billing": "def bill(message): ..."},
    idle=("shop30", "shop30.billing"),
)

broken(
    "a handler without a function",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop31:"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop31:": it has to be "module:name", as in "shop.billing:bill"',
    allow=("shop31",),
    modules={"shop31": "def bill(message): ..."},
    idle=("shop31",),
)

broken(
    "a handler of the standard library",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "os:system"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "os:system": package "os" is not allowed; '
    'pass allow_imports=["os"], or --allow os',
)

broken(
    "a module that fails while it is imported",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop32.billing:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop32.billing:bill": cannot import shop32.billing: '
    "RuntimeError: no database",
    allow=("shop32",),
    modules={"shop32.billing": "raise RuntimeError('no database')"},
)

broken(
    "a module that lacks another one",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop33.billing:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop33.billing:bill": cannot import shop33.billing: '
    "ModuleNotFoundError: No module named 'shop_nowhere'",
    allow=("shop33",),
    modules={"shop33.billing": "import shop_nowhere\ndef bill(message): ..."},
)

broken(
    "a module that is no Python",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop34:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop34:bill": cannot import shop34: '
    "SyntaxError: invalid syntax (shop34.py, line 2)",
    allow=("shop34",),
    modules={"shop34": "LIMIT = 3\ndef bill(:\n"},
)

broken(
    "a module that ends the program",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop35:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop35:bill": cannot import shop35: SystemExit: 3',
    allow=("shop35",),
    modules={"shop35": "import sys\nsys.exit(3)"},
)

broken(
    "a function that is like none in its module",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop36:zzz"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop36:zzz": shop36 has no "zzz"',
    allow=("shop36",),
    modules={"shop36": "def bill(message): ..."},
)

broken(
    "a handler that is a number",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop37:LIMIT"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop37:LIMIT": it is not a function',
    allow=("shop37",),
    modules={"shop37": "LIMIT = 3"},
)

broken(
    "a handler that is a class",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop38:Bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop38:Bill": it is a class; give a function, or an '
    "object that can be called",
    allow=("shop38",),
    modules={"shop38": "class Bill:\n    def __call__(self, message): ..."},
)

broken(
    "a handler that takes two messages",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop39:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler billing has two parameters for the Message; it may take one '
    "message, one body, a Delivery and the Bus, told apart by annotation",
    allow=("shop39",),
    modules={"shop39": "def bill(message, other): ..."},
)

broken(
    "a function of another package in an allowed one",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop40:run"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop40:run": it is defined in subprocess, which is not '
    "in an allowed package; define it in shop40",
    allow=("shop40",),
    modules={"shop40": "from subprocess import run"},
)

broken(
    "a function of a module that an allowed one has imported",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop41:subprocess.run"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop41:subprocess.run": it is defined in subproce'
    "ss, which is not in an allowed package; define it in shop41",
    allow=("shop41",),
    modules={"shop41": "import subprocess"},
)

broken(
    "a built-in function in an allowed package",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "tap", target = "shop42:show" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "tap": target = "shop42:show": it is defined in builtins, which is not '
    "in an allowed package; define it in shop42",
    allow=("shop42",),
    modules={"shop42": "show = print"},
)

broken(
    "a part of a function of another package",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop43:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop43:bill": it is defined in subprocess, which is not '
    "in an allowed package; define it in shop43",
    allow=("shop43",),
    modules={"shop43": "import functools, subprocess\nbill = functools.partial(subprocess.run, shell=True)"},
)

broken(
    "a model of a package that is not allowed",
    """\
    version = 1
    [filters.check-order]
    use = "validate"

    [filters.check-order.models]
    "flights.>" = "shopify44.models:Flight"
    "orders.>" = "shop44.models:Order"
    """,
    'bus.toml:6: filters.check-order.models: "flights.>" = "shopify44.models:Flight": package "shopify44"'
    ' is not allowed; did you mean "shop44"? Otherwise pass allow_imports=["shopify44"], or --allow shopify44',
    allow=("shop44",),
    modules={"shop44.models": ORDER, "shopify44.models": "raise RuntimeError"},
    idle=("shopify44", "shopify44.models"),
)

broken(
    "a test of a package that is not allowed",
    """\
    version = 1
    [[pipelines]]
    match = { python = "shop45.rules:is_large" }
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: match = { python = "shop45.rules:is_large" }: package "shop45" is not allowed; '
    'pass allow_imports=["shop45"], or --allow shop45',
    modules={"shop45.rules": "def is_large(message): return True"},
    idle=("shop45", "shop45.rules"),
)

broken(
    "a test that is async",
    """\
    version = 1
    [[pipelines]]
    filters = [{ when = { python = "shop46:is_large" }, filters = ["log"] }]
    """,
    "bus.toml:3: pipelines[0].filters[0]: when at bus.toml:3: predicate is_large is async; a predicate is a plain function",
    allow=("shop46",),
    modules={"shop46": "async def is_large(message): return True"},
)

broken(
    "a key function of a package that is not allowed",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "dedupe", key = "shop47:by_order" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "dedupe": key = "shop47:by_order": package "shop47" is not allow'
    'ed; did you mean "shop"? Otherwise pass allow_imports=["shop47"], or --allow shop47',
    allow=("shop",),
    modules={"shop47": "def by_order(message): return 1"},
    idle=("shop47",),
)

broken(
    "a typo in the way a function is given",
    """\
    version = 1
    [[pipelines]]
    match = { pyhton = "shop48:is_large" }
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: match = { pyhton = "shop48:is_large" }: it has to be a pattern, as in "orders.>", { expr '
    '= "…" } or { python = "module:name" }',
    allow=("shop48",),
    modules={"shop48": "def is_large(message): return True"},
    idle=("shop48",),
)

broken(
    "an allowed package that nothing uses",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    worker = 4
    """,
    'bus.toml:6: subscriptions[0] "billing": unknown key "worker"; did you mean "workers"?',
    handlers=BILL,
    allow=("shop49", "shop49.deep"),
    modules={"shop49.deep": "raise RuntimeError('nobody asked for this')"},
    idle=("shop49", "shop49.deep"),
)

broken(
    "an allowed package in a file that is not TOML",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop50:bill"
    workers = four
    """,
    "bus.toml:6: not TOML: Invalid value (column 11); texts must be in quotes, and the only words are true and false",
    allow=("shop50",),
    modules={"shop50": "def bill(message): ..."},
    idle=("shop50",),
)

# --- interpolation -------------------------------------------------------------------------------------------------------

broken(
    "a variable that is not set, with a message",
    """\
    version = 1
    [bus]
    name = "${env:PIPEBUS_N10:?the name of this shop, as in the address book}"
    """,
    'bus.toml:3: bus: name = "${env:PIPEBUS_N10:?the name of this shop, as in the addre…": PIPEBUS_N10 is not '
    "set: the name of this shop, as in the address book",
    env={"PIPEBUS_N10": None},
)

broken(
    "a variable that is empty, with a message",
    """\
    version = 1
    [bus]
    name = "shop-${env:PIPEBUS_N11:?choose a name}"
    """,
    'bus.toml:3: bus: name = "shop-${env:PIPEBUS_N11:?choose a name}": PIPEBUS_N11 is not set: choose a name',
    env={"PIPEBUS_N11": ""},
)

broken(
    "variables that are not set, in several places",
    """\
    version = 1
    [[every]]
    interval = "${env:PIPEBUS_N12}ms"
    subject = "headlines.fetch"
    body = { sources = ["a", "${env:PIPEBUS_N13}"], deep = { x = "${env:PIPEBUS_N14:?a letter}" } }
    headers = { tenant = "${env:PIPEBUS_N15}" }
    """,
    "bus.toml: 4 problems; nothing was loaded",
    'bus.toml:3: every[0]: interval = "${env:PIPEBUS_N12}ms": PIPEBUS_N12 is not set; set it, or write '
    "${env:PIPEBUS_N12:-default}",
    'bus.toml:5: every[0].body: sources[1] = "${env:PIPEBUS_N13}": PIPEBUS_N13 is not set; set it, or write '
    "${env:PIPEBUS_N13:-default}",
    'bus.toml:5: every[0].body.deep: x = "${env:PIPEBUS_N14:?a letter}": PIPEBUS_N14 is not set: a letter',
    'bus.toml:6: every[0].headers: tenant = "${env:PIPEBUS_N15}": PIPEBUS_N15 is not set; set it, or write '
    "${env:PIPEBUS_N15:-default}",
    env=dict.fromkeys(["PIPEBUS_N12", "PIPEBUS_N13", "PIPEBUS_N14", "PIPEBUS_N15"]),
)

broken(
    "a scheme that there is not",
    """\
    version = 1
    [bus]
    name = "${vault:shop/name}"
    """,
    'bus.toml:3: bus: name = "${vault:shop/name}": ${vault:shop/name}: it has to be ${env:NAME} or ${file:path}',
)

broken(
    "a typo in a scheme",
    """\
    version = 1
    [bus]
    name = "${evn:PIPEBUS_N16}"
    """,
    'bus.toml:3: bus: name = "${evn:PIPEBUS_N16}": ${evn:PIPEBUS_N16}: it has to be ${env:NAME} or '
    '${file:path}; did you mean "env"?',
)

broken(
    "no scheme",
    """\
    version = 1
    [bus]
    name = "${HOME}"
    """,
    'bus.toml:3: bus: name = "${HOME}": ${HOME}: it has to be ${env:NAME} or ${file:path}',
)

broken(
    "a file that is not there",
    """\
    version = 1
    [bus]
    name = "${file:secrets/name.txt}"
    """,
    'bus.toml:3: bus: name = "${file:secrets/name.txt}": ${file:secrets/name.txt}: no such file (looked for it '
    "at {here}/secrets/name.txt)",
)

broken(
    "an interpolation that is not closed",
    """\
    version = 1
    [bus]
    name = "${env:PIPEBUS_N17"
    """,
    'bus.toml:3: bus: name = "${env:PIPEBUS_N17": "${" is not closed; write "$${" for the text itself',
)

broken(
    "a default that is not needed, one that is, and one that is wrong",
    """\
    version = 1
    [bus]
    pool = "${env:PIPEBUS_N18:-four}"
    dead_letters = "${env:PIPEBUS_N19:-100}"
    debug = "${env:PIPEBUS_N19:-maybe}"
    """,
    'bus.toml:5: bus: debug = "${env:PIPEBUS_N19:-maybe}": it has to be true or false',
    env={"PIPEBUS_N18": "4", "PIPEBUS_N19": None},
)

broken(
    "a literal dollar",
    """\
    version = 1
    [bus]
    pool = "$${env:PIPEBUS_N20}"
    """,
    'bus.toml:3: bus: pool = "$${env:PIPEBUS_N20}": it has to be a whole number',
    env={"PIPEBUS_N20": "4"},
)

broken(
    "a variable in a key",
    """\
    version = 1
    [bus]
    "${env:PIPEBUS_N21}" = 1
    """,
    'bus.toml:3: bus: unknown key "${env:PIPEBUS_N21}"; '
    "there are transport, name, pool, dead_letters, max_message_bytes, max_hops, require, drain, strict, debug, telemetry",
    env={"PIPEBUS_N21": "pool"},
)

broken(
    "a variable that holds another one",
    """\
    version = 1
    [bus]
    pool = "${env:PIPEBUS_N22}"
    """,
    'bus.toml:3: bus: pool = "${env:PIPEBUS_N22}": it has to be a whole number',
    env={"PIPEBUS_N22": "${env:PIPEBUS_N23}", "PIPEBUS_N23": "4"},
)

broken(
    "an empty variable for a number",
    """\
    version = 1
    [bus]
    pool = "${env:PIPEBUS_N24}"
    """,
    'bus.toml:3: bus: pool = "${env:PIPEBUS_N24}": it has to be a whole number',
    env={"PIPEBUS_N24": ""},
)

broken(
    "a variable that is too small",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    workers = "${env:PIPEBUS_N25}"
    """,
    'bus.toml:6: subscriptions[0] "billing": workers = "${env:PIPEBUS_N25}": it has to be at least 1',
    handlers=BILL,
    env={"PIPEBUS_N25": "0"},
)

# --- secrets -------------------------------------------------------------------------------------------------------------

broken(
    "a secret for a duration",
    """\
    version = 1
    [filters.again]
    use = "retry"
    wait = "${env:PIPEBUS_S1}"
    """,
    'bus.toml:4: filters.again: wait = "${env:PIPEBUS_S1}": it has to be a duration: a number, or with a '
    "unit of us, ms, s, m, h, d",
    env={"PIPEBUS_S1": "hunter2!"},
    secret="hunter2",
)

broken(
    "a secret for the unit of a duration",
    """\
    version = 1
    [filters.again]
    use = "retry"
    wait = "${env:PIPEBUS_S2}"
    """,
    'bus.toml:4: filters.again: wait = "${env:PIPEBUS_S2}": it has to be a duration: a number, or with a '
    "unit of us, ms, s, m, h, d",
    env={"PIPEBUS_S2": "5 hunter"},
    secret="hunter",
)

broken(
    "a secret in a file, for a number",
    """\
    version = 1
    [bus]
    pool = "${file:token.txt}"
    """,
    'bus.toml:3: bus: pool = "${file:token.txt}": it has to be a whole number',
    files={"token.txt": "hunter2\n"},
    secret="hunter2",
)

broken(
    "a secret for one of several words",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    mailbox.overflow = "${env:PIPEBUS_S3}"
    """,
    'bus.toml:5: subscriptions[0] "billing".mailbox: overflow = "${env:PIPEBUS_S3}": '
    "it has to be block, reject, drop_newest or drop_oldest",
    env={"PIPEBUS_S3": "block-hunter2"},
    secret="hunter2",
)

broken(
    "a secret in the address of a transport",
    """\
    version = 1
    [bus]
    transport = "carrier-pigeon://ada:${env:PIPEBUS_S4}@roof"
    """,
    'bus.toml:3: bus: transport = "carrier-pigeon://ada:${env:PIPEBUS_S4}@roof": no transport for '
    "\"carrier-pigeon\" (in 'carrier-pigeon://***@roof'); there are: memory, nats, sqlite, tls",
    env={"PIPEBUS_S4": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret in a subject",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.${env:PIPEBUS_S5}"
    """,
    'bus.toml:4: subscriptions[0] "billing": subject = "orders.${env:PIPEBUS_S5}": "orders.${env:PIPEBUS_S5}" '
    'has an empty token at position 2; tokens are joined by single dots, as in "orders.created"',
    env={"PIPEBUS_S5": ".hunter2"},
    secret="hunter2",
)

broken(
    "a secret for a filter",
    """\
    version = 1
    [[pipelines]]
    filters = ["${env:PIPEBUS_S6}"]
    """,
    'bus.toml:3: pipelines[0].filters[0]: no filter "${env:PIPEBUS_S6}"; `pipebus filters` lists them',
    env={"PIPEBUS_S6": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret for a handler",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "${env:PIPEBUS_S7}"
    """,
    'bus.toml:5: subscriptions[0] "billing": no handler "${env:PIPEBUS_S7}" is handed in; '
    'write "module:function", or pass handlers={"${env:PIPEBUS_S7}": …}',
    env={"PIPEBUS_S7": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret in a template",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "reroute", to = "orders.{${env:PIPEBUS_S8}}" }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "reroute": to = "orders.{${env:PIPEBUS_S8}}": {${env:PIPEBUS_S8}} is not '
    "a field; there are subject, key, id, headers.NAME and body.FIELD",
    env={"PIPEBUS_S8": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret in a header",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    headers = { token = "${env:PIPEBUS_S9}" }
    """,
    'bus.toml:5: every[0].headers: token = "${env:PIPEBUS_S9}": header "token" contains \'\\n\'; CR, LF and NUL '
    "cannot be in it",
    env={"PIPEBUS_S9": "hunter2\n"},
    secret="hunter2",
)

# --- tests ---------------------------------------------------------------------------------------------------------------

broken(
    "two tests of one name",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.created" }
    expect = { outcome = "unrouted" }
    [[tests]]
    name = "a bad order"
    publish = { subject = "orders.paid" }
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:7: tests[1] "a bad order": name "a bad order" is taken (line 3); choose another',
)

broken(
    "a subscription and a test of one name, and three subscriptions of one name",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "a"
    [[subscriptions]]
    name = "billing"
    subject = "b"
    [[subscriptions]]
    name = "billing"
    subject = "c"
    [[tests]]
    name = "billing"
    publish = { subject = "a" }
    expect = { outcome = "accepted" }
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:6: subscriptions[1] "billing": name "billing" is taken (line 3); choose another',
    'bus.toml:9: subscriptions[2] "billing": name "billing" is taken (line 3); choose another',
)

ORDERS = """\
version = 1
[filters.check-order]
use = "log"
[[pipelines]]
filters = ["check-order"]
[[subscriptions]]
name = "billing"
subject = "orders.created"
handler = "bill"
[[tests]]
name = "a bad order"
publish = { subject = "orders.created" }
"""


def orders(mistake: str, line: str, *says: str) -> None:
    """A case of a test whose line 13 is broken."""
    rest = "" if line.startswith("expect") else '\nexpect = { outcome = "accepted" }'
    broken(mistake, f"{ORDERS}{line}{rest}\n", *says, handlers=BILL)


orders(
    "a typo in the name of a replaced handler",
    "replace.handlers.biling = { returns = 1 }",
    'bus.toml:13: tests[0] "a bad order".replace.handlers: no subscription "biling"; did you mean "billing"?',
)

orders(
    "a replaced handler that there is not",
    "replace.handlers.zzz = {}",
    'bus.toml:13: tests[0] "a bad order".replace.handlers: no subscription "zzz"; there are billing, *',
)

orders(
    "a replaced handler that returns and raises",
    'replace.handlers.billing = { returns = 1, raises = "no" }',
    'bus.toml:13: tests[0] "a bad order".replace.handlers.billing: it always raises, and never returns; add '
    "times = 1, or take one of them out",
)

orders(
    "a replaced handler that raises no times",
    'replace.handlers.billing = { raises = "no", times = 0 }',
    'bus.toml:13: tests[0] "a bad order".replace.handlers.billing: times = 0: it has to be at least 1',
)

orders(
    "a replaced handler that is text",
    'replace.handlers.billing = "pass"',
    'bus.toml:13: tests[0] "a bad order".replace.handlers: billing = "pass": it has to be a table, as in {} or { returns = 1 }',
)

orders(
    "a typo in the name of a replaced filter",
    'replace.filters.check-ordr = "pass"',
    'bus.toml:13: tests[0] "a bad order".replace.filters: no filter "check-ordr"; did you mean "check-order"?',
)

orders(
    "a replaced filter that there is not",
    'replace.filters.zzz = "pass"',
    'bus.toml:13: tests[0] "a bad order".replace.filters: no filter "zzz"; there is check-order',
)

orders(
    "a replaced filter that is skipped",
    'replace.filters.check-order = "skip"',
    'bus.toml:13: tests[0] "a bad order".replace.filters: check-order = "skip": it has to be "pass", or a table, as in '
    '{ drops = "why" }',
)

orders(
    "a typo in what a replaced filter does",
    'replace.filters.check-order = { drop = "old" }',
    'bus.toml:13: tests[0] "a bad order".replace.filters.check-order: unknown key "drop"; did you mean "drops"?',
)

orders(
    "a typo in an outcome",
    'expect = { outcome = "droped" }',
    'bus.toml:13: tests[0] "a bad order".expect: outcome = "droped": '
    'it has to be accepted, dropped, rejected, unrouted or failed; did you mean "dropped"?',
)

orders(
    "two outcomes of one message",
    'expect = { outcome = ["accepted", "rejected"] }',
    'bus.toml:13: tests[0] "a bad order".expect: outcome = ["accepted", "rejected"]: there are 2 for 1 '
    "publishes; give one for each, or one word for all",
)

orders(
    "a typo in the filter that is to blame",
    'expect = { outcome = "rejected", by = "check-ordr" }',
    'bus.toml:13: tests[0] "a bad order".expect: no filter "check-ordr"; did you mean "check-order"?',
)

orders(
    "fewer than no deliveries",
    "expect = { deliveries = -1 }",
    'bus.toml:13: tests[0] "a bad order".expect: deliveries = -1: it has to be at least 0',
)

orders(
    "deliveries to nobody",
    "expect.deliveries = { biling = 1 }",
    'bus.toml:13: tests[0] "a bad order".expect.deliveries: no subscription "biling"; did you mean "billing"?',
)

orders(
    "half a delivery",
    "expect.deliveries.billing = 0.5",
    'bus.toml:13: tests[0] "a bad order".expect.deliveries: billing = 0.5: it has to be a whole number',
)

orders(
    "dead letters of nobody",
    "expect.dead = { zzz = 1 }",
    'bus.toml:13: tests[0] "a bad order".expect.dead: no subscription "zzz"; there is billing',
)

orders(
    "what nobody has received",
    "expect.received = { biling = [] }",
    'bus.toml:13: tests[0] "a bad order".expect.received: no subscription "biling"; did you mean "billing"?',
)

orders(
    "a regular expression that is none",
    'expect = { outcome = "rejected", reason = { matches = "[a-" } }',
    'bus.toml:13: tests[0] "a bad order".expect: reason = { matches = "[a-" }: matches = "[a-" is not a regular expression: '
    "unterminated character set at position 0",
)

orders(
    "an absence of five",
    "expect.received.billing = { headers = { absent = 5 } }",
    'bus.toml:13: tests[0] "a bad order".expect.received.billing: headers = { absent = 5 }: absent is true, or a '
    'list of keys, as in ["card.number"]',
)

orders(
    "a number for a reason",
    "expect = { reason = 5 }",
    'bus.toml:13: tests[0] "a bad order".expect: reason = 5: it has to be text, or a matcher, as in { contains = "part" }',
)

orders(
    "a time that passes later",
    'advance = "later"',
    'bus.toml:13: tests[0] "a bad order": advance = "later": it has to be a number of seconds, or text '
    'such as "200ms", "5s", "10m"',
)

broken(
    "a message after five fortnights",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = [
      { subject = "orders.created" },
      { subject = "orders.created", after = "5 fortnights" },
    ]
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:6: tests[0] "a bad order".publish[1]: after = "5 fortnights": unknown unit "fortnights"; '
    "there are us, ms, s, m, h, d",
)

# --- several at once -----------------------------------------------------------------------------------------------------

broken(
    "a file full of mistakes",
    """\
    version = 1
    colour = "blue"

    [[tests]]
    name = "a bad order"
    publish = { subject = "orders..created" }
    expect = { outcomes = "rejected" }

    [[every]]
    subject = "headlines.fetch"

    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop60:bill"
    workers = 0

    [[pipelines]]
    at = "both"
    filters = [
      "lgo",
      { use = "expire", ttl = "soon" },
    ]

    [filters.again]
    use = "retry"
    attemps = 5
    wait = "5 parsecs"

    [bus]
    debug = "yes"
    """,
    "bus.toml: 12 problems; nothing was loaded",
    'bus.toml:2: unknown key "colour"; there are version, bus, filters, pipelines, subscriptions, every, cron, tests',
    'bus.toml:6: tests[0] "a bad order".publish: subject = "orders..created": "orders..created" has an em'
    'pty token at position 2; tokens are joined by single dots, as in "orders.created"',
    'bus.toml:7: tests[0] "a bad order".expect: unknown key "outcomes"; did you mean "outcome"?',
    'bus.toml:9: every[0]: "interval" is missing',
    'bus.toml:15: subscriptions[0] "billing": handler = "shop60:bill": package "shop60" is not allowed; d'
    'id you mean "shop"? Otherwise pass allow_imports=["shop60"], or --allow shop60',
    'bus.toml:16: subscriptions[0] "billing": workers = 0: it has to be at least 1',
    'bus.toml:19: pipelines[0]: at = "both": it has to be publish or delivery',
    'bus.toml:21: pipelines[0].filters[0]: no filter "lgo"; did you mean "log"?',
    'bus.toml:22: pipelines[0].filters[1] "expire": ttl = "soon": it has to be a number of seconds, or te'
    'xt such as "200ms", "5s", "10m"',
    'bus.toml:27: filters.again: unknown key "attemps"; did you mean "attempts"?',
    'bus.toml:28: filters.again: wait = "5 parsecs": unknown unit "parsecs"; there are us, ms, s, m, h, d',
    'bus.toml:31: bus: debug = "yes": it has to be true or false',
    handlers=BILL,
    allow=("shop",),
    modules={"shop60": "def bill(message): ..."},
    idle=("shop60",),
)

broken(
    "two mistakes in one line",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "retry", attemps = 5, jiter = 0.5, wait = "soon" }]
    """,
    "bus.toml: 3 problems; nothing was loaded",
    'bus.toml:3: pipelines[0].filters[0] "retry": wait = "soon": it has to be a number of seconds, or text such as '
    '"200ms", "5s", "10m"',
    'bus.toml:3: pipelines[0].filters[0] "retry": unknown key "attemps"; did you mean "attempts"?',
    'bus.toml:3: pipelines[0].filters[0] "retry": unknown key "jiter"; did you mean "jitter"?',
)

# --- more of each kind ---------------------------------------------------------------------------------------------------

broken(
    "a file from Windows",
    'version = 1\r\n\r\n[bus]\r\nname = "shop"\r\npoool = 4\r\n',
    'bus.toml:5: bus: unknown key "poool"; did you mean "pool"?',
)

broken(
    "a key of two lines",
    """\
    version = 1
    [bus]
    "zzz\\nzzz" = 1
    """,
    'bus.toml:3: bus: unknown key "zzz\\nzzz"; '
    "there are transport, name, pool, dead_letters, max_message_bytes, max_hops, require, drain, strict, debug, telemetry",
)

broken(
    "a named filter with a space in its name",
    """\
    version = 1
    [filters."check order"]
    use = "retry"
    attemps = 5
    """,
    'bus.toml:4: filters."check order": unknown key "attemps"; did you mean "attempts"?',
)

broken(
    "a number for the schedules",
    """\
    version = 1
    every = 5
    """,
    "bus.toml:2: every = 5: it has to be tables, as in [[every]]",
)

broken(
    "a mailbox before its subscription",
    """\
    version = 1
    [subscriptions.mailbox]
    size = 10
    """,
    "bus.toml:2: subscriptions is one table; write [[subscriptions]], with double brackets",
)

broken(
    "a list among the filters",
    """\
    version = 1
    [[pipelines]]
    filters = ["log", ["log"]]
    """,
    'bus.toml:3: pipelines[0]: filters[1] = ["log"]: it has to be a name, as in "log", or a table with "use", "when", '
    '"branch", "switch" or "filters"',
)

broken(
    "a number for a pattern",
    """\
    version = 1
    [[pipelines]]
    match = 5
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: match = 5: it has to be a pattern, as in "orders.>", { expr = "…" } or { '
    'python = "module:name" }',
)

broken(
    "a duration that is no number",
    """\
    version = 1
    [[every]]
    interval = nan
    subject = "headlines.fetch"
    """,
    "bus.toml:3: every[0]: interval = nan: it has to be greater than 0 seconds, and finite",
)

broken(
    "schedules whose messages are old at once, wait less than no time, and are answered to many",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    ttl = 0
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    delay = -1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    reply_to = "answers.>"
    """,
    "bus.toml: 3 problems; nothing was loaded",
    "bus.toml:5: every[0]: ttl = 0: it has to be greater than 0 seconds, and finite",
    "bus.toml:9: every[1]: delay = -1: it has to be at least 0 seconds, and finite",
    'bus.toml:13: every[2]: reply_to = "answers.>": "answers.>" has the wildcard ">"; '
    "wildcards are for subscriptions, publish to a literal subject",
)

broken(
    "a named filter that uses a named filter",
    """\
    version = 1
    [filters.lines]
    use = "log"
    [filters.more-lines]
    use = "lines"
    """,
    'bus.toml:5: filters.more-lines: no filter "lines"; `pipebus filters` lists them',
)

broken(
    "a setting of a filter that is handed in",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "audit", level = 3 }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "audit": unknown key "level"; there is use',
    filters=AUDIT,
)

broken(
    "a function by its name alone for a filter",
    """\
    version = 1
    [[pipelines]]
    filters = ["shop70:audit"]
    """,
    'bus.toml:3: pipelines[0].filters[0]: no filter "shop70:audit"; write { use = "python", target = "shop70:audit" }',
    allow=("shop70",),
    modules={"shop70": "def audit(message, call_next): return call_next(message)"},
    idle=("shop70",),
)

broken(
    "a typo in one of Python's exceptions",
    """\
    version = 1
    [filters.again]
    use = "retry"
    on = "ConnectionEror"
    """,
    'bus.toml:4: filters.again: on = "ConnectionEror": Python has no exception "ConnectionEror"; '
    'did you mean "ConnectionError"?',
)

broken(
    "an exception that is never tried again",
    """\
    version = 1
    [filters.again]
    use = "retry"
    on = ["ConnectionError", "KeyboardInterrupt"]
    """,
    'bus.toml:4: filters.again: on = ["ConnectionError", "KeyboardInterrupt"]: '
    "KeyboardInterrupt ends the program or task and is never tried again; write on=Exception",
)

broken(
    "an import error of two lines",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop71:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop71:bill": cannot import shop71: RuntimeError: no database at all',
    allow=("shop71",),
    modules={"shop71": "raise RuntimeError('no database\\nat all')"},
)

broken(
    "Python's own names in an allowed package",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop72:__builtins__.eval"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop72:__builtins__.eval": '
    '"__builtins__" is Python\'s own; name a function, class or object',
    allow=("shop72",),
    modules={"shop72": "def bill(message): ..."},
)

broken(
    "another module than the allowed one",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop73.admin:drop"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "shop73.admin:drop": package "shop73" is not allow'
    'ed; did you mean "shop73.api"? Otherwise pass allow_imports=["shop73"], or --allow shop73',
    allow=("shop73.api",),
    modules={"shop73.api": "def bill(message): ...", "shop73.admin": "def drop(message): ..."},
    idle=("shop73", "shop73.admin", "shop73.api"),
)

broken(
    "a target that is a path of a file",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "./shop74.py:bill"
    """,
    'bus.toml:5: subscriptions[0] "billing": handler = "./shop74.py:bill": it has to be "module:name", '
    'as in "shop.billing:bill"',
    allow=("shop74",),
    modules={"shop74": "def bill(message): ..."},
    idle=("shop74",),
)

broken(
    "a model that is a function",
    """\
    version = 1
    [filters.check-order]
    use = "validate"
    models = { "orders.>" = "shop75:check" }
    """,
    'bus.toml:4: filters.check-order.models: "orders.>" = "shop75:check": it is not a type',
    allow=("shop75",),
    modules={"shop75": "def check(body): ..."},
)

broken(
    "expressions that are none",
    """\
    version = 1
    [[pipelines]]
    match = { expr = "body.total >" }
    filters = [
      { when = { expr = "subjekt == 'a'" }, filters = ["log"] },
      { when = { expr = "body.total > 100" }, filters = ["log"] },
      { use = "dedupe", key = { expr = "len(body)" } },
      { branch = { expr = 5 }, filters = ["log"] },
    ]
    """,
    "bus.toml: 5 problems; nothing was loaded",
    'bus.toml:3: pipelines[0]: match = { expr = "body.total >" }: not an expression: Incomplete expression',
    'bus.toml:5: pipelines[0].filters[0]: when = { expr = "subjekt == \'a\'" }: no message has "subjekt"; did you '
    'mean "subject"?',
    'bus.toml:6: pipelines[0].filters[1]: when = { expr = "body.total > 100" }: not an expression: invalid '
    'token: Parse error at column 13, token "100" (NUMBER); write numbers, true, false and null in backticks, as in'
    " `100`",
    'bus.toml:7: pipelines[0].filters[2] "dedupe": key = { expr = "len(body)" }: JMESPath has no function "len"; '
    'did you mean "length"?',
    "bus.toml:8: pipelines[0].filters[3]: branch = { expr = 5 }: expr is text",
)

broken(
    "a variable in an expression",
    """\
    version = 1
    [[pipelines]]
    match = { expr = "body.total > ${env:PIPEBUS_N26}" }
    filters = ["log"]
    """,
    'bus.toml:3: pipelines[0]: match = { expr = "body.total > ${env:PIPEBUS_N26}" }: '
    "an expression cannot contain ${…}: text from outside would become code",
    env={"PIPEBUS_N26": "`1` || `true`"},
    secret="|| `true`",
)

broken(
    "files that are none",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.fetch"
    body = [
      "${file:.}",
      "${file:picture.png}",
      "${file:}",
    ]
    """,
    "bus.toml: 3 problems; nothing was loaded",
    'bus.toml:6: every[0]: body[0] = "${file:.}": ${file:.}: {here} is not a file',
    'bus.toml:7: every[0]: body[1] = "${file:picture.png}": ${file:picture.png}: {here}/picture.png is not UTF-8 text',
    'bus.toml:8: every[0]: body[2] = "${file:}": ${file:}: no such file (looked for it at {here})',
    files={"picture.png": b"\x89PNG\xff"},
)

broken(
    "names of variables that are none",
    """\
    version = 1
    [bus]
    name = "${env:}"
    transport = "${env:MY VARIABLE}"
    require = { survives = "${env:X:=power}" }
    """,
    "bus.toml: 3 problems; nothing was loaded",
    "bus.toml:3: bus: name = \"${env:}\": ${env:}: '' is not the name of a variable",
    "bus.toml:4: bus: transport = \"${env:MY VARIABLE}\": ${env:MY VARIABLE}: 'MY VARIABLE' is not the name of a variable",
    'bus.toml:5: bus.require: survives = "${env:X:=power}": ${env:X:=power}: after the name comes :-default or :?message',
)

broken(
    "a secret for a kind of filter",
    """\
    version = 1
    [filters.check-order]
    use = "${env:PIPEBUS_S10}"
    [[pipelines]]
    filters = [{ use = "${env:PIPEBUS_S10}" }]
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:3: filters.check-order: no filter "${env:PIPEBUS_S10}"; `pipebus filters` lists them',
    'bus.toml:5: pipelines[0].filters[0] "${env:PIPEBUS_S10}": no filter "${env:PIPEBUS_S10}"; `pipebus filters` lists them',
    env={"PIPEBUS_S10": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret for a package",
    """\
    version = 1
    [filters.check-order]
    use = "validate"
    models = { "orders.>" = "${env:PIPEBUS_S11}" }
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "${env:PIPEBUS_S11}"
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:4: filters.check-order.models: "orders.>" = "${env:PIPEBUS_S11}": a name to import cannot contain ${…}: text '
    "from outside would become code",
    'bus.toml:8: subscriptions[0] "billing": handler = "${env:PIPEBUS_S11}": a name to import cannot contain ${…}: text '
    "from outside would become code",
    env={"PIPEBUS_S11": "hunter2:pw"},
    secret="hunter2",
)

broken(
    "a secret for a module of an allowed package, and for a function in it",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "shop76.${env:PIPEBUS_S12}:bill"
    [[subscriptions]]
    name = "audit"
    subject = "orders.created"
    handler = "shop76:${env:PIPEBUS_S12}"
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:5: subscriptions[0] "billing": handler = "shop76.${env:PIPEBUS_S12}:bill": a name to import cannot contain '
    "${…}: text from outside would become code",
    'bus.toml:9: subscriptions[1] "audit": handler = "shop76:${env:PIPEBUS_S12}": a name to import cannot contain ${…}: text '
    "from outside would become code",
    env={"PIPEBUS_S12": "hunter2"},
    secret="hunter2",
    allow=("shop76",),
    modules={"shop76": ""},
)

broken(
    "secrets for names",
    """\
    version = 1
    [[subscriptions]]
    name = "${env:PIPEBUS_S13}"
    subject = "orders.created"
    [[subscriptions]]
    name = "${env:PIPEBUS_S13}"
    subject = "orders.created"
    filters = ["retry"]
    [[tests]]
    name = "${env:PIPEBUS_S13}"
    publish = { subject = "orders.created" }
    expect = { outcome = "accepted" }
    [[tests]]
    name = "${env:PIPEBUS_S13}"
    publish = { subject = "orders.created" }
    expect = { by = "${env:PIPEBUS_S13}" }
    """,
    "bus.toml: 3 problems; nothing was loaded",
    'bus.toml:6: subscriptions[1] "${env:PIPEBUS_S13}": name "${env:PIPEBUS_S13}" is taken (line 3); choose another',
    'bus.toml:14: tests[1] "${env:PIPEBUS_S13}": name "${env:PIPEBUS_S13}" is taken (line 10); choose another',
    'bus.toml:16: tests[1] "${env:PIPEBUS_S13}".expect: no filter "${env:PIPEBUS_S13}"; there are Retry, retry',
    env={"PIPEBUS_S13": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret for the name of a subscription, and a filter that does not fit it",
    """\
    version = 1
    [[subscriptions]]
    name = "${env:PIPEBUS_S14}"
    subject = "orders.created"
    filters = ["retry"]
    """,
    'bus.toml:5: subscriptions[0] "${env:PIPEBUS_S14}": filter Retry (position 1 of subscriptions[0] "${env:PIPEBUS_S14}" '
    "at bus.toml:5) wraps a handler, but ${env:PIPEBUS_S14} has none; make it a Transform",
    env={"PIPEBUS_S14": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret for an exception",
    """\
    version = 1
    [filters.again]
    use = "retry"
    on = "${env:PIPEBUS_S15}"
    """,
    'bus.toml:4: filters.again: on = "${env:PIPEBUS_S15}": a name to import cannot contain ${…}: text '
    "from outside would become code",
    env={"PIPEBUS_S15": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret that a constructor tells",
    """\
    version = 1
    [filters.door]
    use = "python"
    target = "shop77:Door"
    key = "${env:PIPEBUS_S16}"
    """,
    "bus.toml:5: filters.door: cannot be made: ValueError: no door for key ${env:PIPEBUS_S16}",
    allow=("shop77",),
    modules={
        "shop77": "class Door:\n    def __init__(self, key):\n        raise ValueError(f'no door for key {key}')\n"
        "    def __call__(self, message, call_next): ..."
    },
    env={"PIPEBUS_S16": "hunter2"},
    secret="hunter2",
)

broken(
    "a secret that a constructor tells within a word",
    """\
    version = 1
    [filters.door]
    use = "python"
    target = "shop78:Door"
    key = "${env:PIPEBUS_S17}"
    """,
    "bus.toml:5: filters.door: cannot be made: ValueError: no door for key_${env:PIPEBUS_S17}",
    allow=("shop78",),
    modules={
        "shop78": "class Door:\n    def __init__(self, key):\n        raise ValueError(f'no door for key_{key}')\n"
        "    def __call__(self, message, call_next): ..."
    },
    env={"PIPEBUS_S17": "hunter2"},
    secret="hunter2",
)

broken(
    "secrets for subjects to publish to",
    """\
    version = 1
    [[every]]
    interval = "60s"
    subject = "headlines.${env:PIPEBUS_S18}"
    reply_to = "answers.${env:PIPEBUS_S18}"
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    to = "billed.${env:PIPEBUS_S18}"
    [[pipelines]]
    match = "orders.${env:PIPEBUS_S18}"
    filters = [{ when = "orders.${env:PIPEBUS_S18}", filters = ["log"] }]
    """,
    "bus.toml: 5 problems; nothing was loaded",
    'bus.toml:4: every[0]: subject = "headlines.${env:PIPEBUS_S18}": "headlines.${env:PIPEBUS_S18}" has an empty '
    'token at position 2; tokens are joined by single dots, as in "orders.created"',
    'bus.toml:5: every[0]: reply_to = "answers.${env:PIPEBUS_S18}": "answers.${env:PIPEBUS_S18}" has an empty '
    'token at position 2; tokens are joined by single dots, as in "orders.created"',
    'bus.toml:10: subscriptions[0] "billing": to = "billed.${env:PIPEBUS_S18}": "billed.${env:PIPEBUS_S18}" has '
    'an empty token at position 2; tokens are joined by single dots, as in "orders.created"',
    'bus.toml:12: pipelines[0]: match = "orders.${env:PIPEBUS_S18}": "orders.${env:PIPEBUS_S18}" has an empty '
    'token at position 2; tokens are joined by single dots, as in "orders.created"',
    'bus.toml:13: pipelines[0].filters[0]: when = "orders.${env:PIPEBUS_S18}": "orders.${env:PIPEBUS_S18}" has '
    'an empty token at position 2; tokens are joined by single dots, as in "orders.created"',
    handlers=BILL,
    env={"PIPEBUS_S18": ".hunter2"},
    secret="hunter2",
)

orders(
    "a replaced filter that drops and rejects",
    'replace.filters.check-order = { drops = "old", rejects = "bad" }',
    'bus.toml:13: tests[0] "a bad order".replace.filters.check-order: it does drops and rejects; give one of '
    'drops, rejects and raises, or "pass"',
)

orders(
    "a replaced handler that does nothing two times",
    "replace.handlers.billing = { times = 2 }",
    'bus.toml:13: tests[0] "a bad order".replace.handlers.billing: times = … is for how often it raises; add raises = "…"',
)

orders(
    "a test that expects nothing",
    "expect = {}",
    'bus.toml:13: tests[0] "a bad order".expect: nothing is expected, so the test could not fail; '
    'say what comes of it, as in outcome = "accepted"',
)

orders(
    "a number for what is expected",
    "expect = 5",
    'bus.toml:13: tests[0] "a bad order": expect = 5: it has to be a table',
)

orders(
    "a typo in an outcome of several",
    'expect = { outcome = ["acepted"] }',
    'bus.toml:13: tests[0] "a bad order".expect: outcome[0] = "acepted": '
    'it has to be accepted, dropped, rejected, unrouted or failed; did you mean "accepted"?',
)

orders(
    "a word that is not among the matchers of a received body",
    'expect.received.billing = { body = { contains = { total = { match = "[0-9]", matches = "[0-9]" } } } }',
    'bus.toml:13: tests[0] "a bad order".expect.received.billing: body = { contains = { total = { match = '
    '"[0-9]", matches = "[0-9]…}: unknown key "match"; did you mean "matches"?',
)

orders(
    "a key of a received message that is like none",
    "expect.received.billing = { zzz = 1 }",
    'bus.toml:13: tests[0] "a bad order".expect.received.billing: unknown key "zzz"; there are subject, body, headers, key, id',
)

broken(
    "a test that publishes nothing at all",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:2: tests[0] "a bad order": "publish" is missing, so nothing is tested',
)

broken(
    "a test with a header that is none, a time to live of nothing, and a key of two lines",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = [
      { subject = "orders.created", headers = { "tenant id" = "acme" } },
      { subject = "orders.created", ttl = 0 },
      { subject = "orders.created", key = "a\\nb" },
    ]
    expect = { outcome = "unrouted" }
    """,
    "bus.toml: 3 problems; nothing was loaded",
    'bus.toml:5: tests[0] "a bad order".publish[0].headers: "tenant id" = "acme": \'tenant id\' cannot be a '
    "header's name; use printable characters without spaces or colons",
    'bus.toml:6: tests[0] "a bad order".publish[1]: ttl = 0: it has to be greater than 0 seconds, and finite',
    "bus.toml:7: tests[0] \"a bad order\".publish[2]: key = \"a\\nb\": key 'a\\nb' contains '\\n'; CR, LF and NUL "
    "cannot be in it",
)

broken(
    "a number among what a test publishes",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = [
      { subject = "orders.created" },
      5,
    ]
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:6: tests[0] "a bad order": publish[1] = 5: it has to be a table, as in { subject = "orders.created" }',
)

broken(
    "a test that publishes an empty list",
    """\
    version = 1
    [[tests]]
    name = "a bad order"
    publish = []
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:4: tests[0] "a bad order": publish = []: nothing is published, so nothing is tested',
)

broken(
    "a test of schedules without time, and an outcome of what it does not publish",
    """\
    version = 1
    [[every]]
    interval = "1m"
    subject = "tick"
    [[tests]]
    name = "no time"
    expect = { published = [] }
    [[tests]]
    name = "no publish"
    advance = "1h"
    expect = { outcome = ["accepted"] }
    """,
    "bus.toml: 2 problems; nothing was loaded",
    'bus.toml:5: tests[0] "no time": "publish" is missing, and no time passes in which a schedule could publish; add advance = '
    '"1h"',
    'bus.toml:11: tests[1] "no publish".expect: outcome = ["accepted"]: it is what becomes of publish, which is missing; '
    "expect published, received or deliveries",
)

orders(
    "an expectation of deliveries that says nothing",
    "expect = { deliveries = {} }",
    'bus.toml:13: tests[0] "a bad order".expect: deliveries = {}: nothing is expected, so it cannot differ; name '
    "a subscription",
)

broken(
    "headers that are none",
    """\
    version = 1
    [[pipelines]]
    filters = [
      { use = "set_headers", headers = {} },
      { use = "set_headers", headers = { "a b" = "x" } },
      { use = "set_headers", headers = { tenant = 5 } },
      { use = "set-headers", headers = { tenant = "acme" } },
    ]
    """,
    "bus.toml: 4 problems; nothing was loaded",
    'bus.toml:4: pipelines[0].filters[0] "set_headers": headers = {}: it maps names to texts, as in {"tenant": "acme"}',
    "bus.toml:5: pipelines[0].filters[1] \"set_headers\": 'a b' cannot be a header's name; use printable "
    "characters without spaces or colons",
    'bus.toml:6: pipelines[0].filters[2] "set_headers".headers: tenant = 5: it has to be text, { expr = "…" } or { '
    'python = "module:name" }',
    'bus.toml:7: pipelines[0].filters[3] "set-headers": no filter "set-headers"; did you mean "set_headers"?',
)

broken(
    "models and exceptions that are none",
    """\
    version = 1
    [filters.check-order]
    use = "validate"
    models = { "orders.>" = "strr", "flights.>" = 5 }
    [filters.again]
    use = "retry"
    on = 5
    """,
    "bus.toml: 3 problems; nothing was loaded",
    'bus.toml:4: filters.check-order.models: "orders.>" = "strr": it has to be a type, as in "shop.models:Order" or '
    '"int"; did you mean "str"?',
    'bus.toml:4: filters.check-order.models: "flights.>" = 5: it has to be a type, as in "shop.models:Order" or "int"',
    'bus.toml:7: filters.again: on = 5: it has to be the name of an exception, as in "ConnectionError" or '
    '"shop.errors:Busy", or a list',
)

broken(
    "expressions without their tables",
    """\
    version = 1
    [[pipelines]]
    match = "headers.level != 'hot'"
    filters = [
      { use = "drop", when = "body.t > `80`" },
      { use = "dedupe", key = "body.id" },
      { when = "body.t>80", filters = [] },
    ]
    """,
    "bus.toml: 4 problems; nothing was loaded",
    "bus.toml:3: pipelines[0]: match = \"headers.level != 'hot'\": it is not a pattern of subjects; "
    "an expression is written { expr = \"headers.level != 'hot'\" }",
    'bus.toml:5: pipelines[0].filters[0] "drop": when = "body.t > `80`": it has to be "module:name", as in '
    '"shop.billing:bill"; an expression is written { expr = "body.t > `80`" }',
    'bus.toml:6: pipelines[0].filters[1] "dedupe": key = "body.id": it has to be "module:name", as in '
    '"shop.billing:bill"; an expression is written { expr = "body.id" }',
    'bus.toml:7: pipelines[0].filters[2]: when = "body.t>80": it is not a pattern of subjects; '
    'an expression is written { expr = "body.t>80" }',
)

broken(
    "an expression that calculates",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "drop", when = { expr = "body.t * `2` > `80`" } }]
    """,
    'bus.toml:3: pipelines[0].filters[0] "drop": when = { expr = "body.t * `2` > `80`" }: not an expressi'
    'on: invalid token: Parse error at column 7, token "*" (STAR)',
)

NINES = "9" * 57

broken(
    "numbers of thousands of digits",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "expire", ttl = "DIGITSs" }]
    [[subscriptions]]
    name = "a"
    subject = "a"
    mailbox = 99999999999999999999
    """.replace("DIGITS", "9" * 4301),
    "bus.toml: 2 problems; nothing was loaded",
    f'bus.toml:3: pipelines[0].filters[0] "expire": ttl = "{NINES}…": it has to be a number of seconds, or text such as '
    '"200ms", "5s", "10m"; 4,301 digits are too many',
    'bus.toml:7: subscriptions[0] "a": mailbox = 99999999999999999999: it is too large a number',
)

broken(
    "no URL",
    """\
    version = 1
    [bus]
    transport = "http://[::"
    """,
    "bus.toml:3: bus: transport = \"http://[::\": 'http://[::' is not a URL: Invalid IPv6 URL",
)

broken(
    "a time limit that a publish chain cannot keep",
    """\
    version = 1
    [[pipelines]]
    filters = [{ use = "timeout", seconds = "1s" }]
    """,
    "bus.toml:3: pipelines[0]: filter Timeout (position 1 of pipelines[0] at bus.toml:3) bounds the rest'"
    "s time, which a sync chain can only do by leaving the rest behind, and the publish chain is sync; sa"
    "y abandon = true",
)

orders(
    "a matcher deep in plain data",
    'expect = { received.billing = { headers = { token = { matches = ".+" } } } }',
    'bus.toml:13: tests[0] "a bad order".expect.received.billing: headers = { token = { matches = ".+" } }: '
    'token = { matches = ".+" } is compared as plain data; to match, write { contains = { token = { matches = … } } }, '
    "else { equals = … }",
)

orders(
    "a regular expression of too many",
    'expect = { reason = { matches = "a{99999999999999999999}" } }',
    'bus.toml:13: tests[0] "a bad order".expect: reason = { matches = "a{99999999999999999999}" }: '
    'matches = "a{99999999999999999999}" is not a regular expression: the repetition number is too large',
)

orders(
    "an exception that Python has not",
    'replace.handlers.billing = { raises = "ConectionError: down" }',
    'bus.toml:13: tests[0] "a bad order".replace.handlers.billing: raises = "ConectionError: down": '
    'Python has no exception "ConectionError"; did you mean "ConnectionError"?',
)

broken(
    "a body where a test has json",
    """\
    version = 1
    [[tests]]
    name = "a"
    publish = { subject = "a", body = 1 }
    expect = { outcome = "unrouted" }
    """,
    'bus.toml:4: tests[0] "a".publish: "body" is written json here, as in json = { id = 1 }',
)

broken(
    "two tests of one name on one line",
    """\
    version = 1
    tests = [ { name = "a", publish.subject = "a", expect.dead = 0 }, { name = "a", publish.subject = "a", expect.dead = 0 } ]
    """,
    'bus.toml:2: tests[1] "a": name "a" is taken (line 2); choose another',
)
broken(
    "a filter that counts on more attempts than its subscription allows",
    """\
    version = 1
    [[subscriptions]]
    name = "billing"
    subject = "orders.created"
    handler = "bill"
    attempts = 4
    filters = [{ use = "redeliver", attempts = 8 }]
    """,
    'bus.toml:7: subscriptions[0] "billing": filter Redeliver (position 1 of subscriptions[0] "billing" at bus.toml:7) has '
    "attempts=8, but subscription billing allows 4; give the subscription attempts=8, or the filter at most 4",
    handlers={"bill": bill},
)


# --- filters that protect --------------------------------------------------------------------------------------------------


def protects(mistake: str, use: str, settings: str, says: str, **rest: Any) -> None:
    """Write down a wrong setting of a filter; `says`: the line, and the error behind the name of the filter."""
    line, _, text = says.partition(": ")
    toml = f'version = 1\n[filters.mine]\nuse = "{use}"\n{settings}\n'
    broken(mistake, toml, f"bus.toml:{line}: filters.mine: {text}", **rest)


LONG: str = "hunter2-hunter2-hunter2"
"""A key that is long enough."""

protects(
    "a limit without a rate",
    "rate_limit",
    'per = "1s"',
    '2: "rate" is missing',
)

protects(
    "a limit of no messages",
    "rate_limit",
    "rate = 0",
    "4: rate = 0: it has to be a whole number of messages, at least 1",
)

protects(
    "a rate in words",
    "rate_limit",
    'rate = "ten"',
    '4: rate = "ten": it has to be a whole number',
)

protects(
    "half a message in a second",
    "rate_limit",
    "rate = 0.5",
    "4: rate = 0.5: it has to be a whole number",
)

protects(
    "a rate for no time",
    "rate_limit",
    'rate = 10\nper = "0s"',
    '5: per = "0s": it has to be greater than 0 seconds, and finite',
)

protects(
    "a rate for a fortnight",
    "rate_limit",
    'rate = 10\nper = "1 fortnight"',
    '5: per = "1 fortnight": unknown unit "fortnight"; there are us, ms, s, m, h, d',
)

protects(
    "a burst of nothing",
    "rate_limit",
    "rate = 10\nburst = 0",
    "5: burst = 0: it has to be a whole number of messages, at least 1",
)

protects(
    "a typo in what a limit does",
    "rate_limit",
    'rate = 10\non_limit = "rejct"',
    '5: on_limit = "rejct": it has to be wait, drop or reject; did you mean "reject"?',
)

protects(
    "a limit by an expression without its table",
    "rate_limit",
    'rate = 10\nkey = "body.sender"',
    '5: key = "body.sender": it has to be "module:name", as in "shop.billing:bill"; an expression is '
    'written { expr = "body.sender" }',
)

protects(
    "a limit by an expression that is none",
    "rate_limit",
    'rate = 10\nkey = { expr = "body.[sender" }',
    '5: key = { expr = "body.[sender" }: not an expression: Incomplete expression',
)

protects(
    "a wait before its beginning",
    "rate_limit",
    "rate = 10\nmax_wait = -1",
    "5: max_wait = -1: it has to be at least 0 seconds, and finite",
)

protects(
    "a limit with room for no key",
    "rate_limit",
    "rate = 10\nsize = 0",
    "5: size = 0: it has to be a whole number of messages, at least 1",
)

protects(
    "a limit in the words of another bus",
    "rate_limit",
    'rate = 10\ninterval = "1s"',
    '5: unknown key "interval"; there are rate, per, burst, key, on_limit, max_wait, size',
)

protects(
    "room for none at once",
    "concurrency",
    "limit = 0",
    "4: limit = 0: it has to be a whole number of messages, at least 1",
)

protects(
    "a limit that is true",
    "concurrency",
    "limit = true",
    "4: limit = true: it has to be a whole number",
)

protects(
    "no limit of what runs at once",
    "concurrency",
    "queue = 5",
    '2: "limit" is missing',
)

protects(
    "a queue of less than nothing",
    "concurrency",
    "limit = 5\nqueue = -1",
    "5: queue = -1: it has to be a whole number of messages, at least 0",
)

protects(
    "no time to wait for a slot",
    "concurrency",
    'limit = 5\ntimeout = "0s"',
    '5: timeout = "0s": it has to be greater than 0 seconds, and finite',
)

protects(
    "a wait for a slot that lasts forever",
    "concurrency",
    'limit = 5\ntimeout = "forever"',
    '5: timeout = "forever": it has to be a number of seconds, or text such as "200ms", "5s", "10m"',
)

protects(
    "slots by an async function",
    "concurrency",
    'limit = 5\nkey = "shop50:key"',
    '5: key = "shop50:key": it has to be a plain function of the message that returns something hashable; '
    "leave it out to count all messages together",
    allow=("shop50",),
    modules={"shop50": "async def key(message): ..."},
)

protects(
    "a circuit that opens before any failure",
    "circuit_breaker",
    "failures = 0",
    "4: failures = 0: it has to be a whole number of errors, at least 1",
)

protects(
    "failures in words",
    "circuit_breaker",
    'failures = "five"',
    '4: failures = "five": it has to be a whole number',
)

protects(
    "a window of no time",
    "circuit_breaker",
    "window = 0",
    "4: window = 0: it has to be greater than 0 seconds, and finite",
)

protects(
    "a typo in the time to cool down",
    "circuit_breaker",
    'cooldown = "30s"',
    '4: unknown key "cooldown"; did you mean "cool_down"?',
)

protects(
    "a time to cool down without a unit that there is",
    "circuit_breaker",
    'cool_down = "30 sec"',
    '4: cool_down = "30 sec": unknown unit "sec"; there are us, ms, s, m, h, d',
)

protects(
    "a typo in an error that opens a circuit",
    "circuit_breaker",
    'on = "ConectionError"',
    '4: on = "ConectionError": Python has no exception "ConectionError"; did you mean "ConnectionError"?',
)

protects(
    "no error that opens a circuit",
    "circuit_breaker",
    "on = []",
    "4: on = []: nothing would be counted; name an exception class, or take the filter out",
)

protects(
    "an error that ends the program and opens a circuit",
    "circuit_breaker",
    'on = ["OSError", "KeyboardInterrupt"]',
    '4: on = ["OSError", "KeyboardInterrupt"]: KeyboardInterrupt ends the program or task and is never '
    "counted; write on=Exception",
)

protects(
    "a type that is no error and opens a circuit",
    "circuit_breaker",
    'on = "int"',
    '4: on = "int": Python has no exception "int"; others are written module:name',
)

protects(
    "nothing to fall back on",
    "fallback",
    'on = "OSError"',
    "4: value=None: there is nothing to fall back on; give value=…, or subject=…",
)

protects(
    "two things to fall back on",
    "fallback",
    'value = 1\nsubject = "orders.later"',
    "4: value = 1: there are both a value and a subject; give value=…, or subject=…",
)

protects(
    "two dots in a subject to fall back on",
    "fallback",
    'subject = "orders..later"',
    '4: "orders..later" has an empty token at position 2; tokens are joined by single dots, as in "orders.created"',
)

protects(
    "a pattern to fall back on",
    "fallback",
    'subject = "orders.*"',
    '4: "orders.*" has the wildcard "*"; wildcards are for subscriptions, publish to a literal subject',
)

protects(
    "no error to fall back after",
    "fallback",
    "value = 1\non = []",
    "5: on = []: nothing would be caught; name an exception class, or take the filter out",
)

protects(
    "a number for errors to fall back after",
    "fallback",
    "value = 1\non = 5",
    '5: on = 5: it has to be the name of an exception, as in "ConnectionError" or "shop.errors:Busy", or a list',
)

protects(
    "names of no fields to hide",
    "redact",
    "names = []",
    "4: names = []: nothing to do; name the fields, as in ['email', 'card']",
)

protects(
    "one name of a field to hide, outside of a list",
    "redact",
    'names = "email"',
    '4: names = "email": it has to be a list',
)

protects(
    "a number for the name of a field to hide",
    "redact",
    'names = ["email", 5]',
    "4: names[1] = 5: it has to be text",
)

protects(
    "a mask of two lines",
    "redact",
    'names = ["email"]\nmask = "a\\nb"',
    '5: mask = "a\\nb": it may replace the value of a header; header "mask" contains \'\\n\'; CR, LF and NUL cannot be in it',
)

protects(
    "a typo in removing fields",
    "redact",
    'names = ["email"]\nremoved = true',
    '5: unknown key "removed"; did you mean "remove"?',
)

protects(
    "an answer instead of true",
    "redact",
    'names = ["email"]\nremove = "yes"',
    '5: remove = "yes": it has to be true or false',
)

protects(
    "a size of nothing",
    "size_limit",
    "bytes = 0",
    "4: bytes = 0: it has to be a whole number of bytes, at least 1",
)

protects(
    "no size",
    "size_limit",
    "",
    '2: "bytes" is missing',
)

protects(
    "a size in units that there are not",
    "size_limit",
    'bytes = "64KB"',
    '4: bytes = "64KB": unknown unit "KB"; there are B, kB, MB, GB, KiB, MiB, GiB',
)

protects(
    "a size in words",
    "size_limit",
    'bytes = "large"',
    '4: bytes = "large": it has to be a whole number of bytes, or text such as "64KiB", "1MiB"',
)

protects(
    "half a byte",
    "size_limit",
    "bytes = 0.5",
    "4: bytes = 0.5: it has to be a whole number of bytes, at least 0",
)

protects(
    "a signature without a key",
    "sign",
    'headers = ["tenant"]',
    '2: "key" is missing',
)

protects(
    "a number for a key",
    "sign",
    "key = 5",
    "4: key = 5: it has to be text",
)

protects(
    "a key that is not set",
    "sign",
    'key = "${env:PIPEBUS_K1}"',
    '4: key = "${env:PIPEBUS_K1}": PIPEBUS_K1 is not set; set it, or write ${env:PIPEBUS_K1:-default}',
    env={"PIPEBUS_K1": None},
)

protects(
    "a key of a few letters",
    "sign",
    'key = "${env:PIPEBUS_K2}"',
    "4: key: it has fewer than 16 bytes; make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`",
    env={"PIPEBUS_K2": "hunter2"},
    secret="hunter2",
)

protects(
    "an empty key",
    "sign",
    'key = ""',
    "4: key: it has fewer than 16 bytes; make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`",
)

protects(
    "one name of a header to sign, outside of a list",
    "sign",
    'key = "${env:PIPEBUS_K3}"\nheaders = "tenant"',
    '5: headers = "tenant": it has to be a list',
    env={"PIPEBUS_K3": LONG},
    secret="hunter2",
)

protects(
    "a header to sign whose name has a space",
    "sign",
    'key = "${env:PIPEBUS_K4}"\nheaders = ["tenant id"]',
    "5: headers = [\"tenant id\"]: 'tenant id' cannot be a header's name; use printable characters without spaces or colons",
    env={"PIPEBUS_K4": LONG},
    secret="hunter2",
)

protects(
    "a signature that signs itself",
    "sign",
    'key = "${env:PIPEBUS_K5}"\nheaders = ["signature"]',
    "5: headers = [\"signature\"]: a signature cannot sign itself; take 'signature' out",
    env={"PIPEBUS_K5": LONG},
    secret="hunter2",
)

protects(
    "no keys to verify with",
    "verify",
    "keys = []",
    "4: keys: it is a list of at least one key, as in [new, old]",
)

protects(
    "one key to verify with, outside of a list",
    "verify",
    'keys = "${env:PIPEBUS_K6}"',
    '4: keys = "${env:PIPEBUS_K6}": it has to be a list',
    env={"PIPEBUS_K6": LONG},
    secret="hunter2",
)

protects(
    "an old key of a few letters",
    "verify",
    'keys = ["${env:PIPEBUS_K7}", "${env:PIPEBUS_K8}"]',
    "4: keys[1]: it has fewer than 16 bytes; make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`",
    env={"PIPEBUS_K7": "0123456789abcdef0123456789abcdef", "PIPEBUS_K8": "hunter2"},
    secret="hunter2",
)

protects(
    "a key among several that is not set",
    "verify",
    'keys = ["${env:PIPEBUS_K9}", "${env:PIPEBUS_K10}"]',
    '4: keys[1] = "${env:PIPEBUS_K10}": PIPEBUS_K10 is not set; set it, or write ${env:PIPEBUS_K10:-default}',
    env={"PIPEBUS_K9": LONG, "PIPEBUS_K10": None},
    secret="hunter2",
)

protects(
    "a window in which nothing is genuine",
    "verify",
    'keys = ["0123456789abcdef0123456789abcdef"]\nwindow = "0s"',
    '5: window = "0s": it has to be greater than 0 seconds, and finite',
)

protects(
    "a window that ends soon",
    "verify",
    'keys = ["0123456789abcdef0123456789abcdef"]\nwindow = "soon"',
    '5: window = "soon": it has to be a number of seconds, or text such as "200ms", "5s", "10m"',
)

protects(
    "a memory of no messages",
    "verify",
    'keys = ["0123456789abcdef0123456789abcdef"]\nsize = 0',
    "5: size = 0: it has to be a whole number of messages, at least 1",
)

protects(
    "a memory that is durable in words",
    "verify",
    'keys = ["0123456789abcdef0123456789abcdef"]\ndurable = "true"',
    '5: durable = "true": it has to be true or false',
)
