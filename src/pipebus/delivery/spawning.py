"""
Spawning: what gives an actor its mailbox, or several of a chain theirs, or nobody.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from pipebus.delivery.actor import Actor, ActorSubscription, is_filter, vars_of
from pipebus.delivery.planning import Planner
from pipebus.delivery.subscription import Plan, Subscription
from pipebus.errors import SubscriptionError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, shown
from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.mailbox import TAKEOVER, Traffic
from pipebus.mailbox.solo import one_worker_kind
from pipebus.message.subject import check_subject
from pipebus.pipeline import compose, places, routes
from pipebus.running.runners import Timers
from pipebus.waiting.locks import free


class Spawning(Protocol):
    """What spawning asks of the bus; handed down."""

    name: str
    url: str
    transport: Any
    traffic: Traffic
    timers: Timers
    numbers: itertools.count[int]

    def enrol(
        self, plan: Plan, name: str | None, place: places.Place, make: Callable[[], ActorSubscription]
    ) -> ActorSubscription: ...
    def strike(self, subscription: Subscription, reason: str) -> None: ...


class Spawner:
    """For one bus."""

    def __init__(self, bus: Spawning, planner: Planner) -> None:
        self.bus = bus
        self.planner = planner

    def spawn(self, actor: Actor, place: places.Place, *, filters: Any = (), **options: Any) -> None:
        """What `bus.spawn` calls."""
        self._check(actor, place)
        bus, name = self.bus, plain_text(actor.name)
        subjects: Any = actor
        if name is not None:
            check_subject(name)
            subjects = (actor, name) if bus.transport.capabilities.objects else name
        elif not bus.transport.capabilities.objects:
            raise UnsupportedCapability(f"{bus.url} carries mail for named subjects only; give {type(actor).__name__} a name")
        plan = self.planner.actor_plan(actor, place, filters, **options)
        kind: Any = AskedMailbox if is_filter(actor) else one_worker_kind()
        before: list[ActorSubscription | None] = []

        def make() -> ActorSubscription:
            self._check(actor, place)  # again, under the lock: of two threads that spawn it one comes first
            before.append(actor._home)
            number = next(bus.numbers) if name is None else name
            home = ActorSubscription(plan, subjects, number, place, kind, actor=actor)
            actor.move(home)
            if before[0] is not None:
                home.mailbox.pause(TAKEOVER)  # before anybody can reach it; see `_take_over`
            return home

        try:
            home = bus.enrol(plan, name, place, make)
        except BaseException:
            if before:
                actor.move(before[0])
            raise
        if before[0] is not None:
            self._take_over(before[0], home)

    def _take_over(self, before: ActorSubscription, home: ActorSubscription) -> None:
        """An actor that was stopped is spawned again: it may still be at its last message, and has one at a time."""
        traffic = self.bus.traffic
        while before.after is not None:  # it has not even begun
            before = before.after
        home.after = before
        home.mailbox.pause(TAKEOVER)
        with free(traffic.lock):
            traffic.change(busy=1)  # a drain waits for what is to come after it

        def begin() -> None:
            home.after = None
            home.mailbox.resume(TAKEOVER)
            with free(traffic.lock):
                traffic.change(busy=-1)

        def soon() -> None:  # called under a lock, so on a thread of its own: this is rare
            try:
                threading.Thread(target=begin, name=f"{self.bus.name}-spawn", daemon=True).start()
            except RuntimeError:  # none can be had
                self.bus.timers.after(0.0, begin)

        if before.mailbox.when_idle(soon):
            begin()

    def filters(self, chain: tuple[compose.Node, ...]) -> list[Actor]:
        """Spawn the filter actors of a chain that are not spawned yet; those that are now."""
        spawned: list[Actor] = []
        try:
            for step in routes.steps(chain):
                if step.shape == "actor":
                    home = step.filter._home
                    if home is None or home.mailbox.closed_for_good() or home.plan.hub is not self.bus:
                        try:
                            self.spawn(step.filter, step.place, **DEFAULTS)
                        except SubscriptionError:
                            if not self._at_home(step.filter):
                                raise
                            continue  # another thread was faster
                        spawned.append(step.filter)
        except BaseException:
            self.undo(spawned)
            raise
        return spawned

    def _at_home(self, actor: Actor) -> bool:
        hub: Any = actor._home.plan.hub if actor._home is not None else None
        return hub is self.bus and not actor.subscription.mailbox.closed_for_good()

    def undo(self, actors: list[Actor]) -> None:
        """What they were spawned for could not be registered."""
        for actor in actors:
            self.bus.strike(actor.subscription, "unsubscribed")
            actor.move(None)

    def _check(self, actor: Any, place: places.Place) -> None:
        if not isinstance(actor, Actor):
            given = f"write {actor.__name__}()" if isinstance(actor, type) else "derive its class from Actor"
            raise SubscriptionError(f"spawn (at {place}) takes an actor, found {shown(actor)}; {given}")
        if type(actor).__eq__ is not object.__eq__ or type(actor).__hash__ is not object.__hash__:
            raise SubscriptionError(
                f"{type(actor).__name__} (spawned at {place}) is compared by value, but an actor is itself and nobody else: "
                "take __eq__ and __hash__ out, or write @dataclass(eq=False)"
            )
        name = plain_text(actor.name)
        if name is not None and (not isinstance(name, str) or not name):
            raise SubscriptionError(f"actor name {shown(actor.name)} (at {place}): it is a subject such as 'greeter', or None")
        if not is_filter(actor) and type(actor).on_message is Actor.on_message and "on_message" not in vars_of(actor):
            raise SubscriptionError(
                f"{type(actor).__name__} (spawned at {place}) has neither on_message nor filter, so it could do nothing; "
                "define `def on_message(self, message)` in it"
            )
        home = actor._home
        if home is not None and not home.mailbox.closed_for_good():
            hub: Any = home.plan.hub
            where = "on this bus" if hub is self.bus else "on another bus"
            raise SubscriptionError(f"{shown(actor)} (at {place}) is spawned already, {where} (at {home.place}); stop it first")


DEFAULTS: dict[str, Any] = {
    "run": None, "to": None, "mailbox": 10_000, "overflow": "block", "overflow_timeout": 5.0, "attempts": 3, "workers": 1,
    "deliver": "new",
}  # fmt: skip
"""For actors that a chain brings."""
