"""
Actors: objects with a mailbox of their own; and filter actors, which messages pass through.

    class Greeter(Actor):
        def on_message(self, message):
            self.bus.publish("greetings", f"hello {message.body}")

    greeter = bus.spawn(Greeter("greeter"))
    bus.publish(greeter, "Ada")             # mail addressed to the object; "greeter" reaches it too

An actor is a subscription whose handler is its method and whose subject is the object itself. It handles one message at a
time, so its state needs no lock. An idle actor takes three small objects, so a million of them fit into memory.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipebus.delivery.plan import Plan
from pipebus.delivery.subscription import Subscription
from pipebus.errors import BusClosed, LifecycleError, PipelineError
from pipebus.foreign.objects import is_a, shown
from pipebus.mailbox.asked import STATE as ASKED
from pipebus.mailbox.asked import Answer, AskedMailbox, Question, Waiting, is_question
from pipebus.mailbox.rare import has_gil
from pipebus.mailbox.shared import STATE as SHARED
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.message.subject import Address
from pipebus.pipeline import blame, compose, links_async, links_sync
from pipebus.pipeline.callables import is_async
from pipebus.pipeline.compose import Build
from pipebus.pipeline.places import Place
from pipebus.pipeline.shapes import SelfLinking
from pipebus.running.here import Here, carried, current_mailbox
from pipebus.running.loop_worker import LoopWorker, called, in_context
from pipebus.values.quantities import Duration, limit
from pipebus.waiting.latch import LoopWaiter, ThreadWaiter

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Actor(Address, SelfLinking):
    """
    An object with a mailbox of its own, which `bus.spawn` gives it. It handles one message at a time.

        class Greeter(Actor):
            def on_message(self, message):
                self.bus.publish("greetings", f"hello {message.body}")

    Define `on_message(self, message)`, sync or async, for messages that are addressed to the actor. Its parameters are filled
    by annotation, like those of any handler.

    Define `filter(self, message)`, sync or async, for a filter actor: after `bus.use(actor)`, every message passes through it,
    one at a time, and its publisher waits for the answer. `filter` returns the message or a changed copy, returns
    `Dropped(reason)`, or raises. After `filter_timeout` seconds (5, unless the class sets it) without an answer, it has failed
    with a `TimeoutError`.

    Args:
        name: A subject that reaches the actor as well, unique in its bus. None: it is reached through the object only.
    """

    __slots__ = ("__weakref__", "_home", "name")

    filter_timeout: ClassVar[Duration] = 5.0
    """Seconds that a chain waits for an answer from `filter`, or text such as "5s"."""

    name: str | None
    """The subject that reaches it as well. A class may set it too: `name = "greeter"`."""
    _home: ActorSubscription | None

    if not TYPE_CHECKING:  # type checkers read the parameters of __init__, which a subclass may replace

        def __new__(cls, *_, **__):
            # Not in __init__, because a subclass may define its own and not call this one, as a dataclass does. A frozen
            # dataclass also refuses ordinary assignments.
            actor = super().__new__(cls)
            object.__setattr__(actor, "_home", None)
            if getattr(cls, "name", None) is vars(Actor)["name"]:  # no subclass sets a name for all its objects
                object.__setattr__(actor, "name", None)
            return actor

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    def move(self, home: ActorSubscription | None) -> None:
        """Called by the bus: `home` is the actor's subscription from now on; None: it has none."""
        object.__setattr__(self, "_home", home)

    def on_message(self, *message: Any, **_: Any) -> Any:
        """
        Handle a message that is addressed to this actor.

        Override it with the parameters that you need; this signature lets type checkers accept any.

        Raises:
            PipelineError: it is not overridden.
        """
        raise PipelineError(f"{shown(self)} has no on_message, so mail addressed to it cannot be handled; define one")

    @property
    def subscription(self) -> Subscription:
        """
        The actor's subscription, with `stats`, `pause` and `resume`.

        Raises:
            LifecycleError: the actor is not spawned.
        """
        if self._home is None:
            raise LifecycleError(f"{shown(self)} is not spawned; bus.spawn(actor) gives it a mailbox")
        return self._home

    @property
    def bus(self) -> Bus:
        """
        The bus on which the actor was spawned.

        Raises:
            LifecycleError: the actor is not spawned.
        """
        return self.subscription.plan.hub.bus  # type: ignore[no-any-return]

    def stop(self) -> None:
        """
        End this actor after its current message. What waits in its mailbox is dropped, and counted as `stopped`; a durable
        store keeps them for the next actor of that name.

        It can be called from anywhere, even from `on_message`, and does not wait. The actor may be spawned again.
        """
        if self._home is not None:
            self._home.plan.hub.end(self._home, "stopped")

    def __repr__(self) -> str:
        home = self._home
        known = home.name if home is not None else self.name or "not spawned"
        return f"<{known}>" if known.startswith(type(self).__name__) else f"<{type(self).__name__} {known}>"

    # --- as a filter ---------------------------------------------------------------------------------------------------

    def link_into(self, step: blame.StepId, next_: compose.Next, build: Build) -> compose.Next:
        """The link of a chain that asks this actor about each message."""
        arriving = build.side == "delivery"

        def ask(message: Message[Any]) -> Any:
            question = self._question(message, arriving)
            if question is None:
                return message
            waiter = ThreadWaiter(question)
            with self._asking() as circle:
                _refuse(circle)
                self._mailbox().ask(question)
                try:
                    services = build.services
                    return _value(
                        waiter.wait(services.blocking(), services.clock, filter_timeout(self), lambda: self._late(message))
                    )
                finally:
                    question.give(None)  # after an interrupt: nobody waits for the answer

        async def aask(message: Message[Any]) -> Any:
            question = self._question(message, arriving)
            if question is None:
                return message
            waiter = LoopWaiter(question)
            with self._asking() as circle:
                _refuse(circle)
                self._mailbox().ask(question)
                try:
                    return _value(await waiter.wait(filter_timeout(self), lambda: self._late(message)))
                finally:
                    question.give(None)  # after a cancellation: nobody waits for the answer

        if build.colour == "sync":
            return links_sync.transform(blame.StepId(step.name, ask, scope=step.scope), next_, build.due, build.services)
        return links_async.awaited_transform(blame.StepId(step.name, aask, scope=step.scope), next_, build.due, build.services)

    def _mailbox(self) -> AskedMailbox:
        self.subscription  # noqa: B018  (raises if the actor is not spawned)
        return self._home  # type: ignore[return-value]

    def _question(self, message: Message[Any], arriving: bool) -> Question | None:
        """
        The question about a message, or None if the message passes without one.

        An actor is not asked about messages that are addressed to it or that its own handler publishes. Nor is it asked about
        the arrival of its own request or about the reply: while it waits for the reply, it could not answer.
        """
        home: Any = self.subscription
        subject, replies = message.subject, home.plan.hub.replies
        if subject is self or (home.named and subject == home.name) or current_mailbox() is home:
            return None
        if replies.asker(subject) is home or (arriving and replies.asker(message.reply_to) is home):
            return None
        return Question(message, contextvars.copy_context(), current_mailbox() is not None)

    def _asking(self) -> Waiting:
        """The context in which a handler waits for this actor. On entry, it returns the circle of handlers, if there is one."""
        return Waiting(current_mailbox(), (self._mailbox(),))

    def _late(self, message: Message[Any]) -> Answer:
        """The answer for a chain that has waited for `filter_timeout` without getting one."""
        text = f"filter actor {self.subscription.name} gave no answer about {message.subject} in {filter_timeout(self):g} s"
        return Answer(error=TimeoutError(f"{text}; the message is refused"))


def filter_timeout(actor: Actor) -> float:
    """The actor's `filter_timeout` in seconds; raises PipelineError if it is not a duration."""
    return limit(actor.filter_timeout, f"{type(actor).__name__}.filter_timeout")


def _refuse(circle: list[str] | None) -> None:
    if circle is not None:
        raise PipelineError(
            f"filter actors and handlers would wait for each other ({' -> '.join(circle)}); publish after the answer, or "
            "remove one of them"
        )


def _value(answer: Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.value


def vars_of(actor: Actor) -> dict[str, Any]:
    """The attributes of the object itself, without those of its class."""
    return getattr(actor, "__dict__", {})


def is_filter(actor: Actor) -> bool:
    return callable(getattr(actor, "filter", None))


class ActorSubscription(Subscription[Any]):
    """An actor's subscription: it delivers messages to `on_message` and questions to `filter`."""

    __slots__ = ("actor", "after")

    def __init__(self, plan: Plan, subjects: Any, name: str | int, place: Place, *, actor: Actor) -> None:
        super().__init__(plan, subjects, name, place)
        self.actor = actor
        self.after: ActorSubscription | None = None  # the actor's previous one, while its handler still runs

    @property
    def answering_with(self) -> Any:
        """The actor's `filter`, as those who watch wrap it."""
        ask, watch = self.actor.filter, self.plan.hub.services.watch  # type: ignore[attr-defined]
        if watch is None:
            return ask
        return watch(blame.StepId(self.name), "async" if is_async(ask) else "sync", ask, (self.name,))

    def chain(self) -> compose.Next:
        if self.run is None and self.plan.plain:
            return self.actor.on_message
        return self.run or self.call()

    def call(self) -> compose.Next:
        calling: compose.Next = self.plan.bound.calling(self.actor.on_message)
        return calling

    def deliver(self, item: Any) -> None:
        if not is_question(item):
            super().deliver(item)
        elif self._wanted(item):
            current = Here(self, item)
            item.context.run(carried.set, current)
            try:
                answer = Answer(item.context.run(self.answering_with, item.message))
            except BaseException as error:
                answer = Answer(error=error)
            finally:
                current.empty()
            self._answer(item, answer)

    async def adeliver(self, item: Any, worker: LoopWorker) -> None:
        if not is_question(item):
            await super().adeliver(item, worker)
        elif self._wanted(item):
            ask, current = self.answering_with, Here(self, item)
            item.context.run(carried.set, current)
            try:
                answer = Answer(await in_context(item.context, called(ask, item.message, is_async(ask))))
            except BaseException as error:
                if worker.closing:
                    item.give(Answer(error=BusClosed(f"the loop of filter actor {self.name} was closed while it was asked")))
                    worker.lost = item
                    raise
                if is_a(error, asyncio.CancelledError) and worker.cancelled_by_others():
                    error = BusClosed(f"filter actor {self.name} was cancelled while it was asked")
                answer = Answer(error=error)
            finally:
                current.empty()
            self._answer(item, answer)

    def _wanted(self, question: Any) -> bool:
        """Whether the chain still waits for the answer."""
        if question.over:
            self.answered()  # type: ignore[attr-defined]
            return False
        return True

    def _answer(self, question: Any, answer: Answer) -> None:
        question.give(answer)
        self.answered()  # type: ignore[attr-defined]


class SharedActorSubscription(SharedMailbox, ActorSubscription):
    """An actor's subscription where there is no GIL."""

    __slots__ = SHARED


class AskedActorSubscription(AskedMailbox, ActorSubscription):
    """A filter actor's subscription."""

    __slots__ = ASKED


def kind_for(actor: Actor) -> type[ActorSubscription]:
    """The class for the subscription of an actor."""
    if is_filter(actor):
        return AskedActorSubscription
    return ActorSubscription if has_gil else SharedActorSubscription
