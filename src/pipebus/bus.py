"""
The bus: where the parts meet. Step 1 of the road of a message is `publish`, at the top; the rest hands things down.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, overload

import msgspec

from pipebus import binding, checks, events, explain, links, pipeline
from pipebus.clock import SYSTEM, Clock
from pipebus.codec import JsonCodec
from pipebus.dead_letters import PUBLISH, DeadLetters, Source
from pipebus.errors import (
    AttemptsExhausted,
    BusClosed,
    BusNotStarted,
    CodecError,
    DrainTimeout,
    LifecycleError,
    MailboxFull,
    MessageError,
    MessageTooLarge,
    PipelineError,
    Rejected,
    SubjectError,
    SubscriptionError,
    UnsupportedCapability,
)
from pipebus.inbox import Inbox
from pipebus.links import signed
from pipebus.mailbox import ONE, Overflow, Parcel, Rules, SharedMailbox, SoloMailbox, Traffic, has_gil
from pipebus.message import NO_HEADERS, Dropped, IdRange, Message, Receipt
from pipebus.pipeline import Side, nodes
from pipebus.router import Road, Route, Router
from pipebus.runners import LoopThread, Pool, Timers, current_mailbox
from pipebus.services import Services, get_logger
from pipebus.subject import Pattern, Ref, Subject
from pipebus.subscription import Delivery, Plan, Subscription, current
from pipebus.transports.base import Binding, Surroundings, open_transport

T = TypeVar("T")
F = TypeVar("F")
H = TypeVar("H", bound=Callable[..., Any])

State = Literal["new", "started", "draining", "stopped"]
REASONS: Final = 1000
"""Most different reasons counted by name; further ones are counted as "(other)"."""

_delay: Final[contextvars.ContextVar[float]] = contextvars.ContextVar("pipebus.delay", default=0.0)
_buses: Final[weakref.WeakSet[Bus]] = weakref.WeakSet()


class StopReport(msgspec.Struct, frozen=True):
    """
    What a stop found.

    Args:
        drained: Everything accepted had been settled before it closed.
        left: Messages that were still waiting, by subscription; kept in memory until the bus is started again.
        abandoned: Names of the threads whose handlers outlived the timeout.
        errors: What filters raised in their `stop`.
    """

    drained: bool = True
    left: dict[str, int] = {}
    abandoned: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Bus:
    """
    A message bus.

    Args:
        url: What carries messages: "memory:" (the default), "memory:?wire=json", or another transport's URL.
        require: Capabilities that the transport must promise, as in {"survives": "power"}.
        pool: Worker threads for handlers; None: min(32, processors + 4), more if a subscription's `workers` need it.
        dead_letters: Most dead letters kept in memory.
        max_message_bytes: Largest encoded message; only transports that encode look at it.
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
        debug: bool = False,
        clock: Clock | None = None,
        name: str = "pipebus",
    ) -> None:
        self.url = url
        self.name = name
        self.clock: Clock = clock or SYSTEM
        self.transport = open_transport(url) if isinstance(url, str) else url
        self.transport.capabilities.require(dict(require or {}), type(self.transport).__name__)
        self.dead_letters = DeadLetters(_whole(dead_letters, "dead_letters", 1))
        self.max_message_bytes = max_message_bytes
        self.observed = False
        self._observers: list[Callable[[Any], object]] = []
        self._observer_errors = 0
        self._log_errors = 0
        self._lifecycle = threading.RLock()
        self._stop_lock = threading.Lock()
        self._state: State = "new"
        self._pid = os.getpid()
        self._stop_wanted = threading.Event()
        self._hurry = False
        self._report: StopReport | None = None
        self._traffic = Traffic()
        self._pool_size = pool
        size = _whole(pool, "pool", 1) if pool is not None else min(32, (os.cpu_count() or 1) + 4)
        self._pool = Pool(size, self.clock, name, self._starved)
        self._loop_thread = LoopThread(name)
        self._timers = Timers(self.clock, name)
        self.services = Services(self.clock, debug, self._pool.lent)
        self._router = Router(self)
        self._runs = self._router.runs
        self._delivery_nodes: tuple[pipeline.Node, ...] = ()
        self._names: dict[str, Subscription] = {}
        self._plans: dict[Any, Plan] = {}
        self._started_filters: list[Any] = []
        self._known: dict[Any, Callable[[Message[Any]], Any]] = {
            Delivery: lambda _: current.get(),
            Bus: lambda _: self,
        }
        self._ids = IdRange()
        self._next_id = self._ids.next
        self._now = self.clock.now
        self._sent = itertools.count()
        self._counting = threading.Lock()
        self._unrouted = 0
        self._dropped: dict[str, Counter[str]] = {}
        self._rejected: dict[str, Counter[str]] = {}
        self._errors: Counter[str] = Counter()
        _buses.add(self)

    # --- publishing ----------------------------------------------------------------------------------------------------

    @overload
    def publish(
        self, subject: Subject[T], body: T, *, headers: Mapping[str, str] | None = None, key: str | None = None,
        id: str | None = None, ttl: float | None = None, delay: float = 0.0, reply_to: Any = None,
        correlation_id: str | None = None,
    ) -> Receipt | Dropped: ...  # fmt: skip
    @overload
    def publish(
        self, subject: Any, body: Any = None, *, headers: Mapping[str, str] | None = None, key: str | None = None,
        id: str | None = None, ttl: float | None = None, delay: float = 0.0, reply_to: Any = None,
        correlation_id: str | None = None,
    ) -> Receipt | Dropped: ...  # fmt: skip
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
        if options:
            return self._publish_with(subject, body, **options)
        try:
            run = self._runs[subject]
        except (KeyError, TypeError):
            run = self._missed(subject)
        message: Message[Any] = Message(
            subject, body, NO_HEADERS, None, None, None, None, self._next_id(), self._now()
        )  # fmt: skip
        try:
            outcome = run(message)
        except BaseException as error:
            self._refused(message, error)
            raise
        if outcome.__class__ is not Receipt:
            self._count_drop(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def _publish_with(
        self, subject: Any, body: Any, *, headers: Mapping[str, str] | None = None, key: str | None = None,
        id: str | None = None, ttl: float | None = None, delay: float = 0.0, reply_to: Any = None,
        correlation_id: str | None = None,
    ) -> Receipt | Dropped:  # fmt: skip
        """`publish` with options."""
        run = self._runs.get(subject) or self._missed(subject)
        message: Message[Any] = Message(
            subject, body, NO_HEADERS if headers is None else headers,  # type: ignore[arg-type]
            key, ttl, reply_to, correlation_id, self._next_id() if id is None else self._given(id), self._now(),
        )  # fmt: skip
        if delay:
            return self._publish_late(message, delay)
        return self._pass(run, message)

    def _pass(self, run: links.Next, message: Message[Any]) -> Receipt | Dropped:
        try:
            outcome = run(message)
        except BaseException as error:
            self._refused(message, error)
            raise
        if outcome.__class__ is not Receipt:
            self._count_drop(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def send(self, message: Message[Any]) -> Receipt | Dropped:
        """`publish` for a message that exists already; its id is kept."""
        return self._pass(self._check_message(message), message)

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
        route = self._route(subject)
        message: Message[Any] = Message(
            subject, body, NO_HEADERS if headers is None else headers,  # type: ignore[arg-type]
            key, ttl, reply_to, correlation_id, self._next_id() if id is None else self._given(id), self._now(),
        )  # fmt: skip
        return await self._apublish(route, message, delay)

    async def asend(self, message: Message[Any]) -> Receipt | Dropped:
        """`send` for coroutines."""
        self._check_message(message)
        return await self._apublish(self._route(message.subject), message, 0.0)

    async def _apublish(self, route: Route, message: Message[Any], delay: float) -> Receipt | Dropped:
        token = _delay.set(_seconds(delay, "delay")) if delay else None
        try:
            self._check_delay(delay)
            await self._room(route)
            late = bool(delay)
            remote = not self.transport.local
            if route.colour == "async" or (route.plain_sync is None and not remote):
                outcome = await route.run(Road("async", force=True, late=late))(message)
            elif route.waits is None and not remote:
                outcome = route.run(Road("sync", force=True, late=late))(message)
            else:
                outcome = await asyncio.to_thread(route.run(Road("sync", force=False, late=late)), message)
        except BaseException as error:
            self._refused(message, error)
            raise
        finally:
            if token is not None:
                _delay.reset(token)
        if outcome.__class__ is not Receipt:
            self._count_drop(message, outcome)
        elif self.observed:
            self.emit(events.Published(message, outcome))
        return outcome  # type: ignore[no-any-return]

    async def _room(self, route: Route) -> None:
        """Wait until every mailbox of the route that blocks has room."""
        for mailbox in route.mailboxes:
            rules = mailbox.rules
            if rules.overflow != "block":
                continue
            arrived = asyncio.Event()
            loop = asyncio.get_running_loop()
            waiter = mailbox.line_up(None, lambda: loop.call_soon_threadsafe(arrived.set))  # noqa: B023
            if waiter is None:
                continue
            try:
                async with asyncio.timeout(rules.timeout):
                    await arrived.wait()
            except TimeoutError:
                mailbox.step_out(waiter)
            except BaseException:
                mailbox.leave_line(waiter)
                raise
            if waiter.accepted is False:
                raise BusClosed("the bus stopped while a publish waited for room")

    def _publish_late(self, message: Message[Any], delay: float) -> Receipt | Dropped:
        route = self._route(message.subject)
        token = _delay.set(_seconds(delay, "delay"))
        try:
            self._check_delay(delay)
            outcome = self._callable(route, late=True)(message)
        except BaseException as error:
            self._refused(message, error)
            raise
        finally:
            _delay.reset(token)
        if outcome.__class__ is not Receipt:
            self._count_drop(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def _check_delay(self, delay: float) -> None:
        if delay and not self.transport.capabilities.delay:
            raise UnsupportedCapability(f"{self.url} cannot delay messages; publish it when its time has come")

    def _check_message(self, message: Message[Any]) -> links.Next:
        if message.__class__ is not Message:
            raise MessageError(f"send takes a Message, found {type(message).__name__}; publish(subject, body) makes one")
        run = self._runs.get(message.subject) or self._missed(message.subject)
        next(self._sent)
        return run

    def _given(self, id: str) -> str:
        if not isinstance(id, str) or not id or not id.isprintable():
            raise MessageError(f"id is a printable string or None, found {id!r}")
        next(self._sent)
        return id

    # A publish looks into `_runs`. What is not there comes here: a subject's first message, and everything while the bus is
    # not started, is stopping or is a forked child's: then `_runs` is empty, so that a publish checks none of this itself.

    def _missed(self, subject: Any) -> links.Next:
        with self._router.lock:
            route = self._route(subject)
            run = self._callable(route, late=False)
            if self.observed:
                run = self._watched(run)
            if self._state == "started":
                self._runs[subject] = run
            return run

    def _route(self, subject: Any) -> Route:
        if self._state != "started":
            self._refuse_publish()
        try:
            return self._router.route(subject)
        except TypeError:
            raise SubjectError(
                f"{subject!r} cannot be a subject: {type(subject).__name__} objects are not hashable; use a string or Ref(obj)"
            ) from None

    def _refuse_publish(self) -> None:
        self._check_process()
        if self._state == "new":
            raise BusNotStarted("the bus is not started; use `with bus:` or bus.start() before you publish")
        if self._state == "draining" and current_mailbox() is not None:
            return  # handlers may finish what they do
        raise BusClosed(f"the bus is {'stopping' if self._state == 'draining' else 'stopped'}: it takes no more messages")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LifecycleError("this bus was made before a fork, and its threads are in the parent; make one in the child")

    def _callable(self, route: Route, late: bool) -> links.Next:
        """What a sync publish calls for a route."""
        if route.colour == "async":
            arun, subject = route.run(Road("async", late=late)), route.subject
            name = next(step.name for step in pipeline.met(route.nodes, subject) if step.colour == "async")

            def on_loop_thread(message: Message[Any]) -> Any:
                if asyncio._get_running_loop() is not None:
                    raise PipelineError(
                        f'filter {name} is async, so publish() on "{subject}" cannot run inside an event loop; '
                        "use `await bus.apublish(…)`"
                    )
                with self._pool.lent():
                    return self._loop_thread.call(arun, message)

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

    def _watched(self, run: links.Next) -> links.Next:
        def call(message: Message[Any]) -> Any:
            outcome = run(message)
            if outcome.__class__ is Receipt:
                self.emit(events.Published(message, outcome))
            return outcome

        return call

    def encode(self, codec: Any, message: Message[Any]) -> bytes:
        """The message's bytes, if they are not too many."""
        data: bytes = codec.encode(message)
        if self.max_message_bytes is not None and len(data) > self.max_message_bytes:
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {len(data):,} bytes; max_message_bytes is {self.max_message_bytes:,}"
            )
        return data

    def delay(self) -> float:
        """The delay of the publish that is passing the chain, in seconds."""
        return _delay.get()

    def answer(self, to: Any, request: Message[Any], value: Any) -> None:
        """Publish what a handler returned."""
        self.publish(to, value, correlation_id=request.correlation_id or request.id)

    # --- registering -----------------------------------------------------------------------------------------------------

    @overload
    def use(self, filter: F, /, *, at: Side = "publish") -> F: ...
    @overload
    def use(self, *filters: Any, at: Side = "publish") -> None: ...
    def use(self, *filters: Any, at: Side = "publish") -> Any:
        """
        Append filters to a chain, before start; with one argument usable as a decorator.

        Args:
            at: "publish": once per message, before the mailboxes. "delivery": around every handler.

        Raises:
            PipelineError: naming the filter, its position, the place and the remedy.
        """
        if at not in ("publish", "delivery"):
            raise PipelineError(f'use(at={at!r}): a filter stands at "publish" or at "delivery"')
        with self._lifecycle:
            if self._state not in ("new", "stopped"):
                raise LifecycleError("filters cannot be added after start: chains are frozen; call use() before start()")
            added = nodes(filters, pipeline.caller(), "use")
            if at == "publish":
                chain = (*self._router.nodes, *added)
                checks.check(chain, "publish")
                self._router.nodes = chain
                self._router.forget_all()
            else:
                chain = (*self._delivery_nodes, *added)
                checks.check(chain, "delivery")
                for subscription in self._router.subscriptions():
                    self._check_delivery(subscription.plan, subscription.name, chain)
                self._delivery_nodes = chain
        return filters[0] if len(filters) == 1 else None

    def on(
        self,
        subject: Any,
        *,
        name: str | None = None,
        filters: Sequence[Any] | pipeline.Pipeline = (),
        to: Any = None,
        workers: int = 1,
        run: Literal["pool"] | None = None,
        mailbox: int = 10_000,
        overflow: Overflow = "block",
        overflow_timeout: float = 5.0,
        attempts: int = 3,
        deliver: str = "new",
    ) -> Callable[[H], H]:
        """`subscribe` as a decorator; the function stays what it is."""

        def register(handler: H) -> H:
            self.subscribe(
                subject, handler, name=name, filters=filters, to=to, workers=workers, run=run, mailbox=mailbox,
                overflow=overflow, overflow_timeout=overflow_timeout, attempts=attempts, deliver=deliver,
            )  # fmt: skip
            return handler

        return register

    def subscribe(
        self,
        subject: Any,
        handler: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        filters: Sequence[Any] | pipeline.Pipeline = (),
        to: Any = None,
        workers: int = 1,
        run: Literal["pool"] | None = None,
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
            run: "pool": on the bus's worker threads.
            mailbox: Most messages queued and in flight, >= 1.
            overflow: When full: "block", "reject", "drop_newest" or "drop_oldest".
            overflow_timeout: Seconds that "block" waits before `MailboxFull`.
            attempts: How often a returned or lost delivery is taken before it is dead, >= 1.
            deliver: "new", or on transports that replay "all" or "last".

        Raises:
            SubscriptionError, SubjectError, PipelineError, UnsupportedCapability: naming what is wrong.
        """
        place = pipeline.caller()
        subjects = self._subjects(subject)
        if name is not None and (not isinstance(name, str) or not name or not name.isprintable()):
            raise SubscriptionError(f"name={name!r} (at {place}): a name is a printable string that is not empty")
        plan = self._plan(
            handler, place, name, filters, to=to, workers=workers, run=run, mailbox=mailbox, overflow=overflow,
            overflow_timeout=overflow_timeout, attempts=attempts, deliver=deliver,
        )  # fmt: skip
        kind = SoloMailbox if plan.rules.workers == 1 and not plan.rules.pull and has_gil else SharedMailbox
        with self._lifecycle:
            self._check_process()
            if self._state == "draining":
                raise BusClosed("the bus is stopping: it takes no more subscriptions")
            if name is not None and name in self._names:
                raise SubscriptionError(
                    f'subscription "{name}" (at {place}) exists already (at {self._names[name].place}); choose another name'
                )
            self._check_delivery(plan, name or (plan.bound.name if plan.bound else "pull"), self._delivery_nodes)
            subscription = Subscription(plan, subjects, name, place, kind)
            if plan.bound is None:
                inbox = subscription.inbox = Inbox(subscription)
                inbox.mailbox = subscription.mailbox  # type: ignore[assignment]
            if self._delivery_nodes or plan.nodes:
                subscription.compile(self._delivery_nodes)
            if name is not None:
                self._names[name] = subscription
            if self._state == "started" and not self.transport.local:
                self._bind(subscription)
            self._router.add(subscription)
        return subscription

    def _subjects(self, subject: Any) -> Any:
        """Literal strings as they are, wildcard patterns parsed, objects as they are; a tuple of several."""
        if isinstance(subject, (list, tuple, set)):
            found = tuple(self._subjects(one) for one in dict.fromkeys(subject))
            if not found:
                raise SubscriptionError("a subscription needs a subject; the list is empty")
            return found[0] if len(found) == 1 else found
        if isinstance(subject, str):
            pattern = Pattern(subject)
            return pattern.text if pattern.literal else pattern
        if isinstance(subject, Ref):
            if not self.transport.capabilities.objects:
                raise UnsupportedCapability(f"{self.url} carries only mail for named subjects, not for {subject!r}")
            return subject
        raise SubjectError(f"{subject!r} cannot be subscribed to; use a pattern such as \"orders.>\", or Ref(obj)")

    def _plan(self, handler: Any, place: pipeline.Place, name: str | None, filters: Any, **options: Any) -> Plan:
        """What equal subscriptions share; the last plans are kept, so that many subscriptions of one handler are one plan."""
        given = filters if isinstance(filters, pipeline.Pipeline) else tuple(filters)
        try:
            key: Any = (handler, given, tuple(options.values()))
            plan = self._plans.get(key)
        except TypeError:
            key = plan = None
        if plan is None:
            plan = self._make_plan(handler, place, name, given, **options)
            if key is not None:
                if len(self._plans) >= 64:
                    self._plans.clear()
                self._plans[key] = plan
        return plan

    def _make_plan(
        self, handler: Any, place: pipeline.Place, name: str | None, filters: Any, *, to: Any, workers: int, run: Any,
        mailbox: int, overflow: Overflow, overflow_timeout: float, attempts: int, deliver: str,
    ) -> Plan:  # fmt: skip
        title = name or (binding.handler_name(handler) if handler is not None else "pull")

        def bad(text: str) -> SubscriptionError:
            return SubscriptionError(f"subscription {title} (at {place}): {text}")

        for option, value in (("workers", workers), ("mailbox", mailbox), ("attempts", attempts)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise bad(f"{option}={value!r}; it is a whole number of at least 1")
        if overflow not in ("block", "reject", "drop_newest", "drop_oldest"):
            raise bad(f'overflow={overflow!r}; it is "block", "reject", "drop_newest" or "drop_oldest"')
        if not isinstance(overflow_timeout, (int, float)) or isinstance(overflow_timeout, bool) or not overflow_timeout >= 0:
            raise bad(f"overflow_timeout={overflow_timeout!r}; it is a number of seconds, 0 or more")
        if deliver not in ("new", "all", "last"):
            raise bad(f'deliver={deliver!r}; it is "new", "all" or "last"')
        if deliver != "new" and not self.transport.capabilities.replay:
            raise UnsupportedCapability(f'subscription {title}: {self.url} keeps no messages, so deliver is "new"')
        bound = binding.bind(handler, self._known, place, name) if handler is not None else None
        if bound is not None and bound.is_async:
            raise bad("its handler is async, and this version runs handlers on worker threads only; make it a plain `def`")
        if run not in (None, "pool"):
            raise bad(f'run={run!r}; it is "pool"')
        if workers > 1 and bound is None:
            raise bad("workers are for handlers; a subscription without one is read by whoever calls receive")
        if to is not None and bound is None:
            raise bad("`to` is for what a handler returns; this subscription has none")
        if isinstance(to, str):
            pattern = Pattern(to)
            if not pattern.literal:
                raise bad(f"to={to!r} has a wildcard; it is published to, so it is a literal subject")
        if workers > 1:
            self._grow_pool(workers, bad)
        rules = Rules(
            self._traffic, self.clock, size=mailbox, overflow=overflow, timeout=float(overflow_timeout), workers=workers,
            pull=bound is None, schedule=self._pool.submit if bound is not None else _wake_reader, later=self._timers.after,
            blocking=self._pool.lent, mine=lambda box: current_mailbox() is box,
        )  # fmt: skip
        own = nodes(filters if isinstance(filters, tuple) else (filters,), place, f"filters of {title}")
        return Plan(self, bound, own, rules, to=to, run_on="pool" if bound is not None else "pull", attempts=attempts, deliver=deliver)

    def _grow_pool(self, workers: int, bad: Callable[[str], SubscriptionError]) -> None:
        """One subscription never holds the last worker."""
        if self._pool.size > workers:
            return
        if self._pool_size is not None:
            raise bad(f"workers={workers} would take every worker of Bus(pool={self._pool_size}); make the pool larger")
        self._pool.size = workers + 1

    def _check_delivery(self, plan: Plan, title: str, bus_nodes: tuple[pipeline.Node, ...]) -> None:
        chain = (*bus_nodes, *plan.nodes)
        if not chain:
            return
        checks.check(plan.nodes, "delivery")
        checks.check(chain, "delivery")
        if plan.bound is None:
            for step in pipeline.steps(plan.nodes):
                if step.shape != "transform":
                    raise PipelineError(
                        f"filter {step.name} (at {step.place}) stands around a handler, and {title} has none: it is read; "
                        "make it a Transform"
                    )
            return
        colour = "async" if plan.bound.is_async else "sync"
        checks.check_colour(chain, colour, f"handler {plan.bound.name} is {colour}")

    def observe(self, observer: Callable[[Any], object]) -> Callable[[Any], object]:
        """
        Hear every event of `pipebus.events`; usable as a decorator. Called where the event happens: be quick.

        An observer's error is caught, counted (`stats()["observer_errors"]`) and logged.
        """
        if not callable(observer):
            raise PipelineError(f"observe takes a callable of one event, found {type(observer).__name__}")
        self._observers.append(observer)
        self.observed = True
        self._router.forget_all()
        return observer

    def emit(self, event: events.Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:
                self._observer_errors += 1
                self.warn("observer.failed", observer=binding.handler_name(observer), error=repr(error))

    def unsubscribe(self, subscription: Subscription, timeout: float | None = None) -> None:
        """What `subscription.unsubscribe()` calls."""
        if asyncio._get_running_loop() is not None and current_mailbox() is None:
            raise LifecycleError("unsubscribe waits for the handler that runs; on an event loop use `await sub.aunsubscribe()`")
        with self._lifecycle:
            self._router.remove(subscription)
            if subscription.named and self._names.get(subscription.name) is subscription:
                del self._names[subscription.name]
            if self._state == "started" and not self.transport.local:
                self.transport.unbind(subscription.name)
            gone = subscription.mailbox.close("unsubscribed", keep=False)
        for item in gone:
            subscription.discarded(item, "unsubscribed", None, keep=True)
        if subscription.inbox is not None:
            subscription.inbox.wake_all()
            return
        if current_mailbox() is not subscription.mailbox and not subscription.mailbox.wait_idle(timeout):
            raise TimeoutError(f"a handler of {subscription.name} still runs after {timeout:g} s; no other will start")

    # --- lifecycle -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    @property
    def stopping(self) -> bool:
        """True once a stop was requested or has begun; a long handler may look at it and end early."""
        return self._stop_wanted.is_set() or self._state in ("draining", "stopped")

    def _set_state(self, state: State) -> None:
        old, self._state = self._state, state
        self._router.forget_all()
        if self.observed and old != state:
            self.emit(events.StateChanged(old, state))

    def start(self) -> Bus:
        """
        Start: filters first, then deliveries. Idempotent.

        Raises:
            PipelineError: chains that cannot be built. And whatever a filter's `start` raises, after those before it stopped.
        """
        with self._lifecycle:
            self._check_process()
            if self._state == "started":
                return self
            if self._state == "draining":
                raise LifecycleError("the bus is stopping; wait for stop() to return before you start it again")
            checks.check(self._router.nodes, "publish")
            subscriptions = list(self._router.subscriptions())
            for subscription in subscriptions:
                self._check_delivery(subscription.plan, subscription.name, self._delivery_nodes)
                if self._delivery_nodes or subscription.plan.nodes:
                    subscription.compile(self._delivery_nodes)
            self._stop_wanted.clear()
            self._hurry = False
            self._report = None
            self._start_filters(subscriptions)
            try:
                self.transport.start(Surroundings(self.clock, self.max_message_bytes))
                self._pool.start()
                self._timers.start()
                self._set_state("started")
                for subscription in subscriptions:
                    subscription.mailbox.reopen()
                    if subscription.inbox is not None:
                        subscription.inbox.ended = False
                    if not self.transport.local:
                        self._bind(subscription)
            except BaseException:
                self._set_state("stopped")
                self._stop_filters([])
                raise
        return self

    def _filters(self, subscriptions: list[Subscription]) -> list[Any]:
        """Every filter object once, in the order of the chains."""
        chains = [self._router.nodes, self._delivery_nodes, *{id(s.plan): s.plan.nodes for s in subscriptions}.values()]
        found: dict[int, Any] = {}
        for chain in chains:
            for step in pipeline.steps(chain):
                found.setdefault(id(step.filter), step)
        return list(found.values())

    def _start_filters(self, subscriptions: list[Subscription]) -> None:
        self._started_filters = []
        for step in self._filters(subscriptions):
            begin = getattr(step.filter, "start", None)
            if begin is not None:
                context = pipeline.Context(self, self.clock, get_logger(filter=step.name), step.name)
                try:
                    self._maybe_await(begin(context))
                except BaseException:
                    self._stop_filters([])
                    raise
            self._started_filters.append(step)

    def _stop_filters(self, errors: list[str]) -> list[str]:
        """In reverse; an error in one keeps no other from stopping."""
        started, self._started_filters = self._started_filters, []
        for step in reversed(started):
            end = getattr(step.filter, "stop", None)
            if end is None:
                continue
            try:
                self._maybe_await(end())
            except Exception as error:
                errors.append(f"{step.name}: {type(error).__name__}: {error}")
                self.warn("filter.stop_failed", filter=step.name, error=repr(error))
        return errors

    def _maybe_await(self, value: Any) -> None:
        if isinstance(value, Awaitable):

            async def wait() -> None:
                await value

            asyncio.run_coroutine_threadsafe(wait(), self._loop_thread.loop()).result()

    def stop(self, timeout: float = 30.0, *, drain: bool = True) -> StopReport:
        """
        Stop. First draining: outside publishers are refused, handlers may still publish. Then closed: everything is.

        Idempotent, callable from many threads at once; called from a handler it only requests.

        Args:
            timeout: Seconds for draining and for handlers that still run, together. Then the rest is left over.
            drain: False: do not wait for what is queued.
        """
        if current_mailbox() is not None:
            self.request_stop("stop() in a handler")
            return StopReport(drained=False)
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("stop waits for handlers and would stop the running event loop; use `await bus.astop()`")
        deadline = self.clock.monotonic() + timeout
        self.request_stop("stop()")
        with self._lifecycle:
            self._check_process()
            if self._state == "new":
                return StopReport()
            if self._state == "started":
                self._set_state("draining")
        with self._stop_lock:
            if self._report is None:
                self._report = self._stop(deadline, drain)
            return self._report

    def _stop(self, deadline: float, drain: bool) -> StopReport:
        drained = drain and self._traffic.quiet(
            self.clock, self._left(deadline), also=self._transport_quiet, give_up=lambda: self._hurry
        )
        errors: list[str] = []
        with self._lifecycle:
            subscriptions = list(self._router.subscriptions())
            for subscription in subscriptions:
                if not self.transport.local:
                    self.transport.unbind(subscription.name)
                subscription.mailbox.close("stopped", keep=True)
            self._set_state("stopped")
        for subscription in subscriptions:
            if subscription.inbox is not None:
                subscription.inbox.wake_all()
        stuck = self._pool.stop(self._left(deadline))
        for subscription in subscriptions:
            subscription.hand_back()
        self._stop_filters(errors)
        self._timers.stop()
        self.transport.stop()
        self._loop_thread.stop(max(1.0, self._left(deadline)))
        left = {s.name: waiting for s in subscriptions if (waiting := s.mailbox.waiting())}
        report = StopReport(drained, left, tuple(worker.name for worker in stuck), tuple(errors))
        if left or stuck or errors:
            self.warn("bus.stopped_early", left=left, abandoned=list(report.abandoned), errors=errors)
        return report

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self.clock.monotonic())

    def _transport_quiet(self) -> bool:
        return self.transport.local or self.transport.pending() == 0

    async def astop(self, timeout: float = 30.0, *, drain: bool = True) -> StopReport:
        """`stop` for coroutines."""
        return await asyncio.to_thread(self.stop, timeout, drain=drain)

    async def astart(self) -> Bus:
        """`start` for coroutines."""
        return await asyncio.to_thread(self.start)

    def drain(self, timeout: float = 30.0) -> None:
        """
        Wait until everything accepted has been settled, delayed messages too; refuses nobody.

        Paused subscriptions and unread pull mailboxes are not waited for.

        Raises:
            DrainTimeout: with the numbers of what is still pending. LifecycleError: in a handler or on a running loop.
        """
        if current_mailbox() is not None:
            raise LifecycleError("drain in a handler would wait for that handler; call it from outside")
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("drain would stop the running event loop; use `await bus.adrain()`")
        self._drain(timeout)

    async def adrain(self, timeout: float = 30.0) -> None:
        """`drain` for coroutines."""
        await asyncio.to_thread(self._drain, timeout)

    def _drain(self, timeout: float) -> None:
        if not self._traffic.quiet(self.clock, timeout, also=self._transport_quiet):
            pending = {
                s.name: waiting + s.mailbox.in_flight
                for s in self._router.subscriptions()
                if s.handled and (waiting := s.mailbox.waiting()) + s.mailbox.in_flight
            }
            text = ", ".join(f"{name}: {count}" for name, count in pending.items()) or "handlers that still publish"
            raise DrainTimeout(f"not drained after {timeout:g} s; still pending or in flight: {text}", pending)

    def request_stop(self, reason: str = "requested") -> None:
        """Ask for a stop, from anywhere: ends `bus.run()` and every blocked `receive` and `for`."""
        if not self._stop_wanted.is_set():
            self._stop_wanted.set()
            self.log.debug("bus.stop_requested", reason=reason)
        for subscription in self._router.subscriptions():
            if subscription.inbox is not None:
                subscription.inbox.end()

    def run(self, timeout: float = 30.0) -> StopReport:
        """
        Start, wait for SIGINT, SIGTERM or `request_stop`, then drain and stop.

        A second signal stops without draining. Only the main thread can set signal handlers; elsewhere it waits for
        `request_stop` alone.
        """
        signals = 0

        def on_signal(number: int, _: object) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                self._hurry = True
                self._traffic.nudge()
            self.request_stop(signal.Signals(number).name)

        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start()
            self._stop_wanted.wait()
            return self.stop(timeout)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Bus:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(drain=kind is None)

    async def __aenter__(self) -> Bus:
        return await self.astart()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.astop(drain=kind is None)

    # --- what the parts ask of the bus --------------------------------------------------------------------------------------

    @property
    def log(self) -> Any:
        return get_logger(bus=self.name)

    def warn(self, event: str, **facts: Any) -> None:
        """A warning from where nothing may be raised: a logger that fails is counted, not let through."""
        try:
            self.log.warning(event, **facts)
        except Exception:
            self._log_errors += 1

    def _starved(self, ready: int, workers: int) -> None:
        if self.observed:
            self.emit(events.Starved(ready, workers))

    def rule(self, place: str) -> Callable[[pipeline.OnError], links.Ruling]:
        """What an error under a pipeline's `on_error` becomes; see `Pipeline`."""

        def ruling_for(on_error: pipeline.OnError) -> links.Ruling:
            def rule(message: Message[Any], error: BaseException, step: links.Named) -> Dropped:
                if on_error == "dead_letter":
                    self._bury_published(message, error, step.name)
                return Dropped(f"{on_error}: {type(error).__name__}", step.name)

            return rule

        return ruling_for

    def _bury_published(self, message: Message[Any], error: BaseException, by: str) -> None:
        now = self.clock.now()
        letter = self.dead_letters.add(
            message, error, Source(self._publish_again, self._forget_letter), subscription=PUBLISH, by=by, attempts=1,
            first_time=now, time=now,
        )  # fmt: skip
        self.warn("message.died", subject=str(message.subject), message=message.id, letter=letter.id, error=letter.error)
        if self.observed:
            self.emit(events.Died(message, PUBLISH, letter.id, letter.error))

    def _publish_again(self, message: Message[Any]) -> None:
        self.send(message)

    def _forget_letter(self, message: Message[Any], reason: str) -> None:
        self._count_drop(message, Dropped(reason, PUBLISH))

    def count_unrouted(self, message: Message[Any]) -> None:
        with self._counting:
            self._unrouted += 1
        if self.observed:
            self.emit(events.Unrouted(message))

    def _count_drop(self, message: Message[Any], outcome: Dropped) -> None:
        with self._counting:
            _count(self._dropped, outcome.by or "unknown", outcome.reason)
        if self.observed:
            self.emit(events.Discarded(message, PUBLISH, outcome.reason, outcome.by))

    def _refused(self, message: Message[Any], error: BaseException) -> None:
        """An error leaves the bus: cut our frames out, count it, tell the observers."""
        step = signed(error)
        links.unsign(error)
        links.trim(error)
        with self._counting:
            if isinstance(error, Rejected):
                _count(self._rejected, error.by or "unknown", "; ".join(error.errors))
            else:
                self._errors[type(error).__name__] += 1
        if self.observed:
            self.emit(events.Refused(message, error, step.name if step is not None else None))

    def settle_remote(self, token: Any, verdict: Any, delay: float) -> None:
        self.transport.settle(token, verdict, delay)
        self._traffic.nudge()

    def _bind(self, subscription: Subscription) -> None:
        """Tell the transport of a subscription."""
        codec = JsonCodec()

        def deliver(found: Message[Any] | bytes, token: Any, attempts: int) -> bool:
            if isinstance(found, bytes):
                try:
                    message = codec.decode(found)
                except CodecError as error:
                    self._undecodable(subscription, found, token, error)
                    return True
            else:
                message = found
            parcel = Parcel(message, attempts, token)
            if attempts >= subscription.plan.attempts:
                text = f"taken {attempts} times and not settled; {subscription.name} allows attempts={subscription.plan.attempts}"
                subscription.bury_untaken(parcel, AttemptsExhausted(text))
                return True
            try:
                return subscription.mailbox.offer(parcel) is ONE
            except (MailboxFull, BusClosed):
                return False

        self.transport.bind(
            Binding(
                name=subscription.name,
                durable=subscription.named,
                patterns=tuple(p if isinstance(p, Pattern) else Pattern(p) for p in subscription.patterns),
                deliver=deliver,
                attempts=subscription.plan.attempts,
                start=subscription.plan.deliver,
            )
        )

    def _undecodable(self, subscription: Subscription, data: bytes, token: Any, error: CodecError) -> None:
        """Bytes that are no message: a dead letter that keeps them, so that later messages flow."""
        subscription.bury_untaken(Parcel(Message("pipebus.undecodable", data), 1, token), error)

    # --- looking at it ---------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """
        Figures, JSON-safe.

        published: messages that publishers handed in: `accepted`, dropped or refused. A subscription's own figures keep
        `accepted = acknowledged + dropped + dead + pending + in_flight`, at every quiet moment.
        """
        with self._counting:
            rejected = {by: dict(reasons) for by, reasons in sorted(self._rejected.items())}
            dropped = {by: dict(reasons) for by, reasons in sorted(self._dropped.items())}
            errors, unrouted = dict(sorted(self._errors.items())), self._unrouted
        published = self._ids.count() + _value(self._sent)
        lost = sum(errors.values()) + sum(sum(reasons.values()) for part in (rejected, dropped) for reasons in part.values())
        return {
            "state": self._state,
            "published": published,
            "accepted": published - lost,
            "rejected": rejected,
            "dropped": dropped,
            "errors": errors,
            "unrouted": unrouted,
            "dead_letters": len(self.dead_letters),
            "observer_errors": self._observer_errors,
            "log_errors": self._log_errors,
            "subscriptions": {s.name: s.stats() for s in self._router.subscriptions()},
        }

    @property
    def subscriptions(self) -> list[Subscription]:
        return list(self._router.subscriptions())

    def describe(self) -> dict[str, Any]:
        """What runs, as data that JSON can hold: chains, filters with their settings, subscriptions with their policies."""
        return explain.describe_bus(self)

    def explain(self, subject: Any) -> str:
        """
        The road of a subject (or of one message, whose predicates are then asked), as text: each filter, its settings, where
        it was registered, why a detour or branch is or is not taken, each mailbox and its policy.
        """
        return explain.explain(self, subject)

    @property
    def publish_nodes(self) -> tuple[pipeline.Node, ...]:
        return self._router.nodes

    @property
    def delivery_nodes(self) -> tuple[pipeline.Node, ...]:
        return self._delivery_nodes

    def listeners(self, subject: Any) -> list[Subscription]:
        with self._router.lock:
            return self._router.listeners(subject)

    def __repr__(self) -> str:
        return f"<Bus {self.name} on {self.url}: {self._state}>"


def _wake_reader(mailbox: Any) -> None:
    mailbox.owner.inbox.wake()


def _count(counters: dict[str, Counter[str]], by: str, reason: str) -> None:
    counter = counters.setdefault(by, Counter())
    counter[reason if reason in counter or len(counter) < REASONS else "(other)"] += 1


def _value(counter: itertools.count[int]) -> int:
    """What the counter would give next, without taking it: only its text tells."""
    return int(repr(counter)[6:-1])


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PipelineError(f"Bus({name}={value!r}): it is a whole number of at least {least}")
    return value


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise MessageError(f"{name} is a number of seconds, 0 or more, found {value!r}")
    return float(value)


def _after_fork() -> None:
    """In the child: nothing of an inherited bus works; its publishes miss, and are told so."""
    for bus in _buses:
        bus._runs.clear()


os.register_at_fork(after_in_child=_after_fork)
