"""A span for each filter and handler, with its verdict: what each one did to a message."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span

from pipebus.delivery.subscription import LISTENER
from pipebus.errors import Rejected
from pipebus.foreign.objects import is_a, spared
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import blame
from pipebus.pipeline.compose import Next
from pipebus.telemetry import names
from pipebus.telemetry.spans import NAME, Kit, bounded, fail, tell

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

State = Callable[[], dict[str, Any]]
"""What a filter shows of its state at the moment, as attributes."""

_outer: Final[ContextVar[Run | None]] = ContextVar("pipebus.telemetry.filter", default=None)
"""The filter whose rest runs here."""


class Run:
    """
    One run of one filter. The next filter of the chain tells it what it has been given, and how that ended.

    A rest may run on another thread, in a copy of the context: both then have the same `Run`. One writes to it after the other,
    except where a `Timeout` has left a rest behind, and then nobody reads what comes too late.
    """

    __slots__ = ("_span", "_token", "_within", "given", "handed", "name", "outer", "passes", "rest", "state")

    def __init__(self, name: str, given: Message[Any], span: Span | None, state: State | None) -> None:
        """`span`: None for what begins a chain, about which there is nothing to say."""
        self.name = name
        self.state = state
        self.given: Message[Any] | None = given
        self.handed: Message[Any] | None = None
        self.passes = 0
        self.rest: Any = None  # the outcome or the error of what follows
        self.outer = _outer.get() if span is not None else None
        self._span = span
        self._token = attach(trace.set_span_in_context(span)) if span is not None else None
        reached(self.outer, given)
        self._within = _outer.set(self)

    def end(self, result: Any, error: BaseException | None, handler: bool) -> None:
        try:
            self._end(result, error, handler)
        finally:
            self.given = self.handed = self.rest = self.outer = None  # contexts that were copied meanwhile keep this object

    def _end(self, result: Any, error: BaseException | None, handler: bool) -> None:
        _outer.reset(self._within)
        if self.outer is not None:
            self.outer.rest = result if error is None else error
            if is_a(result, Message) and not handler:  # a filter actor has answered, and the rest is still to come
                self.outer.passes -= 1
        if self._span is None or self._token is None:
            return
        detach(self._token)
        if error is not None:
            fail(self._span, error)
            if handler:  # which a filter may run again
                tell(self._span, error)
        if self._span.is_recording() and not handler:
            self._span.set_attributes(self._judged(result, error))
            if self.state is not None:
                self._span.set_attributes(self.state())
        self._span.end()

    def _judged(self, result: Any, error: BaseException | None) -> dict[str, Any]:
        """The verdict on a filter; an error or a drop may be the work of the rest."""
        facts: dict[str, Any] = {names.PASSES: self.passes} if self.passes > 1 else {}
        handed = result if is_a(result, Message) else self.handed  # a filter actor returns it
        verdict = "answered" if handed is None else "passed" if handed is self.given else "changed"
        if error is not None:
            step = blame.signed(error)
            if error is not self.rest and (step is None or step.name == self.name):
                verdict = "refused" if is_a(error, Rejected) else "failed"
        elif is_a(result, Dropped) and not is_a(self.rest, Dropped):
            verdict, facts[names.REASON] = "dropped", bounded(result.reason)
        return {names.VERDICT: verdict, **facts}


def reached(outer: Run | None, message: Any) -> None:
    """A message has come to what follows a filter."""
    if outer is not None:
        outer.passes += 1
        if outer.handed is None:
            outer.handed = message


class Steps:
    """A hook for `Services.watch`."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit

    def watch(self, step: Any, colour: str, link: Next, called: tuple[str, ...]) -> Next:
        """A link around a link: with a span if it is a filter's or a handler's, other than the bus's own for replies."""
        if called and called[0].startswith(LISTENER):
            return link
        if not called:

            def leave(message: Message[Any]) -> Any:
                reached(_outer.get(), message)
                return link(message)

            return leave
        handler = len(called) > 1
        label = None if called[0] == NAME else f"handle {called[1]}" if handler else f"filter {called[0]}"
        state = None if step.stats is None else functools.partial(self._state, step.stats)

        def sync(message: Message[Any]) -> Any:
            run = self._begin(called[0], label, message, state)
            try:
                result = link(message)
            except BaseException as error:
                self._end(run, None, error, handler)
                raise
            self._end(run, result, None, handler)
            return result

        async def asynchronous(message: Message[Any]) -> Any:
            run = self._begin(called[0], label, message, state)
            try:
                result = await link(message)
            except BaseException as error:
                self._end(run, None, error, handler)
                raise
            self._end(run, result, None, handler)
            return result

        return sync if colour == "sync" else asynchronous

    def _begin(self, name: str, label: str | None, message: Message[Any], state: State | None) -> Run | None:
        try:
            return Run(name, message, None if label is None else self._span(label, message), state)
        except Exception as failure:
            self.kit.failed(failure)
            return None

    def _span(self, label: str, message: Any) -> Span:
        facts = self.kit.always
        if is_a(message, Message):  # a filter may hand on anything
            facts = {**facts, names.MESSAGE_ID: bounded(message.id), **self.kit.destinations.plain(message.subject)}
        return self.kit.tracer.start_span(label, attributes=facts)

    def _state(self, stats: Callable[[], dict[str, int | float | str]]) -> dict[str, Any]:
        try:
            return {names.FILTER + name: value for name, value in stats().items()}
        except BaseException as failure:  # code of the program
            spared(failure)
            self.kit.failed(failure)
            return {}

    def _end(self, run: Run | None, result: Any, error: BaseException | None, handler: bool) -> None:
        try:
            if run is not None:
                run.end(result, error, handler)
        except Exception as failure:
            self.kit.failed(failure)
