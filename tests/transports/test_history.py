"""The history checker: each broken promise is found in a forged history, and a correct one passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipebus import Bus, Delivery, Dropped, Message, transform
from pipebus.testing.history import History, HistoryBroken, Violation
from scale_helpers import examples

Forge = Callable[[History], None]


def published(history: History, *ids: str, subject: str = "a", publisher: str = "p", key: str | None = None) -> None:
    """Record that these messages were tried and accepted."""
    for id in ids:
        history.record_attempt(id, subject, publisher=publisher, key=key)
        history.record_accepted(id)


def handled(history: History, *ids: str, to: str = "s", attempt: int = 1, worker: str = "") -> None:
    """Record that these messages were delivered and acknowledged."""
    for id in ids:
        history.record_delivery(to, id, attempt=attempt, worker=worker)
        history.record_settled(to, id, attempt=attempt, worker=worker)


def fresh(order: Any = "subject", attempts: int | None = 3) -> History:
    """A history of one subscription to `a` and what is below it."""
    history = History()
    history.record_subscription("s", ["a", "a.>"], attempts=attempts, order=order)
    return history


# --- clean ones --------------------------------------------------------------------------------------------------------


def returned(history: History) -> None:
    published(history, "m")
    history.record_delivery("s", "m")
    history.record_settled("s", "m", "returned")
    handled(history, "m", attempt=2)


def recovered(history: History) -> None:
    history.record_attempt("m", "a")
    handled(history, "m")


def never_sent(history: History) -> None:
    history.record_attempt("m", "a")


def released(history: History) -> None:
    published(history, "m")
    history.record_delivery("s", "m")
    history.record_settled("s", "m", "released")
    handled(history, "m")


def killed(history: History) -> None:
    published(history, "m", "n")
    for id in ("m", "n"):
        history.record_delivery("s", id, worker="w1")
    history.record_end("w1")
    handled(history, "m", attempt=1, worker="w2")
    handled(history, "n", attempt=2, worker="w2")


def lease_lost(history: History) -> None:
    published(history, "m")
    history.record_delivery("s", "m", worker="w1")
    history.record_delivery("s", "m", attempt=2, worker="w2")
    history.record_settled("s", "m", worker="w1")
    history.record_settled("s", "m", attempt=2, worker="w2")


def replayed(history: History) -> None:
    published(history, "m")
    history.record_delivery("s", "m")
    history.record_settled("s", "m", "dead")
    history.record_replayed("s", "m")
    handled(history, "m")


def kept(history: History) -> None:
    published(history, "m", "n")
    history.record_kept("s", "m")
    history.record_kept("s", "n", "dead")


def counted(history: History) -> None:
    published(history, "m", "n")
    figures = {"accepted": 2, "acknowledged": 0, "dropped": {"overflow": 1}, "dead": 0, "pending": 0, "in_flight": 1}
    history.record_figures("s", figures)


def sent_twice(history: History) -> None:
    published(history, "m", "m")
    handled(history, "m", "m")


def recognised(history: History) -> None:
    published(history, "m")
    history.record_attempt("m", "a")
    history.record_accepted("m", duplicate=True)
    handled(history, "m")


def for_nobody(history: History) -> None:
    published(history, "m", subject="b")


def dropped_untaken(history: History) -> None:
    published(history, "m")
    history.record_settled("s", "m", "dropped", attempt=0)


def late(history: History) -> None:
    history.record_attempt("m", "a", late=True)
    history.record_accepted("m")
    published(history, "n")
    handled(history, "n", "m")


def two_publishers(history: History) -> None:
    published(history, "m", publisher="p")
    published(history, "n", publisher="q")
    handled(history, "n", "m")


CLEAN = [
    returned, recovered, never_sent, released, killed, lease_lost, replayed, kept, counted, sent_twice, recognised, for_nobody,
    dropped_untaken, late, two_publishers,
]  # fmt: skip


@pytest.mark.parametrize("forge", CLEAN, ids=lambda forge: forge.__name__)
def test_what_is_allowed_passes(forge: Forge) -> None:
    """Retries, lost leases, kills, replays, counted drops and publishes of unknown outcome break no promise."""
    history = fresh()
    forge(history)
    history.judge().raise_if_broken()


def test_a_message_without_a_receipt_that_came_is_counted_as_recovered() -> None:
    """Its publisher never learnt that it was kept: that is allowed, and the judge counts it."""
    history = fresh()
    recovered(history)
    published(history, "n")
    handled(history, "n")
    assert history.judge().counts["recovered"] == 1


def test_an_acknowledgement_after_a_later_taking_is_counted_as_stale() -> None:
    """The lease had ended, and the store decides which acknowledgement counts."""
    history = fresh()
    lease_lost(history)
    assert history.judge().counts["stale"] == 1


# --- broken ones -------------------------------------------------------------------------------------------------------


def lost(history: History) -> None:
    published(history, "m", "n")
    handled(history, "m")


def lost_in_flight(history: History) -> None:
    published(history, "m", "n")
    handled(history, "m")
    history.record_delivery("s", "n")


def lost_beyond_what_is_counted(history: History) -> None:
    published(history, "m", "n")
    figures = {"accepted": 1, "acknowledged": 0, "dropped": {"overflow": 1}, "dead": 0, "pending": 0, "in_flight": 0}
    history.record_figures("s", figures)


def lost_though_a_named_drop_is_counted(history: History) -> None:
    published(history, "m", "n")
    history.record_settled("s", "m", "dropped", attempt=0)
    figures = {"accepted": 1, "acknowledged": 0, "dropped": {"overflow": 1}, "dead": 0, "pending": 0, "in_flight": 0}
    history.record_figures("s", figures)


def unexpected(history: History) -> None:
    handled(history, "m")


def unexpected_receipt(history: History) -> None:
    history.record_accepted("m")


def misrouted(history: History) -> None:
    published(history, "m", subject="b")
    handled(history, "m")


def twice(history: History) -> None:
    published(history, "m")
    history.record_delivery("s", "m", worker="w1")
    history.record_delivery("s", "m", worker="w2")
    history.record_settled("s", "m", worker="w1")


def again_after_the_end(history: History) -> None:
    published(history, "m")
    handled(history, "m")
    handled(history, "m", attempt=2)


def over_budget(history: History) -> None:
    published(history, "m")
    for attempt in (1, 2, 3):
        history.record_delivery("s", "m", attempt=attempt)
        history.record_settled("s", "m", "returned", attempt=attempt)
    handled(history, "m", attempt=4)


def mislabelled(history: History) -> None:
    published(history, "m")
    history.record_delivery("s", "m", attempt=2, redelivered=False)
    history.record_settled("s", "m", attempt=2)


def settled_twice(history: History) -> None:
    published(history, "m")
    handled(history, "m")
    history.record_settled("s", "m", "returned")


def dropped_after_the_end(history: History) -> None:
    published(history, "m")
    handled(history, "m")
    history.record_settled("s", "m", "dropped", attempt=0)


def out_of_order(history: History) -> None:
    published(history, "m", "n")
    handled(history, "n", "m")


def leaking(history: History) -> None:
    figures = {"accepted": 3, "acknowledged": 1, "dropped": {}, "dead": 1, "pending": 0, "in_flight": 0}
    history.record_figures("s", figures)


def below_zero(history: History) -> None:
    figures = {"accepted": 0, "acknowledged": 1, "dropped": {}, "dead": 0, "pending": -1, "in_flight": 0}
    history.record_figures("s", figures)


BROKEN = [
    (lost, "lost"),
    (lost_in_flight, "lost"),
    (lost_beyond_what_is_counted, "lost"),
    (lost_though_a_named_drop_is_counted, "lost"),
    (unexpected, "unexpected"),
    (unexpected_receipt, "unexpected"),
    (misrouted, "unexpected"),
    (twice, "duplicate"),
    (again_after_the_end, "duplicate"),
    (over_budget, "over_budget"),
    (mislabelled, "mislabelled"),
    (settled_twice, "double_settlement"),
    (dropped_after_the_end, "double_settlement"),
    (out_of_order, "order"),
    (leaking, "conservation"),
    (below_zero, "conservation"),
]


@pytest.mark.parametrize(("forge", "kind"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_promise_is_found_once_and_named(forge: Forge, kind: Any) -> None:
    """
    The judge finds one violation of the right kind, with the message's id, and also when the history comes from JSON lines.
    """
    history = fresh()
    forge(history)
    judgement = history.judge()
    assert [one.kind for one in judgement.violations] == [kind]
    assert judgement.of(kind) == judgement.violations
    assert all(id in judgement.violations[0].text for id in judgement.violations[0].ids)
    with pytest.raises(HistoryBroken, match=f"1 broken promises.*\n  {kind}: "):
        judgement.raise_if_broken()
    assert History.from_jsonl(history.to_jsonl()).judge() == judgement


def test_order_within_a_key_is_judged_by_key() -> None:
    """Keys may overtake each other; messages of one key may not, and those without a key are free."""
    history = fresh(order="key")
    published(history, "a1", "a2", key="a")
    published(history, "b1", key="b")
    published(history, "x", "y")
    handled(history, "y", "b1", "a1", "x", "a2")
    history.judge().raise_if_broken()
    published(history, "b2", "b3", key="b")
    handled(history, "b3", "b2")
    assert history.judge().of("order") == (
        Violation("order", "s got b2 after b3, which publisher p, key b sent later", ("b2", "b3")),
    )


def test_a_long_list_of_violations_is_cut() -> None:
    """A broken transport breaks the same promise a thousand times, and twenty lines are enough to show it."""
    history = fresh()
    handled(history, *(f"m{number}" for number in range(100)))
    text = str(history.judge())
    assert text.startswith("100 broken promises")
    assert text.endswith("… and 80 more")


# --- JSON lines --------------------------------------------------------------------------------------------------------


def test_lines_of_several_processes_are_merged_by_time(tmp_path: Path) -> None:
    """The files of a publisher and of workers make one history. A line that a kill has cut off is left out."""
    parts = [History(tmp_path / f"{name}.jsonl") for name in ("publisher", "one", "two")]
    parts[0].record_subscription("s", "a", attempts=3, order="subject")
    published(parts[0], "m", "n")
    parts[1].record_delivery("s", "m", worker="one")
    parts[0].record_end("one")
    handled(parts[2], "m", attempt=2, worker="two")
    handled(parts[2], "n", worker="two")
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"what":"deliv')
    merged = History.from_jsonl(*(tmp_path / f"{name}.jsonl" for name in ("two", "one", "publisher")))
    assert len(merged.records) == sum(len(part.records) for part in parts)
    merged.judge().raise_if_broken()


def test_a_line_that_is_no_record_is_told_with_its_number() -> None:
    """A file that was damaged is not judged."""
    with pytest.raises(ValueError, match="line 2 is not a record"):
        History.from_jsonl('{"what":"ended","worker":"w"}\n{"what":"nonsense"}\n')


# --- a bus's own events ------------------------------------------------------------------------------------------------


def test_a_bus_is_watched_by_its_events() -> None:
    """The deliveries of a real bus make a correct history, with handled, dropped, dead and returned ones counted."""
    history, bus = History(), Bus()
    history.record_subscription("s", "a", attempts=2, order="subject")
    history.watch(bus)

    def handle(message: Message, delivery: Delivery) -> None:
        if message.body == "again":
            delivery.retry()
        if message.body == "raise":
            raise ValueError

    @transform
    def no_spam(message: Message) -> Message | Dropped:
        return Dropped("spam") if message.body == "spam" else message

    subscription = bus.subscribe("a", handle, name="s", attempts=2, filters=[no_spam])
    with bus:
        for body in ("fine", "spam", "raise", "again"):
            history.record_attempt(body, "a")
            bus.publish("a", body, id=body)
            history.record_accepted(body)
        bus.drain(timeout=10)
        bus.dead_letters.discard(bus.dead_letters.list()[0].id)
    history.record_figures("s", subscription.stats())
    judgement = history.judge()
    judgement.raise_if_broken()
    assert judgement.counts == {
        "attempted": 4, "accepted": 4, "duplicates": 0, "delivered": 5, "redelivered": 1, "recovered": 0, "stale": 0,
        "acknowledged": 1, "dropped": 2, "dead": 2, "returned": 1, "released": 0,
    }  # fmt: skip


# --- any history -------------------------------------------------------------------------------------------------------


ENDINGS = st.lists(st.sampled_from(["returned", "released"]), max_size=2).flatmap(
    lambda before: st.sampled_from(["acknowledged", "dropped", "dead", "pending"]).map(lambda end: [*before, end])
)


def correct(fates: list[list[str]]) -> History:
    """Messages m0, m1, … of one publisher, each with its settlements in order."""
    history = fresh(attempts=3)
    published(history, *(f"m{number}" for number in range(len(fates))))
    tail: list[tuple[str, int, list[str]]] = []
    for number, fate in enumerate(fates):
        id = f"m{number}"
        if fate == ["pending"]:
            history.record_kept("s", id)
            continue
        tail.append((id, 1, fate))
    while tail:  # in order the first time; then those that went back
        again = []
        for id, attempt, (how, *rest) in tail:
            if how == "pending":
                history.record_kept("s", id)
                continue
            history.record_delivery("s", id, attempt=attempt)
            history.record_settled("s", id, how, attempt=attempt)  # type: ignore[arg-type]
            if rest:
                again.append((id, attempt + (how == "returned"), rest))
        tail = again
    return history


@given(fates=st.lists(ENDINGS, min_size=1, max_size=8), data=st.data())
@settings(max_examples=examples(30, 200), deadline=None)
def test_a_correct_history_passes_and_one_corruption_is_caught(fates: list[list[str]], data: st.DataObject) -> None:
    """A history passes whatever happened to the messages, and any record that is lost, doubled, renamed or moved is caught."""
    history = correct(fates)
    history.judge().raise_if_broken()
    lines = history.to_jsonl().splitlines()
    ends = [n for n, line in enumerate(lines) if any(f'"{how}"' in line for how in ("kept", "dropped", "dead"))]
    ends += [n for n, line in enumerate(lines) if '"settled"' in line and '"how"' not in line]  # acknowledged: the default
    settled = [n for n, line in enumerate(lines) if '"settled"' in line and '"released"' not in line]
    deliveries = [n for n, line in enumerate(lines) if '"delivered"' in line]
    kinds = ["lose an end", *(["settle twice", "deliver twice", "rename"] if settled else [])]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "lose an end":
        del lines[data.draw(st.sampled_from(ends))]
    elif kind == "settle twice":
        place = data.draw(st.sampled_from(settled))
        lines.insert(place, lines[place])
    elif kind == "deliver twice":
        place = data.draw(st.sampled_from(deliveries))
        lines.insert(place, lines[place])
    else:
        place = data.draw(st.sampled_from(deliveries))
        lines[place] = lines[place].replace('"id":"m', '"id":"other')
    assert History.from_jsonl("\n".join(lines) + "\n").judge().violations, kind
