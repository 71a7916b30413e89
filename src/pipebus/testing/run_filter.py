"""
run_filter: one filter alone, with a script in place of what follows it.

    run = run_filter(Retry(attempts=3, wait=0.1, jitter=0), Message("orders.placed"), next=[ConnectionError(), Receipt(1)])
    assert run.next_calls == 2 and run.pauses == [0.1] and run.outcome
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass, field
from typing import Any, Literal

from pipebus import checks, links, pipeline
from pipebus.actor import Actor
from pipebus.bus import Bus
from pipebus.errors import PipelineError, text_of
from pipebus.message import Handled, Message, Receipt
from pipebus.pipeline import Build, Node, Rest, Side
from pipebus.subject import Address, check_subject
from pipebus.testing import shown
from pipebus.testing.harness import Harness
from pipebus.testing.logs import captured_logs
from pipebus.testing.script import Script
from pipebus.testing.tape import Moment, gives, short, tell
from pipebus.testing.virtual_loop import run_loop


@dataclass(eq=False)
class FilterRun:
    """
    What a filter did with one message.

    Args:
        title: What was run.
        message: What it was given.
        forwards: The messages that it handed to the rest, one for each call of `call_next`, each as the rest got it.
        pauses: The `Pause`s that it asked for, in seconds.
        elapsed: Virtual seconds from beginning to end.
        published: Messages that it published by the way, on the bus of its context (an actor's: `self.bus`).
        logs: What it wrote through structlog: one dictionary a line, as `structlog.testing.capture_logs` has them.
        leaks: Names of context variables that it has left changed.
        error: What it raised, or None.
        moments: All of it in order: time, who, what.
    """

    title: str
    message: Message[Any]
    forwards: list[Message[Any]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    published: list[Message[Any]] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    leaks: tuple[str, ...] = ()
    error: BaseException | None = None
    moments: list[Moment] = field(default_factory=list)
    _outcome: Any = None

    @property
    def outcome(self) -> Any:
        """
        The outcome that the publisher (or the worker) would have got: `Receipt`, `Handled` or `Dropped`.

        Raises:
            What the filter raised, if it did: there is no outcome then. (`error` looks at it without raising.)
        """
        __tracebackhide__ = True
        if self.error is not None:
            raise self.error
        return self._outcome

    @property
    def forwarded(self) -> Message[Any] | None:
        """The last message that it handed on; None: it handed on none."""
        return self.forwards[-1] if self.forwards else None

    @property
    def next_calls(self) -> int:
        """How often it ran the rest."""
        return len(self.forwards)

    @property
    def dropped(self) -> str | None:
        """The reason, if its outcome is `Dropped`."""
        return getattr(self._outcome, "reason", None)

    @property
    def story(self) -> str:
        """What happened, step by step."""
        return f"{self.title}, given {short(self.message)}\n{tell(self.moments)}"

    def __repr__(self) -> str:
        end = f"raised {text_of(self.error)}" if self.error is not None else gives(self._outcome)
        return f"<{self.title}: {end}; next_calls={self.next_calls}, {self.elapsed:g} s>"


def run_filter(
    filter: Any,
    message: Any,
    next: Any = None,
    *,
    at: Side = "publish",
    colour: Literal["sync", "async"] | None = None,
) -> FilterRun:
    """
    Run one filter, or a chain of them, on one message, without a bus and in virtual time.

    Args:
        filter: Whatever `bus.use` takes: a filter of any shape and colour, a filter actor, `when`, `branch`, a `Pipeline`. Its
            `start` and `stop` are called around the run.
        message: A `Message`; or a body, which is sent to the subject "test".
        next: What the rest of the chain does. None: it accepts. A `Receipt`, a `Dropped`, with at="delivery" any value of a
            handler; an exception, or a class of exceptions, to be raised; a callable of the message, sync or async, that does
            one of these; `after(seconds, …)` for one that takes its time; a list of such steps, one for each run of the rest.
        at: "publish", or "delivery" for a filter around a handler.
        colour: "sync" or "async": which of the two a filter that can be both is run as. None: sync, if all that is given can
            be.

    Returns:
        A `FilterRun`. What the filter raises is in its `error`, and is raised by its `outcome`.

    Raises:
        PipelineError: what `bus.use` would say about it. ScriptEnded: it ran the rest more often than the list says.
    """
    run = run_once(filter, message, next, at, colour)
    shown.add(run)
    return run


def run_once(filter: Any, message: Any, next: Any, at: Side, colour: Any, starts: int = 1) -> FilterRun:
    """
    `run_filter`, of which nobody is told.

    Args:
        starts: How often the filter is started, and stopped in between.
    """
    if not isinstance(message, Message):
        message = Message("test", message)
    nodes = pipeline.nodes((filter,), pipeline.caller(), "run_filter")
    run = FilterRun(f"run_filter({', '.join(node.name for node in nodes)})", message)
    with Harness(fail_fast=False) as harness, captured_logs() as logs:
        Alone(harness, nodes, message, next, at, colour, run).go(starts)
        run.logs = list(logs)
    return run


class Alone:
    """One run."""

    def __init__(
        self, harness: Harness, nodes: tuple[Node, ...], message: Message[Any], next: Any, at: Side, colour: Any, run: FilterRun
    ) -> None:
        self.harness = harness
        self.nodes = nodes
        self.message = message
        self.at = at
        self.run = run
        self.bus = harness.attach(Bus(debug=True))
        self.script = Script(next, Receipt if at == "publish" else Handled, harness.tape, harness.clock)
        self.colour = self._colour(colour)
        checks.check(nodes, at)
        checks.check_colour(nodes, self.colour, f"it is run as {self.colour}")

    def _colour(self, wanted: Any) -> Literal["sync", "async"]:
        if self.at not in ("publish", "delivery"):
            raise PipelineError(f'run_filter: at={self.at!r}; it is "publish" or "delivery"')
        if wanted not in (None, "sync", "async"):
            raise PipelineError(f'run_filter: colour={wanted!r}; it is "sync", "async" or None')
        needs = any(step.colour == "async" for step in pipeline.steps(self.nodes)) or self.script.is_async
        if wanted == "sync" and needs:
            raise PipelineError(f'{self.run.title}: colour="sync", but a filter or `next` is async; leave `colour` out')
        return "async" if needs or wanted == "async" else "sync"

    def go(self, starts: int) -> None:
        bus, harness, run = self.bus, self.harness, self.run
        ours = self._spawn()
        harness.start(bus)
        for _ in range(starts - 1):
            bus.lifecycle.start_filters([self.nodes])
            bus.lifecycle.stop_filters()
        bus.lifecycle.start_filters([self.nodes])
        began, first = harness.elapsed, len(harness.tape.moments)
        try:
            entry = self._compile(self.message.subject, None, {})
            run._outcome = self._call(entry)
        except BaseException as error:
            links.unsign(error)
            run.error = links.trim(error)
        run.elapsed = round(harness.elapsed - began, 9)
        if harness.alone:
            harness.advance(0)
        run.forwards = self.script.forwards
        run.pauses = list(harness.tape.pauses)
        run.published = harness.published
        run.moments = [moment._replace(time=round(moment.time - began, 9)) for moment in harness.tape.moments[first:]]
        for actor in ours:
            actor.stop()
            actor.move(None)  # it may be run again
        if isinstance(run.error, (KeyboardInterrupt, SystemExit)) and not any(run.error is one for one in self.script.raised):
            raise run.error
        if self.script.ended is not None:
            raise self.script.ended

    def together(self, given: list[Message[Any]], whose: contextvars.ContextVar[int]) -> list[Any]:
        """Several messages at the same time: the outcome, or the error, of each."""
        ours = self._spawn()
        self.harness.start(self.bus)
        self.bus.lifecycle.start_filters([self.nodes])
        entry = self._compile(self.message.subject, None, {})

        def sync(number: int) -> Any:
            whose.set(number)
            try:
                return entry(given[number])
            except BaseException as error:
                return error

        async def asynchronous(number: int) -> Any:
            whose.set(number)
            try:
                return await entry(given[number])
            except BaseException as error:
                return error

        async def main() -> list[Any]:
            return await asyncio.gather(*(asynchronous(number) for number in range(len(given))))

        if self.colour == "async":
            outcomes = run_loop(self.harness._simulation, main)
        else:
            threads = [self.harness.thread(contextvars.Context().run, sync, number) for number in range(len(given))]
            outcomes = [thread.result() for thread in threads]
        for actor in ours:
            actor.stop()
            actor.move(None)
        return list(outcomes)

    def _spawn(self) -> list[Actor]:
        """Actors that stand in the chain live on the harness's bus meanwhile, if they have no home yet."""
        homeless = [
            step.filter for step in pipeline.steps(self.nodes) if isinstance(step.filter, Actor) and step.filter._home is None
        ]
        return [self.bus.spawn(actor) for actor in dict.fromkeys(homeless)]

    def _compile(self, subject: Any, rest: Rest | None, known: dict[Any, links.Next]) -> links.Next:
        """The chain; or, behind a filter that has changed the subject, what follows it."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, Address):
            raise PipelineError(f"run_filter: {subject!r} is no subject")
        terminal = self.script.sync(subject) if self.colour == "sync" else self.script.asynchronous(subject)
        build = Build(
            side=self.at,
            colour=self.colour,
            subject=subject,
            terminal=terminal,
            services=self.bus.services,
            resume=self._compile,
            rule=self.bus.rule,
            place="publish" if self.at == "publish" else "test",
        )
        link = pipeline.compile(self.nodes, build) if rest is None else pipeline.resume(rest, build)
        known[subject] = link
        return link

    def _call(self, entry: links.Next) -> Any:
        """In a context of its own, as a publisher or a worker would."""

        def main_sync() -> Any:
            before = contextvars.copy_context()
            try:
                return entry(self.message)
            finally:
                self.run.leaks = changed(before)

        if self.colour == "sync":
            return contextvars.copy_context().run(main_sync)
        raised: list[BaseException] = []

        async def main() -> Any:
            before = contextvars.copy_context()
            try:
                return await entry(self.message)
            except BaseException as error:  # a task would make another object of a CancelledError
                raised.append(error)
                return None
            finally:
                self.run.leaks = changed(before)

        outcome = run_loop(self.harness._simulation, main)
        if raised:
            raise raised.pop()
        return outcome


def changed(before: contextvars.Context) -> tuple[str, ...]:
    """Names of the context variables that have another value here than in `before`."""
    now = contextvars.copy_context()
    missing = object()
    return tuple(sorted(v.name for v in {*before, *now} if before.get(v, missing) is not now.get(v, missing)))
