"""
The scheduler finds races: when one line of the real code is broken on purpose, some seed must fail, and the sound code passes
with that seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import loop_scenarios as l
import pytest
import scenarios as s
from exploring import explore, find
from planting import plant

from pipebus.mailbox import offering
from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.inbox import Inbox
from pipebus.mailbox.lanes import Lanes
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.shared import SharedMailbox
from pipebus.running.loop_worker import LoopWorker
from pipebus.running.loops import Crew, LoopRunner
from pipebus.running.pool import Pool
from pipebus.running.worker import Worker
from pipebus.testing.simulation.explore import Scenario, race
from pipebus.waiting.latch import Latch, LoopWaiter, ThreadWaiter

WITHIN = 3000
"""A planted race must be found within this number of seeds; most need fewer than a hundred."""

HASTY = {"hasty": 0.2}
TICKING = {"tick": 0.003}

Break = tuple[Callable[..., Any], str, str]


def planted(
    id: str, function: Callable[..., Any], old: str, new: str, scenario: Scenario, *, thorough: bool = False, **options: Any
) -> Any:
    """A break, and the scenario that shows it. (`thorough`: it takes hundreds of seeds, or long ones.)"""
    return pytest.param((function, old, new), scenario, options, id=id, marks=[pytest.mark.thorough] if thorough else [])


every_break = pytest.mark.parametrize(
    ("broken", "scenario", "options"),
    [
        planted(
            "lost: a put that comes too late leaves its message in a box that is nobody's",
            Mailbox.is_in, "return not _taken_out(item, box)", "return True", s.two_publishers, thorough=True,
        ),
        planted(
            "lost: a worker that rests does not look whether a put came in between",
            Mailbox.rest, "if box:  #", "if False:  #", s.two_publishers,
        ),
        planted(
            "miscounted: the worker has gone on while the figures were read",
            Mailbox.progress, "if taken == self.taken:", "if True:", s.looking, thorough=True,
        ),
        planted(
            "lost wake-up: a woken worker does not wake the next",
            Pool.awake, "if self.ready:", "if False:", s.together, thorough=True,
        ),
        planted(
            "lost wake-up: nobody is woken when a handler lends its slot",
            Pool._lend, "if self.ready:", "if False:", s.substitute,
        ),
        planted(
            "lost wake-up: a reader does not look again before it sleeps",
            Inbox._next, "delivery = self._look()  # a put", "delivery = None  # a put", s.readers,
        ),
        planted(
            "lost wake-up: a reader that found its message keeps the call that was meant for another",
            Inbox._withdraw, "self.wake()  #", "pass  #", s.two_readers, within=600, thorough=True,
        ),
        planted(
            "two owners: the box is stored without a claim",
            Mailbox.put,
            "claimed = plan.claims.live.setdefault(self, fresh) is fresh",
            "claimed = plan.claims.live.setdefault(self, fresh) is not None",
            s.two_publishers,
        ),
        planted(
            "never let in: a publisher lines up after the owner has come to rest",
            offering.line_up,
            "rare.waiters.append(waiter)\n                mailbox.attention = True",
            "rare.waiters.append(waiter)\n                return waiter",
            s.small_mailbox,
            thorough=True,
        ),
        planted(
            "lost at a stop: what waits is not kept",
            Mailbox.attend, "set_aside(self, item)", "pass", s.stopping_at_once, thorough=True,
        ),
        planted(
            "lost at the end of a slice: the mailbox is not put back",
            Worker.work_solo,
            "elif now > end:\n                    return mailbox.leave()",
            "elif now > end:\n                    return False",
            s.taking_turns,
            **TICKING,
        ),
        planted(
            "lost at the end of a slice: a worker leaves although there is more",
            SharedMailbox.leave, "if not self.items:", "if True:", s.workers_taking_turns, thorough=True,
        ),
        planted(
            "in and refused: time-out and room at once",
            offering.step_out, "if waiter.accepted:", "if False:", s.impatient_publishers, **HASTY,
        ),
        planted(
            "out of order: equal keys do not wait for each other",
            Lanes.keeps, "if lane is None:", "if True:", s.keyed, thorough=True,
        ),
        planted(
            "started though paused",
            SharedMailbox.take, "item = self._next() if self.may_begin() else None", "item = self._next()", s.paused_workers,
        ),
        planted(
            "drained too early: a due message is neither held nor counted for a moment",
            offering.release,
            "admit(mailbox, item)\n    unhold(mailbox)  #",
            "unhold(mailbox)\n    admit(mailbox, item)  #",
            s.delayed_with_workers,
            thorough=True,
        ),
        planted(
            "lost wake-up: the loop is not told that something was called",
            LoopRunner.call, "call_soon_threadsafe(crew.spread)", "call_soon(crew.spread)", l.on_loop,
        ),
        planted(
            "lost wake-up: an answer comes from another thread, and the loop of who asks is not told",
            LoopWaiter.wake, "call_soon_threadsafe(self._set)", "call_soon(self._set)", l.asking,
        ),
        planted(
            "woken too early: an answer is not there when its asker is woken",
            Latch.give, "self.found = found\n    self.wake()", "self.wake()\n    self.found = found", l.asking, thorough=True,
        ),
        planted(
            "answer and time-out at once: who asks does not wait for the one that was faster",
            ThreadWaiter.wait, "self.gate.acquire()  #", "pass  #", l.asking_impatiently, thorough=True, **HASTY,
        ),
        planted(
            "never ended: a worker that sleeps is not found",
            LoopWorker.next, "crew.sleepers.append(self)", "pass", l.on_loop,
        ),
        planted(
            "lost at a cancellation: the worker keeps its claim",
            LoopWorker.solo,
            "await self.leaving():\n                    return bool(mailbox.leave())",
            "await self.leaving():\n                    return False",
            l.cancelling_at_once,
        ),
        planted(
            "lost at a cancellation: the same for one of several",
            LoopWorker.shared,
            "await self.leaving():\n                return mailbox.leave()",
            "await self.leaving():\n                return False",
            l.cancelling_workers,
        ),
        planted(
            "lost at a cancellation: a worker that was woken at the same moment drops what it was woken for",
            LoopWorker.next, "crew.return_(self.mailbox)", "pass", l.ending_callers_loop_when_a_worker_sleeps,
        ),
        planted(
            "lost at a cancellation: a worker that had not begun takes its mailbox with it",
            Crew.never_began, "if worker in self.workers:", "if False:", l.ending_callers_loop,
        ),
        planted(
            "unanswered at a stop: a closed filter actor is not scheduled for a question",
            AskedMailbox.may_begin, "if self.rare is None or", "if True or", l.filter_actor_when_it_stops, thorough=True,
        ),
        planted(
            "unanswered at a stop: questions go with the messages that are left over",
            AskedMailbox.clear, "self.items.extend(questions)", "pass", l.filter_actor_when_it_stops,
            thorough=True,
        ),
        planted(
            "never at rest: who waits for a filter actor's last answer is not told of it",
            AskedMailbox.answered, "open_gates(self.rare)", "pass", l.filter_actor_when_it_stops, thorough=True,
        ),
    ],
)  # fmt: skip


@every_break
@pytest.mark.thorough
def test_a_planted_race_is_found_and_its_seed_repeats_it(broken: Break, scenario: Scenario, options: dict[str, Any]) -> None:
    """Some seed fails, twice in the same way, word for word; without the break the same seed passes."""
    with plant(*broken):
        found = find(scenario, range(WITHIN), **options)
        assert found is not None, f"not found within {WITHIN} seeds"
        again = race(scenario, found.seed, **options)
    assert again is not None
    assert again.story == found.story
    explore(scenario, [found.seed], **options)
