"""One attempt to deliver one message, as handlers and readers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Generic

from pipebus.delivery import verdicts
from pipebus.errors import AlreadySettled, BusClosed, LifecycleError, Rejected, SubscriptionError
from pipebus.foreign.objects import comes_from, is_a, shown
from pipebus.mailbox import endings
from pipebus.mailbox.parcel import Parcel
from pipebus.message.message import Message
from pipebus.message.subject import T
from pipebus.values.quantities import Duration, seconds

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Delivery(Generic[T]):
    """
    One attempt to deliver its `message`, to be settled once: the first settlement wins, also over an error raised later.

    A handler that returns has acknowledged, one that raises has failed; these methods are for saying it earlier or otherwise.
    """

    __slots__ = ("_open", "_parcel", "_subscription", "message", "passed", "verdict")

    def __init__(self, subscription: Any, parcel: Parcel) -> None:
        self.message: Message[T] = parcel.message
        self._subscription = subscription
        self._parcel = parcel
        self._open = [True]  # popped by the first settlement: list.pop is one step for all threads
        self.passed: tuple[object, ...] = ()  # filters that have let it pass; one around them may run them again
        self.verdict: str | None = None  # what the handler itself has settled it as: "acknowledged", "retried", "rejected"

    @property
    def attempt(self) -> int:
        """How often this message has been taken from the mailbox, this time included."""
        return self._parcel.attempt

    @property
    def redelivered(self) -> bool:
        """Whether it was taken before: `attempt > 1`."""
        return self._parcel.attempt > 1

    @property
    def settled(self) -> bool:
        """Whether it has been acknowledged, given back or rejected."""
        return not self._open

    @property
    def attempts(self) -> int:
        """How often its subscription takes a message before it is dead."""
        return int(self._subscription.plan.attempts)

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
        verdicts.acknowledge(self._subscription, self._parcel)
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
            UnsupportedCapability: the transport has no transactions. AlreadySettled: it was settled before. LifecycleError: on
            a running event loop. SubscriptionError: the subscription has a `to`. TransportError: the store failed, or the
            delivery's lease had ended; nothing was kept.
        """
        subscription, parcel = self._subscription, self._parcel
        if self.settled:
            raise AlreadySettled(f"message {self.message.id} of {subscription.name} was settled before; open it first")
        if subscription.plan.to is not None:
            raise SubscriptionError(
                f"{subscription.name} publishes what its handler returns to {shown(subscription.plan.to)}, but after the "
                "transaction, so that a kill in between would lose it; publish it inside the block, and leave `to` out"
            )
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
        verdicts.acknowledge(subscription, parcel, tell=False)

    def retry(self, delay: Duration = 0.0, *, count: bool = True) -> None:
        """
        Take it again after `delay`: seconds, or text such as "5s". After the subscription's `attempts` it is a dead letter
        instead.

        Args:
            count: False: this attempt does not count, as if the message had not been taken; for a message that is not to blame,
                because it came too early or what it needs is away. Without a delay it is then the first to be taken again.

        Raises:
            AlreadySettled: if it was settled before. PipelineError: not a duration.
        """
        wait = seconds(delay, "delay")
        self._close("retried")
        (verdicts.put_back if count else verdicts.put_off)(self._subscription, self._parcel, wait)

    def reject(self, reason: str) -> None:
        """
        Refuse it for good: a dead letter at once.

        Raises:
            AlreadySettled: if it was settled before.
        """
        error = Rejected(reason, by=self._subscription.name)
        self._close("rejected")
        verdicts.bury(self._subscription, self._parcel, error)

    def hand_over(self) -> None:
        """Acknowledged by being read; also when the bus stops at this very moment."""
        if self.claim():
            verdicts.acknowledge(self._subscription, self._parcel)

    def settle_unless_settled(self, error: BaseException | None) -> None:
        """What the end of a `with sub.delivery()` block does, which an error may have left."""
        by_stop = error is not None and self._subscription.plan.hub.ended_by_stop(error)
        if by_stop or (error is not None and _is_cancelled(error)):
            if self.claim():
                (verdicts.go_back if by_stop else verdicts.untake)(self._subscription, self._parcel)
        elif self._open:
            with suppress(AlreadySettled):
                self.ack() if error is None else self.retry()

    def _close(self, verb: str) -> None:
        what = f"message {self.message.id} of {self._subscription.name} cannot be {verb}"
        if self._open and self._subscription.plan.hub.state == "stopped" and self.claim():
            self._parcel.attempt -= 1
            if self._parcel.token is None:
                endings.give_back(self._subscription, self._parcel)
            else:  # the transport has it again, and brings it
                endings.end(self._subscription, self._parcel, "forgotten")
            raise BusClosed(
                f"{what}: the bus has stopped; the message is left over, and comes again if the bus is started again"
            )
        if not self.claim():
            raise AlreadySettled(f"{what}: it was settled before")
        self.verdict = verb

    def claim(self) -> bool:
        """The right to settle it, once: True for the first caller."""
        try:
            return self._open.pop()
        except IndexError:
            return False

    def __repr__(self) -> str:
        return f"<Delivery {self.message.id} to {self._subscription.name}, attempt {self.attempt}>"


def _is_cancelled(error: BaseException) -> bool:
    """Whether the reader was interrupted: somebody cancelled its task, or pressed Ctrl-C."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    cancelled = task is not None and task.cancelling() and comes_from(error, asyncio.CancelledError)
    return bool(cancelled) or is_a(error, KeyboardInterrupt)
