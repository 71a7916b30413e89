"""The summary of a run: figures for scripts, tables for people."""

from typing import TYPE_CHECKING, Any, TextIO, cast

from pipebus.bus.bus import engine_of
from pipebus.cli.lines import TAIL
from pipebus.cli.show import printable, styled, table
from pipebus.mailbox import endings

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus
    from pipebus.bus.stopping import StopReport
    from pipebus.cli.run import Run

SHOWN = 5
"""Most lines of a list. A last line says how many more there are."""


def figures(run: "Run") -> dict[str, Any]:
    """Return the figures, as JSON can hold them."""
    stats = run.bus.stats()
    return {
        "read": run.read,
        "unreadable": len(run.unreadable),
        "unpublished": len(run.unpublished),
        **{key: stats[key] for key in ("published", "accepted", "rejected", "dropped", "errors", "unrouted")},
        "subscriptions": {name: one for name, one in _subscriptions(run, stats).items() if name != TAIL},
        "dead_letters": len(run.died) if run.shared else stats["dead_letters"],
        "interrupted": run.interrupts.name,
        "elapsed_s": round(run.elapsed, 3),
    }


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
    rows: list[tuple[Any, ...]] = [
        (word, by, count, reason)
        for word in ("rejected", "dropped")
        for by, reasons in found[word].items()
        for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])
    ]
    rows += [("failed", "", count, name) for name, count in found["errors"].items()]
    if found["unrouted"]:
        rows.append(("accepted", "", found["unrouted"], "nobody listens"))
    if rows:
        say()
        table(("", "by", "messages", "reason"), rows, ("messages",), file)
    for title, texts in (("could not be read", run.unreadable), ("could not be published", run.unpublished)):
        if texts:
            say(f"\n{len(texts):,} {title}:")
            _list([f"  {printable(text)}" for text in texts], file)
    if run.unreadable and len(run.unreadable) == run.read and run.args.format is None:
        say("  (is it CSV? add --format csv)")
    if found["subscriptions"]:
        say()
        rows = [
            (name, one["acknowledged"], sum(one["dropped"].values()), one["dead"], one["pending"] + one["in_flight"])
            for name, one in found["subscriptions"].items()
        ]
        table(("subscription", "handled", "dropped", "dead", "left"), rows, ("handled", "dropped", "dead", "left"), file)
    texts = run.died
    if not run.shared:
        texts = [f"dead: {one.message.subject} in {one.subscription}: {one.error}" for one in run.bus.dead_letters.list()]
    if texts:
        say()
        _list([printable(text) for text in texts], file, "red")
    if evicted := run.bus.dead_letters.evicted:
        say(styled(f"  and {evicted:,} earlier ones were not kept; increase dead_letters of the bus", "red", file))
    for text in left_over(run.left, run.drains):
        say(styled(f"\n{printable(text)}", "red", file))
    rate = f", {found['read'] / run.elapsed:,.0f} records a second" if run.read else ""
    say(f"\n{run.elapsed:.2f} s{rate}" + (f"; stopped by {run.interrupts.name}" if run.interrupts.name else ""))


def _first_line(run: "Run", found: dict[str, Any]) -> str:
    refused = {word: sum(sum(reasons.values()) for reasons in found[word].values()) for word in ("rejected", "dropped")}
    refused["failed"] = sum(found["errors"].values())
    others = found["published"] - run.published
    by = f" ({others:,} by {_publishers(run.bus)})" if run.args.input is not None and others else ""
    text = f"{found['published']:,} published{by}: {found['accepted']:,} accepted"
    text += "".join(f", {count:,} {word}" for word, count in refused.items() if count)
    return f"{found['read']:,} read, {text}" if run.args.input is not None else text


def _publishers(bus: "Bus") -> str:
    """Return who else publishes, besides the command itself."""
    return "handlers and schedules" if engine_of(bus).schedules else "handlers"


def _list(lines: list[str], file: TextIO, style: str | None = None) -> None:
    for line in lines[:SHOWN]:
        print(line if style is None else styled(line, style, file), file=file)
    if len(lines) > SHOWN:
        print(f"  … and {len(lines) - SHOWN:,} more", file=file)


def left_over(report: "StopReport | None", drains: bool = True, but: str = "") -> list[str]:
    """
    Return sentences about what a stop left undone.

    Args:
        drains: The stop was to handle all waiting messages. Otherwise, messages may stay in a store.
        but: A subscription that only prints; what is left in its mailbox does not count.
    """
    if report is None:
        return []
    counts = {name: count for name, count in report.left.items() if name != but}
    left = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    late = not report.drained and (counts or (drains and not report.left))
    found = ["not all messages were handled in time" + (f"; still waiting: {left}" if left else "")] if late else []
    found += [f"{name} was still at work and was left behind" for name in report.abandoned]
    return [*found, *report.errors]
