"""`pipebus schedules`: what a bus publishes by itself, when it did last, and when it does next."""

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.arguments import add_allow
from pipebus.cli.show import as_json, printable, table
from pipebus.cli.stores import inspected
from pipebus.cli.targets import open_bus, shown
from pipebus.errors import PipelineError
from pipebus.foreign.objects import said
from pipebus.message.slot import Slot
from pipebus.publishing.timetable import timetable_of

SUMMARY = "list what a bus publishes by itself, and when"
EXAMPLE = """\
examples:
  pipebus schedules pipebus.toml                     the schedules that a file declares, and those that its store knows
  pipebus schedules sqlite:///bus.db                 those that the store knows: with a name, and started once
  pipebus schedules sqlite:///bus.db --json | jq .next
  pipebus schedules sqlite:///bus.db --forget report     its next slot counts as its first: after a clock was far ahead

`last` is the last slot that is over: any process has published it, a filter has dropped it, or it came before the schedule was
first started. A schedule without a name ticks in each process by itself.

Exit code: 0 done; 2 the store cannot be used, or has no such schedule.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="TARGET", help="a transport's URL, as in sqlite:///bus.db; a config file, or MODULE:BUS"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines; times are seconds since 1970-01-01 UTC")
    parser.add_argument("--forget", metavar="NAME", help="forget the last slot of a schedule in the store")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = open_bus(args.target, args.allow, url=True)
    kept = _kept(bus)
    if args.forget is not None:
        if args.forget not in kept or not engine_of(bus).transport.forget_schedule(args.forget):
            there = f"there are {', '.join(kept)}" if kept else "there is none"
            raise CommandError(f'{shown(args.target)} keeps no schedule "{printable(args.forget)}"; {there}')
        print(f"forgot {printable(args.forget)}: its next slot counts as its first")
        return 0
    found = list(_schedules(bus, kept))
    if args.json:
        for one in found:
            print(as_json(one))
    elif found:
        rows = [(one["schedule"], one["when"], one["subject"], _time(one["last"]), _time(one["next"])) for one in found]
        table(("schedule", "when", "subject", "last (UTC)", "next (UTC)"), rows)
    else:
        print("no schedules")
    return 0


def _kept(bus: Bus) -> dict[str, Slot]:
    """Return the last slot of each schedule in the store."""
    transport = engine_of(bus).transport
    if not transport.capabilities.schedules or inspected(bus, new=bool(engine_of(bus).schedules)):
        return {}
    return {slot.schedule: slot for slot in transport.schedules()}


def _schedules(bus: Bus, kept: dict[str, Slot]) -> Iterator[dict[str, Any]]:
    now = time.time()
    for one in engine_of(bus).schedules:
        slot = kept.pop(one.given, None) if one.given else None
        known = one.given or "cron" in one.timetable.facts
        yield {
            "schedule": one.given,
            "when": one.timetable.text,
            "subject": said(one.subject),
            "last": slot and slot.time,
            "next": one.timetable.next(max(now, slot.time) if slot else now) if known else None,
        }
    for name, slot in kept.items():
        following = None
        with suppress(PipelineError):  # without cronsim, or written by another version
            following = timetable_of(slot.timetable).next(max(now, slot.time))
        yield {"schedule": name, "when": slot.timetable, "subject": None, "last": slot.time, "next": following}


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
