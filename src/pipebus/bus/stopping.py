"""
A stop: what happens from the end of draining to the end of the last thread, in order.

Here a lifecycle is `Any`, because `lifecycle` imports this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec

from pipebus.delivery import verdicts
from pipebus.delivery.subscription import Subscription
from pipebus.errors import BusClosed, DrainTimeout, PipebusError
from pipebus.mailbox import control
from pipebus.mailbox.asked import AskedMailbox
from pipebus.running.pool import GRACE, Pool

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`


class StopReport(msgspec.Struct, frozen=True):
    """
    The result of a stop.

    Args:
        drained: All accepted messages were settled before the bus closed.
        left: The number of messages left over, by subscription: those whose handlers the stop interrupted, without counting
            the attempt, and in memory also the pending ones. They are delivered after the next start of the bus. On a store
            also the pending ones of subscriptions without a name, which end with the program: these are gone.
        abandoned: The names of threads, and of subscriptions on event loops, whose handlers outlived the timeout.
        errors: The errors that filters raised in their `stop`.
    """

    drained: bool = True
    left: dict[str, int] = {}
    abandoned: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def stop(lifecycle: Any, deadline: float, drain: bool | None) -> StopReport:
    bus = lifecycle.bus

    def left_until(deadline: float) -> float:
        return float(max(0.0, deadline - bus.clock.monotonic()))

    keeps, drain = survives(bus), lifecycle.drains(drain)
    drained = drain and bus.claims.quiet(
        bus.clock, left_until(deadline), also=functools.partial(transport_quiet, bus),
        give_up=lambda: lifecycle.hurried or (keeps and lifecycle.has_enough),
    )  # fmt: skip
    if keeps and not drained:
        # Pending messages are in the store. Handlers that run may still publish and get answers; no other handler starts.
        close_all(lifecycle, but_replies=True)
        hopeless: dict[Any, float] = {}

        def over() -> bool:
            _break_off_requests(bus, hopeless)
            return lifecycle.hurried or not bus.claims.live  # what a filter holds back may stay in the store

        bus.claims.quiet(bus.clock, left_until(deadline), give_up=over)
    for pool in pools(bus, bus.router.subscriptions()):
        pool.cut_short()
    subscriptions = close_all(lifecycle)
    # A publish that found its route before the drain began may have queued a message after the quiet moment: drain again.
    if drained and left_until(deadline) and _waits(lifecycle, subscriptions):
        for subscription in [one for one in subscriptions if control.reopen(one)]:
            control.go_on(subscription)
        drained = bus.claims.quiet(bus.clock, left_until(deadline), give_up=lambda: lifecycle.hurried)
        subscriptions = close_all(lifecycle)
        drained = drained and not _waits(lifecycle, subscriptions)
    with lifecycle.lock:
        changed = lifecycle.change("stopped") if lifecycle.state != "stopped" else None
    bus.ledger.emit(changed)
    bus.replies.close()
    bus.services.end_pauses()
    for subscription in subscriptions:
        if subscription.inbox is not None:
            subscription.inbox.wake_all()
    bus.loops.adopt()
    _end_questions(lifecycle, subscriptions, left_until, deadline)
    stuck = [
        worker.name
        for pool in pools(bus, subscriptions)
        for worker in pool.stop(0.0 if lifecycle.hurried else left_until(deadline))
    ]
    stuck += bus.loops.stop(0.0 if lifecycle.hurried else left_until(deadline))
    for subscription in subscriptions:
        verdicts.hand_back(subscription)
    errors = lifecycle.filters.stop()
    bus.timers.stop()
    asked = lifecycle.exit.error is not None or (keeps and not drain)
    unhandled = _unhandled(subscriptions) if asked else 0  # before the store is closed: a query would open it again
    bus.transport.stop()
    blocked = bus.loop_thread.stop(max(1.0, left_until(deadline)))
    if blocked is not None:
        stuck.append(blocked)
    returned = {name: len(ids) for name, ids in lifecycle.returned.items()}
    # A message that a handler still has is reported as its abandoned thread; one that a reader has, only here.
    left = {s.name: s.waiting() + (0 if s.handled else s.in_flight) for s in subscriptions}
    if keeps:
        left = {name: left.get(name, 0) + returned.get(name, 0) for name in left | returned}
    left = {name: count for name, count in (left | lifecycle.lost).items() if count}
    if returned or stuck or lifecycle.lost:
        drained = False
    elif keeps and not drain:
        drained = unhandled == 0
    report = StopReport(drained, left, tuple(stuck), tuple(errors))
    if left or stuck or errors:
        bus.ledger.warn("bus.stopped_early", left=left, returned=returned, abandoned=list(report.abandoned), errors=errors)
    bus.ledger.repeats()
    lifecycle.exit.judge(bool(report.abandoned), unhandled)
    return report


def _break_off_requests(bus: Any, hopeless: dict[Any, float]) -> None:
    """
    Once no handler starts any more, fail the requests whose handlers here are all done, or wait for replies themselves.

    Args:
        hopeless: When each such request was found so. It is failed a moment later, because its reply may be on its way.
    """
    requests, now = list(bus.replies.open.values()), bus.clock.monotonic()
    for answer in requests:
        listeners = [s for s in bus.listeners(answer.subject) if s.handled]  # if there are none, another process answers
        if not listeners or any(s.in_flight > sum(other.asker is s for other in requests) for s in listeners):
            hopeless.pop(answer, None)
        elif now - hopeless.setdefault(answer, now) >= GRACE:
            answer.give(BusClosed(f"the bus stops, and no handler here is left to answer the request on {answer.subject}"))


def _waits(lifecycle: Any, subscriptions: list[Subscription]) -> bool:
    """Whether a message waits for a handler, apart from those that are kept for the next start."""
    back = lifecycle.returned
    return any(s.handled and not control.rests(s) and s.waiting() > len(back.get(s.name, ())) for s in subscriptions)


def _unhandled(subscriptions: list[Subscription]) -> int | None:
    """The number of messages still to handle, in memory or in the store; None if the store cannot say."""
    try:
        stats = [s.stats() for s in subscriptions if s.handled]
    except PipebusError:
        return None
    total: int = sum(one["pending"] + one["in_flight"] for one in stats)
    return total


def _end_questions(
    lifecycle: Any, subscriptions: list[Subscription], left_until: Callable[[float], float], deadline: float
) -> None:
    """Stop filter actors last, because handlers that still run may have them in their chains."""
    asked = [s for s in subscriptions if isinstance(s, AskedMailbox)]
    if not asked:
        return
    for subscription in subscriptions:
        if subscription.handled and not lifecycle.hurried:
            control.wait_idle(subscription, left_until(deadline))
    for mailbox in asked:
        mailbox.end(at_once=lifecycle.hurried or not left_until(deadline))


def close_all(lifecycle: Any, but_replies: bool = False) -> list[Subscription]:
    """Close all mailboxes, and have the transport bring no more."""
    with lifecycle.lock:
        subscriptions = close_mailboxes(lifecycle.bus, but_replies)
        if not lifecycle.bus.transport.local:
            for subscription in subscriptions:  # after the mailboxes, because a server may be slow
                _note_lost(lifecycle, subscription)
                lifecycle.bus.transport.unbind(subscription.name)
    return subscriptions


def _note_lost(lifecycle: Any, subscription: Subscription) -> None:
    """Note how many messages a store forgets together with a subscription that ends now."""
    if subscription.durable or subscription.answers or not survives(lifecycle.bus):
        return
    with suppress(PipebusError):  # the store cannot say
        count = subscription.stats()["pending"]
        if count:
            lifecycle.lost.setdefault(subscription.name, count)  # the first time, before it was unbound


def close_mailboxes(bus: Any, but_replies: bool) -> list[Subscription]:
    """Close the mailboxes: no handler starts after this. (With the lock.)"""
    subscriptions = [s for s in bus.router.subscriptions() if not (but_replies and s.answers)]
    for subscription in sorted(subscriptions, key=lambda s: isinstance(s, AskedMailbox)):
        control.close(subscription, "stopped", keep=True)
    return subscriptions


def pools(bus: Any, subscriptions: Iterable[Subscription]) -> list[Pool]:
    """The common pool, and those that serve one subscription alone."""
    return [bus.pool, *(s.plan.pool for s in subscriptions if s.plan.pool is not None)]


def survives(bus: Any) -> bool:
    """Whether the transport keeps messages when the program ends."""
    return bool(bus.transport.capabilities.survives != "nothing")


def transport_quiet(bus: Any) -> bool:
    """Whether nothing waits in the transport for a handler of this bus."""
    transport = bus.transport
    return bool(transport.local) or not any(
        transport.pending(s.name) for s in bus.router.subscriptions() if s.handled and not control.rests(s)
    )


def not_drained(bus: Any, timeout: float) -> DrainTimeout:
    """The error of a drain whose time is up, with the numbers."""
    pending = {
        s.name: waiting + s.in_flight
        for s in bus.router.subscriptions()
        if s.handled and (waiting := s.waiting()) + s.in_flight
    }
    text = ", ".join(f"{name}: {count}" for name, count in pending.items()) or "handlers that still publish"
    return DrainTimeout(f"not drained after {timeout:g} s; still pending or in flight: {text}", pending)
