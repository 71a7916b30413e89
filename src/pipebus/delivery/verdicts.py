"""
How a delivery ends: one function for each end.

| end | what happens to the message | the mailbox's figures | what its transport does |
|---|---|---|---|
| `acknowledge` | it was handled | acknowledged | forgets it |
| `drop` | a filter dropped it, or it expired | dropped, by reason | forgets it |
| `bury` | it becomes a dead letter | dead | keeps it as one |
| | or its requester has the error | dropped: `request failed` | forgets it |
| `put_back` | its handler asked for another attempt | returned, pending | brings it again |
| `put_off` | it came too early: the attempt does not count | returned, pending | brings it again |
| `untake` | an interrupt or a cancellation hit it: the attempt does not count | returned, pending first | |
| `go_back` | a stop broke it off: the attempt does not count | returned, left for the next start | brings it again |

Each ends a delivery once. An end may report, print or keep objects of the program, and their code can raise anything
(`foreign`); `attempt` contains such an error, so that the end stays as it is and the worker goes on to its next message.

Here a subscription is `Any`, because `settling` imports this module.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Final

from pipebus import events
from pipebus.delivery.chain import say_who_refused
from pipebus.errors import AttemptsExhausted, DeadLetterError
from pipebus.foreign.objects import said, spared, text_of
from pipebus.mailbox import control, endings
from pipebus.mailbox.parcel import Item, Parcel, message_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.outcomes.dead_letters import DeadLetter, Source
from pipebus.pipeline import blame

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


FAILED: Final = "request failed"
"""The reason of the drop of a request whose requester has its error."""


def acknowledge(sub: Any, item: Item, tell: bool = True) -> None:
    """End a handled message. `tell`: report it to the transport, which does not know yet."""
    endings.end(sub, item, "acknowledged")
    if tell:
        _tell_transport(sub, item, "acknowledge")
    if sub.plan.hub.ledger.observed:
        sub.plan.hub.ledger.emit(events.Acknowledged(message_of(item), sub.name, _attempts(item)))


def drop(sub: Any, item: Item, outcome: Dropped) -> None:
    """End a dropped message, with the reason."""
    endings.end(sub, item, "dropped", outcome.reason)
    discarded(sub, item, outcome.reason, outcome.by)


def let_go(sub: Any, parcel: Parcel) -> None:
    """End a message that others may have by now, since its lease is over: no handler begins with it."""
    endings.end(sub, parcel, "forgotten")
    _tell_transport(sub, parcel, "release")


def put_back(sub: Any, parcel: Parcel, delay: float) -> None:
    """Return a message for another attempt after `delay` seconds; bury it if no attempt is left."""
    plan = sub.plan
    if parcel.attempt >= plan.attempts:
        bury(sub, parcel, AttemptsExhausted(f"returned {parcel.attempt} times; {sub.name} allows attempts={plan.attempts}"))
        return
    _tell_returned(sub, parcel, delay)
    _return(sub, parcel, delay)


def put_off(sub: Any, parcel: Parcel, delay: float) -> None:
    """Return a message as if it had not been taken, to come again after `delay` seconds; without a delay before all others."""
    _tell_returned(sub, parcel, delay)
    parcel.attempt = max(0, parcel.attempt - 1)
    _return(sub, parcel, delay, front=not delay, verdict="release")


def _tell_returned(sub: Any, parcel: Parcel, delay: float) -> None:
    parcel.delay = delay
    if sub.plan.hub.ledger.observed:
        sub.plan.hub.ledger.emit(events.Returned(parcel.message, sub.name, parcel.attempt, delay))


def _return(sub: Any, parcel: Parcel, delay: float = 0.0, front: bool = False, verdict: str = "return") -> None:
    """Return a message to the transport that brought it, or to the queue."""
    if parcel.token is not None:
        endings.end(sub, parcel, "forgotten")
        _tell_transport(sub, parcel, verdict, delay)
    else:
        endings.give_back(sub, parcel, front)


def untake(sub: Any, item: Item) -> Parcel:
    """Return a message as if it had not been taken."""
    parcel = item if isinstance(item, Parcel) else Parcel(item)
    parcel.attempt = max(0, parcel.attempt - 1)
    endings.give_back(sub, parcel, front=True)
    return parcel


def go_back(sub: Any, item: Item, late: bool = False) -> Parcel:
    """
    Return a message whose handler was interrupted by a stop: no attempt is counted, and it waits for the next start.

    Args:
        late: The stop did not wait for the handler, and the bus may have been started again since.
    """
    parcel = item if isinstance(item, Parcel) else Parcel(item)
    parcel.attempt = max(0, parcel.attempt - 1)
    if late and parcel.token is not None:
        endings.end(sub, parcel, "forgotten")  # the transport took back all its messages at the stop
    elif late:
        endings.give_back(sub, parcel, front=True)
    else:
        endings.keep_back(sub, parcel)
    sub.plan.hub.went_back(sub.name, parcel.message)
    return parcel


def end_program(sub: Any, item: Item, error: BaseException, late: bool, by_stop: bool) -> None:
    """Handle `sys.exit()` in a handler or a filter: the attempt has failed, and the program ends."""
    parcel = item if isinstance(item, Parcel) else Parcel(item, 1)
    hub, attempts = sub.plan.hub, sub.plan.attempts
    about = f"message {parcel.message.id}, attempt {parcel.attempt} of {attempts}"
    dies = False
    control.halt(sub)
    if late or by_stop:
        blame.unsign(error)
        go_back(sub, parcel, late)
    elif parcel.attempt >= attempts:
        dies = True
        if bury(sub, parcel, error):
            about += ": it is a dead letter now"
    else:
        blame.unsign(error)
        _return(sub, parcel, front=True)
    attempt(sub, hub.interrupted, error, f"the handler of {sub.name}", about, dies)


def bury(sub: Any, item: Item, error: BaseException, taken: bool = True) -> bool:
    """
    Make a message a dead letter, with its reason; never raises.

    A failed request is dropped instead if the requester has the error: one failure makes one dead letter at most, the
    requester's own.

    Args:
        taken: False if it could not even be queued, like bytes that cannot be decoded.

    Returns:
        Whether there is a dead letter.
    """
    kept = told = False
    reply_to = message_of(item).reply_to
    try:
        step = blame.unsign(error)
        by = step.name if step is not None else sub.plan.bound.name if sub.plan.bound is not None else None
        say_who_refused(error, step.name if step is not None else sub.name)
        blame.trim(error)
        told = taken and reply_to is not None and sub.plan.hub.replies.fail(reply_to, message_of(item), error, step)
        if not told:
            letter = _letter(sub, item, error, by)
            kept = True
    except BaseException as trouble:  # a clock or a store that fails
        sub.plan.hub.ledger.failed("letter.not_kept", trouble, subscription=sub.name, of=text_of(error))
    finally:
        if told:
            endings.end(sub, item, "dropped", FAILED)
        elif taken:
            endings.end(sub, item, "dead")
        else:
            endings.die_untaken(sub)
    if kept:
        attempt(sub, _died, sub, item, letter, error)
    elif told:
        attempt(sub, _failed, sub, item, error, by)
    return kept


def _failed(sub: Any, item: Item, error: BaseException, by: str | None) -> None:
    message = message_of(item)
    sub.plan.hub.ledger.failed(
        "request.failed", error, subscription=sub.name, subject=said(message.subject), message=message.id
    )
    discarded(sub, item, FAILED, by, error=error)


def revive(sub: Any, message: Message[Any]) -> None:
    """
    Queue a dead letter again.

    Raises:
        DeadLetterError: there is no room for it.
    """
    parcel = Parcel(message)
    parcel.replayed = True
    if not endings.revive(sub, parcel):
        raise DeadLetterError(f"{sub.name} has no room for the replayed message, or has ended; it stays a dead letter")


def _forget(sub: Any, message: Message[Any], reason: str) -> None:
    """Drop a dead letter for good."""
    endings.bury(sub, reason)
    discarded(sub, message, reason, None)


def _letter(sub: Any, item: Item, error: BaseException, by: str | None) -> DeadLetter:
    hub = sub.plan.hub
    now = hub.clock.now()
    letter: DeadLetter = hub.dead_letters.add(
        message_of(item),
        error,
        Source(functools.partial(revive, sub), functools.partial(_forget, sub)),
        subscription=sub.name,
        by=by,
        attempts=_attempts(item),
        first_time=getattr(item, "first", 0.0) or now,
        time=now,
        token=getattr(item, "token", None),
    )
    return letter


def _died(sub: Any, item: Item, letter: DeadLetter, error: BaseException) -> None:
    hub, message = sub.plan.hub, letter.message
    if not hub.dead_letters.settles:
        _tell_transport(sub, item, "dead")
    hub.ledger.failed(
        "delivery.died", error, subscription=sub.name, subject=said(message.subject), message=message.id,
        letter=letter.id, attempts=letter.attempts,
    )  # fmt: skip
    if hub.ledger.observed:
        hub.ledger.emit(events.Died(message, sub.name, letter.id, letter.error, error))


def discarded(
    sub: Any, item: Item, reason: str, by: str | None, keep: bool = False, error: BaseException | None = None
) -> None:
    """Report a dropped message. `keep`: the transport may deliver it to others."""
    _tell_transport(sub, item, "release" if keep else "drop", why=reason)
    reply_to = message_of(item).reply_to
    if reply_to is not None:
        attempt(sub, sub.plan.hub.replies.drop, reply_to, reason, by or sub.name)
    if sub.plan.hub.ledger.observed:
        sub.plan.hub.ledger.emit(events.Discarded(message_of(item), sub.name, reason, by, error))


def hand_back(sub: Any) -> None:
    """At a stop: return the messages that no handler took to their transport."""
    for parcel in control.remove_tokens(sub):
        _tell_transport(sub, parcel, "release")


def attempt(sub: Any, act: Callable[..., object], *arguments: Any) -> None:
    """Make a call that may fail, as part of an end: log its error, and do not raise it."""
    try:
        act(*arguments)
    except BaseException as error:
        sub.plan.hub.ledger.failed("delivery.settling_failed", error, subscription=sub.name)
        spared(error)


def _tell_transport(sub: Any, item: Item, verdict: str, delay: float = 0.0, why: str = "") -> None:
    if item.__class__ is Parcel and item.token is not None:
        try:
            sub.plan.hub.settle_remote(item.token, verdict, delay, why)
        except BaseException as error:
            # The transport will bring it again. An error here must not stop the worker.
            sub.plan.hub.ledger.failed("delivery.not_settled", error, subscription=sub.name, verdict=verdict)
            spared(error)


def _attempts(item: Item) -> int:
    return 1 if isinstance(item, Message) else item.attempt


def is_late(worker: Any) -> bool:
    """Whether a stop has abandoned the handler that ends here."""
    if worker is not None:
        return bool(worker.crew.over)
    return bool(getattr(threading.current_thread(), "abandoned", False))
