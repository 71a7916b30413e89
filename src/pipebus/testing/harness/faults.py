"""Faults for `simulate`: `slow`, `error`, `overflow` and `stop` say what may go wrong, and a seed decides what does."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipebus.errors import LifecycleError, PipelineError
from pipebus.events import Acknowledged, Died, Discarded, Event, Published, Returned, StateChanged
from pipebus.mailbox import control
from pipebus.testing.harness.strikes import Fault, InjectedError
from pipebus.testing.harness.words import counted
from pipebus.values.quantities import is_whole

if TYPE_CHECKING:
    from pipebus.testing.harness.harness import Harness

STRIKES: Final = (0, 1, 1, 2, 3)
"""How often a fault strikes in one run: one of these numbers."""

FIRST_CALLS: Final = 8
"""A fault strikes among this many first calls."""

LATEST_STOP: Final = 12
"""A stop comes before this many messages were accepted or settled."""


class Plan(NamedTuple):
    """A fault that a seed has chosen for a run."""

    text: str
    put_into: Callable[[Harness], None]


@dataclass(frozen=True, eq=False)
class Danger:
    """What may go wrong in a simulation; made by `slow`, `error`, `overflow` and `stop`."""

    name: str | None  # what it happens to; None: the bus
    plans: Callable[[random.Random], list[Plan]]  # what does go wrong in one run


def slow(name: str, seconds: float) -> Danger:
    """Some calls of a filter, subscription, actor or handler wait this many virtual seconds before they begin."""
    return _calls(name, seconds, None)


def error(name: str, error: Any = InjectedError) -> Danger:
    """
    Some calls of a filter, subscription, actor or handler raise this exception, or one of this class: half of them instead of
    their work, half of them after it (so a retry does the work twice).
    """
    return _calls(name, 0.0, error)


def overflow(name: str, size: int = 1) -> Danger:
    """In some runs a subscription's mailbox has room for only this many messages, so its overflow rule applies."""
    if not is_whole(size, 1):
        raise PipelineError(f"overflow of {name}: size={size!r}; it is a whole number of messages, at least 1")

    def put_into(harness: Harness) -> None:
        def hear(event: Event) -> None:
            if isinstance(event, StateChanged) and event.new == "started":
                for subscription in (one for bus in harness.buses for one in bus.subscriptions):
                    if subscription.name == name:
                        control.narrow(subscription, size)

        harness.tape.listeners.insert(0, hear)

    plan = Plan(f"the mailbox of {name} has room for {size}", put_into)
    return Danger(name, lambda dice: [plan] if dice.random() < 0.5 else [])


def stop() -> Danger:
    """In some runs another thread stops the bus in the middle, with or without draining."""
    return Danger(None, lambda dice: [_stop(dice.randrange(LATEST_STOP), dice.random() < 0.5)] if dice.random() < 0.6 else [])


def _calls(name: str, seconds: float, error: Any) -> Danger:
    Fault(name, 1, 0, seconds, error)  # raises now if an argument is wrong, and not in the run of some seed

    def plans(dice: random.Random) -> list[Plan]:
        calls = sorted(dice.sample(range(FIRST_CALLS), dice.choice(STRIKES)))
        late = [error is not None and dice.random() < 0.5 for _ in calls]
        return [plan(call, is_late) for call, is_late in zip(calls, late, strict=True)]

    def plan(after: int, late: bool) -> Plan:
        what = f"takes {seconds:g} s" if error is None else "fails after its work" if late else "fails"
        return Plan(
            f"call {after + 1} of {name} {what}",
            lambda harness: harness.faults.add(Fault(name, 1, after, seconds, error, planned=True, late=late)),
        )

    return Danger(name, plans)


def _stop(moments: int, drain: bool) -> Plan:
    def put_into(harness: Harness) -> None:
        left = moments

        def hear(event: Event) -> None:
            nonlocal left
            if isinstance(event, (Published, Acknowledged, Discarded, Returned, Died)):
                left -= 1
                if left == -1:
                    harness.stopped_on_purpose = True
                    harness.allow(LifecycleError)
                    harness.tape.say("bus", "(on purpose) is stopped")
                    for bus in harness.buses:
                        harness.thread(bus.stop, 5.0, drain=drain, name="stopper")

        harness.tape.listeners.insert(0, hear)  # the harness hands over to another thread when it hears of a settlement

    how = "drains and stops" if drain else "stops without draining"
    return Plan(f"the bus {how} after {counted(moments, 'message')}, accepted or settled", put_into)
