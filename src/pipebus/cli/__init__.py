"""
The command line: one file per command.

To add a command, write `cli/<name>.py` with `SUMMARY` (its line in `pipebus --help`), `EXAMPLE` (the end of its own
`--help`), `add_arguments(parser)` and `run(args) -> int`, and add its name to `COMMANDS`. Every command file is
imported to build the help, so `run` itself imports what is slow to import.

Results go to stdout; progress and errors go to stderr. One rule for exit codes: 0 it was done, and all is well; 1 it was done,
or tried, and something went wrong with messages, or with what is used meanwhile, such as a disk or a server; 2 it cannot be
done as asked: the arguments, a file or a bus must be changed first; 128 + N a signal ended it early; 141 the reader of our
output is gone.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, cast

from pipebus.errors import ConfigError, PipebusError, PipelineError, SubjectError, SubscriptionError, UnsupportedCapability

COMMANDS = (
    "run", "check", "test", "explain", "trace", "graph", "diff", "publish", "tail", "top", "dead", "subscriptions",
    "schedules", "backup", "schema", "filters", "doctor", "demo",
)  # fmt: skip


class Command(Protocol):
    """The module of a command."""

    SUMMARY: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...
    def run(self, args: argparse.Namespace, /) -> int: ...


class CommandError(Exception):
    """The command cannot be run as asked: exit code 2. The user sees only the text: the thing, what was found, what to do."""


class Parser(argparse.ArgumentParser):
    """A parser of one command, which takes options and other arguments in any order: `dead show --json FILE d1`."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)  # calls this method, once or twice
        finally:
            self._inside = False


class _Help(argparse.HelpFormatter):
    """The list of commands. argparse measures their names without the indent, so the longest would get a line of its own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(map(len, COMMANDS)) + 4


class CommandFailed(Exception):
    """The command was run as asked, and failed: exit code 1. The user sees only the text."""


MISTAKES = (CommandError, PipelineError, SubjectError, SubscriptionError, UnsupportedCapability)
"""What comes from arguments, code and settings, so that a second attempt fails too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed (`2>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")  # print what the terminal cannot show as an escape
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # takes descriptor 0, so that no other file gets it
    try:
        try:
            return _run(argv)
        finally:
            # Here, because a closed pipe cannot be caught when the interpreter exits.
            sys.stdout.flush()
    except OSError as error:
        # At exit, Python writes what is still buffered; let it write to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141  # as in `pipebus demo | head -1`
        print(f"pipebus: {error if error.filename else f'standard output: {error.strerror}'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npipebus: interrupted", file=sys.stderr)
        return 130


@contextmanager
def quits_at_once() -> Iterator[None]:
    """
    Let Ctrl-C end the program at once, as long as there is nothing to lose: while modules are imported. There, a
    KeyboardInterrupt is a long traceback, or is lost: Python ignores what is raised while it forgets the lock of a module.
    """
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _quit)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _quit:  # a module of the user's may have set another one
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(*_: object) -> None:
    os._exit(130)


def _run(argv: Sequence[str] | None) -> int:
    with quits_at_once():
        args = build_parser().parse_args(argv)
    try:
        return cast(int, args.run(args))
    except ConfigError as error:
        print(error, file=sys.stderr)  # file and line come first, where editors and terminals look for them
        return 2
    except (PipebusError, CommandError, CommandFailed) as error:  # their texts are written for people
        print(f"pipebus {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, MISTAKES) else 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipebus",
        description="Run, check and examine buses: every message passes filters before it reaches its subscribers.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS:
        command = cast(Command, import_module(f"pipebus.cli.{name}"))
        sub = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY,
            epilog=command.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def log_to_stderr(level: int) -> None:
    """Configure structlog for this program, which the library never does: lines of `level` and above, on stderr."""
    with quits_at_once():
        import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            # Not the default formatter, which prints local variables, and with them bodies and secrets.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class _Version(argparse.Action):
    """`--version`, which reads the package's metadata only when used, because that is slow."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("pipebus")
        except PackageNotFoundError:
            found = "(not installed: run from a source tree)"
        print(f"pipebus {found}")
        parser.exit()
