"""
Request and reply: a request carries an address made for it alone, and whoever asked waits there for the first answer.

In memory the address is an object, `Answer`, which costs nothing when nobody waits any more. Where messages are encoded it is
a subject, `_reply.<bus>.<secret>`, under which this bus knows the answer. The secret is random and new for each request, so
that only those who handle a request can answer it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from pipebus.clock import Clock
from pipebus.delivery.subscription import LISTENER
from pipebus.errors import BusClosed, MessageTooLarge, NoResponder, RequestFailed, RequestTimeout, SubjectChanged
from pipebus.foreign.objects import class_name, shown, spared, text_of
from pipebus.mailbox.asked import Waiting
from pipebus.mailbox.mailbox import Mailbox
from pipebus.message.headers import ERROR_HEADER, Headers, frozen_headers
from pipebus.message.message import Message, make_message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import Address
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import routes, rules
from pipebus.pipeline.services import Services
from pipebus.publishing.router import Route, Router
from pipebus.running.runners import current_mailbox
from pipebus.waiting.latch import Latch
from pipebus.waiting.locks import free

PREFIX: Final = "_reply."
SHORT: Final = 200
"""Characters of an error's text that are sent where all of it is too long."""

Outcome = Receipt | Dropped
W = TypeVar("W")


class Answer(Address, Latch):
    """Where one request's answer is waited for: a reply, or the error to raise."""

    __slots__ = ("_drops", "_expected", "asker")

    def __init__(self, asker: Mailbox | None) -> None:
        super().__init__()
        self.asker = asker  # whose handler waits here
        self._drops: list[str] = []
        self._expected: int | None = None

    def dropped(self, why: str) -> None:
        """One of the mailboxes will never answer: its delivery was dropped."""
        self._drops.append(why)
        self._see()

    def expect(self, mailboxes: int) -> None:
        """So many mailboxes have the request."""
        self._expected = mailboxes
        self._see()

    def _see(self) -> None:
        if self._expected is not None and len(self._drops) >= self._expected:
            self.give(NoResponder(f"the request was dropped: {'; '.join(dict.fromkeys(self._drops))}"))

    def __repr__(self) -> str:
        return "<Answer>"


class Asked(Protocol):
    """What asking and answering need of the bus; handed down."""

    clock: Clock
    transport: Any
    codec: Any
    ledger: Ledger
    router: Router
    services: Services

    def next_id(self) -> int: ...
    def encode(self, codec: Any, message: Message[Any]) -> bytes: ...
    def check_address(self, subject: Any) -> None: ...
    def route(self, subject: Any) -> Route: ...
    @property
    def subscribe(self) -> Callable[..., Any]: ...
    @property
    def publish(self) -> Callable[..., Outcome]: ...
    @property
    def apublish(self) -> Callable[..., Awaitable[Outcome]]: ...


class _Anyone(Address):
    """What stands for the subject of all replies while their chain is built: no pattern matches it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "replies"


class Asking(Generic[W]):
    """
    One request under way, for a `with` block. (Not a `contextmanager`, which touches the errors that pass it; they are the
    user's.)

    Who can answer is noted before the request is published: so it is who is asked that finds a circle, if it comes to one.
    """

    __slots__ = ("_replies", "_subject", "_waiting", "address", "answer", "waiter")

    def __init__(
        self, replies: Replies, subject: Any, address: Any, answer: Answer, waiter: W, waiting: Waiting
    ) -> None:  # fmt: skip
        self.address = address
        self.answer = answer
        self.waiter = waiter
        self._replies = replies
        self._subject = subject
        self._waiting = waiting

    def __enter__(self) -> Asking[W]:
        circle = self._waiting.__enter__()
        if circle is not None:
            self._waiting.__exit__()
            raise NoResponder(
                f"a request on {shown(self._subject)} would be answered only after the handler that makes it has ended "
                f"({' -> '.join(circle)}); publish instead"
            )
        self._replies.open[self.address] = self.answer
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.open.pop(self.address, None)
        self._waiting.__exit__()


class Replies:
    """Who waits for what, and how answers come back."""

    def __init__(self, bus: Asked) -> None:
        self.bus = bus
        self.open: dict[Any, Answer] = {}  # by what their requests' `reply_to` is
        self._token = os.urandom(6).hex()
        self.listener = f"{LISTENER}{self._token}"  # the name of the subscription that hears replies
        self._built: tuple[Any, Route] | None = None
        self._listens = False
        self._sending: set[asyncio.Future[Receipt]] = set()
        self._lock = threading.RLock()

    # --- asking --------------------------------------------------------------------------------------------------------

    def asking(self, subject: Any, kind: Callable[[Latch], W]) -> Asking[W]:
        """
        An address for the answer to a request on `subject`, and (of this kind) who waits for it: for a `with` block.

        Raises:
            NoResponder: the one who asks is the only one who could answer, or those who could wait for it themselves.
        """
        bus = self.bus
        own = current_mailbox()
        asked: tuple[Mailbox, ...] = ()  # who can answer, if that is known
        if own is not None and own.rules.workers == 1:
            route = bus.route(subject)
            if route.mailboxes == (own,):
                raise NoResponder(f"a request on {shown(subject)} would wait for the handler that makes it; publish instead")
            if bus.transport.local and not any(step.traits.reroutes for step in routes.filters_for(route.nodes, subject)):
                asked = route.mailboxes  # elsewhere, or for another subject, there may be others
        answer = Answer(own)
        waiter = kind(answer)  # before anybody knows of it: a stop may give it something at once
        address: Any = answer
        if not bus.transport.capabilities.objects:
            self._listen()
            address = f"{PREFIX}{self._token}.{secrets.token_urlsafe(16)}"
        return Asking(self, subject, address, answer, waiter, Waiting(own, asked))

    def asker(self, address: Any) -> Mailbox | None:
        """Whose handler waits for an answer at this address, if one does."""
        if address.__class__ is Answer:
            found: Mailbox | None = address.asker
            return found
        answer = self.open.get(address) if type(address) is str and address.startswith(PREFIX) else None
        return answer.asker if answer is not None else None

    def published(self, message: Message[Any], answer: Answer, outcome: Outcome) -> None:
        """Raises NoResponder if nobody can answer."""
        if isinstance(outcome, Dropped):
            raise NoResponder(f"the request on {message.subject} was dropped by {outcome.by}: {outcome.reason}")
        if not outcome.mailboxes:
            raise NoResponder(f"nobody listens to {message.subject}; subscribe a handler that returns a value")
        if self.bus.transport.local:
            answer.expect(outcome.mailboxes)

    @staticmethod
    def late(message: Message[Any], timeout: float) -> RequestTimeout:
        return RequestTimeout(f"no reply on {message.subject} in {timeout:g} s (a handler that returns None does not reply)")

    @staticmethod
    def result(found: Any) -> Message[Any]:
        """The reply. Raises what the handler's failure, or the time-out, was told as."""
        if isinstance(found, Message):
            if ERROR_HEADER in found.headers:
                body = found.body if isinstance(found.body, dict) else {}
                raise RequestFailed(str(body.get("type", "Exception")), str(body.get("text", "")))
            return found
        raise found

    def close(self) -> None:
        """The bus stops: no answer will come."""
        for answer in list(self.open.values()):
            answer.give(BusClosed("the bus stopped while a request waited for its reply"))

    # --- answering -----------------------------------------------------------------------------------------------------

    def owns(self, address: Any) -> bool:
        """
        Whether messages for it are replies, which take the road of replies.

        A subject is one only where messages are encoded; in one process, only if this bus has made it: any other name there
        is a subject like any other.
        """
        if address.__class__ is Answer:
            return True
        transport = self.bus.transport
        if not isinstance(address, str) or transport.capabilities.objects:
            return False
        return address.startswith(f"{PREFIX}{self._token}." if transport.local else PREFIX)

    def answer(self, to: Any, request: Message[Any], value: Any) -> None:
        """Publish what a handler returned."""
        if not self.answer_at_once(to, request, value) and not self._lost(to, request, value):
            self._answered(to, self.bus.publish(to, value, correlation_id=request.correlation_id or request.id))

    async def aanswer(self, to: Any, request: Message[Any], value: Any) -> None:
        """`answer` on an event loop."""
        if not self.answer_at_once(to, request, value) and not self._lost(to, request, value):
            self._answered(to, await self.bus.apublish(to, value, correlation_id=request.correlation_id or request.id))

    def _lost(self, to: Any, request: Message[Any], value: Any) -> bool:
        """
        Drop a reply whose address cannot be published to, and count it. The address is not the handler's: it may have come
        from another program, or from a filter, and the handler has done its work.
        """
        try:
            hash(to)
            self.bus.check_address(to)
        except BaseException as error:  # also whatever an object's own methods raise
            spared(error)
            self.bus.ledger.unrouted(self.reply(to, request, value))
            return True
        return False

    def _answered(self, to: Any, outcome: Outcome) -> None:
        if isinstance(outcome, Dropped):
            self.drop(to, f"its reply: {outcome.reason} (by {outcome.by})")

    def answer_at_once(self, to: Any, request: Message[Any], value: Any) -> bool:
        """Hand a reply over without a road, where nothing stands on it."""
        if to.__class__ is not Answer or self.bus.router.nodes or self.bus.ledger.observed:
            return False
        self.arrive(self.reply(to, request, value))
        return True

    def drop(self, to: Any, why: str) -> None:
        """Whoever asked is told that one mailbox will not answer."""
        answer = self.open.get(to) if self.owns(to) else None
        if answer is not None:
            answer.dropped(why)

    def fail(self, to: Any, request: Message[Any], error: BaseException) -> None:
        """A handler has given up: whoever asked is told why; never raises. What filters do to messages is not done to that."""
        try:
            kind = class_name(error)
            text = text_of(error).removeprefix(kind).removeprefix(": ")
            try:
                self._fail(to, request, kind, text)
            except MessageTooLarge:  # the text is; the one who asked hears at least what kind of error it was
                self._fail(to, request, kind, f"{text[:SHORT]}… (too long to be sent)")
        except Exception as failure:
            self._not_told(request, failure)

    def _not_told(self, message: Message[Any], failure: BaseException) -> None:
        self.bus.ledger.failed("request.failure_not_told", failure, message=message.id)

    def _fail(self, to: Any, request: Message[Any], kind: str, text: str) -> None:
        if to.__class__ is Answer:
            to.give(RequestFailed(kind, text))
        elif self.owns(to):
            body = {"type": kind, "text": text}
            message = self.reply(to, request, body, frozen_headers({ERROR_HEADER: "1"}))
            if self.bus.transport.local or asyncio._get_running_loop() is None:
                self._reach(message)
            else:
                self._send_soon(message)

    def _send_soon(self, message: Message[Any]) -> None:
        """On an event loop, which must not wait for a disk: the transport has it in line when this returns."""

        def sent(future: asyncio.Future[Receipt]) -> None:
            self._sending.discard(future)
            failure = asyncio.CancelledError() if future.cancelled() else future.exception()
            if failure is not None:
                self._not_told(message, failure)
            elif not future.result().mailboxes:
                self.bus.ledger.unrouted(message)

        future = asyncio.ensure_future(self.bus.transport.asend(message, 0.0))
        self._sending.add(future)  # a loop itself keeps no task
        future.add_done_callback(sent)

    def reply(self, to: Any, request: Message[Any], body: Any, headers: Headers | None = None) -> Message[Any]:
        correlation = request.correlation_id or request.id
        now = self.bus.clock.now()
        return make_message(to, body, headers, self.bus.next_id(), now, None, None, None, correlation)

    def route(self) -> Route:
        """The road of all replies: the filters under no pattern, compiled once, outside the cache of routes."""
        nodes = self.bus.router.nodes
        if self._built is None or self._built[0] is not nodes:
            route = Route(self.bus.router, _Anyone(), nodes, ())
            route.reach = self._reach
            if route.colour == "sync":
                rules.check_colour(tuple(routes.filters_for(nodes, route.subject)), "sync", "the publish chain is sync")
            self._built = (nodes, route)
        return self._built[1]

    def _reach(self, message: Message[Any]) -> Receipt:
        """Behind the last filter."""
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
        """On transports that leave the process, replies come like other messages."""
        if self.bus.transport.local or self._listens:
            return
        with free(self._lock):
            if not self._listens:
                self.bus.subscribe(f"{PREFIX}{self._token}.*", self._hear, name=self.listener, mailbox=1_000_000)
                self._listens = True  # not before: who sees it asks at once

    def _hear(self, message) -> None:  # type: ignore[no-untyped-def]
        self.arrive(message)
