"""Spawning: giving an actor its mailbox, or giving all filter actors of a chain theirs, all or none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from pipebus.delivery.actor import Actor, ActorSubscription, filter_timeout, is_filter, kind_for, vars_of
from pipebus.delivery.plan import Plan
from pipebus.delivery.planning import DEFAULTS, Machinery, Planner
from pipebus.delivery.subscription import Subscription
from pipebus.errors import SubscriptionError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, shown
from pipebus.mailbox import control
from pipebus.mailbox.offering import closed_for_good
from pipebus.mailbox.rare import TAKEOVER
from pipebus.message.subject import check_subject
from pipebus.pipeline import compose, places, routes


class Enrol(Protocol):
    """`Registry.enrol`, for the subscriptions of actors."""

    def __call__(
        self, plan: Plan, name: str | None, place: places.Place, make: Callable[[], ActorSubscription], /
    ) -> ActorSubscription: ...


class Spawner:
    """
    Spawns the actors of one bus.

    Args:
        enrol: Registers a subscription.
        strike: Removes a subscription, for a reason.
        numbers: Number the subscriptions that have no name.
    """

    def __init__(
        self, bus: Machinery, planner: Planner, enrol: Enrol, strike: Callable[[Subscription, str], None],
        numbers: itertools.count[int],
    ) -> None:  # fmt: skip
        self.bus = bus
        self.planner = planner
        self.enrol = enrol
        self.strike = strike
        self.numbers = numbers

    def spawn(self, actor: Actor, place: places.Place, more: Any = (), *, filters: Any = (), **options: Any) -> None:
        """
        `Bus.spawn`.

        Args:
            place: What errors and `explain` name as the place of registration.
            more: Subjects and patterns other than the actor itself and its name.
        """
        self._check(actor, place)
        bus, name = self.bus, plain_text(actor.name)
        subjects: Any = actor
        if name is not None:
            check_subject(name)
            subjects = (actor, name) if bus.transport.capabilities.objects else name
        elif not bus.transport.capabilities.objects:
            raise UnsupportedCapability(
                f"{bus.url} carries mail for named subjects only; give {type(actor).__name__} a name, its address there"
            )
        if more != ():
            own = subjects if isinstance(subjects, tuple) else (subjects,)
            subjects = self.planner.subjects((*own, *(more if isinstance(more, (list, tuple, set)) else (more,))), "spawn")
        plan = self.planner.actor_plan(actor, place, filters, **options)
        before: list[ActorSubscription | None] = []

        def make() -> ActorSubscription:
            self._check_home(actor, place)  # again, under the lock: two threads may spawn the same actor at once
            before.append(actor._home)
            number = next(self.numbers) if name is None else name
            home = kind_for(actor)(plan, subjects, number, place, actor=actor)
            actor.move(home)
            if before[0] is not None:
                control.pause(home, TAKEOVER)  # before any message can reach it; see `_take_over`
            return home

        try:
            home = self.enrol(plan, name, place, make)
        except BaseException:
            if before:
                actor.move(before[0])
            raise
        if before[0] is not None:
            self._take_over(before[0], home)

    def _take_over(self, before: ActorSubscription, home: ActorSubscription) -> None:
        """
        Hold the mailbox of an actor that is spawned again until the handler of its previous subscription has ended: an actor
        handles one message at a time.
        """
        live = self.bus.claims.live
        while before.after is not None:  # it never began: it was itself waiting for an earlier one
            before = before.after
        home.after = before
        control.pause(home, TAKEOVER)
        waits = object()
        live[waits] = waits  # a drain waits until this mailbox has begun

        def begin() -> None:
            home.after = None
            control.resume(home, TAKEOVER)
            del live[waits]
            self.bus.claims.given_back()

        def soon() -> None:  # called under a lock, so on another thread; a new one will do, as this is rare
            try:
                threading.Thread(target=begin, name=f"{self.bus.name}-spawn", daemon=True).start()
            except RuntimeError:  # the system has no thread left
                self.bus.timers.after(0.0, begin)

        if control.when_idle(before, soon):
            begin()

    def filters(self, chain: tuple[compose.Node, ...]) -> list[Actor]:
        """Spawn the filter actors of a chain that are not spawned yet, and return them."""
        spawned: list[Actor] = []
        try:
            for step in routes.steps(chain):
                if step.shape == "actor":
                    home = step.filter._home
                    if home is None or closed_for_good(home) or home.plan.hub is not self.bus:
                        try:
                            self.spawn(step.filter, step.place, **DEFAULTS)
                        except SubscriptionError:
                            if not self._is_spawned_here(step.filter):
                                raise
                            continue  # another thread was faster
                        spawned.append(step.filter)
        except BaseException:
            self.undo(spawned)
            raise
        return spawned

    def _is_spawned_here(self, actor: Actor) -> bool:
        hub: Any = actor._home.plan.hub if actor._home is not None else None
        return hub is self.bus and not closed_for_good(actor.subscription)

    def undo(self, actors: list[Actor]) -> None:
        """Undo `filters`: what the actors were spawned for could not be registered."""
        for actor in actors:
            self.strike(actor.subscription, "unsubscribed")
            actor.move(None)

    def _check(self, actor: Any, place: places.Place) -> None:
        if not isinstance(actor, Actor):
            given = f"write {actor.__name__}()" if isinstance(actor, type) else "derive its class from Actor"
            raise SubscriptionError(f"spawn (at {place}) takes an actor, found {shown(actor)}; {given}")
        if type(actor).__eq__ is not object.__eq__ or type(actor).__hash__ is not object.__hash__:
            raise SubscriptionError(
                f"{type(actor).__name__} (spawned at {place}) is compared by value, but actors are told apart by identity: "
                "remove __eq__ and __hash__, or write @dataclass(eq=False)"
            )
        name = plain_text(actor.name)
        if name is not None and (not isinstance(name, str) or not name):
            raise SubscriptionError(f"actor name {shown(actor.name)} (at {place}): it is a subject such as 'greeter', or None")
        if is_filter(actor):
            filter_timeout(actor)  # raises if it is not a duration
        elif type(actor).on_message is Actor.on_message and "on_message" not in vars_of(actor):
            raise SubscriptionError(
                f"{type(actor).__name__} (spawned at {place}) has neither on_message nor filter, so it could do nothing; "
                "define `def on_message(self, message)` in it"
            )
        self._check_home(actor, place)

    def _check_home(self, actor: Actor, place: places.Place) -> None:
        home = actor._home
        if home is not None and not closed_for_good(home):
            hub: Any = home.plan.hub
            where = "on this bus" if hub is self.bus else "on another bus"
            raise SubscriptionError(f"{shown(actor)} (at {place}) is spawned already, {where} (at {home.place}); stop it first")
