"""
The mailboxes, the pool, the readers and the loops, in many orders of their steps: each order keeps the promises.

`-m thorough` explores more orders, `PIPEBUS_SEEDS=5000` explores that many, and `PIPEBUS_SEED=17` repeats one.
"""

from __future__ import annotations

from typing import Any

import loop_scenarios as l
import pytest
import scenarios as s
from exploring import explore

from pipebus.testing.simulation.explore import Scenario, seeds
from scale_helpers import scaled

some_seeds = scaled(1, 60)
some_seeds_of_loops = scaled(1, 40)

HASTY = {"hasty": 0.2}
"""Options for races against time-outs."""

TICKING = {"tick": 0.003}
"""Options for a clock that moves, so that slices end."""


def case(scenario: Scenario, options: dict[str, Any] | None = None) -> Any:
    return pytest.param(scenario, options or {}, id=scenario.__name__)


def each(*cases: Any) -> Any:
    return pytest.mark.parametrize(("scenario", "options"), cases)


@some_seeds
@each(
    case(s.two_publishers),
    case(s.draining),
    case(s.drop_oldest),
    case(s.returning),
    case(s.delayed),
    case(s.delayed_with_workers),
    case(s.taking_turns, TICKING),
    case(s.workers_taking_turns),
)
def test_every_accepted_message_is_handled_once(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """With any number of publishers, no message is lost or handled twice, and the order of each publisher is kept."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(case(s.looking))
def test_the_figures_are_of_one_moment(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """The law of conservation holds at every look, also while a worker takes and ends messages."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(case(s.small_mailbox), case(s.impatient_publishers, HASTY))
def test_who_waits_for_room_comes_in_or_is_told(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """A publisher that waits for room gets in as soon as there is room, and the bound holds."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(
    case(s.pausing),
    case(s.paused),
    case(s.paused_workers),
    case(s.two_pausers),
    case(s.keyed_and_paused),
    case(s.paused_readers),
)
def test_pause_and_resume_lose_nothing(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """No handler starts while a subscription is paused, and all messages are handled after it is resumed."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(case(s.unsubscribing), case(s.unsubscribing_when_it_stops))
def test_unsubscribe_leaves_nothing_uncounted(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """When `unsubscribe` returns, no handler runs or will run, and every message was handled or is counted as dropped."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(case(s.keyed))
def test_equal_keys_keep_their_order(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """Several workers never handle two messages of one key at once, or out of order."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(case(s.together), case(s.three_together), case(s.errands), case(s.substitute))
def test_whoever_is_ready_is_worked_on_while_a_worker_is_free(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """A handler may wait for another one, because no mailbox stays on the ready list while a worker sleeps."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(
    case(s.readers),
    case(s.two_readers),
    case(s.impatient_readers, HASTY),
    case(s.reading_by_deliveries),
    case(s.reading_when_it_stops),
)
def test_no_reader_sleeps_while_a_message_waits(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """Each message is read once, also if readers give up or fail, or if a stop ends them."""
    explore(scenario, seeds(count), **options)


@some_seeds
@each(
    case(s.stopping_at_once),
    case(s.stopping_when_nearly_idle),
    case(s.stopping_and_draining),
    case(s.stopping_with_workers),
    case(s.stopping_before_a_full_mailbox),
    case(s.stopping_twice),
    case(s.starting_again),
    case(s.pausing_when_it_stops),
    case(s.delayed_when_it_stops),
)
def test_a_stop_loses_nothing(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """Accepted messages are handled now or after the next start, and the publishers of all others get an error."""
    explore(scenario, seeds(count), **options)


@some_seeds_of_loops
@each(
    case(l.on_loop),
    case(l.on_loop_and_waiting),
    case(l.on_loop_with_workers),
    case(l.two_on_loop),
    case(l.together_on_loop),
    case(l.loop_draining),
    case(l.taking_turns_on_loop),
    case(l.there_and_back),
    case(l.small_mailbox_on_loop),
    case(l.readers_on_loop),
    case(l.callers_loop),
    case(l.callers_loop_with_workers),
)
def test_what_threads_publish_is_handled_on_the_loop(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """Nothing is lost or handled twice, each publisher keeps its order, and the loop wakes up, whether own or of a caller."""
    explore(scenario, seeds(count), **options)


@some_seeds_of_loops
@each(
    case(l.loop_pausing),
    case(l.loop_pausing_workers),
    case(l.loop_unsubscribing),
    case(l.loop_unsubscribing_on_a_loop),
)
def test_a_subscription_on_the_loop_is_paused_and_ended_from_elsewhere(
    scenario: Scenario, options: dict[str, Any], count: int
) -> None:
    """A thread or another loop may pause or unsubscribe: a pause loses nothing, and nothing runs after an unsubscribe."""
    explore(scenario, seeds(count), **options)


@some_seeds_of_loops
@each(case(l.asking), case(l.asking_impatiently, HASTY), case(l.asking_when_it_stops))
def test_whoever_asks_has_an_answer_or_is_told(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """Each thread and each coroutine gets its own answer or an error, and wakes up when it is there."""
    explore(scenario, seeds(count), **options)


@some_seeds_of_loops
@each(case(l.through_a_filter_actor), case(l.through_an_async_filter_actor), case(l.filter_actor_when_it_stops))
def test_a_filter_actor_answers_everybody_in_line(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """It handles mail and questions one at a time, in the order in which they came, also while the bus stops."""
    explore(scenario, seeds(count), **options)


@some_seeds_of_loops
@each(
    case(l.loop_stopping_at_once),
    case(l.loop_stopping_and_draining),
    case(l.loop_stopping_with_workers),
    case(l.cancelling_at_once),
    case(l.cancelling_after_draining),
    case(l.cancelling_workers),
    case(l.cancelling_between_messages),
    case(l.starting_loops_again),
    case(l.stopping_on_callers_loop),
    case(l.stopping_and_draining_on_callers_loop),
    case(l.cancelling_on_callers_loop),
    case(l.ending_callers_loop),
    case(l.ending_callers_loop_when_a_worker_sleeps),
)
def test_a_stop_loses_nothing_on_loops(scenario: Scenario, options: dict[str, Any], count: int) -> None:
    """Running handlers end, or are cancelled and run again after the next start, on whatever loop that is."""
    explore(scenario, seeds(count), **options)
