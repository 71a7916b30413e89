"""`pipebus dead`: look at dead letters, replay them, or discard them."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final

from pipebus import events
from pipebus.bus.bus import Bus, engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.arguments import add_allow, add_timeout
from pipebus.cli.letters import Letter, Letters, letter_json
from pipebus.cli.messages import message_json
from pipebus.cli.replay import Replay
from pipebus.cli.show import as_json, printable, table
from pipebus.cli.stores import inspected, keeps_letters, only_publish
from pipebus.cli.targets import is_module, is_url, open_bus, shown, starting
from pipebus.errors import CodecError, reason_of
from pipebus.message.codec import JsonCodec
from pipebus.outcomes.dead_letters import PUBLISH

MANY: Final = 20
"""Most ids that an error lists."""

SUMMARY = "list, show, replay or discard dead letters"
EXAMPLE = """\
examples:
  pipebus run pipebus.toml --input x.jsonl --subject events --dead letters.jsonl    keep them
  pipebus dead list letters.jsonl
  pipebus dead show letters.jsonl d1
  pipebus dead replay letters.jsonl d1 d2 --on pipebus.toml --allow shop            a handled letter leaves the file
  pipebus dead replay letters.jsonl --all --on pipebus.toml --allow shop
  pipebus dead discard letters.jsonl d1
  pipebus dead list sqlite:///bus.db                               dead letters in a SQLite file, even in use
  pipebus dead replay sqlite:///bus.db --all --subscription orders
  pipebus dead list nats://localhost                               dead letters on a NATS server

A bus in memory keeps its dead letters only while it runs, so `pipebus run --dead` writes them to a file. LETTERS may also be
MODULE:BUS; its letters can be listed and shown.

A SQLite file and a NATS server keep dead letters themselves: give their URL, or a config file or MODULE:BUS that uses them.
Replay then gives a message back to its subscription there, and a process that serves the subscription handles it. A message
that died in a publish chain is published through the chain of the config file or MODULE:BUS; with a URL, there is none.

Exit code: 0 done; 1 a replayed letter is dead again, was not handled in time, or could not be given back or discarded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "show", "replay", "discard"))
    parser.add_argument(
        "letters", metavar="LETTERS",
        help="a file that `pipebus run --dead` wrote, MODULE:BUS, or a URL, as in sqlite:///bus.db",
    )  # fmt: skip
    parser.add_argument("ids", metavar="ID", nargs="*", help="ids of letters")
    parser.add_argument("--all", action="store_true", help="all letters")
    parser.add_argument("--on", metavar="TARGET", help="replay: the bus that handles them, a config file or MODULE:BUS")
    parser.add_argument("--subscription", metavar="NAME", help="only the letters of one subscription")
    add_timeout(parser, 30.0, "replay: how long to wait for messages to be handled")
    parser.add_argument("--json", action="store_true", help="list: print JSON Lines")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = _bus(args)
    with Letters(args.letters).claimed() if bus is None and args.action == "replay" else nullcontext():
        return _done(args, bus)


def _done(args: argparse.Namespace, bus: Bus | None) -> int:
    if bus is not None:
        inspected(bus)
    letters = [letter_json(letter) for letter in bus.dead_letters.list()] if bus is not None else Letters(args.letters).read()
    if args.subscription is not None:
        names = dict.fromkeys(one["subscription"] for one in letters)
        if letters and args.subscription not in names:
            why = f'no letter is from subscription "{printable(args.subscription)}"; there are {", ".join(names)}'
            if args.action != "list":
                raise CommandError(why)
            print(why, file=sys.stderr)
        letters = [one for one in letters if one["subscription"] == args.subscription]
    if not args.ids and not args.all and args.action != "list":
        raise CommandError(f"{args.action} which letters? Give their ids, or --all")
    known = {one["id"] for one in letters}
    for id in args.ids:
        if id not in known:
            there = (
                f"there are {', '.join(sorted(known)[:MANY])}{', …' if len(known) > MANY else ''}" if known else "there is none"
            )
            raise CommandError(f'{shown(args.letters)} has no dead letter "{printable(id)}"; {there}')
    chosen = [one for one in letters if args.all or not args.ids or one["id"] in args.ids]
    if args.action == "list":
        _list(chosen, args.json)
        return 0
    if args.action == "show":
        for number, one in enumerate(chosen):
            _show(one, "\n" if number else "")
        return 0
    if bus is not None and keeps_letters(bus):
        return _act(args, bus, chosen, len(letters) - len(chosen))
    if bus is not None:
        raise CommandError(
            f"{args.action} needs a file of letters; those of {shown(args.letters)} are in that program's memory"
        )
    if args.action == "discard":
        Letters(args.letters).change(lambda old: [one for one in old if one not in chosen])
        print(f"{len(chosen)} discarded, {len(letters) - len(chosen)} left")
        return 0
    if args.on is None:
        raise CommandError("replay on which bus? Add --on, as in --on pipebus.toml")
    return Replay(args, chosen, len(letters) - len(chosen)).run()


def _bus(args: argparse.Namespace) -> Bus | None:
    """Return the bus that keeps the letters, not started; None if they are in a file."""
    if is_module(args.letters) or is_url(args.letters):
        return open_bus(args.letters, args.allow, url=True)
    if not args.letters.endswith(".toml"):
        return None
    bus = None if _in_memory(args.letters) else open_bus(args.letters, args.allow)
    if bus is None or engine_of(bus).transport.dead_letters is None:
        raise CommandError(
            f"{args.letters}: a bus in memory keeps dead letters only while it runs; keep them in a file, with "
            f"`pipebus run {args.letters} --dead letters.jsonl`, and give that file here"
        )
    return bus


def _in_memory(path: str) -> bool:
    """True for a config file whose transport is memory, which can be seen without importing what the file names."""
    import tomllib

    try:
        with open(path, "rb") as file:
            found = tomllib.load(file).get("bus", {}).get("transport", "memory:")
    except (OSError, ValueError, AttributeError):
        return False  # loading the file will say what is wrong
    return isinstance(found, str) and found.startswith("memory:")


def _act(args: argparse.Namespace, bus: Bus, chosen: list[Letter], others: int) -> int:
    """Replay or discard letters that a transport keeps, even while other processes use it."""
    replay = args.action == "replay"
    if replay and args.on is not None:
        raise CommandError(f"the letters of {shown(args.letters)} go back to their own subscriptions; leave out --on")
    act = bus.dead_letters.replay if replay else bus.dead_letters.discard
    published = [one for one in chosen if replay and one["subscription"] == PUBLISH]
    stays: dict[str, str] = {}
    again: list[events.Died] = []
    with _publishing(bus, again, args.timeout) if published else nullcontext():
        for one in chosen:
            try:
                act(one["id"])
            except Exception as error:  # another process was faster, it cannot be given back, or a filter refuses it
                stays[one["id"]] = reason_of(error)
            if again:
                stays[one["id"]] = f"{one['id']} is dead again, as {again[0].letter}: {again.pop().error}"
    for id, why in stays.items():
        print(printable(why if id in why else f"{id} stays: {why}"), file=sys.stderr)
    done = len(chosen) - len(stays)
    if replay:
        print(f"{done} given back, {len(stays)} not given back, {others} left alone")
        if is_url(args.letters) and published:
            print(
                f"{len(published)} died in a publish chain, and {shown(args.letters)} has none: no filter has seen them now; "
                "with a config file or MODULE:BUS, they pass through its chain",
                file=sys.stderr,
            )
        if done and not engine_of(bus).transport.in_use():
            print("no running process serves the file; start one to handle them", file=sys.stderr)
    else:
        print(f"{done} discarded, {others + len(stays)} left")
    return 1 if stays else 0


@contextmanager
def _publishing(bus: Bus, dead: list[events.Died], timeout: float) -> Iterator[None]:
    """Run the publish chain of a bus, and nothing else of it. What dies in it meanwhile is added to `dead`."""
    only_publish(bus)
    bus.observe(lambda event: dead.append(event) if isinstance(event, events.Died) else None)
    with starting():
        bus.start()
    try:
        yield
    finally:
        engine_of(bus).lifecycle.stop(timeout, None)


def _list(letters: list[Letter], as_lines: bool) -> None:
    if as_lines:
        for one in letters:
            print(as_json({key: value for key, value in one.items() if key not in ("traceback", "wire")} | _envelope(one)))
        return
    rows = [(one["id"], _moment(one.get("time")), one.get("subject"), one["subscription"], one["error"]) for one in letters]
    if rows:
        table(("id", "died", "subject", "in", "error"), rows)
    else:
        print("no dead letters")


def _envelope(one: Letter) -> dict[str, Any]:
    """Return key, headers and time of publishing of a letter's message; `time` is when it died."""
    try:
        found = message_json(JsonCodec().decode(as_json(one["wire"], "utf-8").encode()))
    except CodecError:  # it has no wire form
        return {}
    return {"published": found["time"]} | {key: found[key] for key in ("key", "headers") if key in found}


def _show(one: Letter, before: str) -> None:
    print(end=before)
    for key in ("id", "subject", "subscription", "by", "error", "attempts", "digest", "message"):
        print(f"{key:<12}  {printable(str(one.get(key)))}")
    print(f"{'died':<12}  {_moment(one.get('time'))}")
    print(f"{'body':<12}  {one.get('body_error') or as_json(one.get('body'))}")
    headers = one["wire"].get("pipebusheaders")
    if headers:
        print(f"{'headers':<12}  {as_json(json.loads(headers))}")
    print()
    for line in str(one.get("traceback", "")).rstrip().splitlines():
        print(printable(line))


def _moment(time: Any) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (TypeError, ValueError, OverflowError, OSError):  # the file was changed by hand
        return ""
