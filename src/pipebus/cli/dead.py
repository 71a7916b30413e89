"""`pipebus dead`: what could not be handled: look at it, give it back, or throw it away."""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.messages import message_told
from pipebus.cli.show import as_json, printable, table
from pipebus.cli.targets import add_allow, is_module, open_bus

if TYPE_CHECKING:
    from pipebus.bus import Bus
    from pipebus.dead_letters import DeadLetter

SUMMARY = "list, show, replay or discard dead letters"
EXAMPLE = """\
examples:
  pipebus run pipebus.toml --input x.jsonl --subject events --dead letters.jsonl    keeps them
  pipebus dead list letters.jsonl
  pipebus dead show letters.jsonl d1
  pipebus dead replay letters.jsonl d1 d2 --on pipebus.toml --allow shop            and they are gone if it goes well
  pipebus dead replay letters.jsonl --all --on pipebus.toml --allow shop
  pipebus dead discard letters.jsonl d1

A bus in memory keeps its dead letters only while it runs; so the letters of `pipebus run` are kept in a file. LETTERS may
also be MODULE:BUS, whose letters are listed and shown.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "show", "replay", "discard"))
    parser.add_argument("letters", metavar="LETTERS", help="a file that `pipebus run --dead` has written, or MODULE:BUS")
    parser.add_argument("ids", metavar="ID", nargs="*", help="which ones")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--on", metavar="TARGET", help="replay: the bus that gets them, a config file or MODULE:BUS")
    parser.add_argument("--subscription", metavar="NAME", help="list: only those of one subscription")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=30.0, help="replay: for draining (30)")
    parser.add_argument("--json", action="store_true", help="list: print JSON Lines")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    letters = _letters(args)
    if args.action == "list":
        _list([one for one in letters if args.subscription in (None, one["subscription"])], args.json)
        return 0
    if not args.ids and not args.all:
        raise CommandError(f"{args.action} which? Name their ids, or say --all")
    known = {one["id"] for one in letters}
    for id in args.ids:
        if id not in known:
            raise CommandError(f"{args.letters} has no dead letter {id!r}; there are {', '.join(sorted(known)) or 'none'}")
    chosen = [one for one in letters if args.all or one["id"] in args.ids]
    if args.action == "show":
        for one in chosen:
            _show(one)
        return 0
    if is_module(args.letters):
        raise CommandError(f"{args.action} takes a file of letters; those of {args.letters} are in that program's memory")
    others = [one for one in letters if one not in chosen]
    if args.action == "discard":
        _write(args.letters, others)
        print(f"{len(chosen)} discarded, {len(others)} left", file=sys.stderr)
        return 0
    return _replay(args, chosen, others)


def _letters(args: argparse.Namespace) -> list[dict[str, Any]]:
    if args.letters.endswith(".toml"):
        raise CommandError(
            f"{args.letters}: a bus in memory keeps dead letters only while it runs; keep them in a file, with "
            f"`pipebus run {args.letters} --dead letters.jsonl`, and name that file here"
        )
    if is_module(args.letters):
        return [told(letter) for letter in open_bus(args.letters, args.allow).dead_letters.list()]
    try:
        with open(args.letters, encoding="utf-8") as file:
            lines = [line for line in file if not line.isspace()]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{args.letters}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
            fine = all(isinstance(one[key], str) for key in ("id", "subscription", "error")) and isinstance(one["wire"], dict)
        except (ValueError, TypeError, KeyError, RecursionError):
            fine = False
        if not fine:
            raise CommandError(f"{args.letters}:{number}: no dead letter; give a file that `pipebus run --dead` has written")
        found.append(one)
    return found


def told(letter: "DeadLetter") -> dict[str, Any]:
    """A letter, JSON-safe: what a person wants to see, and under "wire" the message as it would travel."""
    from pipebus.codec import JsonCodec
    from pipebus.errors import CodecError

    try:
        wire = json.loads(JsonCodec().encode(letter.message))
    except (CodecError, ValueError) as error:
        wire = {"error": str(error)}  # such as mail for an object: it can be shown, and not be given back
    return letter.summary() | {"traceback": letter.traceback, "body": message_told(letter.message)["body"], "wire": wire}


def write(path: str, letters: "Iterable[DeadLetter]") -> None:
    """What `pipebus run --dead` does at its end: the file holds these letters and those that were in it."""
    found = [told(letter) for letter in letters]
    old = []
    if os.path.exists(path):
        old = _letters(argparse.Namespace(letters=path, allow=[]))
    taken = {one["id"] for one in old}
    for one in found:
        number = 1
        while one["id"] in taken:
            number += 1
            one["id"] = f"{one['id'].partition('-')[0]}-{number}"
        taken.add(one["id"])
    _write(path, [*old, *found])


def _write(path: str, letters: list[dict[str, Any]]) -> None:
    """All of it or nothing: a file beside it takes its place."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as file:
            for one in letters:
                file.write(as_json(one) + "\n")
        os.replace(file.name, path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror or error}") from None


def _list(letters: list[dict[str, Any]], as_lines: bool) -> None:
    if as_lines:
        for one in letters:
            print(as_json({key: value for key, value in one.items() if key not in ("traceback", "wire")}))
        return
    rows = [(one["id"], _moment(one.get("time")), one.get("subject"), one["subscription"], one["error"]) for one in letters]
    if rows:
        table(("id", "died", "subject", "in", "error"), rows)
    else:
        print("no dead letters")


def _show(one: dict[str, Any]) -> None:
    for key in ("id", "subject", "subscription", "by", "error", "attempts", "digest", "message"):
        print(f"{key:<12}  {printable(str(one.get(key)))}")
    print(f"{'died':<12}  {_moment(one.get('time'))}")
    print(f"{'body':<12}  {as_json(one.get('body'))}")
    headers = one["wire"].get("pipebusheaders")
    if headers:
        print(f"{'headers':<12}  {as_json(headers)}")
    print(f"\n{one.get('traceback', '').rstrip()}")


def _moment(time: Any) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if isinstance(time, (int, float)) else ""


def _replay(args: argparse.Namespace, chosen: list[dict[str, Any]], others: list[dict[str, Any]]) -> int:
    from pipebus.errors import PipebusError

    if args.on is None:
        raise CommandError("replay on which bus? Add --on pipebus.toml")
    bus = open_bus(args.on, args.allow)
    kept: list[dict[str, Any]] = []
    given_back = 0
    with bus:
        for one in chosen:
            try:
                _give_back(bus, one)
                given_back += 1
            except PipebusError as error:
                kept.append(one)
                print(f"{one['id']} stays: {error}", file=sys.stderr)
        bus.stop(args.timeout)
    dead = [told(letter) for letter in bus.dead_letters.list()]
    for one in dead:
        one["id"] = next((old["id"] for old in chosen if old["message"] == one["message"] and old not in kept), one["id"])
    _write(args.letters, [*others, *kept, *dead])
    print(f"{given_back - len(dead)} handled, {len(dead)} dead again, {len(kept)} not given back, {len(others)} left alone")
    return 1 if dead or kept else 0


def _give_back(bus: "Bus", one: dict[str, Any]) -> None:
    """To the subscription that failed, and to no other; what died in a publish chain is published anew."""
    from pipebus.codec import JsonCodec
    from pipebus.dead_letters import PUBLISH
    from pipebus.errors import DeadLetterError

    message = JsonCodec().decode(json.dumps(one["wire"]).encode())
    if one["subscription"] == PUBLISH:
        bus.send(message)
        return
    found = next((s for s in bus.subscriptions if s.name == one["subscription"]), None)
    if found is None:
        raise DeadLetterError(f'the bus has no subscription "{one["subscription"]}"')
    found.revive(message)
