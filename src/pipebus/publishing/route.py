"""
A route: for one subject, the compiled publish chain and the subscriptions that it reaches.

A publish looks its subject up in `Router.filed` and puts its message into what it finds: a subscription, several, or a route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from pipebus.delivery.subscription import Subscription
from pipebus.errors import NoSubscriber, PublishUnknown, SubjectChanged, TransportError
from pipebus.foreign.objects import said
from pipebus.mailbox.offering import NOBODY
from pipebus.mailbox.parcel import Parcel
from pipebus.mailbox.patience import patience
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import blame, compose, contract, routes, state
from pipebus.pipeline.compose import Node
from pipebus.pipeline.services import Services
from pipebus.publishing.fan_out import fan_out, fan_out_items
from pipebus.waiting.elsewhere import on_executor
from pipebus.waiting.locks import Locks

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Hub(Protocol):
    """The parts of the bus that routing needs."""

    services: Services
    ledger: Ledger
    locks: Locks
    transport: Any

    @property
    def direct(self) -> bool:
        """Whether messages go from publish to mailboxes unchanged and unobserved."""
        ...

    def rule(self, on_error: compose.OnError) -> compose.Ruling: ...
    def delay(self) -> float: ...
    def encode(self, codec: Any, message: Message[Any]) -> bytes: ...


class Way(NamedTuple):
    """One of the ways to compile a route."""

    colour: compose.Colour
    force: bool = False  # the publisher has waited for room before the chain: exceed the bound rather than wait
    late: bool = False  # with a delay
    strict: bool = False  # raise if nobody listens


class Route:
    """One subject's chain and subscriptions. Each way to run it is compiled when it is first needed."""

    single: Final = False

    __slots__ = (
        "_compile", "_compiled", "box", "colour", "everyone", "nodes", "plain_sync", "put", "reach", "room", "subject", "waits",
    )  # fmt: skip

    def __init__(
        self, subject: Any, nodes: tuple[Node, ...], everyone: tuple[Subscription, ...],
        compile: Callable[[Route, Way], compose.Next], reach: compose.Next | None = None,
    ) -> None:  # fmt: skip
        self.subject = subject
        self.nodes = nodes
        self.everyone = everyone
        self.reach = reach  # called after the last filter, if that is not the transport
        self.box = None  # `publish` reads it first
        self.room = 0
        self.put: Any = None  # what a sync publish calls; set by the sender
        met = routes.filters_for(nodes, subject)
        self.colour: compose.Colour = "async" if any(step.colour == "async" for step in met) else "sync"
        self.waits: str | None = next((step.name for step in met if step.traits.waits), None)
        # The filter that keeps this chain from running as an awaitable, if there is one.
        self.plain_sync: str | None = next((step.name for step in met if step.colour == "sync"), None)
        self._compile = compile
        self._compiled: dict[Way, compose.Next] = {}

    def run(self, way: Way) -> compose.Next:
        """The chain, compiled for one way."""
        found = self._compiled.get(way)
        if found is None:
            found = self._compiled[way] = self._compile(self, way)
        return found


TERMINAL: Final = blame.StepId("the mailboxes", end=True)
"""Signs errors that arise after the last filter, so that no filter is blamed for a full mailbox."""


def terminal(hub: Hub, route: Route, way: Way, chain: tuple[Node, ...]) -> compose.Next:
    """
    The function that the last `call_next` calls.

    Args:
        chain: The whole publish chain, because a rerouter may have come from another part of it.
    """
    transport, subject = hub.transport, route.subject
    reach = route.reach or (_into_mailboxes(hub, route, way) if transport.local else _into_transport(hub, way))
    if way.colour == "sync" and not route.nodes:
        return reach
    asend = partial(transport.asend, strict=True) if way.strict else transport.asend

    async def areach(message: Message[Any]) -> Receipt:
        if route.reach is not None:
            found: Receipt = await on_executor(reach, message)
            return found
        receipt: Receipt = await asend(message, hub.delay() if way.late else 0.0)
        if not receipt.mailboxes:
            _unrouted(hub, way, message)
        return receipt

    if not route.nodes and not transport.local:
        return areach
    fixed = route.reach is None  # otherwise `reach` checks the subject itself
    noted = any(step.traits.repeats for step in routes.steps(chain))

    def check(message: Message[Any]) -> Message[Any]:
        if message.__class__ is not Message:
            raise contract.handed_on(message)
        message = contract.checked(message)
        if fixed and message.subject is not subject and message.subject != subject:
            raise SubjectChanged(subject, message.subject)
        return message

    def end(message: Message[Any]) -> Receipt:
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

    async def aend(message: Message[Any]) -> Receipt:
        if transport.local:
            return end(message)
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

    found = end if way.colour == "sync" else aend
    watch = hub.services.watch
    return found if watch is None else watch(TERMINAL, way.colour, found, ())


def _into_transport(hub: Hub, way: Way) -> compose.Next:
    """The end of a chain whose messages leave the process."""
    send, delay, locks = hub.transport.send, hub.delay, hub.locks
    if way.strict:
        send = partial(send, strict=True)

    def reach(message: Message[Any]) -> Receipt:
        while True:
            locks.check()  # it may wait for a thread that brings messages in
            try:
                receipt: Receipt = send(message, delay() if way.late else 0.0)
                break
            except (TransportError, PublishUnknown) as error:  # under its id it can be sent again
                patient = patience.get()
                if patient is None or not patient(error):
                    raise
        if not receipt.mailboxes:
            _unrouted(hub, way, message)
        return receipt

    return reach


def _unrouted(hub: Hub, way: Way, message: Message[Any]) -> None:
    hub.ledger.unrouted(message)
    if way.strict:
        raise NoSubscriber(f"nobody listens to {said(message.subject)}; subscribe to it, or publish with strict=False")


def _into_mailboxes(hub: Hub, route: Route, way: Way) -> compose.Next:
    """The end of a chain in memory: all mailboxes with room get the message first, then it waits for the full ones."""
    transport, codec, everyone, force = hub.transport, hub.transport.codec, route.everyone, way.force

    def nobody(message: Message[Any]) -> Receipt:
        if codec is not None:
            hub.encode(codec, message)
        _unrouted(hub, way, message)
        return NOBODY

    def plain(message: Message[Any]) -> Receipt:
        return fan_out(everyone, message, force)

    def anew(message: Message[Any]) -> Receipt:
        data = hub.encode(codec, message) if codec is not None else b""
        delay = hub.delay() if way.late else 0.0

        def item() -> Any:
            own = codec.decode(data) if codec is not None else message
            return Parcel(own, delay=delay) if way.late else own

        return fan_out_items(((one, item()) for one in everyone), everyone, force)

    reach: Any
    if not everyone:
        reach = nobody
    elif codec is not None or way.late:
        reach = anew
    else:
        reach = everyone[0].put if len(everyone) == 1 and not force else plain  # the shortest way
    if not transport.capabilities.dedup_window:
        return reach  # type: ignore[no-any-return]

    def once(message: Message[Any]) -> Receipt:
        # In memory only tests use this, in place of a store that recognises ids.
        if transport.seen("", message.id):
            return Receipt(len(everyone), duplicate=True)
        receipt: Receipt = reach(message)
        transport.learn("", message.id, transport.capabilities.dedup_window)
        return receipt

    return once


def note(accepted: Any) -> None:
    """Note what was accepted, for filters that repeat a pass."""
    notes = state.accepted.get()
    if notes is not None:
        notes.append(accepted)
