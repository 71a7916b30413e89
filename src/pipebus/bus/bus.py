"""
The bus: where the parts meet. Step 1 of the road of a message is `publish`; the rest hands things down.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeVar, Unpack, overload

from pipebus import events
from pipebus.bus import explain
from pipebus.bus.handlers import Handlers
from pipebus.bus.lifecycle import Lifecycle, State, StopReport, is_success
from pipebus.bus.typing import Addresses, Envelope, Options, Question, Register, Where
from pipebus.clock import SYSTEM, Clock, SystemClock
from pipebus.delivery.actor import Actor
from pipebus.delivery.planning import Planner, check_delivery
from pipebus.delivery.spawning import Spawner
from pipebus.delivery.subscription import LISTENER, Delivery, Plan, Subscription
from pipebus.errors import (
    BusClosed,
    LifecycleError,
    MessageError,
    MessageTooLarge,
    PipebusError,
    PipelineError,
    SubjectError,
    SubscriptionError,
    UnsupportedCapability,
)
from pipebus.foreign.objects import class_name, plain_text, said, shown, spared
from pipebus.mailbox.inbox import Inbox
from pipebus.mailbox.mailbox import ONE, LoopGate, Mailbox, Overflow, Traffic
from pipebus.mailbox.shared import SharedMailbox
from pipebus.mailbox.solo import one_worker_kind
from pipebus.message.codec import Codec, JsonCodec
from pipebus.message.fields import check_fields, plain_number
from pipebus.message.headers import NO_HEADERS, check_headers
from pipebus.message.ids import IdRange
from pipebus.message.message import Message, check_message, make_message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import Address, Subject, check_subject
from pipebus.outcomes.dead_letters import PUBLISH, DeadLetters, Source
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import blame, callables, compose, pipeline, places, routes, state
from pipebus.pipeline import rules as chain_rules
from pipebus.pipeline.compose import Side
from pipebus.pipeline.recognise import nodes
from pipebus.pipeline.services import Services
from pipebus.publishing.arrival import bind
from pipebus.publishing.replies import Replies
from pipebus.publishing.room import room, room_for_thread, timed_out
from pipebus.publishing.router import AWAITED, BARE, CACHE, Road, Route, Router
from pipebus.publishing.schedule import Schedule
from pipebus.running.loops import LoopRunner, LoopThread
from pipebus.running.runners import Here, Pool, Starts, Timers, carried, carry, current_mailbox
from pipebus.transports.opening import open_transport
from pipebus.values import quantities
from pipebus.values.quantities import is_duration
from pipebus.waiting.elsewhere import in_thread, on_executor
from pipebus.waiting.latch import LoopWaiter, ThreadWaiter
from pipebus.waiting.locks import Locks, free

if TYPE_CHECKING:
    from pipebus.bus.typing import Handler

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

T = TypeVar("T")
F = TypeVar("F")
H = TypeVar("H", bound=Callable[..., Any])
S = TypeVar("S", bound=Subscription)
A = TypeVar("A", bound=Actor)
Observer = TypeVar("Observer", bound=Callable[..., object])

OPTIONS: Final = ("headers", "key", "id", "ttl", "delay", "reply_to", "correlation_id")
"""The keyword arguments of `publish`."""

DEFAULTS: Final[dict[str, Any]] = {
    "name": None, "filters": (), "to": None, "workers": 1, "run": None, "mailbox": 10_000, "overflow": "block",
    "overflow_timeout": 5.0, "attempts": 3, "deliver": "new",
}  # fmt: skip
"""The keyword arguments of `subscribe`."""

AWAITED_LATE: Final = AWAITED._replace(late=True)

_journal: Final[contextvars.ContextVar[list[Subscription] | None]] = contextvars.ContextVar("pipebus.journal", default=None)
"""What has been subscribed and spawned in this `include` so far."""

_delay: Final[contextvars.ContextVar[float]] = contextvars.ContextVar("pipebus.delay", default=0.0)
_buses: Final[weakref.WeakSet[Bus]] = weakref.WeakSet()


class Bus:
    """
    A message bus.

    Args:
        url: What carries messages: "memory:" (the default), "memory:?wire=json", or another transport's URL.
        require: Capabilities that the transport must promise, as in {"survives": "power"}.
        pool: Worker threads for handlers; None: min(32, processors + 4), more if a subscription's `workers` need it.
        dead_letters: Most dead letters kept in memory.
        max_message_bytes: Largest encoded message; only transports that encode look at it.
        drain: Whether a stop works off what waits, where `stop(drain=…)` does not say. None: in memory, where it would be
            lost, and not on a transport that survives, which keeps it.
        debug: Also see mistakes that are too costly to look for always (threads that share a sync `call_next`).
        clock: Time; a test's own.
        name: For thread names and logs.

    Raises:
        UnsupportedCapability: an unknown URL, or a transport that promises less than `require`.
    """

    def __init__(
        self,
        url: str = "memory:",
        *,
        require: Mapping[str, Any] | None = None,
        pool: int | None = None,
        dead_letters: int = 10_000,
        max_message_bytes: int | None = None,
        drain: bool | None = None,
        debug: bool = False,
        clock: Clock | None = None,
        name: str = "pipebus",
    ) -> None:
        url, name = plain_text(url), plain_text(name)
        self.require = {plain_text(what): plain_text(promise) for what, promise in (require or {}).items()}
        self.name = name
        self.locks = Locks()
        self.clock: Clock = clock or SYSTEM
        self.transport = open_transport(url) if isinstance(url, str) else url
        self.url = getattr(self.transport, "url", url)  # without secrets, if it has some
        if self.transport.locks is not None:
            self.locks.add(self.transport.locks)
        self.transport.capabilities.require(self.require, type(self.transport).__name__)
        self.codec: Codec = JsonCodec()
        self.max_message_bytes = max_message_bytes
        if drain is not None and not isinstance(drain, bool):
            raise PipelineError(f"Bus(drain={drain!r}): it is True, False or None")
        self.drains = drain
        cap = _whole(dead_letters, "dead_letters", 1)
        self.dead_letters: DeadLetters = (
            self.transport.dead_letters if self.transport.dead_letters is not None else DeadLetters(cap, self.locks)
        )
        self.dead_letters.cap, self.dead_letters.locks = cap, self.locks
        self.ledger = Ledger(name, lambda error: self.interrupted(error, "an observer"), self.locks)
        self.starts = Starts(self.ledger.warn)
        self.traffic = Traffic(self.locks, self.starts.retry)
        self.pool_is_given = pool is not None
        size = _whole(pool, "pool", 1) if pool is not None else min(32, (os.cpu_count() or 1) + 4)
        self.pool = Pool(
            size, self.clock, name, lambda ready, workers: self.ledger.emit(events.Starved(ready, workers)),
            starts=self.starts, locks=self.locks,
        )  # fmt: skip
        self.loop_thread = LoopThread(name, lambda error: self.interrupted(error, "a task on the bus's loop"), self.locks)
        self.loops = LoopRunner(self.clock, self.loop_thread, self.ledger.warn, self.starts, self.locks)
        self.timers = Timers(self.clock, name, lambda error: self.ledger.failed("timer.failed", error), self.starts, self.locks)
        self.starts.later = self.timers.after
        self.services = Services(self.clock, debug, self.pool.lent, carry)
        self.router = Router(self)
        self.delivery_nodes: tuple[compose.Node, ...] = ()
        self.replies = Replies(self)
        self.lifecycle = Lifecycle(self)
        self._planner = Planner(self, self, {Delivery: lambda _: state.delivery.get(), Bus: lambda _: self})
        self._spawner = Spawner(self, self._planner)
        self._names: dict[str, Subscription] = {}
        # Others register and stop at any time: whoever goes through a dictionary like this one takes a `list` of it first,
        # which is one step for all threads.
        self.schedules: dict[Schedule, None] = {}
        self.told = Told()
        self.numbers = itertools.count(1)  # for subscriptions without a name
        self._runs = self.router.runs
        self._ids = IdRange()
        self._next_id = self._ids.next
        # None: the struct itself asks the system's clock.
        self._now = None if type(self.clock) is SystemClock else self.clock.now
        self._sent = itertools.count()  # messages whose ids are not of `_ids`
        _buses.add(self)
        if (made := getattr(self.clock, "made", None)) is not None:  # a test's clock, which wants to know
            made(self)

    # --- publishing ----------------------------------------------------------------------------------------------------

    @overload
    def publish(self, subject: Subject[T], body: T, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Subject[None], body: None = None, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Where, body: Any = None, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    def publish(self, subject: Any, body: Any = None, **options: Any) -> Receipt | Dropped:
        # The overloads are the signature. Naming the options here would cost every publish 50 ns, a tenth of its time, for
        # defaults that most of them never change: `_publish_with` names them.
        """
        Send a body through the publish chain into the mailboxes of the subject's subscribers.

        Args:
            subject: A literal subject, a `Subject`, an actor or a `Ref`.
            body: Anything; shared by all who read it.
            headers: Strings to strings.
            key: Keeps the order among messages of equal key where a subscription has several workers.
            id: An id of your own, for a publish that may be repeated; made if not given.
            ttl: Seconds, > 0, after which the message is dropped instead of handled.
            delay: Seconds, >= 0, before it may be taken; it passes the chain now and holds its place from now on.
            reply_to: Subject for an answer.
            correlation_id: Joins messages that belong together.

        Returns:
            `Receipt` (truthy): accepted by every mailbox, or by the transport's store. `Dropped` (falsy): a filter ended it.

        Raises:
            Rejected: a filter refused it. MailboxFull: no room. BusNotStarted, BusClosed. SubjectError, HeaderError,
            MessageError: bad input. And whatever a filter raises, as the same object.
        """
        if type(subject) is not str:
            subject = plain_text(subject)
        if options:
            unknown = options.keys() - set(OPTIONS)
            if unknown:
                raise TypeError(
                    f"publish() got an unexpected keyword argument {shown(min(unknown))}; there are {', '.join(OPTIONS)}"
                )
            return self._publish_with(subject, body, **options)
        try:
            run = self._runs[subject]
        except (KeyError, TypeError):
            run = self._missed(subject)
        if self._now is None:
            message = make_message(subject, body, NO_HEADERS, self._next_id())
        else:
            message = make_message(subject, body, NO_HEADERS, self._next_id(), self._now())
        try:
            outcome = run(message)
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        if outcome is not ONE and type(outcome) is not Receipt:
            self.ledger.dropped(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def _publish_with(
        self, subject: Any, body: Any, *, headers: Mapping[str, str] | None = None, key: str | None = None,
        id: str | None = None, ttl: float | None = None, delay: float = 0.0, reply_to: Any = None,
        correlation_id: str | None = None,
    ) -> Receipt | Dropped:  # fmt: skip
        """`publish` with options."""
        if delay:
            late = _seconds(delay, "delay")
            route = self.route(subject)
            return self._pass_late(route, self._compose(subject, body, headers, key, id, ttl, reply_to, correlation_id), late)
        run = self._find(subject)
        return self._pass(run, self._compose(subject, body, headers, key, id, ttl, reply_to, correlation_id))

    def _compose(
        self, subject: Any, body: Any, headers: Mapping[str, str] | None, key: str | None, id: str | None, ttl: float | None,
        reply_to: Any, correlation_id: str | None,
    ) -> Message[Any]:  # fmt: skip
        """A message of checked parts; it counts as published once they are."""
        checked = NO_HEADERS if headers is None else check_headers(headers)
        key, reply_to, correlation_id, id = plain_text(key), plain_text(reply_to), plain_text(correlation_id), plain_text(id)
        ttl = plain_number(ttl)
        check_fields(key, ttl, reply_to, correlation_id, id)
        if id is None:
            number: Any = self._next_id()
        else:
            number = id
            next(self._sent)
        return make_message(subject, body, checked, number, self.clock.now(), key, ttl, reply_to, correlation_id)

    def _pass(self, run: compose.Next, message: Message[Any]) -> Receipt | Dropped:
        try:
            outcome = run(message)
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        if outcome.__class__ is not Receipt:
            self.ledger.dropped(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def send(self, message: Message[Any]) -> Receipt | Dropped:
        """`publish` for a message that exists already; its id is kept."""
        message = _checked(message)
        run = self._find(message.subject)
        next(self._sent)
        return self._pass(run, message)

    @overload
    async def apublish(self, subject: Subject[T], body: T, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    @overload
    async def apublish(self, subject: Subject[None], body: None = None, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    @overload
    async def apublish(self, subject: Where, body: Any = None, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    async def apublish(
        self,
        subject: Any,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        id: str | None = None,
        ttl: float | None = None,
        delay: float = 0.0,
        reply_to: Any = None,
        correlation_id: str | None = None,
    ) -> Receipt | Dropped:
        """
        `publish` for coroutines: runs the chain on this loop, and waits for room without stopping it.

        A plain sync filter cannot be awaited: where the chain has one, it runs inline if nothing in it can wait, else on a
        worker thread with a copy of the context.
        """
        late = _seconds(delay, "delay") if delay else 0.0
        subject = plain_text(subject)
        route = self.route(subject)
        message = self._compose(subject, body, headers, key, id, ttl, reply_to, correlation_id)
        return await self._apublish(route, message, late)

    async def asend(self, message: Message[Any]) -> Receipt | Dropped:
        """`send` for coroutines."""
        message = _checked(message)
        route = self.route(message.subject)
        next(self._sent)
        return await self._apublish(route, message, 0.0)

    @overload
    def request(self, subject: Subject[T], body: T, **question: Unpack[Question]) -> Message[Any]: ...
    @overload
    def request(self, subject: Where, body: Any = None, **question: Unpack[Question]) -> Message[Any]: ...
    def request(self, subject: Any, body: Any = None, *, timeout: float = 5.0, **options: Any) -> Message[Any]:
        """
        Publish, and wait for the first reply: what a handler returns, if it is not None.

        Args:
            subject: As for `publish`.
            body: As for `publish`.
            timeout: Seconds to wait for the reply.
            headers, key, id, ttl, correlation_id: As for `publish`.

        Raises:
            NoResponder: nobody listens, a filter dropped the request, or the handler that asks is the only one to answer.
            RequestFailed: the handler failed. RequestTimeout: no reply came in time. BusClosed: the bus has stopped meanwhile.
            LifecycleError: on a running event loop. And what `publish` raises.
        """
        if asyncio._get_running_loop() is not None:
            raise LifecycleError(
                "request waits for its reply and would stop the running event loop; use `await bus.arequest(…)`"
            )
        self.locks.check()
        timeout = _seconds(timeout, "timeout")
        subject = plain_text(subject)
        run = self._find(subject)
        with self.replies.asking(subject, ThreadWaiter) as asking:
            message = self._question(subject, body, asking.address, **options)
            self.replies.published(message, asking.answer, self._pass(run, message))
            return self.replies.result(asking.waiter.wait(self.services, timeout, lambda: self.replies.late(message, timeout)))

    @overload
    async def arequest(self, subject: Subject[T], body: T, **question: Unpack[Question]) -> Message[Any]: ...
    @overload
    async def arequest(self, subject: Where, body: Any = None, **question: Unpack[Question]) -> Message[Any]: ...
    async def arequest(self, subject: Any, body: Any = None, *, timeout: float = 5.0, **options: Any) -> Message[Any]:
        """`request` for coroutines."""
        timeout = _seconds(timeout, "timeout")
        subject = plain_text(subject)
        route = self.route(subject)
        with self.replies.asking(subject, LoopWaiter) as asking:
            message = self._question(subject, body, asking.address, **options)
            self.replies.published(message, asking.answer, await self._apublish(route, message, 0.0))
            return self.replies.result(await asking.waiter.wait(timeout, lambda: self.replies.late(message, timeout)))

    def _question(
        self, subject: Any, body: Any, reply_to: Any, *, headers: Mapping[str, str] | None = None, key: str | None = None,
        id: str | None = None, ttl: float | None = None, correlation_id: str | None = None,
    ) -> Message[Any]:  # fmt: skip
        if headers is None and key is None and id is None and ttl is None and correlation_id is None:
            return make_message(subject, body, NO_HEADERS, self._next_id(), self.clock.now(), None, None, reply_to)
        return self._compose(subject, body, headers, key, id, ttl, reply_to, correlation_id)

    async def _apublish(self, route: Route, message: Message[Any], delay: float) -> Receipt | Dropped:
        late = _delay.set(delay) if delay else None
        full = None
        waited: tuple[Mailbox, ...] = ()
        try:
            self._check_delay(delay)
            for mailbox in route.mailboxes:
                if mailbox.lacks_room():
                    waited = route.mailboxes
                    refused = await room(waited)
                    full = timed_out.set(refused) if refused else None
                    break
            if not route.nodes and self.transport.local and not delay:
                outcome = route.run(BARE)(message)
            elif route.colour == "async" or route.plain_sync is None:
                outcome = await route.run(AWAITED_LATE if delay else AWAITED)(message)
            else:
                run = route.run(Road("sync", force=True, late=bool(delay)))
                inline = route.waits is None and self.transport.local
                outcome = run(message) if inline else await self._elsewhere(run, message)
            if delay:
                self.timers.tell()
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        finally:
            if full is not None:
                timed_out.reset(full)
            if late is not None:
                _delay.reset(late)
            for mailbox in waited:
                mailbox.look_again()
        return self._passed(message, outcome)

    @staticmethod
    async def _elsewhere(run: compose.Next, message: Message[Any]) -> Any:
        """A chain that cannot be awaited, on a worker thread, where it still counts as part of the handler that publishes."""
        here = Here(current_mailbox())
        token = carried.set(here)
        try:
            return await on_executor(run, message)
        finally:
            here.mailbox = None
            carried.reset(token)

    def _pass_late(self, route: Route, message: Message[Any], delay: float) -> Receipt | Dropped:
        late = _delay.set(delay)
        try:
            self._check_delay(delay)
            outcome = self._callable(route, late=True)(message)
            self.timers.tell()
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        finally:
            _delay.reset(late)
        return self._passed(message, outcome)

    def _passed(self, message: Message[Any], outcome: Any) -> Receipt | Dropped:
        if outcome.__class__ is not Receipt:
            self.ledger.dropped(message, outcome)
        elif self.ledger.observed:
            self.ledger.emit(events.Published(message, outcome))
        return outcome  # type: ignore[no-any-return]

    def _check_delay(self, delay: float) -> None:
        if delay and not self.transport.capabilities.delay:
            raise UnsupportedCapability(f"{self.url} cannot delay messages; publish it when its time has come")

    # A publish looks into `_runs`. What is not there comes here: a subject's first message, and everything while the bus is
    # not started, is stopping or is a forked child's: then `_runs` is empty, so that a publish checks none of this itself.

    def _find(self, subject: Any) -> compose.Next:
        """What `publish` does in its own frame."""
        try:
            return self._runs[subject]
        except (KeyError, TypeError):
            return self._missed(subject)

    def _missed(self, subject: Any) -> compose.Next:
        if len(self._runs) >= CACHE:
            # So many subjects that a route for each would be thrown away before its next message.
            put = self.router.shortest(subject)
            if put is not None:
                return put
        self.lifecycle.check_publish()
        with free(self.router.lock):
            route = self.route(subject)
            run = self._callable(route, late=False)
            if self.ledger.observed:
                run = self._watched(run)
            if (
                self.lifecycle.state == "started"
                and not self.replies.owns(subject)
                and (route.mailboxes or isinstance(subject, str))
            ):
                self._runs[subject] = run
            return run

    def route(self, subject: Any) -> Route:
        """The compiled road of a subject, ready to be published to."""
        try:
            known = self.router.routes.get(subject)
            if known is not None and self.lifecycle.state == "started":
                return known
        except TypeError:
            pass  # not hashable: told below
        self.lifecycle.check_publish()
        try:
            return self.replies.route() if self.replies.owns(subject) else self.router.route(subject)
        except TypeError:
            raise SubjectError(
                f"{shown(subject)} cannot be a subject: {class_name(subject)} objects are not hashable; "
                "use a string or Ref(obj)"
            ) from None

    def _callable(self, route: Route, late: bool) -> compose.Next:
        """What a sync publish calls for a route."""
        if route.colour == "async":
            arun, subject = route.run(Road("async", force=True, late=late)), route.subject
            name = next(step.name for step in routes.filters_for(route.nodes, subject) if step.colour == "async")

            def on_loop_thread(message: Message[Any]) -> Any:
                self.locks.check()
                if asyncio._get_running_loop() is not None:
                    raise PipelineError(
                        f'filter {name} is async, so publish() on "{subject}" cannot run inside an event loop; '
                        "use `await bus.apublish(…)`"
                    )
                refused = room_for_thread(route.mailboxes, self.clock, self.pool.lent)
                token = timed_out.set(refused) if refused else None
                try:
                    with self.pool.lent():
                        return self.loop_thread.call(arun, message)
                finally:
                    if token is not None:
                        timed_out.reset(token)
                    for mailbox in route.mailboxes:
                        mailbox.look_again()

            return on_loop_thread
        run = route.run(Road("sync", late=late))
        if route.waits is None:
            return run
        name = route.waits

        def may_wait(message: Message[Any]) -> Any:
            if asyncio._get_running_loop() is not None:
                raise PipelineError(
                    f'filter {name} may wait, so publish() on "{route.subject}" cannot run inside an event loop; '
                    "use `await bus.apublish(…)`"
                )
            return run(message)

        return may_wait

    def _watched(self, run: compose.Next) -> compose.Next:
        def call(message: Message[Any]) -> Any:
            outcome = run(message)
            if outcome.__class__ is Receipt:
                self.ledger.emit(events.Published(message, outcome))
            return outcome

        return call

    @property
    def direct(self) -> bool:
        local = self.transport.local and self.transport.codec is None
        return bool(local and not self.ledger.observed and self.state == "started")

    def encode(self, codec: Any, message: Message[Any]) -> bytes:
        """The message's bytes, if they are not too many."""
        data: bytes = codec.encode(message)
        if self.max_message_bytes is not None and len(data) > self.max_message_bytes:
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {len(data):,} bytes; "
                f"max_message_bytes is {self.max_message_bytes:,}"
            )
        return data

    def delay(self) -> float:
        """The delay of the publish that is passing the chain, in seconds."""
        return _delay.get()

    def next_id(self) -> int:
        """The number of a message that the bus makes."""
        number: int = self._next_id()
        return number

    # --- registering -----------------------------------------------------------------------------------------------------

    @overload
    def use(self, filter: F, /, *, at: Side = "publish") -> F: ...
    @overload
    def use(self, first: Any, second: Any, /, *more: Any, at: Side = "publish") -> None: ...
    def use(self, *filters: Any, at: Side = "publish") -> Any:
        """
        Append filters to a chain, before start; with one argument usable as a decorator.

        Args:
            at: "publish": once per message, before the mailboxes. "delivery": around every handler.

        Raises:
            PipelineError: naming the filter, its position, the place and the remedy.
        """
        if at not in ("publish", "delivery"):
            raise PipelineError(f'use(at={shown(at)}): a filter stands at "publish" or at "delivery"')
        self.locks.check()
        with self.lifecycle.lock:
            if self.state not in ("new", "stopped"):
                raise LifecycleError("filters cannot be added after start: chains are frozen; call use() before start()")
            added = nodes(filters, places.caller(), "use")
            if at == "publish":
                chain = (*self.router.nodes, *added)
                chain_rules.check(chain, "publish")
                self._spawner.filters(added)
                self.router.nodes = chain
                self.router.forget_all()
            else:
                chain = (*self.delivery_nodes, *added)
                chain_rules.check(chain, "delivery")
                for subscription in self.router.subscriptions():
                    check_delivery(subscription, chain)
                self._spawner.filters(added)
                self.delivery_nodes = chain
        if filters:
            return filters[0] if len(filters) == 1 else None

        def misplaced(filter: Any) -> Any:
            option = "" if at == "publish" else f', at="{at}"'
            raise PipelineError(
                f"use is given no filter; write @bus.use without parentheses, or bus.use({callables.name_of(filter)}{option})"
            )

        return misplaced

    @overload
    def on(self, subject: Subject[T], **options: Unpack[Options]) -> Register[T]: ...  # type: ignore[overload-overlap]
    @overload
    def on(self, subject: Addresses, **options: Unpack[Options]) -> Callable[[H], H]: ...
    def on(self, subject: Any, **options: Any) -> Any:
        """
        `subscribe` as a decorator, with its options; the function stays what it is.

        Raises:
            SubjectError: a bad pattern, or no subject at all.
        """
        self._planner.subjects(subject, "on")

        def register(handler: H) -> H:
            self.subscribe(subject, handler, **options)
            return handler

        return register

    @overload
    def subscribe(self, subject: Subject[T], handler: Handler[T] | None = None, **options: Unpack[Options]) -> Subscription: ...
    @overload
    def subscribe(
        self, subject: Addresses, handler: Callable[..., object] | None = None, **options: Unpack[Options]
    ) -> Subscription: ...
    def subscribe(
        self,
        subject: Any,
        handler: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        filters: Sequence[Any] | pipeline.Pipeline = (),
        to: Any = None,
        workers: int = 1,
        run: Literal["pool", "thread", "loop"] | None = None,
        mailbox: int = 10_000,
        overflow: Overflow = "block",
        overflow_timeout: float = 5.0,
        attempts: int = 3,
        deliver: str = "new",
    ) -> Subscription:
        """
        Subscribe a handler, or (without one) a mailbox that you read yourself. Effective when it returns.

        Args:
            subject: A subject or pattern, an object, or a list of them.
            handler: Its parameters are filled by annotation. None: pull.
            name: Durable name and group; unique in one bus. Made if not given.
            filters: The subscription's own delivery chain, inside the bus's.
            to: Where a returned value is published (None is not).
            workers: How many messages may be handled at once, >= 1; more than one keeps the order of equal keys only.
            run: "pool": on the bus's worker threads (what a `def` gets). "thread": on threads of its own, one for each of its
                `workers`. "loop": on an event loop (what an `async def` gets): the caller's inside `async with bus`, else the
                bus's own. A plain `def` there must not block.
            mailbox: Most messages queued and in flight, >= 1.
            overflow: When full: "block", "reject", "drop_newest" or "drop_oldest".
            overflow_timeout: Seconds that "block" waits before `MailboxFull`.
            attempts: How often a returned or lost delivery is taken before it is dead, >= 1.
            deliver: "new", or on transports that replay "all" or "last".

        Raises:
            SubscriptionError, SubjectError, PipelineError, UnsupportedCapability: naming what is wrong.
        """
        return self.subscribe_at(
            places.caller(), subject, handler, name=name, filters=filters, to=to, workers=workers, run=run, mailbox=mailbox,
            overflow=overflow, overflow_timeout=overflow_timeout, attempts=attempts, deliver=deliver,
        )  # fmt: skip

    def include(self, *handlers: Handlers) -> None:
        """
        Subscribe what `Handlers` have written down.

        Raises:
            SubscriptionError and the like, naming the place where the handler was written down.
        """
        for one in handlers:
            if not isinstance(one, Handlers):
                raise SubscriptionError(f"include takes Handlers, found {shown(one)}; use bus.subscribe for a single function")
            made: list[Subscription] = []
            token = _journal.set(made)
            try:
                for subject, handler, options, place in one.hand_over(self):
                    self.subscribe_at(place, subject, handler, **options)
            except BaseException:
                for subscription in made:  # all of them with their filter actors, or none
                    self.strike(subscription, "unsubscribed")
                one.take_back(self)
                raise
            finally:
                _journal.reset(token)

    def subscribe_at(
        self, place: places.Place, subject: Any, handler: Callable[..., Any] | None, **options: Any
    ) -> Subscription:
        """`subscribe`, for what was written down elsewhere."""
        self.locks.check()
        options = {**DEFAULTS, **options}
        name, filters = plain_text(options.pop("name")), options.pop("filters")
        subjects = self._planner.subjects(subject)
        plan = self._planner.plan(handler, place, name, filters, **options)
        kind = one_worker_kind() if plan.rules.workers == 1 and not plan.rules.pull else SharedMailbox
        return self.enrol(plan, name, place, lambda: Subscription(plan, subjects, name or next(self.numbers), place, kind))

    def enrol(self, plan: Plan, name: str | None, place: places.Place, make: Callable[[], S]) -> S:
        """Make a subscription one of the bus's."""
        self.lifecycle.check_process()
        if name == PUBLISH:
            raise SubscriptionError(f'name="{name}" (at {place}): that is what the publish chain is called; choose another')
        if isinstance(name, str) and name.startswith(LISTENER) and name != self.replies.listener:
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
            self.lifecycle.hold(subscription)
            if name is not None:
                self._names[name] = subscription
        spawned: list[Actor] = []
        try:
            # Without the lock: a filter's start may subscribe somebody, also from the bus's loop.
            spawned += self._spawner.filters(plan.nodes)
            while True:
                seen = self.lifecycle.turns
                if self.state == "started" and plan.nodes:
                    self.lifecycle.start_filters([plan.nodes])
                with self.lifecycle.lock:
                    self._check_open()
                    if self.lifecycle.turns == seen or not plan.nodes:  # else the bus has started or stopped meanwhile
                        self._open(subscription)
                        break
        except BaseException:
            if name is not None and self._names.get(name) is subscription:
                del self._names[name]
            self._spawner.undo(spawned)
            self._release(subscription)
            raise
        journal = _journal.get()
        if journal is not None:
            journal.append(subscription)
        return subscription

    def _check_open(self) -> None:
        if self.state == "draining":
            raise BusClosed("the bus is stopping: it takes no more subscriptions")

    def _open(self, subscription: Subscription) -> None:
        """Called under the lock: from here on messages reach it."""
        plan, started = subscription.plan, self.state == "started"
        if subscription.mailbox.closed_for_good():
            raise SubscriptionError(f"{subscription.name} was stopped while it was being spawned")
        if plan.bound is None:
            inbox = subscription.inbox = Inbox(subscription)
            inbox.mailbox = subscription.mailbox  # type: ignore[assignment]
        if started and plan.pool is not None:
            plan.pool.start()
        if self.state == "stopped":  # a publish from before may still stand in a filter, and be sent here
            subscription.mailbox.close("stopped", keep=True)
        subscription.compile(self.delivery_nodes)
        if started and not self.transport.local:
            bind(self, subscription)
        self.router.add(subscription)

    @overload
    def every(self, interval: float | str, subject: Subject[T], body: T, **envelope: Unpack[Envelope]) -> Schedule: ...
    @overload
    def every(
        self, interval: float | str, subject: Subject[None], body: None = None, **envelope: Unpack[Envelope]
    ) -> Schedule: ...
    @overload
    def every(self, interval: float | str, subject: Where, body: Any = None, **envelope: Unpack[Envelope]) -> Schedule: ...
    def every(self, interval: float | str, subject: Any = None, body: Any = None, **envelope: Unpack[Envelope]) -> Schedule:
        """
        Publish a message every `interval` seconds while the bus is started: the first after one interval. What was missed is
        not caught up, and no tick begins before the last one has been published.

        Args:
            interval: Seconds, > 0, or text such as "5m".
            subject, body: As for `publish`, like the other arguments.

        Returns:
            A `Schedule`: `stop()`, `stats()`.

        Raises:
            PipelineError, SubjectError, HeaderError, MessageError: bad input, told now and not with the first tick.
        """
        return self.every_at(places.caller(), interval, subject, body, **envelope)

    def every_at(self, place: places.Place, interval: float | str, subject: Any, body: Any = None, **envelope: Any) -> Schedule:
        """`every`, for what was written down elsewhere."""
        self.lifecycle.check_process()
        for given in (interval, subject):
            if callable(given) and not isinstance(given, Address):
                raise PipelineError(
                    f"every is given the function {callables.name_of(given)}, but it publishes a message; subscribe it: "
                    '@bus.on("headlines.fetch"), and bus.every(60.0, "headlines.fetch")'
                )
        self.locks.check()
        seconds = quantities.seconds(interval, "every", above=0.0)
        unknown = envelope.keys() - set(OPTIONS)
        if unknown:
            raise TypeError(f"every() got an unexpected keyword argument {shown(min(unknown))}; there are {', '.join(OPTIONS)}")
        subject = plain_text(subject)
        if envelope.get("id") is not None:
            raise MessageError(f"every: id={shown(envelope['id'])}, but each message has an id of its own; leave it out")
        self._check_delay(_seconds(envelope.get("delay", 0.0), "delay"))
        self.check_address(subject)
        if envelope.get("headers"):
            envelope["headers"] = check_headers(envelope["headers"])
        check_fields(envelope.get("key"), envelope.get("ttl"), envelope.get("reply_to"), envelope.get("correlation_id"))
        rules = self._planner.rules(size=1, overflow="drop_newest", enlist=self.pool.ready.append, schedule=self.pool.call)
        kind = one_worker_kind()
        schedule = Schedule(self, seconds, subject, body, envelope, rules, place, kind)
        with self.lifecycle.lock:
            self.schedules[schedule] = None
            if self.state == "started":
                schedule.begin()
        return schedule

    def check_address(self, subject: Any) -> None:
        """Whether `subject` can be published to here."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, Address):
            raise SubjectError(f"{shown(subject)} cannot be published to; use a string, an actor or Ref(obj)")
        elif not self.transport.capabilities.objects:
            raise UnsupportedCapability(f"{self.url} carries only mail for named subjects, not for {shown(subject)}")

    def forget_schedule(self, schedule: Schedule) -> None:
        """What `schedule.stop()` calls."""
        self.locks.check()
        with self.lifecycle.lock:
            if self.schedules.pop(schedule, schedule) is None:
                schedule.end()

    def observe(self, observer: Observer) -> Observer:
        """
        Hear every event of `pipebus.events`; usable as a decorator. Called where the event happens: be quick.

        An observer's error is caught, counted (`stats()["observer_errors"]`) and logged.
        """
        if not callable(observer):
            raise PipelineError(f"observe takes a callable of one event, found {type(observer).__name__}")
        try:
            runs = callables.is_plain(observer)
        except BaseException as error:  # an object that cannot be looked at; its errors are caught when it is called
            spared(error)
            runs = True
        if not runs:
            raise PipelineError(
                f"observer {callables.name_of(observer)} is async or a generator, and would not run; make it a plain `def`"
            )
        self.locks.check()
        self.ledger.observe(observer)
        self.router.forget_all()
        return observer

    def unsubscribe(self, subscription: Subscription, timeout: float | None = None) -> None:
        """What `subscription.unsubscribe()` calls."""
        self.lifecycle.check_process()
        own = current_mailbox() is subscription.mailbox
        if asyncio._get_running_loop() is not None and not own:
            raise LifecycleError("unsubscribe waits for the handler that runs; on an event loop use `await sub.aunsubscribe()`")
        self.locks.check()
        self.strike(subscription, "unsubscribed", release=own)
        if subscription.inbox is not None:
            subscription.inbox.wake_all()
        elif not own and not subscription.mailbox.wait_idle(timeout):
            self._release_when_idle(subscription)
            raise self._still_running(subscription, timeout)
        if not own:
            self._release(subscription)

    async def aunsubscribe(self, subscription: Subscription, timeout: float | None = None) -> None:
        """What `await subscription.aunsubscribe()` calls."""
        self.lifecycle.check_process()
        own = current_mailbox() is subscription.mailbox
        self.strike(subscription, "unsubscribed", release=own)
        if own:
            return
        if subscription.inbox is not None:
            subscription.inbox.wake_all()
        else:
            gate = LoopGate()
            if not subscription.mailbox.when_idle(gate.release) and not await gate.wait(timeout):
                self._release_when_idle(subscription)
                raise self._still_running(subscription, timeout)
        if subscription.plan.nodes:
            await in_thread(self._release, subscription)

    @staticmethod
    def _still_running(subscription: Subscription, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"a handler of {subscription.name} still runs after {timeout:g} s; no other will start")

    def _release(self, subscription: Subscription) -> None:
        """Stop the filters that nobody has any more, and keep them no longer."""
        gone = self.lifecycle.release(subscription)
        if gone:
            self._planner.forget(gone)

    def _release_when_idle(self, subscription: Subscription) -> None:
        """The same, when the handler has ended that runs now."""
        if not subscription.plan.nodes:
            return

        def soon() -> None:  # called under a lock, and a filter's stop may take its time
            thread = threading.Thread(target=self._release, args=(subscription,), name=f"{self.name}-filters", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # none can be had
                self.timers.after(0.0, lambda: self._release(subscription))

        if subscription.mailbox.when_idle(soon):
            self._release(subscription)

    def strike(self, subscription: Subscription, reason: str, release: bool = True) -> None:
        """
        Out of the bus's books; what is queued is dropped.

        Args:
            release: Its filters too, as soon as no handler runs; else the caller sees to that.
        """
        with self.lifecycle.lock:
            self.router.remove(subscription)
            self.told.subscriptions.pop(subscription.name, None)
            if subscription.named and self._names.get(subscription.name) is subscription:
                del self._names[subscription.name]
            if self.state == "started" and not self.transport.local:
                self.transport.unbind(subscription.name)
            gone = subscription.mailbox.close(reason, keep=False)
        for item in gone:
            subscription.discarded(item, reason, None, keep=True)
        if subscription.plan.pool is not None:
            subscription.plan.pool.stop(0.0)  # its threads end, one that still runs a handler with that
        if release:
            self._release_when_idle(subscription)

    # --- actors --------------------------------------------------------------------------------------------------------

    def spawn(
        self,
        actor: A,
        *,
        run: Literal["pool", "thread", "loop"] | None = None,
        filters: Sequence[Any] | pipeline.Pipeline = (),
        to: Any = None,
        mailbox: int = 10_000,
        overflow: Overflow = "block",
        overflow_timeout: float = 5.0,
        attempts: int = 3,
    ) -> A:
        """
        Give an actor its mailbox. Effective when it returns; works before and after start.

        Args:
            actor: An instance of a class derived from `Actor`.
            run, filters, to, mailbox, overflow, overflow_timeout, attempts: As for `subscribe`. An actor has one worker.

        Returns:
            The actor: a subject that mail is addressed to, `bus.publish(actor, body)`.

        Raises:
            SubscriptionError, SubjectError, PipelineError, UnsupportedCapability: naming what is wrong.
        """
        self.locks.check()
        self._spawner.spawn(
            actor, places.caller(), filters=filters, run=run, to=to, mailbox=mailbox, overflow=overflow,
            overflow_timeout=overflow_timeout, attempts=attempts, workers=1, deliver="new",
        )  # fmt: skip
        return actor

    def end(self, subscription: Subscription, reason: str) -> None:
        """What `actor.stop()` calls: `unsubscribe` without waiting."""
        self.lifecycle.check_process()
        self.locks.check()
        self.strike(subscription, reason)

    # --- lifecycle -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """new, started, draining or stopped."""
        return self.lifecycle.state

    @property
    def stopping(self) -> bool:
        """True once a stop was requested or has begun; a long handler may look at it and end early."""
        return self.lifecycle.stop_wanted or self.state in ("draining", "stopped")

    def start(self) -> Bus:
        """
        Start: filters first, then deliveries. Idempotent; a stopped bus may be started again.

        Raises:
            PipelineError: chains that cannot be built. And whatever a filter's `start` raises, after those before it stopped.
        """
        self.lifecycle.start()
        return self

    async def astart(self) -> Bus:
        """`start` for coroutines: handlers with run="loop" run on this loop, until the bus stops."""
        starting = asyncio.ensure_future(in_thread(self.lifecycle.start, asyncio.get_running_loop()))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # nobody will stop what goes on starting
            await _until_done(starting)
            if not starting.exception() and starting.result():
                await _until_done(asyncio.ensure_future(in_thread(self.lifecycle.stop, 0.0, False)))
            raise
        return self

    def stop(self, timeout: float = 30.0, *, drain: bool | None = None) -> StopReport:
        """
        Stop. First draining: outside publishers are refused, handlers may still publish. Then closed: everything is.

        In memory, draining means to work off all that waits, which would be lost. On a transport that survives, the messages
        in flight are finished and no other is begun: the rest stays in the store. A handler that is still at work when the
        time is over is broken off: what it waits for raises BusClosed, a coroutine is cancelled. Its message goes back, no
        attempt is counted, and the report names it.

        Idempotent, callable from many threads at once; called from a handler, filter or observer it only requests.

        Args:
            timeout: Seconds for draining and for handlers that still run, together. Then the rest is left over.
            drain: True: work off all that waits, also in the store. False: begin nothing more; in memory, also refuse at once
                what handlers publish. None: what `Bus(drain=…)` says, or as above.

        Raises:
            SystemExit: on the main thread, after the stop, if a handler, filter or observer has called `sys.exit()`. The code
                is the one that was asked for, but 1 instead of 0 where messages are still unhandled. For a handler that call
                is a failed attempt: after the subscription's `attempts` its message is a dead letter.
        """
        report = self.lifecycle.stop(timeout, drain)
        self.lifecycle.leave()
        return report

    async def astop(self, timeout: float = 30.0, *, drain: bool | None = None) -> StopReport:
        """`stop` for coroutines."""
        if self.lifecycle.from_inside():
            return self.lifecycle.only_request("astop()")
        report: StopReport = await in_thread(self.lifecycle.stop, timeout, drain)
        self.lifecycle.leave()
        return report

    def drain(self, timeout: float = 30.0) -> None:
        """
        Wait until everything accepted has been settled; refuses nobody. In memory that is delayed messages too; a durable
        store keeps those until their time.

        Paused subscriptions and unread pull mailboxes are not waited for.

        Raises:
            DrainTimeout: with the numbers of what is still pending. LifecycleError: in a handler or on a running loop.
        """
        if self.lifecycle.in_handler():
            raise LifecycleError("drain in a handler would wait for that handler; call it from outside")
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("drain would stop the running event loop; use `await bus.adrain()`")
        self.lifecycle.drain(timeout)

    async def adrain(self, timeout: float = 30.0) -> None:
        """`drain` for coroutines."""
        if self.lifecycle.in_handler():
            raise LifecycleError("adrain in a handler would wait for that handler; call it from outside")
        await self.lifecycle.adrain(timeout)

    def request_stop(self, reason: str = "requested") -> None:
        """Ask for a stop, from anywhere: ends `bus.run()` and every blocked `receive` and `for`."""
        self.lifecycle.request_stop(reason)

    def run(self, timeout: float = 30.0) -> StopReport:
        """
        Start, wait for SIGINT, SIGTERM, SIGHUP or `request_stop`, then stop, as `stop` does.

        A second signal breaks off what is in flight. A signal that was ignored when the program started, as under `nohup`, is
        left alone. Only the main thread can set signal handlers; elsewhere it waits for `request_stop` alone.

        Raises:
            SystemExit: as `stop`.
        """
        report = self.lifecycle.run(timeout)
        self.lifecycle.leave()
        return report

    def __enter__(self) -> Bus:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with _leaving(error):
            self.stop(drain=None if kind is None else False)

    async def __aenter__(self) -> Bus:
        return await self.astart()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with _leaving(error):
            await self.astop(drain=None if kind is None else False)

    # --- what the parts ask of the bus ---------------------------------------------------------------------------------

    def interrupted(self, error: BaseException, where: str, about: str = "", lost: bool = False) -> None:
        self.lifecycle.interrupted(error, where, about, lost)

    def ended_by_stop(self, error: BaseException) -> bool:
        """Whether a handler's error is due to the stop of this bus."""
        return self.lifecycle.ended_by_stop(error)

    def went_back(self, name: str, message: Message[Any]) -> None:
        self.lifecycle.went_back(name, message)

    def rule(self, on_error: compose.OnError) -> compose.Ruling:
        """What an error under a pipeline's `on_error` becomes; see `Pipeline`. ("dead_letter" is asked for on publish only.)"""

        def rule(message: Message[Any], error: BaseException, step: blame.StepId) -> Dropped:
            if self.ended_by_stop(error):
                raise error
            if on_error == "dead_letter":
                self._bury_published(message, error, step.name)
            return Dropped(f"{on_error}: {class_name(error)}", step.name)

        return rule

    def _bury_published(self, message: Message[Any], error: BaseException, by: str) -> None:
        self.locks.check()
        now = self.clock.now()
        letter = self.dead_letters.add(
            message, error, Source(self._publish_again, self._forget_letter), subscription=PUBLISH, by=by, attempts=1,
            first_time=now, time=now,
        )  # fmt: skip
        self.ledger.failed("message.died", error, by=by, subject=said(message.subject), message=message.id, letter=letter.id)
        if self.ledger.observed:
            self.ledger.emit(events.Died(message, PUBLISH, letter.id, letter.error, error))

    def _publish_again(self, message: Message[Any]) -> None:
        self.send(message)

    def _forget_letter(self, message: Message[Any], reason: str) -> None:
        self.ledger.dropped(message, Dropped(reason, PUBLISH))

    def check_process(self) -> None:
        """Raises in a forked child."""
        self.lifecycle.check_process()

    def settle_remote(self, token: Any, verdict: Any, delay: float, why: str) -> None:
        self.transport.settle(token, verdict, delay, why)
        self.traffic.nudge()

    def flush_remote(self) -> None:
        with self.pool.lent():
            self.transport.flush()

    def transaction(self, token: Any) -> Any:
        if not self.transport.capabilities.transactions or (token is None and not self.transport.local):
            raise UnsupportedCapability(f"{self.url} has no transactions; use a store that has, such as sqlite:///bus.db")
        return self.transport.transaction(token)

    def figures(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.transport.figures(name)
        return found

    # --- config files --------------------------------------------------------------------------------------------------

    files: ClassVar[Callable[[], Any]]
    """The module that reads and writes files; it stands above this one, and the package hands it down."""

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str],
        *,
        allow_imports: Sequence[str] = (),
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> Self:
        """
        The bus that a TOML file declares, of this class, not yet started.

        Args:
            path: The file.
            allow_imports: Packages that the file may name functions and classes of; it can run no other code.
            handlers: Handlers that it may use by these names.
            filters: Filters, of any shape, that it may use by these names.

        Raises:
            ConfigError: all that is wrong with it, by file, line and key. Nothing was built then.
        """
        bus: Self = cls.files().load(path, allow_imports=allow_imports, handlers=handlers, filters=filters, kind=cls)
        return bus

    def export_config(self) -> str:
        """
        The file that declares this bus, as text: `from_config` makes of it one whose `describe()` is equal, places apart.

        Raises:
            ConfigError: parts that no file can hold, each by name: a lambda, an actor, an object of a class without fields.
        """
        text: str = type(self).files().export(self)
        return text

    # --- looking at it -------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """
        Figures, JSON-safe.

        `published` messages were handed in; each was `accepted`, dropped, rejected or ended in an error. A subscription's own
        figures keep `accepted = acknowledged + dropped + dead + pending + in_flight`, at every quiet moment.
        """
        self.locks.check()
        return {
            "state": self.state,
            **self.ledger.figures(self._ids.count() + _value(self._sent)),
            "dead_letters": len(self.dead_letters),
            "subscriptions": {s.name: s.stats() for s in self.router.subscriptions()},
            "schedules": [schedule.stats() for schedule in list(self.schedules)],
        }

    @property
    def subscriptions(self) -> list[Subscription]:
        self.locks.check()
        return list(self.router.subscriptions())

    def describe(self) -> dict[str, Any]:
        """What runs, as data that JSON can hold: chains, filters with their settings, subscriptions with their policies."""
        return explain.describe_bus(self)

    def explain(self, subject: Any) -> str:
        """
        The road of a subject (or of one message, whose predicates are then asked), as text: each filter, its settings, where
        it was registered, why a detour or branch is or is not taken, each mailbox and its policy.
        """
        return explain.explain(self, subject)

    def options(self) -> dict[str, Any]:
        """What it was made with, its URL apart."""
        return {
            "name": self.name,
            "pool": self.pool.size if self.pool_is_given else None,
            "dead_letters": self.dead_letters.cap,
            "max_message_bytes": self.max_message_bytes,
            "require": self.require,
            "drain": self.drains,
            "debug": self.services.debug,
        }

    @property
    def publish_nodes(self) -> tuple[compose.Node, ...]:
        return self.router.nodes

    def listeners(self, subject: Any) -> list[Subscription]:
        """Whose patterns match."""
        with free(self.router.lock):
            return self.router.listeners(plain_text(subject))

    def __repr__(self) -> str:
        return f"<Bus {self.name} on {self.url}: {self.state}>"


@contextmanager
def _leaving(error: BaseException | None) -> Iterator[None]:
    """Around the stop of a block that was left with such an error: if it is the program's own, no handler's exit hides it."""
    try:
        yield
    except SystemExit:
        if error is None or isinstance(error, PipebusError) or (isinstance(error, SystemExit) and is_success(error.code)):
            raise


async def _until_done(task: asyncio.Future[Any]) -> None:
    """Wait for it, however often whoever waits is cancelled."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])


@dataclass(slots=True)
class Told:
    """What a config file says where it is not the value itself: `${env:X}`, the name of a handler that was handed in."""

    bus: dict[str, Any] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)  # what is no mistake, and perhaps not meant


def _value(counter: itertools.count[int]) -> int:
    """What the counter would give next, without taking it: only its text tells."""
    return int(repr(counter)[6:-1])


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PipelineError(f"Bus({name}={shown(value)}): it is a whole number of at least {least}")
    return value


def _checked(message: Message[Any]) -> Message[Any]:
    if message.__class__ is not Message:
        raise MessageError(f"send takes a Message, found {type(message).__name__}; publish(subject, body) makes one")
    return check_message(message)


def _seconds(value: Any, name: str) -> float:
    if not is_duration(value):
        raise MessageError(f"{name} is a number of seconds, 0 or more, found {shown(value)}")
    return float(value)


def _after_fork() -> None:
    """In the child: nothing of an inherited bus works; its publishes miss, and are told so."""
    for bus in _buses:
        bus._runs.clear()
        bus.router.routes.clear()
        bus.router.direct = {}


os.register_at_fork(after_in_child=_after_fork)
