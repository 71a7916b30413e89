"""
The bus: the methods that a program calls. `publish` takes the first step of a message itself; everything else is passed on to
the parts that `engine.py` builds. The file is long because every
method has its overloads and its documentation here.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeVar, Unpack, overload

from pipebus.bus import explain, signals
from pipebus.bus.engine import Engine
from pipebus.bus.exits import is_success
from pipebus.bus.handlers import Handlers
from pipebus.bus.health import Watch
from pipebus.bus.lifecycle import State
from pipebus.bus.stopping import StopReport
from pipebus.bus.typing import Addresses, Options, Publication, Question, Recurring, Register, Where
from pipebus.clock import Clock
from pipebus.delivery.actor import Actor
from pipebus.delivery.delivery import Delivery
from pipebus.delivery.subscription import Subscription
from pipebus.errors import (
    LifecycleError,
    PipebusError,
    PipelineError,
)
from pipebus.foreign.objects import spared
from pipebus.mailbox.offering import ONE
from pipebus.message.message import Message, make_message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import Subject
from pipebus.outcomes.dead_letters import DeadLetters
from pipebus.pipeline import callables, pipeline, places, state
from pipebus.pipeline.compose import Side
from pipebus.publishing.expected import expected
from pipebus.publishing.options import check_options
from pipebus.publishing.schedule import Schedule
from pipebus.running.here import in_context
from pipebus.transports.health import Health
from pipebus.values import defaults
from pipebus.values.defaults import Overflow
from pipebus.values.quantities import Duration, limit
from pipebus.waiting.elsewhere import in_thread

if TYPE_CHECKING:
    from pipebus.bus.typing import AnyHandler, Handler, MessageHandler

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F")
H = TypeVar("H", bound=Callable[..., Any])
A = TypeVar("A", bound=Actor)
Observer = TypeVar("Observer", bound=Callable[..., object])

_buses: Final[weakref.WeakSet[Bus]] = weakref.WeakSet()


class Bus:
    """
    A message bus. It has many methods, since it is everything that a program calls.

    Args:
        url: What carries messages: "memory:" (the default), "memory:?wire=json", or another transport's URL.
        require: Capabilities that the transport must promise, as in {"survives": "power"}.
        pool: Worker threads for handlers. None: min(32, processors + 4), or more if a subscription's `workers` need it.
        dead_letters: The greatest number of dead letters kept, >= 1; the oldest go first (`evicted`).
        max_message_bytes: Size of the largest encoded message, in bytes. Only transports that encode messages check it.
        max_hops: How many handlers may pass a conversation on, one after the other, by what they publish or return. Above it,
            they get `TooManyHops`, and their message becomes a dead letter, because such a loop would never end.
        drain: Whether a stop handles all waiting messages first, unless `stop(drain=…)` says otherwise. None: yes in memory,
            where they would be lost; no on a transport that keeps them.
        strict: Whether a publish to which nobody listens raises `NoSubscriber`, unless it says `strict=False` itself.
        debug: Also check for mistakes that are costly to detect, such as threads that share a sync `call_next`.
        clock: The source of time. Tests pass their own.
        name: Used in thread names and logs.

    Raises:
        UnsupportedCapability: an unknown URL, or a transport that promises less than `require`.
    """

    def __init__(
        self,
        url: str = "memory:",
        *,
        require: Mapping[str, Any] | None = None,
        pool: int | None = None,
        dead_letters: int = defaults.DEAD_LETTERS,
        max_message_bytes: int | None = None,
        max_hops: int = defaults.MAX_HOPS,
        drain: bool | None = None,
        strict: bool = False,
        debug: bool = False,
        clock: Clock | None = None,
        name: str = "pipebus",
    ) -> None:
        self._engine = engine = Engine(
            self, {Delivery: lambda _: state.delivery.get(), Bus: lambda _: self}, url, require=require, pool=pool,
            dead_letters=dead_letters, max_message_bytes=max_message_bytes, max_hops=max_hops, drain=drain, strict=strict,
            debug=debug, clock=clock, name=name,
        )  # fmt: skip
        # `publish` needs these at hand: each further attribute lookup would be measurable.
        self._lifecycle = engine.lifecycle
        self._sender, composer = engine.sender, engine.sender.composer
        self._address, self._compose = engine.address, composer.plain
        self._router, self._next_id, self._now, self._ledger = engine.router, composer.next_id, composer.now, engine.ledger
        self._watch = Watch(engine)
        _buses.add(self)
        if (made := getattr(engine.clock, "made", None)) is not None:  # a test's clock, which keeps a list of its buses
            made(self)

    # --- publishing ----------------------------------------------------------------------------------------------------

    @overload
    def publish(self, subject: Subject[T], body: T, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Subject[None], body: None = None, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Where, body: Any = None, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    def publish(self, subject: Any, body: Any = None, **options: Any) -> Receipt | Dropped:
        # The overloads are the signature. Naming the options here would cost every publish 50 ns, a tenth of its time, for
        # defaults that most of them never change: `Sender.compose` names them.
        """
        Send a body through the publish chain into the mailboxes of the subject's subscribers.

        Args:
            subject: A literal subject, a `Subject`, an actor or a `Ref`.
            body: Any object. All subscribers share it.
            headers: A mapping of strings to strings.
            key: Messages of equal key keep their order where a subscription has several workers.
            id: Your own id, for a publish that may be repeated; generated if it is not given.
            ttl: Time to live: seconds, > 0, or text such as "5s". After it, the message is dropped instead of handled.
            delay: The time before the message may be handled, like `ttl`, or 0. It passes the chain and takes its place in the
                queue now.
            reply_to: The subject for an answer.
            correlation_id, causation_id: The conversation that the message belongs to, and the id of the message that caused
                it. By default, what a handler or filter publishes belongs to the conversation of the message that it has in
                hand; with another `correlation_id`, it begins a new one.
            strict: True: raise an error if nobody listens, and keep nothing. None: as `Bus(strict=…)` says.
            within: A connection of yours to the bus's own SQLite file: made by sqlite3, or a SQLAlchemy `Connection` or
                `Session` (for `apublish` also one of aiosqlite, an `AsyncConnection` or an `AsyncSession`). The message is
                stored in its transaction, and exists if and only if you commit that. The chain runs now.

        Returns:
            `Receipt` (truthy): accepted by every mailbox, or by the transport's store. `Dropped` (falsy): a filter dropped it.

        Raises:
            Rejected: a filter refused it. MailboxFull: no room. NoSubscriber: nobody listens, and it is strict. BusNotStarted,
            BusClosed. SubjectError, HeaderError, MessageError: bad input. UnsupportedCapability: `within` is a connection to
            another database, or the engine has no outbox. LifecycleError: `within` has no transaction and begins none.
            TransportError: the store failed. Any error that a filter raises comes out as the same object.
        """
        if type(subject) is not str:
            subject = self._address(subject)
        if options:
            check_options(options, "publish", ("within",))
            return self._sender.publish(subject, body, **options)
        try:
            found = self._router.filed[subject]
        except (KeyError, TypeError):
            found = self._sender.missed(subject)
        if in_context().item is not None:
            message = self._compose(subject, body)
        elif self._now is None:
            message = make_message(subject, body, None, self._next_id())
        else:
            message = make_message(subject, body, None, self._next_id(), self._now())
        try:
            box = found.box
            if box is not None and len(box) < found.room:  # `put`, written out for a mailbox at work: see `mailbox`
                box.append(message)
                if found.box is box or found.is_in(message, box):
                    return ONE
            outcome = found.put(message)
        except BaseException as error:
            self._ledger.refused(message, error)
            raise
        if outcome is not ONE and type(outcome) is not Receipt:
            self._ledger.dropped(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def send(self, message: Message[Any]) -> Receipt | Dropped:
        """`publish` for a message that already exists; it keeps its id."""
        return self._sender.send(message)

    @overload
    async def apublish(self, subject: Subject[T], body: T, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    @overload
    async def apublish(
        self, subject: Subject[None], body: None = None, **options: Unpack[Publication]
    ) -> Receipt | Dropped: ...
    @overload
    async def apublish(self, subject: Where, body: Any = None, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    async def apublish(self, subject: Any, body: Any = None, *, delay: Duration = 0.0, **options: Any) -> Receipt | Dropped:
        """
        `publish` for coroutines: it runs the chain on this loop. Before that it waits, without blocking the loop, until all
        mailboxes have room; no mailbox gets the message before that or the end of `overflow_timeout`.

        A plain sync filter cannot be awaited. A chain that has one runs inline if nothing in it can wait, otherwise on a
        worker thread with a copy of the context.
        """
        if type(subject) is not str:
            subject = self._address(subject)
        if not options and not delay:
            try:
                found = self._router.filed[subject]
            except (KeyError, TypeError):
                found = self._sender.missed(subject)
            if in_context().item is not None:
                message = self._compose(subject, body)
            elif self._now is None:
                message = make_message(subject, body, None, self._next_id())
            else:
                message = make_message(subject, body, None, self._next_id(), self._now())
            if found.single:
                try:
                    box = found.box
                    if box is not None and len(box) < found.room:
                        box.append(message)
                        if found.box is box or found.is_in(message, box):
                            return ONE
                    receipt = found.put(message, False)
                    if receipt is not None:
                        return receipt  # type: ignore[no-any-return]
                except BaseException as error:
                    self._ledger.refused(message, error)
                    raise
            return await self._sender.ahand_in(found, message)
        check_options(options, "apublish", ("within",))
        return await self._sender.apublish(self._address(subject), body, delay, **options)

    async def asend(self, message: Message[Any]) -> Receipt | Dropped:
        """`send` for coroutines."""
        return await self._sender.asend(message)

    @overload
    def request(self, subject: Subject[T], body: T, *, reply: type[R], **question: Unpack[Question]) -> Message[R]: ...
    @overload
    def request(self, subject: Where, body: Any = None, *, reply: type[R], **question: Unpack[Question]) -> Message[R]: ...
    @overload
    def request(self, subject: Subject[T, R], body: T, **question: Unpack[Question]) -> Message[R]: ...
    @overload
    def request(self, subject: Subject[None, R], body: None = None, **question: Unpack[Question]) -> Message[R]: ...
    @overload
    def request(self, subject: Where, body: Any = None, *, reply: Any = None, **question: Unpack[Question]) -> Message[Any]: ...
    def request(
        self, subject: Any, body: Any = None, *, timeout: Duration = 5.0, reply: Any = None, **options: Any
    ) -> Message[Any]:
        """
        Publish, and wait for the first reply: the first value other than None that a handler returns.

        Args:
            subject: As for `publish`.
            body: As for `publish`.
            timeout: Seconds to wait for the reply, or text such as "5s".
            reply: The type of the reply's body, as pydantic knows types. A body of that type stays as it is, plain data is
                converted. None: the second type of a `Subject[T, A]`, or any body.
            headers, key, id, ttl, correlation_id, causation_id: As for `publish`.

        Raises:
            NoResponder: nobody listens, or only the requesting handler itself could answer. RequestDropped: a filter dropped
            the request, or its time to live was over. RequestFailed: the handler failed, without a dead letter; or its reply is
            not of the expected type. RequestTimeout: no reply came in time. BusClosed: the bus stopped meanwhile. MessageError:
            `reply` is not a type that pydantic can validate.
            LifecycleError: called on a running event loop. Also everything that `publish` raises.
        """
        if asyncio._get_running_loop() is not None:
            raise LifecycleError(
                "request waits for its reply and would stop the running event loop; use `await bus.arequest(…)`"
            )
        check = None if reply is None and type(subject) is str else expected(subject, reply)
        found = self._sender.request(self._address(subject), body, timeout, options)
        return found if check is None else check(found)

    @overload
    async def arequest(self, subject: Subject[T], body: T, *, reply: type[R], **question: Unpack[Question]) -> Message[R]: ...
    @overload
    async def arequest(
        self, subject: Where, body: Any = None, *, reply: type[R], **question: Unpack[Question]
    ) -> Message[R]: ...
    @overload
    async def arequest(self, subject: Subject[T, R], body: T, **question: Unpack[Question]) -> Message[R]: ...
    @overload
    async def arequest(self, subject: Subject[None, R], body: None = None, **question: Unpack[Question]) -> Message[R]: ...
    @overload
    async def arequest(
        self, subject: Where, body: Any = None, *, reply: Any = None, **question: Unpack[Question]
    ) -> Message[Any]: ...
    async def arequest(
        self, subject: Any, body: Any = None, *, timeout: Duration = 5.0, reply: Any = None, **options: Any
    ) -> Message[Any]:
        """`request` for coroutines."""
        check = None if reply is None and type(subject) is str else expected(subject, reply)
        found = await self._sender.arequest(self._address(subject), body, timeout, options)
        return found if check is None else check(found)

    # --- registering -----------------------------------------------------------------------------------------------------

    @overload
    def use(self, filter: F, /, *, at: Side = "publish") -> F: ...
    @overload
    def use(self, first: Any, second: Any, /, *more: Any, at: Side = "publish") -> None: ...
    def use(self, *filters: Any, at: Side = "publish") -> Any:
        """
        Append filters to a chain, before start. With one argument, it can be used as a decorator.

        Args:
            at: "publish": once per message, before the mailboxes. "delivery": around every handler.

        Raises:
            PipelineError: naming the filter, its position, the place and the remedy.
        """
        return self._engine.registry.use(*filters, at=at)

    @overload
    def on(self, subject: Subject[T], **options: Unpack[Options]) -> Register[T]: ...  # type: ignore[overload-overlap]
    @overload
    def on(self, subject: Addresses, **options: Unpack[Options]) -> Callable[[H], H]: ...
    def on(self, subject: Any, **options: Any) -> Any:
        """
        `subscribe` as a decorator, with the same options. It returns the function unchanged.

        Raises:
            SubjectError: a bad pattern, or no subject at all.
        """
        self._engine.registry.planner.subjects(subject, "on")

        def register(handler: H) -> H:
            self.subscribe(subject, handler, **options)
            return handler

        return register

    @overload  # for a lambda, whose parameter pyright would otherwise take for a `Bus`
    def subscribe(
        self, subject: Subject[T, R], handler: MessageHandler[T, R], **options: Unpack[Options]
    ) -> Subscription[T]: ...
    @overload
    def subscribe(
        self, subject: Subject[T, R], handler: Handler[T, R] | None = None, **options: Unpack[Options]
    ) -> Subscription[T]: ...
    @overload
    def subscribe(self, subject: Addresses, handler: AnyHandler | None = None, **options: Unpack[Options]) -> Subscription: ...
    def subscribe(
        self,
        subject: Any,
        handler: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        filters: Sequence[Any] | pipeline.Pipeline = (),
        to: Any = None,
        workers: int = defaults.WORKERS,
        run: Literal["pool", "thread", "loop"] | None = None,
        mailbox: int = defaults.MAILBOX_SIZE,
        overflow: Overflow = defaults.OVERFLOW,
        overflow_timeout: Duration = defaults.OVERFLOW_TIMEOUT,
        attempts: int = defaults.ATTEMPTS,
        deliver: str = defaults.DELIVER,
    ) -> Subscription:
        """
        Subscribe a handler, or, without one, get a mailbox that you read yourself. It takes effect before it returns.

        Args:
            subject: A subject or pattern, an object, or a list of them.
            handler: Its parameters are filled by their annotations. None: you read the mailbox. What you read then from a
                `Subject[T]` has a T as body; a message whose body is not one becomes a dead letter.
            name: The durable name, which is also the group's; unique in one bus. None: the subscription is this bus's alone,
                and a store keeps nothing for it beyond the end of the program.
            filters: The subscription's own delivery chain, inside that of the bus.
            to: The subject on which returned values other than None are published.
            workers: How many messages may be handled at once, >= 1. With more than one, only equal keys keep their order.
            run: "pool": on the bus's worker threads, the default for a `def`. "thread": on threads of its own, one per worker.
                "loop": on an event loop, the default for an `async def`: the caller's inside `async with bus`, otherwise the
                bus's own. A plain `def` there must not block.
            mailbox: The greatest number of messages queued and in flight, >= 1.
            overflow: What a full mailbox does: "block", "reject", "drop_newest" or "drop_oldest".
            overflow_timeout: Seconds that "block" waits before it raises `MailboxFull`, or text such as "5s".
            attempts: How often a returned or lost delivery is tried before it becomes a dead letter, >= 1.
            deliver: "new"; on transports that replay also "all" or "last".

        Raises:
            SubscriptionError, SubjectError, PipelineError, UnsupportedCapability: the text names the mistake.
        """
        return self._engine.registry.subscribe(
            places.caller(), subject, handler, name=name, filters=filters, to=to, workers=workers, run=run, mailbox=mailbox,
            overflow=overflow, overflow_timeout=overflow_timeout, attempts=attempts, deliver=deliver,
        )  # fmt: skip

    def include(self, *handlers: Handlers) -> None:
        """
        Subscribe the handlers that `Handlers` objects have collected.

        Raises:
            SubscriptionError and the like: the text names the place where the handler was registered.
        """
        self._engine.registry.include(self, handlers)

    @overload
    def every(self, interval: Duration, subject: Subject[T], body: T, **options: Unpack[Recurring]) -> Schedule: ...
    @overload
    def every(
        self, interval: Duration, subject: Subject[None], body: None = None, **options: Unpack[Recurring]
    ) -> Schedule: ...
    @overload
    def every(self, interval: Duration, subject: Where, body: Any = None, **options: Unpack[Recurring]) -> Schedule: ...
    def every(self, interval: Duration, subject: Any = None, body: Any = None, **options: Unpack[Recurring]) -> Schedule:
        """
        Publish a message every `interval` seconds while the bus is started. Missed ticks are skipped, and no tick begins before
        the previous one has been published.

        Without a name, each process publishes, the first message one interval after its start. With a name, on a transport that
        keeps messages, all processes have the same slots, at whole multiples of the interval since 1970-01-01 UTC, and one of
        them publishes the message of each.

        Args:
            interval: Seconds, > 0, or text such as "5m".
            subject, body, options: As for `publish`.
            name: Letters, digits, and any of . _ -; the same in all processes, and used once in each bus.
            now: Also publish when the bus starts: with a name the message of the present slot, unless it was published.
            missed: What becomes of slots that came while no process ran: "skip", or "once": the message of the last one is
                published at the next start. It needs a name.

        Returns:
            A `Schedule`: `stop()`, `stats()`.

        Raises:
            PipelineError, SubjectError, HeaderError, MessageError: bad input; raised now, not with the first tick.
            UnsupportedCapability: a name on a transport that does not keep schedules.
        """
        return self._engine.schedules.every(places.caller(), interval, subject, body, **options)

    @overload
    def cron(
        self, expression: str, subject: Subject[T], body: T, *, timezone: str = "UTC", **options: Unpack[Recurring]
    ) -> Schedule: ...
    @overload
    def cron(
        self, expression: str, subject: Subject[None], body: None = None, *, timezone: str = "UTC", **options: Unpack[Recurring]
    ) -> Schedule: ...
    @overload
    def cron(
        self, expression: str, subject: Where, body: Any = None, *, timezone: str = "UTC", **options: Unpack[Recurring]
    ) -> Schedule: ...
    def cron(
        self, expression: str, subject: Any = None, body: Any = None, *, timezone: str = "UTC", **options: Unpack[Recurring]
    ) -> Schedule:
        """
        `every` at times of the calendar. It needs the package cronsim: the extra `cron`.

        Where the clock is changed, it does what Debian's cron does: a time in the hour that is skipped comes at the end of that
        hour, and one in the hour that is repeated comes once. A minute or hour of `*` follows the time that passes instead.

        Args:
            expression: Minute, hour, day of month, month and day of week, as in "0 3 * * 1-5"; or six fields, the first for
                seconds.
            timezone: The time zone of these times, as in "Europe/Berlin".
            subject, body, name, now, missed, options: As for `every`.

        Raises:
            PipelineError: also for an expression or a time zone that is unknown, and if cronsim is not installed.
        """
        return self._engine.schedules.cron(places.caller(), expression, subject, body, timezone=timezone, **options)

    def observe(self, observer: Observer) -> Observer:
        """
        Call this function with every event of `pipebus.events`. It can be used as a decorator.

        The observer runs where the event happens, so it must be quick. Its errors are caught, counted
        (`stats()["observer_errors"]`) and logged.
        """
        if not callable(observer):
            raise PipelineError(f"observe takes a callable of one event, found {type(observer).__name__}")
        try:
            runs = callables.is_plain(observer)
        except BaseException as error:  # an object that resists inspection; its errors are caught when it is called
            spared(error)
            runs = True
        if not runs:
            raise PipelineError(
                f"observer {callables.name_of(observer)} is async or a generator, and would not run; make it a plain `def`"
            )
        self._engine.locks.check()
        self._ledger.observe(observer)
        self._engine.router.forget_all()
        return observer

    # --- actors --------------------------------------------------------------------------------------------------------

    def spawn(
        self,
        actor: A,
        *,
        subjects: Addresses | Subject[Any] = (),
        run: Literal["pool", "thread", "loop"] | None = None,
        filters: Sequence[Any] | pipeline.Pipeline = (),
        to: Any = None,
        mailbox: int = defaults.MAILBOX_SIZE,
        overflow: Overflow = defaults.OVERFLOW,
        overflow_timeout: Duration = defaults.OVERFLOW_TIMEOUT,
        attempts: int = defaults.ATTEMPTS,
    ) -> A:
        """
        Give an actor its mailbox, before or after start. It takes effect before it returns.

        Args:
            actor: An instance of a class derived from `Actor`.
            subjects: A subject or pattern, or a collection of them, whose messages come into its mailbox as well.
            run, filters, to, mailbox, overflow, overflow_timeout, attempts: As for `subscribe`. An actor has one worker.

        Returns:
            The actor, which serves as a subject: `bus.publish(actor, body)`.

        Raises:
            SubscriptionError, SubjectError, PipelineError, UnsupportedCapability: the text names the mistake.
        """
        self._engine.locks.check()
        self._engine.registry.spawner.spawn(
            actor, places.caller(), subjects, filters=filters, run=run, to=to, mailbox=mailbox, overflow=overflow,
            overflow_timeout=overflow_timeout, attempts=attempts, workers=1, deliver="new",
        )  # fmt: skip
        return actor

    # --- lifecycle -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """ "new", "started", "draining" or "stopped"."""
        return self._lifecycle.state

    @property
    def stopping(self) -> bool:
        """True once a stop was requested or has begun. A long handler can check it and end early."""
        return self._lifecycle.stop_wanted or self.state in ("draining", "stopped")

    def start(self) -> Bus:
        """
        Start the filters, then the deliveries. It is idempotent, and a stopped bus can be started again.

        Raises:
            PipelineError: a chain that cannot be built. Also what a filter's `start` raises, after the filters before it have
                been stopped.
        """
        self._lifecycle.start()
        return self

    async def astart(self) -> Bus:
        """
        `start` for coroutines: handlers with run="loop" run on this loop until the bus stops. If the bus is started, they stay
        where they run, unless that loop is closed.
        """
        starting = asyncio.ensure_future(in_thread(self._lifecycle.start, asyncio.get_running_loop()))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # the start goes on in its thread, and the caller will not stop it
            await _until_done(starting)
            if not starting.exception() and starting.result():
                await _until_done(asyncio.ensure_future(in_thread(self._lifecycle.stop, 0.0, False)))
            raise
        return self

    def stop(self, timeout: Duration = 30.0, *, drain: bool | None = None) -> StopReport:
        """
        Drain, then close. While the bus drains, it refuses publishers from outside, and handlers may still publish.

        In memory, draining means to handle all waiting messages, because they would be lost. On a transport that keeps them,
        the messages in flight are finished, no other begins, and the rest stays in the store. A handler that still runs when
        the time is up is interrupted: its waits raise BusClosed, and a coroutine is cancelled. Its message goes back, the
        attempt does not count, and the report names the subscription.

        It is idempotent, and many threads may call it at once. Called from a handler, filter or observer, it only requests
        the stop.

        Args:
            timeout: Seconds for draining and for running handlers together, or text such as "30s". Whatever remains then is
                left over.
            drain: True: handle all waiting messages, also those in the store. False: begin no more; in memory, also refuse at
                once what handlers publish. None: as `Bus(drain=…)` says, or as above.

        Raises:
            SystemExit: on the main thread, after the stop, if a handler, filter or observer has called `sys.exit()`. It has
                the requested code, or 1 instead of 0 if messages are left unhandled. For a handler, that call is a failed
                attempt: after the subscription's `attempts`, its message becomes a dead letter.
        """
        report = self._lifecycle.stop(limit(timeout), drain)
        self._lifecycle.leave()
        return report

    async def astop(self, timeout: Duration = 30.0, *, drain: bool | None = None) -> StopReport:
        """`stop` for coroutines."""
        timeout = limit(timeout)
        if self._lifecycle.from_inside():
            return self._lifecycle.only_request("astop()")
        report: StopReport = await in_thread(self._lifecycle.stop, timeout, drain)
        self._lifecycle.leave()
        return report

    def drain(self, timeout: Duration = 30.0) -> None:
        """
        Wait until all accepted messages are settled, without refusing new ones. In memory that includes delayed messages; a
        durable store keeps those until their time.

        It does not wait for paused subscriptions, nor for mailboxes that the program reads itself.

        Args:
            timeout: Seconds, or text such as "30s".

        Raises:
            DrainTimeout: the text says how many messages are pending, and where. LifecycleError: called in a handler or on a
                running loop.
        """
        if self._lifecycle.in_handler():
            raise LifecycleError("drain in a handler would wait for that handler; call it from outside")
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("drain would stop the running event loop; use `await bus.adrain()`")
        self._lifecycle.drain(limit(timeout))

    async def adrain(self, timeout: Duration = 30.0) -> None:
        """`drain` for coroutines."""
        if self._lifecycle.in_handler():
            raise LifecycleError("adrain in a handler would wait for that handler; call it from outside")
        await self._lifecycle.adrain(limit(timeout))

    def request_stop(self, reason: str = "requested") -> None:
        """Request a stop, from anywhere. It ends `bus.run()` and every blocked `receive` and `for`."""
        self._lifecycle.request_stop(reason)

    def run(self, timeout: Duration = 30.0) -> StopReport:
        """
        Start, wait for SIGINT, SIGTERM, SIGHUP or `request_stop`, then stop as `stop` does.

        A second signal interrupts the messages in flight. A signal that was ignored when the program started, as under
        `nohup`, stays ignored. Only the main thread can set signal handlers; on other threads, only `request_stop` ends it.

        Raises:
            SystemExit: as `stop`. LifecycleError: called on a running event loop.
        """
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("run would stop the running event loop; use `await bus.arun()`")
        report = signals.run(self._lifecycle, limit(timeout))
        self._lifecycle.leave()
        return report

    async def arun(self, timeout: Duration = 30.0) -> StopReport:
        """
        `run` for coroutines: handlers with run="loop" run on this loop. If it is cancelled, it stops the bus without draining.

        On the main thread it handles the signals in place of `asyncio.run`, whose Ctrl-C would cancel it.
        """
        timeout = limit(timeout)
        chime = signals.Chime()
        with signals.heard(self._lifecycle, chime) as heard:
            await self.astart()
            try:
                await chime.wait(lambda: bool(heard) or self._lifecycle.stop_wanted)
            except BaseException:
                await self.astop(timeout, drain=False)
                raise
            return await self.astop(timeout)

    def __enter__(self) -> Bus:
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("leaving `with bus` would stop the running event loop; use `async with bus`")
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with _leaving(error):
            self.stop(drain=None if kind is None else False)

    async def __aenter__(self) -> Bus:
        return await self.astart()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with _leaving(error):
            await self.astop(drain=None if kind is None else False)

    # --- config files --------------------------------------------------------------------------------------------------

    _files: ClassVar[Callable[[], Any]]
    """Returns the module that reads and writes files. It is above this one in the import order, so the package sets it."""

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
        Build the bus that a TOML file declares, as an instance of this class, not yet started.

        Args:
            path: The file.
            allow_imports: Packages whose functions and classes the file may name. It can run no other code.
            handlers: Handlers by the names that the file uses.
            filters: Filters of any shape by the names that the file uses.

        Raises:
            ConfigError: every mistake, by file, line and key; nothing has been built.
        """
        bus: Self = cls._files().read(path, allow_imports=allow_imports, handlers=handlers, filters=filters, kind=cls)[0]
        return bus

    def export_config(self) -> str:
        """
        The text of a file that declares this bus. A bus that `from_config` builds from it has an equal `describe()`, except
        for the places of registration.

        Raises:
            ConfigError: the parts that a file cannot hold, by name: a lambda, an actor, an object of a class without fields.
        """
        text: str = type(self)._files().export(self)
        return text

    # --- looking at it -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that thread names and logs show."""
        return self._engine.name

    @property
    def url(self) -> str:
        """The URL of the transport, without secrets. For a bus from a file, the URL as the file has it."""
        return self._engine.url

    @property
    def dead_letters(self) -> DeadLetters:
        """The messages that could not be handled, with `list()`, `replay(id)` and `discard(id)`."""
        return self._engine.dead_letters

    def stats(self) -> dict[str, Any]:
        """
        The figures of the bus, JSON-safe.

        Each of the `published` messages was accepted, dropped or rejected, or ended in an error. For each subscription,
        `accepted = acknowledged + dropped + dead + pending + in_flight` holds whenever the bus is at rest, and `oldest`
        is the number of seconds for which the oldest pending message has waited. `filters` is what filters show of their
        state, by place ("publish" or a subscription) and filter.
        """
        return self._engine.stats()

    def health(self) -> Health:
        """
        Whether the bus is live, ready or degraded, and why. It waits for nothing and never raises; it takes about 0.1 ms, and
        half a microsecond for each subscription. It may be called each second, from threads, loops and signal handlers.

        It is live unless only a new process helps: its threads have died, its event loop has not answered for 30 s, or it was
        made before a fork. A server that is away does not change that. It is ready when it is started and its transport takes
        messages. It is degraded when a mailbox is full, all workers are busy while mailboxes wait, the program or a filter
        pauses a subscription, a circuit breaker of the publish chain is open, an observer has failed in the last minute, or the
        transport reports something.
        """
        return self._watch.look()

    @property
    def subscriptions(self) -> list[Subscription]:
        """The current subscriptions, with and without a name, including those of actors."""
        self._engine.locks.check()
        return self._engine.subscriptions

    def describe(self) -> dict[str, Any]:
        """The configuration as JSON-safe data: chains, filters with their settings, subscriptions with their policies."""
        return explain.describe_bus(self._engine)

    def explain(self, subject: Any) -> str:
        """
        The route of a subject, as text: each filter with its settings and its place of registration, why a `when` or branch
        applies or does not, each mailbox with its policy. Given a message, it also evaluates predicates.
        """
        return explain.explain(self._engine, subject)

    def __repr__(self) -> str:
        return f"<Bus {self.name} on {self.url}: {self.state}>"


@contextmanager
def _leaving(error: BaseException | None) -> Iterator[None]:
    """Around the stop at the end of a `with` block: a SystemExit from a handler does not hide the program's own error."""
    try:
        yield
    except SystemExit:
        if error is None or isinstance(error, PipebusError) or (isinstance(error, SystemExit) and is_success(error.code)):
            raise


async def _until_done(task: asyncio.Future[Any]) -> None:
    """Wait for a task, even if the waiting task is cancelled meanwhile."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])


def engine_of(bus: Bus) -> Engine:
    """The parts of a bus: the one door for `config`, `cli` and `testing`, which need more than a program does."""
    return bus._engine


def _after_fork() -> None:
    for bus in _buses:
        bus._engine.after_fork()


os.register_at_fork(after_in_child=_after_fork)
