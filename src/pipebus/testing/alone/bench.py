"""FilterBench: one filter in virtual time, and any number of messages through it; `run_filter` is the same for one message."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Final, Literal

from pipebus.bus.bus import Bus, engine_of
from pipebus.delivery.actor import Actor
from pipebus.errors import LifecycleError, PipelineError, SubjectError
from pipebus.mailbox.offering import closed_for_good
from pipebus.message.message import Message
from pipebus.message.outcomes import Handled, Receipt
from pipebus.message.patterns import Pattern
from pipebus.message.subject import Address, check_subject
from pipebus.pipeline import blame, compose, places, recognise, routes, rules
from pipebus.pipeline.compose import Side
from pipebus.testing.alone.own_files import own_files
from pipebus.testing.alone.replies import advise, subscribe, without_replies
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.alone.script import Script, expected_subject
from pipebus.testing.harness import shown
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.tape import Moment
from pipebus.testing.harness.words import gives, raises, short
from pipebus.testing.logs import captured_logs
from pipebus.testing.simulation.blocking import clocks
from pipebus.testing.simulation.threads import Stuck
from pipebus.testing.simulation.virtual_loop import run_loop

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

AS_BEFORE: Final = object()
ANY: Final = Pattern(">")
QUIET: Final = frozenset({"decimal_context"})
"""Context variables of the standard library that are set when they are read."""

whose: Final[contextvars.ContextVar[int | None]] = contextvars.ContextVar("pipebus.testing.whose", default=None)
"""Which of the messages that are sent together a thread or task is working on."""


class FilterBench:
    """
    A filter, or a chain of filters, that is set up once; `send` runs it. For filters that remember earlier messages.

    Args:
        filter, next, at, colour, replies: As for `run_filter`.
        told: Show the story of each message if the test fails.

    Raises:
        PipelineError: The error that `bus.use` would raise.
    """

    def __init__(
        self,
        filter: Any,
        next: Any = None,
        *,
        at: Side = "publish",
        colour: Literal["sync", "async"] | None = None,
        replies: Mapping[Any, Any] | None = None,
        told: bool = True,
    ) -> None:
        __tracebackhide__ = True
        if isinstance(filter, (list, tuple)):
            raise PipelineError("run_filter takes one filter; several are one chain, Pipeline(first, second)")
        if isinstance(filter, Message):
            raise PipelineError("run_filter takes the filter first, and then the message")
        if at not in ("publish", "delivery"):
            raise PipelineError(f'run_filter: at={at!r}; it is "publish" or "delivery"')
        self.at = at
        self.nodes = recognise.nodes((filter,), places.caller(), "run_filter" if told else "check_filter")
        self.title = f"run_filter({', '.join(node.name for node in self.nodes)})"
        self.harness = Harness(fail_fast=False, told=False)
        self.script = Script(next, Receipt if at == "publish" else Handled, self.harness.tape, self.harness.clock)
        self.colour = self._colour(colour)
        self._told = told
        self._replies = replies
        self._stack = ExitStack()
        self._entries: dict[Any, compose.Next] = {}
        self._actors: list[Actor] = []
        self._lines: list[Any] = []
        self._news_so_far = (0, 0)
        self._foreign = self.harness._simulation.foreign
        self._known = len(self._foreign)
        self._stopped = False
        rules.check(self.nodes, at)
        why = "`next` is async" if colour is None and self.script.is_async else f"it is run as {self.colour}"
        rules.check_colour(self.nodes, self.colour, why)

    def _colour(self, wanted: Any) -> Literal["sync", "async"]:
        if wanted not in (None, "sync", "async"):
            raise PipelineError(f'run_filter: colour={wanted!r}; it is "sync", "async" or None')
        needs = any(step.colour == "async" for step in routes.steps(self.nodes)) or self.script.is_async
        if wanted == "sync" and needs:
            raise PipelineError(f'{self.title}: colour="sync", but a filter or `next` is async; leave `colour` out')
        return "async" if needs or wanted == "async" else "sync"

    def __enter__(self) -> FilterBench:
        if self.colour == "async" and asyncio._get_running_loop() is not None:
            raise LifecycleError(
                f"{self.title} needs an event loop in virtual time, and was called on a running one; write a plain `def` test"
            )
        with ExitStack() as stack:
            stack.enter_context(self.harness)
            stack.enter_context(clocks(own_files(*(step.filter for step in routes.steps(self.nodes)))))
            self._lines = stack.enter_context(captured_logs())
            self.bus = self.harness.attach(Bus(name=self.title, debug=True))
            self.harness.tape.quiet(self.bus)
            subscribe(self.bus, self._replies)
            self._check_homes()
            self._spawn()
            self.harness.start(self.bus)
            engine_of(self.bus).lifecycle.filters.start([self.nodes])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._stack:
            if self.harness.usable:
                self._stop(quietly=kind is not None)

    def advance(self, seconds: float) -> None:
        """Let time pass between two messages."""
        self.harness.advance(seconds)

    def restart(self) -> None:
        """
        Stop the filters and start them again, as a bus does.

        Raises:
            What their `stop` or `start` raises.
        """
        self._stop_filters()
        engine_of(self.bus).lifecycle.filters.start([self.nodes])

    def send(self, message: Any, next: Any = AS_BEFORE) -> FilterRun:
        """
        Send one message through the filter.

        Args:
            message: As for `run_filter`.
            next: What the rest does from now on; the same as before if not given.

        Raises:
            ScriptEnded: The filter ran the rest more often than the list has steps. RuntimeError: A thread of the filter's
                own used `call_next` or the bus.
        """
        __tracebackhide__ = True
        if not self.harness.usable:
            raise LifecycleError(f"{self.title} is not set up, or was closed; use `with FilterBench(…) as bench:`")
        return self.send_and(message, next, stop=False)

    def send_and(self, message: Any, next: Any, *, stop: bool) -> FilterRun:
        """`send`; then, with `stop`, stop the filter: what it publishes and logs as it stops belongs to the run."""
        if not isinstance(message, Message):
            message = Message("test", message)
        run = FilterRun(self.title, message, given=short(message))
        if self._told:
            shown.add(run)
        harness, tape, script = self.harness, self.harness.tape, self.script
        script.begin(script.given if next is AS_BEFORE else next)
        if script.is_async and self.colour == "sync":
            raise PipelineError(f"{self.title} is run as sync, but `next` is async; give an async `next` to FilterBench itself")
        began, moments, pauses = harness.elapsed, len(tape.moments), len(tape.pauses)
        try:
            run._outcome = self._call(self._entry(message.subject), message, run)
        except BaseException as error:
            blame.unsign(error)
            advise(error)
            run._error = run.unseen = blame.trim(error)
            run._traceback = error.__traceback__
        run.elapsed = round(harness.elapsed - began, 9)
        if harness.alone and harness.usable:
            harness.advance(0)
        if stop and harness.usable:
            self._stop(quietly=False)
        run.forwards = script.forwards
        run.pauses = tape.pauses[pauses:]
        run.published, run.logs = self._news()
        run.moments = tape.since(moments, began)
        self._add_the_end(run)
        ended = run._error
        if isinstance(ended, (KeyboardInterrupt, SystemExit)) and not any(ended is one for one in script.raised):
            run.unseen = None
            raise ended
        foreign = self._foreign[self._known :]
        self._known += len(foreign)
        wrong = script.wrong or (foreign[0] if foreign else None)
        if wrong is not None:
            run.unseen = None
            raise wrong
        return run

    def _news(self) -> tuple[list[Message[Any]], list[Any]]:
        """What was published and logged since the last message; for the first message, since the filter's `start`."""
        published, lines = self._news_so_far
        self._news_so_far = len(self.harness.published), len(self._lines)
        own = [line for line in self._lines[lines:] if line.get("bus") != self.bus.name]
        return without_replies(self.harness.published[published:]), own

    def _add_the_end(self, run: FilterRun) -> None:
        """Add the outcome to the story if no filter's line shows it: a predicate or a Pipeline's `on_error` decided it."""
        end = raises(run._error) if run._error is not None else gives(run._outcome)
        if isinstance(run._error, Stuck):
            end = "waits for something that never comes"
        said = run.moments[-1].what if run.moments else ""
        if said != end and not (run._error is not None and said.startswith("lets ")):
            run.moments.append(Moment(run.elapsed, ", ".join(node.name for node in self.nodes), end))

    def together(self, given: list[Message[Any]]) -> list[Any]:
        """Send messages of one subject at the same time, each with its number as `whose`; return their outcomes or errors."""
        entry = self._entry(given[0].subject)

        def begin(number: int) -> Message[Any]:
            whose.set(number)
            expected_subject.set(given[number].subject)
            return given[number]

        def sync(number: int) -> Any:
            try:
                return entry(begin(number))
            except BaseException as error:
                return error

        async def asynchronous(number: int) -> Any:
            try:
                return await entry(begin(number))
            except BaseException as error:
                return error

        async def main() -> list[Any]:
            return await asyncio.gather(*map(asynchronous, range(len(given))))

        if self.colour == "async":
            return list(run_loop(self.harness._simulation, main))
        thread = self.harness.thread
        threads = [thread(contextvars.Context().run, sync, n, name=f"message {n + 1}") for n in range(len(given))]
        return [one.result() for one in threads]

    # --- setting up and taking down ------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        """Spawn the actors of the chain on the harness's bus, if they are not spawned elsewhere."""
        for step in routes.steps(self.nodes):
            if isinstance(step.filter, Actor) and _homeless(step.filter):
                step.filter.move(None)
                self._actors.append(self.bus.spawn(step.filter))

    def _check_homes(self) -> None:
        for step in routes.steps(self.nodes):
            home = step.filter._home if isinstance(step.filter, Actor) and not _homeless(step.filter) else None
            if home is not None and home.plan.hub.clock is not self.harness.clock:
                raise PipelineError(
                    f"filter actor {step.name} lives on {home.plan.hub.bus!r}, which is not in virtual time; "
                    "give run_filter one that is not spawned"
                )

    def _stop(self, quietly: bool) -> None:
        if self._stopped:
            return
        self._stopped = True
        try:
            self._stop_filters(quietly)
        finally:
            for actor in self._actors:
                actor.stop()
                actor.move(None)  # so that it can be run again

    def _stop_filters(self, quietly: bool = False) -> None:
        """Raises what a filter's `stop` raises."""
        warnings = self.harness.tape.warnings
        before = len(warnings)
        engine_of(self.bus).lifecycle.filters.stop()
        for name, _, cause in warnings[before:]:
            if name == "filter.stop_failed" and cause is not None and not quietly:
                raise cause

    # --- running -------------------------------------------------------------------------------------------------------

    def _entry(self, subject: Any) -> compose.Next:
        """The chain for a subject. In delivery it is the same for all subjects, as in a subscription."""
        key = subject if self.at == "publish" else ANY
        return self._entries.get(key) or self._compile(key, None, self._entries)

    def _compile(self, subject: Any, rest: compose.Rest | None, known: dict[Any, compose.Next]) -> compose.Next:
        """Build the chain as a bus would; or, after a filter that has changed the subject, the rest of the chain."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, (Address, Pattern)):
            raise SubjectError(f"{subject!r} is not a subject; use a string, an actor or Ref(obj)")
        terminal = self.script.sync if self.colour == "sync" else self.script.asynchronous
        build = compose.Build(
            side=self.at,
            colour=self.colour,
            subject=subject,
            terminal=terminal(subject if self.at == "publish" else None),
            services=engine_of(self.bus).services,
            recompile=self._compile,
            rule=engine_of(self.bus).rule,
            place="publish" if self.at == "publish" else "test",
        )
        known[subject] = link = compose.compile(self.nodes, build) if rest is None else compose.resume(rest, build)
        return link

    def _call(self, entry: compose.Next, message: Message[Any], run: FilterRun) -> Any:
        """Run the chain in a context of its own, as a publisher or a worker would."""

        def main_sync() -> Any:
            with self._noted(message, run):
                return entry(message)

        if self.colour == "sync":
            return contextvars.copy_context().run(main_sync)
        raised: list[BaseException] = []

        async def main() -> Any:
            with self._noted(message, run):
                try:
                    return await entry(message)
                except BaseException as error:  # a task would replace a CancelledError by another one
                    if isinstance(error, asyncio.CancelledError) and not any(error is one for one in self.script.raised):
                        raise  # Ctrl-C
                    raised.append(error)
                    return None
                finally:
                    others = asyncio.all_tasks() - {asyncio.current_task()}
                    run._tasks = [task for task in others if not task._callbacks]

        outcome = run_loop(self.harness._simulation, main)
        if raised:
            raise raised.pop()
        return outcome

    @contextmanager
    def _noted(self, message: Message[Any], run: FilterRun) -> Iterator[None]:
        """Note which context variables are left changed."""
        expected_subject.set(message.subject)
        before = contextvars.copy_context()
        try:
            yield
        finally:
            if self.harness.usable:  # what is stuck is ended anywhere, perhaps in another context
                run.leaks = _changed(before)


def _homeless(actor: Actor) -> bool:
    return actor._home is None or closed_for_good(actor._home)


def _changed(before: contextvars.Context) -> tuple[str, ...]:
    """Names of the context variables whose value now is not the same as in `before`."""
    now = contextvars.copy_context()

    def value(context: contextvars.Context, variable: contextvars.ContextVar[Any]) -> Any:
        found = context.get(variable, ...)
        return None if found is ... else found  # unset, or unbound as structlog has it, or reset to nothing

    return tuple(sorted(v.name for v in {*before, *now} if v.name not in QUIET and not _equal(value(before, v), value(now, v))))


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:
        return False
