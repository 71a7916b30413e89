"""
A durable subscription: a pull consumer on the server, shared by all programs that name it, and what it has brought here.

What was brought is this process's until its lease ends; the lease of everything that is here and not settled, begun or not, is
renewed. How much is asked for follows what is settled, so that a slow handler keeps nothing back that others could do.

The server counts each delivery, also one that only waited here when this process was killed, or was given back. So it is not
asked how often a message has been taken: a delivery that was lost counts once, and what was delivered before has a note on the
server (notes.py) that is written before it is handed in again, when it will be begun at once. Nobody dies for having
waited beside a message that kills its handlers. And what was lost is handed in alone, so that nobody dies for having been
handled beside it.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.errors import PipebusError, TransportError
from pipebus.foreign.objects import text_of
from pipebus.transports.base import Binding, Verdict
from pipebus.transports.nats.claim import Claim, place_of
from pipebus.transports.nats.company import Company
from pipebus.transports.nats.link import Frame, Link, _Refused
from pipebus.transports.nats.streams import NANO, NO_CONSUMER, NO_STREAM, RESUMED
from pipebus.transports.nats.subjects import consumer_name, disjoint
from pipebus.waiting.elsewhere import on_executor

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

AHEAD: Final = 0.1
"""Seconds of work to have at hand."""
MOST: Final = 500
"""Deliveries that a subscription may have here."""
READERS: Final = 16
"""Deliveries that a subscription without a handler may have here at least."""
EXPIRES: Final = 20.0
"""Seconds after which the server forgets what was asked for; then it is asked again."""
MOMENT: Final = 1.0
"""Seconds in which what this process has just done must show at the server, and after which another one may have done more."""
MEANWHILE: Final = 0.005
"""Seconds in which the server hands to its connections what it counts as delivered."""
FAR: Final = 5_000
"""Most numbers of messages that are given back, of which some were on their way here."""
LOOKS: Final = 20
"""Most looks whether the server has seen a question."""
MANY: Final = 50
"""Most that are asked for at once of what a killed process had."""
BEYOND: Final = 100_000
"""Most numbers of settled messages that are remembered beyond the last one before which all are settled."""
AGAIN: Final = 0.5
"""Seconds between two attempts to have a consumer again that was lost."""


class Progress:
    """
    How far a consumer has come, as it was last seen: where it goes on if it is deleted. Kept for as long as the bus is there.

    Up to `floor` everything is settled, by all programs: the server says so, and it never takes that back. What this program
    has settled beyond it is in `settled`, so that it is not handled again.

        deleted at        floor = 60, settled = {61, 63}; 62 is at work, 64 and 65 wait here or at the server
        made again at     61
        61, 63 come       they are acknowledged at once
        62 comes          who is at work at it goes on; what becomes of that is said to the new consumer
        64, 65 come       the same, or they are new here

    What another program has settled within the last second, or has at work, may come again: no one knows of it here.
    """

    def __init__(self) -> None:
        self.stream: Any = None  # when that and the consumer were made: another one of the same name is another one
        self.consumer: Any = None
        self.floor: int | None = None
        self.settled: set[int] = set()

    def see(self, info: dict[str, Any]) -> None:
        """What the server tells of the consumer."""
        if info.get("created") == self.consumer:
            self.floor = max(self.floor or 0, int(info["ack_floor"]["stream_seq"]))
            if self.settled:
                self.settled = {number for number in self.settled if number > self.floor}

    def settle(self, number: int) -> None:
        if len(self.settled) < BEYOND:  # else it may be handled again, if it comes to that
            self.settled.add(number)


class Puller:
    """
    Args:
        binding: What it serves.
    """

    def __init__(self, transport: NatsTransport, binding: Binding) -> None:
        self.binding = binding
        self.name = consumer_name(binding.name)
        self.stream = transport.options.stream
        self.filters = transport.subjects.filters(binding.patterns)
        self._wider = {one.text for one in disjoint(binding.patterns)} != {one.text for one in binding.patterns}
        self._transport = transport
        self._link = transport.link
        self.out: dict[Claim, None] = {}
        self._by_number: dict[int, Claim] = {}
        self._line: deque[Claim] = deque()  # not handed in yet, in their order
        self._handed: set[Claim] = set()
        self._alone: Claim | None = None  # of them, the one beside which nothing is handed in
        self._feeding = False
        self._late: list[Claim] = []  # came after the end: they go back behind what came before
        self.returned: dict[int, float] = {}  # number -> when it is due again
        self.unconfirmed: deque[Frame] = deque()
        self._told = 0  # counts what was ever in it
        self.ended = False
        self.retiring = False  # its figures are asked for, a last time
        self._over = False  # and nothing comes any more
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._asked: dict[str, float] = {}  # open questions for messages: their inbox, and when they are over
        self._questions = 0
        self._credit = 0
        self._settled = 0
        self._since = time.monotonic()
        self._lost = False
        self._why = ""  # it cannot be had again, as was told last
        self.era = 0  # how often it was lost
        self._resumed = 0  # the last number that may have been delivered before that
        self.progress = transport.progress_of(self.name)
        self._seen = -1  # `_moves` and settlements when its progress was looked at last
        self._moves = 0  # counts what has arrived
        self._company = Company(transport.subjects.here + self.name)
        self._begun = False
        self._orphans = 0  # what a killed process had, and has not come yet
        self._outermost = 0  # the last number of it
        self._heard = 0  # the latest delivery that has arrived, by the consumer's count
        self._reading = 0  # that have come, and whose notes are being read
        self._dropped: list[Claim] = []  # had come, when the connection was lost, and nobody knew yet how often it was taken
        self._highest = 0  # the greatest number that has arrived, or had been given out before we came
        self._patience = self._probe = 0.0  # until when it is waited for, and when it is looked for next
        # Who reads takes one after the other, or many at once: nobody can tell.
        self._workers = binding.workers if binding.handled else min(binding.limit, READERS)
        self._window = self._least = 2 * self._workers

    # --- bringing in -------------------------------------------------------------------------------------------------

    async def connected(self, client: Client) -> None:
        """A new client: the consumer is there, and asked."""
        await self._have(client)
        self._transport.directory.bound(self.name, self.filters, durable=True)
        await self._listen(client)
        missing = await self._missing(client)
        again: list[Callable[[], Frame | None]] = [partial(_same, frame) for frame in self.unconfirmed]
        self._link.say_first(again)
        for number, last in missing:
            back = (f"$JS.ACK.{self.stream}.{self.name}.1.{number}.{last}.0.0", b"-NAK", "", None)
            if len(missing) == self._orphans:  # so each of them was on its way, and was not taken
                self._transport.notes.send(self.name, number, 0, partial(_then, self._link, back))
            else:
                self._link.say(back)
        dropped, self._dropped = self._dropped, []
        for claim in dropped:
            self._link.say((claim.reply, b"-NAK", "", None))
        if not self._company.known:
            self._orphans += len(dropped)
        self.renew()
        self.pull()

    async def _listen(self, client: Client) -> None:
        """For what is asked from now on: what answers an older question may be another consumer's."""
        self._inbox = inbox = f"{client.new_inbox()}."
        self._asked, self._credit = {}, 0
        called = partial(self._arrived, inbox)
        self._subscription = await client.subscribe(f"{inbox}*", cb=called, pending_bytes_limit=0)

    # --- what nobody has ---------------------------------------------------------------------------------------------

    # What a killed process had comes when its lease ends, and before that the server goes on with what is newer. So who begins
    # where nobody else is at work, and something is out, hands in nothing before that has come: the order of first deliveries
    # holds. What has come back is given out before what is new; so one message is asked for now and then, to see.
    #
    # What was on its way when a connection was lost is out too. Who has been alone all the time knows that it was his, and
    # gives it back. Where others are at work no order is promised, and nothing is done.

    async def _missing(self, client: Client) -> list[tuple[int, int]]:
        """
        Count what is out and nobody has.

        Returns:
            Of what was on its way to this process when the connection was lost, what nobody has seen before: it is given back.
            Numbers of messages (some may be others', which does no harm), and the one of the last delivery. Nothing, if these
            would be too many: then it comes when its lease ends.
        """
        first, self._begun = not self._begun, True
        await self._company.connected(client)
        if not first and self._company.known:
            return []
        self._orphans = 0
        info = await self._transport.streams.info(self.name, client)
        out = info["num_ack_pending"] - len(self.out)
        high, last = info["delivered"]["stream_seq"], info["delivered"]["consumer_seq"]
        self._patience, self._outermost = time.monotonic() + self._transport.options.lease + MOMENT, high
        if first:
            self._heard, self._highest = last, high
            if out > 0 and not await self._company.at_work():
                low = info["ack_floor"]["stream_seq"] + 1
                out -= await self._transport.notes.given_back(client, self.name, low, high, out)
                self._orphans = max(0, out)
            return []
        lost = min(out, last - self._heard, high - self._highest)
        if lost <= 0 or await self._company.at_work():
            return []
        self._orphans = lost
        if high - self._highest > FAR:
            return []
        return [(number, last) for number in range(self._highest + 1, high + 1)]

    def _waited_for(self, claim: Claim) -> None:
        """One has come while others are waited for: into its place among those that wait here."""
        if claim.suspect or (claim.again and claim.number <= self._outermost and not claim.takings):
            self._orphans -= 1
            if self._orphans and not self._credit:
                self._ask(min(self._orphans, MANY), time.monotonic())
        else:
            self._probe = time.monotonic() + AGAIN
        insort(self._line, claim, key=lambda one: one.number)

    def _look_for_orphans(self, now: float) -> None:
        if now > self._patience or self._company.known:  # two that begin together would wait for each other's
            self._all_there()
        elif now > self._probe and not self._credit and self._inbox and not self._lost:
            self._probe = now + AGAIN
            self._ask(1, now)
            self._link.start(self._ask_for_orphans())

    async def _ask_for_orphans(self) -> None:
        """Another one that began at the same time may have got them, or has ended them."""
        with suppress(PipebusError):
            info = await self._transport.streams.info(self.name)
            if info["num_ack_pending"] <= len(self.out) - self._reading or info["ack_floor"]["stream_seq"] >= self._outermost:
                self._all_there()

    def _all_there(self) -> None:
        self._orphans = 0
        self.offer()

    async def end(self) -> None:
        """Nothing comes any more: what is on its way has arrived, and goes back, when this returns."""
        if self._lost and self._link.client is not None:
            with suppress(PipebusError):  # whoever begins next would not know where
                await self._have_again(self._link.client)
        self.ended = True
        self._late.extend(self._line)  # behind what is in the mailbox, which came before
        self._line.clear()
        subscription, self._subscription = self._subscription, None
        await self._company.leave()
        if subscription is not None and self._link.client is not None:
            with suppress(Exception):  # the connection is lost; so is what was on its way, until its lease ends
                # A message for whose question nobody listens any more goes behind the others that were given back. So the
                # server has seen our question before we stop listening; and after that, asked again, it throws it away.
                moves = self._moves
                for _ in range(LOOKS):
                    info = await self._transport.streams.info(self.name)
                    if info["num_waiting"] or not self._asked or self._moves != moves:
                        break
                await asyncio.wait_for(subscription.drain(), 2.0)  # type: ignore[no-untyped-call]
                await self._transport.streams.info(self.name)
        self._over = self._over or subscription is not None

    @property
    def done(self) -> bool:
        """It has ended, and nothing is left of it here."""
        return self._over and not self.out and not self._late

    def give_back(self) -> None:
        """The bus has stopped: nobody has a say any more about what is still here."""
        for claim in sorted(self.out, key=lambda one: one.number):
            if not claim.done:
                self.settle(claim, "release")

    def give_back_late(self) -> None:
        """What came after the end, if nothing else is here that has to go back before it."""
        if self._late and self._over and all(claim.done or claim in self._late for claim in self.out):
            late, self._late = self._late, []
            for claim in late:
                if not claim.done:
                    self.settle(claim, "release")

    def pull(self) -> None:
        """Ask for as many as there should be here."""
        if self.ended or self._lost or self._orphans or not self._inbox or self._line:
            return
        here = len(self.out) + self._credit
        if here > self._window // 2:
            return
        now = time.monotonic()
        passed = now - self._since
        if self._settled >= self._window // 2 and passed > 0:
            self._window = max(self._least, min(MOST, int(self._settled / passed * AHEAD)))
        self._settled, self._since = 0, now
        most = min(self._window, self.binding.limit)
        if self.binding.attempts == 1:
            most = min(most, self._workers)  # what is lost here has been taken once
        count = most - here
        if count <= 0:
            return
        self._ask(count, now)

    def _ask(self, count: int, now: float) -> None:
        self._questions += 1
        inbox = f"{self._inbox}{self._questions}"
        self._asked[inbox] = now + EXPIRES + 5.0
        self._credit += count
        body = b'{"batch":%d,"expires":%d}' % (count, int(EXPIRES * NANO))
        frame = (f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.name}", body, inbox, None)
        self._link.say(lambda: None if self.ended or inbox not in self._asked else frame)

    async def _arrived(self, inbox: str, message: Msg) -> None:
        if not message.reply:
            self._status(message)
            return
        try:
            delivered, number, *_ = place_of(message.reply)
        except (IndexError, ValueError):
            return  # somebody else has written to this inbox
        if inbox != self._inbox:
            self._refuse(message.reply, delivered, number)
            return
        self._credit = max(0, self._credit - 1)
        if not self._credit:
            self._asked.clear()
        transport = self._transport
        claim = Claim(self, message, transport.subjects.ours, transport.subjects.replays, transport.codec)
        if claim.count <= self._heard:  # it counts anew: it is another consumer
            self._refuse(claim.reply, delivered, number)
            self._lose("another one is in its place")
            return
        self._heard = claim.count
        self._highest = max(self._highest, claim.number)
        before = self._by_number.get(claim.number)
        if self.era and self._known(claim, before):
            self.pull()
            return
        if before is not None:  # its lease has ended; it is this delivery's now
            self._forget(before)
        self._moves += 1
        self.out[claim] = None
        self._by_number[claim.number] = claim
        self.returned.pop(claim.number, None)
        if claim.again:
            found = None
            self._reading += 1
            try:
                without = (0, False) if claim.number <= self._resumed else (1, True)
                found = await self._transport.notes.read(self.name, claim.number, without)
            finally:
                self._reading -= 1
                if found is None:  # the connection is lost (so we are cancelled): it goes back on the next one
                    self._dropped.append(claim)
                    self._forget(claim)
            if found is None:
                return
            claim.takings, claim.suspect = found
        if self.ended:
            self._late.append(claim)
        elif self._wider and not claim.replayed and not any(one.matches(claim.subject) for one in self.binding.patterns):
            self._forget(claim)
            self._say(claim, b"+ACK")
        else:
            if self._orphans:
                self._waited_for(claim)
            else:
                self._line.append(claim)
            self.offer()

    def _refuse(self, reply: str, delivered: int, number: int) -> None:
        """Nobody knows whether this consumer stays: what it brings goes back, and was not taken."""
        back = (reply, b"-NAK", "", None)
        if delivered > 1:
            self._link.say(back)
        else:
            self._transport.notes.send(self.name, number, 0, partial(_then, self._link, back))

    def offer(self) -> None:
        """Hand in what has come, in order, as far as there is room for it."""
        while self._line and not self._feeding and not self._orphans and not self.ended:
            claim = self._line[0]
            if not claim.done:
                if claim.again or claim.broken:
                    if self._may_begin(claim):
                        self._feeding = True
                        self._link.start(self._begin(claim))
                    return
                if (self._alone is not None and self._waits(self._alone)) or not self._hand_in(claim):
                    return
            self._line.popleft()
        self.pull()

    def _may_begin(self, claim: Claim) -> bool:
        """Whether a worker is free for it; a suspect waits until no other is at work, for as long as a lease."""
        if claim.broken or claim.takings >= self.binding.attempts:
            return True
        if not self.binding.ready():
            return False
        if not self._waits(claim):
            return True
        if self._alone is not None and self._waits(self._alone):
            return False
        return not self._handed if claim.suspect else len(self._handed) < self._workers

    def _waits(self, claim: Claim) -> bool:
        return time.monotonic() - claim.since < self._transport.options.lease

    async def _begin(self, claim: Claim) -> None:
        """
        Hand in one that was delivered before.

        Until it has ended nothing else is handed in; but it may be settled meanwhile, if the subscription ends.
        """
        try:
            if claim.done or self.ended:
                return
            if claim.broken or claim.takings >= self.binding.attempts:
                await self._give_up(claim)
                return
            if not claim.begun:
                # Where no note can be kept (its stream is gone, or full) it is handed in all the same.
                with suppress(PipebusError):
                    await self._transport.notes.write(self.name, claim.number, claim.takings + 1, begun=True)
                claim.begun = True
            if claim.done or self.ended:
                return
            claim.since = time.monotonic()
            if not self._hand_in(claim):
                return
            self._line.remove(claim)
            if claim.suspect:
                self._alone = claim
        finally:
            self._feeding = False
        self.offer()

    async def _give_up(self, claim: Claim) -> None:
        """It becomes a dead letter, and whoever is told of that may publish, and wait for it."""
        self._line.remove(claim)
        try:
            handed_in = await on_executor(self._hand_in, claim)
        except RuntimeError:  # no thread can be had: the next look tries again
            handed_in = False
        if not handed_in:
            if self.ended:
                self.settle(claim, "release")
            else:
                self._line.appendleft(claim)

    def _hand_in(self, claim: Claim) -> bool:
        self._handed.add(claim)  # before, for it may be settled on another thread before this returns
        try:
            if self.binding.deliver(claim.found, claim, claim.takings):
                return True
        except Exception as error:  # not to be tried at once, nor for ever
            self._transport.warn("delivery.failed", subscription=self.binding.name, error=text_of(error))
            self._link.post(partial(self.settle, claim, "return", 1.0))
            return True
        self._handed.discard(claim)
        return False

    def _status(self, message: Msg) -> None:
        """What the server says instead of a message."""
        headers = message.headers or {}
        status, text = headers.get("Status", ""), headers.get("Description", "").partition("\n")[0].strip()
        if self._asked.pop(message.subject, None) is None or status == "100":
            return
        left = headers.get("Nats-Pending-Messages")
        self._credit = max(0, self._credit - int(left)) if left is not None and left.isdigit() and self._asked else 0
        if not self._asked:
            self._credit = 0
        if status == "503" or "deleted" in text.lower():
            self._lose("nobody answers: it is gone, or its stream" if status == "503" else text)
            return
        self.pull()

    def _lose(self, why: str) -> None:
        if not self._lost and not self.ended:
            self._lost = True
            self._inbox, self._asked, self._credit = "", {}, 0
            self._transport.warn("consumer.lost", subscription=self.binding.name, consumer=self.name, error=why)
            self._link.start(self._find())

    async def _find(self) -> None:
        """The consumer, or the stream, is gone: have it again."""
        while not self.ended:
            client = self._link.client
            if client is not None:
                try:
                    await self._have_again(client)
                    break
                except PipebusError as error:
                    if str(error) != self._why:
                        self._why = str(error)
                        self._transport.warn("consumer.missing", subscription=self.binding.name, error=self._why)
            await asyncio.sleep(AGAIN)

    async def _have_again(self, client: Client) -> None:
        await self._transport.streams.ensure(client)
        await self._have(client)
        await self._listen(client)  # the older inbox stays: an older question may still be answered, and that goes back
        self._lost, self._why = False, ""
        self.pull()

    async def _have(self, client: Client) -> None:
        """
        The consumer is there, and begins behind what was settled: also one that was deleted, or replaced, while this bus was
        connected or not.

        Raises:
            TransportError: it cannot be had.
        """
        streams, progress = self._transport.streams, self.progress
        known = progress.floor is not None
        start: str | int = self.binding.start if progress.floor is None else progress.floor + 1
        if known and (progress.stream != streams.born or streams.last < (progress.floor or 0)):
            self._lose_stream()
            start = "all"
        info = await streams.consumer(self.name, self.filters, start, client)
        if known and info.get("created") != progress.consumer and info["config"].get("description") != RESUMED:
            # Not made by one of us that knew where to go on: it may skip what waits, or may have given up what it brought.
            self._transport.warn("consumer.replaced", subscription=self.binding.name, consumer=self.name)
            await streams.remove(self.name, client)
            info = await streams.consumer(self.name, self.filters, start, client)
        if known and info.get("created") != progress.consumer:
            self._resume(info)
        progress.stream, progress.consumer = streams.born, info.get("created")
        progress.see(info)

    def _resume(self, info: dict[str, Any]) -> None:
        """Another consumer has taken the place of the one that was lost."""
        self.era += 1
        self._resumed = max(self._resumed, self._highest, *self._by_number, *self.progress.settled, 0)
        self._heard, self._highest = info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"]
        self._orphans, self._dropped = 0, []
        self.unconfirmed.clear()  # who heard that is gone; what was settled is acknowledged anew, when it comes
        self._transport.warn("consumer.resumed", subscription=self.binding.name, consumer=self.name, after=self.progress.floor)

    def _lose_stream(self) -> None:
        """
        Another stream has taken the place of the one that was lost: its numbers are of other messages, and all of them are
        new. What is here of the old one may still be handled, and nobody is told of it.
        """
        self._transport.warn(
            "stream.lost", subscription=self.binding.name, stream=self.stream, settled=self.progress.floor,
            here=len(self.out),
        )  # fmt: skip
        for claim in self.out:
            claim.reply = ""
        self._by_number.clear()
        self.progress.settled.clear()
        self.progress.floor, self.returned = 0, {}
        self._resumed = self._highest = 0

    def _known(self, claim: Claim, before: Claim | None) -> bool:
        """What has come because its consumer was made again, and is settled here already, or about to be."""
        if claim.number > self._resumed:
            return False
        if before is not None and before.era != claim.era:
            before.reply, before.era, before.count = claim.reply, claim.era, claim.count
            return True
        if claim.number in self.progress.settled:
            self._say(claim, b"+ACK")
            return True
        claim.again = True  # there may be a note of it
        return False

    async def look_at_progress(self) -> None:
        """Now and then: if something has changed, or no question is open, whose answer would say that the consumer is gone."""
        seen = self._moves + self._told
        if self._lost or self.ended or (seen == self._seen and self._asked):
            return
        try:
            info = await self._transport.streams.info(self.name)
        except _Refused as error:
            if error.code in (NO_CONSUMER, NO_STREAM):
                self._lose(str(error))
            return
        if self._lost:  # meanwhile: what it is made again from is settled
            return
        if info.get("created") != self.progress.consumer:
            self._lose("another one is in its place")
            return
        self.progress.see(info)
        self._seen = seen

    def look(self, now: float) -> None:
        """Questions that nobody has answered in time are asked again."""
        if self._asked and min(self._asked.values()) < now:
            self._asked = {inbox: until for inbox, until in self._asked.items() if until >= now}
            if not self._asked:
                self._credit = 0
        if self._orphans:
            self._look_for_orphans(now)
        for number, due in list(self.returned.items()):
            if due + MOMENT < now:
                del self.returned[number]
        self.give_back_late()
        self.offer()

    def renew(self) -> None:
        """The lease of all that is here."""
        for claim in self.out:
            self._link.say(partial(self._renewal, claim))

    def _renewal(self, claim: Claim) -> Frame | None:
        return (claim.reply, b"+WPI", "", None) if claim in self.out and claim.reply else None

    # --- settling ----------------------------------------------------------------------------------------------------

    def settle(self, claim: Claim, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        """On the loop."""
        if claim.done:
            if claim not in self.out:
                self._transport.warn("delivery.settled_too_late", subscription=self.binding.name, verdict=verdict)
            return
        claim.done = True
        counts = self._transport.counts_of(self.binding.name)
        if not claim.reply and verdict in ("return", "release"):
            counts.drop("stream deleted")  # nobody can bring it again
            self._forget(claim)
            return
        if verdict == "release":
            self._release(claim)
            return
        if verdict == "dead":
            self._transport.letters.bury(claim, why)
            return
        if verdict == "return":
            self.returned[claim.number] = time.monotonic() + delay
            self._transport.notes.say(self.name, claim.number, claim.takings + 1)
            self._say(claim, b'-NAK {"delay":%d}' % int(delay * NANO) if delay > 0 else b"-NAK")
        else:
            if verdict == "drop":
                counts.drop(str(why))
            else:
                counts.acknowledged += 1
            self._say(claim, b"+ACK")
            if claim.again:
                self._transport.notes.forget(self.name, claim.number)
        self._forget(claim)

    def _release(self, claim: Claim) -> None:
        """Back to the server, and its delivery was none."""

        def noted(_: object) -> None:
            # Without the note it counts as taken: better that than a message that is held for as long as its lease.
            self._transport.open -= 1
            self._say(claim, b"-NAK")
            self._forget(claim)

        self._transport.open += 1
        self._transport.notes.send(self.name, claim.number, claim.takings, noted)

    def buried(self, claim: Claim, error: BaseException | None) -> None:
        """Its letter is kept, or could not be: then it comes again when its lease ends."""
        if error is None:
            self._say(claim, b"+TERM")
            if claim.again:
                self._transport.notes.forget(self.name, claim.number)
        self._forget(claim)

    def _say(self, claim: Claim, what: bytes) -> None:
        if not claim.reply:  # its stream is gone
            return
        if not what.startswith(b"-"):
            self.progress.settle(claim.number)
        frame = (claim.reply, what, "", None)
        self._link.say(frame)
        if not what.startswith(b"-"):  # that must not be said twice
            self.unconfirmed.append(frame)
            self._told += 1

    def _forget(self, claim: Claim) -> None:
        claim.done = True
        if self.out.pop(claim, self) is self:
            return
        if self._by_number.get(claim.number) is claim:
            del self._by_number[claim.number]
        self._handed.discard(claim)
        if self._alone is claim:
            self._alone = None
        self._settled += 1
        if not self.out:
            self._transport.changed()
        self.offer()

    async def confirm(self) -> None:
        """
        Return when the server has carried out all that it was told before.

        Raises:
            TransportError: it does not say so.
        """
        told = self._told
        if not self.unconfirmed:
            return
        await self._link.ask(self.unconfirmed[-1][0], b"+WPI")
        while self.unconfirmed and self._told - len(self.unconfirmed) < told:  # another one may have been quicker
            self.unconfirmed.popleft()

    @property
    def waiting(self) -> int:
        """What has been brought here and not handed in."""
        return sum(not claim.done for claim in self._line)

    # --- looking -----------------------------------------------------------------------------------------------------

    def wants(self, subject: str) -> bool:
        """Whether a message on a subject of the server's comes here."""
        subjects = self._transport.subjects
        if subject.startswith(subjects.replays):
            return subject == subjects.replays + self.name
        return any(one.matches(subjects.ours(subject)) for one in self.binding.patterns)

    async def pending(self) -> int:
        """What is here, or would come here at once."""
        if self.out or self._transport.open:
            return len(self.out) or 1
        now, moves = time.monotonic(), self._moves
        if any(due <= now for due in self.returned.values()):
            return 1
        try:
            info = await self._transport.streams.info(self.name)
        except _Refused as error:
            raise TransportError(f"consumer {self.name}: {error}") from None
        if info["num_pending"] or self.out:
            return int(info["num_pending"]) or len(self.out)
        if info["delivered"]["stream_seq"] < self._transport.newest(self):
            return 1  # the server has it, and has not shown it to its consumers yet
        client = self._link.client
        if info["num_ack_pending"] > len(self.returned) and client is not None:
            # Another process has it, or it is on its way here; then it comes before the answer to a ping.
            await asyncio.sleep(MEANWHILE)
            await client.flush()
        if self._moves != moves:
            return 1  # what moved between these looks was seen in neither place
        return len(self.out) + (self._subscription.pending_msgs if self._subscription is not None else 0)


def _same(frame: Frame) -> Frame:
    return frame


def _then(link: Link, frame: Frame, _: object) -> None:
    link.say(frame)
