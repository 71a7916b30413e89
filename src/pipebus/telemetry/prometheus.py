"""
The figures of buses for Prometheus: a collector over `Bus.stats()` and `Bus.health()`, which costs nothing per message.

    from prometheus_client import REGISTRY, start_http_server
    from pipebus.telemetry.prometheus import Collector

    REGISTRY.register(Collector(bus))
    start_http_server(9000)

A counter never goes down. A mailbox counts without a lock, so its own figures may be one less for a moment; and when a
subscription ends that shares a label with others, what it counted stays in their series.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.filter_stats import PUBLISH
from pipebus.delivery.subscription import Subscription
from pipebus.errors import PipebusError, PipelineError
from pipebus.foreign.packages import install
from pipebus.mailbox import endings
from pipebus.telemetry.labels import OTHER, Labels
from pipebus.telemetry.stopwatch import Stopwatch

try:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector as _Collector
except ImportError as error:
    raise PipelineError(
        f"figures for Prometheus need the package prometheus_client, which is not installed: {install('prometheus')}"
    ) from error

__all__ = ["CONTENT_TYPE", "Collector", "metrics_text"]

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST
"""The type of what `metrics_text` returns, for a header of HTTP."""

COUNTERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "messages_published": ("Messages that were published here: accepted, rejected, dropped or failed.", ()),
    "messages_accepted": ("Messages that mailboxes or the store have accepted.", ()),
    "messages_rejected": ("Messages that a filter refused.", ("filter", "reason")),
    "messages_dropped": ("Messages that a filter of the publish chain dropped.", ("filter", "reason")),
    "messages_failed": ("Publishes that ended in an error; the reason is its class.", ("filter", "reason")),
    "messages_unrouted": ("Accepted messages to which nobody listens.", ()),
    "observer_errors": ("Errors that observers have raised.", ()),
    "log_errors": ("Lines that could not be logged.", ()),
    "subscription_messages_accepted": ("Messages that the mailbox has accepted.", ("subscription",)),
    "subscription_messages_acknowledged": ("Messages that were handled.", ("subscription",)),
    "subscription_messages_dropped": ("Messages that were accepted and dropped.", ("subscription", "reason")),
}
OLDEST: Final = "subscription_oldest_seconds"
GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "dead_letters": ("Dead letters that are kept.", ()),
    "subscription_messages_pending": ("Messages that wait.", ("subscription",)),
    "subscription_messages_in_flight": ("Messages that handlers or readers have.", ("subscription",)),
    "subscription_messages_dead": ("Dead letters of the subscription that are kept.", ("subscription",)),
    "subscription_messages_unaccounted": (
        "Accepted messages that are neither acknowledged, dropped, dead, pending nor in flight: 0, or pipebus has lost count.",
        ("subscription",),
    ),
    "subscription_mailbox_size": ("The most messages that the mailbox holds.", ("subscription",)),
    OLDEST: ("For how long the oldest pending message has waited; 0: none waits.", ("subscription",)),
    "subscription_paused": ("1: it is paused; of several that share a label, how many are.", ("subscription",)),
    "filter_figure": (
        "A number that a filter shows of its state; of several that share a label, the largest. A filter with one state for "
        "several chains shows it in each of them. In the publish chain, subscription is empty.",
        ("subscription", "filter", "figure"),
    ),
    "filter_state": (
        "1: the filter is in this state; of several that share a label, how many are.",
        ("subscription", "filter", "state"),
    ),
    "live": ("0: only a new process helps.", ()),
    "ready": ("1: the bus takes messages.", ()),
    "degraded": ("1: somebody should look; bus.health() says why.", ()),
}
STATES: Final = ("closed", "open", "half_open")
"""Those of a circuit breaker. All of them have a series from the beginning, and so an alert on "open" has data."""
HANDLING: Final = "pipebus_subscription_handling_seconds"


class Collector(_Collector):
    """
    A collector for a registry of prometheus_client.

    Args:
        bus: Its name is the label `bus` of each series.
        more: Further buses, with names of their own. A registry takes one collector.
        histogram: Also measure how long handlers take. This adds a filter to the delivery chain, so it must be said before the
            start, and it costs some microseconds for each delivery.

    Raises:
        PipelineError: two buses have the same name. LifecycleError: `histogram` is True, and a bus is started.
    """

    def __init__(self, bus: Bus, *more: Bus, histogram: bool = False) -> None:
        buses = (bus, *more)
        twice = [name for name, count in Counter(one.name for one in buses).items() if count > 1]
        if twice:
            raise PipelineError(f'two buses are named "{twice[0]}", so their series would be the same; give one another name')
        self._lock = threading.Lock()  # one scrape at a time
        self._accounts = [_Account(one, histogram) for one in buses]
        engine = engine_of(bus)
        if not more and (histogram or engine.collector is None):
            engine.collector = self

    def describe(self) -> Iterable[Metric]:
        """The families without their figures, so that a registry learns the names without asking the bus."""
        return list(_Page(histogram=True))

    def collect(self) -> Iterable[Metric]:
        """Called for each scrape."""
        with self._lock:
            page = _Page(histogram=any(account.stopwatch for account in self._accounts))
            for account in self._accounts:
                account.fill(page)
        return list(page)


def metrics_text(bus: Bus) -> str:
    """
    What Prometheus reads: the figures of a bus, in its text format. `CONTENT_TYPE` names the format.

    A `Collector` that was made for this bus alone is asked; otherwise there is a new one, without a histogram.
    """
    engine = engine_of(bus)
    if engine.collector is None:
        Collector(bus)
    return generate_latest(engine.collector).decode()


class _Page:
    """All families, for one scrape."""

    def __init__(self, histogram: bool) -> None:
        self._families: dict[str, Any] = {}
        for kind, table in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for name, (text, labels) in table.items():
                self._families[name] = kind(f"pipebus_{name}", text, labels=("bus", *labels))
        if histogram:
            text = "How long handlers take, with the filters around them."
            self._families[HANDLING] = HistogramMetricFamily(HANDLING, text, labels=("bus", "subscription"))

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def put(self, name: str, labels: tuple[str, ...], *value: Any) -> None:
        self._families[name].add_metric(labels, *value)


class _Account:
    """
    One bus, with what must be remembered from one scrape to the next.

    A subscription that ends is kept until its last message has ended. Its counters then stay in the series of its label, unless
    a store keeps them: there the subscription goes on counting when it is served again.
    """

    def __init__(self, bus: Bus, histogram: bool) -> None:
        self._bus, self._parts = bus, engine_of(bus)
        self._labels = Labels()
        self._floor: dict[tuple[str, ...], int] = {}  # each counter's last value
        self._served: dict[Subscription, dict[str, Any]] = {}  # subscriptions that no store counts, with their last figures
        self._ended: Counter[tuple[str, ...]] = Counter()  # what ended ones had counted
        self._states: dict[str, dict[str, None]] = {}  # by filter: all that it was in
        self.stopwatch: Stopwatch | None = None
        if histogram:
            self.stopwatch = Stopwatch()
            self.stopwatch.labels = self._labels
            bus.use(self.stopwatch, at="delivery")

    def fill(self, page: _Page) -> None:
        name = self._bus.name
        health = self._bus.health()
        for state in ("live", "ready", "degraded"):
            page.put(state, (name,), int(getattr(health, state)))
        try:
            stats = self._bus.stats()
            subscriptions = self._subscriptions(stats["subscriptions"])
        except PipebusError:  # a store that cannot be read; Prometheus shows a gap, and `ready` says why
            return
        page.put("dead_letters", (name,), stats["dead_letters"])
        counters = self._published(stats)
        counters.update(self._ended)
        gauges: dict[tuple[str, str], float] = {}
        for subscription, figures in subscriptions:
            label = self._labels.subscription(subscription.name)
            counters.update(self._counted(label, figures))
            for gauge, value in _gauges(subscription, figures).items():
                before = gauges.get((gauge, label), 0)
                gauges[gauge, label] = max(before, value) if gauge == OLDEST else before + value
        for (family, *labels), count in counters.items():
            key = (family, *labels)
            self._floor[key] = most = max(self._floor.get(key, 0), count)
            page.put(family, (name, *labels), most)
        for (gauge, label), value in gauges.items():
            page.put(gauge, (name, label), value)
        for (family, *labels), value in self._filters(stats["filters"]).items():
            page.put(family, (name, *labels), value)
        for label, durations in list(self.stopwatch.by_label.items()) if self.stopwatch is not None else ():
            page.put(HANDLING, (name, label), *durations.read())

    def _published(self, stats: dict[str, Any]) -> Counter[tuple[str, ...]]:
        counts: Counter[tuple[str, ...]] = Counter()
        for figure in ("published", "accepted", "unrouted"):
            counts[f"messages_{figure}",] = stats[figure]
        for figure in ("observer_errors", "log_errors"):
            counts[figure,] = stats[figure]
        classes = {by: dict(errors) for by, errors in list(self._parts.ledger.errors.items())}
        for figure, table in (("rejected", stats["rejected"]), ("dropped", stats["dropped"]), ("failed", classes)):
            for by, reasons in table.items():
                for reason, count in reasons.items():
                    filter = self._labels.filter(by)
                    counts[f"messages_{figure}", filter, self._labels.reason(reason, figure, filter)] += count
        return counts

    def _subscriptions(self, stats: dict[str, Any]) -> list[tuple[Subscription, dict[str, Any]]]:
        """Each subscription with its figures; those that have ended too, until their last messages have."""
        stored = self._parts.transport.capabilities.survives != "nothing"
        found = [(one, stats[one.name]) for one in self._bus.subscriptions if one.name in stats]  # it may be younger
        served = {one: figures if stored else {} for one, figures in found if not (stored and one.durable)}
        for one, last in self._served.items():
            if one in served:
                continue
            figures = last or one.stats()  # a store has deleted what it counted
            if figures["in_flight"] and not stored:
                served[one] = {}
                found.append((one, figures))
            else:
                self._ended.update(self._counted(self._labels.subscription(one.name), figures))
        self._served = served
        return found

    def _counted(self, label: str, figures: dict[str, Any]) -> Counter[tuple[str, ...]]:
        counts: Counter[tuple[str, ...]] = Counter()
        for figure in ("accepted", "acknowledged"):
            counts[f"subscription_messages_{figure}", label] = figures[figure]
        for reason, count in figures["dropped"].items():
            counts["subscription_messages_dropped", label, self._labels.reason(reason, "subscription", label)] += count
        return counts

    def _filters(self, stats: dict[str, dict[str, Any]]) -> dict[tuple[str, ...], float]:
        """What filters show: numbers, and the text called `state`, with a series for each state that the filter may be in."""
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for place, filters in stats.items():
            subscription = "" if place == PUBLISH else self._labels.subscription(place)
            for by, figures in filters.items():
                filter = self._labels.filter(by)
                for figure, value in figures.items():
                    if not isinstance(value, str) and (label := self._labels.figure(figure, filter)) != OTHER:
                        key = ("filter_figure", subscription, filter, label)
                        found[key] = max(found.get(key, value), value)
                if isinstance(state := figures.get("state"), str):
                    now = self._labels.state(state, filter)
                    states = self._states.setdefault(filter, {})
                    states |= dict.fromkeys((*(STATES if now in STATES else ()), now))
                    for one in states:
                        found["filter_state", subscription, filter, one] += one == now
        return found


def _gauges(subscription: Subscription, figures: dict[str, Any]) -> dict[str, float]:
    ended = endings.ended(figures)
    found = {
        **{f"subscription_messages_{name}": figures[name] for name in ("pending", "in_flight", "dead")},
        "subscription_messages_unaccounted": abs(figures["accepted"] - ended - figures["pending"] - figures["in_flight"]),
        "subscription_mailbox_size": subscription.plan.size,
        "subscription_paused": int(subscription.paused),
    }
    oldest = figures.get("oldest")
    if oldest is not None or not figures["pending"]:  # otherwise the engine does not know
        found[OLDEST] = oldest or 0.0
    return found
