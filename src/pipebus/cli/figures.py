"""The figures of a bus, as `pipebus top` shows them: their form, the columns of the table, and the lines above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import Struct, convert, field

from pipebus.cli.show import printable
from pipebus.transports.base import Health


class Row(Struct, frozen=True):
    """
    A subscription. What its source does not know is None.

    Args:
        size: The bound of its mailbox.
        oldest: Age of the oldest message that waits, in seconds.
        paused_by: The filters that pause it.
        entering, leaving: Messages a second that were accepted, and whose delivery ended.
        p50, p99: Seconds of handling.
    """

    name: str
    pending: int
    in_flight: int
    dead: int | None = None
    size: int | None = None
    oldest: float | None = None
    paused: bool = False
    paused_by: list[str] = []
    entering: float | None = field(default=None, name="in")
    leaving: float | None = field(default=None, name="out")
    p50: float | None = None
    p99: float | None = None


class Messages(Struct, frozen=True):
    """The counts of a bus since its start; `rejected` and `dropped` by filter and reason, `errors` by class."""

    published: int = 0
    accepted: int = 0
    unrouted: int = 0
    dead_letters: int = 0
    rejected: dict[str, dict[str, int]] = {}
    dropped: dict[str, dict[str, int]] = {}
    errors: dict[str, int] = {}


class Rates(Struct, frozen=True):
    published: float | None = None
    accepted: float | None = None
    handled: float | None = None


class Figures(Struct, frozen=True):
    """
    One look at a bus, in the form of the server's `api/figures`.

    Args:
        time: Seconds since 1970-01-01 UTC.
        state, health, messages: None: a store does not know them.
    """

    time: float
    subscriptions: list[Row]
    state: str | None = None
    health: Health | None = None
    messages: Messages | None = None
    rates: Rates = Rates()


def figures_of(data: Any) -> Figures:
    """
    Raises:
        ValidationError: the data are not figures.
    """
    return convert(data, Figures)


# --- the table -------------------------------------------------------------------------------------------------------------

Sort = Callable[[Row], float]

SORTS: Final[Mapping[str, Sort]] = {
    "depth": lambda row: row.pending + row.in_flight,
    "age": lambda row: row.oldest or 0.0,
    "rate": lambda row: (row.entering or 0.0) + (row.leaving or 0.0),
    "name": lambda row: 0.0,
}
"""What comes first: the largest; those that are equal are sorted by name."""


class Column(NamedTuple):
    """A column of numbers; `width`: characters of its head and of its longest cell."""

    head: str
    width: int
    cell: Callable[[Row], str]


def amount(number: float | None) -> str:
    """A number in at most 5 characters: 0.4, 9,999, 12.3k, 123M; "-": it is not known."""
    if number is None:
        return "-"
    if number < 9.95 and number != int(number):
        return f"{number:.1f}" if number >= 0.05 else "<0.1"
    if number < 9999.5:
        return f"{number:,.0f}"
    number, unit = min(number, 999e15), 0
    while number >= 999.5:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g}{' kMGTP'[unit]}"


def duration(seconds: float | None) -> str:
    """A time in at most 5 characters: 20µs, 1.2ms, 999ms, 1.5s, 99s, 1m40s, 99m, 1h40m, 99h, 120d; "-": it is not known."""
    if seconds is None:
        return "-"
    if seconds < 0.0009995:
        return f"{seconds * 1_000_000:.0f}µs"
    if seconds < 0.9995:
        return f"{seconds * 1000:.{int(seconds < 0.00995)}f}ms"
    if seconds < 99.5:
        return f"{seconds:.{int(seconds < 9.95)}f}s"
    whole = round(min(seconds, 999 * 86400))
    for (big, length), (small, part) in (("m", 60), ("s", 1)), (("h", 3600), ("m", 60)):
        if whole < 10 * length:
            return f"{whole // length}{big}{whole % length // part:02}{small}"
        if whole < 100 * length:
            return f"{whole // length}{big}"
    return f"{whole // 86400}d"


COLUMNS: Final = (
    Column("pending", 7, lambda row: amount(row.pending)),
    Column("flight", 6, lambda row: amount(row.in_flight)),
    Column("in/s", 5, lambda row: amount(row.entering)),
    Column("out/s", 5, lambda row: amount(row.leaving)),
    Column("oldest", 6, lambda row: duration(row.oldest)),
    Column("p50", 5, lambda row: duration(row.p50)),
    Column("p99", 5, lambda row: duration(row.p99)),
    Column("dead", 5, lambda row: amount(row.dead)),
    Column("paused", 6, lambda row: "filter" if row.paused_by else "paused" if row.paused else ""),
)


def columns(figures: Figures | None) -> list[Column]:
    """The columns besides the name; not what a store does not know, nor whether a subscription is paused if none is."""
    waived = set()
    if figures is not None and figures.messages is None:
        waived |= {"p50", "p99"}
    if figures is None or not any(row.paused for row in figures.subscriptions):
        waived |= {"paused"}
    return [one for one in COLUMNS if one.head not in waived]


def ordered(figures: Figures, sort: str) -> list[Row]:
    return sorted(figures.subscriptions, key=lambda row: (-SORTS[sort](row), row.name))


def header(figures: Figures | None, about: str) -> list[str]:
    """Three lines: the bus with its health, its messages since it began, and what its subscriptions have now."""
    if figures is None:
        return [printable(about), "", ""]
    return [f"{printable(about)}{_health(figures)}", _messages(figures), _subscriptions(figures.subscriptions)]


def _health(figures: Figures) -> str:
    words = [] if figures.state is None else [printable(figures.state)]
    reasons: list[str] = []
    if (found := figures.health) is not None:
        words += [*([] if found.live else ["not live"]), "ready" if found.ready else "not ready"]
        words += ["degraded"] if found.degraded else []
        reasons = [printable(reason) for reason in found.reasons]
    return (f"  {', '.join(words)}" if words else "") + (f": {'; '.join(reasons)}" if reasons else "")


def _messages(figures: Figures) -> str:
    found, rates, parts = figures.messages, figures.rates, []
    if found is not None:
        parts = [f"{amount(found.published)} published{_rate(rates.published)}", f"{amount(found.accepted)} accepted"]
    elif rates.accepted is not None:
        parts = [f"{amount(rates.accepted)}/s accepted"]
    if rates.handled is not None:
        parts.append(f"{amount(rates.handled)}/s handled")
    if found is not None:
        counts = {
            "rejected": _total(found.rejected), "dropped": _total(found.dropped), "errors": sum(found.errors.values()),
            "unrouted": found.unrouted, "dead letters": found.dead_letters,
        }  # fmt: skip
        parts += [
            f"{amount(count)} {what.removesuffix('s') if count == 1 else what}" for what, count in counts.items() if count
        ]
    return ", ".join(parts)


def _rate(rate: float | None) -> str:
    return "" if rate is None else f" ({amount(rate)}/s)"


def _total(counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(reasons.values()) for reasons in counts.values())


def _subscriptions(rows: list[Row]) -> str:
    parts = [f"{sum(row.pending for row in rows):,} pending", f"{sum(row.in_flight for row in rows):,} in flight"]
    dead, paused = sum(row.dead or 0 for row in rows), sum(row.paused for row in rows)
    parts += [f"{count:,} {what}" for what, count in (("dead", dead), ("paused", paused)) if count]
    return f"{len(rows):,} subscription{'' if len(rows) == 1 else 's'}: {', '.join(parts)}"
