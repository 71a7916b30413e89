"""
Faults for `simulate`: `slow`, `error`, `overflow` and `stop` say what may go wrong, and each seed decides whether and when.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, Protocol

from pipebus.errors import LifecycleError, PipelineError
from pipebus.events import Acknowledged, Died, Discarded, Event, Published, Returned, StateChanged
from pipebus.testing.harness.strikes import Fault, InjectedError

if TYPE_CHECKING:
    from pipebus.testing.harness.harness import Harness

STRIKES: Final = (0, 1, 1, 2, 3)
"""How often a fault strikes in one run: one of these numbers."""

FIRST_CALLS: Final = 8
"""A fault strikes among this many first calls."""

LATEST_STOP: Final = 12
"""A stop comes before this many messages were accepted or settled."""


class Plan(Protocol):
    """A fault that a seed has chosen for one run."""

    def put_into(self, harness: Harness) -> None: ...


class Danger:
    """What may go wrong in a simulation; made by `slow`, `error`, `overflow` and `stop`."""

    name: str | None = None
    """What it happens to; None: the bus."""

    def plans(self, dice: random.Random) -> list[Plan]:
        """What does go wrong in one run."""
        raise NotImplementedError


class _Calls(Danger):
    """Some calls of a filter or handler."""

    def __init__(self, name: str, seconds: float, error: Any) -> None:
        Fault(name, 1, 0, seconds, error)  # raises now if an argument is wrong, and not in the run of some seed
        self.name = name
        self.seconds = seconds
        self.error = error

    def plans(self, dice: random.Random) -> list[Plan]:
        calls = sorted(dice.sample(range(FIRST_CALLS), dice.choice(STRIKES)))
        late = [self.error is not None and dice.random() < 0.5 for _ in calls]
        return [
            _Call(Fault(str(self.name), 1, call, self.seconds, self.error, planned=True, late=is_late))
            for call, is_late in zip(calls, late, strict=True)
        ]


class _Call:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def put_into(self, harness: Harness) -> None:
        fault = self.fault
        harness.faults.add(Fault(fault.name, 1, fault.after, fault.seconds, fault.error, planned=True, late=fault.late))

    def __str__(self) -> str:
        fails = "fails after its work" if self.fault.late else "fails"
        what = f"takes {self.fault.seconds:g} s" if self.fault.error is None else fails
        return f"call {self.fault.after + 1} of {self.fault.name} {what}"


class _Overflow(Danger):
    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size

    def plans(self, dice: random.Random) -> list[Plan]:
        return [_Narrow(str(self.name), self.size)] if dice.random() < 0.5 else []


class _Narrow:
    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size

    def put_into(self, harness: Harness) -> None:
        def hear(event: Event) -> None:
            if isinstance(event, StateChanged) and event.new == "started":
                for subscription in (one for bus in harness.buses for one in bus.subscriptions):
                    if subscription.name == self.name:
                        subscription.mailbox.narrow(self.size)

        harness.tape.listeners.insert(0, hear)

    def __str__(self) -> str:
        return f"the mailbox of {self.name} has room for {self.size}"


class _Stop(Danger):
    def plans(self, dice: random.Random) -> list[Plan]:
        return [_StopAfter(dice.randrange(LATEST_STOP), dice.random() < 0.5)] if dice.random() < 0.6 else []


class _StopAfter:
    def __init__(self, moments: int, drain: bool) -> None:
        self.moments = moments
        self.drain = drain

    def put_into(self, harness: Harness) -> None:
        left = self.moments

        def hear(event: Event) -> None:
            nonlocal left
            if isinstance(event, (Published, Acknowledged, Discarded, Returned, Died)):
                left -= 1
                if left == -1:
                    harness.stopped_on_purpose = True
                    harness.allow(LifecycleError)
                    harness.tape.say("bus", "(on purpose) is stopped")
                    for bus in harness.buses:
                        harness.thread(bus.stop, 5.0, drain=self.drain, name="stopper")

        harness.tape.listeners.insert(0, hear)  # the harness hands over to another thread when it hears of a settlement

    def __str__(self) -> str:
        how = "drains and stops" if self.drain else "stops without draining"
        return f"the bus {how} after {self.moments} messages were accepted or settled"


def slow(name: str, seconds: float) -> Danger:
    """Some calls of a filter, subscription, actor or handler wait this many virtual seconds before they begin."""
    return _Calls(name, seconds, None)


def error(name: str, error: Any = InjectedError) -> Danger:
    """
    Some calls of a filter, subscription, actor or handler raise this exception, or one of this class: half of them instead of
    their work, half of them after it (so a retry does the work twice).
    """
    return _Calls(name, 0.0, error)


def overflow(name: str, size: int = 1) -> Danger:
    """In some runs a subscription's mailbox has room for only this many messages, so its overflow rule applies."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise PipelineError(f"overflow of {name}: size={size!r}; it is a whole number of messages, at least 1")
    return _Overflow(name, size)


def stop() -> Danger:
    """In some runs another thread stops the bus in the middle, with or without draining."""
    return _Stop()
