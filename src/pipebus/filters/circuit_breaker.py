"""CircuitBreaker: stop calling a dependency that fails, and try it again later."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipebus.errors import AlreadySettled, PipelineError, Rejected
from pipebus.filters.backoff import NEVER, Errors, checked_classes, ended_by_stop
from pipebus.filters.circuit import CLOSED, Circuit
from pipebus.filters.seen import went_well
from pipebus.foreign.objects import is_a, shown, text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Context, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds


@dataclass(eq=False)
class CircuitBreaker(Around):
    """
    Stop calling a dependency that fails, and try it again later.

    Closed, the circuit lets everything pass, and counts failures. So many within the window open it. After `cool_down` it is
    half-open: one message passes, as a trial. If the trial succeeds, the circuit is closed, otherwise it is open again.

    Around a handler, an open circuit pauses the subscription, so messages wait and none dies. The delivery whose failure opened
    it, and others that run or come meanwhile and fail, are given back: no attempt is counted, and without a delay they are the
    first to be taken again. A trial that failed comes again after 1.1 times `cool_down`, so the next trial is another message.
    If no other waits, it is tried again and again, and never dies: let `on` name errors of the dependency, not of a message.

    In a publish chain, an open circuit refuses each message at once; a handler that publishes gets this refusal as its error.

    Args:
        failures: So many failures open the circuit, >= 1. A success in between does not reset the count. With at most as many
            as the subscription's `attempts`, one message alone opens it before it is dead.
        window: Seconds within which they happen, > 0.
        cool_down: Seconds until a trial, > 0. A trial that has not ended after that time is no longer waited for: the next
            message is a trial too.
        on: Which errors count as failures: an exception class, or a tuple of them.

    Raises:
        The error of the rest, as the same object, while the circuit is closed. `Rejected("the circuit is open")`: in a publish
        chain. No refusal (`Rejected`, `CodecError`, …: as for `Retry`), drop, cancellation or error caused by the stop of the
        bus counts. As a trial it says nothing about the dependency, and the next message is the trial.

    Returns `Dropped("returned")` to the filters around it for a delivery that it gives back. It does not count as a drop.

    With `Retry` and `Redeliver` outside, as in `Redeliver(…), CircuitBreaker(…)`, each run counts, and an open circuit ends the
    runs. A `Retry` inside makes all runs of a message one; a `Redeliver` inside hides failures. A `Timeout` inside makes slow
    runs fail. Each process, and each chain (one for publishing, and one for each subscription), has a circuit of its own, for
    all keys and workers. A start begins closed, and so does a filter of a subscription that is made again.

    Logs:
        `circuit.changed`: filter, place, old, new, and the error that opened it. Observers get `CircuitChanged`.

    Source:
        M. Nygard, "Release It!", 2007; the states and their names are those of M. Fowler, "CircuitBreaker", 2014.
    """

    failures: int = 3
    window: Seconds = 60.0
    cool_down: Seconds = 30.0
    on: Errors = Exception
    may_drop = True
    sees_delivery = True
    provides = ("guarded",)
    precedes: ClassVar = {"time-limited": "now a dependency that hangs does not open the circuit"}

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, failures: int = ..., window: Duration = ..., cool_down: Duration = ..., on: Errors = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        if not quantities.is_whole(self.failures, 1):
            raise PipelineError(f"CircuitBreaker.failures={shown(self.failures)}: it is a whole number of errors, at least 1")
        self.window = quantities.seconds(self.window, "CircuitBreaker.window", above=0.0)
        self.cool_down = quantities.seconds(self.cool_down, "CircuitBreaker.cool_down", above=0.0)
        self._on = checked_classes(self.on, "CircuitBreaker.on", "counted", why="because it says nothing about the dependency")
        self._context: Context | None = None
        self._published = self._circuit("publish")
        # Weak, because subscriptions come and go. The chain of a subscription holds its circuit.
        self._handled: weakref.WeakValueDictionary[str, Circuit] = weakref.WeakValueDictionary()

    def _circuit(self, place: str) -> Circuit:
        return Circuit(place, self.failures, self.window, self.cool_down, self._context)

    def start(self, context: Context) -> None:
        self._renew(context)

    def stop(self) -> None:
        self._renew(None)

    def _renew(self, context: Context | None) -> None:
        self._context = context
        for circuit in (self._published, *(known() for known in self._handled.valuerefs())):
            if circuit is not None:
                circuit.reset(context)

    def stats(self, place: str) -> dict[str, int | float | str]:
        """`state`, `failures` within the window, how often it was `opened`, and messages `rejected` or `returned` by it."""
        circuit = self._published if place == "publish" else self._handled.get(place)
        refused = "rejected" if place == "publish" else "returned"
        if circuit is None:
            return {"state": CLOSED, "failures": 0, "opened": 0, refused: 0}
        return {"state": circuit.state, "failures": circuit.recent(), "opened": circuit.opened, refused: circuit.refused}

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        if place == "publish":
            return self.around
        return functools.partial(self.around, circuit=self._handled.setdefault(place, self._circuit(place)))

    def around(self, message: Message[Any], /, *, circuit: Circuit | None = None) -> Steps:
        delivery = None if circuit is None else state.delivery.get()  # now: a generator may be closed in another context
        circuit = circuit or self._published
        run = circuit.enter()
        if run is None:
            circuit.refuse()
            if delivery is None:
                raise Rejected("the circuit is open")
            delivery.retry(count=False)
            return Dropped("returned")
        well: bool | None = None
        try:
            outcome = yield message
            well = went_well(delivery, bool(outcome)) or None
            return outcome
        except self._on as error:
            if is_a(error, NEVER) or ended_by_stop(self._context, error):
                raise
            well = False
            delay = circuit.leave(run, False, text_of(error)[:200])
            if delay is None or delivery is None:
                raise
            try:
                delivery.retry(delay, count=False)
            except AlreadySettled:
                raise error from None
            circuit.refuse()
            return Dropped("returned")
        finally:
            if well is not False:
                circuit.leave(run, well)
