"""A subscription: a pattern, a mailbox, a delivery chain and a way to run; in one object, so that a million stay small."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Generic, Self

from pipebus.delivery.delivery import Delivery
from pipebus.delivery.plan import Plan
from pipebus.delivery.settling import Recipient
from pipebus.errors import LifecycleError, PipelineError
from pipebus.mailbox import control, endings
from pipebus.mailbox.inbox import Inbox
from pipebus.mailbox.rare import has_gil
from pipebus.mailbox.shared import STATE, SharedMailbox
from pipebus.message.message import Message
from pipebus.message.subject import T
from pipebus.pipeline.places import Place
from pipebus.values.quantities import Duration, limit

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

LISTENER: Final = "_replies."
"""The first part of the name of a bus's own subscription for replies."""


class Subscription(Recipient, Generic[T]):
    """
    Made by `bus.subscribe` and `bus.on`. T is the type of the bodies that a reader gets: that of a `Subject[T]`, otherwise Any.
    """

    # A million of these must fit in memory, so values that are seldom needed are made on demand (`name`, `patterns`).
    __slots__ = ("_name", "inbox", "place", "subjects")

    def __init__(self, plan: Plan, subjects: Any, name: str | int, place: Place) -> None:
        super().__init__(plan)
        self.subjects = subjects  # a literal subject, an object or a wildcard Pattern; or a tuple of these
        self.place = place
        self._name = name  # a number, unique in the bus, if the user gave no name
        self.inbox: Inbox | None = None

    @property
    def name(self) -> str:
        """The name that was given, or one made from the handler and a number."""
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
        """Whether it is the bus's own subscription, for replies."""
        return self.named and self.name.startswith(LISTENER)

    @property
    def patterns(self) -> tuple[Any, ...]:
        """The literal subjects, objects and patterns (`Pattern`) that it subscribes to."""
        return self.subjects if isinstance(self.subjects, tuple) else (self.subjects,)

    @property
    def literal(self) -> str | None:
        """The one subject that all its messages have, if there is one."""
        return self.subjects if isinstance(self.subjects, str) else None

    @property
    def handled(self) -> bool:
        return self.plan.bound is not None

    # --- for the user ----------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """
        `accepted = acknowledged + dropped + dead + pending + in_flight`, at every quiet moment. A store that several processes
        share counts for all of them, and since the subscription began; what waits in a mailbox elsewhere is in flight.

        `oldest`: seconds that the oldest pending message has waited, since its time; a delayed one counts when it is due. None:
        none waits, or the engine cannot say: on NATS, it is known of what this program has fetched.
        """
        stored: dict[str, Any] | None = None if self.answers else self.plan.hub.figures(self.name)
        if stored is None:
            return endings.counts(self)
        here = min(self.waiting(), stored["in_flight"])
        stored["pending"] += here
        stored["in_flight"] -= here
        stored["oldest"] = max((age for age in (endings.oldest(self), stored.get("oldest")) if age is not None), default=None)
        return stored

    def pause(self) -> None:
        """Start no further handler until `resume`; messages are still accepted."""
        control.pause(self)

    def resume(self) -> None:
        """Go on after `pause`."""
        control.resume(self)

    @property
    def paused(self) -> bool:
        """Whether it starts no further handler."""
        return self.rare is not None and self.rare.pauses != 0

    def unsubscribe(self, timeout: Duration | None = None) -> None:
        """
        End the subscription. When this returns, no handler runs or will run (from its own handler: when that handler ends).

        Queued messages are counted as dropped (`unsubscribed`).

        Args:
            timeout: Seconds to wait for the handler, or text such as "5s"; None: forever.
        """
        self.plan.hub.unsubscribe(self, _limit(timeout))

    async def aunsubscribe(self, timeout: Duration | None = None) -> None:
        """`unsubscribe` for coroutines."""
        await self.plan.hub.aunsubscribe(self, _limit(timeout))

    def _reading(self) -> Inbox:
        if self.inbox is None:
            raise PipelineError(f"subscription {self.name} has a handler; only one without a handler can be read")
        self.plan.hub.check_process()
        self.inbox.asked = True
        return self.inbox

    def receive(self, timeout: Duration | None = None) -> Message[T]:
        """
        The next message, acknowledged as it is handed over; from any thread.

        If the subscription is to a `Subject[T]`, the body is validated as a T. A message whose body is not one becomes a dead
        letter, and the next message is read. The same holds for all ways to read.

        Args:
            timeout: Seconds to wait, or text such as "5s"; None: forever.

        Raises:
            ReceiveTimeout: nothing came in time. BusClosed, BusNotStarted: the bus does not run.
        """
        return self._reading().receive(_limit(timeout))

    def delivery(self, timeout: Duration | None = None) -> AbstractContextManager[Delivery[T]]:
        """The next message for a `with` block: acknowledged if the block succeeds, returned if not."""
        return self._reading().delivery(_limit(timeout))

    async def areceive(self, timeout: Duration | None = None) -> Message[T]:
        """`receive` for event loops."""
        return await self._reading().areceive(_limit(timeout))

    def adelivery(self, timeout: Duration | None = None) -> AbstractAsyncContextManager[Delivery[T]]:
        """`delivery` for event loops."""
        return self._reading().adelivery(_limit(timeout))

    def __iter__(self) -> Iterator[Message[T]]:
        """Iterate over the messages until the bus stops."""
        return iter(self._reading())

    def __aiter__(self) -> AsyncIterator[Message[T]]:
        return self._reading().__aiter__()

    def __enter__(self) -> Self:
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("leaving `with sub` would stop the running event loop; use `async with sub`")
        return self

    def __exit__(self, *_: object) -> None:
        self.unsubscribe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aunsubscribe()

    def __repr__(self) -> str:
        return f"<Subscription {self.name} on {', '.join(map(str, self.patterns))}>"


class SharedSubscription(SharedMailbox, Subscription[Any]):
    """A subscription with several workers, or one that is read."""

    __slots__ = STATE


def _limit(timeout: Duration | None) -> float | None:
    return None if timeout is None else limit(timeout)


def kind_for(plan: Plan) -> type[Subscription]:
    """The class for subscriptions of these settings."""
    return Subscription if plan.workers == 1 and not plan.pull and has_gil else SharedSubscription
