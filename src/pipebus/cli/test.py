"""`pipebus test`: run the [[tests]] of config files, in virtual time."""

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipebus.cli import CommandError
from pipebus.cli.arguments import add_allow
from pipebus.cli.show import as_json, printable, styled
from pipebus.cli.targets import is_module

SUMMARY = "run the [[tests]] of config files, in virtual time"
EXAMPLE = """\
examples:
  pipebus test                                 all pipebus.toml and NAME.pipebus.toml files below this folder
  pipebus test pipebus.toml --allow shop -k billing
  pipebus test -v                              also show each failed test step by step

Exit code: 0 all tests passed, 1 some failed, 2 a file cannot be loaded, or there are no tests.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", default=["."], help="config files, or folders to search (default: .)"
    )
    parser.add_argument("-k", metavar="NAME", default="", dest="name", help="run only tests whose name contains this")
    parser.add_argument("-v", "--verbose", action="store_true", help="also show each failed test step by step")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each test")
    parser.add_argument(
        "--store", choices=("memory", "temporary"), default="memory",
        help="what keeps messages: memory (the default), or a temporary SQLite file; never the transport of the config file",
    )  # fmt: skip
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    from pipebus.config.beside import look_beside
    from pipebus.testing.files.file_tests import file_tests

    logging.getLogger("pipebus").addHandler(logging.NullHandler())  # a test's differences and story show what failed
    look_beside(".")
    started = time.perf_counter()
    files = list(_files(args.paths))
    found = []
    for file in files:
        found += file_tests(file, allow_imports=args.allow, store=args.store)
    chosen = [test for test in found if args.name.lower() in test.name.lower()]
    if not files:
        raise CommandError(f"no pipebus.toml and no NAME.pipebus.toml below {' and '.join(args.paths)}; name a config file")
    if not chosen:
        what = f'none of {len(found)} tests has "{args.name}" in its name' if found else "there are no [[tests]]"
        raise CommandError(f"{what} in {', '.join(map(str, files))}")
    failed = 0
    for test in chosen:
        result = test.run()
        failed += not result.passed
        if args.json:
            line = {"name": result.name, "file": result.file, "line": result.line, "passed": result.passed}
            print(as_json(line | {"differences": result.differences}))
            continue
        word = styled("passed", "green") if result.passed else styled("FAILED", "red")
        print(f"{word}  {result.name}  ({result.file}:{result.line})")
        for difference in result.differences:
            print(f"        {printable(difference)}")
        if args.verbose and not result.passed:
            print(*(f"        | {line}" for line in result.story.splitlines()), sep="\n")
    text = f"{len(chosen) - failed} passed" + (f", {failed} failed" if failed else "")
    if len(chosen) < len(found):
        text += f", {len(found) - len(chosen)} not chosen"
    print(f"{text} in {time.perf_counter() - started:.2f} s", file=sys.stderr if args.json else sys.stdout)
    return 1 if failed else 0


def _files(paths: list[str]) -> Iterator[Path]:
    """Yield files, and the config files in folders."""
    for name in paths:
        path = Path(name)
        if is_module(name):
            raise CommandError(f"{name} is a program's bus; [[tests]] are in config files")
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*pipebus.toml")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if not hidden and (file.name == "pipebus.toml" or file.name.endswith(".pipebus.toml")):
                yield file
