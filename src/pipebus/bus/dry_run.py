"""
A dry run on a bus that may be at work: what its publish chain makes of one message, and which subscriptions would get it.

The chain is compiled once more, by the same code, in front of a transport that only notes who listens. So nothing of the bus
changes: no figure, no mailbox, no dead letter. What a filter does itself is another matter:

- A dataclass filter runs as a copy with the same settings and no past. Copies are started and stopped, if they have such
  methods, and can read the memory that a store keeps for filters, but not write it.
- A filter actor is not asked, because that would be a message to it; the message passes it as it is.
- Any other filter, such as a function, really runs, with whatever it does elsewhere.

It runs on a thread of its own, so a filter that hangs holds up nobody: after a few seconds the run is over, and its thread is
left behind. Pauses take no time.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

from pipebus.bus.engine import Engine
from pipebus.bus.watched import Note, Watched
from pipebus.clock import SystemClock
from pipebus.delivery.subscription import Subscription
from pipebus.errors import reason_of
from pipebus.foreign.logging import get_logger
from pipebus.foreign.objects import note as add_note
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.outcomes.outcome_json import error_json, outcome_json
from pipebus.pipeline import blame, compose, recognise, shapes
from pipebus.pipeline.routes import filters_for
from pipebus.pipeline.services import Services
from pipebus.pipeline.step import Step
from pipebus.publishing.on_error import ruled
from pipebus.publishing.route import Way
from pipebus.publishing.router import Router
from pipebus.running.here import carry
from pipebus.waiting.latch import Latch
from pipebus.waiting.locks import Locks, free

LIMIT: Final = 5.0
"""Seconds for a dry run."""
UNASKED: Final = "not run: an actor is not asked in a dry run, and the message passes as it is"


class DryRun(NamedTuple):
    """
    What a dry run found.

    Args:
        notes: A note for each filter that the message came to, in order.
        outcome: What would become of it: "outcome" ("accepted", "unrouted", "dropped", "rejected" or "failed"), "by", "reason".
        reached: The subscriptions that would get it.
    """

    notes: list[Note]
    outcome: dict[str, Any]
    reached: list[Subscription]


def dry_run(
    engine: Engine, message: Message[Any], limit: float = LIMIT, then: Callable[[], object] = lambda: None
) -> DryRun:  # fmt: skip
    """
    Run a message through the publish chain, to see what becomes of it. Filters that are neither dataclasses nor actors really
    run: one that writes to a database writes.

    Args:
        engine: The parts of the bus, in any state.
        message: As it would be published.
        limit: Seconds after which the run is given up.
        then: Called when its thread ends, which may be later.
    """
    rehearsal = _Rehearsal(engine)

    def run() -> None:
        try:
            rehearsal.run(message)
        finally:
            then()

    thread = threading.Thread(target=run, name="pipebus-dry-run", daemon=True)
    try:
        thread.start()
    except BaseException:
        then()
        raise
    thread.join(limit)
    notes, outcome = list(rehearsal.notes), rehearsal.outcome
    if outcome is None:
        last = notes[-1].step.name if notes else None
        outcome = {"outcome": "failed", "by": last, "reason": f"it took longer than {limit:g} s, and was given up"}
    return DryRun(notes, {"by": None, "reason": None} | outcome, list(rehearsal.reached))


class _Clock(SystemClock):
    """The computer's clocks, where a sleep takes no time, and counts as if it had."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        return time.time() + self._skipped

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        self._skipped += seconds

    async def asleep(self, seconds: float) -> None:
        self._skipped += seconds


class _Services(Services):
    def pause(self, seconds: float, filter_name: str, until: Latch | None = None) -> bool | None:
        self.clock.sleep(seconds)
        return None if until is None else not until.give(None)


class _Memory:
    """The memory that a store keeps for filters, to be read."""

    def __init__(self, memory: shapes.Memory) -> None:
        self.seen = memory.seen

    def learn(self, scope: str, key: str, seconds: float) -> None:
        pass


class _Unasked(shapes.Transform):
    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


class _Routes(Router):
    """The routes of the bus, compiled for the dry run."""

    def __init__(self, hub: Any, real: Router) -> None:
        super().__init__(hub)
        self._real = real

    def listeners(self, subject: Any) -> list[Subscription]:
        with free(self._real.lock):
            return self._real.listeners(subject)


class _Rehearsal:
    """What runs on the thread. It is the hub and the transport of its router."""

    local = False
    direct = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.notes: list[Note] = []
        self.reached: list[Subscription] = []
        self.outcome: dict[str, Any] | None = None
        self.transport = self.ledger = self
        self.clock = _Clock()
        self.services = _Services(self.clock, engine.services.debug, nullcontext, carry)
        self.locks = Locks()
        self._copies: dict[int, Any] = {}  # by id of the original, so that one filter in two places is one copy
        self.router = _Routes(self, engine.router)

    def run(self, message: Message[Any]) -> None:
        with asyncio.Runner() as runner:
            started: list[Any] = []
            try:
                message = self.engine.sender.composer.whole(message)
                self.engine.check_address(message.subject)
                self.router.nodes = self._rehearsed(self.engine.registry.publish_nodes)
                route = self.router.fresh(message.subject)
                for step in filters_for(route.nodes, message.subject):
                    self._start(step, started, runner)
                run = route.run(Way(route.colour, strict=self.engine.strict))
                outcome = run(message) if route.colour == "sync" else runner.run(_awaited(run(message)))
                self.outcome = outcome_json(outcome)
            except BaseException as error:
                culprit = blame.unsign(error)
                self.outcome = {"by": None if culprit is None or culprit.end else culprit.name} | error_json(error)
            for one in reversed(started):
                self._stop(one, runner)

    # --- the copies ------------------------------------------------------------------------------------------------------

    def _rehearsed(self, nodes: tuple[compose.Node, ...]) -> tuple[compose.Node, ...]:
        return tuple(self._watched(node) if isinstance(node, Step) else node.of(self._rehearsed(node.nodes)) for node in nodes)

    def _watched(self, step: Step) -> Watched:
        filter, why = self._own(step)
        runs = recognise.node(filter, step.position, step.place, step.within)
        return Watched(step, runs, self.notes, why)  # type: ignore[arg-type]

    def _own(self, step: Step) -> tuple[Any, str | None]:
        """What runs in place of a filter, and why, if it is something else."""
        filter = step.filter
        if step.shape == "actor":
            return _Unasked(), UNASKED
        if not dataclasses.is_dataclass(filter) or isinstance(filter, type):
            return filter, None
        if id(filter) not in self._copies:
            try:
                settings = {one.name: _own(getattr(filter, one.name)) for one in dataclasses.fields(filter) if one.init}
                self._copies[id(filter)] = dataclasses.replace(filter, **settings)
            except Exception as error:
                return (
                    _Unasked(),
                    f"not run: it cannot be copied for a dry run ({text_of(error)}), and the message passes as it is",
                )
        return self._copies[id(filter)], None

    def _start(self, step: Step, started: list[Any], runner: asyncio.Runner) -> None:
        filter = step.filter
        if not any(filter is one for one in self._copies.values()) or any(filter is one for one in started):
            return
        started.append(filter)
        begin = getattr(filter, "start", None)
        if begin is None:
            return
        transport = self.engine.transport
        memory = _Memory(transport) if transport.capabilities.memory else None
        try:
            _finish(
                begin(shapes.Context(self.engine.bus, self.clock, get_logger(filter=step.name), step.name, memory=memory)),
                runner,
            )
        except BaseException as error:
            add_note(error, f"in the start of filter {step.name}")
            blame.blame(error, blame.StepId(step.name), None)
            raise

    def _stop(self, filter: Any, runner: asyncio.Runner) -> None:
        try:
            if (end := getattr(filter, "stop", None)) is not None:
                _finish(end(), runner)
        except BaseException as error:  # the other copies must still be stopped
            get_logger().warning("dry_run.stop_failed", error=reason_of(error))

    # --- the hub and the transport of the router -------------------------------------------------------------------------

    def delay(self) -> float:
        return 0.0

    def unrouted(self, message: Message[Any]) -> None:
        """Not counted, as nothing is."""

    def rule(self, on_error: compose.OnError) -> compose.Ruling:
        return lambda message, error, step: ruled(on_error, error, step)

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        self.reached = self.router.listeners(message.subject)
        return Receipt(len(self.reached))

    async def asend(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        return self.send(message, delay)


def _own(value: Any) -> Any:
    """The value of a setting. A container becomes one of the copy's own, because a filter may keep its state in it."""
    if type(value) is dict:
        return {key: _own(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_own(inner) for inner in value]
    return copy.copy(value) if isinstance(value, (dict, list, set, deque)) else value


def _finish(value: Any, runner: asyncio.Runner) -> None:
    if isinstance(value, Awaitable):
        runner.run(_awaited(value))


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
