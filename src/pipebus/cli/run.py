"""`pipebus run`: run a bus, on the records of a file or until it is stopped."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

from pipebus.bus import signals
from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, log_to_stderr, summary
from pipebus.cli.arguments import add_allow, add_target, add_timeout, checked_subject
from pipebus.cli.interrupts import Interrupted, Interrupts
from pipebus.cli.lines import Lines, following, tailing
from pipebus.cli.messages import arguments_of, outcome_json
from pipebus.cli.progress import progress
from pipebus.cli.show import as_json
from pipebus.cli.stores import check_file, file_of, keeps_letters
from pipebus.cli.targets import open_bus, shown, starting
from pipebus.errors import HeaderError, MessageError, Rejected, SubjectError, reason_of

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus
    from pipebus.bus.stopping import StopReport
    from pipebus.inputs.records import CsvRecords, JsonRecords

SUMMARY = "run a bus: on the records of a file, or until it is stopped"
EXAMPLE = """\
examples:
  pipebus run pipebus.toml --allow shop                                  until Ctrl-C, SIGTERM or SIGHUP
  pipebus run pipebus.toml --input day.csv.gz --subject flights.raw      publish each row, drain, print a summary
  cat x.jsonl | pipebus run bus.toml --input - --subject events --json | jq .rejected
  pipebus run bus.toml --input x.jsonl --subject events --tail 'alerts.>' | jq .body
  pipebus run bus.toml --input x.jsonl --dead letters.jsonl              keep dead letters, for `pipebus dead`

A bus with transport = "sqlite:///bus.db" shares its work with the other processes that use that file, and keeps its dead
letters there: see `pipebus dead list sqlite:///bus.db`. Its summary counts what this process did, and what is left in the
file. When a signal stops it, it finishes the messages that it has begun to handle; the others stay in the file. At the end of
--input, it handles all waiting messages.

Without --subject, each line of JSON is a message, in the form that --tail and `pipebus tail` print:
{"subject": …, "body": …, "headers": …, "key": …}

Exit code: 0 done; 1 there are dead letters or errors, messages that were not handled in time, or records that could not be
read or published (a rejected record is not a failure); 129, 130 or 143 stopped by SIGHUP, SIGINT or SIGTERM before the end of
the input. Even then, accepted messages are handled, or stay in their store. If a handler or filter calls sys.exit(), the run
ends with that code, but with 1 instead of 0 if messages are left.
"""

EVERY = 200  # records between two updates of the progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    add_allow(parser)
    parser.add_argument("--input", metavar="FILE", help="records to publish, gzip or not; - is standard input")
    parser.add_argument(
        "--format", choices=("jsonl", "csv"), help="format of the records (default: by the file's name, otherwise jsonl)"
    )
    parser.add_argument("--subject", metavar="S", help="publish each record on this subject, as the body of a message")
    parser.add_argument("--outcomes", action="store_true", help="print what became of each record, as one JSON object")
    parser.add_argument("--tail", metavar="PATTERN", help="print the messages on these subjects, as JSON Lines")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object, on the last line")
    parser.add_argument("--dead", metavar="FILE", help="keep dead letters in this file, as JSON Lines")
    parser.add_argument("--dead-ok", action="store_true", help="exit with 0 even if there are dead letters")
    add_timeout(parser, 30.0, "how long to wait at the end for messages to be handled")
    parser.add_argument(
        "--log", action="store_true", help="show all log lines on stderr (default: errors; without --input, warnings too)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.INFO if args.log else logging.WARNING if args.input is None else logging.ERROR)
    for option, given in (("--subject", args.subject), ("--format", args.format), ("--outcomes", args.outcomes)):
        if given and args.input is None:
            raise CommandError(f"{option} needs records; add --input FILE (- is standard input)")
    if args.format == "csv" and args.subject is None:
        raise CommandError(NO_SUBJECT)
    if args.subject is not None:
        checked_subject(args.subject)
    return Run(open_bus(args.target, args.allow), args).run()


NO_SUBJECT = "rows of a CSV file have no subject; add --subject, as in --subject flights.raw"


class Run:
    """
    One run of `pipebus run`.

    Attributes:
        read, published: Numbers of records.
        unreadable, unpublished: A reason for each record that could not be read or published.
        left: The report of the stop.
        drains: Whether the stop was to handle all waiting messages.
        shared: The transport keeps dead letters, also of other processes.
        died: If it does: a sentence for each dead letter of this run.
    """

    def __init__(self, bus: "Bus", args: argparse.Namespace) -> None:
        self.bus = bus
        self.store = file_of(bus)
        self.args = args
        self.read = 0
        self.published = 0
        self.unreadable: list[str] = []
        self.unpublished: list[str] = []
        self.interrupts = Interrupts(engine_of(bus).lifecycle.hurry, engine_of(bus).lifecycle.enough)
        self.lines = Lines(
            self.interrupts.wake if args.input is not None else lambda: bus.request_stop("the reader of the output is gone")
        )
        self.left: StopReport | None = None
        self.drains = engine_of(bus).lifecycle.drains(None)
        self.records: CsvRecords | JsonRecords
        self.elapsed = 0.0
        self.shared = keeps_letters(bus)
        self.died: list[str] = []
        if self.shared:
            bus.observe(self._see)

    def run(self) -> int:
        from pipebus.cli.letters import Letters, letter_json
        from pipebus.inputs.lines import BadInput

        args = self.args
        if self.shared and args.dead is not None:
            raise CommandError(
                f"the transport of {shown(args.target)} keeps dead letters itself; leave out --dead, and use "
                f"`pipebus dead list {shown(args.target)}`"
            )
        if self.store is not None:
            check_file(self.store, new=True)
        letters = None if args.dead is None else Letters(args.dead)
        if letters is not None:
            letters.check()
        broken: BadInput | None = None
        begin = time.perf_counter()
        # If stdout is for data, what handlers print goes to stderr.
        data = args.tail is not None or args.outcomes or args.json
        with self._tailing(), redirect_stdout(sys.stderr) if data else nullcontext():
            try:
                self._until_stopped() if args.input is None else self._records()
            except BadInput as error:
                broken = error  # raised again below, after the records before it are handled and reported
        self.elapsed = time.perf_counter() - begin
        if letters is not None:
            letters.add(map(letter_json, self.bus.dead_letters.list()))
        if self.lines.error is not None:
            raise self.lines.error
        found = summary.figures(self)
        if broken is not None and not self.read:
            raise CommandError(str(broken))
        if args.json:
            print(as_json(found))
        else:
            summary.show(self, found, sys.stderr if args.tail or args.outcomes else sys.stdout)
        if broken is not None:
            raise CommandError(str(broken))
        return self._code(found)

    def _see(self, event: Any) -> None:
        from pipebus import events

        if isinstance(event, events.Died):
            self.died.append(f"dead: {event.message.subject} in {event.place}: {event.error}")

    def _tailing(self) -> AbstractContextManager[object]:
        pattern = self.args.tail
        if self.store is not None and pattern is not None:  # without a subscription: it would stay in the file
            return following(self.store, pattern, self.lines)
        return tailing(self.bus, pattern, self.lines)

    def _until_stopped(self) -> None:
        count = len(self.bus.subscriptions) - (self.args.tail is not None and self.store is None)
        text = f"running: {count} subscription{'' if count == 1 else 's'}; Ctrl-C drains and stops"
        with starting():
            self.left = signals.run(engine_of(self.bus).lifecycle, self.args.timeout, lambda: print(text, file=sys.stderr))

    def _records(self) -> None:
        from pipebus.inputs.records import CsvRecords, open_records

        with self.interrupts, ExitStack() as stack:
            records = self.records = open_records(self.args.input, self.args.format, self.interrupts.wait)
            try:
                self.interrupts.opening(lambda: stack.enter_context(records))
            except Interrupted:
                return
            if self.args.subject is None and isinstance(records, CsvRecords):
                raise CommandError(NO_SUBJECT)
            engine_of(
                self.bus
            ).lifecycle.bell = self.interrupts  # so that a stop, as by sys.exit() in a handler, ends the reading
            with starting():
                self.bus.start()
            with progress(self.args.quiet) as show:
                try:
                    for record in self._watched(records, show):
                        self._publish(record)
                finally:
                    if self.args.input == "-":
                        _leave_stdin()
                    drain = False if self.interrupts.count > 1 else None if self.interrupts.asked else True
                    self.drains = engine_of(self.bus).lifecycle.drains(drain)
                    self.left = engine_of(self.bus).lifecycle.stop(self.args.timeout, drain)
                    engine_of(self.bus).lifecycle.bell = None

    def _watched(self, records: "CsvRecords | JsonRecords", show: Callable[[float | None, str], None] | None) -> Iterator[Any]:
        """Yield the records until the end, a signal, or the reader of the output is gone."""
        rows = iter(records)
        while not self.interrupts.asked:
            try:
                record = next(rows)
            except (StopIteration, Interrupted):
                break
            self.read += 1
            yield record
            if show is not None and self.read % EVERY == 0:
                stats = self.bus.stats()
                refused = stats["published"] - stats["accepted"]
                show(records.progress, f"{stats['accepted']:,} accepted, {refused:,} not accepted")

    def _publish(self, record: Any) -> None:
        from pipebus.inputs.records import BadRecord

        try:
            if isinstance(record, BadRecord):
                raise record
            subject, body, options = (
                (self.args.subject, record, {}) if self.args.subject is not None else arguments_of(record, self.where)
            )
        except BadRecord as bad:
            self.unreadable.append(str(bad))
            self._outcome({"outcome": "unreadable", "reason": str(bad)})
            return
        try:
            outcome = self.bus.publish(subject, body, **options)
        except Rejected as error:
            self.published += 1
            self._outcome({"outcome": "rejected", "by": error.by, "reason": "; ".join(error.reasons)})
        except SystemExit as error:
            self.published += 1
            engine_of(self.bus).interrupted(error, "a publish filter", f"record {self.where}", lost=True)
            self._outcome({"outcome": "failed", "reason": reason_of(error)})
        except Exception as error:  # of a filter, or of wrong options; go on with the next record
            text = reason_of(error)
            # These errors mean that there was no message.
            self.published += not isinstance(error, (SubjectError, HeaderError, MessageError))
            self.unpublished.append(f"{self.where}: {text}")
            self._outcome({"outcome": "failed", "reason": text})
        else:
            self.published += 1
            self._outcome(outcome_json(outcome))

    @property
    def where(self) -> str:
        """File and line of the record that was read last."""
        return f"{self.records.name}:{self.records.line}"

    def _outcome(self, outcome: dict[str, Any]) -> None:
        if self.args.outcomes:
            self.lines.print({"record": self.read} | outcome)

    def _code(self, found: dict[str, Any]) -> int:
        engine_of(self.bus).lifecycle.leave()
        if self.interrupts.number is not None:
            return 128 + self.interrupts.number
        dead = found["dead_letters"] and not self.args.dead_ok
        failed = dead or summary.left_over(self.left, self.drains) or self.unreadable or self.unpublished or found["errors"]
        return 1 if failed else 0


def _leave_stdin() -> None:
    """Close standard input, so that the writer of the pipe learns that nobody reads it any more."""
    try:
        null = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return
    os.dup2(null, 0)
    if null != 0:
        os.close(null)
