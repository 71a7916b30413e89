"""
Actors: objects with a mailbox of their own. And filter actors, which messages pass through.

    class Greeter(Actor):
        def on_message(self, message):
            self.bus.publish("greetings", f"hello {message.body}")

    greeter = bus.spawn(Greeter("greeter"))
    bus.publish(greeter, "Ada")             # mail addressed to the object; "greeter" reaches it too

An actor is a subscription whose handler is its method and whose subject is the object itself. It is given one message at a
time, so that its state needs no lock. A million of them fit into memory: an idle one is three small objects.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipebus.delivery.subscription import Plan, Subscription
from pipebus.errors import BusClosed, LifecycleError, PipelineError
from pipebus.foreign.objects import is_a, shown
from pipebus.mailbox.asked import Answer, AskedMailbox, Question, Waiting, is_question
from pipebus.mailbox.mailbox import Mailbox
from pipebus.message.message import Message
from pipebus.message.subject import Address
from pipebus.pipeline import blame, compose, links_async, links_sync
from pipebus.pipeline.callables import is_async
from pipebus.pipeline.compose import Build
from pipebus.pipeline.places import Place
from pipebus.pipeline.shapes import SelfLinking
from pipebus.running.loops import LoopWorker, in_context
from pipebus.running.runners import Here, carried, current_mailbox
from pipebus.waiting.latch import LoopWaiter, ThreadWaiter

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Actor(Address, SelfLinking):
    """
    An object with a mailbox; made one by `bus.spawn`.

    Define `on_message(self, message)`, sync or async; its parameters are filled by annotation like a handler's. Define
    `filter(self, message)`, sync or async, and it is a filter actor: `bus.use(actor)` has every message pass through it, one
    at a time; it returns the message (or a changed copy), `Dropped(reason)`, or raises. Publishers wait for its answer.

    Args:
        name: A subject's name under which it is reachable as well; unique in its bus. None: by reference only.
    """

    __slots__ = ("__weakref__", "_home", "name")

    filter_timeout: ClassVar[float] = 5.0
    """Seconds that a chain waits for an answer of `filter`; then that is the filter's error."""

    name: str | None
    """Of the subject that reaches it as well; a class may also say `name = "greeter"`."""
    _home: ActorSubscription | None

    def __new__(cls, *_: Any, **__: Any) -> Any:
        # Here and not in __init__, which a subclass may replace without a thought of ours (a dataclass does, a frozen one too).
        actor = super().__new__(cls)
        object.__setattr__(actor, "_home", None)
        if getattr(cls, "name", None) is vars(Actor)["name"]:  # no class of its own says what its name is
            object.__setattr__(actor, "name", None)
        return actor

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    def move(self, home: ActorSubscription | None) -> None:
        """Told by the bus: this is its mailbox's subscription now."""
        object.__setattr__(self, "_home", home)

    def on_message(self, *message: Any, **_: Any) -> Any:
        """A message addressed to this actor. (Of this form, so that type checkers let yours take what it likes.)"""
        raise PipelineError(f"{shown(self)} has no on_message, so mail addressed to it cannot be handled; define one")

    @property
    def subscription(self) -> Subscription:
        """Its mailbox's: `stats`, `pause`, `resume`."""
        if self._home is None:
            raise LifecycleError(f"{shown(self)} is not spawned; bus.spawn(actor) gives it a mailbox")
        return self._home

    @property
    def bus(self) -> Bus:
        """The bus that it was spawned on."""
        return self.subscription.plan.hub  # type: ignore[return-value]

    def stop(self) -> None:
        """
        End this actor after its current message; what waits in its mailbox is dropped, and counted as `stopped`.

        Callable from anywhere, its own `on_message` included; does not wait. It may be spawned again.
        """
        if self._home is not None:
            self._home.plan.hub.end(self._home, "stopped")

    def __repr__(self) -> str:
        home = self._home
        known = home.name if home is not None else self.name or "not spawned"
        return f"<{known}>" if known.startswith(type(self).__name__) else f"<{type(self).__name__} {known}>"

    # --- as a filter ---------------------------------------------------------------------------------------------------

    def link_into(self, step: blame.StepId, next_: compose.Next, build: Build) -> compose.Next:
        """This actor as a link of a chain."""

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
                    return _value(waiter.wait(build.services, self.filter_timeout, lambda: self._late(message)))
                finally:
                    question.give(None)  # interrupted: nobody waits for it any more

        async def aask(message: Message[Any]) -> Any:
            question = self._question(message, arriving)
            if question is None:
                return message
            waiter = LoopWaiter(question)
            with self._asking() as circle:
                _refuse(circle)
                self._mailbox().ask(question)
                try:
                    return _value(await waiter.wait(self.filter_timeout, lambda: self._late(message)))
                finally:
                    question.give(None)  # cancelled: nobody waits for it any more

        if build.colour == "sync":
            return links_sync.transform(blame.StepId(step.name, ask, scope=step.scope), next_, build.due, build.services)
        return links_async.awaited_transform(blame.StepId(step.name, aask, scope=step.scope), next_, build.due, build.services)

    def _mailbox(self) -> AskedMailbox:
        self.subscription  # noqa: B018  (says so, if it is not spawned)
        return self._home.line  # type: ignore[union-attr]

    def _question(self, message: Message[Any], arriving: bool) -> Question | None:
        """
        None: it is never asked about mail addressed to it, nor about what it publishes itself. It could not answer: the
        reply to its own request is what it is waiting for, and so is the handler that its request arrives at.
        """
        home: Any = self.subscription
        subject, mailbox, replies = message.subject, home.mailbox, home.plan.hub.replies
        if subject is self or (home.named and subject == home.name) or current_mailbox() is mailbox:
            return None
        if replies.asker(subject) is mailbox or (arriving and replies.asker(message.reply_to) is mailbox):
            return None
        return Question(message, contextvars.copy_context(), current_mailbox() is not None)

    def _asking(self) -> Waiting:
        """Entered while it is asked: nobody may wait for it whom it is waiting for."""
        return Waiting(current_mailbox(), (self._mailbox(),))

    def _late(self, message: Message[Any]) -> Answer:
        text = f"filter actor {self.subscription.name} gave no answer about {message.subject} in {self.filter_timeout:g} s"
        return Answer(error=TimeoutError(f"{text}; the message is refused"))


def _refuse(circle: list[str] | None) -> None:
    if circle is not None:
        raise PipelineError(
            f"filter actors and handlers would wait for each other ({' -> '.join(circle)}); publish after the answer, or take "
            "one of them out"
        )


def _value(answer: Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.value


def vars_of(actor: Actor) -> dict[str, Any]:
    """What is set on the object itself."""
    return getattr(actor, "__dict__", {})


def is_filter(actor: Actor) -> bool:
    return callable(getattr(actor, "filter", None))


class ActorSubscription(Subscription):
    """An actor's subscription."""

    __slots__ = ("actor", "after")

    def __init__(
        self, plan: Plan, subjects: Any, name: str | int, place: Place, mailbox: type[Mailbox], *, actor: Actor
    ) -> None:
        super().__init__(plan, subjects, name, place, mailbox)
        self.actor = actor
        self.after: ActorSubscription | None = None  # the one before, while its handler still runs

    @property
    def ask(self) -> Any:
        ask, watch = self.actor.filter, self.plan.hub.services.watch  # type: ignore[attr-defined]
        if watch is None:
            return ask
        return watch(blame.StepId(self.name), "async" if is_async(ask) else "sync", ask, (self.name,))

    @property
    def line(self) -> AskedMailbox:
        return self.mailbox  # type: ignore[return-value]

    def chain(self) -> compose.Next:
        if self.run is None and self.plan.plain:
            return self.actor.on_message
        return self.run or self.call()

    def call(self) -> compose.Next:
        return self.plan.bound.calling(self.actor.on_message)  # type: ignore[union-attr]

    def deliver(self, item: Any) -> None:
        if not is_question(item):
            super().deliver(item)
        elif self._wanted(item):
            try:
                answer = Answer(item.context.run(self.ask, item.message))
            except BaseException as error:
                answer = Answer(error=error)
            self._answer(item, answer)

    async def adeliver(self, item: Any, worker: LoopWorker) -> None:
        if not is_question(item):
            await super().adeliver(item, worker)
        elif self._wanted(item):
            ask, here = self.ask, Here(self.mailbox)
            item.context.run(carried.set, here)
            try:
                if is_async(ask):
                    answer = Answer(await in_context(item.context, ask, item.message, worker))
                else:
                    answer = Answer(item.context.run(ask, item.message))
            except BaseException as error:
                if worker.closing:
                    item.give(Answer(error=BusClosed(f"the loop of filter actor {self.name} was closed while it was asked")))
                    worker.lost = item
                    raise
                if is_a(error, asyncio.CancelledError) and worker.cancelled():
                    error = BusClosed(f"filter actor {self.name} was cancelled while it was asked")
                answer = Answer(error=error)
            finally:
                here.mailbox = None
            self._answer(item, answer)

    def _wanted(self, question: Any) -> bool:
        """False if who asked has given up."""
        if question.over:
            self.line.answered()
            return False
        return True

    def _answer(self, question: Any, answer: Answer) -> None:
        question.give(answer)
        self.line.answered()
