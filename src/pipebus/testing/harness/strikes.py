"""Faults that are injected at known calls of a filter or handler."""

import asyncio
import threading
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from pipebus.clock import Clock
from pipebus.errors import PipelineError
from pipebus.values import quantities
from pipebus.values.quantities import Duration, is_whole


class InjectedError(Exception):
    """What `Harness.fail` raises if no error is given."""


class Strike(NamedTuple):
    """A fault that strikes one call; `late`: after the work of the filter or handler, not before it."""

    clock: Clock
    seconds: float
    error: BaseException | None
    late: bool

    @property
    def text(self) -> str:
        if self.error is None:
            return f"(on purpose) takes {self.seconds:g} s"
        when = " after its work" if self.late else ""
        return f"(on purpose) fails{when}: {type(self.error).__name__}: {self.error}"

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


@dataclass(eq=False)
class Fault:
    """A fault to inject."""

    name: str  # of a filter, a subscription, an actor or a handler
    times: int | None  # how often it strikes; None: always
    after: int  # how many calls succeed before the first strike
    seconds: Duration  # how long the call is delayed
    error: Any  # an exception or a class of exceptions; None: it only delays
    _: KW_ONLY
    planned: bool = False  # a seed chose it; it need not strike
    late: bool = False  # the call fails after its work, not instead of it
    calls: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        fault, error = f"fault of {self.name}", self.error
        for option, value, least in (("times", self.times, 1), ("after", self.after, 0)):
            if value is not None and not is_whole(value, least):
                raise PipelineError(f"{fault}: {option}={value!r}; it is a whole number of at least {least}")
        self.seconds = quantities.seconds(self.seconds, f"{fault}: seconds")
        if error is None or isinstance(error, BaseException):
            return
        if not isinstance(error, type) or not issubclass(error, BaseException):
            raise PipelineError(f"{fault}: error={error!r}; it is an exception, or a class of exceptions")
        try:
            error("on purpose")
        except Exception as failure:
            raise PipelineError(f"{fault}: {error.__name__} cannot be made from a text ({failure}); give an instance") from None

    @property
    def due(self) -> bool:
        """Whether it strikes the call that was counted last, unless another fault does."""
        return self.calls > self.after and (self.times is None or self.struck < self.times)

    def strike(self, clock: Clock) -> Strike:
        self.struck += 1
        error = self.error(f"failure {self.struck} of {self.name}, on purpose") if isinstance(self.error, type) else self.error
        return Strike(clock, float(self.seconds), error, self.late)

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.name} takes {self.seconds:g} s"
        return f"{self.name} fails ({self.error.__name__ if isinstance(self.error, type) else repr(self.error)})"


class Faults:
    """All faults of one harness."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.all: list[Fault] = []
        self.errors: set[int] = set()  # ids of the injected errors
        self._kept: list[BaseException] = []  # alive, so that no other error gets the same id
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        self.all.append(fault)

    def of(self, names: tuple[str, ...]) -> list[Strike]:
        """Count a call of the filter or handler with these names, and return the strikes on it."""
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
                        break  # the other faults may strike the next call
            return strikes

    def meant(self, error: BaseException) -> bool:
        """Whether an error was injected, or was raised from an injected one (`raise … from`)."""
        chain: dict[int, BaseException] = {}  # by id: a cause may be a circle
        one: BaseException | None = error
        while one is not None and id(one) not in chain:
            chain[id(one)] = one
            one = one.__cause__
        return not self.errors.isdisjoint(chain)

    def idle(self) -> list[Fault]:
        """The faults that should have struck and never have."""
        return [fault for fault in self.all if not fault.struck and not fault.planned]
