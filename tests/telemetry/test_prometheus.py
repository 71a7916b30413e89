"""What Prometheus reads: parsed by its own parser, true at every scrape, with few series, and counters that never go down."""

from __future__ import annotations

import random
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flow_helpers import WAIT, Boom, Hold, boom, fine, hasty_threads, returning, running
from pipebus import Bus, DeadLetterError, Delivery, Dropped, LifecycleError, Message, PipelineError, Rejected, transform
from pipebus.telemetry.labels import FIGURES, LONGEST, OTHER, REASONS, SUBSCRIPTIONS, Labels, general
from pipebus.telemetry.prometheus import CONTENT_TYPE, Collector, metrics_text
from pipebus.testing import FakeClock
from state_helpers import Door

Series = dict[tuple[str, ...], float]


def parsed(text: str) -> Series:
    """Each sample, by its name and the values of its labels but `bus`, in the order of the labels' names."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (
                sample.name.removeprefix("pipebus_"),
                *(value for name, value in sorted(sample.labels.items()) if name != "bus"),
            )
            assert key not in found, key
            found[key] = sample.value
    return found


def scraped(bus: Bus) -> Series:
    return parsed(metrics_text(bus))


def test_the_figures_are_those_of_the_bus() -> None:
    """A dashboard shows what `stats()` says, on both sides of the mailboxes."""
    clock, hold = FakeClock(), Hold()
    bus = Bus(clock=clock, name="shop")

    @bus.use
    @transform
    def check(message: Message) -> Any:
        match message.body:
            case "drop":
                return Dropped("unwanted")
            case "refuse":
                raise Rejected("too late")
            case "fail":
                raise Boom
        return message

    with running(bus):
        bus.subscribe("s", hold, name="till", mailbox=50)
        bus.subscribe("dies", boom, name="dead")
        for body in ("drop", "refuse", "fail", 1):
            with suppress(Rejected, Boom):
                bus.publish("s", body)
        hold.wait_started()
        bus.publish("s", 2)
        bus.publish("dies", 3)
        bus.publish("nowhere", 4)
        clock.advance(9.0)
        hold.open()
        hold.wait_started()
        bus.drain(WAIT)
        series = scraped(bus)
        expected: Series = {
            ("messages_published_total",): 7,
            ("messages_accepted_total",): 4,
            ("messages_dropped_total", "check", "unwanted"): 1,
            ("messages_rejected_total", "check", "too late"): 1,
            ("messages_failed_total", "check", "Boom"): 1,
            ("messages_unrouted_total",): 1,
            ("dead_letters",): 1,
            ("subscription_messages_accepted_total", "till"): 2,
            ("subscription_messages_acknowledged_total", "till"): 2,
            ("subscription_messages_dead", "dead"): 1,
            ("subscription_mailbox_size", "till"): 50,
            ("live",): 1, ("ready",): 1, ("degraded",): 0,
        }  # fmt: skip
        assert {key: series[key] for key in expected} == expected
        assert {value for (name, *_), value in series.items() if name == "subscription_messages_unaccounted"} == {0}


def test_what_waits_and_what_is_paused_are_gauges() -> None:
    clock = FakeClock()
    with running(Bus(clock=clock), drain=False) as bus:
        till = bus.subscribe("s", fine, name="till")
        till.pause()
        for _ in range(3):
            bus.publish("s")
        clock.advance(9.0)
        series = scraped(bus)
        assert series["subscription_messages_pending", "till"] == 3
        assert series["subscription_oldest_seconds", "till"] == 9.0
        assert (series["subscription_paused", "till"], series["degraded",]) == (1, 1)
        till.resume()
        bus.drain(WAIT)
        assert scraped(bus)["subscription_oldest_seconds", "till"] == 0


def test_a_bus_that_does_not_run_is_scraped_too() -> None:
    """Before the start and after the stop there are figures, and `ready` is 0."""
    bus = Bus()
    assert scraped(bus)["ready",] == 0
    bus.start()
    bus.stop()
    assert (scraped(bus)["ready",], scraped(bus)["live",]) == (0, 1)


# --- scrapes while the bus works -----------------------------------------------------------------------------------------


def fate(message: Message, delivery: Delivery) -> None:
    match message.body:
        case "raise":
            raise Boom
        case "again" if delivery.attempt == 1:
            delivery.retry()
        case "reject":
            delivery.reject("no")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("url", ["memory:", "memory:?wire=json", "sqlite:///bus.db?durability=process"])
def test_nothing_is_unaccounted_and_nothing_goes_down_at_any_scrape(
    url: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Threads publish what is handled, dropped, returned or dies, subscriptions come and go, letters are replayed; at every scrape
    the gauge of what was lost is 0, and no counter is below its last value.
    """
    monkeypatch.chdir(tmp_path)
    bus = Bus(url, dead_letters=20, pool=4)
    collector = Collector(bus)
    done = threading.Event()

    @transform
    def odd(message: Message) -> Any:
        return Dropped("odd") if message.body == "drop" else message

    def work(number: int) -> None:
        mine = random.Random(f"{seed}-{number}")
        for turn in range(150):
            bus.publish("s", mine.choice(["fine", "raise", "again", "reject", "drop"]))
            if turn % 10 == number:
                temporary = bus.subscribe("s", fine)
                bus.publish("s", "fine")
                temporary.unsubscribe()
            if turn % 40 == number and (letters := bus.dead_letters.list()):
                with suppress(DeadLetterError):  # another thread was faster
                    (bus.dead_letters.replay if mine.random() < 0.5 else bus.dead_letters.discard)(letters[-1].id)

    with running(bus), hasty_threads():
        bus.subscribe("s", fate, name="one", filters=[odd])
        bus.subscribe("s", fate, name="two", workers=2, filters=[odd])
        bus.subscribe("s", fine, mailbox=5, overflow="drop_oldest" if url.startswith("memory") else "block", name="small")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        watcher = threading.Thread(target=lambda: ([thread.join() for thread in threads], done.set()))
        watcher.start()
        last: Series = {}
        scrapes = 0
        while not done.is_set() or scrapes < 20:
            series = parsed(generate_latest(collector).decode())
            lost = {key: value for key, value in series.items() if key[0].endswith("unaccounted") and value}
            assert lost == {}
            fallen = {key: (before, series.get(key)) for key, before in last.items() if series.get(key, -1) < before}
            assert fallen == {}
            last = {key: value for key, value in series.items() if key[0].endswith("_total")}
            scrapes += 1
        watcher.join()
        bus.drain(WAIT)


def test_what_an_ended_subscription_has_counted_stays() -> None:
    """Readers without a name come and go; their common series only grows, also by what ended after the last scrape."""
    with running() as bus:
        hold = Hold()
        bus.subscribe("s", hold)
        for _ in range(3):
            bus.publish("s")
        hold.wait_started()
        assert scraped(bus)["subscription_messages_accepted_total", "Hold#*"] == 3
        [one] = bus.subscriptions
        ending = threading.Thread(target=one.unsubscribe)
        ending.start()
        while bus.subscriptions:
            pass
        series = scraped(bus)
        assert series["subscription_messages_in_flight", "Hold#*"] == 1
        assert series["subscription_messages_dropped_total", "unsubscribed", "Hold#*"] == 2
        hold.open()
        ending.join()
        bus.subscribe("s", hold)
        bus.publish("s")
        bus.drain(WAIT)
        for _ in range(2):
            series = scraped(bus)
            assert series["subscription_messages_accepted_total", "Hold#*"] == 4
            assert series["subscription_messages_acknowledged_total", "Hold#*"] == 2


def test_a_store_goes_on_counting_for_a_subscription_with_a_name(tmp_path: Path) -> None:
    """It is not counted twice when it is served again, and a reader without a name is not counted less when it ends."""
    with running(Bus(f"sqlite:///{tmp_path}/bus.db")) as bus:
        for count in (1, 2, 3):
            subscription, reader = bus.subscribe("s", fine, name="till"), bus.subscribe("s")
            bus.publish("s")
            reader.receive(WAIT)
            bus.drain(WAIT)
            while reader.stats()["acknowledged"] < 1:
                pass
            series = scraped(bus)
            assert series["subscription_messages_acknowledged_total", "till"] == count
            assert series["subscription_messages_acknowledged_total", "pull#*"] == count
            subscription.unsubscribe()
            reader.unsubscribe()
            assert ("subscription_messages_acknowledged_total", "till") not in scraped(bus)


def test_a_store_that_cannot_be_read_leaves_a_gap_and_says_why(tmp_path: Path) -> None:
    """The scrape itself succeeds: it has the health, and no figures that are not true."""
    path = tmp_path / "bus.db"
    bus = Bus(f"sqlite:///{path}")
    bus.subscribe("s", fine, name="till")
    bus.start()
    path.write_bytes(b"no database at all" * 1000)
    while bus.health().ready:
        pass
    series = scraped(bus)
    assert (series["ready",], series["live",], series["degraded",]) == (0, 1, 1)
    assert len(series) == 3
    bus.stop(timeout=0.0)


# --- filters -------------------------------------------------------------------------------------------------------------


def filters_in(series: Series) -> Series:
    return {key: value for key, value in series.items() if key[0] in ("filter_figure", "filter_state")}


def test_the_state_of_filters_is_a_gauge_and_each_state_has_a_series() -> None:
    """An alert on an open breaker has data from the beginning. Series of the publish chain have no subscription."""
    breaker = Door(state="closed", failures=2, about="tea")
    bus = Bus()
    bus.use(Door(waiting=3, rate=0.5, name="Limit"))
    bus.subscribe("s", fine, name="till", filters=[breaker])
    with running(bus):
        assert filters_in(scraped(bus)) == {
            ("filter_figure", "waiting", "Limit", ""): 3,
            ("filter_figure", "rate", "Limit", ""): 0.5,
            ("filter_figure", "failures", "Door", "till"): 2,
            ("filter_state", "Door", "closed", "till"): 1,
            ("filter_state", "Door", "open", "till"): 0,
            ("filter_state", "Door", "half_open", "till"): 0,
        }
        breaker.figures = {"state": "open"}
        states = {key[2]: value for key, value in filters_in(scraped(bus)).items() if key[0] == "filter_state"}
        assert states == {"closed": 0, "open": 1, "half_open": 0}


def test_subscriptions_that_share_a_label_share_the_series_of_their_filters() -> None:
    """Of those without a name one series says how many have an open breaker; one that has ended counts no more."""
    bus = Bus()
    bus.use(Door(state="open"), at="delivery")
    with running(bus):
        first, _ = (bus.subscribe("s", fine, filters=[Door(waiting=waiting, name="Limit")]) for waiting in (2, 1))
        assert scraped(bus)["filter_state", "Door", "open", "fine#*"] == 2
        assert scraped(bus)["filter_figure", "waiting", "Limit", "fine#*"] == 2
        first.unsubscribe()
        assert scraped(bus)["filter_state", "Door", "open", "fine#*"] == 1


def test_hostile_figures_of_filters_make_few_series_that_can_be_parsed() -> None:
    """The state that is over keeps a series at 0; from the 21st on, states share one, and figures have none."""
    states, keys = Door(), Door(name='a "filter"\\')
    bus = Bus()
    bus.use(states, keys)
    with running(bus):
        for number in range(3 * FIGURES):
            letters = "".join(chr(97 + int(digit)) for digit in str(number))
            states.figures = {"state": f"{letters}\n\ud800 {number}"}
            keys.figures = {f'key "{number}"': number, "same": 1}
            series = filters_in(scraped(bus))
    shown = {key: value for key, value in series.items() if key[0] == "filter_state"}
    assert len(shown) == FIGURES + 1
    assert {key: value for key, value in shown.items() if value} == {("filter_state", "Door", OTHER, ""): 1}
    assert series.items() - shown.items() == {(("filter_figure", "same", 'a "filter"\\', ""), 1)}


def test_a_filter_that_cannot_say_is_not_in_the_figures() -> None:
    """A scrape succeeds all the same."""
    bus = Bus()
    bus.use(Door(Boom(), name="bad"), Door(n=1))
    with running(bus):
        assert filters_in(scraped(bus)) == {("filter_figure", "n", "Door", ""): 1}


# --- labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("age 12.0 s > ttl 10.0 s", "age # s > ttl # s"),
        ('no such item "tea"', 'no such item "…"'),
        ("order 4f2a-99 of anna7@example.com", "order # of #"),
        ("it's too late, isn't it", "it's too late, isn't it"),
        ("two\nlines\t", "two lines"),
        ("half \ud800 a pair", "half ? a pair"),
        ("x" * 10_000, "x" * (LONGEST - 1) + "…"),
        ("", ""),
    ],
)
def test_a_reason_is_without_what_belongs_to_one_message(reason: str, label: str) -> None:
    """Ages, numbers, ids, addresses and quoted values would make a series for each message, and show what is in it."""
    assert general(reason) == label


def test_hostile_reasons_and_names_make_few_series_that_can_be_parsed() -> None:
    """Whatever a filter says, there is a bounded number of lines, and each of them is one line."""
    bus = Bus(name='a "bus"\\')
    words = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(3 * REASONS)]

    @bus.use
    @transform
    def judge(message: Message) -> Any:
        raise Rejected(f'{words[message.body]}\n"quoted" \\ {{}} \u202e')

    with running(bus):
        for number in range(len(words)):
            with pytest.raises(Rejected):
                bus.publish("s", number)
        rejected = {key: value for key, value in scraped(bus).items() if key[0] == "messages_rejected_total"}
        assert len(rejected) == REASONS + 1
        assert rejected["messages_rejected_total", "judge", OTHER] == 2 * REASONS
        assert sum(rejected.values()) == len(words)


def test_many_subscriptions_share_a_series() -> None:
    """A bus with thousands of named subscriptions has a bounded number of series, and the sum is right."""
    with running() as bus:
        for number in range(SUBSCRIPTIONS + 10):
            bus.subscribe(f"s.{number}", name=f"reader-{number}")
            bus.publish(f"s.{number}")
        pending = {key[1]: value for key, value in scraped(bus).items() if key[0] == "subscription_messages_pending"}
        assert len(pending) == SUBSCRIPTIONS + 1
        assert sum(pending.values()) == SUBSCRIPTIONS + 10
        for subscription in bus.subscriptions:
            subscription.receive(0)


def test_what_is_other_stays_other() -> None:
    """A reason that came late does not get a series of its own later, which would make the common one go down."""
    labels = Labels()
    names = [labels.subscription(f"s-{number}") for number in range(SUBSCRIPTIONS + 2)]
    assert names[-1] == OTHER
    assert [labels.subscription(f"s-{number}") for number in range(SUBSCRIPTIONS + 2)] == names


# --- registries and the histogram ----------------------------------------------------------------------------------------


def test_a_registry_takes_several_buses_apart_by_name() -> None:
    """One process with two buses has one collector; the label `bus` tells them apart."""
    registry = CollectorRegistry(auto_describe=True)
    with running(Bus(name="one")) as one, running(Bus(name="two")) as two:
        registry.register(Collector(one, two))
        one.publish("s")
        text = generate_latest(registry).decode()
        assert (
            parsed(text.replace('bus="one"', 'which="one"').replace('bus="two"', 'which="two"'))[
                "messages_published_total", "one"
            ]
            == 1
        )
        assert registry.get_sample_value("pipebus_messages_published_total", {"bus": "two"}) == 0
    with pytest.raises(PipelineError, match='two buses are named "one"'):
        Collector(one, Bus(name="one"))
    assert CONTENT_TYPE.startswith("text/plain")


@pytest.mark.parametrize("run", ["pool", "loop"])
def test_the_histogram_says_how_long_handlers_take(run: Any) -> None:
    """It counts each attempt, also one that fails, in the bucket of its seconds."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    Collector(bus, histogram=True)

    def take(message: Message) -> None:
        clock.advance(message.body)
        if message.body > 5.0:
            raise Boom

    async def atake(message: Message) -> None:
        take(message)

    bus.subscribe("s", atake if run == "loop" else take, name="till")
    with running(bus):
        for seconds in (0.002, 0.2, 0.2, 20.0):
            bus.publish("s", seconds)
            bus.drain(10 * WAIT)
        series = scraped(bus)
        name = "subscription_handling_seconds"
        counts = [series[f"{name}_bucket", bound, "till"] for bound in ("0.001", "0.0025", "0.25", "10.0", "30.0", "+Inf")]
        assert counts == [0, 1, 3, 3, 4, 4]
        assert series[f"{name}_count", "till"] == 4
        assert series[f"{name}_sum", "till"] == pytest.approx(20.402)


def test_a_histogram_is_asked_for_before_the_start() -> None:
    """It is a filter around each handler, and those are fixed while the bus runs."""
    with running() as bus, pytest.raises(LifecycleError, match="after start"):
        Collector(bus, histogram=True)


def test_a_collector_costs_a_message_nothing() -> None:
    """Without a histogram the bus has the routes, chains and observers that it had."""
    bus = Bus()
    subscription = bus.subscribe("s", returning(0))
    before = bus.describe()
    Collector(bus)
    with running(bus):
        bus.publish("s")
        bus.drain(WAIT)
        metrics_text(bus)
        assert bus.describe() == before
        assert subscription.run is None


def test_the_page_names_what_there_is() -> None:
    """Each figure in the rules that the page shows exists, so that nobody waits for an alert that cannot come."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "health.md").read_text(encoding="utf-8")
    names = {family.name for family in Collector(Bus()).describe()}
    named = set(re.findall(r"\bpipebus_[a-z_]+", page))
    assert {re.sub("_(total|bucket)$", "", name) for name in named} <= names
    assert len(named) >= 6
