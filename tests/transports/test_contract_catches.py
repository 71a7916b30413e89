"""
The contract is worth what it catches: transports that are broken on purpose, each in one way, and the test that must say so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from kept_transport import Copy, KeptStage, KeptTransport, Queue

from pipebus import Message, PipebusError, PublishUnknown, Receipt
from pipebus.message.headers import Headers
from pipebus.message.message import make_message
from pipebus.testing import contract
from pipebus.transports.base import Binding, Capabilities, Surroundings

pytestmark = pytest.mark.thorough  # what it proves changes with the contract alone

BROKEN = (AssertionError, PipebusError, pytest.fail.Exception)
"""The errors with which a test of the contract reports a broken promise."""


class Rewriting(KeptTransport):
    """It hands in other bytes than it has."""

    def hand_in(self, binding: Binding, name: str, queue: Queue, copy: Copy) -> None:
        deliver, found = binding.deliver, self.rewritten(copy.data)

        class Other:
            @staticmethod
            def deliver(_: Any, token: Any, takings: int) -> bool:
                return deliver(found, token, takings)

        super().hand_in(Other, name, queue, copy)  # type: ignore[arg-type]

    def rewritten(self, data: bytes) -> Any:
        raise NotImplementedError


# --- publishing --------------------------------------------------------------------------------------------------------


class LosesEveryTenth(KeptTransport):
    """It gives a receipt for every tenth publish and forgets the message."""

    count = itertools.count(1)

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        return Receipt(1) if next(self.count) % 10 == 0 else super().send(message, delay, strict)


class KeepsNothing(KeptTransport):
    """It loses messages that nobody has received when the bus ends."""

    def end(self, taken: bool) -> None:
        super().end(taken)
        with self.store.changed:
            self.store.queues.clear()


class ForgetsIds(KeptTransport):
    """It promises to recognise ids, and does not."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        self.store.ids.clear()
        return super().send(message, delay, strict)


class RepeatsSlots(KeptTransport):
    """It promises to keep one message for each slot, and keeps all."""

    def slot(self, name: str) -> float | None:
        return None

    def send(self, message: Message[Any], delay: float) -> Receipt:
        self.store.ids.clear()
        self.store.slots.clear()
        return super().send(message, delay)


class ForgetsSlotsAtRestart(KeptTransport):
    """It knows the last slot of a schedule only until it is started again."""

    def start(self, surroundings: Surroundings) -> None:
        self.store.slots.clear()
        super().start(surroundings)


class ForgetsIdsAtRestart(KeptTransport):
    """It recognises ids only until it is started again."""

    def start(self, surroundings: Surroundings) -> None:
        self.store.ids.clear()
        super().start(surroundings)


class RemembersFailures(KeptTransport):
    """It counts an id as sent although its message could not be encoded."""

    def encode(self, message: Message[Any]) -> bytes:
        try:
            return super().encode(message)
        except PipebusError:
            self.store.ids[message.id] = time.monotonic()
            raise


class CountsNobody(KeptTransport):
    """It reports listeners where there are none."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        receipt = super().send(message, delay, strict)
        return Receipt(max(1, receipt.mailboxes), receipt.duplicate)


class KeepsForNobody(KeptTransport):
    """It keeps a strict publish to which nobody listens."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        return super().send(message, delay)


class AcceptsWhenClosed(KeptTransport):
    """It gives a receipt, and keeps nothing, for a publish that meets the stop."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        self.stood = getattr(self, "stood", 0) + 1
        if self.stood > 50:
            return Receipt(1)
        return super().send(message, delay, strict)


class TakesAnySize(KeptTransport):
    """It has a size limit that it ignores."""

    def encode(self, message: Message[Any]) -> bytes:
        return self.codec.encode(message)


# --- delivery ----------------------------------------------------------------------------------------------------------


class ReachesOne(KeptTransport):
    """It delivers a message only to the first of several subscriptions."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        receipt = super().send(message, delay, strict)
        with self.store.changed:
            for queue in list(self.store.queues.values())[1:]:
                queue.waiting.clear()
        return receipt


class DeliversTwice(KeptTransport):
    """It keeps a message in its queue while it is out."""

    def hand_in(self, binding: Binding, name: str, queue: Queue, copy: Copy) -> None:
        super().hand_in(binding, name, queue, copy)
        if next(self.store.numbers) % 5 == 0 and not copy.takings:
            with self.store.changed:
                queue.waiting.append(Copy(next(self.store.numbers), copy.subject, copy.data))


class OneAfterTheOther(KeptTransport):
    """It delivers nothing to anybody while one message is out."""

    def next(self, now: float) -> Any:
        return None if any(queue.out for queue in self.store.queues.values()) else super().next(now)


class FoldsCase(KeptTransport):
    """It does not distinguish upper from lower case."""

    def bind(self, binding: Binding) -> None:
        binding.patterns = tuple(_Folding(pattern) for pattern in binding.patterns)  # type: ignore[assignment]
        super().bind(binding)


class _Folding:
    def __init__(self, pattern: Any) -> None:
        self.pattern = pattern

    def matches(self, subject: str) -> bool:
        return bool(self.pattern.matches(subject) or self.pattern.matches(subject.lower()))


class CopyForEachPattern(KeptTransport):
    """It makes two copies when two patterns of one subscription match."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        receipt = super().send(message, delay, strict)
        with self.store.changed:
            for queue in self.store.queues.values():
                for _ in [p for p in queue.patterns if p.matches(message.subject)][1:]:
                    queue.waiting.append(Copy(next(self.store.numbers), message.subject, self.encode(message)))
        return receipt


class BindsLater(KeptTransport):
    """It informs the server about a subscription too late."""

    def bind(self, binding: Binding) -> None:
        timer = threading.Timer(0.05, lambda: super(BindsLater, self).bind(binding))
        timer.daemon = True
        timer.start()


class ForgetsWhatIsReleased(KeptTransport):
    """It treats a released message as settled. A publish returns once the bus has the message, so that a stop releases it."""

    def start(self, surroundings: Any) -> None:
        self.handed: set[int] = set()
        super().start(surroundings)

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        receipt = super().send(message, delay, strict)
        with self.store.changed:
            self.store.changed.wait_for(self.has_handed_in_all, timeout=1.0)
        return receipt

    def has_handed_in_all(self) -> bool:
        served = {name: queue for name, queue in self.store.queues.items() if self in queue.members and name not in self.full}
        out = {number for queue in served.values() for number, copy in queue.out.items() if copy.holder is self}
        waiting = [copy for queue in served.values() for copy in queue.waiting if not copy.due]
        return self.closed or (not waiting and out <= self.handed)

    def hand_in(self, binding: Binding, name: str, queue: Any, copy: Any) -> None:
        super().hand_in(binding, name, queue, copy)
        with self.store.changed:
            self.handed.add(copy.number)
            self.store.changed.notify_all()

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        super().settle(token, "acknowledge" if verdict == "release" else verdict, delay, why)


class GroupsTheUnnamed(KeptTransport):
    """It takes the name that a bus gives an unnamed subscription for the name of a group."""

    def bind(self, binding: Binding) -> None:
        super().bind(binding)
        if not binding.durable:
            with self.store.changed:
                self.store.queues[binding.name] = self.store.queues.pop(self.key(binding.name))


class ReplaysNothing(KeptTransport):
    """It promises older messages, and has none."""

    def bind(self, binding: Binding) -> None:
        binding.start = "new"
        super().bind(binding)


class FallsAsleep(KeptTransport):
    """It delivers nothing more after a quarter of a second without a message."""

    last = float("inf")

    def next(self, now: float) -> Any:
        found = super().next(now) if now < self.last + 0.25 else None
        if found is not None:
            self.last = now
        return found


class NeverLate(KeptTransport):
    """It promises to delay, and does not."""

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        return super().send(message, 0.0)


class ForgetsTimeToLive(Rewriting):
    """It loses the time to live on the wire."""

    def rewritten(self, data: bytes) -> Any:
        return msgspec.structs.replace(self.codec.decode(data), ttl=None)


# --- order -------------------------------------------------------------------------------------------------------------


class LastInFirstOut(KeptTransport):
    """It delivers the newest message first."""

    def next(self, now: float) -> Any:
        for name, queue in self.store.queues.items():
            if self in queue.members and queue.waiting and self.full.get(name, 0.0) <= now:
                return name, queue, queue.waiting[-1]
        return None


class ToTheBack(KeptTransport):
    """It puts what a stop hands back behind newer messages."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        queue = self.store.queues[token[0]]
        copy = queue.out.get(token[1])
        super().settle(token, verdict, delay, why)
        with self.store.changed:
            if verdict == "release" and copy is not None and copy in queue.waiting:
                queue.waiting.remove(copy)
                queue.waiting.insert(0 if copy.number % 2 else len(queue.waiting), copy)


class _Yes(Capabilities, frozen=True):
    def require(self, wanted: dict[str, Any], name: str, why: Callable[[str], str] = lambda capability: "") -> None:
        return None


class RefusesNothing(KeptTransport):
    """It keeps no order at all, and yet accepts every bus that requires one."""

    capabilities = _Yes(**{**msgspec.structs.asdict(KeptTransport.capabilities), "order": "none"})


class PromisesExclusiveKeys(KeptTransport):
    """It claims to keep keys apart in all processes, and leaves that to each bus."""

    capabilities = msgspec.structs.replace(KeptTransport.capabilities, exclusive_keys=True)


# --- acknowledgement ---------------------------------------------------------------------------------------------------


class AcknowledgesNothing(KeptTransport):
    """It ignores acknowledgements, so messages come again after the next stop."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        if verdict != "acknowledge":
            super().settle(token, verdict, delay, why)

    def pending(self, name: str) -> int:
        return 0


class AcknowledgesAtTheEnd(KeptTransport):
    """It acknowledges only when it stops, even what it has confirmed."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        if verdict == "acknowledge":
            vars(self).setdefault("later", []).append((token, verdict))
        else:
            super().settle(token, verdict, delay, why)

    def stop(self) -> None:
        for later in getattr(self, "later", []):
            super().settle(*later)
        super().stop()


class ForgetsTakings(KeptTransport):
    """It forgets after the first attempt that there was one."""

    def hand_in(self, binding: Binding, name: str, queue: Queue, copy: Copy) -> None:
        copy.takings = 0
        super().hand_in(binding, name, queue, copy)


class NeverAgain(KeptTransport):
    """It never delivers a message twice."""

    def next(self, now: float) -> Any:
        found = super().next(now)
        return None if found is not None and found[2].takings else found


class RenewsNothing(KeptTransport):
    """It renews no lease, so a lease ends while its handler is running."""

    def renew(self, copy: Copy, now: float) -> None:
        return None


class CountsAStop(KeptTransport):
    """It counts what a stop hands back as an attempt."""

    def end(self, taken: bool) -> None:
        super().end(True)


class CountsReleases(KeptTransport):
    """It counts a released message as an attempt."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        super().settle(token, "return" if verdict == "release" else verdict, delay, why)


class CrashesForGood(KeptTransport):
    """It loses what a killed process had."""

    def end(self, taken: bool) -> None:
        with self.store.changed:
            for queue in self.store.queues.values():
                queue.out.clear()
        super().end(taken)


class ComesAThirdTime(KeptTransport):
    """It gives the second attempt back, whatever the verdict."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        super().settle(token, "return" if token[2] == 1 else verdict, delay, why)


# --- retry and dead letters --------------------------------------------------------------------------------------------


class HotLoop(KeptTransport):
    """It redelivers at once, whatever the delay."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        super().settle(token, verdict, 0.0, why)


class ForgetsWhatWaits(KeptTransport):
    """It keeps delays in memory, so a stop loses them."""

    def end(self, taken: bool) -> None:
        with self.store.changed:
            for queue in self.store.queues.values():
                queue.waiting = [copy for copy in queue.waiting if copy.due <= time.monotonic()]
        super().end(taken)


class BringsTheDead(KeptTransport):
    """It redelivers dead messages like failed ones."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        super().settle(token, "return" if verdict == "dead" else verdict, delay, why)


class DropsGarbage(KeptTransport):
    """It discards what it cannot read."""

    def hand_in(self, binding: Binding, name: str, queue: Queue, copy: Copy) -> None:
        try:
            self.codec.decode(copy.data)
        except PipebusError:
            with self.store.changed:
                del queue.out[copy.number]
            return
        super().hand_in(binding, name, queue, copy)


class PoisonFirst(KeptTransport):
    """It delivers nothing else while a message waits to be tried again."""

    def next(self, now: float) -> Any:
        found = super().next(now)
        if found is None or found[2].takings or not any(copy.takings for copy in [*found[1].waiting, *found[1].out.values()]):
            return found
        return None


class ReturnsAreDropped(KeptTransport):
    """It drops what is given back."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        super().settle(token, "drop" if verdict == "return" else verdict, delay, why)


class PromisesToKeepTheDead(KeptTransport):
    """It claims to keep dead letters, and leaves them to the bus."""

    capabilities = msgspec.structs.replace(KeptTransport.capabilities, dead_letters=True)


class LosesHeaders(Rewriting):
    """It carries bodies, and forgets headers and correlation."""

    def rewritten(self, data: bytes) -> Any:
        return msgspec.structs.replace(self.codec.decode(data), headers=Headers(), correlation_id=None)


# --- flow --------------------------------------------------------------------------------------------------------------


class TakesNoForAYes(KeptTransport):
    """It counts a message as delivered when the subscription has no room."""

    def hand_in(self, binding: Binding, name: str, queue: Queue, copy: Copy) -> None:
        if not binding.deliver(copy.data, (name, copy.number, copy.takings), copy.takings):
            with self.store.changed:
                del queue.out[copy.number]


class SharesOutBeforehand(KeptTransport):
    """It gives each member of a group a fixed share, whether the member is busy or not."""

    def next(self, now: float) -> Any:
        found = super().next(now)
        if found is None:
            return None
        members = sorted(found[1].members, key=id)
        mine = [copy for copy in found[1].waiting if members[copy.number % len(members)] is self]
        return (*found[:2], mine[0]) if mine else None


# --- lifecycle ---------------------------------------------------------------------------------------------------------


class LosesAcknowledgementsOfTheEnd(KeptTransport):
    """It sends acknowledgements in the next round of its thread, and after the last round there is none."""

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        queue = self.store.queues[token[0]]
        if self in queue.members:
            super().settle(token, verdict, delay, why)

    def pending(self, name: str) -> int:
        return 0


class UnbindsBeforeItIsSettled(KeptTransport):
    """It forgets at unbind what is out, and loses its settlements."""

    def unbind(self, name: str) -> None:
        super().unbind(name)
        with self.store.changed:
            queue = self.store.queues.get(name)
            for number in list(queue.out) if queue is not None else ():
                queue.take_back(number, True)  # type: ignore[union-attr]


class LeaksAThread(KeptTransport):
    """It leaves one of its threads running."""

    def start(self, surroundings: Surroundings) -> None:
        super().start(surroundings)
        threading.Thread(target=LEAK.wait, args=(20.0,), name="leak", daemon=True).start()


class StopsSlowly(KeptTransport):
    """It waits at a stop for an answer that does not come."""

    def stop(self) -> None:
        LEAK.wait(20.0)
        super().stop()


LEAK = threading.Event()


# --- surroundings ------------------------------------------------------------------------------------------------------


class GoesOnWithTheOld(KeptTransport):
    """It does not look whether its store is still in its place."""

    def open_again(self) -> None:
        self.place = self.store.place


# --- cancellation ------------------------------------------------------------------------------------------------------


class BreaksWhenCancelled(KeptTransport):
    """It leaves its connection in the middle of a message when a publish is cancelled."""

    broken = False

    async def asend(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        if self.broken:
            raise PublishUnknown("the last message was not finished", message.id)
        try:
            return await super().asend(message, delay, strict)
        except asyncio.CancelledError:
            self.broken = True
            raise


class OneForAll(KeptTransport):
    """It closes something that all buses share."""

    def end(self, taken: bool) -> None:
        OneForAll.closed = True
        super().end(taken)

    def start(self, surroundings: Surroundings) -> None:
        OneForAll.closed = False
        super().start(surroundings)
        del self.closed  # the class's counts


OneForAll.closed = False  # type: ignore[assignment]


# --- fidelity ----------------------------------------------------------------------------------------------------------


class LowersHeaders(Rewriting):
    """It writes header names in lower case, as HTTP may."""

    def rewritten(self, data: bytes) -> Any:
        message = self.codec.decode(data)
        return msgspec.structs.replace(message, headers=Headers({k.lower(): v for k, v in message.headers.items()}))


class TrustsTheWire(Rewriting):
    """It reads messages itself, and checks nothing."""

    def rewritten(self, data: bytes) -> Any:
        wire = msgspec.json.decode(data)
        return make_message(wire["type"], wire.get("data"), Headers(json.loads(wire.get("pipebusheaders", "{}"))), wire["id"])


class Unpickles(Rewriting):
    """It reads anything that Python can unpickle."""

    def rewritten(self, data: bytes) -> Any:
        with suppress(pickle.UnpicklingError):
            return Message("a", str(pickle.loads(data)))
        return data


class SharesBodies(Rewriting):
    """It reads each message once, and hands the same object to everybody."""

    def rewritten(self, data: bytes) -> Any:
        known = vars(self.store).setdefault("read", {})
        return known.setdefault(data, self.codec.decode(data))


class ReadsAnyVersion(Rewriting):
    """It accepts every version as its own."""

    def rewritten(self, data: bytes) -> Any:
        with suppress(msgspec.DecodeError):
            return msgspec.json.encode(msgspec.json.decode(data) | {"pipebusversion": 1})
        return data


# --- the table ---------------------------------------------------------------------------------------------------------

CASES: list[tuple[type[KeptTransport], Callable[..., None], tuple[Any, ...]]] = [
    (LosesEveryTenth, contract.TestPublish().test_absent_subscriber_gets_everything_later, ()),
    (KeepsNothing, contract.TestPublish().test_absent_subscriber_gets_everything_later, ()),
    (KeepsNothing, contract.TestPublish().test_publish_returns_when_the_message_is_kept, ()),
    (ForgetsIds, contract.TestPublish().test_same_id_is_one_message, ()),
    (ForgetsIdsAtRestart, contract.TestPublish().test_same_id_is_one_message_after_a_restart, ()),
    (RemembersFailures, contract.TestPublish().test_id_of_a_failed_publish_is_free, ()),
    (CountsNobody, contract.TestPublish().test_publish_without_subscribers_is_unrouted, ()),
    (KeepsForNobody, contract.TestPublish().test_strict_publish_to_nobody_keeps_nothing, ()),
    (LosesEveryTenth, contract.TestPublish().test_publish_from_many_threads, ()),
    (AcceptsWhenClosed, contract.TestPublish().test_publish_during_stop_is_kept_or_raises, ()),
    (TakesAnySize, contract.TestPublish().test_too_large_message_is_refused, ()),
    (ReachesOne, contract.TestDelivery().test_every_subscription_gets_a_copy, ()),
    (DeliversTwice, contract.TestDelivery().test_group_gets_each_message_once, ()),
    (OneAfterTheOther, contract.TestDelivery().test_two_groups_are_independent, ()),
    (LosesEveryTenth, contract.TestDelivery().test_subjects_are_isolated, ()),
    (FoldsCase, contract.TestDelivery().test_wildcard_matrix, ()),
    (CopyForEachPattern, contract.TestDelivery().test_overlapping_subscriptions, ()),
    (BindsLater, contract.TestDelivery().test_subscribe_is_effective_on_return, ()),
    (ForgetsWhatIsReleased, contract.TestDelivery().test_unsubscribe_is_final, ()),
    (GroupsTheUnnamed, contract.TestDelivery().test_unnamed_subscription_lives_as_long_as_its_reader, ()),
    (ReplaysNothing, contract.TestDelivery().test_late_subscriber_gets_new_messages, ()),
    (FallsAsleep, contract.TestDelivery().test_idle_subscription_wakes_up, ()),
    (NeverLate, contract.TestDelivery().test_delayed_message_comes_in_time, ()),
    (ForgetsWhatWaits, contract.TestDelivery().test_delayed_message_comes_in_time, ()),
    (ForgetsTimeToLive, contract.TestDelivery().test_expired_message_is_dropped, ()),
    (LastInFirstOut, contract.TestOrder().test_one_worker_keeps_the_order, ()),
    (LastInFirstOut, contract.TestOrder().test_workers_keep_the_order_of_each_key, ()),
    (OneAfterTheOther, contract.TestOrder().test_order_is_kept_during_a_retry, ()),
    (PromisesExclusiveKeys, contract.TestOrder().test_keys_are_exclusive_in_the_group, ()),
    (ToTheBack, contract.TestOrder().test_order_is_kept_across_a_restart, ()),
    (RefusesNothing, contract.TestOrder().test_order_is_declared, ()),
    (AcknowledgesNothing, contract.TestAcknowledgement().test_acknowledged_does_not_come_again, ()),
    (AcknowledgesNothing, contract.TestAcknowledgement().test_confirmed_acknowledgement_outlives_a_crash, ()),
    (AcknowledgesAtTheEnd, contract.TestAcknowledgement().test_confirmed_acknowledgement_outlives_a_crash, ()),
    (ComesAThirdTime, contract.TestAcknowledgement().test_late_acknowledgement_changes_nothing, ()),
    (ForgetsTakings, contract.TestAcknowledgement().test_ended_lease_redelivers, ()),
    (NeverAgain, contract.TestAcknowledgement().test_ended_lease_redelivers, ()),
    (RenewsNothing, contract.TestAcknowledgement().test_lease_is_renewed_while_the_handler_works, ()),
    (RenewsNothing, contract.TestAcknowledgement().test_lease_is_renewed_while_a_message_waits, ()),
    (CrashesForGood, contract.TestAcknowledgement().test_deliveries_of_a_killed_process_come_again, ()),
    (CountsAStop, contract.TestAcknowledgement().test_a_stopped_bus_settles_nothing, ()),
    (HotLoop, contract.TestRetry().test_returned_delivery_comes_again_after_its_delay, ()),
    (HotLoop, contract.TestRetry().test_redeliver_returns_failed_messages, ()),
    (HotLoop, contract.TestRetry().test_delivery_that_is_put_off_counts_no_attempt, ()),
    (CountsReleases, contract.TestRetry().test_delivery_that_is_put_off_counts_no_attempt, ()),
    (ForgetsWhatWaits, contract.TestRetry().test_delay_of_a_returned_delivery_outlives_a_restart, ()),
    (BringsTheDead, contract.TestRetry().test_dead_after_all_attempts, ()),
    (PromisesToKeepTheDead, contract.TestRetry().test_dead_letters_are_kept_where_promised, ()),
    (PromisesToKeepTheDead, contract.TestRetry().test_letter_of_a_publish_chain_is_published_again, ()),
    (LosesHeaders, contract.TestRetry().test_replayed_dead_letter_is_unchanged, ()),
    (BringsTheDead, contract.TestRetry().test_dead_letters_do_not_loop, ()),
    (BringsTheDead, contract.TestRetry().test_rejected_is_dead_at_once, ()),
    (DropsGarbage, contract.TestRetry().test_undecodable_is_dead_at_once, ()),
    (PoisonFirst, contract.TestRetry().test_poison_does_not_starve_others, ()),
    (ReturnsAreDropped, contract.TestRetry().test_success_after_retries_is_not_dead, ()),
    (TakesNoForAYes, contract.TestFlow().test_mailbox_keeps_its_bound, ("block",)),
    (LosesEveryTenth, contract.TestFlow().test_every_drop_is_counted, ()),
    (OneAfterTheOther, contract.TestFlow().test_slow_subscriber_holds_up_no_other, ()),
    (OneAfterTheOther, contract.TestFlow().test_workers_bound_what_is_in_flight, ()),
    (SharesOutBeforehand, contract.TestFlow().test_busy_worker_does_not_hoard, ()),
    (LosesEveryTenth, contract.TestFlow().test_pause_and_resume_lose_nothing, ()),
    (ForgetsWhatIsReleased, contract.TestLifecycle().test_stop_starts_no_other, ("sync",)),
    (CountsReleases, contract.TestLifecycle().test_drain_timeout_returns_rest, ()),
    (ForgetsWhatIsReleased, contract.TestLifecycle().test_cancellation_is_not_failure, ()),
    (LosesAcknowledgementsOfTheEnd, contract.TestLifecycle().test_drain_settles_before_the_transport_closes, ()),
    (ForgetsWhatIsReleased, contract.TestLifecycle().test_leaving_by_an_exception_loses_nothing, ()),
    (LeaksAThread, contract.TestLifecycle().test_stop_may_be_called_twice_and_at_once, ()),
    (StopsSlowly, contract.TestLifecycle().test_stop_wakes_waiting_publishers_and_readers, ()),
    (CrashesForGood, contract.TestLifecycle().test_crashes_lose_nothing, ()),
    (LosesEveryTenth, contract.TestCancellation().test_cancelled_receive_loses_nothing, ()),
    (BreaksWhenCancelled, contract.TestCancellation().test_cancelled_publish_is_clean, ()),
    (OneForAll, contract.TestCancellation().test_two_buses_on_two_loops, ()),
    (ForgetsWhatIsReleased, contract.TestCancellation().test_what_each_kind_of_exception_does, (KeyboardInterrupt, False)),
    (LosesEveryTenth, contract.TestCancellation().test_running_tasks_are_not_collected, ()),
    (LowersHeaders, contract.TestFidelity().test_messages_arrive_unchanged, ()),
    (TrustsTheWire, contract.TestFidelity().test_reserved_headers_are_protected, ()),
    (Unpickles, contract.TestFidelity().test_nothing_is_unpickled, ()),
    (SharesBodies, contract.TestFidelity().test_mutations_are_isolated, ()),
    (LosesHeaders, contract.TestFidelity().test_trace_and_correlation_are_kept, ()),
    (ReadsAnyVersion, contract.TestFidelity().test_other_envelope_versions_are_read_or_dead, ()),
    (LosesEveryTenth, contract.TestTelemetry().test_every_delivery_has_one_event_at_its_end, ()),
    (BringsTheDead, contract.TestTelemetry().test_figures_are_true, ()),
    (RepeatsSlots, contract.TestSchedules().test_buses_publish_each_slot_once, ()),
    (ForgetsSlotsAtRestart, contract.TestSchedules().test_missed_decides_about_slots_without_a_process, ()),
    (ForgetsSlotsAtRestart, contract.TestSchedules().test_what_one_bus_drops_is_dropped_for_all, ()),
    (GoesOnWithTheOld, contract.TestSurroundings().test_receipts_are_true_after_a_swap, ("replaced",)),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("kind", "test", "arguments"), CASES, ids=lambda value: getattr(value, "__name__", None) and value.__name__
)
def test_a_broken_transport_fails(kind: type[KeptTransport], test: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """A transport with one defect makes the contract's test for it fail, and in time."""
    stage = KeptStage(kind, patience=1.0, many=400)
    LEAK.clear()
    try:
        with pytest.raises(BROKEN):
            test(stage, *arguments)
    finally:
        LEAK.set()
        stage.wipe()
