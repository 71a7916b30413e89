"""What commands work on: a config file, `module:bus`, or a transport's URL; and arguments that several of them take."""

import argparse
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, CommandFailed

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus
    from pipebus.transports.sqlite.transport import SqliteTransport

HELP = "a config file (TOML), or MODULE:BUS: a bus in a Python module, or a function that makes one"
URL_HELP = "; or a transport's URL, as in sqlite:///bus.db"


def add_target(parser: argparse.ArgumentParser, name: str = "target", *, url: bool = False) -> None:
    parser.add_argument(name, metavar=name.upper(), help=HELP + (URL_HELP if url else ""))


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
    from pipebus.values.quantities import seconds

    try:
        found: float = seconds(float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text) else text, "")
    except PipebusError:
        raise argparse.ArgumentTypeError(f"it is seconds, or a time as in 500ms or 2m; found {text!r}") from None
    return found


def is_module(target: str) -> bool:
    """MODULE:BUS, and not a file."""
    module, colon, _ = target.partition(":")
    if is_url(target) or target.endswith(".toml") or os.path.exists(target):
        return False
    return bool(colon) and module.replace(".", "").isidentifier()


def is_url(target: str) -> bool:
    """memory:, memory:?wire=json, sqlite:///bus.db, nats://…; but not MODULE:BUS, and no file."""
    scheme, colon, rest = target.partition(":")
    return bool(colon) and not os.path.exists(target) and (rest[:1] in ("", "/", "?") or scheme in ("memory", "sqlite", "nats"))


def open_bus(target: str, allow: list[str], *, url: bool = False) -> "Bus":
    """
    The bus, not started.

    Args:
        url: The target may also be the URL of a transport that other processes use: then it is a bus without anything on it.

    Raises:
        ConfigError: the file cannot be loaded. CommandError: there is no such bus.
    """
    from pipebus.bus.bus import Bus
    from pipebus.config.beside import look_beside

    if is_url(target):
        return _at_url(target, url)
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


def shown(target: str) -> str:
    """A target for people: a URL without what stands before its @."""
    return re.sub(r"//.*@", "//***@", target, flags=re.DOTALL)


def _at_url(target: str, welcome: bool) -> "Bus":
    from pipebus.bus.bus import Bus
    from pipebus.errors import UnsupportedCapability

    if not welcome:
        raise CommandError(
            f"{shown(target)} is a transport's URL, and this is about a whole bus: name a config file or MODULE:BUS"
        )
    try:
        bus = Bus(target)
    except UnsupportedCapability as error:
        raise CommandError(str(error)) from None
    if not engine_of(bus).transport.capabilities.multi_process:
        raise CommandError(
            f"{shown(target)} lives in one process, and nothing of it is seen here: name a config file or MODULE:BUS"
        )
    return bus


def file_of(bus: "Bus") -> "SqliteTransport | None":
    """The transport, if it keeps messages in a file."""
    if engine_of(bus).transport.local:
        return None  # without an import of what is not needed
    from pipebus.transports.sqlite.transport import SqliteTransport

    return engine_of(bus).transport if isinstance(engine_of(bus).transport, SqliteTransport) else None


def keeps_letters(bus: "Bus") -> bool:
    """Its transport keeps dead letters, of this program and of others."""
    return engine_of(bus).transport.dead_letters is not None


def leave_alone(bus: "Bus") -> None:
    """Its subscriptions and schedules are left to whoever runs it."""
    for schedule in list(engine_of(bus).schedules):
        schedule.stop()
    for one in bus.subscriptions:
        engine_of(bus).end(one, "unsubscribed")


def check_file(store: "SqliteTransport", *, new: bool = False) -> None:
    """
    Look at the file before anything is made of it, or beside it.

    Args:
        new: It may also be not there yet, or empty.

    Raises:
        CommandError: it is no file of this pipebus.
    """
    from pipebus.errors import TransportError
    from pipebus.transports.sqlite.health import look_into

    path = store.options.path
    if new and not os.path.isdir(os.path.dirname(path)):
        raise CommandError(f"{path}: there is no folder {os.path.dirname(path)}; make it, or correct the path")
    if new and (not os.path.exists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0)):
        return
    try:
        look_into(path).close()
    except TransportError as error:
        raise CommandError(str(error)) from None


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
    from pipebus.bus.bus import Bus
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
