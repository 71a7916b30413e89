"""The lives of filters: which have started, who keeps them running, and their `start` and `stop`."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from pipebus.delivery.subscription import Subscription
from pipebus.foreign.logging import get_logger
from pipebus.foreign.objects import is_a, note, spared, text_of
from pipebus.mailbox import control
from pipebus.pipeline import compose, routes, shapes
from pipebus.pipeline.step import Step
from pipebus.running.here import attempt
from pipebus.waiting.locks import free

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

_at_filters: Final[contextvars.ContextVar[AtFilters | None]] = contextvars.ContextVar("pipebus.at_filters", default=None)
"""Set while the code of a filter's start or stop runs here."""


class AtFilters:
    """The lives of which one starts or stops here; emptied after that, for tasks that the filter leaves running."""

    __slots__ = ("lives",)

    def __init__(self, lives: FilterLives) -> None:
        self.lives: FilterLives | None = lives


class FilterLives:
    """
    The lives of one bus's filters.

    Args:
        bus: The parts of the bus: `bus`, `clock`, `timers`, `transport`, `ledger`, `loop_thread`, `router`,
            `delivery_nodes`, `locks`.
        interrupted: Called with a SystemExit of a filter's `stop`.
        ended_by_stop: Whether the stop of the bus caused an error.
    """

    def __init__(
        self, bus: Any, interrupted: Callable[[BaseException, str], None], ended_by_stop: Callable[[BaseException], bool]
    ) -> None:
        self.bus = bus
        self.interrupted = interrupted
        self.ended_by_stop = ended_by_stop
        self._started: list[Step] = []
        self._running: set[int] = set()  # ids of the filter objects that have started, or are about to
        self._holders: dict[Subscription, None] = {}  # subscriptions with filters of their own
        self._held: dict[int, int] = {}  # by id of a filter object: how many of these have it
        self._claiming = bus.locks.new()

    def start(self, chains: Iterable[tuple[compose.Node, ...]]) -> None:
        """Start all filter objects that have not started, in the order of the chains; if one fails, stop those before it."""
        begun: list[Step] = []
        for chain in chains:
            for step in routes.steps(chain):
                if step.shape == "actor" or not self._claim(step):
                    continue
                try:
                    begin = getattr(step.filter, "start", None)
                    if begin is not None:
                        log = get_logger(filter=step.name)
                        self._call(begin, self._context(step.name, log))
                except BaseException as error:
                    note(error, f"in the start of filter {step.name}")
                    self._running.discard(id(step.filter))
                    self._end(begun)
                    raise
                begun.append(step)
        with self._claiming:
            self._started += begun

    def stop(self) -> list[str]:
        """Stop all that have started; the errors of those that failed to stop."""
        with self._claiming:
            started, self._started = self._started, []
        return self._end(started)

    def here(self) -> bool:
        """Whether the caller is the code of a filter that is starting or stopping."""
        here = _at_filters.get()
        return here is not None and here.lives is self

    def own_chains(self) -> list[tuple[compose.Node, ...]]:
        """The chains of subscriptions that have filters of their own."""
        with free(self._claiming):
            return [subscription.plan.nodes for subscription in self._holders]

    def hold(self, subscription: Subscription) -> None:
        """Keep a subscription's own filters running until all subscriptions that have them are released."""
        if not subscription.plan.nodes:
            return
        with free(self._claiming):
            self._holders[subscription] = None
            for filter in {id(step.filter) for step in routes.steps(subscription.plan.nodes)}:
                self._held[filter] = self._held.get(filter, 0) + 1

    def release(self, subscription: Subscription) -> list[Any]:
        """
        Stop the filters that only this subscription has, after it was removed and its last handler has ended.

        Returns:
            The stopped filters.
        """
        if not subscription.plan.nodes:
            return []
        gone: dict[int, Any] = {}
        with free(self._claiming):
            if self._holders.pop(subscription, self) is not None:
                return []  # it was released before
            for filter, one in {id(step.filter): step.filter for step in routes.steps(subscription.plan.nodes)}.items():
                self._held[filter] -= 1
                if not self._held[filter]:
                    del self._held[filter]
                    gone[filter] = one
            for step in routes.steps((*self.bus.router.nodes, *self.bus.delivery_nodes)):
                gone.pop(id(step.filter), None)
            ended = [step for step in self._started if id(step.filter) in gone]
            self._started = [step for step in self._started if id(step.filter) not in gone]
        self._end(ended)
        return list(gone.values())

    def _context(self, name: str, log: Any) -> shapes.Context:
        transport = self.bus.transport
        return shapes.Context(
            self.bus.bus, self.bus.clock, log, name, self.ended_by_stop,
            transport if transport.capabilities.memory else None, getattr(transport, "if_undone", lambda call: None), attempt,
            self._pause, self.bus.timers.after, self.bus.ledger.emit,
        )  # fmt: skip

    def _pause(self, place: str) -> Callable[[], None]:
        """`Context.pause`."""
        found = next((one for one in self.bus.router.subscriptions() if one.name == place), None)
        return control.hold(found) if found is not None else lambda: None

    def _claim(self, step: Step) -> bool:
        """Whether the caller may start a filter object; True only once."""
        with self._claiming:
            if id(step.filter) in self._running:
                return False
            self._running.add(id(step.filter))
            return True

    def _end(self, started: list[Step]) -> list[str]:
        """Stop filters in reverse order; an error in one does not keep the others from stopping."""
        errors: list[str] = []
        for step in reversed(started):
            self._running.discard(id(step.filter))
            try:
                end = getattr(step.filter, "stop", None)
                if end is not None:
                    self._call(end)
            except BaseException as error:  # the other filters must still be stopped
                spared(error)
                errors.append(f"{step.name}: {text_of(error)}")
                if is_a(error, SystemExit):
                    self.interrupted(error, f"the stop of filter {step.name}")
                self.bus.ledger.failed("filter.stop_failed", error, filter=step.name)
        return errors

    def _call(self, act: Callable[..., Any], *arguments: Any) -> None:
        """Call a filter's `start` or `stop`; if it is async, on the bus's loop."""
        here = AtFilters(self)
        token = _at_filters.set(here)
        try:
            value = act(*arguments)
            if isinstance(value, Awaitable):

                async def wait() -> None:
                    await value

                asyncio.run_coroutine_threadsafe(wait(), self.bus.loop_thread.loop()).result()
        finally:
            _at_filters.reset(token)
            here.lives = None
