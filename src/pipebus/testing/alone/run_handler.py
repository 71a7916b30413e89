"""run_handler: one handler alone, called as a worker would call it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipebus import events
from pipebus.bus.bus import Bus
from pipebus.delivery.actor import Actor
from pipebus.delivery.binding import handler_name
from pipebus.errors import SubscriptionError
from pipebus.foreign import objects
from pipebus.foreign.objects import text_of
from pipebus.mailbox.offering import closed_for_good
from pipebus.message.message import Message
from pipebus.testing.alone.own_files import own_files
from pipebus.testing.alone.replies import advise, subscribe, without_replies
from pipebus.testing.alone.run import Run
from pipebus.testing.harness import shown
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.unexpected import HarnessError
from pipebus.testing.harness.words import cut, short
from pipebus.testing.logs import captured_logs
from pipebus.testing.simulation.blocking import clocks

Settlement = Literal["acknowledged", "returned", "dropped", "dead"]

ATTEMPTS = 1_000_000
"""So many that a handler which returns its delivery never exhausts them."""

LONGEST = 1e6
"""Virtual seconds, more than eleven days, after which a handler is considered endless."""

SETTLEMENTS: dict[type[events.Event], Settlement] = {
    events.Acknowledged: "acknowledged", events.Returned: "returned", events.Discarded: "dropped", events.Died: "dead",
}  # fmt: skip


@dataclass(eq=False)
class HandlerRun(Run):
    """
    What a handler did with one message: a `Run`, and

    Args:
        calls: How often it was called; more than once if a filter around it retries.
        dropped: The reason, if its delivery was dropped: by a filter around it, or because it had expired.
        delay: The delay in seconds with which it returned the delivery.

    `published` is what it published on the `Bus` that it got as a parameter; for an actor, on `self.bus`. Reading `settlement`
    counts as reading the error.
    """

    calls: int = 0
    dropped: str | None = None
    delay: float = 0.0
    _settlement: Settlement | None = None
    _value: Any = None

    @property
    def settlement(self) -> Settlement | None:
        """
        How the delivery ended: "acknowledged", "returned" (`delivery.retry`), "dropped" (it had expired) or "dead" (it raised,
        or rejected). None: it was not settled.
        """
        self.unseen = None
        return self._settlement

    @property
    def value(self) -> Any:
        """
        What it returned.

        Raises:
            What it raised, if it did. (`error` returns it instead.) HarnessError: It was not called at all.
        """
        __tracebackhide__ = True
        if self._error is None and not self.calls:
            raise HarnessError(f"{self.title} was not called: {self.dropped or 'no delivery reached it'}")
        return self._result(self._value)

    def __repr__(self) -> str:
        if self._error is not None:
            end = f"raised {cut(text_of(self._error))}"
        else:
            end = f"returned {cut(objects.shown(self._value))}" if self.calls else "was not called"
        return f"<{self.title}: {end}; {self._settlement}, {self.elapsed:g} s>"


def run_handler(
    handler: Any, message: Any = None, *, filters: Any = (), replies: Mapping[Any, Any] | None = None
) -> HandlerRun:
    """
    Call one handler with one message: validation, injection and settlement as on a bus, in virtual time, which `time.sleep` and
    the clocks of `time` follow too.

    Args:
        handler: Anything that `bus.on` takes, sync or async; or an `Actor`, whose `on_message` is called.
        message: A `Message`; or a body, which is sent to the subject "test", or to the actor.
        filters: Filters around it, as for `bus.on`.
        replies: As for `run_filter`.

    Returns:
        A `HandlerRun`. If the handler raises, its `error` is the exception, and its `value` raises it.

    Raises:
        SubscriptionError: The error that `bus.on` would raise. RuntimeError: A thread of the handler's own used the bus.
    """
    __tracebackhide__ = True
    actor = handler if isinstance(handler, Actor) else None
    if isinstance(handler, type):
        raise SubscriptionError(f"handler {handler.__name__} is a class, not an instance; write {handler.__name__}(…)")
    if handler is None:
        raise SubscriptionError("handler None is not a function; give a function, a callable object or an Actor")
    name = (actor.name or type(actor).__name__) if actor is not None else handler_name(handler)
    if not isinstance(message, Message):
        message = Message(actor if actor is not None else "test", message)
    elif actor is not None and message.subject not in (actor, actor.name):
        raise SubscriptionError(f"{actor!r} takes what is addressed to it, but this message is for {message.subject}")
    run = HandlerRun(f"run_handler({name})", message, given=short(message))
    shown.add(run)
    files = own_files(handler)
    with Harness(fail_fast=False, told=False) as harness, clocks(files), captured_logs() as lines:
        bus = harness.attach(Bus(name=run.title, debug=True))
        harness.tape.quiet(bus)
        if actor is not None:
            if actor._home is not None and closed_for_good(actor._home):
                actor.move(None)
            bus.spawn(actor, attempts=ATTEMPTS, filters=filters)
        else:
            bus.subscribe(message.subject, handler, name=name, attempts=ATTEMPTS, filters=filters)
        try:
            _deliver(harness, bus, run, subscribe(bus, replies))
        finally:
            if actor is not None:
                actor.stop()
                actor.move(None)  # so that it can be run again
        run.logs = [line for line in lines if line.get("bus") != bus.name]
    return run


def _deliver(harness: Harness, bus: Bus, run: HandlerRun, others: set[str]) -> None:
    """`others`: the subscriptions whose handlers give replies."""
    ends: list[tuple[Any, BaseException | None]] = []  # of each call: a Retry around the handler makes several

    def handled(name: str, value: Any, error: BaseException | None) -> None:
        if name not in others:
            ends.append((value, error))
            harness.interrupt()

    harness.tape.handled = handled
    foreign = harness._simulation.foreign
    known = len(foreign)
    harness.start(bus)
    bus.send(run.message)
    began, before, first = harness.elapsed, len(harness.published), len(harness.tape.moments)
    settled: Any = None
    while settled is None or not ends:  # the delivery may be settled before the handler returns, or after
        event: Any = harness.step()
        if event is not None and getattr(event, "subscription", getattr(event, "place", None)) not in others:
            settled = event
        if (settled is None or not ends) and (not harness.pass_time() or harness.elapsed - began > LONGEST):
            break
    for subscription in bus.subscriptions:
        subscription.pause()  # handle this message only, not what it has returned or published to itself
    if harness.alone:
        harness.advance(0)  # let the filters around the handler finish
    run.elapsed = round(harness.elapsed - began, 9)
    run._value, run._error = ends[-1] if ends else (None, None)
    run.calls = len(ends)
    if settled is not None:
        run._settlement = SETTLEMENTS[type(settled)]
        run._error = getattr(settled, "exception", None) or run._error
        run.delay = getattr(settled, "delay", 0.0)
        run.dropped = getattr(settled, "reason", None)
    run.unseen = run._error
    advise(run._error)
    run._traceback = run._error.__traceback__ if run._error is not None else None
    run.published = without_replies(harness.published[before:])
    run.moments = harness.tape.since(first, began)
    if foreign[known:]:
        run.unseen = None
        raise foreign[known]
    if settled is None and not ends and any(moment.what.startswith("is given") for moment in run.moments):
        late = (
            f"has not ended after {LONGEST:g} virtual seconds"
            if run.elapsed > LONGEST
            else "waits for something that never comes"
        )
        raise HarnessError(f"{run.title} {late}\n{run.story}")
