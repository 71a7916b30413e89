"""The summary of a run: figures for scripts, tables for people."""

import argparse
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.stopping import StopReport
from pipebus.cli.show import printable, styled, table, wrapped
from pipebus.mailbox import endings

if TYPE_CHECKING:
    from pipebus.cli.run import Run

SHOWN: Final = 5
"""Most lines of a list. A last line says how many more there are."""
ROWS: Final = 20
"""Most rows of a table; `--json` has them all."""

FAILURES: Final = ("unreadable", "failed", "dead", "left")
"""What makes exit code 1 of a command by itself."""
KINDS: Final = ("rejected", "dropped", "unrouted", *FAILURES)
"""All that `--fail-on` may name."""


class Sample:
    """The first few of many texts, and how many there are."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self._count = 0

    def add(self, text: str) -> None:
        self._count += 1
        if len(self.first) < SHOWN:
            self.first.append(text)

    def __len__(self) -> int:
        return self._count


def add_fail_on(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument(
        "--fail-on", metavar="KIND[,…]", type=_kinds, action="extend", default=[], help=f"{help}: {', '.join(KINDS)}"
    )


def _kinds(text: str) -> list[str]:
    found = [one.strip() for one in text.split(",")]
    for one in found:
        if one not in KINDS:
            raise argparse.ArgumentTypeError(f"it is one or more of {','.join(KINDS)}; found {one!r}")
    return found


def figures(run: "Run") -> dict[str, Any]:
    """Return the figures, as JSON can hold them."""
    stats = run.bus.stats()
    return {
        "read": run.feed.read,
        "unreadable": len(run.feed.unreadable),
        "unpublished": len(run.feed.unpublished),
        "duplicates": run.feed.duplicates,
        **{key: stats[key] for key in ("published", "accepted", "rejected", "dropped", "errors")},
        **{key: stats[key] for key in ("unrouted", "unrouted_subjects")},
        "subscriptions": _subscriptions(run, stats),
        "filters": stats["filters"],
        "dead_letters": len(run.died) if run.shared else stats["dead_letters"],
        "interrupted": run.interrupts.name,
        "elapsed_s": round(run.elapsed, 3),
    }


def failures(run: "Run", found: dict[str, Any]) -> set[str]:
    """Return what happened, in the words of `--fail-on`."""
    dropped = found["dropped"] or any(one["dropped"] for one in found["subscriptions"].values())
    happened = {
        "rejected": found["rejected"],
        "dropped": dropped,
        "unrouted": found["unrouted"],
        "unreadable": found["unreadable"],
        "failed": found["unpublished"] or found["errors"],
        "dead": found["dead_letters"],
        "left": left_undone(run, found),
    }
    return {kind for kind, it in happened.items() if it}


def _subscriptions(run: "Run", stats: dict[str, Any]) -> dict[str, Any]:
    """Return figures by subscription. If processes share the work: what this one did, and what is left in the store."""
    if not run.shared:
        return cast(dict[str, Any], stats["subscriptions"])
    left = {name: {key: one[key] for key in ("pending", "in_flight")} for name, one in stats["subscriptions"].items()}
    return {one.name: endings.counts(one) | left[one.name] for one in run.bus.subscriptions if one.durable}


def show(run: "Run", found: dict[str, Any], file: TextIO) -> None:
    def say(text: str = "") -> None:
        print(text, file=file)

    say(_first_line(run, found))
    subscriptions, subjects = found["subscriptions"].items(), found["unrouted_subjects"].items()
    ends: list[tuple[str, str, dict[str, int]]] = [
        *((word, by, reasons) for word in ("rejected", "dropped") for by, reasons in found[word].items()),
        *(("failed", by, errors) for by, errors in engine_of(run.bus).ledger.errors.items()),
        *(("dropped", f"in {name}", one["dropped"]) for name, one in subscriptions),
        ("unrouted", "", {f"nobody listens to {subject}": count for subject, count in subjects}),
    ]
    rows: list[tuple[Any, ...]] = [
        (word, by, count, reason)
        for word, by, reasons in ends
        for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    _table(("", "by", "messages", "reason"), rows, ("messages",), file)
    for title, texts in (("could not be read", run.feed.unreadable), ("could not be published", run.feed.unpublished)):
        if texts:
            say(f"\n{len(texts):,} {title}:")
            _list(texts, file, "  ")
    if run.feed.unreadable and len(run.feed.unreadable) == run.feed.read and run.args.format is None:
        say("  (is it CSV? add --format csv)")
    rows = [
        (name, one["acknowledged"], sum(one["dropped"].values()), one["dead"], _left(run, one)) for name, one in subscriptions
    ]
    if len(rows) > ROWS:  # first those where something is left to do
        rows.sort(key=lambda row: (row[3] + row[4], row[2], row[1]), reverse=True)
    _table(("subscription", "handled", "dropped", "dead", "left"), rows, ("handled", "dropped", "dead", "left"), file)
    _table(("filter", "in", "figures"), _filters(found["filters"]), (), file)
    died = run.died if run.shared else Sample()
    for letter in () if run.shared else run.bus.dead_letters.list():
        died.add(f"dead: {letter.message.subject} in {letter.subscription}: {letter.error}")
    if died:
        say()
        _list(died, file, style="red")
    if (evicted := run.bus.dead_letters.evicted) and run.journal is None:
        say(styled(f"  and {evicted:,} earlier ones were not kept; add --dead FILE", "red", file))
    for text in left_undone(run, found):
        say(styled("\n" + "\n".join(wrapped(printable(text), "  ")), "red", file))
    rate = f", {found['read'] / run.elapsed:,.0f} records a second" if run.feed.read else ""
    say(f"\n{run.elapsed:.2f} s{rate}" + (f"; stopped by {run.interrupts.name}" if run.interrupts.name else ""))


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]], numbers: tuple[str, ...], file: TextIO) -> None:
    if rows:
        print(file=file)
        table(heads, rows[:ROWS], numbers, file)
    if len(rows) > ROWS:
        print(f"… and {len(rows) - ROWS:,} more; --json has them all", file=file)


def _filters(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return what filters have counted. A state says nothing any more: the run is over."""
    return [
        (name, place, ", ".join(counts))
        for place, filters in found.items()
        for name, figures in filters.items()
        if (counts := [f"{figure} {number:,}" for figure, number in figures.items() if not isinstance(number, str) and number])
    ]


def _first_line(run: "Run", found: dict[str, Any]) -> str:
    refused = {word: sum(sum(reasons.values()) for reasons in found[word].values()) for word in ("rejected", "dropped")}
    refused["failed"] = sum(found["errors"].values())
    others = found["published"] - run.feed.published
    by = f" ({others:,} by {_publishers(run.bus)})" if run.args.input and others else ""
    text = f"{found['published']:,} published{by}: {found['accepted']:,} accepted"
    if run.feed.duplicates:
        text += f" ({run.feed.duplicates:,} under an id that is known)"
    text += "".join(f", {count:,} {word}" for word, count in refused.items() if count)
    return f"{found['read']:,} read, {text}" if run.args.input else text


def _publishers(bus: Bus) -> str:
    """Return who else publishes, besides the command itself."""
    return "handlers and schedules" if engine_of(bus).schedules else "handlers"


def _list(texts: Sample, file: TextIO, indent: str = "", style: str | None = None) -> None:
    for text in texts.first:
        # A line that begins with a place is not wrapped, because editors and `grep` look for it.
        for line in [f"{indent}{printable(text)}"] if style is None else wrapped(printable(text), "  "):
            print(line if style is None else styled(line, style, file), file=file)
    if len(texts) > SHOWN:
        print(f"  … and {len(texts) - SHOWN:,} more", file=file)


def _left(run: "Run", one: dict[str, Any]) -> int:
    """Return how many messages nobody has handled. Those in flight in a store are being handled by other processes."""
    return cast(int, one["pending"] + (0 if run.shared else one["in_flight"]))


def left_undone(run: "Run", found: dict[str, Any]) -> list[str]:
    """Return sentences about what a run has left undone: at the end of --input, all that the column `left` shows."""
    if run.left is None or not (run.args.input or "left" in run.args.fail_on):
        return left_over(run.left, run.drains)
    counts = [f"{name} {count:,}" for name, one in found["subscriptions"].items() if (count := _left(run, one))]
    late = run.drains and not run.left.drained
    text = (
        f"not all messages were handled in time (--timeout {run.args.timeout:g} s)" if late else "not all messages were handled"
    )
    kept = "lost" if engine_of(run.bus).transport.local else "kept in the store"
    words = [f"{text}; {kept}: {', '.join(counts)}"] if counts else [text] if late else []
    return [*words, *_broken(run.left)]


def _broken(report: StopReport) -> list[str]:
    return [*(f"{name} was still at work and was left behind" for name in report.abandoned), *report.errors]


def left_over(report: StopReport | None, drains: bool = True, but: str = "") -> list[str]:
    """
    Return sentences about what a stop left undone; if it was not to handle all that waits, messages may stay in a store. `but`
    is a subscription that only prints, whose mailbox does not count.
    """
    if report is None:
        return []
    counts = {name: count for name, count in report.left.items() if name != but}
    left = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    late = not report.drained and (counts or (drains and not report.left))
    found = ["not all messages were handled in time" + (f"; still waiting: {left}" if left else "")] if late else []
    return [*found, *_broken(report)]
