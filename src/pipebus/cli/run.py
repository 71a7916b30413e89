"""`pipebus run`: run a bus, on the records of a file or until it is stopped."""

import argparse
import logging
import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

from pipebus.bus import signals
from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.stopping import StopReport, transport_quiet
from pipebus.cli import CommandError, log_to_stderr, summary
from pipebus.cli.arguments import add_allow, add_target, add_timeout, checked
from pipebus.cli.feed import Feed
from pipebus.cli.interrupts import Interrupted, Interrupts
from pipebus.cli.letters import Journal, Letters
from pipebus.cli.lines import Lines, following, tailing
from pipebus.cli.progress import progress, shows
from pipebus.cli.served import add_http, served
from pipebus.cli.show import as_json
from pipebus.cli.stores import inspected, keeps_letters
from pipebus.cli.summary import add_fail_on
from pipebus.cli.targets import open_bus, shown, starting
from pipebus.inputs.lines import BadInput
from pipebus.mailbox import endings
from pipebus.mailbox.claims import SLICE
from pipebus.message.patterns import Pattern
from pipebus.message.subject import check_subject

if TYPE_CHECKING:
    from pipebus.inputs.several import Several

SUMMARY = "run a bus: on the records of a file, or until it is stopped"
EXAMPLE = """\
examples:
  pipebus run pipebus.toml --allow shop                                  until Ctrl-C, SIGTERM or SIGHUP
  pipebus run pipebus.toml --allow shop --http 127.0.0.1:9000            with a page that shows it, and /readyz
  pipebus run pipebus.toml --input day.csv.gz --subject flights.raw      publish each row, drain, print a summary
  cat x.jsonl | pipebus run bus.toml --input - --subject events --json | jq .rejected
  pipebus run bus.toml --input x.jsonl --subject events --tail 'alerts.>' | jq .body
  pipebus run bus.toml --input x.jsonl --dead letters.jsonl              keep dead letters, for `pipebus dead`
  pipebus run bus.toml --input mon.jsonl --input tue.jsonl.gz --subject events --fail-on rejected,unrouted

A bus with transport = "sqlite:///bus.db" shares its work with the other processes that use that file, and keeps its dead
letters there: see `pipebus dead list sqlite:///bus.db`. Its summary counts what this process did, and what is left in the
file. When a signal stops it, it finishes the messages that it has begun to handle; the others stay in the file.

At the end of --input, it handles all waiting messages, also those that are due within --timeout, as after a failed attempt. It
goes on for as long as messages are handled, and ends when none has been for --timeout. What is left then is lost in memory, and
kept in a store.

Nobody waits for a file that is read. So where a mailbox or a disk is full, the reading waits for room, until there is some or a
signal comes. A record that cannot be read is counted, and the reading goes on.

Without --subject, each line of JSON is a message, in the form that --tail and `pipebus tail` print:
{"subject": …, "body": …, "headers": …, "key": …, "time": …}
A message that has a "time" keeps it, so ttl and expire count from then.

With --http, this computer can look at the bus in a browser. Other computers can if the address is theirs to reach, and the
environment variable PIPEBUS_HTTP_TOKEN holds a secret, which they have to know.

Exit code: 0 done; 1 something was unreadable, failed, is dead (--dead-ok: that is fine) or is left unhandled, or is what
--fail-on names; 2 it could not be done as asked; 129, 130 or 143 stopped by SIGHUP, SIGINT or SIGTERM before the end of the
input. Even then, accepted messages are handled, or stay in their store. If a handler or filter calls sys.exit(), the run ends
with that code, but with 1 instead of 0 if messages are left.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    add_allow(parser)
    parser.add_argument(
        "--input", metavar="FILE", action="append", default=[],
        help="records to publish, gzip or not; - is standard input; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("jsonl", "csv"), help="format of the records (default: by the file's name, otherwise jsonl)"
    )
    parser.add_argument(
        "--delimiter", metavar="C", type=_character, help="between the fields of CSV (default: , but a tab in *.tsv)"
    )
    parser.add_argument("--subject", metavar="S", help="publish each record on this subject, as the body of a message")
    parser.add_argument("--outcomes", action="store_true", help="print what became of each record, as one JSON object")
    parser.add_argument("--tail", metavar="PATTERN", help="print the messages on these subjects, as JSON Lines")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object, on the last line")
    parser.add_argument("--dead", metavar="FILE", help="write each dead letter into this file when it dies, as JSON Lines")
    parser.add_argument("--dead-ok", action="store_true", help="exit with 0 even if there are dead letters")
    add_fail_on(parser, "also exit with 1 if there was one of these")
    add_timeout(parser, 30.0, "how long to wait at the end; with --input, while no message is handled")
    parser.add_argument(
        "--log", action="store_true", help="show all log lines on stderr (default: errors; without --input, warnings too)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_http(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.DEBUG if args.log else logging.WARNING if not args.input else logging.ERROR)
    for option in ("subject", "format", "outcomes", "delimiter"):
        if getattr(args, option) and not args.input:
            raise CommandError(f"--{option} needs records; add --input FILE (- is standard input)")
    if args.format == "csv" and args.subject is None:
        raise CommandError(NO_SUBJECT)
    if args.subject is not None:
        checked(check_subject, args.subject)
    return Run(open_bus(args.target, args.allow), args).run()


def _character(text: str) -> str:
    if len(text.replace("\\t", "\t")) != 1:
        raise argparse.ArgumentTypeError(f"it is one character, as in ';' or '\\t'; found {text!r}")
    return text.replace("\\t", "\t")


NO_SUBJECT = "rows of a CSV file have no subject; add --subject, as in --subject flights.raw"


class Run:
    """One run of `pipebus run`."""

    def __init__(self, bus: Bus, args: argparse.Namespace) -> None:
        self.bus = bus
        self.lifecycle = engine_of(bus).lifecycle
        self.transport = engine_of(bus).transport
        self.args = args
        self.interrupts = Interrupts(self.lifecycle.hurry, self.lifecycle.enough)
        self.lines = Lines(self.interrupts.ring if args.input else lambda: bus.request_stop("the reader of the output is gone"))
        self.left: StopReport | None = None  # after the stop
        self.drains = self.lifecycle.drains(None)  # whether the stop is to handle all waiting messages
        self.elapsed = 0.0
        self.count = len(bus.subscriptions)
        self.shared = keeps_letters(bus)  # the transport does, also those of other processes
        self.died = summary.Sample()  # if so: a sentence for each dead letter of this run
        if self.shared:
            bus.observe(self._see)
        self.journal: Journal | None = None
        self.feed = Feed(
            bus, self.interrupts, args.subject, lasts=self.transport.path is not None,
            tell=self.lines.print if args.outcomes else None, says=self._say,
        )  # fmt: skip

    def run(self) -> int:
        args = self.args
        if self.shared and args.dead is not None:
            raise CommandError(
                f"the transport of {shown(args.target)} keeps dead letters itself; leave out --dead, and use "
                f"`pipebus dead list {shown(args.target)}`"
            )
        inspected(self.bus, new=True)
        if args.dead is not None:
            self.journal = self.feed.journal = Journal(self.bus, Letters(args.dead), self._say)
        broken: BadInput | None = None
        begin = time.perf_counter()
        # If stdout is for data, what handlers print goes to stderr.
        data = args.tail is not None or args.outcomes or args.json
        with (
            served(self.bus, args.http, not args.no_dry_run),
            self._tailing(),
            redirect_stdout(sys.stderr) if data else nullcontext(),
        ):
            try:
                self._records() if args.input else self._until_stopped()
            except BadInput as error:
                broken = error  # raised again below, after the records before it are handled and reported
        self.elapsed = time.perf_counter() - begin
        lost = None if self.journal is None else self.journal.close()
        if isinstance(self.lines.error, BrokenPipeError):
            raise self.lines.error
        found = summary.figures(self)
        if broken is not None and not self.feed.read:
            raise CommandError(str(broken))
        self._report(found)
        if lost is not None:
            raise lost
        if broken is not None:
            raise CommandError(str(broken))
        return self._code(found)

    def _report(self, found: dict[str, Any]) -> None:
        """Print the summary: on stderr if stdout is for data, or if nothing can be written there."""
        try:
            if self.lines.error is not None:
                raise self.lines.error
            if self.args.json:
                print(as_json(found))
            else:
                summary.show(self, found, sys.stderr if self.args.tail or self.args.outcomes else sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            summary.show(self, found, sys.stderr)
            raise

    def _say(self, text: str) -> None:
        """Print what a person should know at once, if no progress shows it."""
        if not shows(self.args.quiet):
            _warn(text)

    def _see(self, event: Any) -> None:
        from pipebus import events

        if isinstance(event, events.Died):
            self.died.add(f"dead: {event.message.subject} in {event.place}: {event.error}")

    def _tailing(self) -> AbstractContextManager[object]:
        pattern = self.args.tail
        if pattern is not None:
            checked(Pattern, pattern)
            follower = self.transport.follow()
            if follower is not None:  # without a subscription: it would stay in the store
                return following(follower, pattern, self.lines)
        return tailing(self.bus, pattern, self.lines)

    def _until_stopped(self) -> None:
        ends = "drains and stops" if self.drains else "stops, and what waits stays in the store"
        text = f"running: {self.count} subscription{'' if self.count == 1 else 's'}; Ctrl-C {ends}"
        with starting():
            self.left = signals.run(self.lifecycle, self.args.timeout, lambda: print(text, file=sys.stderr))

    def _records(self) -> None:
        from pipebus.inputs.several import Several

        args, interrupts = self.args, self.interrupts
        with interrupts, ExitStack() as stack:
            records = Several(args.input, args.format, interrupts.wait, interrupts.opening, _warn, args.delimiter)
            try:
                stack.enter_context(records)
            except Interrupted:
                return
            if args.subject is None and records.rows:
                raise CommandError(NO_SUBJECT)
            self.lifecycle.bell = interrupts  # so that a stop, as by sys.exit() in a handler, ends the reading
            with starting():
                self.bus.start()
            with progress(lambda: self._look(records), args.quiet):
                try:
                    self.feed.run(records)
                finally:
                    if "-" in args.input:
                        _leave_stdin()
                    self.lifecycle.bell = None  # the stop would ring it, and so end the wait for a full disk
                    waits = args.timeout if self._drained() else 0.0
                    drain = False if interrupts.count > 1 else None if interrupts.asked else True
                    self.left = self.lifecycle.stop(waits, drain)
                    self.drains = self.lifecycle.drains(None if interrupts.asked else True)
                    self.feed.finish()

    def _drained(self) -> bool:
        """Wait for handlers while they make progress. False: they have made none for --timeout seconds."""
        engine, lifecycle, limit = engine_of(self.bus), self.lifecycle, self.args.timeout
        for schedule in list(engine.schedules):
            schedule.end()

        def over() -> bool:
            return lifecycle.hurried or (self.interrupts.asked and not lifecycle.drains(None))

        now = engine.clock.monotonic
        before, since = -1, now()
        while not over() and not engine.claims.quiet(engine.clock, min(SLICE, limit), self._nothing_due, over):
            done = sum(one.acknowledged + (one.rare.ended if one.rare else 0) for one in engine.router.subscriptions())
            if done != before:
                before, since = done, now()
            elif now() - since >= limit:
                return False
        return True

    def _nothing_due(self) -> bool:
        """Whether the store has nothing to handle, now or within --timeout seconds, as the next attempt of a retry."""
        engine = engine_of(self.bus)
        if not transport_quiet(engine):
            return False
        names = [one.name for one in self.bus.subscriptions if one.handled]
        # Once more, because what was due later may be due now.
        return self.args.timeout < self.transport.next_due(names) and transport_quiet(engine)

    def _look(self, records: "Several") -> tuple[float | None, str]:
        """Return what is done: not what has been read, but what has been handled."""
        ledger, sender = engine_of(self.bus).ledger, engine_of(self.bus).sender
        stats = ledger.figures(sender.composer.made())
        ends = [endings.counts(one) for one in self.bus.subscriptions]
        waits = sum(one["pending"] + one["in_flight"] for one in ends)
        total = sum(one["accepted"] for one in ends)
        done = records.progress
        waits_for = self.feed.waits or (self.journal and self.journal.error)
        words = (
            f"{stats['accepted']:,} accepted, {stats['published'] - stats['accepted']:,} not accepted, "
            f"{sum(one['acknowledged'] for one in ends):,} handled"
        )
        return (
            None if done is None else done * (total - waits) / max(total, 1) if total else done,
            f"{words}; waits: {waits_for}" if waits_for else words,
        )

    def _code(self, found: dict[str, Any]) -> int:
        self.lifecycle.leave()
        if self.interrupts.number is not None:
            return 128 + self.interrupts.number
        fails = {*summary.FAILURES} - ({"dead"} if self.args.dead_ok else set()) | {*self.args.fail_on}
        return 1 if summary.failures(self, found) & fails else 0


def _warn(text: str) -> None:
    print(f"pipebus run: {text}", file=sys.stderr)


def _leave_stdin() -> None:
    """Close standard input, so that the writer of the pipe learns that nobody reads it any more."""
    try:
        null = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return
    os.dup2(null, 0)
    if null != 0:
        os.close(null)
