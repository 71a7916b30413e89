"""One message to several mailboxes: first to all that have room, then to those that are waited for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pipebus.delivery.subscription import Subscription
from pipebus.errors import BusClosed, LifecycleError, MailboxFull
from pipebus.mailbox.offering import NOBODY, ONE, full, offer, wait_for_room, waited
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.publishing.room import timed_out

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

Late = tuple[Subscription, Any, Any]
"""A subscription that did not take its item at once, the item, and the answer: None (full), NOBODY or an error."""


class Several(list[Subscription]):
    """The subscriptions of one subject, filed together. `publish` puts a message into it as into a single one."""

    __slots__ = ("_all",)

    box: Final = None
    room: Final = 0
    single: Final = False

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        super().__init__(subscriptions)
        self._all: tuple[Subscription, ...] = ()

    @property
    def everyone(self) -> tuple[Subscription, ...]:
        """All of them, as one unchanging tuple."""
        if len(self._all) != len(self):  # nobody is ever taken out: who ends is left out of a new list
            self._all = tuple(self)
        return self._all

    def put(self, message: Message[Any]) -> Receipt:
        """Queue one message for each."""
        return fan_out(self.everyone, message)


def fan_out(everyone: tuple[Subscription, ...], message: Message[Any], force: bool = False) -> Receipt:
    """
    Queue one message for each of these.

    Args:
        force: Room was waited for before: exceed the bound rather than wait.
    """
    late: list[Late] | None = None
    for subscription in everyone:
        receipt: Any
        box = subscription.box
        try:
            if box is not None and len(box) < subscription.room:  # `put`, written out: most messages take this way
                box.append(message)
                if subscription.box is box or subscription.is_in(message, box):
                    continue
            receipt = subscription.put(message, False)
            if receipt is None and force:
                receipt = forced(subscription, message)
        except Exception as error:
            receipt = error
        if receipt is not ONE:
            late = late or []
            late.append((subscription, message, receipt))
    return Receipt(len(everyone)) if late is None else stragglers(everyone, late)


def fan_out_items(items: Iterable[tuple[Subscription, Any]], everyone: tuple[Subscription, ...], force: bool) -> Receipt:
    """The same where each subscription has an item of its own: decoded from bytes, or with a delay."""
    late: list[Late] = []
    for subscription, item in items:
        receipt: Any
        try:
            receipt = forced(subscription, item) if force else offer(subscription, item)
        except Exception as error:
            receipt = error
        if receipt is not ONE:
            late.append((subscription, item, receipt))
    return stragglers(everyone, late) if late else Receipt(len(everyone))


def forced(subscription: Subscription, item: Any) -> Receipt:
    """
    Queue an item after waiting for room. It may exceed the bound if another publisher took the place meanwhile.

    Raises:
        MailboxFull: the wait timed out and the mailbox is still full, or it is full and its overflow is "reject".
    """
    why = timed_out.get().get(subscription)
    receipt = offer(subscription, item, force=why is None)
    if receipt is None:
        subscription.overflowed(item, "block")
        raise full(subscription, why or waited(subscription))
    return receipt


def stragglers(everyone: tuple[Subscription, ...], late: list[Late]) -> Receipt:
    """Wait for the full mailboxes, all against one start; then raise one error for those that refused."""
    accepted = {id(one) for one in everyone} - {id(one) for one, _, _ in late}
    refused: list[str] = []
    hint = ""
    closed: BusClosed | None = None
    failure: Exception | None = None
    started = late[0][0].plan.clock.monotonic()
    for subscription, item, found in late:
        try:
            if found is None:
                found = wait_for_room(subscription, item, started + subscription.plan.timeout)
            elif isinstance(found, Exception):
                raise found
        except MailboxFull as error:
            refused.append(subscription.name)
            hint = hint or error.hint
        except BusClosed as error:
            closed = error
        except Exception as error:  # a thread could not be started, or we have interrupted a change of this mailbox
            failure = failure or error
            if not isinstance(error, LifecycleError):
                accepted.add(id(subscription))
        else:
            if found is not NOBODY:  # its subscription has ended: it neither took nor refused the message
                accepted.add(id(subscription))
    names = [one.name for one in everyone if id(one) in accepted]
    if failure is not None:
        failure.__dict__["accepted"] = tuple(names)
        raise failure
    if closed is not None:
        if names:
            closed = BusClosed(f"{closed}; {len(names)} of {len(everyone)} mailboxes had taken it before")
            closed.__dict__["accepted"] = tuple(names)
        raise closed
    if refused:
        raise MailboxFull(names, refused, hint)
    return Receipt(len(names))
