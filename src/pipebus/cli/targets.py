"""The bus that a command works on: from a config file, `module:bus`, or a transport's URL."""

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli import CommandError, CommandFailed, quits_at_once
from pipebus.errors import UnsupportedCapability


def is_module(target: str) -> bool:
    """True for MODULE:BUS; False for a file or URL."""
    module, colon, _ = target.partition(":")
    if is_url(target) or target.endswith(".toml") or os.path.exists(target):
        return False
    return bool(colon) and module.replace(".", "").isidentifier()


def is_url(target: str) -> bool:
    """True for memory:, memory:?wire=json, sqlite:///bus.db, nats://…; False for MODULE:BUS or a file."""
    scheme, colon, rest = target.partition(":")
    return bool(colon) and not os.path.exists(target) and (rest[:1] in ("", "/", "?") or scheme in ("memory", "sqlite", "nats"))


def open_bus(target: str, allow: list[str], *, url: bool = False) -> Bus:
    """Return the bus, not started; with `url` also an empty one on the URL of a transport that other processes use."""
    with quits_at_once():
        return _opened(target, allow, url)


def _opened(target: str, allow: list[str], url: bool) -> Bus:
    if is_url(target):
        return _at_url(target, url)
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
            f"{target} is {type(found).__name__}, not a Bus; name a bus, or a function without parameters that makes one"
        )
    return found


def shown(target: str) -> str:
    """Return a target for people: a URL without the user and password in it."""
    return re.sub(r"//.*@", "//***@", target, flags=re.DOTALL)


def _at_url(target: str, welcome: bool) -> Bus:
    if not welcome:
        raise CommandError(
            f"{shown(target)} is a transport's URL, but this command needs a whole bus: name a config file or MODULE:BUS"
        )
    try:
        bus = Bus(target)
    except UnsupportedCapability as error:
        raise CommandError(str(error)) from None
    if not engine_of(bus).transport.capabilities.multi_process:
        raise CommandError(
            f"{shown(target)} lives in one process, and this one cannot see it: name a config file or MODULE:BUS"
        )
    return bus


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
        remedy = "; change to the folder that contains it, or install it" if missing else ""
        raise CommandError(f"{module} cannot be imported: {type(error).__name__}: {error}{remedy}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f'{module} has no "{part}"{_meant(part, found)}') from None
    return found


def _meant(part: str, found: Any) -> str:
    from pipebus.config.wording import guess

    buses = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, Bus)]
    return guess(part, dir(found)) or (f"; there is {', '.join(buses)}" if buses else "")


@contextmanager
def starting() -> Iterator[None]:
    """Turn the failed start of a filter into a `CommandFailed`."""
    try:
        yield
    except Exception as error:
        for note in getattr(error, "__notes__", ()):
            if note.startswith("in the start of filter "):
                raise CommandFailed(f"{note}: {type(error).__name__}: {error}") from error
        raise
