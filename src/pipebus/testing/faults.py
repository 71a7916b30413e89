"""
What goes wrong on purpose: a filter or a handler that fails or is slow, by its name, so many times.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from pipebus.clock import Clock
from pipebus.errors import PipelineError
from pipebus.message import Message
from pipebus.settings import is_duration


class InjectedError(Exception):
    """What `Harness.fail` raises where no error is given."""


class Strike:
    """One fault at one moment."""

    def __init__(self, clock: Clock, seconds: float, error: BaseException | None) -> None:
        self.clock = clock
        self.seconds = seconds
        self.error = error

    @property
    def told(self) -> str:
        if self.error is not None:
            return f"(on purpose) fails: {type(self.error).__name__}: {self.error}"
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
    """

    def __init__(self, name: str, times: int | None, after: int, seconds: float, error: Any) -> None:
        for option, value, least in (("times", times, 1), ("after", after, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise PipelineError(f"fault of {name}: {option}={value!r}; it is a whole number of at least {least}")
        if not is_duration(seconds):
            raise PipelineError(f"fault of {name}: seconds={seconds!r}; it is a number of seconds, 0 or more")
        if not (error is None or isinstance(error, BaseException) or _is_error_class(error)):
            raise PipelineError(f"fault of {name}: error={error!r}; it is an exception, or a class of exceptions")
        self.name = name
        self.times = times
        self.after = after
        self.seconds = seconds
        self.error = error
        self.calls = 0
        self.struck = 0

    def strike(self, clock: Clock) -> Strike | None:
        """Called each time; None: not now."""
        self.calls += 1
        if self.calls <= self.after or (self.times is not None and self.struck >= self.times):
            return None
        self.struck += 1
        error = self.error(f"the {self.struck}. of {self.name}, on purpose") if isinstance(self.error, type) else self.error
        return Strike(clock, self.seconds, error)

    def __str__(self) -> str:
        what = f"fails ({self.error!r})" if self.error is not None else f"takes {self.seconds:g} s"
        return f"{self.name} {what}"


def _is_error_class(error: object) -> bool:
    return isinstance(error, type) and issubclass(error, BaseException)


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
            found = [fault.strike(self.clock) for fault in self.all if fault.name in names]
            strikes = [strike for strike in found if strike is not None]
            for strike in strikes:
                if strike.error is not None:
                    self.errors.add(id(strike.error))
                    self._kept.append(strike.error)
            return strikes

    def meant(self, error: BaseException) -> bool:
        """Whether an error was raised on purpose, or comes of one that was."""
        seen: set[int] = set()
        one: BaseException | None = error
        while one is not None and id(one) not in seen:
            if id(one) in self.errors:
                return True
            seen.add(id(one))
            one = one.__cause__ or one.__context__
        return False

    def idle(self) -> list[Fault]:
        """Those that have never struck."""
        return [fault for fault in self.all if not fault.struck]
