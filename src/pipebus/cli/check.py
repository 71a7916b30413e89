"""`pipebus check`: print everything that is wrong with config files."""

import argparse
import sys

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError
from pipebus.cli.arguments import add_allow
from pipebus.cli.described import filters_in
from pipebus.cli.show import as_json, printable, styled
from pipebus.cli.targets import is_module

SUMMARY = "print everything that is wrong with config files"
EXAMPLE = """\
examples:
  pipebus check pipebus.toml --allow shop
  pipebus check *.toml --json | jq .text       each problem as one JSON object

Exit code: 0 all files are fine, 1 something is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="config files")
    add_allow(parser)
    parser.add_argument("--json", action="store_true", help="print each problem as one JSON object")


def run(args: argparse.Namespace) -> int:
    from pipebus.config.beside import beside, look_beside
    from pipebus.config.files import read
    from pipebus.errors import ConfigError

    look_beside(".")
    wrong = 0
    for file in args.files:
        if is_module(file):
            raise CommandError(f"{file} is a program's bus, which is checked when it is made; give a config file")
        try:
            with beside(file):
                bus, tests = read(file, allow_imports=args.allow)
        except ConfigError as error:
            wrong += 1
            for problem in error.problems:
                print(as_json(problem._asdict()) if args.json else problem)
            if not args.json:
                count = len(error.problems)
                noun = "problem" if count == 1 else "problems"
                print(styled(f"{file}: {count} {noun}; nothing would be loaded", "red", sys.stderr), file=sys.stderr)
            continue
        if not args.json:
            for hint in engine_of(bus).from_file.hints:
                print(printable(hint))
            print(f"{file}: {styled('fine', 'green')}: {_contents(bus.describe(), len(tests))}")
    return 1 if wrong else 0


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
