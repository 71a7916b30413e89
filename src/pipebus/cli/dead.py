"""`pipebus dead`: what could not be handled: look at it, give it back, or throw it away."""

import argparse
import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.letters import Letter, Letters, renumbered, told
from pipebus.cli.show import as_json, printable, table
from pipebus.cli.summary import left_over
from pipebus.cli.targets import (
    add_allow,
    add_timeout,
    check_file,
    file_of,
    is_module,
    is_url,
    keeps_letters,
    open_bus,
    shown,
    starting,
)
from pipebus.errors import DeadLetterError, reason_of

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

Delivery = tuple[str, str]
"""A message's id, and a subscription's name."""

MANY: Final = 20
"""Most ids that an error lists."""

SUMMARY = "list, show, replay or discard dead letters"
EXAMPLE = """\
examples:
  pipebus run pipebus.toml --input x.jsonl --subject events --dead letters.jsonl    keeps them
  pipebus dead list letters.jsonl
  pipebus dead show letters.jsonl d1
  pipebus dead replay letters.jsonl d1 d2 --on pipebus.toml --allow shop            and they are gone if it goes well
  pipebus dead replay letters.jsonl --all --on pipebus.toml --allow shop
  pipebus dead discard letters.jsonl d1
  pipebus dead list sqlite:///bus.db                               the transport's own, also while it is in use
  pipebus dead replay sqlite:///bus.db --all --subscription orders
  pipebus dead list nats://localhost                               those of a server

A bus in memory keeps its dead letters only while it runs; so the letters of `pipebus run` are kept in a file. LETTERS may
also be MODULE:BUS, whose letters are listed and shown.

A SQLite file and a NATS server keep dead letters themselves: name the URL, or a config file or MODULE:BUS whose transport it
is. Nothing is handled here then: replay gives a message back to its subscription there, and whoever serves that takes it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "show", "replay", "discard"))
    parser.add_argument(
        "letters", metavar="LETTERS",
        help="a file that `pipebus run --dead` has written, MODULE:BUS, or a URL as in sqlite:///bus.db",
    )  # fmt: skip
    parser.add_argument("ids", metavar="ID", nargs="*", help="which ones")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--on", metavar="TARGET", help="replay: the bus that gets them, a config file or MODULE:BUS")
    parser.add_argument("--subscription", metavar="NAME", help="only those of one subscription")
    add_timeout(parser, 30.0, "replay: for draining")
    parser.add_argument("--json", action="store_true", help="list: print JSON Lines")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = _bus(args)
    store = None if bus is None else file_of(bus)
    if store is not None:
        check_file(store)
    letters = [told(letter) for letter in bus.dead_letters.list()] if bus is not None else Letters(args.letters).read()
    if args.subscription is not None:
        names = dict.fromkeys(one["subscription"] for one in letters)
        if letters and args.subscription not in names:
            raise CommandError(f'no letter is of subscription "{printable(args.subscription)}"; there are {", ".join(names)}')
        letters = [one for one in letters if one["subscription"] == args.subscription]
    if not args.ids and not args.all and args.action != "list":
        raise CommandError(f"{args.action} which? Name their ids, or say --all")
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
        return Stored(args, bus, len(letters) - len(chosen)).act([one["id"] for one in chosen])
    if bus is not None:
        raise CommandError(
            f"{args.action} takes a file of letters; those of {shown(args.letters)} are in that program's memory"
        )
    if args.action == "discard":
        Letters(args.letters).change(lambda old: [one for one in old if one not in chosen])
        print(f"{len(chosen)} discarded, {len(letters) - len(chosen)} left")
        return 0
    if args.on is None:
        raise CommandError("replay on which bus? Add --on pipebus.toml")
    return Replay(args, chosen, len(letters) - len(chosen)).run()


def _bus(args: argparse.Namespace) -> "Bus | None":
    """Whose letters they are, not started; None: those of a file."""
    if is_module(args.letters) or is_url(args.letters):
        return open_bus(args.letters, args.allow, url=True)
    if not args.letters.endswith(".toml"):
        return None
    bus = None if _in_memory(args.letters) else open_bus(args.letters, args.allow)
    if bus is None or engine_of(bus).transport.dead_letters is None:
        raise CommandError(
            f"{args.letters}: a bus in memory keeps dead letters only while it runs; keep them in a file, with "
            f"`pipebus run {args.letters} --dead letters.jsonl`, and name that file here"
        )
    return bus


def _in_memory(path: str) -> bool:
    """A config file that says so; then nothing has to be imported to know it."""
    import tomllib

    try:
        with open(path, "rb") as file:
            found = tomllib.load(file).get("bus", {}).get("transport", "memory:")
    except (OSError, ValueError, AttributeError):
        return False  # whoever loads it says what is wrong
    return isinstance(found, str) and found.startswith("memory:")


class Stored:
    """Letters that a transport keeps, given back or thrown away there, whoever uses it at this moment."""

    def __init__(self, args: argparse.Namespace, bus: "Bus", others: int) -> None:
        self.args = args
        self.bus = bus
        self.others = others

    def act(self, ids: list[str]) -> int:
        replay = self.args.action == "replay"
        if replay and self.args.on is not None:
            raise CommandError(
                f"the letters of {shown(self.args.letters)} go back to their subscriptions there; leave out --on"
            )
        act = self.bus.dead_letters.replay if replay else self.bus.dead_letters.discard
        stays: dict[str, str] = {}
        for id in ids:
            try:
                act(id)
            except DeadLetterError as error:  # somebody else was faster, or it cannot be given back
                stays[id] = str(error)
        for why in stays.values():
            print(printable(why), file=sys.stderr)
        done = len(ids) - len(stays)
        if replay:
            print(f"{done} given back, {len(stays)} not given back, {self.others} left alone")
            if done and not self._served():
                print("no living process serves the file; start one, and it takes them", file=sys.stderr)
        else:
            print(f"{done} discarded, {self.others + len(stays)} left")
        return 1 if stays else 0

    def _served(self) -> bool:
        """Where it can be seen."""
        store = file_of(self.bus)
        if store is None:
            return True
        from pipebus.transports.sqlite.health import owners

        return any(one.lives for one in store.file.read(owners))


def _list(letters: list[Letter], as_lines: bool) -> None:
    if as_lines:
        for one in letters:
            print(as_json({key: value for key, value in one.items() if key not in ("traceback", "wire")}))
        return
    rows = [(one["id"], _moment(one.get("time")), one.get("subject"), one["subscription"], one["error"]) for one in letters]
    if rows:
        table(("id", "died", "subject", "in", "error"), rows)
    else:
        print("no dead letters")


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


class Replay:
    """
    Letters are given back to a bus, and it is watched what becomes of them.

    A letter leaves the file when its delivery has come to an end: handled, or dropped by a filter. One that dies again is
    told anew, under its id; one that is still at work when the time is over stays as it was, and may then be handled twice.
    """

    def __init__(self, args: argparse.Namespace, chosen: list[Letter], others: int) -> None:
        self.args = args
        self.chosen = chosen
        self.others = others
        self.bus = open_bus(args.on, args.allow)
        self.ended: defaultdict[Delivery, list[str]] = defaultdict(list)  # how they ended, in order
        self.dead: defaultdict[Delivery, list[str]] = defaultdict(list)  # ids of letters that died again
        self.stays: dict[str, str] = {}  # a letter's id: why
        self.interrupts = Interrupts(engine_of(self.bus).lifecycle.hurry)

    def run(self) -> int:
        from pipebus.outcomes.dead_letters import PUBLISH

        if engine_of(self.bus).transport.dead_letters is not None:
            raise CommandError(
                f"{self.args.on} keeps its dead letters itself, and these are another bus's: replay them on that one, or "
                f"publish their messages with `pipebus publish {self.args.on}`"
            )
        Letters(self.args.letters).check()
        self.bus.observe(self._see)
        with starting():
            self.bus.start()
        with self.interrupts:
            given = list(self._given())
            report = engine_of(self.bus).lifecycle.stop(self.args.timeout, drain=self.interrupts.count < 2)
        counts = Counter({"handled": 0, "dead": 0, "dropped": 0})
        for one in given:
            ends = self.ended[_delivery(one)] or (["handled"] if one["subscription"] == PUBLISH else [])
            ended = ends.pop(0) if ends else "late"
            if ended == "late":
                self.stays[one["id"]] = "not handled in time; give it more with --timeout"
            elif ended == "dead":
                self.dead[_delivery(one)].append(one["id"])
            counts[ended] += 1
        again = list(self._again())
        Letters(self.args.letters).change(lambda old: self._after(old, again))
        for id, letter in again:
            print(f"{id or 'new'} is dead{' again' if id else ''}: {printable(letter['error'])}", file=sys.stderr)
        for id, why in self.stays.items():
            print(f"{id} stays: {printable(why)}", file=sys.stderr)
        for text in left_over(report):
            print(printable(text), file=sys.stderr)
        new = sum(id is None for id, _ in again)
        print(
            f"{counts['handled']} handled, "
            + (f"{counts['dropped']} dropped, " if counts["dropped"] else "")
            + f"{counts['dead']} dead again, {len(self.stays)} not given back, {self.others} left alone"
            + (f"; {new} new dead" if new else "")
        )
        engine_of(self.bus).lifecycle.leave()
        if self.interrupts.number is not None:
            return 128 + self.interrupts.number
        return 1 if again or self.stays or left_over(report) else 0

    def _given(self) -> Iterator[Letter]:
        """Give them back; those of which we have to see what becomes."""
        for one in self.chosen:
            if self.interrupts.count:
                self.stays[one["id"]] = f"stopped by {self.interrupts.name} before its turn"
                continue
            try:
                self._give_back(one)
                yield one
            except Exception as error:  # whatever a filter says; the others are given back
                if self.ended[_delivery(one)]:
                    yield one  # it has come to an end nevertheless: it is dead again
                else:
                    self.stays[one["id"]] = reason_of(error)

    def _see(self, event: Any) -> None:
        from pipebus import events

        if isinstance(event, events.Acknowledged):
            self.ended[event.message.id, event.subscription].append("handled")
        elif isinstance(event, (events.Died, events.Discarded)):
            word = "dead" if isinstance(event, events.Died) else "dropped"
            self.ended[event.message.id, event.place].append(word)

    def _give_back(self, one: Letter) -> None:
        """To the subscription that failed, and to no other; what died in a publish chain is published anew."""
        from pipebus.message.codec import JsonCodec
        from pipebus.outcomes.dead_letters import PUBLISH

        if "error" in one["wire"]:
            raise DeadLetterError(f"its message could not be kept: {one['wire']['error']}")
        message = JsonCodec().decode(json.dumps(one["wire"]).encode())
        if one["subscription"] == PUBLISH:
            self.bus.send(message)
            return
        found = next((s for s in self.bus.subscriptions if s.name == one["subscription"]), None)
        if found is None:
            raise DeadLetterError(f'the bus has no subscription "{one["subscription"]}"')
        found.revive(message)

    def _again(self) -> Iterator[tuple[str | None, Letter]]:
        """What has died now; with the id of the letter that it was, if it was given back."""
        for letter in self.bus.dead_letters.list():
            ids = self.dead[letter.message.id, letter.subscription]
            yield ids.pop(0) if ids else None, told(letter)

    def _after(self, old: list[Letter], again: list[tuple[str | None, Letter]]) -> list[Letter]:
        known = {id: letter | {"id": id} for id, letter in again if id is not None}
        lost = {id for ids in self.dead.values() for id in ids}  # dead again, and more than the bus keeps
        # Whole letters are compared: an id may be another letter's by now.
        gone = [one for one in self.chosen if one["id"] not in self.stays and one["id"] not in lost]
        kept = [known.get(one["id"], one) if one in gone else one for one in old if one not in gone or one["id"] in known]
        return [*kept, *renumbered((letter for id, letter in again if id is None), kept)]


def _delivery(one: Letter) -> Delivery:
    return one["message"], one["subscription"]
