"""
Only the handlers of a request can answer it, and no address for an answer harms the handler that answers.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats_server import NatsServer, with_client

from flow_helpers import WAIT, Ear, Hold, running, wait_until
from pipebus import Actor, Bus, Message, Receipt, Ref, RequestFailed, RequestTimeout, Transform, transform
from pipebus.bus.bus import engine_of
from pipebus.errors import ContractError, PipebusError
from pipebus.events import Unrouted

TRANSPORTS = ["memory", "wire", "sqlite", "nats"]
ENCODING = ["wire", "sqlite", "nats"]


@dataclass
class Place:
    """A place where the buses of one test run."""

    name: str
    url: str

    @property
    def shared(self) -> bool:
        return self.name in ("sqlite", "nats")

    @property
    def sees_nobody(self) -> bool:
        """Whether the place reports an answer without a listener; NATS itself does not."""
        return self.name != "nats"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    name: str = request.param
    if name == "nats":
        stream = re.sub(r"\W", "_", tmp_path.name)
        return Place(name, f"{request.getfixturevalue('server').url}?stream={stream}&prefix={stream.lower()}")
    return Place(name, {"memory": "memory:", "wire": "memory:?wire=json", "sqlite": f"sqlite:///{tmp_path / 'bus.db'}"}[name])


everywhere = pytest.mark.parametrize("place", TRANSPORTS, indirect=True)
where_encoded = pytest.mark.parametrize("place", ENCODING, indirect=True)
in_memory = pytest.mark.parametrize("place", ["memory", "wire"], indirect=True)


def answering(colour: str, act: Callable[[Message], Any]) -> Callable[..., Any]:
    """A handler on a thread or on a loop."""
    if colour == "sync":
        return lambda message: act(message)

    async def handler(message: Message) -> Any:
        await asyncio.sleep(0)
        return act(message)

    return handler


both_colours = pytest.mark.parametrize("colour", ["sync", "async"])


class Note(Transform):
    """A filter that adds something to every message, and so to every answer."""

    def transform(self, message: Message) -> Message:
        return message.with_headers(noted="yes")


FILTERS: dict[str, Callable[[Bus], object]] = {
    "bare": lambda bus: None,
    "filtered": lambda bus: bus.use(Note()),
    "observed": lambda bus: bus.observe(lambda event: None),
}
every_chain = pytest.mark.parametrize("chain", list(FILTERS))


# --- what a stranger can guess -----------------------------------------------------------------------------------------


def counted_on(address: str) -> list[str]:
    """The next addresses that somebody would guess from one address: the same text with each of its numbers counted on."""
    found = []
    for run in re.finditer(r"\d+", address):
        for step in range(1, 6):
            found.append(f"{address[: run.start()]}{int(run[0]) + step}{address[run.end() :]}")
    return found


def of_the_same_shape(address: str) -> list[str]:
    """Addresses of the same length and tokens, each of them with one character changed."""
    head, _, secret = address.rpartition(".")
    return [f"{head}.{secret[:i]}{'a' if secret[i] != 'a' else 'b'}{secret[i + 1 :]}" for i in range(len(secret))]


@where_encoded
@both_colours
def test_who_has_handled_one_request_cannot_answer_the_next(place: Place, colour: str) -> None:
    """A handler that has seen the address of one request guesses the next ones, and its guesses reach nobody."""
    seen: list[str] = []
    hold = Hold()

    def ask_slowly(message: Message) -> str:
        if message.body == "second":
            hold(message)
        seen.append(str(message.reply_to))
        return f"true answer to {message.body}"

    with running(Bus(place.url)) as bus:
        bus.subscribe("ask", answering("sync", ask_slowly), name="honest", run="thread")
        bus.request("ask", "first", timeout=WAIT)
        found: list[Any] = []
        asker = threading.Thread(target=lambda: found.append(bus.request("ask", "second", timeout=4 * WAIT)))
        asker.start()
        hold.wait_started()

        guesses = [*counted_on(seen[0]), *of_the_same_shape(seen[0])]
        asked_for = seen[0].rpartition(".")[0]
        counted = len(guesses) if place.sees_nobody else sum(guess.startswith(f"{asked_for}.") for guess in guesses)
        for guess in guesses:
            if colour == "sync":
                bus.publish(guess, "forged")
            else:
                asyncio.run_coroutine_threadsafe(bus.apublish(guess, "forged"), engine_of(bus).loop_thread.loop()).result(WAIT)
        wait_until(lambda: bus.stats()["unrouted"] >= counted, "the guesses are counted")
        hold.open()
        asker.join(WAIT)

        assert [reply.body for reply in found] == ["true answer to second"]
        assert bus.stats()["unrouted"] == counted


@pytest.mark.parametrize("place", ["sqlite", "nats"], indirect=True)
def test_another_program_cannot_answer_what_it_has_not_handled(place: Place) -> None:
    """An answer with the right shape and the wrong secret is ignored, and the requester's bus counts it."""
    seen: list[str] = []
    with running(Bus(place.url)) as asking, running(Bus(place.url)) as stranger:
        heard = Ear(asking)
        asking.subscribe("ask", lambda message: seen.append(str(message.reply_to)) or "answer", name="honest")
        assert asking.request("ask", timeout=WAIT).body == "answer"

        forged = of_the_same_shape(seen[0])
        for address in forged:
            stranger.publish(address, "forged")

        wait_until(lambda: asking.stats()["unrouted"] >= len(forged), "the forged answers are counted")
        assert {event.message.body for event in heard.heard if isinstance(event, Unrouted)} == {"forged"}
        assert asking.request("ask", timeout=WAIT).body == "answer"


@where_encoded
def test_no_two_addresses_have_a_secret_in_common(place: Place) -> None:
    """The last part of each address is at least 16 characters that are new for each request."""
    seen: list[str] = []
    with running(Bus(place.url)) as bus:
        bus.subscribe("ask", lambda message: seen.append(str(message.reply_to)) or 1, name="honest")
        for number in range(20):
            bus.request("ask", number, timeout=WAIT)

    secrets = [address.rpartition(".")[2] for address in seen]
    assert len(set(secrets)) == 20
    assert min(map(len, secrets)) >= 16
    assert len({secret[:8] for secret in secrets}) == 20  # the secret begins at once, not behind something that is counted


# --- addresses that name nobody ----------------------------------------------------------------------------------------


def handled_well(bus: Bus, name: str, count: int) -> None:
    """Check that each delivery is acknowledged, and that there is no dead letter."""
    bus.drain(WAIT)
    (stats,) = [one.stats() for one in bus.subscriptions if one.name == name]
    assert (stats["acknowledged"], stats["dead"]) == (count, 0), bus.dead_letters.list()
    assert len(bus.dead_letters) == 0


STRANGE = [
    "_reply.x",
    "_reply.x.1",
    "_reply.7f.1.2.3",
    "_reply._INBOX.gone",
    "_reply._INBOX.gone.1",
    "_replies.x",
    "_reply",
    "_INBOX.gone",
    "nobody.listens",
    "größe.täglich",
    "x" * 900,
]


@everywhere
@both_colours
@every_chain
def test_an_answer_to_a_strangers_address_harms_nobody(place: Place, colour: str, chain: str) -> None:
    """A handler succeeds whatever address the message names for its answer; an answer that reaches nobody is counted."""
    bus = Bus(place.url)
    FILTERS[chain](bus)
    bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
    with running(bus):
        for address in STRANGE:
            bus.publish("ask", reply_to=address)
        handled_well(bus, "handler", len(STRANGE))
        if place.sees_nobody:
            assert bus.stats()["unrouted"] == len(STRANGE)


@everywhere
@pytest.mark.parametrize("address", ["_reply.x", "_reply.x.1", "_reply._INBOX.gone"])
def test_a_publish_to_an_address_of_nobody_is_a_publish(place: Place, address: str) -> None:
    """The publish returns a receipt and is counted as unrouted, like any message without a subscriber."""
    bus = Bus(place.url)
    heard = Ear(bus)
    with running(bus):

        async def from_a_coroutine() -> Any:
            return await bus.apublish(address, 2)

        assert isinstance(bus.publish(address, 1), Receipt)
        assert isinstance(asyncio.run(from_a_coroutine()), Receipt)
        assert isinstance(bus.send(Message(address, 3)), Receipt)
        if place.sees_nobody:
            assert bus.stats()["unrouted"] == 3
            assert sorted(event.message.body for event in heard.heard if isinstance(event, Unrouted)) == [1, 2, 3]


@everywhere
@both_colours
def test_an_answer_goes_to_a_subject_like_any_message(place: Place, colour: str) -> None:
    """An address may be a plain subject, and its subscribers get the answer."""
    got: list[Any] = []
    with running(Bus(place.url)) as bus:
        bus.subscribe("answers.here", lambda message: got.append(message.body), name="listener")
        bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
        bus.publish("ask", reply_to="answers.here")
        wait_until(lambda: got == ["answer"], "the answer has come")
        handled_well(bus, "handler", 1)


@in_memory
@both_colours
def test_in_memory_a_reserved_looking_subject_is_a_subject(place: Place, colour: str) -> None:
    """A subscriber of "_reply.mine.1" in memory gets what is published there."""
    got: list[Any] = []
    with running(Bus(place.url)) as bus:
        bus.subscribe("_reply.mine.*", lambda message: got.append(message.body))
        bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
        bus.publish("ask", reply_to="_reply.mine.1")
        bus.publish("_reply.mine.2", "by hand")
        bus.drain(WAIT)
        assert sorted(got) == ["answer", "by hand"]


@everywhere
@both_colours
@every_chain
@pytest.mark.few(4)
def test_an_answer_that_comes_too_late_is_counted(place: Place, colour: str, chain: str) -> None:
    """When the requester has given up, the handler's delivery still ends well, and the late answer is unrouted."""
    hold = Hold()
    bus = Bus(place.url)
    FILTERS[chain](bus)
    bus.subscribe("ask", lambda message: hold(message) or "answer", name="slow", run="thread")
    with running(bus):
        with pytest.raises(RequestTimeout):
            bus.request("ask", timeout=0.05)
        hold.open()
        handled_well(bus, "slow", 1)
        wait_until(lambda: bus.stats()["unrouted"] == 1, "what finds nobody is counted")


@everywhere
@both_colours
def test_an_expired_address_harms_nobody_later(place: Place, colour: str) -> None:
    """A publish to the address of an answered request reaches nobody, and harms nobody."""
    kept: list[Any] = []
    with running(Bus(place.url)) as bus:
        bus.subscribe("ask", lambda message: kept.append(message.reply_to) or "answer", name="first")
        bus.subscribe("again", answering(colour, lambda message: "second answer"), name="second")
        assert bus.request("ask", timeout=WAIT).body == "answer"

        bus.publish("again", reply_to=kept[0])
        assert isinstance(bus.publish(kept[0], "by hand"), Receipt)
        handled_well(bus, "second", 1)
        wait_until(lambda: bus.stats()["unrouted"] == 2, "what finds nobody is counted")


@everywhere
@both_colours
def test_an_address_of_another_bus_that_has_gone_harms_nobody(place: Place, colour: str) -> None:
    """If the requester's bus has stopped or runs elsewhere, the handler's delivery still ends well."""
    kept: list[Any] = []
    with running(Bus(place.url)) as other:
        other.subscribe("theirs", lambda message: kept.append(message.reply_to) or "answer", name="theirs")
        other.request("theirs", timeout=WAIT)
    with running(Bus(place.url)) as bus:
        bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
        bus.publish("ask", reply_to=kept[0])
        handled_well(bus, "handler", 1)
        if place.sees_nobody:
            assert bus.stats()["unrouted"] == 1


@everywhere
def test_the_second_of_two_answers_is_counted(place: Place) -> None:
    """Two handlers answer one request: the first answer is the reply, and the other is unrouted."""
    with running(Bus(place.url)) as bus:
        bus.subscribe("ask", lambda message: 1, name="one")
        bus.subscribe("ask", lambda message: 2, name="two")
        assert bus.request("ask", timeout=WAIT).body in (1, 2)
        bus.drain(WAIT)
        wait_until(lambda: bus.stats()["unrouted"] == 1, "what finds nobody is counted")


@pytest.mark.parametrize("place", ["nats"], indirect=True)
@pytest.mark.parametrize("address", ["_INBOX..x", "_INBOX.>", "_INBOX.x."])
def test_a_malformed_address_of_another_program_harms_nobody(place: Place, address: str, server: NatsServer) -> None:
    """A message of another program whose reply subject is not a valid subject is handled like one without a reply subject."""
    got: list[Any] = []
    with running(Bus(place.url)) as bus:
        sub = bus.subscribe("ask", lambda message: got.append(message.body) or "answer")
        prefix = place.url.rpartition("prefix=")[2]
        with_client(server, lambda client: _published_raw(client, f"{prefix}.ask", address))
        wait_until(lambda: got == [1], "it is handled")
        bus.drain(WAIT)
        assert (sub.stats()["acknowledged"], sub.stats()["dead"]) == (1, 0)


async def _published_raw(client: Any, subject: str, reply: str) -> None:
    await client._send_publish(subject, reply, b"1", 1, {"content-type": "application/json"})
    await client.flush()


# --- addresses that are objects ----------------------------------------------------------------------------------------


@dataclass
class Unhashable(Actor):
    """An actor that compares by its fields, as dataclasses do, and so has no hash."""

    title: str = "x"

    def __post_init__(self) -> None:
        super().__init__()


class Hostile(Actor):
    """An actor that cannot be hashed, compared or printed."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


OBJECTS: dict[str, Callable[[], Any]] = {
    "a Ref of nobody": lambda: Ref(object()),
    "an actor that was never spawned": lambda: Actor("nobody"),
    "an unhashable actor": Unhashable,
    "a hostile actor": Hostile,
    "a list": lambda: [1, 2],
    "a dictionary": dict,
    "a number": lambda: 7,
    "no subject": lambda: "no good",
    "an empty text": lambda: "",
    "a pattern": lambda: "orders.>",
    "an address with an empty part": lambda: "_reply..1",
    "a text of control characters": lambda: "a\r\nb",
    "half a character": lambda: "a\ud800",
}


@pytest.mark.parametrize("kind", list(OBJECTS))
@both_colours
@every_chain
@pytest.mark.few(8)
def test_an_address_that_is_no_subject_harms_nobody(kind: str, colour: str, chain: str) -> None:
    """A copy made past the checks is either refused when it is sent or harmless; the next message is handled and answered."""
    bus = Bus()
    FILTERS[chain](bus)
    bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
    with running(bus):
        with suppress(PipebusError):
            bus.send(msgspec.structs.replace(Message("ask", 1), reply_to=OBJECTS[kind]()))
        assert bus.request("ask", timeout=WAIT).body == "answer"


@both_colours
def test_a_filter_that_puts_a_strange_address_in_is_named(colour: str) -> None:
    """The error blames the publish filter that hands on such a copy, and the handler does not see it."""

    @transform
    def readdress(message: Message) -> Message:
        return msgspec.structs.replace(message, reply_to=[]) if message.body == "bad" else message

    bus = Bus()
    bus.use(readdress)
    bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
    with running(bus):
        with pytest.raises(ContractError, match="readdress"):
            bus.publish("ask", "bad")
        bus.publish("ask", "good")
        handled_well(bus, "handler", 1)


@both_colours
def test_an_actor_that_listens_gets_the_answer(colour: str) -> None:
    """An actor may be an address: it gets the answer as mail, as with any publish."""
    got: list[Any] = []

    class Asker(Actor):
        def on_message(self, message: Message) -> None:
            got.append(message.body)

    with running() as bus:
        asker = bus.spawn(Asker("asker"))
        bus.subscribe("ask", answering(colour, lambda message: "answer"), name="handler")
        bus.publish("ask", reply_to=asker)
        bus.drain(WAIT)
        assert got == ["answer"]


# --- answers that cannot be sent ---------------------------------------------------------------------------------------


def endless() -> Any:
    one: list[Any] = []
    one.append(one)
    return one


class Spiteful:
    """An object that can be neither encoded nor printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


BODIES: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a spiteful object": Spiteful,
    "a list in itself": endless,
    "half a character": lambda: "\ud800",
    "too large": lambda: "x" * 400_000,
}


@where_encoded
@both_colours
@every_chain
@pytest.mark.parametrize("body", list(BODIES))
def test_an_answer_that_cannot_be_encoded_is_told(place: Place, colour: str, chain: str, body: str) -> None:
    """The requester gets the error that the handler has failed, and does not wait for an answer that cannot come."""
    bus = Bus(place.url, max_message_bytes=100_000)
    FILTERS[chain](bus)
    subscription = bus.subscribe("ask", answering(colour, lambda message: BODIES[body]()), name="handler")
    with running(bus):
        with pytest.raises(RequestFailed):
            bus.request("ask", timeout=WAIT)
        bus.drain(WAIT)
        assert subscription.stats()["dropped"] == {"request failed": 1}


ERRORS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: KeyError("its own"),
    "too long a text": lambda: ValueError("x" * 400_000),
    "half a character": lambda: ValueError("\ud800"),
}


@everywhere
@both_colours
@every_chain
@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.few(4)
def test_a_handlers_error_is_told(place: Place, colour: str, chain: str, error: str) -> None:
    """A failure arrives as a failure on every transport, however long its text is."""

    def fail(message: Message) -> None:
        raise ERRORS[error]()

    bus = Bus(place.url, max_message_bytes=100_000)
    FILTERS[chain](bus)
    bus.subscribe("ask", answering(colour, fail), name="handler")
    with running(bus), pytest.raises(RequestFailed) as raised:
        bus.request("ask", timeout=WAIT)
    assert raised.value.type == type(ERRORS[error]()).__name__


def test_none_that_is_published_to_an_address_is_no_reply() -> None:
    """As with a handler that returns None, the requester waits for a value (guarantee 29)."""

    def answer(message: Message, bus: Bus) -> None:
        bus.publish(message.reply_to, None)
        bus.publish(message.reply_to, "answer")

    with running() as bus:
        bus.subscribe("ask", answer, name="handler")
        assert bus.request("ask", timeout=WAIT).body == "answer"
