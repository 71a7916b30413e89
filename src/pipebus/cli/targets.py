"""What commands work on: a config file, or `module:bus`; and arguments that several of them take."""

import argparse
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError, CommandFailed

if TYPE_CHECKING:
    from pipebus.bus import Bus

HELP = "a config file (TOML), or MODULE:BUS: a bus in a Python module, or a function that makes one"


def add_target(parser: argparse.ArgumentParser, name: str = "target") -> None:
    parser.add_argument(name, metavar=name.upper(), help=HELP)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow", metavar="PACKAGE[,…]", type=_packages, action="extend", default=[],
        help="packages that the file may name functions of",
    )  # fmt: skip


def _packages(text: str) -> list[str]:
    names = [one.strip() for one in text.split(",")]
    for one in names:
        if not all(part.isidentifier() for part in one.split(".")):
            raise argparse.ArgumentTypeError(f"it names packages, as in shop or shop,acme.filters; found {text!r}")
    return names


def add_timeout(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    parser.add_argument(
        "--timeout", metavar="TIME", type=_seconds, default=default, help=f"{what}: seconds, or as in 500ms ({default:g})"
    )


def _seconds(text: str) -> float:
    from pipebus.errors import PipebusError
    from pipebus.settings import seconds

    try:
        found: float = seconds(float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text) else text, "")
    except PipebusError:
        raise argparse.ArgumentTypeError(f"it is seconds, or a time as in 500ms or 2m; found {text!r}") from None
    return found


def is_module(target: str) -> bool:
    """MODULE:BUS, and not a file."""
    module, colon, _ = target.partition(":")
    return (
        bool(colon) and not target.endswith(".toml") and not os.path.exists(target) and module.replace(".", "").isidentifier()
    )


def open_bus(target: str, allow: list[str]) -> "Bus":
    """
    The bus, not started.

    Raises:
        ConfigError: the file cannot be loaded. CommandError: there is no such bus.
    """
    from pipebus.bus import Bus
    from pipebus.config.beside import look_beside

    if not is_module(target):
        if not os.path.exists(target) and all(part.isidentifier() for part in target.split(".")) and target[-5:] != ".toml":
            raise CommandError(f"{target}: no such file; a bus in a module is MODULE:BUS, as in {target}:bus")
        look_beside(os.path.dirname(os.path.abspath(target)), ".")
        return Bus.from_config(target, allow_imports=allow)
    look_beside(".")
    found: Any = _found(target)
    if not isinstance(found, Bus) and callable(found):
        found = _called(target, found)
    if not isinstance(found, Bus):
        raise CommandError(
            f"{target} is {type(found).__name__}, no Bus; name a bus, or a function without parameters that makes one"
        )
    return found


def _called(target: str, make: Any) -> Any:
    if inspect.iscoroutinefunction(make):
        raise CommandError(f"{target} is async; name a plain function that makes a bus")
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise CommandError(f"{target} fails: {type(error).__name__}: {error}") from error


def _found(target: str) -> Any:
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and module.partition(".")[0] == error.name
        remedy = "; go to the folder that it is in, or install it" if missing else ""
        raise CommandError(f"{module} cannot be imported: {type(error).__name__}: {error}{remedy}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f'{module} has no "{part}"{_meant(part, found)}') from None
    return found


def _meant(part: str, found: Any) -> str:
    from pipebus.bus import Bus
    from pipebus.config.problems import guess

    buses = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, Bus)]
    return guess(part, dir(found)) or (f"; there is {', '.join(buses)}" if buses else "")


@contextmanager
def starting() -> Iterator[None]:
    """
    Around the start of a bus.

    Raises:
        CommandFailed: a filter of it cannot start.
    """
    try:
        yield
    except Exception as error:
        for note in getattr(error, "__notes__", ()):
            if note.startswith("in the start of filter "):
                raise CommandFailed(f"{note}: {type(error).__name__}: {error}") from error
        raise
