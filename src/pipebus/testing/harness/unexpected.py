"""Errors that a test did not expect: collected wherever they occur, and raised by the next call of the harness."""

from collections.abc import Iterable
from typing import Final

from pipebus.errors import AttemptsExhausted, PipelineError, Rejected
from pipebus.events import Died, Discarded
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.testing.harness.running import Running
from pipebus.testing.harness.strikes import Faults
from pipebus.testing.harness.tape import Tape
from pipebus.testing.harness.words import raises
from pipebus.testing.simulation.threads import Over, Stuck

INTENDED: Final = (Rejected, AttemptsExhausted)
"""Errors that handlers and filters raise on purpose: a dead letter with one of these does not fail a test."""

LOUD: Final = ("observer.failed", "timer.failed", "filter.stop_failed", "schedule.failed", "delivery.failed_after_settlement")
"""Warnings of the bus that report an error, which would otherwise only be logged."""


class HarnessError(AssertionError):
    """A failure that belongs to no line of the test: a fault that never struck, figures that do not add up."""


class Unexpected:
    """The errors of one harness."""

    def __init__(self, faults: Faults, tape: Tape) -> None:
        self.all: list[BaseException] = []
        self.allowed: tuple[type[BaseException], ...] = ()
        self._faults = faults
        self._tape = tape
        self._not_raised: list[tuple[BaseException, str]] = []
        self._warnings_read = 0

    def allow(self, errors: tuple[type[BaseException], ...]) -> None:
        for one in errors:
            if not isinstance(one, type) or not issubclass(one, BaseException):
                raise PipelineError(f"allow({one!r}): it takes classes of exceptions")
        self.allowed += errors

    def add(self, error: BaseException, where: str) -> None:
        if isinstance(error, (*self.allowed, Over, Stuck)) or self._faults.meant(error):
            return
        if not any(known is error for known in self.all):
            self.all.append(error)
            self._not_raised.append((error, where))

    def died(self, event: Died | Discarded) -> None:
        if event.exception is not None and not isinstance(event.exception, INTENDED):
            place = "in a publish chain" if event.place == PUBLISH else f"in {event.place}"
            self.add(event.exception, f"{place}, with {event.message!r}")

    def loop_failed(self, text: str, error: BaseException | None) -> None:
        found = error or HarnessError(text)
        self._tape.say("event loop", f"{text}: {raises(found)}")
        self.add(found, f"on an event loop: {text}")

    def handled(self, name: str, value: object, error: BaseException | None) -> None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.add(error, "in a handler: its subscription has stopped")

    def collect(self, threads: Iterable[Running], foreign: Iterable[BaseException]) -> None:
        """Add what the bus has only logged, and what threads have raised, also those that are not the harness's."""
        for error in foreign:
            self.add(error, "on a thread that the harness does not control")
        for name, facts, cause in self._tape.warnings[self._warnings_read :]:
            if name in LOUD:
                text = ", ".join(f"{key}={value}" for key, value in facts.items())
                self.add(cause or HarnessError(f"{name}: {text}"), f"{name}, {text}")
        self._warnings_read = len(self._tape.warnings)
        for thread in threads:
            if thread.ended and thread.error is not None and not thread.error_seen:
                thread.error_seen = True
                self.add(thread.error, f"on thread {thread.name}")

    def raise_first(self) -> None:
        """Raise the first error that was not raised yet."""
        __tracebackhide__ = True
        if self._not_raised:
            error, where = self._not_raised.pop(0)
            error.add_note(f"(pipebus: {where})")
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise HarnessError(f"{type(error).__name__} {where}") from error
            raise error

    def forget(self) -> None:
        """Raise nothing of what has happened so far."""
        self._not_raised.clear()
        self._warnings_read = len(self._tape.warnings)
