"""
The seam between the bus and what carries its messages.

Memory carries nothing: the publish chain's terminal puts the message into the mailboxes. Every other transport encodes a
message (`send`), keeps it by whatever it promises, and hands it back (`Binding.deliver`) to each subscription whose pattern
matches; the subscription says what became of it (`settle`).

A transport is one file with these few methods and one line in `TRANSPORTS` (or an entry point in the group
`pipebus.transports`: name = URL scheme, value = a callable of the URL).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from pipebus.clock import Clock
from pipebus.errors import PipebusError, UnsupportedCapability, text_of
from pipebus.message import Message, Receipt
from pipebus.subject import Pattern

Verdict = Literal["acknowledge", "return", "release", "drop", "dead"]
"""What became of a delivery. "return": to be brought again, this taking counts; "release": the same, it does not."""
SURVIVES: Final = ("nothing", "process", "server_restart", "power")


class Capabilities(msgspec.Struct, frozen=True):
    """
    What a transport promises. What is not promised is refused when it is asked for.

    Args:
        survives: What an acknowledged publish outlives: nothing, process, server_restart, power.
        order: Within what first deliveries keep their order: none, subject, key.
        groups: Several processes may share the work of one subscription name.
        delay: Messages may be published with a delay.
        dedup_window: Seconds for which a second publish of an id is recognised; 0: not at all.
        replay: Older messages may be read again (`deliver="all"`).
        objects: Actors and `Ref`s may be subjects: nothing is encoded.
        multi_process: Several processes may use it at once.
        max_size: Largest encoded message in bytes; None: no limit.
    """

    survives: Literal["nothing", "process", "server_restart", "power"] = "nothing"
    order: Literal["none", "subject", "key"] = "none"
    groups: bool = False
    delay: bool = False
    dedup_window: float = 0.0
    replay: bool = False
    objects: bool = False
    multi_process: bool = False
    max_size: int | None = None

    def require(self, wanted: dict[str, Any], name: str) -> None:
        """
        Raises:
            UnsupportedCapability: naming every capability that is less than what is wanted.
        """
        problems = []
        for key, value in wanted.items():
            if key not in self.__struct_fields__:
                known = ", ".join(self.__struct_fields__)
                raise UnsupportedCapability(f'require: there is no capability "{key}"; there are {known}')
            mine = getattr(self, key)
            if key == "survives":
                if value not in SURVIVES:
                    raise UnsupportedCapability(f"require: survives is one of {', '.join(SURVIVES)}, found {value!r}")
                enough = SURVIVES.index(mine) >= SURVIVES.index(value)
            elif isinstance(value, bool):
                enough = mine or not value
            elif key == "dedup_window":
                enough = mine >= value
            elif key == "max_size":
                enough = mine is None or mine >= value
            else:
                enough = value in (mine, "none") or (mine, value) == ("subject", "key")
            if not enough:
                problems.append(f"{key}={value!r} (it has {mine!r})")
        if problems:
            raise UnsupportedCapability(f'transport "{name}" cannot promise {", ".join(problems)}')


@dataclass(eq=False, slots=True)
class Binding:
    """
    One subscription, as a transport sees it.

    Args:
        name: Stable across restarts if `durable`.
        patterns: Any of them matches; a message that several match comes once.
        deliver: Hand one message in: (message or its bytes, token, takings so far). False: no room now, offer it again
            later; nobody says when, so after each settlement of this binding, and now and then besides. Callable from any
            thread. The token comes back in `settle`.
        attempts: Takings before a message is dead.
        start: "new", "all" or "last".
    """

    name: str
    durable: bool
    patterns: tuple[Pattern, ...]
    deliver: Callable[[Message[Any] | bytes, Any, int], bool]
    attempts: int
    start: str


@dataclass(eq=False, slots=True)
class Surroundings:
    """
    What a transport is given at start.

    Args:
        max_message_bytes: Refuse larger messages with `MessageTooLarge` before anything is written; None: no limit.
    """

    clock: Clock
    max_message_bytes: int | None


class Transport(Protocol):
    """What a transport does."""

    capabilities: Capabilities
    local: bool
    """True: messages never leave the process, and the bus fans out itself; only `capabilities` and `copy` are used."""

    def start(self, surroundings: Surroundings) -> None: ...

    def pending(self, name: str) -> int:
        """Messages that a bound subscription has yet to settle, as far as the transport can tell: what a drain waits for."""
        ...

    def stop(self) -> None:
        """Deliver nothing more. Everything that was settled has been carried out when this returns."""
        ...

    def send(self, message: Message[Any], delay: float) -> Receipt:
        """
        Keep the message as promised; when this returns it is kept. Callable from any thread; after `stop` it raises BusClosed.

        Raises:
            MessageTooLarge, UnsupportedCapability, CodecError, PublishUnknown, and what the engine raises.
        """
        ...

    def bind(self, binding: Binding) -> None:
        """Deliver what matches from now on; effective on return."""
        ...

    def unbind(self, name: str) -> None:
        """Deliver nothing more to it: it is unsubscribed, or the bus stops. What it has may still be settled after this."""
        ...

    def settle(self, token: Any, verdict: Verdict, delay: float) -> None:
        """What became of a delivery; `delay` in seconds, for "return"."""
        ...


Factory = Callable[[str], Any]
TRANSPORTS: Final[dict[str, str]] = {"memory": "pipebus.transports.memory:MemoryTransport.from_url"}
"""URL scheme -> module:callable, imported when first used."""


def open_transport(url: str) -> Any:
    """
    The transport that a URL names.

    Raises:
        UnsupportedCapability: unknown scheme, naming the known ones.
    """
    try:
        scheme = urlsplit(url).scheme or url
    except ValueError as error:
        raise UnsupportedCapability(f"{url!r} is no URL: {error}") from None
    target = TRANSPORTS.get(scheme)
    if target is not None:
        module, _, path = target.partition(":")
        factory: Any = import_module(module)
        for part in path.split("."):
            factory = getattr(factory, part)
        return factory(url)
    from importlib.metadata import entry_points

    for point in entry_points(group="pipebus.transports", name=scheme):
        try:
            return point.load()(url)
        except PipebusError:
            raise
        except Exception as error:
            raise UnsupportedCapability(
                f'transport "{scheme}" (of {point.value}) cannot be opened: {text_of(error)}'
            ) from error
    known = sorted({*TRANSPORTS, *(point.name for point in entry_points(group="pipebus.transports"))})
    raise UnsupportedCapability(f'no transport for "{scheme}" (in {url!r}); there are: {", ".join(known)}')
