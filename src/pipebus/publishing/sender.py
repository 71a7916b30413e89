"""
Sending: everything between a call of `publish` and the first filter, apart from the shortest path.

`Bus.publish` looks its subject up in `Router.filed` and puts its message into what it finds. If it finds nothing, it calls
`missed`: for a subject's first message, and for every message while the bus is not started, is stopping, or is in a forked
child. Nothing is filed then, so that an ordinary publish has to check none of this itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any, Final

from pipebus import events
from pipebus.clock import Clock
from pipebus.errors import MessageError, PipelineError, SubjectError, UnsupportedCapability
from pipebus.foreign.objects import class_name, shown
from pipebus.mailbox.offering import lacks_room
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import Address, check_subject, not_carried
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import routes
from pipebus.pipeline.compose import Next
from pipebus.publishing.asking import result, too_late
from pipebus.publishing.composer import Composer
from pipebus.publishing.fan_out import fan_out
from pipebus.publishing.options import delay_of, is_strict
from pipebus.publishing.replies import Replies
from pipebus.publishing.room import Places
from pipebus.publishing.route import Route, Way
from pipebus.publishing.router import Router
from pipebus.running.here import elsewhere
from pipebus.running.loop_thread import LoopThread
from pipebus.running.pool import Pool
from pipebus.running.timers import Timers
from pipebus.transports.base import Transport
from pipebus.values.quantities import Duration, seconds
from pipebus.waiting.elsewhere import on_executor
from pipebus.waiting.latch import LoopWaiter, ThreadWaiter
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

_delay: Final[contextvars.ContextVar[float]] = contextvars.ContextVar("pipebus.delay", default=0.0)


class Sender:
    """
    Sends messages through their route.

    Args:
        address: What a subject is on this transport: see `encoded_address`.
        check_publish: Raises if the bus accepts no messages now.
        started: Whether the bus is started; routes are kept only then.
        strict: Whether a publish to which nobody listens raises, unless it says otherwise.
        max_hops: How many handlers may pass a conversation on.
    """

    def __init__(
        self, *, clock: Clock, transport: Transport, url: str, address: Callable[[Any], Any], router: Router, replies: Replies,
        ledger: Ledger, pool: Pool, loop_thread: LoopThread, timers: Timers, locks: Locks,
        check_publish: Callable[[], None], started: Callable[[], bool], strict: bool, max_hops: int,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.transport = transport
        self.url = url
        self.router = router
        self.replies = replies
        self.ledger = ledger
        self.pool = pool
        self.loop_thread = loop_thread
        self.timers = timers
        self.locks = locks
        self.check_publish = check_publish
        self.started = started
        self.strict = strict
        self.composer = Composer(clock, max_hops, address)
        self._sync, self._bare = Way("sync", strict=strict), Way("sync", force=True, strict=strict)

    # --- checks --------------------------------------------------------------------------------------------------------

    def check_delay(self, delay: float) -> None:
        if delay and not self.transport.capabilities.delay:
            why = self.transport.shortcoming("delay") or "publish it when its time has come"
            raise UnsupportedCapability(f"{self.url} cannot delay messages; {why}")

    def check_address(self, subject: Any) -> None:
        """Raises unless `subject` can be published to here."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, Address):
            raise SubjectError(f"{shown(subject)} cannot be published to; use a string, an actor or Ref(obj)")
        elif not self.transport.capabilities.objects:
            raise not_carried(subject, self.url)

    def check_outbox(self) -> None:
        self.check_publish()
        if not self.transport.capabilities.outbox:
            raise UnsupportedCapability(
                f"{self.url} cannot store a message in a transaction of the application (within=…); use a SQLite file that "
                "holds the application's tables too, or publish after the commit"
            )

    # --- from threads --------------------------------------------------------------------------------------------------

    def publish(
        self, subject: Any, body: Any, *, delay: Duration = 0.0, strict: bool | None = None, within: Any = None, **options: Any
    ) -> Receipt | Dropped:
        """`Bus.publish` with options."""
        if within is not None:
            self.check_outbox()
            with self.transport.within(within):
                return self.publish(subject, body, delay=delay, strict=strict, **options)
        if not delay and strict is None:
            found = self.find(subject)
            return self.hand_in(found, self.composer.composed(subject, body, **options))
        late, strict = delay_of(delay) if delay else 0.0, is_strict(strict, self.strict)
        found = self.route(subject) if late else self.find(subject)
        message = self.composer.composed(subject, body, **options)
        return self._hand_in_as(found, message, late, strict) if found.__class__ is Route else self.hand_in(found, message)

    def send(self, message: Message[Any]) -> Receipt | Dropped:
        """`Bus.send`."""
        message = self.composer.whole(message)
        found = self.find(message.subject)
        self.composer.count()
        return self.hand_in(found, message)

    def request(self, subject: Any, body: Any, timeout: Duration, options: dict[str, Any]) -> Message[Any]:
        """`Bus.request`, off any event loop."""
        lent = self.pool.lent()  # raises if this thread must not wait
        timeout = seconds(timeout, "timeout", error=MessageError)
        found, replies = self.find(subject), self.replies
        with replies.asking(subject, ThreadWaiter) as asking:
            message = self._question(subject, body, asking.address, options)
            # Even on a strict bus, the error for a request that nobody gets is NoResponder.
            strictly = self.strict and found.__class__ is Route
            outcome = self._hand_in_as(found, message) if strictly else self.hand_in(found, message)
            replies.published(message, asking.answer, outcome)
            return result(asking.waiter.wait(lent, self.clock, timeout, lambda: too_late(message, timeout)))

    def hand_in(self, found: Any, message: Message[Any]) -> Receipt | Dropped:
        try:
            outcome = found.put(message)
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        if outcome.__class__ is not Receipt:
            self.ledger.dropped(message, outcome)
        return outcome  # type: ignore[no-any-return]

    def _hand_in_as(self, route: Route, message: Message[Any], delay: float = 0.0, strict: bool = False) -> Receipt | Dropped:
        """`hand_in` in another way than the route is compiled for."""
        late = _delay.set(delay)
        try:
            self.check_delay(delay)
            outcome = _callable(self, route, Way("sync", late=bool(delay), strict=strict))(message)
            if delay:
                self.timers.tell()
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        finally:
            _delay.reset(late)
        return self._passed(message, outcome)

    def find(self, subject: Any) -> Any:
        """What a publish puts its message into: a subscription, several, or a route."""
        try:
            return self.router.filed.get(subject) or self.missed(subject)
        except TypeError:
            return self.missed(subject)

    def missed(self, subject: Any) -> Route:
        """`find` for a subject that is not filed; it makes all checks that `find` skips."""
        self.check_publish()
        with free(self.router.lock):
            route = self.route(subject)
            if self.started() and not self.replies.owns(subject):
                self.router.keep(route)
            return route

    def route(self, subject: Any) -> Route:
        """The route of a subject, ready to be published to."""
        try:
            known = self.router.routes.get(subject)
            if known is not None and self.started():
                return known
        except TypeError:
            pass  # not hashable; the second attempt below raises a SubjectError that says so
        self.check_publish()
        try:
            route = self.replies.route() if self.replies.owns(subject) else self.router.route(subject)
        except TypeError:
            raise SubjectError(
                f"{shown(subject)} cannot be a subject: {class_name(subject)} objects are not hashable; "
                "use a string or Ref(obj)"
            ) from None
        return self.ready(route)

    def ready(self, route: Route) -> Route:
        """Give a route the function that a sync publish calls."""
        if route.put is None:
            route.put = functools.partial(_first_put, self, route)
        return route

    def _question(self, subject: Any, body: Any, reply_to: Any, options: dict[str, Any]) -> Message[Any]:
        if not options:
            return self.composer.plain(subject, body, reply_to)
        return self.composer.composed(subject, body, reply_to=reply_to, **options)

    # --- from coroutines -----------------------------------------------------------------------------------------------

    async def apublish(
        self, subject: Any, body: Any, delay: Duration, strict: bool | None = None, within: Any = None, inline: bool = False,
        **options: Any,
    ) -> Receipt | Dropped:  # fmt: skip
        """`Bus.apublish`. `inline`: a chain that is not awaited and does not wait runs on this loop, even before a store."""
        if within is not None:
            self.check_outbox()
            async with self.transport.awithin(within) as usable:
                return await self.apublish(subject, body, delay, strict, inline=usable, **options)
        late = delay_of(delay) if delay else 0.0
        strict = is_strict(strict, self.strict)
        found = self.route(subject) if late else self.find(subject)
        message = self.composer.composed(subject, body, **options)
        return await self.ahand_in(found, message, late, strict, inline)

    async def asend(self, message: Message[Any]) -> Receipt | Dropped:
        """`Bus.asend`."""
        message = self.composer.whole(message)
        found = self.find(message.subject)
        self.composer.count()
        return await self.ahand_in(found, message)

    async def arequest(self, subject: Any, body: Any, timeout: Duration, options: dict[str, Any]) -> Message[Any]:
        """`Bus.arequest`."""
        timeout = seconds(timeout, "timeout", error=MessageError)
        found, replies = self.find(subject), self.replies
        with replies.asking(subject, LoopWaiter) as asking:
            message = self._question(subject, body, asking.address, options)
            outcome: Any = None
            if found.single:  # as in `Bus.apublish`
                try:
                    outcome = found.put(message, False)
                except BaseException as error:
                    self.ledger.refused(message, error)
                    raise
            if outcome is None:
                outcome = await self.ahand_in(found, message, strict=False)
            replies.published(message, asking.answer, outcome)
            return result(await asking.waiter.wait(timeout, lambda: too_late(message, timeout)))

    async def ahand_in(
        self, found: Any, message: Message[Any], delay: float = 0.0, strict: bool | None = None, inline: bool = False
    ) -> Receipt | Dropped:
        """`hand_in` for coroutines."""
        strict = self.strict if strict is None else strict
        late = _delay.set(delay) if delay else None
        places: Places | None = None
        try:
            self.check_delay(delay)
            if any(lacks_room(subscription) for subscription in found.everyone):
                places = Places()
                await places.aget(found.everyone)
            if found.__class__ is not Route:
                outcome = fan_out(found.everyone, message, force=True)
            elif not found.nodes and self.transport.local and not delay:
                outcome = found.run(self._bare if strict is self.strict else Way("sync", True, False, strict))(message)
            elif found.colour == "async" or found.plain_sync is None:
                outcome = await found.run(Way("async", True, bool(delay), strict))(message)
            else:
                run = found.run(Way("sync", True, bool(delay), strict))
                here = found.waits is None and (self.transport.local or inline)
                outcome = run(message) if here else await _elsewhere(run, message)
            if delay:
                self.timers.tell()
        except BaseException as error:
            self.ledger.refused(message, error)
            raise
        finally:
            if places is not None:
                places.give_up()
            if late is not None:
                _delay.reset(late)
        return self._passed(message, outcome)

    def _passed(self, message: Message[Any], outcome: Any) -> Receipt | Dropped:
        if outcome.__class__ is not Receipt:
            self.ledger.dropped(message, outcome)
        elif self.ledger.observed:
            self.ledger.emit(events.Published(message, outcome))
        return outcome  # type: ignore[no-any-return]


def _first_put(sender: Sender, route: Route, message: Message[Any]) -> Any:
    """Compile a route at its first sync publish."""
    put = _callable(sender, route, sender._sync)
    if sender.ledger.observed:
        put = _observed(put, sender.ledger)
    route.put = put
    return put(message)


def _callable(sender: Sender, route: Route, way: Way) -> Next:
    """The function that a sync publish calls for a route."""
    if route.colour == "async":
        return _on_loop_thread(sender, route, way)
    run = route.run(way)
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


def _on_loop_thread(sender: Sender, route: Route, way: Way) -> Next:
    """An async chain for a sync publish: it runs on the bus's loop while the publisher waits."""
    arun, subject = route.run(way._replace(colour="async", force=True)), route.subject
    name = next(step.name for step in routes.filters_for(route.nodes, subject) if step.colour == "async")

    def on_loop_thread(message: Message[Any]) -> Any:
        sender.locks.check()
        if asyncio._get_running_loop() is not None:
            raise PipelineError(
                f'filter {name} is async, so publish() on "{subject}" cannot run inside an event loop; '
                "use `await bus.apublish(…)`"
            )
        places = Places()
        try:
            places.get(route.everyone, sender.clock, sender.pool.lent)
            with sender.pool.lent():
                return sender.loop_thread.call(arun, message)
        finally:
            places.give_up()

    return on_loop_thread


def _observed(run: Next, ledger: Ledger) -> Next:
    def call(message: Message[Any]) -> Any:
        outcome = run(message)
        if outcome.__class__ is Receipt:
            ledger.emit(events.Published(message, outcome))
        return outcome

    return call


async def _elsewhere(run: Next, message: Message[Any]) -> Any:
    """Run a chain that cannot be awaited on a worker thread, where it still counts as part of the handler that publishes."""
    with elsewhere():
        return await on_executor(run, message)


def delay() -> float:
    """The delay, in seconds, of the publish that is in its chain."""
    return _delay.get()
