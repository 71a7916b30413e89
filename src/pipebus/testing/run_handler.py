"""
run_handler: one handler alone, called as a worker would call it.

    run = run_handler(bill, {"id": 1})
    assert run.value == {"billed": 1} and not run.published
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from pipebus import events
from pipebus.actor import Actor
from pipebus.binding import handler_name
from pipebus.bus import Bus
from pipebus.errors import SubscriptionError, text_of
from pipebus.message import Message
from pipebus.testing import shown
from pipebus.testing.harness import Harness, HarnessError
from pipebus.testing.logs import captured_logs
from pipebus.testing.tape import Moment, cut, short, tell, value_text

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
        unseen: The error, until the test has looked at it (at `settlement` too): with the pytest plugin it fails the test that
            never does.
        calls: How often it was called; more than once if a filter around it tries again.
        dropped: The reason, if its delivery was dropped: by a filter around it, or because it had expired.
        delay: Seconds for which it gave the delivery back.
        elapsed: Virtual seconds that it took.
        published: Messages that it published on the `Bus` it was given (an actor: on `self.bus`).
        logs: What it wrote through structlog: one dictionary a line.
        moments: All of it in order: time, who, what.
        given: The message in a few words, as it came.
    """

    title: str
    message: Message[Any]
    calls: int = 0
    dropped: str | None = None
    delay: float = 0.0
    elapsed: float = 0.0
    published: list[Message[Any]] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    given: str = ""
    unseen: BaseException | None = None
    _settlement: Settlement | None = None
    _value: Any = None
    _error: BaseException | None = None
    _traceback: TracebackType | None = None

    @property
    def settlement(self) -> Settlement | None:
        """
        What became of the delivery: "acknowledged", "returned" (`delivery.retry`), "dropped" (it had expired) or "dead" (it
        raised, or rejected). None: it was not settled.
        """
        self.unseen = None
        return self._settlement

    @property
    def error(self) -> BaseException | None:
        """What the handler raised; `Rejected` if its body's type refuses the body; or None."""
        self.unseen = None
        return self._error

    @property
    def value(self) -> Any:
        """
        What it returned.

        Raises:
            What it raised, if it did. (`error` looks at it without raising.) HarnessError: it was not called at all.
        """
        __tracebackhide__ = True
        error = self.error
        if error is not None:
            raise error.with_traceback(self._traceback)
        if not self.calls:
            raise HarnessError(f"{self.title} was not called: {self.dropped or 'nothing came to it'}")
        return self._value

    @property
    def story(self) -> str:
        """What happened, step by step."""
        return f"{self.title}, given {self.given}\n{tell(self.moments)}"

    def __repr__(self) -> str:
        if self._error is not None:
            end = f"raised {cut(text_of(self._error))}"
        else:
            end = f"returned {cut(value_text(self._value))}" if self.calls else "was not called"
        return f"<{self.title}: {end}; {self._settlement}, {self.elapsed:g} s>"


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
    __tracebackhide__ = True
    actor = handler if isinstance(handler, Actor) else None
    if isinstance(handler, type):
        raise SubscriptionError(f"handler {handler.__name__} is a class, not an instance; write {handler.__name__}(…)")
    if handler is None:
        raise SubscriptionError("handler None is no function; give a function, a callable object or an Actor")
    name = (actor.name or type(actor).__name__) if actor is not None else handler_name(handler)
    if not isinstance(message, Message):
        message = Message(actor if actor is not None else "test", message)
    elif actor is not None and message.subject not in (actor, actor.name):
        raise SubscriptionError(f"{actor!r} is given what is addressed to it, and this message is for {message.subject}")
    run = HandlerRun(f"run_handler({name})", message, given=short(message))
    shown.add(run)
    with Harness(fail_fast=False, told=False) as harness, captured_logs() as lines:
        bus = harness.attach(Bus(name=run.title, debug=True))
        harness.tape.quiet(bus)
        if actor is not None:
            if actor._home is not None and actor._home.mailbox.closed_for_good():
                actor.move(None)
            bus.spawn(actor, attempts=ATTEMPTS, filters=filters)
        else:
            bus.subscribe(message.subject, handler, name=name, attempts=ATTEMPTS, filters=filters)
        try:
            _deliver(harness, bus, run)
        finally:
            if actor is not None:
                actor.stop()
                actor.move(None)  # it may be run again
        run.logs = [line for line in lines if line.get("bus") != bus.name]
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
        if (settled is None or not ends) and (not harness.pass_time() or harness.elapsed - began > LONGEST):
            break
    for subscription in bus.subscriptions:
        subscription.pause()  # one message, and not what it has given back or published to itself
    if harness.alone:
        harness.advance(0)  # what stands around the handler has its say
    run.elapsed = round(harness.elapsed - began, 9)
    run._value, run._error = ends[-1] if ends else (None, None)
    run.calls = len(ends)
    if settled is not None:
        run._settlement = SETTLEMENTS[type(settled)]
        run._error = getattr(settled, "exception", run._error)
        run.delay = getattr(settled, "delay", 0.0)
        run.dropped = getattr(settled, "reason", None)
    run.unseen = run._error
    run._traceback = run._error.__traceback__ if run._error is not None else None
    run.published = harness.published[handed_in:]
    run.moments = [moment._replace(time=round(moment.time - began, 9)) for moment in harness.tape.moments[first:]]
    if settled is None and not ends and any(moment.what.startswith("is given") for moment in run.moments):
        late = f"has not ended after {LONGEST:g} virtual seconds" if run.elapsed > LONGEST else "waits for what never comes"
        raise HarnessError(f"{run.title} {late}\n{run.story}")
