"""`pipebus doctor`: check the installation, a transport, or a bus."""

import argparse
from collections.abc import Iterator
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli import CommandError
from pipebus.cli.arguments import add_allow
from pipebus.cli.described import filters_in
from pipebus.cli.show import as_json, printable, styled
from pipebus.cli.targets import is_url, open_bus
from pipebus.errors import PipebusError
from pipebus.foreign.packages import install
from pipebus.transports.base import Finding

SUMMARY = "check the installation, a transport, or a bus, and print the findings"
EXAMPLE = """\
examples:
  pipebus doctor                                this installation
  pipebus doctor memory:                        what a transport promises
  pipebus doctor sqlite:///bus.db               and the state of its file, even in use; nothing is changed
  pipebus doctor nats://localhost               and its server, stream and consumers
  pipebus doctor pipebus.toml --allow shop      a whole bus

Exit code: 0 nothing is wrong (there may be hints), 1 something is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", nargs="?", help="a config file, MODULE:BUS, or the URL of a transport")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each finding")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    found = [*_installation()]
    if args.target is not None:
        found += _url(args.target) if is_url(args.target) else _bus(args)
    for one in found:
        if args.json:
            print(as_json(one._asdict()))
        else:
            mark = {"ok": styled("ok   ", "green"), "hint": styled("hint ", "yellow"), "wrong": styled("wrong", "red")}
            print(f"{mark[one.level]}  {one.about.removesuffix(':')}: {printable(one.text)}")
    return 1 if any(one.level == "wrong" for one in found) else 0


# --- this installation -----------------------------------------------------------------------------------------------------

PACKAGES = {
    "rich": ("cli", "tables and progress are plain text without it"),
    "cronsim": ("cron", "bus.cron has no times"),
    "jmespath": ("config", "config files cannot use { expr = … }"),
    "tomlkit": ("config", "export_config cannot write files"),
    "nats-py": ("nats", "nats:// cannot be used"),
    "opentelemetry-api": ("otel", "telemetry has nowhere to go"),
    "pytest": ("testing", "the fixtures need it, and so do [[tests]] in pytest"),
    "hypothesis": ("testing", "check_filter needs it"),
}


def _installation() -> Iterator[Finding]:
    import platform
    import sqlite3
    from importlib.metadata import PackageNotFoundError, entry_points, version

    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    for name in ("pipebus", "pydantic", "msgspec", "structlog"):
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("hint", name, "not installed as a package: run from a source tree")
    for name, (extra, without) in PACKAGES.items():
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("hint", name, f"not installed: {without}; {install(extra)}")
    yield Finding("ok", "SQLite", f"{sqlite3.sqlite_version} (of this Python)")
    for group in ("pipebus.filters", "pipebus.transports"):
        for point in entry_points(group=group):
            try:
                point.load()
            except Exception as error:
                yield Finding("wrong", f"{group} {point.name}", f"cannot be loaded: {type(error).__name__}: {error}")
            else:
                yield Finding("ok", f"{group} {point.name}", point.value)


# --- a transport -----------------------------------------------------------------------------------------------------------


def _url(url: str) -> Iterator[Finding]:
    try:
        bus = Bus(url)
    except PipebusError as error:
        yield Finding("wrong", "transport", str(error))
        return
    yield from _transport(bus)


def _transport(bus: Bus) -> Iterator[Finding]:
    url, promises = bus.url, engine_of(bus).transport.capabilities
    each = ", ".join(f"{name}={getattr(promises, name)}" for name in promises.__struct_fields__)
    about = f"transport {url}"
    yield Finding("ok", about, each)
    if promises.survives == "nothing":
        yield Finding("hint", about, "keeps messages in this process: if it crashes, waiting messages are lost")
    if not promises.multi_process:
        yield Finding("hint", about, "serves one process: other processes neither see its messages nor share its work")
    yield from engine_of(bus).transport.examine()


# --- a bus -----------------------------------------------------------------------------------------------------------------


def _bus(args: argparse.Namespace) -> Iterator[Finding]:
    try:
        bus = open_bus(args.target, args.allow)
    except (PipebusError, CommandError) as error:
        for line in str(error).splitlines():
            yield Finding("wrong", "config", line)
        return
    described = bus.describe()
    count = len(described["subscriptions"])
    yield Finding("ok", args.target, f"loads: {count} subscription{'' if count == 1 else 's'}")
    for hint in engine_of(bus).from_file.hints:
        yield Finding("hint", "config", hint.replace(": hint: ", ": ", 1))
    yield from _transport(bus)
    for one in described["subscriptions"]:
        yield from _subscription(one)
    if not any(filters_in(described["publish"])):
        yield Finding("hint", "publish chain", "is empty: messages are accepted without validation or logging")


def _subscription(one: dict[str, Any]) -> Iterator[Finding]:
    box = one["mailbox"]
    about = f"subscription {one['name']}"
    if box["overflow"] in ("drop_newest", "drop_oldest"):
        yield Finding(
            "hint", about, f"drops messages while {box['size']:,} are waiting ({box['overflow']}), and counts the dropped ones"
        )
    if box["overflow"] == "block" and box["timeout"] > 60:
        yield Finding("hint", about, f"a full mailbox makes publishers wait up to {box['timeout']:g} s")
    if box["size"] > 1_000_000:
        yield Finding("hint", about, f"may keep {box['size']:,} messages in memory")
    if one["handler"] is None:
        yield Finding(
            "hint", about, f"has no handler: the program must read it, otherwise it is full after {box['size']:,} messages"
        )
