"""What commands work on: a config file, or `module:bus`."""

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError

if TYPE_CHECKING:
    from pipebus.bus import Bus

HELP = "a config file (TOML), or MODULE:BUS: a bus in a Python module, or a function that makes one"


def add_target(parser: argparse.ArgumentParser, name: str = "target") -> None:
    parser.add_argument(name, metavar=name.upper(), help=HELP)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow", metavar="PACKAGE[,…]", type=lambda text: text.split(","), action="extend", default=[],
        help="packages that the file may name functions of",
    )  # fmt: skip


def is_module(target: str) -> bool:
    """MODULE:BUS, and not a file."""
    module, colon, _ = target.partition(":")
    return (
        bool(colon) and not target.endswith(".toml") and not os.path.exists(target) and module.replace(".", "").isidentifier()
    )


def look_beside(*folders: str) -> None:
    """Modules are looked for there too, last: nothing there takes the place of a package that is installed."""
    for folder in folders:
        path = os.path.abspath(folder)
        if path not in sys.path:
            sys.path.append(path)


def open_bus(target: str, allow: list[str]) -> "Bus":
    """
    The bus, not started.

    Raises:
        ConfigError: the file cannot be loaded. CommandError: there is no such bus.
    """
    from pipebus.bus import Bus

    if not is_module(target):
        look_beside(os.path.dirname(os.path.abspath(target)), ".")
        return Bus.from_config(target, allow_imports=allow)
    look_beside(".")
    found = _found(target)
    bus: Any = found
    if not isinstance(found, Bus) and callable(found):
        try:
            bus = found()
        except Exception as error:
            raise CommandError(f"{target} fails: {type(error).__name__}: {error}") from error
    if not isinstance(bus, Bus):
        raise CommandError(
            f"{target} is {type(bus).__name__}, no Bus; name a bus, or a function without parameters that makes one"
        )
    return bus


def _found(target: str) -> Any:
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise CommandError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            from pipebus.bus import Bus
            from pipebus.config.problems import guess

            buses = (
                [name for name, value in vars(found).items() if isinstance(value, Bus)] if hasattr(found, "__dict__") else []
            )
            meant = guess(part, dir(found)) or (f"; there is {', '.join(buses)}" if buses else "")
            raise CommandError(f'{module} has no "{part}"{meant}') from None
    return found
