"""
run_handler: one handler alone, called as a worker would call it.

    run = run_handler(bill, {"id": 1})
    assert run.value == {"billed": 1} and not run.published
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipebus import events
from pipebus.actor import Actor
from pipebus.binding import handler_name
from pipebus.bus import Bus
from pipebus.errors import text_of
from pipebus.message import Message
from pipebus.testing import shown
from pipebus.testing.harness import Harness
from pipebus.testing.logs import captured_logs
from pipebus.testing.tape import Moment, cut, short, tell

Settlement = Literal["acknowledged", "returned", "dropped", "dead"]

ATTEMPTS = 1_000_000
"""Allowed, so that a handler that gives its delivery back has done that, and has not used anything up."""

LONGEST = 1e6
"""Virtual seconds, more than eleven days, after which a handler is taken to go on for ever."""

SETTLEMENTS: dict[type[events.Event], Settlement] = {
    events.Acknowledged: "acknowledged", events.Returned: "returned", events.Discarded: "dropped", events.Died: "dead",
}  # fmt: skip


@dataclass(eq=False)
class HandlerRun:
    """
    What a handler did with one message.

    Args:
        title: What was run.
        message: What it was given.
        settlement: What became of the delivery: "acknowledged", "returned" (`delivery.retry`), "dropped" (it had expired) or
            "dead" (it raised, or rejected).
        error: What it raised; `Rejected` if its body's type refuses the body; or None.
        delay: Seconds for which it gave the delivery back.
        elapsed: Virtual seconds that it took.
        published: Messages that it published on the `Bus` it was given (an actor: on `self.bus`).
        logs: What it wrote through structlog: one dictionary a line.
        moments: All of it in order: time, who, what.
    """

    title: str
    message: Message[Any]
    settlement: Settlement | None = None
    error: BaseException | None = None
    delay: float = 0.0
    elapsed: float = 0.0
    published: list[Message[Any]] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    _value: Any = None

    @property
    def value(self) -> Any:
        """
        What it returned.

        Raises:
            What it raised, if it did. (`error` looks at it without raising.)
        """
        __tracebackhide__ = True
        if self.error is not None:
            raise self.error
        return self._value

    @property
    def story(self) -> str:
        """What happened, step by step."""
        return f"{self.title}, given {short(self.message)}\n{tell(self.moments)}"

    def __repr__(self) -> str:
        end = f"raised {text_of(self.error)}" if self.error is not None else f"returned {cut(repr(self._value))}"
        return f"<{self.title}: {end}; {self.settlement}, {self.elapsed:g} s>"


def run_handler(handler: Any, message: Any = None, *, filters: Any = ()) -> HandlerRun:
    """
    Call one handler with one message: validation, injection and settlement as on a bus, in virtual time.

    Args:
        handler: Whatever `bus.on` takes, of either colour; or an `Actor`, whose `on_message` is called.
        message: A `Message`; or a body, which comes on the subject "test" (an actor's: addressed to it).
        filters: Around it, as `bus.on` takes them.

    Returns:
        A `HandlerRun`. What the handler raises is in its `error`, and is raised by its `value`.

    Raises:
        SubscriptionError: what `bus.on` would say about the handler.
    """
    is_actor = isinstance(handler, Actor)
    name = getattr(handler, "name", None) if is_actor else getattr(handler, "__name__", None)
    title = f"run_handler({name or type(handler).__name__})"
    if not isinstance(message, Message):
        message = Message(handler if is_actor else "test", message)
    run = HandlerRun(title, message)
    with Harness(fail_fast=False) as harness, captured_logs() as logs:
        bus = harness.attach(Bus(debug=True))
        if is_actor:
            bus.spawn(handler, attempts=ATTEMPTS, filters=filters)
        else:
            bus.subscribe(message.subject, handler, name=handler_name(handler), attempts=ATTEMPTS, filters=filters)
        try:
            _deliver(harness, bus, run)
        finally:
            if is_actor:
                handler.stop()
                handler.move(None)  # it may be run again
        run.logs = list(logs)
    shown.add(run)
    return run


def _deliver(harness: Harness, bus: Bus, run: HandlerRun) -> None:
    ends: list[tuple[Any, BaseException | None]] = []  # of the handler's calls: a Retry around it makes several

    def handled(value: Any, error: BaseException | None) -> None:
        ends.append((value, error))
        harness.interrupt()

    harness.tape.handled = handled
    harness.start(bus)
    bus.send(run.message)
    began, handed_in, first = harness.elapsed, len(harness.published), len(harness.tape.moments)
    settled: Any = None
    while settled is None or not ends:  # it may be settled before the handler has returned, and after
        settled = harness.step() or settled
        if (settled is None or not ends) and not harness.pass_time():
            break
        if harness.elapsed - began > LONGEST:
            raise AssertionError(f"{run.title} has not ended after {LONGEST:g} virtual seconds")
    run.elapsed = round(harness.elapsed - began, 9)
    run._value, run.error = ends[-1] if ends else (None, None)
    if settled is not None:
        run.settlement = SETTLEMENTS[type(settled)]
        run.error = getattr(settled, "exception", run.error)
        run.delay = getattr(settled, "delay", 0.0)
    run.published = harness.published[handed_in:]
    run.moments = [moment._replace(time=round(moment.time - began, 9)) for moment in harness.tape.moments[first:]]
