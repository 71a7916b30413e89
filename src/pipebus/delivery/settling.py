"""
The delivery of a message that was taken from a mailbox: run its chain, and settle the delivery according to the outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from pipebus import events
from pipebus.delivery import verdicts
from pipebus.delivery.binding import VALUES, misreturned
from pipebus.delivery.chain import awaited, has_taker
from pipebus.delivery.delivery import Delivery
from pipebus.errors import AttemptsExhausted, ContractError
from pipebus.foreign.logging import bound_context, merges_context
from pipebus.foreign.objects import comes_from, is_a, said, shown, spared
from pipebus.mailbox import control
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.parcel import Item, Parcel, message_of
from pipebus.message.conversation import conversation_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import blame, compose, state
from pipebus.running.here import holding
from pipebus.running.loop_worker import LoopWorker

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Recipient(Mailbox):
    """A mailbox whose messages go through a delivery chain."""

    __slots__ = ("run",)

    single: Final = True
    """For `publish`, which may also find a route under its subject."""

    def __init__(self, plan: Any) -> None:
        super().__init__(plan)
        self.run: compose.Next | None = None  # the compiled chain, if there are filters

    def chain(self) -> compose.Next:
        """The function to call with a message: the delivery chain; without filters, the handler, or `read` of its plan."""
        run = self.run
        if run is not None:
            return run
        bound = self.plan.bound
        found: compose.Next = bound.call if bound is not None else self.plan.read
        return found

    def call(self) -> compose.Next:
        """The handler, as a function of a message that fills its parameters."""
        call: compose.Next = self.plan.bound.call
        return call

    @property
    def is_async(self) -> bool:
        """Whether the result of `chain` must be awaited."""
        bound = self.plan.bound
        return bound is not None and (bound.is_async or (self.plan.awaits and self.run is not None))

    @property
    def quick(self) -> bool:
        """Whether a delivery only has to run the chain, so that the worker need not call `deliver`."""
        return bool(self.plan.quick and not self.plan.hub.ledger.follows and not merges_context())

    @property
    def everyone(self) -> tuple[Recipient, ...]:
        """The recipients of a message that is put here."""
        return (self,)

    # --- one delivery --------------------------------------------------------------------------------------------------------

    def _taken(self, parcel: Parcel) -> bool:
        """Count the attempt; False if the message is too old, was taken too often, or is no longer ours. Never raises."""
        try:
            return self._begun(parcel)
        except BaseException as error:  # a clock that fails, a `ttl` that is not a number
            self.failed(parcel, error)
            return False

    def _begun(self, parcel: Parcel) -> bool:
        hub = self.plan.hub
        if parcel.token is not None and not hub.holds(parcel.token):
            verdicts.let_go(self, parcel)
            return False
        parcel.attempt += 1
        now = hub.clock.now()
        parcel.first = parcel.first or now
        if hub.ledger.follows:
            hub.ledger.taken(self.name, parcel)
        if parcel.attempt > self.plan.attempts:  # cancelled again and again, but not by the bus
            parcel.attempt -= 1
            verdicts.bury(
                self, parcel, AttemptsExhausted(f"cancelled {parcel.attempt} times; {self.name} allows as many attempts")
            )
            return False
        ttl = parcel.message.ttl
        if ttl is not None and not parcel.replayed and now - parcel.message.time > ttl:
            verdicts.drop(self, parcel, Dropped("expired", self.name))
            return False
        return True

    def _opened(self, parcel: Parcel) -> tuple[Delivery | None, list[tuple[Any, Any]]]:
        """Set the context variables that describe the delivery to its chain; return them with the tokens to reset them."""
        tokens: list[tuple[Any, Any]] = []
        if parcel.replayed:
            tokens.append((state.replayed, state.replayed.set(True)))
        if merges_context():
            message = parcel.message
            tokens += bound_context(
                subject=said(message.subject), message_id=message.id, correlation_id=conversation_of(message),
                subscription=self.name, attempt=parcel.attempt,
            )  # fmt: skip
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
            if parcel.began:
                self.plan.hub.ledger.ended(self.name, parcel)
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
            if parcel.began:
                self.plan.hub.ledger.ended(self.name, parcel)
            for variable, token in tokens:
                variable.reset(token)

    def open_item(self, item: Item) -> Delivery | None:
        """A delivery for a reader, after its message has passed the Transforms; None if they settled it."""
        parcel = item if item.__class__ is Parcel else Parcel(item)  # type: ignore[arg-type]
        if not self._taken(parcel):
            return None
        try:
            run = self.chain()
            outcome = (run if self.run is None else holding(run, "sync"))(parcel.message)
        except BaseException as error:
            self.failed(parcel, error)
            return None
        if outcome.__class__ is Dropped:
            verdicts.drop(self, parcel, outcome)
            return None
        delivery = Delivery(self, parcel)
        delivery.message = outcome.value
        return delivery

    def settled_at_once(self, message: Message[Any], value: Any) -> bool:
        """
        For a handler without filters: True if its value was given to the requester at once, or if no one needs it, so that the
        worker only has to count the message. Never raises.
        """
        plan = self.plan
        if self.run is not None or plan.to is not None or type(value) not in VALUES:
            return False
        to = message.reply_to
        try:
            return to is None or plan.hub.replies.answer_at_once(to, message, value)
        except BaseException as error:
            spared(error)
            return False  # `settle` meets the same error, and handles it

    def settle(self, item: Item, outcome: Any, delivery: Delivery | None = None) -> None:
        """Settle a delivery by its chain's outcome (or a bare handler's value); never raises."""
        try:
            for to, message, value in _answers(self, item, outcome, delivery):
                self.plan.hub.replies.answer(to, message, value)
        except BaseException as error:
            blame.sign_again(error)
            self.failed(item, error, delivery)
        else:
            self._close(item, outcome, delivery)

    async def asettle(self, item: Item, outcome: Any, delivery: Delivery | None = None, *, worker: LoopWorker) -> None:
        """`settle` on an event loop."""
        try:
            if self.run is None and outcome is not None:
                outcome = await awaited(self.plan.bound.name, outcome, has_taker(self.plan, message_of(item)))
            for to, message, value in _answers(self, item, outcome, delivery):
                await self.plan.hub.replies.aanswer(to, message, value)
        except BaseException as error:
            blame.sign_again(error)
            if worker.closing:  # whatever its handler makes of that
                if delivery is None or delivery.claim():
                    worker.lost = item
                raise
            self.failed(item, error, delivery, worker)
        else:
            self._close(item, outcome, delivery)

    def _close(self, item: Item, outcome: Any, delivery: Delivery | None) -> None:
        if delivery is not None and not delivery.claim():
            return
        if self.run is not None and outcome.__class__ is Dropped:
            verdicts.drop(self, item, outcome)
        else:
            verdicts.acknowledge(self, item)

    def failed(
        self, item: Item, error: BaseException, delivery: Delivery | None = None, worker: LoopWorker | None = None
    ) -> None:
        """Settle a delivery whose chain raised an error; never raises."""
        late = verdicts.is_late(worker)
        if worker is not None and worker.cancelled_by_others() and comes_from(error, asyncio.CancelledError):
            blame.unsign(error)
            if delivery is None or delivery.claim():
                stops = worker.told or self.plan.hub.state != "started"
                worker.back = verdicts.go_back(self, item, late) if stops else verdicts.untake(self, item)
            return
        by_stop = self.plan.hub.ended_by_stop(error)
        if not is_a(error, SystemExit) and (late or by_stop):
            blame.unsign(error)
            if delivery is None or delivery.claim():
                verdicts.go_back(self, item, late)
            return
        if delivery is not None and not delivery.claim():
            step, reply_to = blame.unsign(error), message_of(item).reply_to
            if reply_to is not None and delivery.verdict == "acknowledged":  # otherwise the requester has an error, or waits
                verdicts.attempt(self, self.plan.hub.replies.fail, reply_to, message_of(item), error, step)
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                control.halt(self)
                verdicts.attempt(self, self.plan.hub.interrupted, error, f"the handler of {self.name}")
                return
            self.plan.hub.ledger.failed(
                "delivery.failed_after_settlement", error, subscription=self.name, message=delivery.message.id
            )
            return
        if is_a(error, SystemExit):
            verdicts.end_program(self, item, error, late, by_stop)
            return
        if is_a(error, KeyboardInterrupt):
            blame.unsign(error)
            control.halt(self)
            verdicts.untake(self, item)
            verdicts.attempt(self, self.plan.hub.interrupted, error, f"the handler of {self.name}")
            return
        verdicts.bury(self, item, error)

    def bury(self, item: Item, error: BaseException) -> None:
        """Make a message a dead letter. The worker calls it after an unexpected error in settling."""
        verdicts.bury(self, item, error)

    # --- what its mailbox reports ----------------------------------------------------------------------------------------

    def overflowed(self, item: Item, policy: str) -> None:
        if self.plan.hub.ledger.observed:
            self.plan.hub.ledger.emit(events.Overflowed(message_of(item), self.name, policy))

    def discarded(self, item: Item, reason: str, by: str | None) -> None:
        verdicts.discarded(self, item, reason, by)


def _answers(
    sub: Recipient, item: Item, outcome: Any, delivery: Delivery | None
) -> Iterator[tuple[Any, Message[Any], Any]]:  # fmt: skip
    """The addresses to publish a delivery's value to, each with the message and the value; or a message to forward."""
    value, forward = (
        (outcome, None) if sub.run is None else (getattr(outcome, "value", None), getattr(outcome, "forward", None))
    )
    if value is None and forward is None:
        return
    if delivery is not None and delivery.verdict in ("retried", "rejected"):  # then it is not handled
        return
    message, plan = message_of(item), sub.plan
    if forward is not None:
        if type(forward) is not Message:
            raise ContractError(f"gave Handled(forward={shown(forward)}); what it forwards is a Message")
        yield forward.subject, message, forward
    wrong = misreturned(plan.bound.name if plan.bound is not None else sub.name, value, has_taker(plan, message))
    if wrong is not None:
        raise wrong
    for address in (message.reply_to, plan.to) if value is not None else ():
        if address is not None:
            yield address, message, value
