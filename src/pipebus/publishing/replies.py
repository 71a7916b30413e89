"""
Request and reply: a request carries an address made for it alone, where the requester waits for the first answer.

In memory the address is an object, `Answer`, which costs nothing when nobody waits any more. Where messages are encoded it is
a subject, `_reply.<bus>.<secret>`, under which this bus knows the answer. The secret is random and new for each request, so
that only the handlers of a request can answer it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from pipebus.clock import Clock
from pipebus.delivery.subscription import LISTENER
from pipebus.errors import (
    BusClosed,
    MessageTooLarge,
    NoResponder,
    RequestDropped,
    RequestFailed,
    SubjectChanged,
)
from pipebus.foreign.objects import class_name, shown, spared, text_of
from pipebus.mailbox.asked import Waiting
from pipebus.message.conversation import conversation_of, next_headers, stored_conversation
from pipebus.message.headers import ERROR_HEADER, Headers, frozen_headers
from pipebus.message.message import Message, make_message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import REPLY, Address
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import blame, routes
from pipebus.pipeline.services import Services
from pipebus.publishing.asking import Answer, Asking, W
from pipebus.publishing.route import Route
from pipebus.publishing.router import Router
from pipebus.running.here import current_mailbox
from pipebus.waiting.latch import Latch
from pipebus.waiting.locks import free

SHORT: Final = 200
"""Characters of an error's text to send if the whole text is too long."""

Outcome = Receipt | Dropped


class Asked(Protocol):
    """The parts of the bus that requests and replies need."""

    clock: Clock
    transport: Any
    codec: Any
    ledger: Ledger
    max_hops: int
    router: Router
    services: Services
    strict: bool

    def next_id(self) -> int: ...
    def encode(self, codec: Any, message: Message[Any]) -> bytes: ...
    def check_address(self, subject: Any) -> None: ...
    def route(self, subject: Any) -> Route: ...
    def ready(self, route: Route) -> Route: ...
    def hand_in(self, found: Any, message: Message[Any]) -> Outcome: ...
    async def ahand_in(self, found: Any, message: Message[Any]) -> Outcome: ...
    @property
    def subscribe(self) -> Callable[..., Any]: ...
    @property
    def publish(self) -> Callable[..., Outcome]: ...
    @property
    def apublish(self) -> Callable[..., Awaitable[Outcome]]: ...


class _Anyone(Address):
    """The placeholder for the subject of all replies while their chain is built: no pattern matches it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "replies"


class Replies:
    """The open requests of a bus, and the way back for their answers."""

    def __init__(self, bus: Asked) -> None:
        self.bus = bus
        self.open: dict[Any, Answer] = {}  # by the `reply_to` of their requests
        self._token = os.urandom(6).hex()
        self.listener = f"{LISTENER}{self._token}"  # the name of the subscription for replies
        self._built: tuple[Any, Route] | None = None
        self._listens = False
        self._sending: set[asyncio.Future[Receipt]] = set()
        self._lock = threading.RLock()

    # --- asking --------------------------------------------------------------------------------------------------------

    def asking(self, subject: Any, kind: Callable[[Latch], W]) -> Asking[W]:
        """
        An address for the answer to a request on `subject`, with a waiter of this kind, for a `with` block.

        Raises:
            NoResponder: only the requester itself could answer, or all that could answer wait for the requester.
        """
        bus = self.bus
        own = current_mailbox()
        asked: tuple[Any, ...] = ()  # the mailboxes that can answer, if known
        if own is not None and own.plan.workers == 1:
            route = bus.route(subject)
            if route.everyone == (own,):
                raise NoResponder(f"a request on {shown(subject)} would wait for the handler that makes it; publish instead")
            if bus.transport.local and not any(step.traits.reroutes for step in routes.filters_for(route.nodes, subject)):
                asked = route.everyone  # otherwise others may answer: in another process, or on another subject
        answer = Answer(subject, own)
        waiter = kind(answer)  # before the request is registered: from then on a stop may give it an error
        address: Any = answer
        if not bus.transport.capabilities.objects:
            self._listen()
            address = f"{REPLY}{self._token}.{secrets.token_urlsafe(16)}"
        return Asking(self.open, subject, address, answer, waiter, Waiting(own, asked) if asked else None)

    def asker(self, address: Any) -> Any:
        """The mailbox whose handler waits for an answer at this address, if there is one."""
        if address.__class__ is Answer:
            return address.asker
        answer = self.open.get(address) if type(address) is str and address.startswith(REPLY) else None
        return answer.asker if answer is not None else None

    def published(self, message: Message[Any], answer: Answer, outcome: Outcome) -> None:
        """Raises RequestDropped or NoResponder if no mailbox can answer."""
        if isinstance(outcome, Dropped):
            raise RequestDropped(outcome.reason, outcome.by or "a filter")
        if not outcome.mailboxes:
            raise NoResponder(f"nobody listens to {message.subject}; subscribe a handler that returns a value")
        if self.bus.transport.local:
            answer.expect(outcome.mailboxes)

    def close(self) -> None:
        """Fail all open requests, because the bus stops."""
        for answer in list(self.open.values()):
            answer.give(BusClosed("the bus stopped while a request waited for its reply"))

    # --- answering -----------------------------------------------------------------------------------------------------

    def owns(self, address: Any) -> bool:
        """
        Whether messages for this address are replies, which take the route of replies.

        A subject is a reply address only on transports that encode messages and, within one process, only if this bus made
        it. Any other name is an ordinary subject.
        """
        if address.__class__ is Answer:
            return True
        transport = self.bus.transport
        if not isinstance(address, str) or transport.capabilities.objects:
            return False
        return address.startswith(f"{REPLY}{self._token}." if transport.local else REPLY)

    def answer(self, to: Any, request: Message[Any], value: Any) -> None:
        """Publish what a handler returned, or a message that a filter forwards."""
        if type(value) is Message:
            self.bus.publish(to, value.body, **self._forwarded(value, request))
        elif to.__class__ is Answer:
            if not self.answer_at_once(to, request, value):
                self._answered(to, self.bus.hand_in(self.route(), self.reply(to, request, value)))
        elif not self._lost(to, request, value):
            self._answered(to, self.bus.publish(to, value, **self._envelope(to, request)))

    async def aanswer(self, to: Any, request: Message[Any], value: Any) -> None:
        """`answer` on an event loop."""
        if type(value) is Message:
            await self.bus.apublish(to, value.body, **self._forwarded(value, request))
        elif to.__class__ is Answer:
            if not self.answer_at_once(to, request, value):
                self._answered(to, await self.bus.ahand_in(self.route(), self.reply(to, request, value)))
        elif not self._lost(to, request, value):
            self._answered(to, await self.bus.apublish(to, value, **self._envelope(to, request)))

    def _envelope(self, to: Any, request: Message[Any]) -> dict[str, Any]:
        """The options with which a returned value is published. A reply ends its conversation, so it is not a hop."""
        options: dict[str, Any] = {"correlation_id": conversation_of(request), "causation_id": request.id}
        if self.bus.strict and to is request.reply_to:
            options["strict"] = False  # that nobody listens there is not the handler's fault
        headers = None if self.owns(to) else next_headers(request, self.bus.max_hops)
        return options if headers is None else options | {"headers": headers}

    def _forwarded(self, message: Message[Any], request: Message[Any]) -> dict[str, Any]:
        """The options with which a message goes on in place of `request`. Its handler answers the requester."""
        return {
            "headers": next_headers(request, self.bus.max_hops, message.headers), "key": message.key, "ttl": message.ttl,
            "reply_to": request.reply_to, "correlation_id": conversation_of(request), "causation_id": request.id,
            "strict": True,
        }  # fmt: skip

    def _lost(self, to: Any, request: Message[Any], value: Any) -> bool:
        """
        Drop a reply whose address is invalid, and count it. That is not the handler's fault: the address may come from another
        program or from a filter.
        """
        try:
            hash(to)
            self.bus.check_address(to)
        except BaseException as error:  # an object's own methods may raise anything
            spared(error)
            self.bus.ledger.unrouted(self.reply(to, request, value))
            return True
        return False

    def _answered(self, to: Any, outcome: Outcome) -> None:
        if isinstance(outcome, Dropped):
            self.drop(to, f"{outcome.reason} (its reply)", outcome.by or "a filter")

    def answer_at_once(self, to: Any, request: Message[Any], value: Any) -> bool:
        """False if the reply must first pass filters or be shown to observers. It looks nothing up, and takes no lock."""
        if to.__class__ is not Answer or self.bus.router.nodes or self.bus.ledger.observed:
            return False
        reply = self.reply(to, request, value)
        if not to.give(reply):
            self.bus.ledger.unrouted(reply)  # too late, or the second
        return True

    def drop(self, to: Any, reason: str, by: str) -> None:
        """Report to the requester that one mailbox will not answer."""
        answer = self.open.get(to) if self.owns(to) else None
        if answer is not None:
            answer.dropped(reason, by)

    def fail(self, to: Any, request: Message[Any], error: BaseException, step: blame.StepId | None = None) -> bool:
        """
        Report to the requester why a handler gave up, past all filters. It never raises.

        Args:
            step: The filter, or the end of a chain, in which the error arose, if that is known.

        Returns:
            True if the requester has the error. It is not known of one in another process.
        """
        try:
            if not self.owns(to):
                return False
            kind = class_name(error)
            text = text_of(error).removeprefix(kind).removeprefix(": ")
            answer = self.open.get(to)
            failed = RequestFailed(kind, text, "the handler" if step is None or step.end else f"filter {step.name}")
            if answer is not None:
                return answer.give(failed)
            if not self.bus.transport.local:
                try:
                    _send_error(self, to, request, failed)
                except MessageTooLarge:  # because of the text; the requester learns at least the kind of error
                    failed.text = f"{text[:SHORT]}… (too long to be sent)"
                    _send_error(self, to, request, failed)
        except Exception as failure:
            _not_told(self, request, failure)
        return False

    def reply(self, to: Any, request: Message[Any], body: Any, headers: Headers | None = None) -> Message[Any]:
        now = self.bus.clock.now()
        return make_message(to, body, headers, self.bus.next_id(), now, None, None, None, *stored_conversation(request))

    def route(self) -> Route:
        """The route of all replies: the filters without a pattern, compiled once, outside the cache of routes."""
        key = (self.bus.router.nodes, self.bus.ledger.observed)
        if self._built is None or self._built[0] != key:
            self._built = (key, self.bus.ready(self.bus.router.made(_Anyone(), (), self._reach)))
        return self._built[1]

    def _reach(self, message: Message[Any]) -> Receipt:
        """The end of the chain of replies, after the last filter."""
        bus, to = self.bus, message.subject
        if not self.owns(to):
            raise SubjectChanged("a reply's", to)
        if to.__class__ is Answer:
            return self.arrive(message)
        if not bus.transport.local:
            receipt: Receipt = bus.transport.send(message, 0.0)
            if not receipt.mailboxes:
                bus.ledger.unrouted(message)
            return receipt
        codec = bus.transport.codec
        return self.arrive(codec.decode(bus.encode(codec, message)))

    def arrive(self, reply: Message[Any]) -> Receipt:
        answer = self.open.get(reply.subject)
        if answer is not None and (reply.body is not None or ERROR_HEADER in reply.headers) and answer.give(reply):
            return Receipt(1)
        self.bus.ledger.unrouted(reply)  # too late, or the second
        return Receipt(0)

    def _listen(self) -> None:
        """Subscribe to replies, if the transport leaves the process: they arrive there like other messages."""
        if self.bus.transport.local or self._listens:
            return
        with free(self._lock):
            if not self._listens:
                self.bus.subscribe(f"{REPLY}{self._token}.*", self._hear, name=self.listener, mailbox=1_000_000)
                self._listens = True  # last, because another thread that sees it sends its request at once

    def _hear(self, message) -> None:  # type: ignore[no-untyped-def]
        self.arrive(message)


def _send_error(replies: Replies, to: Any, request: Message[Any], failed: RequestFailed) -> None:
    """Send the error of a handler to a requester in another process."""
    body = {"type": failed.type, "text": failed.text, "who": failed.who}
    message = replies.reply(to, request, body, frozen_headers({ERROR_HEADER: "1"}))
    if asyncio._get_running_loop() is None:
        replies._reach(message)
    else:
        _send_soon(replies, message)


def _send_soon(replies: Replies, message: Message[Any]) -> None:
    """On an event loop, which must not wait for a disk: the transport has it in line when this returns."""

    def sent(future: asyncio.Future[Receipt]) -> None:
        replies._sending.discard(future)
        failure = asyncio.CancelledError() if future.cancelled() else future.exception()
        if failure is not None:
            _not_told(replies, message, failure)
        elif not future.result().mailboxes:
            replies.bus.ledger.unrouted(message)

    future = asyncio.ensure_future(replies.bus.transport.asend(message, 0.0))
    replies._sending.add(future)  # an event loop keeps only weak references to tasks
    future.add_done_callback(sent)


def _not_told(replies: Replies, message: Message[Any], failure: BaseException) -> None:
    replies.bus.ledger.failed("request.failure_not_told", failure, message=message.id)
