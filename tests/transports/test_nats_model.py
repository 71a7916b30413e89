"""
A model of one subscription next to a real NATS server: after any actions in any order, by one program or two of a group,
both agree.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("nats")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from nats_server import NatsServer, NatsStage, with_client

from pipebus import Bus, Delivery, PipebusError, Receipt
from pipebus.bus.bus import engine_of
from pipebus.errors import ReceiveTimeout
from pipebus.testing.contract.tools import until
from pipebus.transports.window import READERS
from scale_helpers import examples

pytestmark = pytest.mark.thorough  # a long model, on a real server

WAIT = 10.0
ATTEMPTS = 4
DELAY = 0.3
"""Seconds after which what is given back comes again."""
EARLY = 0.05
"""Seconds by which a message may be too early, because two clocks are involved."""
ROOM = 12
"""As many messages as a program with a large mailbox asks for at once, whatever it has."""
NAME = "s"


class Servers:
    """The server of this module, while its tests run."""

    one: NatsServer


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as Servers.one:
        yield


class Stage(NatsStage):
    """One of several programs may be killed, and the others keep what they have."""

    def __init__(self, server: NatsServer) -> None:
        super().__init__(server, patience=WAIT)
        self.living: list[Bus] = []

    def kill(self, bus: Bus) -> None:
        self.living.remove(bus)
        self.buses = [bus]
        self.crash()
        self.buses = list(self.living)

    def lose_leases(self) -> None:
        """End the leases of what no living program has: `crash` calls it, when the dead have sent their last."""
        self.settle_down()
        kept = {number for one in self.pullers() for number in one._by_number}

        async def work(client: Any) -> None:
            info = await client.jetstream().consumer_info(self.stream, NAME)
            await self.give_back(client, info, set(self.out(info)) - kept)

        with_client(self.server, work)

    def lose(self, number: int) -> None:
        """End the lease of one message, whichever program holds it."""

        async def work(client: Any) -> None:
            await self.give_back(client, await client.jetstream().consumer_info(self.stream, NAME), {number})

        with_client(self.server, work)

    def out(self, info: Any) -> range:
        """Numbers among which are those of all messages that are delivered and not settled."""
        return range(info.ack_floor.stream_seq + 1, info.delivered.stream_seq + 1)

    async def give_back(self, client: Any, info: Any, numbers: set[int]) -> None:
        for number in sorted(numbers):  # the server does not mind those that are settled
            place = f"$JS.ACK.{self.stream}.{NAME}.1.{number}.{info.delivered.consumer_seq}.0.0"
            await client.publish(place, b"-NAK")
        await client.flush()

    def pullers(self) -> list[Any]:
        """Return the pullers of the programs that live."""
        return [engine_of(bus).transport.served.bound[NAME] for bus in self.living]

    def settle_down(self) -> None:
        """What the server can deliver to the living is with them, and what they have settled is with the server."""

        def moved() -> tuple[Any, ...]:
            pullers = self.pullers()
            for one in pullers:
                one._transport.flush()
                one._link.run(one._link.client.flush())
            return (self.held_by_server(), *(one.moves for one in pullers))

        before = None
        while before != (before := moved()):
            time.sleep(0.01)  # two equal looks, some milliseconds apart

    def held_by_server(self) -> tuple[int, ...]:
        """What waits there, what is out, how many deliveries there were."""

        async def work(client: Any) -> tuple[int, ...]:
            info = await client.jetstream().consumer_info(self.stream, NAME)
            return info.num_pending, info.num_ack_pending, info.delivered.consumer_seq

        found: tuple[int, ...] = with_client(self.server, work)
        return found


class Program:
    """A member of the group. It counts what it has done itself: the server does not."""

    def __init__(self, stage: Stage, name: str, mailbox: int) -> None:
        self.name = name
        self.bus = stage.open(name)
        stage.living.append(self.bus)
        self.reader = self.bus.subscribe("a.>", name=NAME, attempts=ATTEMPTS, mailbox=mailbox)
        self.bus.start()
        self.acknowledged = self.discarded = 0

    @property
    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = self.bus.stats()["subscriptions"][NAME]
        return found


class Held:
    """A delivery that is open, and the program that has it."""

    def __init__(self, program: Program, manager: Any, delivery: Delivery) -> None:
        self.program, self.manager, self.delivery = program, manager, delivery
        self.suspect = False  # its last delivery may have been lost

    def close(self) -> None:
        """Leaving the block acknowledges the message, if that is possible."""
        with suppress(PipebusError):
            self.manager.__exit__(None, None, None)


class Group(RuleBasedStateMachine):
    """
    Chance decides which program gets a message. So nothing that depends on it is a precondition: hypothesis needs those to be
    the same when it repeats its steps.

    The model keeps, for each message, how often it may have been taken. That is exact but for what is declared: what waited in
    a program that is killed may have been taken once more. A server that ends forgets until leases end what was given back to
    it; one that is killed forgets the last settlements too.
    """

    @initialize(mailbox=st.sampled_from([1, 3, 1_000]))
    def begin(self, mailbox: int) -> None:
        self.stage = Stage(Servers.one)
        self.mailbox = mailbox
        self.programs: list[Program] = []
        self.waiting: dict[str, tuple[int, int]] = {}  # id: fewest and most attempts so far
        self.due: dict[str, float] = {}  # of these, when those come that were given back for later
        self.lost: set[str] = set()  # of these, those whose last delivery was lost: each comes alone
        self.unsure: set[str] = set()  # of these, those that may be such
        self.held: dict[str, Held] = {}
        self.done: set[str] = set()
        self.dead: dict[str, int] = {}  # and how often it was taken
        self.keys: dict[str, str | None] = {}
        self.first: list[str] = []  # that come in this order, where they come for the first time
        self.count = self.outages = 0
        self.plain = True  # what is out has always been in the hands of the one program
        self.join()

    # --- programs ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.programs) < 2)
    @rule()
    def join(self) -> None:
        """Add a program to the group."""
        self.count += 1
        self.programs.append(Program(self.stage, f"p{self.count}", self.mailbox))
        if len(self.programs) > 1:
            self.disturbed()

    @rule(pick=st.integers(0, 1))
    def leave(self, pick: int) -> None:
        """Stop a program; a clean end counts no attempt for what was in hand."""
        program = self.programs.pop(pick % len(self.programs))
        program.bus.stop(timeout=WAIT, drain=False)
        self.stage.living.remove(program.bus)
        self.stage.buses.remove(program.bus)
        self.plain = False
        for id, attempt in self.gone(program).items():
            self.waiting[id] = (attempt - 1, attempt - 1)
        if not self.programs:
            self.join()

    @rule(pick=st.integers(0, 1))
    def crash(self, pick: int) -> None:
        """What was in hand has been taken; what waited in that program's mailbox may count as taken."""
        if any(most + 1 == ATTEMPTS for _, most in self.waiting.values()):
            return  # whether that one is dead nobody could tell
        program = self.programs.pop(pick % len(self.programs))
        self.stage.kill(program.bus)
        self.plain = False
        if self.programs:
            self.first.clear()  # its neighbour goes on with what is newer
        self.due.clear()  # the stage ends all leases, also of what waits on the server for its time
        self.unsure |= self.waiting.keys()
        self.waiting = {id: (fewest, most + 1) for id, (fewest, most) in self.waiting.items()}
        for id, attempt in self.gone(program).items():
            self.taken(id, attempt)
            self.lost |= self.waiting.keys() & {id}
        program.bus.stop(timeout=1.0, drain=False)
        if not self.programs:
            self.join()

    def gone(self, program: Program) -> dict[str, int]:
        """What it had in hand, and has no more; and how often that was taken."""
        lost = {id: one.delivery.attempt for id, one in self.held.items() if one.program is program}
        for id in lost:
            self.held.pop(id).close()
        return lost

    def taken(self, id: str, attempt: int) -> None:
        """It comes again, or it was the last time."""
        if attempt == ATTEMPTS:
            self.dead[id] = attempt
        else:
            self.waiting[id] = (attempt, attempt)

    def disturbed(self) -> None:
        """Give up the checks of order, and of the numbers pending and in flight, for what is out now."""
        self.plain = False
        self.first.clear()

    # --- messages ----------------------------------------------------------------------------------------------------

    def one_of(self, pick: int) -> Program:
        return self.programs[pick % len(self.programs)]

    @rule(pick=st.integers(0, 1_000), key=st.sampled_from([None, "k", "other key"]), count=st.integers(1, 4))
    def publish(self, pick: int, key: str | None, count: int) -> None:
        for _ in range(count):
            self.publish_one(pick, key)

    def publish_one(self, pick: int, key: str | None) -> None:
        self.count += 1
        id = f"m{self.count}"
        self.keys[id] = key
        assert self.one_of(pick).bus.publish(f"a.{pick % 3}", id, id=id, key=key) == Receipt(1)
        if not self.waiting and not self.held and len(self.programs) == 1:
            self.plain = True
        self.waiting[id] = (0, 0)
        if len(self.programs) == 1:
            self.first.append(id)

    @precondition(lambda self: self.keys)
    @rule(pick=st.integers(0, 1_000), member=st.integers(0, 1))
    def publish_again(self, pick: int, member: int) -> None:
        """An id that the server knows is the same message, whatever has become of it."""
        receipt = self.one_of(member).bus.publish("a.again", "again", id=list(self.keys)[pick % len(self.keys)])
        assert receipt == Receipt(1, duplicate=True)

    def receive_nothing(self, pick: int) -> None:
        """Nothing comes, or nothing yet; what does all the same has its time by now."""
        program = self.one_of(pick)
        try:
            message = program.reader.receive(timeout=0.02)
        except ReceiveTimeout:
            return
        assert message.id in self.due, f"{message} is not expected"
        assert time.monotonic() > self.due.pop(message.id) - EARLY, f"{message} is too early"
        del self.waiting[message.id]
        self.done.add(message.id)
        program.acknowledged += 1

    def full(self, program: Program) -> bool:
        """It takes no more while it has so many in hand."""
        return sum(one.program is program for one in self.held.values()) >= min(self.mailbox, READERS)

    def next(self, pick: int) -> Held:
        """What comes next, to whichever program."""
        deadline = time.monotonic() + WAIT
        while True:
            program = self.one_of(pick)
            manager = program.reader.delivery(timeout=0.02)
            with suppress(ReceiveTimeout):
                return Held(program, manager, manager.__enter__())
            assert time.monotonic() < deadline, f"nothing comes; there should be {self.waiting}"
            pick += 1

    @rule(pick=st.integers(0, 1))
    def receive(self, pick: int) -> None:
        """What is handed out is waiting, knows how often it was taken, and is not too early; else nothing comes."""
        if not self.waiting:
            self.receive_nothing(pick)
            return
        if self.lost or self.unsure or any(one.suspect for one in self.held.values()):
            while self.held:  # what was lost waits until nothing else is in hand, and everything else for it
                self.settle(pick, "ack")
        if all(self.full(program) for program in self.programs):
            return
        one = self.next(pick)
        now = time.monotonic()
        delivery, id = one.delivery, one.delivery.message.id
        assert id in self.waiting, f"{delivery} is not expected: {self.waiting}"
        fewest, most = self.waiting.pop(id)
        self.held[id] = one
        assert delivery.message.body == id
        assert delivery.message.key == self.keys[id]
        assert fewest < delivery.attempt <= most + 1
        assert delivery.redelivered is (delivery.attempt > 1)
        assert now > self.due.pop(id, now) - EARLY, f"{id} is too early"
        one.suspect = id in self.lost or id in self.unsure
        self.lost.discard(id)
        self.unsure.discard(id)
        if id in self.first:
            assert id == self.first[0], "not in the order of publishing"
            self.first.remove(id)

    @rule(pick=st.integers(0, 1_000), how=st.sampled_from(["ack", "confirm", "retry", "later", "reject"]))
    def settle(self, pick: int, how: str) -> None:
        if not self.held:
            self.receive(pick)
        if not self.held:
            return
        id = list(self.held)[pick % len(self.held)]
        one = self.held.pop(id)
        delivery = one.delivery
        if how in ("ack", "confirm"):
            delivery.ack(confirm=how == "confirm")
            one.program.acknowledged += 1
            self.done.add(id)
            if how == "confirm":
                assert sum(self.stage.held_by_server()[:2]) == len(self.waiting) + len(self.held)
        elif how == "reject":
            delivery.reject("no")
            self.dead[id] = delivery.attempt
        else:
            self.taken(id, delivery.attempt)
            if how == "later" and id in self.waiting:
                self.due[id] = time.monotonic() + DELAY
            delivery.retry(DELAY if how == "later" else 0.0)
            if self.due.keys() == self.waiting.keys():
                self.receive_nothing(pick)  # yet
        one.close()

    @rule(pick=st.integers(0, 1_000))
    def lose_lease(self, pick: int) -> None:
        """A message whose lease has ended is its next delivery's, when that is here; what was late is refused."""
        if not self.held:
            self.receive(pick)
        if not self.held or not self.exact():
            return
        id = list(self.held)[pick % len(self.held)]
        late = self.held[id]
        if late.delivery.attempt == ATTEMPTS:
            return
        del self.held[id]
        claim = late.delivery._parcel.token
        self.stage.lose(claim.number)
        until(self.stage, lambda: claim not in claim.puller.out, "it has come again")
        self.waiting[id] = (late.delivery.attempt, late.delivery.attempt)
        self.lost.add(id)
        self.plain = False  # it waits behind running work, and not in the mailbox
        late.delivery.ack()

    @rule(pick=st.integers(0, 1_000), member=st.integers(0, 1), what=st.sampled_from(["replay", "replay", "discard"]))
    def dead_letter(self, pick: int, member: int, what: str) -> None:
        """A dead letter's message waits again, as if new; or it is forgotten."""
        if not self.dead:
            self.settle(pick, "reject")
            self.figures()  # its letter is there
        if not self.dead:
            return
        program = self.one_of(member)
        letters = program.bus.dead_letters.list()
        letter = letters[pick % len(letters)]
        del self.dead[letter.message.id]
        if what == "replay":
            program.bus.dead_letters.replay(letter.id)
            self.waiting[letter.message.id] = (0, 0)
        else:
            program.bus.dead_letters.discard(letter.id)
            program.discarded += 1
            self.done.add(letter.message.id)

    # --- the server --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.outages < 1)
    @rule(how=st.sampled_from([signal.SIGTERM, signal.SIGTERM, signal.SIGKILL]))
    def restart_server(self, how: signal.Signals) -> None:
        """It ends and is started again: what is in hand stays there, and what was given back comes when leases end."""
        self.outages += 1
        self.stage.settle_down()
        self.stage.server.stop(how)
        clients = [engine_of(program.bus).transport.link for program in self.programs]
        until(self.stage, lambda: all(one.client is None for one in clients), "it is noticed")
        self.stage.server.start()
        until(self.stage, lambda: all(one.client is not None for one in clients), "they are connected")
        self.stage.lose_leases()
        self.disturbed()
        self.due.clear()
        self.unsure |= self.waiting.keys()
        if how == signal.SIGKILL:
            self.reckon()

    def reckon(self) -> None:
        """
        After a kill of the server everything comes that was not done, and nothing that was never published. The server may have
        forgotten what was done a moment ago, and what it had delivered: these come again. From then on all is exact again.
        """
        came = set()
        for one in self.held.values():
            one.delivery.ack()
            one.close()
        deadline = time.monotonic() + 2 * WAIT
        while sum(self.stage.held_by_server()[:2]):
            assert time.monotonic() < deadline, f"of {self.waiting} has come {came}"
            for program in self.programs:
                with suppress(ReceiveTimeout), program.reader.delivery(timeout=0.05) as delivery:
                    id = delivery.message.id
                    assert id in self.keys
                    came.add(id)
                    _, most = self.waiting.get(id, (0, ATTEMPTS))
                    assert delivery.attempt <= max(most, 1) + 1
            self.stage.lose_leases()
        assert self.waiting.keys() <= came
        self.done |= self.waiting.keys() | self.held.keys()
        self.waiting.clear()
        self.lost.clear()
        self.unsure.clear()
        self.held.clear()
        for program in self.programs:
            program.acknowledged = program.figures["acknowledged"]

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def figures(self) -> None:
        """What the server and the programs say is what the model says, when what is on its way has arrived."""
        if not hasattr(self, "programs"):
            return
        deadline = time.monotonic() + WAIT
        while (found := self.shown()) != (expected := self.expected()):
            assert time.monotonic() < deadline, f"found {found}, expected {expected}"
            time.sleep(0.001)

    def exact(self) -> bool:
        """Whether the numbers of pending and in-flight messages are known exactly."""
        return self.plain and self.mailbox > ROOM > len(self.waiting) + len(self.held)

    def shown(self) -> list[dict[str, Any]]:
        shown = []
        for program in self.programs:
            found = program.figures
            dropped = found["dropped"]
            ended = found["acknowledged"] + sum(dropped.values()) + found["dead"]
            assert found["accepted"] == ended + found["pending"] + found["in_flight"]
            shown.append(
                {
                    "acknowledged": found["acknowledged"],
                    "dropped": dropped,
                    "out": found["pending"] + found["in_flight"],
                    "pending": found["pending"] if self.exact() else None,
                    "dead": found["dead"],
                    "letters": len(program.bus.dead_letters),
                }
            )
        return shown

    def expected(self) -> list[dict[str, Any]]:
        return [
            {
                "acknowledged": program.acknowledged,
                "dropped": {"discarded": program.discarded} if program.discarded else {},
                "out": len(self.waiting) + len(self.held),
                "pending": len(self.waiting) if self.exact() else None,
                "dead": len(self.dead),
                "letters": len(self.dead),
            }
            for program in self.programs
        ]

    def teardown(self) -> None:
        if not hasattr(self, "programs"):
            return
        try:
            if sys.exc_info()[0] is not None:
                return  # one failure is enough
            letters = self.programs[0].bus.dead_letters.list()
            assert {one.message.id: one.attempts for one in letters} == self.dead
            assert all(one.message.body == one.message.id and one.subscription == NAME for one in letters)
            for one in self.held.values():
                one.close()
            self.held.clear()
            while self.waiting:  # all of it comes
                self.receive(0)
                self.settle(0, "ack")
            self.receive(0)  # and then nothing
        finally:
            for one in self.held.values():
                one.close()
            self.stage.wipe()


Group.TestCase.settings = settings(
    max_examples=examples(8, 50),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make a failure small takes minutes of a real server
)
TestGroup = Group.TestCase
