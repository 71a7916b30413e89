"""
Write the tables of what the engines promise, in the README and on the page about engines: `python docs/capabilities.py`.

A cell is what a test of the contract of transports has found on that engine: the promise is kept ("yes"), or a bus that
requires it is refused ("–"). A value in brackets is declared by the engine. The findings are in capabilities.json, and each run
of the contract compares them with its own. `python docs/capabilities.py run` writes them again; it needs nats-server.

To add a row, write a line in ROWS, and run the contract.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from made.markdown import table

from pipebus.bus.bus import Bus, engine_of
from pipebus.transports.base import Capabilities

DOCS: Final = Path(__file__).resolve().parent
FILE: Final = DOCS / "capabilities.json"
BEGIN: Final = "<!-- docs/capabilities.py writes this table -->"
END: Final = "<!-- the end of the table -->"
BETWEEN: Final = re.compile(f"({BEGIN}\n\n).*?(\n\n{END})", re.DOTALL)
RUN: Final = "PIPEBUS_FINDINGS"
"""With this variable, a run of the contract writes its findings."""


class Engine(NamedTuple):
    """
    Args:
        url: One of its kind, as it is by default.
        tests: The module that runs the contract on it.
    """

    url: str
    tests: str


ENGINES: Final = {
    "memory": Engine("memory:", "test_contract_memory.py"),
    "SQLite": Engine("sqlite:///bus.db", "test_contract_sqlite.py"),
    "JetStream": Engine("nats://localhost:4222", "test_contract_nats.py"),
    "core NATS": Engine("nats://localhost:4222?core=yes", "test_contract_core.py"),
}


class Row(NamedTuple):
    """
    Args:
        says: The promise.
        test: The test of the contract that looks whether it is kept.
        refusals: The promise is not made where the test has found one of these capabilities refused. (): each engine makes it.
        declared: A capability whose value is shown behind a "yes"; `shown` writes it.
    """

    says: str
    test: str
    refusals: tuple[str, ...] = ()
    declared: str = ""

    @property
    def capability(self) -> str:
        """The name with which a bus can require it, as code; "": every engine keeps it."""
        return f"`{name}`" if (name := self.declared or "".join(self.refusals[:1])) else ""


ROWS: Final = (
    Row("what was accepted outlives `kill -9` (and worse)", "test_exit_without_stop_loses_nothing", ("survives",), "survives"),
    Row("what a killed program had comes again", "test_deliveries_of_a_killed_process_come_again", ("survives",)),
    Row("one worker gets messages in the order of publishing", "test_one_worker_keeps_the_order", ("order",)),
    Row("several workers get those of a `key` one at a time", "test_workers_keep_the_order_of_each_key", ("order",)),
    Row("also over all processes", "test_keys_are_exclusive_in_the_group", ("exclusive_keys",)),
    Row("several buses share a subscription", "test_group_gets_each_message_once", ("groups",)),
    Row("several processes share it", "test_processes_share_without_duplicates", ("multi_process",)),
    Row("delays", "test_delayed_message_comes_in_time", ("delay",)),
    Row("a second publish of an id is recognised", "test_same_id_is_one_message", ("dedup_window",), "dedup_window"),
    Row("also after a restart", "test_same_id_is_one_message_after_a_restart", ("dedup_window",)),
    Row("older messages can be read again", "test_late_subscriber_gets_new_messages", ("replay",)),
    Row("a schedule ticks once for all processes", "test_buses_publish_each_slot_once", ("schedules",)),
    Row("dead letters outlive the program", "test_dead_letters_are_kept_where_promised", ("dead_letters",)),
    Row("what filters remember does, too", "test_what_a_filter_remembers_outlives_the_program", ("memory",)),
    Row("published in your own transaction", "test_publish_within_a_transaction_shares_its_fate", ("outbox",)),
    Row("acknowledged in your own transaction", "test_a_transaction_is_kept_whole_or_not_at_all", ("transactions",)),
    Row("any object as a body, nothing encoded", "test_objects_travel_only_where_promised", ("objects",)),
    Row("a message that is too large is refused", "test_too_large_message_is_refused", (), "max_size"),
)

TESTS: Final = frozenset(row.test for row in ROWS)
Findings = dict[str, dict[str, list[str]]]
"""For each test, on each engine: the capabilities that were refused."""


def findings() -> Findings:
    """What the contract has found."""
    found: Findings = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(test: str, engine: str, refused: list[str]) -> None:
    """Note what one test has found on one engine."""
    found = {name: engines for name, engines in findings().items() if name in TESTS}
    noted = found.get(test, {}) | {engine: refused}
    found[test] = {name: noted[name] for name in ENGINES if name in noted}
    lines = [f"  {json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def declared(engine: str) -> Capabilities:
    """The capabilities that an engine has by default."""
    return engine_of(Bus(ENGINES[engine].url)).transport.capabilities


def shown(capability: str, value: Any) -> str:
    """How the tables write what is declared."""
    if capability == "survives":
        return {"process": "nothing worse", "server_restart": "a restart of the server", "power": "a power cut"}[value]
    return "no limit" if value is None else f"{value:,.0f} {'s' if capability == 'dedup_window' else 'bytes'}"


def cell(row: Row, refused: list[str], has: Capabilities) -> str:
    if set(row.refusals) & set(refused):
        return "–"
    return f"yes ({shown(row.declared, getattr(has, row.declared))})" if row.declared else "yes"


def readme(found: Findings) -> str:
    """The table of the README: the three engines to choose among, and what they need."""
    engines = ["memory", "SQLite", "JetStream"]
    head = ["", "`Bus()`", '`Bus("sqlite:///bus.db")`', '`Bus("nats://localhost:4222")`']
    setting = [
        ["set up", "nothing", "nothing", "nats-server 2.10 or newer (2.12 for delays), extra `nats`"],
        ["reach", "one process", "the processes of one machine", "machines, programs in other languages"],
    ]
    return table(head, [*setting, *([row.says, *cells(row, engines, found)] for row in ROWS)])


def engines(found: Findings) -> str:
    """The table of the page about engines: all of them, with the names that `require` knows."""
    head = ["", "`require`", *ENGINES]
    rows = ([row.says, row.capability, *cells(row, list(ENGINES), found)] for row in ROWS)
    return table(head, rows)


def cells(row: Row, engines: list[str], found: Findings) -> list[str]:
    return [cell(row, found[row.test][engine], declared(engine)) for engine in engines]


PAGES: Final = {"README.md": readme, "docs/understand/engines.md": engines}
"""Each page with a table, by its path in the project, and what makes the table."""


def page(name: str) -> str:
    """The text of a page, with its table as the findings have it."""
    text, made = (DOCS.parent / name).read_text(encoding="utf-8"), PAGES[name](findings())
    written, count = BETWEEN.subn(lambda place: f"{place[1]}{made}{place[2]}", text)
    if count != 1:
        raise SystemExit(f"{name} has {count} places for a table; there is one, between {BEGIN} and {END}")
    return written


def run() -> int:
    """Run the tests that the rows are about, on each engine, and have them write what they find."""
    modules = [f"tests/transports/{engine.tests}" for engine in ENGINES.values()]
    chosen = ["-k", " or ".join(sorted(TESTS)), "-m", "thorough or not thorough"]
    command = [sys.executable, "-m", "pytest", "-q", *modules, *chosen]
    return subprocess.run(command, cwd=DOCS.parent, env=os.environ | {RUN: "yes"}, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:] == ["run"] and run():
        sys.exit("a test of the contract has failed, so there is nothing to write")
    for name in PAGES:
        (DOCS.parent / name).write_text(page(name), encoding="utf-8")
