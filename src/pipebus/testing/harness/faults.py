"""
What goes wrong on purpose.

`Harness.fail` and `Harness.slow` put in what happens at known calls. For `simulate`, `slow`, `error`, `overflow` and `stop` say
what may happen, and each seed decides whether and when.
"""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from pipebus.clock import Clock
from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.values.quantities import is_duration

if TYPE_CHECKING:
    from pipebus.testing.harness.harness import Harness

OFTEN: Final = (0, 1, 1, 2, 3)
"""How often a fault strikes in one run: one of these."""

SOON: Final = 8
"""It strikes one of so many first calls."""

MOMENTS: Final = 12
"""A stop comes after at most so many messages were accepted or settled."""


class InjectedError(Exception):
    """What `Harness.fail` raises where no error is given."""


class Strike:
    """One fault at one moment."""

    def __init__(self, clock: Clock, seconds: float, error: BaseException | None, late: bool = False) -> None:
        self.clock = clock
        self.late = late  # it comes when the filter or handler has done its work
        self.seconds = seconds
        self.error = error

    @property
    def told(self) -> str:
        if self.error is not None:
            when = " after its work" if self.late else ""
            return f"(on purpose) fails{when}: {type(self.error).__name__}: {self.error}"
        return f"(on purpose) takes {self.seconds:g} s"

    def sync(self) -> None:
        if self.seconds:
            self.clock.sleep(self.seconds)
        if self.error is not None:
            raise self.error

    async def asynchronous(self) -> None:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


class Fault:
    """
    A fault that waits for its moments.

    Args:
        name: Of a filter, a subscription, an actor or a handler.
        times: How often it strikes. None: always.
        after: How many calls go well before the first.
        planned: A seed has put it in; it need not strike.
        late: It fails when it has done its work, and not before.
    """

    def __init__(
        self, name: str, times: int | None, after: int, seconds: float, error: Any, *, planned: bool = False, late: bool = False
    ) -> None:
        for option, value, least in (("times", times, 1), ("after", after, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise PipelineError(f"fault of {name}: {option}={value!r}; it is a whole number of at least {least}")
        if not is_duration(seconds):
            raise PipelineError(f"fault of {name}: seconds={seconds!r}; it is a number of seconds, 0 or more")
        _check_error(name, error)
        self.name = name
        self.times = times
        self.after = after
        self.seconds = seconds
        self.error = error
        self.planned = planned
        self.late = late
        self.calls = 0
        self.struck = 0

    @property
    def due(self) -> bool:
        """It strikes the call that was counted last, unless another does."""
        return self.calls > self.after and (self.times is None or self.struck < self.times)

    def strike(self, clock: Clock) -> Strike:
        self.struck += 1
        error = self.error(f"failure {self.struck} of {self.name}, on purpose") if isinstance(self.error, type) else self.error
        return Strike(clock, self.seconds, error, self.late)

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.name} takes {self.seconds:g} s"
        return f"{self.name} fails ({self.error.__name__ if isinstance(self.error, type) else repr(self.error)})"


def _check_error(name: str, error: Any) -> None:
    """
    Raises:
        PipelineError: no exception, and nothing that makes one of a text.
    """
    if error is None or isinstance(error, BaseException):
        return
    if not isinstance(error, type) or not issubclass(error, BaseException):
        raise PipelineError(f"fault of {name}: error={error!r}; it is an exception, or a class of exceptions")
    try:
        error("on purpose")
    except Exception as failure:
        raise PipelineError(
            f"fault of {name}: {error.__name__} cannot be made of a text ({failure}); give an exception that is made already"
        ) from None


class Faults:
    """All that were put in."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.all: list[Fault] = []
        self.errors: set[int] = set()  # ids of what was raised on purpose
        self._kept: list[BaseException] = []  # so that no other error gets the same id
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        self.all.append(fault)

    def of(self, names: tuple[str, ...], message: Message[Any]) -> list[Strike]:
        """What happens now to the filter or handler of these names."""
        with self._lock:
            meant = [fault for fault in self.all if fault.name in names]
            for fault in meant:
                fault.calls += 1
            strikes = []
            for fault in meant:
                if fault.due:
                    strike = fault.strike(self.clock)
                    strikes.append(strike)
                    if strike.error is not None:
                        self.errors.add(id(strike.error))
                        self._kept.append(strike.error)
                        break  # the others have their turn with the next call
            return strikes

    def meant(self, error: BaseException) -> bool:
        """Whether an error was raised on purpose, or was made of one that was (`raise … from`)."""
        seen: set[int] = set()
        one: BaseException | None = error
        while one is not None and id(one) not in seen:
            if id(one) in self.errors:
                return True
            seen.add(id(one))
            one = one.__cause__
        return False

    def idle(self) -> list[Fault]:
        """Those that were to strike, and never have."""
        return [fault for fault in self.all if not fault.struck and not fault.planned]


# --- for simulate ------------------------------------------------------------------------------------------------------


class Plan(Protocol):
    """What a seed has decided about a fault; put into one run."""

    def put_into(self, harness: Harness) -> None: ...


class Danger:
    """What may go wrong in a simulation; made by `slow`, `error`, `overflow` and `stop`."""

    name: str | None = None
    """Of what; None: of the bus."""

    def plans(self, dice: random.Random) -> list[Plan]:
        """What does go wrong in one run."""
        raise NotImplementedError


class _Calls(Danger):
    """Some calls of a filter or handler."""

    def __init__(self, name: str, seconds: float, error: Any) -> None:
        Fault(name, 1, 0, seconds, error)  # says what is wrong with it now, and not with some seed
        self.name = name
        self.seconds = seconds
        self.error = error

    def plans(self, dice: random.Random) -> list[Plan]:
        calls = sorted(dice.sample(range(SOON), dice.choice(OFTEN)))
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
        harness.narrow[self.name] = self.size

    def __str__(self) -> str:
        return f"the mailbox of {self.name} has room for {self.size}"


class _Stop(Danger):
    def plans(self, dice: random.Random) -> list[Plan]:
        return [_StopAfter(dice.randrange(MOMENTS), dice.random() < 0.5)] if dice.random() < 0.6 else []


class _StopAfter:
    def __init__(self, moments: int, drain: bool) -> None:
        self.moments = moments
        self.drain = drain

    def put_into(self, harness: Harness) -> None:
        harness.stop_after(self.moments, self.drain)

    def __str__(self) -> str:
        how = "drains and stops" if self.drain else "stops without draining"
        return f"the bus {how} after {self.moments} messages were accepted or settled"


def slow(name: str, seconds: float) -> Danger:
    """Some calls of a filter, subscription, actor or handler take so many virtual seconds before they begin."""
    return _Calls(name, seconds, None)


def error(name: str, error: Any = InjectedError) -> Danger:
    """
    Some calls of a filter, subscription, actor or handler fail with this exception, or one of this class: half of them in place
    of their work, half of them when it is done (who tries again does it twice).
    """
    return _Calls(name, 0.0, error)


def overflow(name: str, size: int = 1) -> Danger:
    """In some runs a subscription's mailbox has room for so few messages, and its overflow rule has its day."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise PipelineError(f"overflow of {name}: size={size!r}; it is a whole number of messages, at least 1")
    return _Overflow(name, size)


def stop() -> Danger:
    """In some runs another thread stops the bus in the middle, with or without draining."""
    return _Stop()
