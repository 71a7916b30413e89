"""`pipebus run`: a bus at work, on records of a file or on whatever its program and its schedules publish."""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.messages import TAIL, outcome_told, tailing
from pipebus.cli.show import as_json, progress, styled, table
from pipebus.cli.targets import add_allow, add_target, open_bus

if TYPE_CHECKING:
    from pipebus.bus import Bus
    from pipebus.lifecycle import StopReport
    from pipebus.records import CsvRecords, JsonRecords

SUMMARY = "run a bus: on the records of a file, or until it is stopped"
EXAMPLE = """\
examples:
  pipebus run pipebus.toml --allow shop                                  until Ctrl-C or SIGTERM, then drain
  pipebus run pipebus.toml --input day.csv.gz --subject flights.raw      publish each row, drain, sum up
  cat x.jsonl | pipebus run bus.toml --input - --subject events --json | jq .rejected
  pipebus run bus.toml --input x.jsonl --subject events --tail 'alerts.>' | jq .body
  pipebus run bus.toml --input x.jsonl --dead letters.jsonl              keep what died, for `pipebus dead`

Without --subject each line of JSON is a message: {"subject": …, "body": …, "headers": …, "key": …}, as --tail and
`pipebus tail` write them.

Exit code: 0 done, 1 something died or could not be read or published (a rejected record is no failure), 130 and 143
stopped by SIGINT and SIGTERM before the end of the input; all that was accepted is handled even then.
"""

EVERY = 200  # records between two looks
SHOWN = 5  # records that cannot be read or published, of which more than a number is told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    add_allow(parser)
    parser.add_argument("--input", metavar="FILE", help="records to publish, gzip or not; - is standard input")
    parser.add_argument("--format", choices=("jsonl", "csv"), help="of the records; left out: by the file's name, else jsonl")
    parser.add_argument("--subject", metavar="S", help="where each record is published, as the body of a message")
    parser.add_argument("--outcomes", action="store_true", help="print one JSON object for each record: what became of it")
    add_output(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object, the last line")
    parser.add_argument("--dead", metavar="FILE", help="keep dead letters in this file, as JSON Lines")
    parser.add_argument("--dead-ok", action="store_true", help="dead letters are no failure")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=30.0, help="for draining at the end (30)")
    parser.add_argument("--log", action="store_true", help="show what is logged, on stderr; else only warnings and errors are")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tail", metavar="PATTERN", help="print messages of these subjects, as JSON Lines")


def run(args: argparse.Namespace) -> int:
    from pipebus.records import BadInput

    log_to_stderr(logging.INFO if args.log else logging.WARNING if args.input is None else logging.ERROR)
    for option, given in (("--subject", args.subject), ("--format", args.format), ("--outcomes", args.outcomes)):
        if given and args.input is None:
            raise CommandError(f"{option} is about records; add --input FILE (- is standard input)")
    if args.format == "csv" and args.subject is None:
        raise CommandError("rows of a CSV file are bodies; add --subject, as in --subject flights.raw")
    bus = open_bus(args.target, args.allow)
    try:
        return Run(bus, args).run()
    except BadInput as error:
        raise CommandError(str(error)) from error


class Run:
    """One run of `pipebus run`."""

    def __init__(self, bus: "Bus", args: argparse.Namespace) -> None:
        self.bus = bus
        self.args = args
        self.read = 0
        self.unreadable: list[str] = []
        self.failed: list[str] = []
        self.interrupts = Interrupts(bus.lifecycle.hurry)
        self.started = time.perf_counter()
        self.left: StopReport | None = None

    def run(self) -> int:
        args, bus = self.args, self.bus
        with tailing(bus, args.tail) as tail:
            if args.input is None:
                count = len(bus.subscriptions) - (args.tail is not None)
                print(f"running: {count} subscription{'' if count == 1 else 's'}; Ctrl-C drains and stops", file=sys.stderr)
                self.left = bus.run(args.timeout)
            else:
                self._records()
        if args.dead is not None:
            from pipebus.cli.dead import write

            write(args.dead, bus.dead_letters.list())
        if tail.broken:
            raise BrokenPipeError
        figures = self.figures()
        if args.json:
            print(as_json(figures))
        else:
            self._show(figures, sys.stderr if args.tail or args.outcomes else sys.stdout)
        return self._code(figures)

    def _records(self) -> None:
        from pipebus.records import open_records

        with open_records(self.args.input, self.args.format) as records, self.interrupts:
            if self.args.format is None and self.args.subject is None and type(records).__name__ == "CsvRecords":
                raise CommandError("rows of a CSV file are bodies; add --subject, as in --subject flights.raw")
            self.bus.start()
            try:
                with progress(self.args.quiet) as show:
                    for record in self._watched(records, show):
                        self._publish(record)
            finally:
                self.left = self.bus.stop(self.args.timeout, drain=self.interrupts.count < 2)

    def _watched(self, records: "CsvRecords | JsonRecords", show: Callable[[float | None, str], None] | None) -> Iterator[Any]:
        """The records, until the end or a signal."""
        rows = iter(records)
        while True:
            try:
                record = self.interrupts.read(lambda: next(rows))
            except (StopIteration, Interrupted):
                break
            self.read += 1
            if show is not None and self.read % EVERY == 0:
                stats = self.bus.stats()
                refused = stats["published"] - stats["accepted"]
                show(records.progress, f"{stats['accepted']:,} accepted, {refused:,} not")
            yield record

    def _publish(self, record: Any) -> None:
        from pipebus.errors import PipebusError, Rejected
        from pipebus.records import BadRecord

        if isinstance(record, BadRecord):
            self.unreadable.append(str(record))
            self._outcome({"outcome": "unreadable", "reason": str(record)})
            return
        try:
            subject, body, options = self._message(record)
        except BadRecord as bad:
            self.unreadable.append(str(bad))
            self._outcome({"outcome": "unreadable", "reason": str(bad)})
            return
        try:
            outcome = self.bus.publish(subject, body, **options)
        except Rejected as error:
            self._outcome({"outcome": "rejected", "by": error.by, "reason": "; ".join(error.errors)})
        except Exception as error:  # a filter's own: told, and the others are published
            text = str(error) if isinstance(error, PipebusError) else f"{type(error).__name__}: {error}"
            self.failed.append(f"record {self.read}: {text}")
            self._outcome({"outcome": "failed", "reason": text})
        else:
            self._outcome(outcome_told(outcome))

    def _message(self, record: Any) -> tuple[str, Any, dict[str, Any]]:
        """(subject, body, options)"""
        from pipebus.records import BadRecord

        if self.args.subject is not None:
            return self.args.subject, record, {}
        if not isinstance(record, dict) or not isinstance(record.get("subject"), str):
            raise BadRecord(
                f'record {self.read}: no message: {{"subject": …, "body": …}} is due, or --subject for bodies alone'
            )
        options = {key: record[key] for key in ("headers", "key", "id", "ttl", "reply_to", "correlation_id") if record.get(key)}
        return record["subject"], record.get("body"), options

    def _outcome(self, told: dict[str, Any]) -> None:
        if self.args.outcomes:
            print(as_json({"record": self.read} | told))

    # --- what came of it -------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """The summary, JSON-safe."""
        stats = self.bus.stats()
        elapsed = time.perf_counter() - self.started
        return {
            "read": self.read,
            "unreadable": len(self.unreadable),
            **{key: stats[key] for key in ("published", "accepted", "rejected", "dropped", "errors", "unrouted")},
            "subscriptions": {name: one for name, one in stats["subscriptions"].items() if name != TAIL},
            "dead_letters": stats["dead_letters"],
            "interrupted": self.interrupts.name,
            "elapsed_s": round(elapsed, 3),
        }

    def _show(self, figures: dict[str, Any], file: Any) -> None:
        def say(text: str = "") -> None:
            print(text, file=file)

        refused = {word: sum(sum(reasons.values()) for reasons in figures[word].values()) for word in ("rejected", "dropped")}
        refused["failed"] = sum(figures["errors"].values())
        told = f"{figures['published']:,} published: {figures['accepted']:,} accepted"
        told += "".join(f", {count:,} {word}" for word, count in refused.items() if count)
        say(f"{figures['read']:,} read, {told}" if self.args.input is not None else told)
        rows: list[tuple[Any, ...]] = [
            (word, by, count, reason)
            for word in ("rejected", "dropped")
            for by, reasons in figures[word].items()
            for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])
        ]
        rows += [("failed", "", count, name) for name, count in figures["errors"].items()]
        if figures["unrouted"]:
            rows.append(("accepted", "", figures["unrouted"], "nobody listens"))
        if rows:
            say()
            table(("", "by", "messages", "reason"), rows, ("messages",), file)
        for title, texts in (("could not be read", self.unreadable), ("could not be published", self.failed)):
            if texts:
                say(f"\n{len(texts):,} {title}:")
                for text in texts[:SHOWN]:
                    say(f"  {text}")
        if figures["subscriptions"]:
            say()
            rows = [
                (name, one["acknowledged"], sum(one["dropped"].values()), one["dead"], one["pending"] + one["in_flight"])
                for name, one in figures["subscriptions"].items()
            ]
            table(("subscription", "handled", "dropped", "dead", "left"), rows, ("handled", "dropped", "dead", "left"), file)
        for letter in self.bus.dead_letters.list()[:SHOWN]:
            say(styled(f"\ndead: {letter.message.subject} in {letter.subscription}: {letter.error}", "red", file))
        for text in _left_over(self.left):
            say(styled(f"\n{text}", "red", file))
        rate = f", {figures['read'] / figures['elapsed_s']:,.0f} records a second" if self.read and figures["elapsed_s"] else ""
        say(f"\n{figures['elapsed_s']:.2f} s{rate}" + (f"; stopped by {self.interrupts.name}" if self.interrupts.name else ""))

    def _code(self, figures: dict[str, Any]) -> int:
        if self.interrupts.number is not None:
            return 128 + self.interrupts.number
        dead = figures["dead_letters"] and not self.args.dead_ok
        return 1 if dead or _left_over(self.left) or self.unreadable or figures["errors"] else 0


def _left_over(report: "StopReport | None") -> list[str]:
    """What a stop could not bring to an end, as sentences."""
    if report is None:
        return []
    left = ", ".join(f"{name} {count:,}" for name, count in report.left.items())
    found = [] if report.drained else [f"not all was handled in time; still waiting: {left or 'nothing'}"]
    found += [f"{name} was still at work and was left behind" for name in report.abandoned]
    return [*found, *report.errors]


# --- signals ---------------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """A signal came while a record was being read."""


class Interrupts:
    """
    SIGINT and SIGTERM while records are published: none is broken off, the reading ends, and what was accepted is handled. A
    second one does not wait for that.

    The handler raises only inside `read`, where a process waits for its input; elsewhere it leaves a note that the next `read`
    finds. So no exception comes between two steps of a publish.
    """

    def __init__(self, hurry: Callable[[], object]) -> None:
        self.count = 0
        self.number: int | None = None
        self._hurry = hurry
        self._reading = False
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str | None:
        return None if self.number is None else signal.Signals(self.number).name

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        self.count += 1
        self.number = number
        if self._reading:
            raise Interrupted
        if self.count > 1:
            self._hurry()
        if self.count > 2:
            raise KeyboardInterrupt  # it hangs, and somebody wants out

    def read(self, read: Callable[[], Any]) -> Any:
        """
        Raises:
            Interrupted: a signal came, now or before.
        """
        self._reading = True
        try:
            if self.count:
                raise Interrupted
            return read()
        finally:
            self._reading = False
