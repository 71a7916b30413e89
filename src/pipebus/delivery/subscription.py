"""
A subscription: a pattern, a mailbox, a delivery chain and a way to run. And what becomes of each delivery: `settle`.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from pipebus import events
from pipebus.clock import Clock
from pipebus.delivery.binding import VALUES, Bound, misreturned
from pipebus.errors import (
    AlreadySettled,
    AttemptsExhausted,
    BusClosed,
    DeadLetterError,
    LifecycleError,
    PipelineError,
    Rejected,
    SubjectChanged,
)
from pipebus.foreign.objects import attributes, comes_from, is_a, said, shown, spared, text_of
from pipebus.mailbox.inbox import Inbox
from pipebus.mailbox.mailbox import Item, Mailbox, Parcel, Rules
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED, Dropped, Handled
from pipebus.outcomes.dead_letters import DeadLetter, DeadLetters, Source
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import blame, compose, contract, pipeline, routes, state
from pipebus.pipeline.compose import Build, Node
from pipebus.pipeline.forks import Fork
from pipebus.pipeline.places import Place
from pipebus.pipeline.services import Services
from pipebus.pipeline.step import Step
from pipebus.running.loops import LoopWorker
from pipebus.running.runners import Pool
from pipebus.values.quantities import is_duration

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

LISTENER: Final = "_replies."
"""What a bus's own subscription for replies is called: the first part of its name."""

_came_for: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("pipebus.subject")
"""The subject of the message that is passing a delivery chain which serves several: a filter may not change it."""


def _remembering(run: compose.Next, colour: str) -> compose.Next:
    def remember(message: Message[Any]) -> Any:
        token = _came_for.set(message.subject)
        try:
            return run(message)
        finally:
            _came_for.reset(token)

    async def aremember(message: Message[Any]) -> Any:
        token = _came_for.set(message.subject)
        try:
            return await run(message)
        finally:
            _came_for.reset(token)

    return remember if colour == "sync" else aremember


class Answers(Protocol):
    """Where what a handler returned goes to."""

    def answer(self, to: Any, request: Message[Any], value: Any) -> None: ...
    async def aanswer(self, to: Any, request: Message[Any], value: Any) -> None: ...
    def answer_at_once(self, to: Any, request: Message[Any], value: Any) -> bool: ...
    def fail(self, to: Any, request: Message[Any], error: BaseException) -> None: ...
    def drop(self, to: Any, why: str) -> None: ...
    def asker(self, address: Any) -> Mailbox | None: ...


class Hub(Protocol):
    """What a subscription asks of its bus; handed down."""

    bus: Any  # what handlers and actors know it by
    clock: Clock
    dead_letters: DeadLetters
    ledger: Ledger
    services: Services

    @property
    def replies(self) -> Answers: ...
    @property
    def state(self) -> str: ...
    def request_stop(self, reason: str) -> None: ...
    def interrupted(self, error: BaseException, where: str, about: str = "", lost: bool = False) -> None: ...
    def ended_by_stop(self, error: BaseException) -> bool: ...
    def went_back(self, name: str, message: Message[Any]) -> None: ...
    def check_process(self) -> None: ...
    def settle_remote(self, token: Any, verdict: str, delay: float, why: str) -> None: ...
    def flush_remote(self) -> None: ...
    def transaction(self, token: Any) -> AbstractContextManager[Any]: ...
    def figures(self, name: str) -> dict[str, Any] | None: ...
    def unsubscribe(self, subscription: Subscription, timeout: float | None) -> None: ...
    async def aunsubscribe(self, subscription: Subscription, timeout: float | None) -> None: ...
    def end(self, subscription: Subscription, reason: str) -> None: ...
    def rule(self, on_error: compose.OnError) -> compose.Ruling: ...


class Plan:
    """What subscriptions of equal settings share, so that a million of them stay small."""

    __slots__ = ("attempts", "awaits", "bound", "deliver", "hub", "nodes", "plain", "pool", "quick", "rules", "run_on", "to")

    def __init__(
        self, hub: Hub, bound: Bound | None, nodes: tuple[Node, ...], rules: Rules, *, to: Any, run_on: str,
        attempts: int, deliver: str,
    ) -> None:  # fmt: skip
        self.hub = hub
        self.bound = bound  # None: pull
        self.nodes = nodes  # its own filters, without the bus's
        self.rules = rules
        self.to = to
        self.run_on = run_on
        self.attempts = attempts
        self.deliver = deliver
        self.pool: Pool | None = None  # threads of its own
        self.awaits = False  # its chain is async, though its handler is a plain `def`: on a loop, where all filters allow it
        self.quick = bound is not None and not bound.wants_delivery
        self.plain = bound is not None and bound.plain


class Delivery:
    """
    One taking of one message, to be settled once: the first settlement wins, also over an error raised later.

    A handler that returns has acknowledged, one that raises has failed; these methods are for saying it earlier or otherwise.
    """

    __slots__ = ("_open", "_parcel", "_subscription", "message", "verdict")

    def __init__(self, subscription: Subscription, parcel: Parcel) -> None:
        self.message = parcel.message
        self._subscription = subscription
        self._parcel = parcel
        self._open = [True]  # popped by the first settlement: list.pop is one step for all threads
        self.verdict: str | None = None  # what the handler itself has settled it as: "acknowledged", "retried", "rejected"

    @property
    def attempt(self) -> int:
        """How often this message has been taken from the mailbox, this time included."""
        return self._parcel.attempt

    @property
    def redelivered(self) -> bool:
        return self._parcel.attempt > 1

    @property
    def settled(self) -> bool:
        return not self._open

    @property
    def attempts(self) -> int:
        """How often its subscription takes a message before it is dead."""
        return self._subscription.plan.attempts

    def ack(self, *, confirm: bool = False) -> None:
        """
        Handled; it will not come again.

        Args:
            confirm: Return only when the transport has it, as durably as it keeps messages. Without it a store may carry it
                out a moment later; if the program is killed in between, the message comes again.

        Raises:
            AlreadySettled: if it was settled before. LifecycleError: `confirm` on a running event loop, which it would stop.
        """
        if confirm and asyncio._get_running_loop() is not None:
            raise LifecycleError("ack(confirm=True) waits for the store and would stop the running event loop; leave it out")
        self._close("acknowledged")
        self._subscription.acknowledge(self._parcel)
        if confirm and self._parcel.token is not None:
            self._subscription.plan.hub.flush_remote()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """
        A connection to the transport's store (`sqlite3.Connection` on SQLite). What is written on it in this block, what this
        thread publishes meanwhile and the acknowledgement are kept together at its end; if it raises, none of it is.

        It holds the store's lock for writers: meanwhile nobody else publishes or acknowledges there, in any process. Keep it
        short; what waits for other messages in it waits for itself.

        Raises:
            UnsupportedCapability: the transport has no transactions. AlreadySettled. LifecycleError: on a running event loop.
            TransportError: the store failed, or the delivery's lease had ended; nothing was kept.
        """
        subscription, parcel = self._subscription, self._parcel
        if self.settled:
            raise AlreadySettled(f"message {self.message.id} of {subscription.name} was settled before; open it first")
        closed = False
        try:
            with subscription.plan.hub.transaction(parcel.token) as connection:
                yield connection
                self._close("acknowledged")
                closed = True
        except BaseException:
            if closed:  # it could not be committed: as if nothing had been said
                self.verdict = None
                self._open.append(True)
            raise
        subscription.acknowledge(parcel, tell=False)

    def retry(self, delay: float = 0.0) -> None:
        """
        Take it again after `delay` seconds; after the subscription's `attempts` it is a dead letter instead.

        Raises:
            AlreadySettled: if it was settled before.
        """
        if not is_duration(delay):
            raise PipelineError(f"retry: delay is a number of seconds, 0 or more, found {shown(delay)}")
        self._close("retried")
        self._subscription.put_back(self._parcel, float(delay))

    def reject(self, reason: str) -> None:
        """
        Refuse it for good: a dead letter at once.

        Raises:
            AlreadySettled: if it was settled before.
        """
        error = Rejected(self._subscription.name, reason)
        self._close("rejected")
        self._subscription.bury(self._parcel, error)

    def hand_over(self) -> None:
        """Acknowledged by being read; also when the bus stops at this very moment."""
        if self.claim():
            self._subscription.acknowledge(self._parcel)

    def settle_unless_settled(self, error: BaseException | None) -> None:
        """What the end of a `with sub.delivery()` block does, which an error may have left."""
        if error is not None and self._subscription.plan.hub.ended_by_stop(error):
            if self.claim():
                self._subscription.go_back(self._parcel)
        elif self._open:
            with suppress(AlreadySettled):
                self.ack() if error is None else self.retry()

    def _close(self, verb: str) -> None:
        what = f"message {self.message.id} of {self._subscription.name} cannot be {verb}"
        if self._open and self._subscription.plan.hub.state == "stopped" and self.claim():
            self._parcel.attempt -= 1
            if self._parcel.token is None:
                self._subscription.mailbox.give_back(self._parcel)
            else:  # the transport has it again, and brings it
                self._subscription.mailbox.forget(self._parcel)
            raise BusClosed(
                f"{what}: the bus has stopped; the message is left over, and comes again if the bus is started again"
            )
        if not self.claim():
            raise AlreadySettled(f"{what}: it was settled before")
        self.verdict = verb

    def claim(self) -> bool:
        """The right to settle it, once: True for whoever comes first."""
        try:
            return self._open.pop()
        except IndexError:
            return False

    def __repr__(self) -> str:
        return f"<Delivery {self.message.id} to {self._subscription.name}, attempt {self.attempt}>"


class Subscription:
    """Made by `bus.subscribe` and `bus.on`."""

    # A million of these are to fit in memory: what is seldom asked for is made when it is (`name`, `patterns`).
    __slots__ = ("_name", "inbox", "mailbox", "place", "plan", "run", "subjects")

    def __init__(self, plan: Plan, subjects: Any, name: str | int, place: Place, mailbox: type[Mailbox]) -> None:
        self.plan = plan
        self.subjects = subjects  # a literal subject, an object or a wildcard Pattern; or a tuple of these
        self.place = place
        self._name = name  # a number, unique in the bus, where none was given
        self.inbox: Inbox | None = None
        self.run: compose.Next | None = None  # the compiled chain, where there is more than the handler
        self.mailbox = mailbox(plan.rules, self)

    @property
    def name(self) -> str:
        """The durable name; one is made where none was given."""
        if isinstance(self._name, str):
            return self._name
        return f"{self.plan.bound.name if self.plan.bound is not None else 'pull'}#{self._name}"

    @property
    def named(self) -> bool:
        return isinstance(self._name, str)

    @property
    def durable(self) -> bool:
        """Its name is its own on a transport that keeps messages; replies are for this bus alone."""
        return self.named and not self.answers

    @property
    def answers(self) -> bool:
        """It is the bus's own, for replies."""
        return self.named and self.name.startswith(LISTENER)

    @property
    def patterns(self) -> tuple[Any, ...]:
        """What it listens to: literal subjects, objects and wildcard `Pattern`s."""
        return self.subjects if isinstance(self.subjects, tuple) else (self.subjects,)

    @property
    def literal(self) -> str | None:
        """The one subject that all its messages have, if there is one."""
        return self.subjects if isinstance(self.subjects, str) else None

    @property
    def handled(self) -> bool:
        return self.plan.bound is not None

    @property
    def quick(self) -> bool:
        """Nothing but the chain has to be run for a delivery: the worker does it without asking here."""
        return self.plan.quick and not self.plan.hub.ledger.observed

    @property
    def is_async(self) -> bool:
        """What `chain` returns is awaited."""
        bound = self.plan.bound
        return bound is not None and (bound.is_async or (self.plan.awaits and self.run is not None))

    # --- for the user ----------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """
        `accepted = acknowledged + dropped + dead + pending + in_flight`, at every quiet moment. A store that several processes
        share counts for all of them, and since the subscription began; what waits in a mailbox elsewhere is in flight.
        """
        stored = self.plan.hub.figures(self.name) if self.durable else None
        if stored is None:
            return self.mailbox.counts()
        here = min(self.mailbox.waiting(), stored["in_flight"])
        stored["pending"] += here
        stored["in_flight"] -= here
        return stored

    def pause(self) -> None:
        """Start no further handler until `resume`; messages are still accepted."""
        self.mailbox.pause()

    def resume(self) -> None:
        self.mailbox.resume()

    @property
    def paused(self) -> bool:
        return self.mailbox.rare is not None and self.mailbox.rare.paused

    def unsubscribe(self, timeout: float | None = None) -> None:
        """
        End the subscription: when this returns no handler runs and none will (called from its own handler: when that ends).

        What was queued is counted as dropped (`unsubscribed`).
        """
        self.plan.hub.unsubscribe(self, timeout)

    async def aunsubscribe(self, timeout: float | None = None) -> None:
        """`unsubscribe` for coroutines."""
        await self.plan.hub.aunsubscribe(self, timeout)

    def _reading(self) -> Inbox:
        if self.inbox is None:
            raise PipelineError(f"subscription {self.name} has a handler; only one without a handler can be read")
        self.plan.hub.check_process()
        return self.inbox

    def receive(self, timeout: float | None = None) -> Message[Any]:
        """
        The next message, acknowledged as it is handed over; from any thread.

        Args:
            timeout: Seconds to wait; None: for ever.

        Raises:
            ReceiveTimeout, BusClosed.
        """
        return self._reading().receive(timeout)

    def delivery(self, timeout: float | None = None) -> AbstractContextManager[Delivery]:
        """The next message for a `with` block: acknowledged if it ends well, returned if not."""
        return self._reading().delivery(timeout)

    async def areceive(self, timeout: float | None = None) -> Message[Any]:
        """`receive` for event loops."""
        return await self._reading().areceive(timeout)

    def adelivery(self, timeout: float | None = None) -> AbstractAsyncContextManager[Delivery]:
        """`delivery` for event loops."""
        return self._reading().adelivery(timeout)

    def __iter__(self) -> Iterator[Message[Any]]:
        """Message after message, until the bus stops."""
        return iter(self._reading())

    def __aiter__(self) -> AsyncIterator[Message[Any]]:
        return self._reading().__aiter__()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.unsubscribe()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aunsubscribe()

    def __repr__(self) -> str:
        return f"<Subscription {self.name} on {', '.join(map(str, self.patterns))}>"

    # --- the delivery chain ------------------------------------------------------------------------------------------------

    def compile(self, bus_nodes: tuple[Node, ...]) -> None:
        """Build the chain around the handler: what the bus declares for all, then its own."""
        plan, bound = self.plan, self.plan.bound
        if bound is None:
            bus_nodes = transforms_only(bus_nodes)
        if not bus_nodes and not plan.nodes and (bound is None or plan.hub.services.watch is None):
            self.run = None
            return
        around = (*routes.steps(bus_nodes), *routes.steps(plan.nodes))
        plan.awaits = plan.run_on == "loop" and not any(step.colour == "sync" or step.traits.bounds for step in around)
        build = Build(
            side="delivery",
            colour="async" if bound is not None and (bound.is_async or plan.awaits) else "sync",
            subject=self.subjects,
            terminal=self._terminal(),
            services=plan.hub.services,
            rule=plan.hub.rule,
            place=self.name,
        )
        run = compose.compile(bus_nodes, replace(build, terminal=compose.compile(plan.nodes, build)))
        self.run = run if self.literal is not None else _remembering(run, build.colour)
        if any(step.traits.wants_delivery for step in around):
            plan.quick = False

    def _terminal(self) -> compose.Next:
        bound, literal, awaits = self.plan.bound, self.literal, self.plan.awaits

        def check(message: Message[Any]) -> Message[Any]:
            # What a delivery chain may not do: hand on what is no message, or one with another subject.
            if message.__class__ is not Message:
                raise contract.handed_on(message)
            message = contract.checked(message)
            subject = literal if literal is not None else _came_for.get(message.subject)
            if message.subject is not subject and message.subject != subject:
                raise SubjectChanged(subject, message.subject)
            return message

        if bound is None:

            def hand_over(message: Message[Any]) -> Handled:
                return Handled(check(message))

            return hand_over
        step, call = blame.StepId(bound.name), self.call()  # signs the handler's errors, so that no filter is blamed for them
        if (watch := self.plan.hub.services.watch) is not None:
            call = watch(step, "async" if bound.is_async else "sync", call, (self.name, bound.name))

        def handle(message: Message[Any]) -> Handled:
            message = check(message)
            try:
                value = call(message)
                if value is not None and (wrong := misreturned(bound.name, value, self._has_taker(message))) is not None:
                    raise wrong
            except BaseException as error:
                _say_who_refused(error, self.name)
                blame.blame(error, step, message)
                raise
            return HANDLED if value is None else Handled(value)

        async def ahandle(message: Message[Any]) -> Handled:
            message = check(message)
            try:
                value = await call(message) if bound.is_async else call(message)
                if value is not None:
                    value = await awaited(bound.name, value, self._has_taker(message))
            except BaseException as error:
                _say_who_refused(error, self.name)
                blame.blame(error, step, message)
                raise
            return HANDLED if value is None else Handled(value)

        return ahandle if bound.is_async or awaits else handle

    def chain(self) -> compose.Next:
        """What a message is called with: the delivery chain, or the handler itself where nothing stands around it."""
        run = self.run
        if run is not None:
            return run
        bound = self.plan.bound
        return bound.call if bound is not None else Handled

    def call(self) -> compose.Next:
        """The handler, its parameters filled from a message."""
        return self.plan.bound.call if self.plan.bound is not None else Handled

    # --- one delivery --------------------------------------------------------------------------------------------------------

    def _taken(self, parcel: Parcel) -> bool:
        """Count the taking; False if the message was too old, or taken too often, and is settled. Never raises."""
        try:
            return self._begun(parcel)
        except BaseException as error:  # a clock that fails, a `ttl` that is not a number
            self.failed(parcel, error)
            return False

    def _begun(self, parcel: Parcel) -> bool:
        hub = self.plan.hub
        parcel.attempt += 1
        now = hub.clock.now()
        parcel.first = parcel.first or now
        if hub.ledger.observed:
            hub.ledger.emit(events.Taken(parcel.message, self.name, parcel.attempt))
        if parcel.attempt > self.plan.attempts:  # cancelled again and again by somebody else than the bus
            parcel.attempt -= 1
            self.bury(parcel, AttemptsExhausted(f"cancelled {parcel.attempt} times; {self.name} allows as many attempts"))
            return False
        ttl = parcel.message.ttl
        if ttl is not None and now - parcel.message.time > ttl:
            self.drop(parcel, Dropped("expired", self.name))
            return False
        return True

    def _opened(self, parcel: Parcel) -> tuple[Delivery | None, list[tuple[Any, Any]]]:
        """What the chain may want to know of the delivery, in context variables; with the tokens to reset them."""
        tokens: list[tuple[Any, Any]] = []
        if parcel.replayed:
            tokens.append((state.replayed, state.replayed.set(True)))
        if self.plan.quick:
            return None, tokens
        delivery = Delivery(self, parcel)
        tokens.append((state.delivery, state.delivery.set(delivery)))
        return delivery, tokens

    def deliver(self, item: Item) -> None:
        """Run the chain for one item and settle it; never raises."""
        parcel = item if item.__class__ is Parcel else Parcel(item)  # type: ignore[arg-type]
        if not self._taken(parcel):
            return
        delivery, tokens = self._opened(parcel)
        try:
            outcome = self.chain()(parcel.message)
        except BaseException as error:
            self.failed(parcel, error, delivery)
        else:
            self.settle(parcel, outcome, delivery)
        finally:
            for variable, token in tokens:
                variable.reset(token)

    async def adeliver(self, item: Item, worker: LoopWorker) -> None:
        """`deliver` on an event loop, for chains of both colours."""
        parcel = item if item.__class__ is Parcel else Parcel(item)  # type: ignore[arg-type]
        if not self._taken(parcel):
            return
        delivery, tokens = self._opened(parcel)
        try:
            outcome = self.chain()(parcel.message)
            if self.is_async:
                outcome = await outcome
        except BaseException as error:
            if worker.closing:  # whatever its handler makes of that
                if delivery is None or delivery.claim():
                    worker.lost = parcel
                raise
            self.failed(parcel, error, delivery, worker)
        else:
            await self.asettle(parcel, outcome, delivery, worker=worker)
        finally:
            for variable, token in tokens:
                variable.reset(token)

    def open_item(self, item: Item) -> Delivery | None:
        """For readers: a delivery whose message has passed the Transforms; None if that settled it."""
        parcel = item if item.__class__ is Parcel else Parcel(item)  # type: ignore[arg-type]
        if not self._taken(parcel):
            return None
        try:
            outcome = self.chain()(parcel.message)
        except BaseException as error:
            self.failed(parcel, error)
            return None
        if outcome.__class__ is Dropped:
            self.drop(parcel, outcome)
            return None
        delivery = Delivery(self, parcel)
        delivery.message = outcome.value
        return delivery

    def settled_at_once(self, message: Message[Any], value: Any) -> bool:
        """
        For a bare handler's value on the quick road: True if all that is to be done was to hand it to who asked, and that is
        done, so that its worker has only to count it. Never raises.
        """
        plan = self.plan
        if self.run is not None or plan.to is not None or type(value) not in VALUES:
            return False
        to = message.reply_to
        try:
            return to is None or plan.hub.replies.answer_at_once(to, message, value)
        except BaseException as error:
            spared(error)
            return False  # `settle` meets the same error, and says what it means

    def settle(self, item: Item, outcome: Any, delivery: Delivery | None = None) -> None:
        """What a chain's outcome (or a bare handler's value) means for the delivery; never raises."""
        try:
            for to, message, value in self._answers(item, outcome):
                self.plan.hub.replies.answer(to, message, value)
        except BaseException as error:
            self.failed(item, error, delivery)
        else:
            self._close(item, outcome, delivery)

    async def asettle(self, item: Item, outcome: Any, delivery: Delivery | None = None, *, worker: LoopWorker) -> None:
        """`settle` on an event loop."""
        try:
            if self.run is None and outcome is not None:
                outcome = await awaited(self.plan.bound.name, outcome, self._has_taker(_message(item)))  # type: ignore[union-attr]
            for to, message, value in self._answers(item, outcome):
                await self.plan.hub.replies.aanswer(to, message, value)
        except BaseException as error:
            if worker.closing:  # whatever its handler makes of that
                if delivery is None or delivery.claim():
                    worker.lost = item
                raise
            self.failed(item, error, delivery, worker)
        else:
            self._close(item, outcome, delivery)

    def _has_taker(self, message: Message[Any]) -> bool:
        """Whether anybody is given the handler's value."""
        return self.plan.to is not None or message.reply_to is not None

    def _answers(self, item: Item, outcome: Any) -> Iterator[tuple[Any, Message[Any], Any]]:
        """What a delivery's value is published to."""
        value = outcome if self.run is None else getattr(outcome, "value", None)
        if value is None:
            return
        message, bound = _message(item), self.plan.bound
        wrong = misreturned(bound.name if bound is not None else self.name, value, self._has_taker(message))
        if wrong is not None:
            raise wrong
        for address in (message.reply_to, self.plan.to):
            if address is not None:
                yield address, message, value

    def _close(self, item: Item, outcome: Any, delivery: Delivery | None) -> None:
        if delivery is not None and not delivery.claim():
            return
        if self.run is not None and outcome.__class__ is Dropped:
            self.drop(item, outcome)
        else:
            self.acknowledge(item)

    def failed(
        self, item: Item, error: BaseException, delivery: Delivery | None = None, worker: LoopWorker | None = None
    ) -> None:
        """The chain gave up with an error; never raises."""
        if worker is not None and worker.cancelled_by_others() and comes_from(error, asyncio.CancelledError):
            blame.unsign(error)
            if delivery is None or delivery.claim():
                stops = worker.told or self.plan.hub.state != "started"
                worker.back = self.go_back(item, worker) if stops else self._untake(item)
            return
        if not is_a(error, SystemExit) and (_late(worker) or self.plan.hub.ended_by_stop(error)):
            blame.unsign(error)
            if delivery is None or delivery.claim():
                self.go_back(item, worker)
            return
        if delivery is not None and not delivery.claim():
            blame.unsign(error)
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                self.mailbox.halt()
                self._attempt_to(self.plan.hub.interrupted, error, f"the handler of {self.name}")
                return
            self.plan.hub.ledger.failed(
                "delivery.failed_after_settlement", error, subscription=self.name, message=delivery.message.id
            )
            return
        if is_a(error, SystemExit):
            self._exit(item, error, worker)
            return
        if is_a(error, KeyboardInterrupt):
            blame.unsign(error)
            self.mailbox.halt()
            self._untake(item)
            self._attempt_to(self.plan.hub.interrupted, error, f"the handler of {self.name}")
            return
        self.bury(item, error)

    # --- verdicts ----------------------------------------------------------------------------------------------------------
    #
    # Each of these ends one taking: it counts it in the mailbox, exactly once, and tells whoever has to hear of it. What is
    # told, printed or kept may be a stranger's and may raise anything (`foreign`); by `_attempt_to` none of that changes what
    # the delivery ends as, or keeps its worker from the next message.

    def _attempt_to(self, act: Callable[..., object], *arguments: Any) -> None:
        """One call of a settlement that may fail: that is logged, and goes no further."""
        try:
            act(*arguments)
        except BaseException as error:
            self.plan.hub.ledger.failed("delivery.settling_failed", error, subscription=self.name)
            spared(error)

    def _exit(self, item: Item, error: BaseException, worker: LoopWorker | None) -> None:
        """`sys.exit()` in a handler or around it: a failed attempt, and the program ends."""
        parcel = item if isinstance(item, Parcel) else Parcel(item, 1)
        hub, attempts = self.plan.hub, self.plan.attempts
        about = f"message {parcel.message.id}, attempt {parcel.attempt} of {attempts}"
        dies = False
        self.mailbox.halt()
        if _late(worker) or hub.ended_by_stop(error):
            blame.unsign(error)
            self.go_back(parcel, worker)
        elif parcel.attempt >= attempts:
            dies = True
            about += ": it is a dead letter now"
            self.bury(parcel, error)
        else:
            blame.unsign(error)
            if parcel.token is not None:
                self.mailbox.forget(parcel)
                self._tell_transport(parcel, "return")
            else:
                self.mailbox.give_back(parcel, front=True)
        self._attempt_to(hub.interrupted, error, f"the handler of {self.name}", about, dies)

    def go_back(self, item: Item, worker: LoopWorker | None = None) -> Parcel:
        """A stop broke off what its handler did: it goes back as if it had not been taken, and waits for the next start."""
        parcel = item if isinstance(item, Parcel) else Parcel(item)
        parcel.attempt = max(0, parcel.attempt - 1)
        late = _late(worker)
        if late and parcel.token is not None:
            self.mailbox.forget(parcel)  # the transport has taken back all that was out here
        elif late:
            self.mailbox.give_back(parcel, front=True)  # the bus may have been started again meanwhile
        else:
            self.mailbox.keep_back(parcel)
        self.plan.hub.went_back(self.name, parcel.message)
        return parcel

    def _untake(self, item: Item) -> Parcel:
        """It goes back as if it had not been taken."""
        parcel = item if isinstance(item, Parcel) else Parcel(item)
        parcel.attempt = max(0, parcel.attempt - 1)
        self.mailbox.give_back(parcel, front=True)
        return parcel

    def acknowledge(self, item: Item, tell: bool = True) -> None:
        self.mailbox.acknowledge(item)
        if tell:
            self._tell_transport(item, "acknowledge")
        if self.plan.hub.ledger.observed:
            self.plan.hub.ledger.emit(events.Acknowledged(_message(item), self.name, _attempt(item)))

    def drop(self, item: Item, outcome: Dropped) -> None:
        self.mailbox.drop(item, outcome.reason)
        self.discarded(item, outcome.reason, outcome.by)

    def put_back(self, parcel: Parcel, delay: float) -> None:
        plan = self.plan
        if parcel.attempt >= plan.attempts:
            self.bury(
                parcel, AttemptsExhausted(f"returned {parcel.attempt} times; {self.name} allows attempts={plan.attempts}")
            )
            return
        parcel.delay = delay
        if plan.hub.ledger.observed:
            plan.hub.ledger.emit(events.Returned(parcel.message, self.name, parcel.attempt, delay))
        if parcel.token is not None:
            self.mailbox.forget(parcel)
            self._tell_transport(parcel, "return", delay)
        else:
            self.mailbox.give_back(parcel)

    def bury(self, item: Item, error: BaseException, taken: bool = True) -> None:
        """A dead letter, with its reason; never raises."""
        kept = False
        try:
            step = blame.unsign(error)
            by = step.name if step is not None else self.plan.bound.name if self.plan.bound is not None else None
            _say_who_refused(error, step.name if step is not None else self.name)
            blame.trim(error)
            letter = self._letter(item, error, by)
            kept = True
        except BaseException as trouble:  # a clock or a store that fails
            self.plan.hub.ledger.failed("letter.not_kept", trouble, subscription=self.name, of=text_of(error))
        finally:
            if taken:
                self.mailbox.die(item)
            else:
                self.mailbox.die_untaken()
        if kept:
            self._attempt_to(self._died, item, letter, error)

    def _letter(self, item: Item, error: BaseException, by: str | None) -> DeadLetter:
        hub = self.plan.hub
        now = hub.clock.now()
        return hub.dead_letters.add(
            _message(item),
            error,
            Source(self.revive, self._forget_letter),
            subscription=self.name,
            by=by,
            attempts=_attempt(item),
            first_time=getattr(item, "first", 0.0) or now,
            time=now,
            token=getattr(item, "token", None),
        )

    def _died(self, item: Item, letter: DeadLetter, error: BaseException) -> None:
        hub, message = self.plan.hub, letter.message
        if not hub.dead_letters.settles:
            self._tell_transport(item, "dead")
        if message.reply_to is not None:
            self._attempt_to(hub.replies.fail, message.reply_to, message, error)
        hub.ledger.failed(
            "delivery.died", error, subscription=self.name, subject=said(message.subject), message=message.id,
            letter=letter.id, attempts=letter.attempts,
        )  # fmt: skip
        if hub.ledger.observed:
            hub.ledger.emit(events.Died(message, self.name, letter.id, letter.error, error))

    def bury_untaken(self, parcel: Parcel, error: BaseException) -> None:
        """A dead letter for what could not even be queued: bytes that are no message."""
        self.bury(parcel, error, taken=False)

    def revive(self, message: Message[Any]) -> None:
        parcel = Parcel(message)
        parcel.replayed = True
        if not self.mailbox.revive(parcel):
            raise DeadLetterError(f"{self.name} has no room for the replayed message, or has gone; it stays a dead letter")

    def _forget_letter(self, message: Message[Any], reason: str) -> None:
        self.mailbox.bury(reason)
        self.discarded(message, reason, None)

    def _tell_transport(self, item: Item, verdict: str, delay: float = 0.0, why: str = "") -> None:
        if item.__class__ is Parcel and item.token is not None:
            try:
                self.plan.hub.settle_remote(item.token, verdict, delay, why)
            except BaseException as error:
                # The transport will bring it again; nothing here may keep the worker from its next message.
                self.plan.hub.ledger.failed("delivery.not_settled", error, subscription=self.name, verdict=verdict)
                spared(error)

    # --- what its mailbox tells ----------------------------------------------------------------------------------------

    def overflowed(self, item: Item, policy: str) -> None:
        if self.plan.hub.ledger.observed:
            self.plan.hub.ledger.emit(events.Overflowed(_message(item), self.name, policy))

    def hand_back(self) -> None:
        """At stop: the transport has again what it brought and nobody took."""
        for parcel in self.mailbox.remove_tokens():
            self._tell_transport(parcel, "release")

    def discarded(self, item: Item, reason: str, by: str | None, keep: bool = False) -> None:
        self._tell_transport(item, "release" if keep else "drop", why=reason)
        reply_to = _message(item).reply_to
        if reply_to is not None:
            self._attempt_to(self.plan.hub.replies.drop, reply_to, f"{reason} (by {by or self.name})")
        if self.plan.hub.ledger.observed:
            self.plan.hub.ledger.emit(events.Discarded(_message(item), self.name, reason, by))


async def awaited(name: str, value: Any, taken: bool) -> Any:
    """What the handler of that name has returned on a loop; of an awaitable, its result."""
    if type(value) in VALUES:
        return value
    if issubclass(type(value), Awaitable):
        value = await value
    wrong = misreturned(name, value, taken)
    if wrong is not None:
        raise wrong
    return value


def _late(worker: LoopWorker | None) -> bool:
    """Whether this is the end of a handler that a stop has left behind."""
    if worker is not None:
        return worker.crew.over
    return bool(getattr(threading.current_thread(), "abandoned", False))


def _message(item: Item) -> Message[Any]:
    return item if isinstance(item, Message) else item.message


def _say_who_refused(error: BaseException, name: str) -> None:
    """Fill in `Rejected.by`, where whoever raised it has not."""
    if is_a(error, Rejected):
        facts = attributes(error)
        facts["by"] = facts.get("by") or name


def _attempt(item: Item) -> int:
    return 1 if isinstance(item, Message) else item.attempt


def transforms_only(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The bus-wide delivery filters that apply to readers: Transforms, wherever they stand, in what stands around them."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Step):
            if node.shape == "transform":
                kept.append(node)
        elif isinstance(node, pipeline.Pipeline):
            kept.append(node.of(transforms_only(node.nodes)))
        elif isinstance(node, Fork):
            kept.append(type(node)(node.test, transforms_only(node.nodes), node.place))
    return tuple(kept)
