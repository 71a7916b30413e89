"""The errors: the tree in the drawing, what each of them says, and the names that the package promises."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pipebus
from pipebus import (
    AlreadySettled,
    AttemptsExhausted,
    Bus,
    BusClosed,
    BusNotStarted,
    CodecError,
    ConfigError,
    ContractError,
    DeadLetterError,
    Delivery,
    DrainTimeout,
    HeaderError,
    LifecycleError,
    MailboxFull,
    Message,
    MessageError,
    MessageTooLarge,
    NoResponder,
    NoSubscriber,
    PipebusError,
    Pipeline,
    PipelineError,
    PublishUnknown,
    ReceiveTimeout,
    Rejected,
    RequestDropped,
    RequestFailed,
    RequestTimeout,
    SubjectChanged,
    SubjectError,
    SubscriptionError,
    TransportError,
    UnsupportedCapability,
    errors,
)
from pipebus.filters import Drop
from pipebus.message.codec import JsonCodec
from pipebus.transports.base import Capabilities, Transport
from tables import table

# --- the tree ------------------------------------------------------------------------------------------------------------

LINE = re.compile(r"^(?P<indent>[ │]*)[├└]── (?P<name>\w+)(?: \((?P<builtin>\w+)\))?(?:\s{2,}\S.*)?$")


def drawn() -> dict[str, tuple[str, str | None]]:
    """Each error in the drawing: its parent and the built-in class that it also is."""
    lines = inspect.cleandoc(errors.__doc__ or "").splitlines()
    start = next(index for index, line in enumerate(lines) if line.strip() == "PipebusError")
    found: dict[str, tuple[str, str | None]] = {}
    parents = {0: "PipebusError"}
    margin = len(lines[start]) - len(lines[start].lstrip())
    for line in lines[start + 1 :]:
        match = LINE.match(line[margin:])
        assert match, f"cannot read the drawing: {line!r}"
        depth, name = len(match["indent"]) // 4, match["name"]
        found[name] = (parents[depth], match["builtin"])
        parents[depth + 1] = name
    return found


def of_pipebus(root: type[BaseException]) -> Iterator[type[BaseException]]:
    """Every subclass that the package itself defines, at any depth."""
    for child in root.__subclasses__():
        if child.__module__.split(".")[0] == "pipebus":
            yield child
        yield from of_pipebus(child)


def test_the_drawing_is_the_tree() -> None:
    """The tree at the top of `errors.py` names each error, its parent and the built-in class that catches it too."""
    real = {
        name: (
            next(base.__name__ for base in cls.__bases__ if issubclass(base, PipebusError)),
            next((base.__name__ for base in cls.__bases__ if not issubclass(base, PipebusError)), None),
        )
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, PipebusError) and cls is not PipebusError
    }
    assert drawn() == real


def test_nothing_outside_the_drawing_is_raised() -> None:
    """No module of the package keeps a public error class of its own."""
    for module in pkgutil.walk_packages(pipebus.__path__, "pipebus."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    public = {cls.__name__ for cls in of_pipebus(PipebusError) if not cls.__name__.startswith("_")}
    assert public == set(drawn())


@table("name", ["PipebusError", *drawn()])
def test_each_error_can_be_imported_and_explains_itself(name: str) -> None:
    """Every error is a name of the package, with a sentence that says when it happens."""
    cls = getattr(pipebus, name)
    assert cls is getattr(errors, name)
    assert name in pipebus.__all__
    assert issubclass(cls, PipebusError)
    assert inspect.getdoc(cls) not in (None, inspect.getdoc(cls.__bases__[0]))


# --- each of them, as it happens -----------------------------------------------------------------------------------------


class NoAnswer(Transport):
    """A transport whose store never says whether it has kept a message."""

    capabilities = Capabilities()
    local = False
    codec = None

    def start(self, surroundings: object) -> None:
        return None

    def stop(self) -> None:
        return None

    def pending(self) -> int:
        return 0

    def bind(self, binding: object) -> None:
        return None

    def unbind(self, name: str) -> None:
        return None

    def settle(self, token: object, verdict: str, delay: float = 0.0, why: object = "") -> None:
        return None

    def send(self, message: Message[Any], delay: float) -> Any:
        raise PublishUnknown(f"no answer in 5 s for {message.id}; publish it again with the same id", message.id)


def forgetful(message: Message[Any], call_next: Any) -> Any:
    call_next(message)


def redirect(message: Message[Any], call_next: Any) -> Any:
    return call_next(Message("b", message.body))


def refuse(message: Message[Any], call_next: Any) -> Any:
    raise Rejected("id: must be positive", "name: is missing")


def subject_error() -> None:
    with Bus() as bus:
        bus.publish("orders..created")


def header_error() -> None:
    Message("a", headers={"tries": 3})  # type: ignore[dict-item]


def message_error() -> None:
    Message("a", ttl=-1)


def pipeline_error() -> None:
    Pipeline(Bus)


def config_error() -> None:
    Bus.from_config("missing.toml")


def subscription_error() -> None:
    Bus().subscribe("orders.>", print, name="billing", workers=0)


def contract_error() -> None:
    bus = Bus()
    bus.use(forgetful)
    with bus:
        bus.publish("a")


def subject_changed() -> None:
    bus = Bus()
    bus.use(redirect)
    with bus:
        bus.publish("a")


def rejected() -> None:
    bus = Bus()
    bus.use(refuse)
    with bus:
        bus.publish("a")


def mailbox_full() -> None:
    with Bus() as bus:
        bus.subscribe("a", name="roomy")
        bus.subscribe("a", name="tight", mailbox=1, overflow="reject")
        bus.publish("a")
        bus.publish("a")


def lifecycle_error() -> None:
    with Bus() as bus:
        bus.use(refuse)


def bus_not_started() -> None:
    Bus().publish("a")


def bus_closed() -> None:
    with Bus() as bus:
        pass
    bus.publish("a")


def drain_timeout() -> None:
    done = threading.Event()
    with Bus() as bus:
        bus.subscribe("a", lambda message: done.wait(10), name="slow")
        try:
            bus.publish("a")
            bus.drain(timeout=0.01)
        finally:
            done.set()


def receive_timeout() -> None:
    with Bus() as bus:
        bus.subscribe("a", name="quiet").receive(timeout=0)


def already_settled() -> None:
    with Bus() as bus, bus.subscribe("a") as sub:
        bus.publish("a", id="m-1")
        with sub.delivery(timeout=10) as delivery:
            delivery.ack()
            delivery.retry()


def dead_letter_error() -> None:
    Bus().dead_letters.replay("d7")


def unsupported_capability() -> None:
    Bus("pigeon://loft")


def message_too_large() -> None:
    with Bus("memory:?wire=json", max_message_bytes=1000) as bus:
        bus.publish("a", "x" * 2000, id="m-1")


def no_folder() -> None:
    Bus("sqlite:///no-such-folder/bus.db").start()


def publish_unknown() -> None:
    with Bus(NoAnswer()) as bus:  # type: ignore[arg-type]
        bus.publish("a", id="m-1")


def no_responder() -> None:
    with Bus() as bus:
        bus.request("prices.get", timeout=10)


def no_subscriber() -> None:
    with Bus() as bus:
        bus.publish("orders.new", strict=True)


def request_dropped() -> None:
    with Bus() as bus:
        bus.subscribe("prices.get", double, filters=[Drop(reason="not today")])
        bus.request("prices.get", 1, timeout=10)


def double(number: int) -> int:
    return 2 * number


def request_failed() -> None:
    def answer(message: Message[Any]) -> float:
        raise KeyError("tea")

    with Bus() as bus:
        bus.subscribe("prices.get", answer)
        bus.request("prices.get", "tea", timeout=10)


def request_timeout() -> None:
    with Bus() as bus:
        bus.subscribe("prices.get")
        bus.request("prices.get", timeout=0)


def codec_error() -> None:
    JsonCodec().decode(b'{"specversion": "1.0"}')


HAPPENINGS: dict[type[PipebusError], tuple[Callable[[], None], str]] = {
    SubjectError: (subject_error, r'^"orders\.\.created" has an empty token at position 2; tokens are joined by single dots'),
    HeaderError: (header_error, r'^header "tries" is a string, found int; write str\(\.\.\.\) of it$'),
    MessageError: (message_error, r"^ttl=-1: it is greater than 0 seconds, and finite$"),
    PipelineError: (
        pipeline_error,
        r"^filter Bus \(position 1 of Pipeline at .*test_errors\.py:\d+\) is a class, not an instance; write Bus\(\)$",
    ),
    ContractError: (
        contract_error,
        r"^filter forgetful returned None where an outcome is due; end with `return call_next\(message\)` or `return Dropped",
    ),
    SubjectChanged: (
        subject_changed,
        r"^filter redirect changed the subject from 'a' to 'b'; only a publish filter with `reroutes = True`, such as Reroute,",
    ),
    SubscriptionError: (
        subscription_error,
        r"^subscription billing \(at .*test_errors\.py:\d+\): workers=0; it is a whole number of at least 1$",
    ),
    ConfigError: (config_error, r"^missing\.toml: no such file$"),
    Rejected: (rejected, r"^rejected by refuse: id: must be positive; name: is missing$"),
    MailboxFull: (mailbox_full, r"^no room in the mailbox of tight \(accepted by roomy\)"),
    LifecycleError: (lifecycle_error, r"^filters cannot be added after start: .*call use\(\) before start\(\)$"),
    BusNotStarted: (bus_not_started, r"^the bus is not started; use `with bus:` or bus\.start\(\) before you publish$"),
    BusClosed: (bus_closed, r"^the bus is stopped: it takes no more messages$"),
    DrainTimeout: (drain_timeout, r"^not drained after 0\.01 s; still pending or in flight: slow: 1$"),
    ReceiveTimeout: (receive_timeout, r"^nothing arrived for quiet in 0 s$"),
    AlreadySettled: (already_settled, r"^message m-1 of pull#\d+ cannot be retried: it was settled before$"),
    DeadLetterError: (dead_letter_error, r'^no dead letter "d7" \(there are 0\); see dead_letters\.list\(\)$'),
    UnsupportedCapability: (
        unsupported_capability,
        r"^no transport for \"pigeon\" \(in 'pigeon://loft'\); there are: .*memory",
    ),
    MessageTooLarge: (message_too_large, r"^message m-1 on a has 2,\d\d\d bytes; max_message_bytes is 1,000"),
    TransportError: (no_folder, r"^/.*/bus.db: there is no folder /.*; make it first$"),
    PublishUnknown: (publish_unknown, r"^no answer in 5 s for m-1; publish it again with the same id$"),
    NoResponder: (no_responder, r"^nobody listens to prices\.get; subscribe a handler that returns a value$"),
    NoSubscriber: (no_subscriber, r"^nobody listens to orders\.new; subscribe to it, or publish with strict=False$"),
    RequestDropped: (request_dropped, r"^the request was dropped by Drop: not today$"),
    RequestFailed: (request_failed, r"^the handler failed with KeyError: 'tea'$"),
    RequestTimeout: (request_timeout, r"^no reply on prices\.get in 0 s \(a handler that returns None does not reply\)$"),
    CodecError: (codec_error, r'^"type" is missing$'),
}
"""How each error comes about, and what it says."""

NOT_RAISED = {"AttemptsExhausted", "RequestError", "TooManyHops"}
"""The reasons of dead letters, and what the errors of requests have in common."""


def caught(cls: type[PipebusError]) -> PipebusError:
    happen, _ = HAPPENINGS[cls]
    with pytest.raises(cls) as found:
        happen()
    return found.value


each_error = pytest.mark.parametrize("cls", HAPPENINGS, ids=lambda cls: cls.__name__)


def test_every_error_has_its_happening() -> None:
    """Every error in the drawing can happen."""
    assert {cls.__name__ for cls in HAPPENINGS} | NOT_RAISED == set(drawn())


@each_error
def test_each_error_says_what_when_and_what_next(cls: type[PipebusError]) -> None:
    """It is raised as exactly this class, and names the thing, what was found and the next move."""
    error = caught(cls)
    _, says = HAPPENINGS[cls]
    assert type(error) is cls
    assert re.search(says, str(error)), str(error)


@each_error
def test_each_error_survives_pickling_and_copying(cls: type[PipebusError]) -> None:
    """Errors cross to other processes and into logs: text and facts stay."""
    error = caught(cls)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert facts(again) == facts(error)


def facts(error: PipebusError) -> dict[str, object]:
    names = ("by", "reasons", "reason", "accepted", "refused", "hint", "pending", "id", "was", "found")
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def test_a_delivery_that_was_returned_too_often_says_how_often() -> None:
    """`AttemptsExhausted` is the reason in its dead letter, and says how often."""

    def give_back(message: Message[Any], delivery: Delivery) -> None:
        delivery.retry()

    with Bus() as bus:
        bus.subscribe("a", give_back, name="billing", attempts=3)
        bus.publish("a")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    assert letter.error == "AttemptsExhausted: returned 3 times; billing allows attempts=3"
    assert issubclass(AttemptsExhausted, PipebusError)


# --- what they carry -----------------------------------------------------------------------------------------------------


def test_rejected_carries_every_reason() -> None:
    """`Rejected` takes its reasons one by one; the chain fills in who refused."""
    error = caught(Rejected)
    assert facts(error) == {"by": "refuse", "reasons": ("id: must be positive", "name: is missing")}
    assert str(Rejected("too small", by="Validate")) == "rejected by Validate: too small"
    assert str(Rejected()) == "rejected by a filter: no reason given"


def test_mailbox_full_carries_who_took_it_and_who_did_not() -> None:
    """A publisher can tell who is still owed the message."""
    error = caught(MailboxFull)
    assert (facts(error)["accepted"], facts(error)["refused"]) == (("roomy",), ("tight",))
    assert str(MailboxFull(refused=["a", "b"], hint="wait")) == "no room in the mailbox of a, b; wait"


def test_drain_timeout_carries_the_numbers() -> None:
    """The error says how many messages are still waited for, by subscription."""
    assert facts(caught(DrainTimeout)) == {"pending": {"slow": 1}}


def test_publish_unknown_carries_the_id() -> None:
    """The id lets the caller publish the same message again."""
    assert facts(caught(PublishUnknown)) == {"id": "m-1"}


def test_time_outs_are_time_outs() -> None:
    """`except TimeoutError` catches those that mean a time-out, and only those."""
    assert {cls for cls in HAPPENINGS if issubclass(cls, TimeoutError)} == {DrainTimeout, ReceiveTimeout, RequestTimeout}


def test_bad_input_is_bad_input() -> None:
    """`except ValueError` and `except TypeError` catch what they catch everywhere."""
    assert {cls for cls in HAPPENINGS if issubclass(cls, ValueError)} == {SubjectError, HeaderError, CodecError}
    assert {cls for cls in HAPPENINGS if issubclass(cls, TypeError)} == {MessageError}


# --- the promised names --------------------------------------------------------------------------------------------------

PROMISED = [
    "Actor",
    "AlreadySettled",
    "Around",
    "AttemptsExhausted",
    "Bus",
    "BusClosed",
    "BusNotStarted",
    "Call",
    "CodecError",
    "ConfigError",
    "ConfigProblem",
    "ContractError",
    "DeadLetterError",
    "Delivery",
    "DrainTimeout",
    "Dropped",
    "Filter",
    "Handled",
    "Handlers",
    "HeaderError",
    "Health",
    "LifecycleError",
    "MailboxFull",
    "Message",
    "MessageError",
    "MessageTooLarge",
    "NoResponder",
    "NoSubscriber",
    "Outcome",
    "Pause",
    "PipebusError",
    "Pipeline",
    "PipelineError",
    "PublishUnknown",
    "Publisher",
    "Receipt",
    "ReceiveTimeout",
    "Receiver",
    "Ref",
    "Rejected",
    "RequestDropped",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "Schedule",
    "StopReport",
    "Subject",
    "SubjectChanged",
    "SubjectError",
    "Subscription",
    "SubscriptionError",
    "TooManyHops",
    "Transform",
    "TransportError",
    "UnsupportedCapability",
    "around",
    "branch",
    "otherwise",
    "switch",
    "transform",
    "when",
]
"""A change to this list changes what users may import, so it belongs in the CHANGELOG."""


def test_the_promised_names_are_these() -> None:
    """`pipebus.__all__` is compared word by word, so a name cannot appear or disappear unnoticed."""
    assert sorted(pipebus.__all__) == sorted(PROMISED)


def test_the_promised_names_exist() -> None:
    """`from pipebus import *` gives every one of them, once."""
    scope: dict[str, Any] = {}
    exec("from pipebus import *", scope)
    assert set(scope) - {"__builtins__"} == set(pipebus.__all__)
    assert len(pipebus.__all__) == len(set(pipebus.__all__))


def test_the_version_is_a_version() -> None:
    """A user can quote the version in a bug report."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", pipebus.__version__)
