"""
Who takes part: filters, subscriptions, actors and schedules, from the call that registers them to the one that ends them.

A registration is complete when its call returns: the subscription is in the router, its filters have started, and its
transport knows of it. If any of these steps fails, the ones before are undone.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, Final, TypeVar

from pipebus.bus.handlers import Handlers
from pipebus.bus.lifecycle import Lifecycle
from pipebus.bus.origins import FromFile
from pipebus.delivery import verdicts
from pipebus.delivery.actor import Actor
from pipebus.delivery.chain import compile_for
from pipebus.delivery.plan import Plan
from pipebus.delivery.planning import DEFAULTS, Machinery, Planner, check_delivery
from pipebus.delivery.spawning import Spawner
from pipebus.delivery.subscription import LISTENER, Subscription, kind_for
from pipebus.errors import BusClosed, LifecycleError, PipelineError, SubscriptionError
from pipebus.foreign.objects import plain_text, shown
from pipebus.mailbox import control
from pipebus.mailbox.claims import LoopGate
from pipebus.mailbox.inbox import Inbox
from pipebus.mailbox.offering import closed_for_good
from pipebus.message.subject import Subject
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.pipeline import callables, places
from pipebus.pipeline import rules as chain_rules
from pipebus.pipeline.compose import Node, Side
from pipebus.pipeline.recognise import nodes
from pipebus.publishing.expected import expected
from pipebus.publishing.router import Router
from pipebus.running.here import current_mailbox
from pipebus.running.timers import Timers
from pipebus.transports.base import Transport
from pipebus.waiting.elsewhere import in_thread
from pipebus.waiting.locks import Locks

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

S = TypeVar("S", bound=Subscription)

_made: Final[contextvars.ContextVar[list[Subscription] | None]] = contextvars.ContextVar("pipebus.made", default=None)
"""What has been subscribed and spawned in this `include` so far."""


class Registry:
    """
    The filters, subscriptions and actors of one bus.

    Args:
        hub: What actors belong to.
        listener: The one name that starts with LISTENER and may be registered: the bus's own, which hears replies.
        bind: Makes the transport deliver to a subscription.
        check_binding: Raises if the transport cannot serve a subscription.
    """

    def __init__(
        self, hub: Machinery, *, name: str, locks: Locks, transport: Transport, lifecycle: Lifecycle, router: Router,
        planner: Planner, timers: Timers, listener: str, from_file: FromFile,
        bind: Callable[[Subscription], None], check_binding: Callable[[Subscription], None],
    ) -> None:  # fmt: skip
        self.bind = bind
        self.check_binding = check_binding
        self.name = name
        self.locks = locks
        self.transport = transport
        self.lifecycle = lifecycle
        self.router = router
        self.planner = planner
        self.timers = timers
        self.listener = listener
        self.from_file = from_file
        self.numbers = itertools.count(1)  # for subscriptions without a name
        self.spawner = Spawner(hub, planner, self.enrol, self.strike, self.numbers)
        self.delivery_nodes: tuple[Node, ...] = ()  # around every handler
        self.enclosing: tuple[Node, ...] = ()  # the outermost of both chains, which no file writes: see `enclose`
        self._names: dict[str, Subscription] = {}

    # --- filters -------------------------------------------------------------------------------------------------------

    def use(self, *filters: Any, at: Side = "publish") -> Any:
        """`Bus.use`."""
        if at not in ("publish", "delivery"):
            raise PipelineError(f'use(at={shown(at)}): it is "publish" or "delivery"')
        self.locks.check()
        with self.lifecycle.lock:
            self._check_chains("filters cannot be added after start", "use()")
            added = nodes(filters, places.caller(), "use")
            if at == "publish":
                chain = (*self.router.nodes, *added)
                chain_rules.check(chain, "publish")
                self.spawner.filters(added)
                self.router.nodes = chain
                self.router.forget_all()
            else:
                chain = (*self.delivery_nodes, *added)
                chain_rules.check(chain, "delivery")
                for subscription in self.router.subscriptions():
                    check_delivery(subscription, chain)
                self.spawner.filters(added)
                self.delivery_nodes = chain
        if filters:
            return filters[0] if len(filters) == 1 else None

        def misplaced(filter: Any) -> Any:
            option = "" if at == "publish" else f', at="{at}"'
            raise PipelineError(
                f"use is given no filter; write @bus.use without parentheses, or bus.use({callables.name_of(filter)}{option})"
            )

        return misplaced

    def enclose(self, publish: Any, delivery: Any) -> None:
        """Put one filter around the whole publish chain and one around each delivery chain, whatever `use` adds later."""
        self.locks.check()
        with self.lifecycle.lock:
            self._check_chains("a bus cannot be instrumented after its start", "instrument()")
            self.enclosing = nodes((publish, delivery), places.caller(), "enclose")
            self.router.nodes = (self.enclosing[0], *self.router.nodes)
            self.delivery_nodes = (self.enclosing[1], *self.delivery_nodes)
            self.router.forget_all()

    @property
    def publish_nodes(self) -> tuple[Node, ...]:
        """The publish chain without what encloses it."""
        return tuple(node for node in self.router.nodes if node not in self.enclosing)

    def _check_chains(self, text: str, call: str) -> None:
        if self.lifecycle.state not in ("new", "stopped"):
            raise LifecycleError(f"{text}: chains are frozen; call {call} before start()")

    # --- subscriptions -------------------------------------------------------------------------------------------------

    def named(self, name: str) -> Subscription | None:
        """The subscription of that name, if the user has given it."""
        return self._names.get(name)

    def subscribe(
        self, place: places.Place, subject: Any, handler: Callable[..., Any] | None, *, name: Any = None, filters: Any = (),
        **options: Any,
    ) -> Subscription:  # fmt: skip
        """
        `Bus.subscribe`.

        Args:
            place: What errors and `explain` name as the place of registration.
        """
        self.locks.check()
        if len(options) < len(DEFAULTS):
            options = {**DEFAULTS, **options}  # before `reads`, which has no default
        name = plain_text(name)
        subjects = self.planner.subjects(subject)
        expected(subject, None)  # here, because a requester cannot correct the subject
        owner: Any = handler.__self__ if isinstance(handler, MethodType) else handler
        if isinstance(owner, Actor) and (handler is owner or handler == owner.on_message):
            raise SubscriptionError(
                f"{shown(owner)} (at {place}) handles one message at a time, from a mailbox of its own, so it cannot serve "
                f"another subscription; write bus.spawn({type(owner).__name__}(…), subjects={shown(subject)})"
            )
        if handler is None and isinstance(subject, Subject) and subject.type is not Any:
            options["reads"] = subject.type
        plan = self.planner.plan(handler, place, name, filters, **options)
        return self.enrol(plan, name, place, lambda: kind_for(plan)(plan, subjects, name or next(self.numbers), place))

    def include(self, bus: Any, handlers: Iterable[Handlers]) -> None:
        """`Bus.include`."""
        for one in handlers:
            if not isinstance(one, Handlers):
                raise SubscriptionError(f"include takes Handlers, found {shown(one)}; use bus.subscribe for a single function")
            made: list[Subscription] = []
            token = _made.set(made)
            try:
                for subject, handler, options, place in one.hand_over(bus):
                    self.subscribe(place, subject, handler, **options)
            except BaseException:
                for subscription in made:  # all of them with their filter actors, or none
                    self.strike(subscription, "unsubscribed")
                one.take_back(bus)
                raise
            finally:
                _made.reset(token)

    def enrol(self, plan: Plan, name: str | None, place: places.Place, make: Callable[[], S]) -> S:
        """Make a subscription and register it."""
        self.lifecycle.check_process()
        if name == PUBLISH:
            raise SubscriptionError(f'name="{name}" (at {place}): that is what the publish chain is called; choose another')
        if isinstance(name, str) and name.startswith(LISTENER) and name != self.listener:
            raise SubscriptionError(
                f'name="{name}" (at {place}): names that start with "{LISTENER}" belong to the bus, which keeps nothing for '
                "them; choose another"
            )
        if name is not None and (not isinstance(name, str) or not name or not name.isprintable()):
            raise SubscriptionError(f"name={shown(name)} (at {place}): a name is a printable string that is not empty")
        with self.lifecycle.lock:
            self._check_open()
            if name is not None and name in self._names:
                raise SubscriptionError(
                    f'subscription "{name}" (at {place}) exists already (at {self._names[name].place}); choose another name'
                )
            subscription = make()
            check_delivery(subscription, self.delivery_nodes)
            if not self.transport.local:  # here, because a start that is refused would leave others in the store
                self.check_binding(subscription)
            self.lifecycle.filters.hold(subscription)
            if name is not None:
                self._names[name] = subscription
        spawned: list[Actor] = []
        try:
            # Without the lock, because a filter's start may itself subscribe, even from the bus's loop.
            if plan.nodes:
                spawned += self.spawner.filters(plan.nodes)
            while True:
                seen = self.lifecycle.turns
                if self.lifecycle.state == "started" and plan.nodes:
                    self.lifecycle.filters.start([plan.nodes])
                with self.lifecycle.lock:
                    self._check_open()
                    if self.lifecycle.turns == seen or not plan.nodes:  # else the bus has started or stopped meanwhile
                        self._open(subscription)
                        break
        except BaseException:
            if name is not None and self._names.get(name) is subscription:
                del self._names[name]
            self.spawner.undo(spawned)
            self._release(subscription)
            raise
        made = _made.get()
        if made is not None:
            made.append(subscription)
        return subscription

    def _check_open(self) -> None:
        if self.lifecycle.state == "draining":
            raise BusClosed("the bus is stopping: it takes no more subscriptions")

    def _open(self, subscription: Subscription) -> None:
        """Called under the lock; from here on messages reach the subscription."""
        plan, started = subscription.plan, self.lifecycle.state == "started"
        if closed_for_good(subscription):
            raise SubscriptionError(f"{subscription.name} was stopped while it was being spawned")
        if plan.bound is None:
            subscription.inbox = Inbox(subscription)
        if started and plan.pool is not None:
            plan.pool.start()
        if self.lifecycle.state == "stopped":  # a publish that began earlier may still be in a filter, and arrive here
            control.close(subscription, "stopped", keep=True)
        compile_for(subscription, self.delivery_nodes)
        if started and not self.transport.local:
            self.bind(subscription)
        self.router.add(subscription)

    # --- the end of a subscription -------------------------------------------------------------------------------------

    def unsubscribe(self, subscription: Subscription, timeout: float | None = None) -> None:
        """`Subscription.unsubscribe`."""
        self.lifecycle.check_process()
        own = current_mailbox() is subscription
        if asyncio._get_running_loop() is not None and not own:
            raise LifecycleError("unsubscribe waits for the handler that runs; on an event loop use `await sub.aunsubscribe()`")
        self.locks.check()
        self.strike(subscription, "unsubscribed", release=own)
        if subscription.inbox is not None:
            subscription.inbox.wake_all()
        elif not own and not control.wait_idle(subscription, timeout):
            self._release_when_idle(subscription)
            raise self._still_running(subscription, timeout)
        if not own:
            self._release(subscription)

    async def aunsubscribe(self, subscription: Subscription, timeout: float | None = None) -> None:
        """`Subscription.aunsubscribe`."""
        self.lifecycle.check_process()
        own = current_mailbox() is subscription
        self.strike(subscription, "unsubscribed", release=own)
        if own:
            return
        if subscription.inbox is not None:
            subscription.inbox.wake_all()
        else:
            gate = LoopGate()
            if not control.when_ended(subscription, gate.release) and not await gate.wait(timeout):
                self._release_when_idle(subscription)
                raise self._still_running(subscription, timeout)
        if subscription.plan.nodes:
            await in_thread(self._release, subscription)

    def end(self, subscription: Subscription, reason: str) -> None:
        """`Actor.stop`: unsubscribe without waiting."""
        self.lifecycle.check_process()
        self.locks.check()
        self.strike(subscription, reason)

    def strike(self, subscription: Subscription, reason: str, release: bool = True) -> None:
        """
        Remove a subscription from the bus; its queued messages are dropped.

        Args:
            release: Also stop its filters, as soon as no handler runs. Otherwise the caller does so.
        """
        with self.lifecycle.lock:
            self.router.remove(subscription)
            self.from_file.subscriptions.pop(subscription.name, None)
            if subscription.named and self._names.get(subscription.name) is subscription:
                del self._names[subscription.name]
            if self.lifecycle.state == "started" and not self.transport.local:
                self.transport.unbind(subscription.name)
            gone = control.close(subscription, reason, keep=False)
        for item in gone:
            verdicts.discarded(subscription, item, reason, None, keep=True)
        if subscription.plan.pool is not None:
            subscription.plan.pool.stop(0.0)  # its threads end; a busy one ends with its handler
        if release:
            self._release_when_idle(subscription)

    def _release(self, subscription: Subscription) -> None:
        """Stop and forget the filters that no other subscription uses."""
        gone = self.lifecycle.filters.release(subscription)
        if gone:
            self.planner.forget(gone)

    def _release_when_idle(self, subscription: Subscription) -> None:
        """`_release`, once the handler that runs now has ended."""
        if not subscription.plan.nodes:
            return

        def soon() -> None:  # called under a lock, and a filter's stop may take long
            thread = threading.Thread(target=self._release, args=(subscription,), name=f"{self.name}-filters", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left
                self.timers.after(0.0, lambda: self._release(subscription))

        if control.when_idle(subscription, soon):
            self._release(subscription)

    @staticmethod
    def _still_running(subscription: Subscription, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"a handler of {subscription.name} still runs after {timeout:g} s; no other will start")
