"""
Routes: for one subject, the compiled publish chain and the mailboxes it reaches.

A route is compiled when its subject is first published to, and kept in a dictionary that a publish looks into. Whatever is
registered takes routes out of it again: a literal subscription its own subject's, a pattern all of them. Both happen under
one lock, so a message goes by the routes from before a registration or from after it, never by half of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, Protocol

from pipebus.delivery.subscription import Subscription
from pipebus.errors import BusClosed, LifecycleError, MailboxFull, SubjectChanged, SubjectError
from pipebus.foreign.objects import shown
from pipebus.mailbox.mailbox import NOBODY, ONE, Mailbox, Parcel
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern, PatternTree
from pipebus.message.subject import Address, check_subject
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import blame, compose, contract, routes, rules, state
from pipebus.pipeline.compose import Build, Node, Rest
from pipebus.pipeline.services import Services
from pipebus.publishing.room import forced
from pipebus.waiting.elsewhere import on_executor
from pipebus.waiting.locks import Locks

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

CACHE: Final = 16_384
"""Most compiled routes kept; one subject over it and all are compiled anew as they are needed."""


class Hub(Protocol):
    """What routing asks of its bus."""

    services: Services
    ledger: Ledger
    locks: Locks
    transport: Any

    @property
    def direct(self) -> bool:
        """Messages go from publish to mailboxes as they are, and nobody watches."""
        ...

    def rule(self, on_error: compose.OnError) -> compose.Ruling: ...
    def delay(self) -> float: ...
    def encode(self, codec: Any, message: Message[Any]) -> bytes: ...


class Road(NamedTuple):
    """One way to compile a route."""

    colour: Literal["sync", "async"]
    force: bool = False  # room was waited for before the chain runs: admit over the bound rather than block a loop
    late: bool = False  # with a delay


BARE: Final = Road("sync", force=True)
"""From a coroutine, where no filter stands on the road."""
AWAITED: Final = Road("async", force=True)
"""From a coroutine."""


class Route:
    """One subject's road: the nodes, the mailboxes, and the compiled chains, each made when it is first needed."""

    __slots__ = ("_compiled", "colour", "mailboxes", "nodes", "plain_sync", "reach", "router", "subject", "waits")

    def __init__(self, router: Router, subject: Any, nodes: tuple[Node, ...], mailboxes: tuple[Mailbox, ...]) -> None:
        self.router = router
        self.subject = subject
        self.nodes = nodes
        self.mailboxes = mailboxes
        met = routes.filters_for(nodes, subject)
        self.colour = "async" if any(step.colour == "async" for step in met) else "sync"
        self.waits: str | None = next((step.name for step in met if step.traits.waits), None)
        # The filter that keeps this chain from running as an awaitable, if there is one.
        self.plain_sync: str | None = next((step.name for step in met if step.colour == "sync"), None)
        self.reach: compose.Next | None = None  # behind the last filter, if that is not the transport
        self._compiled: dict[Road, compose.Next] = {}

    def run(self, road: Road) -> compose.Next:
        found = self._compiled.get(road)
        if found is not None:
            return found
        with self.router.lock:  # by a thread that may hold it
            if road not in self._compiled:
                self._compiled[road] = self.router.compile(self, road)
            return self._compiled[road]


TERMINAL: Final = blame.StepId("the mailboxes")
"""Signs errors that arise beyond the last filter, so that none is blamed for a full mailbox."""


class Router:
    """Who listens to what, and the routes that follow from it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.lock = hub.locks.new()
        self.nodes: tuple[Node, ...] = ()  # the publish chain
        self.routes: dict[Any, Route] = {}
        self.runs: dict[Any, compose.Next] = {}  # what `publish` looks into: the same subjects, ready to be called
        self._literal: dict[Any, Subscription | list[Subscription]] = {}
        self._wild: PatternTree[Subscription] = PatternTree()
        self._turns: list[dict[Any, compose.Next]] = []  # compiled rests behind rerouters
        self.direct: dict[Any, Any] = {}  # `_literal`, while nothing else has a say; see `shortest`
        self._removed = 0

    # --- registrations -------------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription) -> None:
        """File a subscription, and forget the routes that it makes stale."""
        stale: list[Any] | None = []  # None: all
        with self.lock:
            for key in subscription.patterns:
                if isinstance(key, Pattern):
                    self._wild.add(key, subscription)
                    stale = None
                    continue
                there = self._literal.get(key)
                if there is None:
                    self._literal[key] = subscription
                elif isinstance(there, list):
                    there.append(subscription)
                else:
                    self._literal[key] = [there, subscription]
                if stale is not None:
                    stale.append(key)
            self._forget(stale)

    def remove(self, subscription: Subscription) -> None:
        stale: list[Any] | None = []  # None: all
        with self.lock:
            for key in subscription.patterns:
                if isinstance(key, Pattern):
                    self._wild.remove(key, subscription)
                    stale = None
                    continue
                there = self._literal.get(key)
                if isinstance(there, list):
                    kept = [other for other in there if other is not subscription]
                    self._literal[key] = kept if len(kept) > 1 else kept[0]
                elif there is subscription:
                    del self._literal[key]
                    self._removed += 1
                if stale is not None:
                    stale.append(key)
            if self._removed > 1024 and self._removed > 2 * len(self._literal):
                self._literal, self._removed = dict(self._literal), 0  # a dictionary never shrinks by itself
                stale = None
            self._forget(stale)

    def _forget(self, subjects: list[Any] | None) -> None:
        if subjects is None:
            self.routes.clear()
            self.runs.clear()
            self._see_direct()
        else:
            for subject in subjects:
                self.routes.pop(subject, None)
                self.runs.pop(subject, None)
        for turn in self._turns:
            turn.clear()
        self._turns.clear()

    def forget_all(self) -> None:
        with self.lock:
            self._forget(None)

    def subscriptions(self) -> Iterator[Subscription]:
        """Each once, in no particular order."""
        seen: set[int] = set()
        with self.lock:
            filed: list[Subscription] = list(self._wild)
            for entry in self._literal.values():
                filed.extend(entry if isinstance(entry, list) else (entry,))
        for subscription in filed:
            if isinstance(subscription.subjects, tuple):
                if id(subscription) in seen:
                    continue
                seen.add(id(subscription))
            yield subscription

    def listeners(self, subject: Any) -> list[Subscription]:
        """Whose pattern matches; each once, however many of its patterns do."""
        found: list[Subscription] = []
        entry = self._literal.get(subject)
        if entry is not None:
            found.extend(entry if isinstance(entry, list) else (entry,))
        if self._wild.size and isinstance(subject, str):
            for subscription in self._wild.match(subject):
                if not any(other is subscription for other in found):
                    found.append(subscription)
        return found

    def shortest(self, subject: Any) -> compose.Next | None:
        """
        Where one mailbox alone is reached, with nothing in between: its `put`. No route is made, and no lock taken: whoever
        unsubscribes at this moment closes the mailbox, which then says so.
        """
        found = self.direct.get(subject)
        return found.mailbox.put if isinstance(found, Subscription) else None

    def _see_direct(self) -> None:
        """While a filter, an observer, a wildcard or a wire may have a say, no road is the shortest."""
        self.direct = self._literal if not (self.nodes or self._wild.size or not self.hub.direct) else {}

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
                if len(self.routes) >= CACHE:
                    self._forget(None)
                if route.mailboxes or isinstance(subject, str):  # a stopped actor is not kept alive by its road
                    self.routes[subject] = route
            return route

    def fresh(self, subject: Any) -> Route:
        """A route that is not kept."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, Address):
            raise SubjectError(f"{shown(subject)} cannot be published to; use a string, an actor or Ref(obj)")
        mailboxes = tuple(subscription.mailbox for subscription in self.listeners(subject))
        route = Route(self, subject, self.nodes, mailboxes)
        if route.colour == "sync":
            rules.check_colour(tuple(routes.filters_for(self.nodes, subject)), "sync", "the publish chain is sync")
        return route

    def compile(self, route: Route, road: Road, rest: Rest | None = None) -> compose.Next:
        """The route's whole chain, or (behind a rerouter) what follows from `rest` on."""
        build = Build(
            side="publish",
            colour=road.colour,
            subject=route.subject,
            terminal=self.terminal(route, road),
            services=self.hub.services,
            # What comes back to a reply's road keeps its address: see `Replies.route`.
            recompile=None if route.reach else lambda subject, rest, known: self._resume(subject, rest, known, road),
            rule=self.hub.rule,
        )
        if rest is not None:
            return compose.resume(rest, build)
        return compose.compile(route.nodes, build)

    def _resume(self, subject: Any, rest: Rest | None, known: dict[Any, compose.Next], road: Road) -> compose.Next:
        """Behind a rerouter: what follows it, compiled for the new subject, and kept with the old route."""
        with self.lock:
            link = self.compile(self.fresh(subject), road, rest)
            if len(known) >= CACHE:
                known.clear()
            known[subject] = link
            if not any(turn is known for turn in self._turns):
                self._turns.append(known)
            return link

    # --- terminals -----------------------------------------------------------------------------------------------------

    def terminal(self, route: Route, road: Road) -> compose.Next:
        """What the last `call_next` reaches."""
        transport, mailboxes, subject = self.hub.transport, route.mailboxes, route.subject
        reach: compose.Next
        if route.reach is not None:
            reach = route.reach
        elif not transport.local:
            send, delay = transport.send, self.hub.delay

            locks = self.hub.locks

            def reach(message: Message[Any]) -> Receipt:
                locks.check()  # it may wait for a thread that brings messages in
                receipt: Receipt = send(message, delay() if road.late else 0.0)
                if not receipt.mailboxes:
                    self.hub.ledger.unrouted(message)
                return receipt

        else:
            reach = self._fan_out(mailboxes, road)
            if transport.capabilities.dedup_window:
                reach = self._once(reach, len(mailboxes))
        if road.colour == "sync" and not route.nodes:
            return reach

        async def areach(message: Message[Any]) -> Receipt:
            if route.reach is not None:
                found: Receipt = await on_executor(reach, message)
                return found
            receipt: Receipt = await transport.asend(message, self.hub.delay() if road.late else 0.0)
            if not receipt.mailboxes:
                self.hub.ledger.unrouted(message)
            return receipt

        if not route.nodes and not transport.local:
            return areach
        fixed = route.reach is None  # else it looks at the subject itself
        noted = any(step.traits.repeats for step in routes.steps(route.router.nodes))  # a rerouter may have come from there

        def check(message: Message[Any]) -> Message[Any]:
            if message.__class__ is not Message:
                raise contract.handed_on(message)
            message = contract.checked(message)
            if fixed and message.subject is not subject and message.subject != subject:
                raise SubjectChanged(subject, message.subject)
            return message

        def terminal(message: Message[Any]) -> Receipt:
            message = check(message)
            try:
                receipt: Receipt = reach(message)
            except BaseException as error:
                if noted and getattr(error, "accepted", None):
                    note(error)
                blame.blame(error, TERMINAL, message)
                raise
            if noted:
                note(receipt)
            return receipt

        if road.colour == "sync":
            return terminal

        async def aterminal(message: Message[Any]) -> Receipt:
            if transport.local:
                return terminal(message)
            message = check(message)
            try:
                # It may wait for a disk or a network.
                receipt: Receipt = await areach(message)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    if noted:
                        note(message)  # it may still be stored
                else:
                    blame.blame(error, TERMINAL, message)
                raise
            if noted:
                note(receipt)
            return receipt

        return aterminal

    def _once(self, reach: compose.Next, mailboxes: int) -> compose.Next:
        """In memory, where a test has it in place of a store that knows ids again."""
        transport = self.hub.transport

        def once(message: Message[Any]) -> Receipt:
            if transport.seen("", message.id):
                return Receipt(mailboxes, duplicate=True)
            receipt: Receipt = reach(message)
            transport.learn("", message.id, transport.capabilities.dedup_window)
            return receipt

        return once

    def _fan_out(self, mailboxes: tuple[Mailbox, ...], road: Road) -> compose.Next:
        """Every mailbox that has room gets the message first, then the full ones are waited for."""
        hub, codec, force = self.hub, self.hub.transport.codec, road.force
        if not mailboxes:

            def nobody(message: Message[Any]) -> Receipt:
                if codec is not None:
                    hub.encode(codec, message)
                hub.ledger.unrouted(message)
                return NOBODY

            return nobody
        everyone = ONE if len(mailboxes) == 1 else Receipt(len(mailboxes))
        if codec is None and not road.late:
            if len(mailboxes) == 1 and not force:
                return mailboxes[0].put  # the shortest road: publish, put

            def fan_out(message: Message[Any]) -> Receipt:
                late: list[Late] | None = None
                for mailbox in mailboxes:
                    receipt: Any
                    items = mailbox.items
                    try:
                        if items is not None and len(items) < mailbox.room:
                            items.append(message)  # the quick road of `post`, written out: see mailbox_solo.py
                            if mailbox.items is items:
                                continue
                            receipt = mailbox.put_again(message, items)
                        else:
                            receipt = mailbox.post(message)
                            if receipt is None and force:
                                receipt = forced(mailbox, message)
                    except Exception as error:
                        receipt = error
                    if receipt is not ONE:
                        late = late or []
                        late.append((mailbox, message, receipt))
                return everyone if late is None else stragglers(mailboxes, late)

            return fan_out

        def fan_out_anew(message: Message[Any]) -> Receipt:
            """Each mailbox gets an item of its own: decoded from the bytes, or with its delay."""
            data = hub.encode(codec, message) if codec is not None else b""
            late: list[Late] = []
            for mailbox in mailboxes:
                item: Any = codec.decode(data) if codec is not None else message
                if road.late:
                    item = Parcel(item, delay=hub.delay())
                receipt: Any
                try:
                    receipt = forced(mailbox, item) if force else mailbox.offer(item)
                except Exception as error:
                    receipt = error
                if receipt is not ONE:
                    late.append((mailbox, item, receipt))
            return stragglers(mailboxes, late) if late else everyone

        return fan_out_anew


def note(accepted: Any) -> None:
    """For filters that repeat passes."""
    notes = state.accepted.get()
    if notes is not None:
        notes.append(accepted)


Late = tuple[Mailbox, Any, Any]
"""A mailbox that did not take its item at once, the item, and what it said: None (full), NOBODY or an error."""


def stragglers(mailboxes: tuple[Mailbox, ...], late: list[Late]) -> Receipt:
    """Wait for the full mailboxes, all against one start; then one error for those that refused."""
    accepted = {id(mailbox) for mailbox in mailboxes} - {id(mailbox) for mailbox, _, _ in late}
    refused: list[str] = []
    hint = ""
    closed: BusClosed | None = None
    failure: Exception | None = None
    started = late[0][0].rules.clock.monotonic()
    for mailbox, item, found in late:
        try:
            if found is None:
                found = mailbox.wait_for_room(item, started + mailbox.rules.timeout)
            elif isinstance(found, Exception):
                raise found
        except MailboxFull as error:
            refused.append(mailbox.owner.name)
            hint = hint or error.hint
        except BusClosed as error:
            closed = error
        except Exception as error:  # a thread could not be started, or we have interrupted a change of this mailbox
            failure = failure or error
            if not isinstance(error, LifecycleError):
                accepted.add(id(mailbox))
        else:
            if found is not NOBODY:  # its subscription has gone: it neither took nor refused the message
                accepted.add(id(mailbox))
    names = [mailbox.owner.name for mailbox in mailboxes if id(mailbox) in accepted]
    if failure is not None:
        failure.__dict__["accepted"] = tuple(names)
        raise failure
    if closed is not None:
        if names:
            closed = BusClosed(f"{closed}; {len(names)} of {len(mailboxes)} mailboxes had taken it before")
            closed.__dict__["accepted"] = tuple(names)
        raise closed
    if refused:
        raise MailboxFull(names, refused, hint)
    return Receipt(len(names))
