"""
The router: which subscriptions there are, and what a publish finds under its subject.

Subscriptions are filed by subject in one dictionary, `subs`. As long as a publish only has to reach mailboxes, it looks there
(`filed`). With a filter, a wildcard, an observer or a wire, it looks in another dictionary, `routes`, which keeps a subject's
compiled chain from its first message on. Each registration removes the routes that it makes stale: a literal subscription its
own subject's, a pattern all of them. Both happen under one lock, so a message follows what was registered before or after that
moment, never half of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pipebus.delivery.subscription import Subscription
from pipebus.errors import SubjectError
from pipebus.foreign.objects import shown
from pipebus.message.patterns import Pattern, PatternTree
from pipebus.message.subject import Address, check_subject
from pipebus.pipeline import compose, routes, rules
from pipebus.pipeline.compose import Build, Node, Rest
from pipebus.publishing.fan_out import Several
from pipebus.publishing.route import Hub, Route, Way, terminal
from pipebus.running.here import holding

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

CACHE: Final = 16_384
"""The most compiled routes to keep. One more, and all are discarded and compiled again as needed."""


class Router:
    """The subscriptions by subject, and the routes that follow from them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.lock = hub.locks.new()
        self.nodes: tuple[Node, ...] = ()  # the publish chain
        self.subs: dict[Any, Any] = {}  # by literal subject: a Subscription, or Several
        self.routes: dict[Any, Route] = {}
        self.filed: dict[Any, Any] = {}  # where `publish` looks: `subs` or `routes`
        self._wild: PatternTree[Subscription] = PatternTree()
        self._turns: list[dict[Any, compose.Next]] = []  # compiled remainders of chains after rerouters
        self._removed = 0

    # --- registrations -------------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription) -> None:
        """File a subscription, and forget the routes that it makes stale."""
        with self.lock:
            wild = False
            for key in subscription.patterns:
                if isinstance(key, Pattern):
                    self._wild.add(key, subscription)
                    wild = True
                    continue
                there = self.subs.get(key)
                if there is None:
                    self.subs[key] = subscription
                elif there.__class__ is Several:
                    there.append(subscription)
                else:
                    self.subs[key] = Several((there, subscription))
            self._forget(None if wild else subscription.patterns)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription."""
        with self.lock:
            wild = False
            for key in subscription.patterns:
                if isinstance(key, Pattern):
                    self._wild.remove(key, subscription)
                    wild = True
                    continue
                there = self.subs.get(key)
                if there.__class__ is Several:
                    kept = [other for other in there if other is not subscription]
                    self.subs[key] = Several(kept) if len(kept) > 1 else kept[0]
                elif there is subscription:
                    del self.subs[key]
                    self._removed += 1
            if self._removed > 1024 and self._removed > 2 * len(self.subs):
                self.subs, self._removed = dict(self.subs), 0  # a dictionary never shrinks by itself
                wild = True
            self._forget(None if wild else subscription.patterns)

    def _forget(self, subjects: tuple[Any, ...] | None) -> None:
        """Drop the routes of these subjects; None: drop all, and decide again where `publish` looks."""
        if subjects is None:
            self.routes.clear()
            self.filed = self.subs if self.hub.direct and not (self.nodes or self._wild.size) else self.routes
        elif self.routes:
            for subject in subjects:
                self.routes.pop(subject, None)
        for turn in self._turns:
            turn.clear()
        self._turns.clear()

    def forget_all(self) -> None:
        """Drop all routes, because they are stale."""
        with self.lock:
            self._forget(None)

    def close(self) -> None:
        """In a forked child: make every publish find nothing."""
        self.filed = self.routes = {}

    def subscriptions(self) -> Iterator[Subscription]:
        """Yield each subscription once, in no particular order."""
        seen: set[int] = set()
        with self.lock:
            filed: list[Subscription] = list(self._wild)
            for entry in self.subs.values():
                filed.extend(entry) if entry.__class__ is Several else filed.append(entry)
        for subscription in filed:
            if isinstance(subscription.subjects, tuple):
                if id(subscription) in seen:
                    continue
                seen.add(id(subscription))
            yield subscription

    def listeners(self, subject: Any) -> list[Subscription]:
        """The subscriptions with a matching pattern; each once, even if several of its patterns match."""
        entry = self.subs.get(subject)
        found: list[Subscription] = list(entry) if entry.__class__ is Several else [entry] if entry is not None else []
        if self._wild.size and isinstance(subject, str):
            for subscription in self._wild.match(subject):
                if not any(other is subscription for other in found):
                    found.append(subscription)
        return found

    # --- routes --------------------------------------------------------------------------------------------------------

    def route(self, subject: Any) -> Route:
        """
        The compiled route; made and kept if it was not there.

        Raises:
            SubjectError, PipelineError.
        """
        with self.lock:
            route = self.routes.get(subject)
            if route is None:
                route = self.fresh(subject)
            return route

    def keep(self, route: Route) -> None:
        """Keep a route for the next publish of its subject, but not the route of a stopped actor, which it would keep alive."""
        if len(self.routes) >= CACHE:
            self._forget(None)
        if route.everyone or isinstance(route.subject, str):
            self.routes[route.subject] = route

    def fresh(self, subject: Any) -> Route:
        """Make a route, without keeping it."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, Address):
            raise SubjectError(f"{shown(subject)} cannot be published to; use a string, an actor or Ref(obj)")
        return self.made(subject, tuple(self.listeners(subject)))

    def made(self, subject: Any, everyone: tuple[Subscription, ...], reach: compose.Next | None = None) -> Route:
        """A route for these subscriptions; `reach`: called after the last filter, in place of the mailboxes."""
        route = Route(subject, self.nodes, everyone, self._compile, reach)
        if route.colour == "sync":
            rules.check_colour(tuple(routes.filters_for(self.nodes, subject)), "sync", "the publish chain is sync")
        return route

    def _compile(self, route: Route, way: Way, rest: Rest | None = None) -> compose.Next:
        """Compile the route's whole chain or, after a rerouter, the chain from `rest` on."""
        with self.lock:  # by a thread that may hold it
            build = Build(
                side="publish",
                colour=way.colour,
                subject=route.subject,
                terminal=terminal(self.hub, route, way, self.nodes),
                services=self.hub.services,
                # A reply must keep its address: see `Replies.route`.
                recompile=None if route.reach else lambda subject, rest, known: self._resume(subject, rest, known, way),
                rule=self.hub.rule,
            )
            if rest is not None:
                return compose.resume(rest, build)
            run = compose.compile(route.nodes, build)
            return holding(run, way.colour) if route.nodes else run

    def _resume(self, subject: Any, rest: Rest | None, known: dict[Any, compose.Next], way: Way) -> compose.Next:
        """Compile the chain after a rerouter for the new subject, and keep it with the old route."""
        with self.lock:
            route = self.fresh(subject)
            link = self._compile(route, way, rest)
            if len(known) >= CACHE:
                known.clear()
            known[subject] = link
            if not any(turn is known for turn in self._turns):
                self._turns.append(known)
            return link
