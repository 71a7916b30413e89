"""`pipebus check`: print everything that is wrong with config files and buses, and what is perhaps not meant."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.hints import hints, refusals
from pipebus.bus.opening import check_chains
from pipebus.cli import CommandError
from pipebus.cli.arguments import add_allow
from pipebus.cli.described import filters_in
from pipebus.cli.show import as_json, printable, styled
from pipebus.cli.stores import inspected
from pipebus.cli.targets import is_module, open_bus
from pipebus.errors import ConfigError, ConfigProblem, PipebusError

SUMMARY = "print everything that is wrong with config files and buses"
EXAMPLE = """\
examples:
  pipebus check pipebus.toml --allow shop
  pipebus check *.toml --json | jq .text       each problem as one JSON object
  pipebus check shop.app:bus                   a bus in a program

Nothing is started, and nothing is stored. Hints are about what is allowed, but perhaps not meant: two filters in an order where
one spoils the work of the other, filters that a branch or a change of the subject skips, handlers that publish to each other in
a loop.

Exit code: 0 all files are fine, 1 something is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE|MODULE:BUS", nargs="+", help="config files, or buses in programs")
    add_allow(parser)
    parser.add_argument("--json", action="store_true", help="print each problem as one JSON object")


def run(args: argparse.Namespace) -> int:
    from pipebus.config.beside import look_beside

    look_beside(".")
    wrong = 0
    for target in args.files:
        found, contents, notes = _checked(target, args.allow)
        wrong += bool(found)
        for problem in found:
            print(as_json(problem._asdict()) if args.json else problem)
        if args.json:
            continue
        for hint in notes:
            print(printable(hint))
        if found:
            noun = "problem" if len(found) == 1 else "problems"
            print(styled(f"{target}: {len(found)} {noun}; nothing would be {contents}", "red", sys.stderr), file=sys.stderr)
        else:
            print(f"{target}: {styled('fine', 'green')}: {contents}")
    return 1 if wrong else 0


def _checked(target: str, allow: list[str]) -> tuple[list[ConfigProblem], str, list[str]]:
    """Return the problems of a file or bus, what it contains (or what would not happen), and the hints."""
    from pipebus.config.beside import beside
    from pipebus.config.files import read

    tests: list[Any] = []
    try:
        if is_module(target):
            bus = open_bus(target, allow)
            check_chains(engine_of(bus))
        else:
            with beside(target):
                bus, tests = read(target, allow_imports=allow)
    except ConfigError as error:
        return list(error.problems), "loaded", []
    except PipebusError as error:
        return [ConfigProblem(target, None, "", str(error))], "started", []
    engine = engine_of(bus)
    found = [ConfigProblem(one.place.file, one.place.line, "", one.text) for one in refusals(engine)]
    contents = "started" if found else _contents(bus.describe(), len(tests))
    return found, contents, [*engine.from_file.hints, *map(str, hints(engine)), *_unusable(target, bus)]


def _unusable(target: str, bus: Bus) -> Iterator[str]:
    """Yield why the store of the bus cannot be used here, which may be another machine than the one that will run it."""
    try:
        inspected(bus, new=True)
    except CommandError as error:
        yield f"{target}: hint: `pipebus run` would refuse this here: {error}"


def _contents(described: dict, tests: int) -> str:  # type: ignore[type-arg]
    """Return how many filters, subscriptions and so on there are."""
    chains = [described["publish"], described["delivery"], *(one["filters"] for one in described["subscriptions"])]
    counts = {
        "filter": sum(1 for chain in chains for _ in filters_in(chain)),
        "subscription": len(described["subscriptions"]),
        "schedule": len(described["schedules"]),
        "test": tests,
    }
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())
