"""
The seam between the bus and what carries its messages.

Memory carries nothing: the publish chain's terminal puts the message into the mailboxes. Every other transport encodes a
message (`send`), keeps it by whatever it promises, and hands it back (`Binding.deliver`) to each subscription whose pattern
matches; the subscription says what became of it (`settle`).

A transport is one module with a class derived from `Transport`, and one line in `opening.py` or an entry point. Seven methods
have to be written; the others have a default. What it does not promise is a capability that it lacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

import msgspec

from pipebus.clock import Clock
from pipebus.errors import UnsupportedCapability
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern
from pipebus.waiting.elsewhere import on_executor
from pipebus.waiting.locks import Locks

if TYPE_CHECKING:
    from pipebus.outcomes.dead_letters import DeadLetter, DeadLetters

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
        dead_letters: It keeps dead letters, where they outlive the program.
        memory: Filters may keep what they remember in it, for all processes and across restarts.
        transactions: A handler's own writes, its publishes and its acknowledgement may be one transaction.
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
    dead_letters: bool = False
    memory: bool = False
    transactions: bool = False
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
        durable: What it has coming stays when nobody is bound to it.
        patterns: Any of them matches; a message that several match comes once.
        deliver: Hand one message in: (message or its bytes, token, takings so far). False: no room now, offer it again
            later; nobody says when, so after each settlement of this binding, and now and then besides. Callable from any
            thread. The token comes back in `settle`.
        attempts: Takings before a message is dead.
        start: "new", "all" or "last".
        limit: Most deliveries that it takes in before it has settled some; more are refused.
        workers: How many of them it handles at once.
        overflow: What the subscription asked for where its mailbox is full.
        handled: It has a handler; else somebody reads it.
        ready: Whether it would begin with what it is handed: not while it is paused.
    """

    name: str
    durable: bool
    patterns: tuple[Pattern, ...]
    deliver: Callable[[Message[Any] | bytes, Any, int], bool]
    attempts: int
    start: str
    limit: int = 10_000
    workers: int = 1
    overflow: str = "block"
    handled: bool = True
    ready: Callable[[], bool] = lambda: True


@dataclass(eq=False, slots=True)
class Surroundings:
    """
    What a transport is given at start.

    Args:
        max_message_bytes: Refuse larger messages with `MessageTooLarge` before anything is written; None: no limit.
        changed: To be called when something has been settled or brought that a drain may wait for.
        warn: Takes a warning: a name such as "store.failed" and facts by keyword. Never raises.
    """

    clock: Clock
    max_message_bytes: int | None
    changed: Callable[[], None] = lambda: None
    warn: Callable[..., None] = lambda event, **facts: None


class Finding(NamedTuple):
    """
    One line of `pipebus doctor`.

    Args:
        level: "ok", "hint" (it works; know this) or "wrong".
        about: What it is about, in a word or two.
        text: What was found; and the next move, if it is not ok.
    """

    level: Literal["ok", "hint", "wrong"]
    about: str
    text: str


class Transport(Protocol):
    """What a transport does. All methods are callable from any thread, and on an event loop `asend` and `settle` only."""

    capabilities: Capabilities
    local: bool = False
    """True: messages never leave the process, and the bus fans out itself; only `capabilities` and `codec` are used."""
    dead_letters: DeadLetters | None = None
    """Where it keeps dead letters, if its capabilities say so: the bus's `dead_letters`, from before the start."""

    locks: Locks | None = None
    """Those that a call and the threads which bring messages share, so that a signal handler can be refused; see `Locks`."""

    # --- what has to be written ----------------------------------------------------------------------------------------

    def start(self, surroundings: Surroundings) -> None: ...

    def stop(self) -> None:
        """Deliver nothing more. Everything that was settled has been carried out when this returns."""
        ...

    def send(self, message: Message[Any], delay: float) -> Receipt:
        """
        Keep the message as promised; when this returns it is kept. Callable from any thread; after `stop` it raises BusClosed.

        Raises:
            MessageTooLarge, UnsupportedCapability, CodecError, TransportError: it is not kept. PublishUnknown: it may be.
        """
        ...

    def bind(self, binding: Binding) -> None:
        """
        Deliver what matches from now on; effective on return.

        Raises:
            UnsupportedCapability: it asks for what this transport cannot do.
        """
        ...

    def unbind(self, name: str) -> None:
        """Deliver nothing more to it: it is unsubscribed, or the bus stops. What it has may still be settled after this."""
        ...

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: str | DeadLetter = "") -> None:
        """
        What became of a delivery. It may be carried out later, in this order; `flush` and `stop` wait for it.

        Args:
            delay: Seconds, for "return".
            why: The reason of a "drop"; the dead letter of a "dead", for a transport that keeps them.
        """
        ...

    def pending(self, name: str) -> int:
        """
        Messages that a bound subscription has yet to settle, as far as the transport can tell: what a drain waits for. What
        has to wait for its time is not among them.
        """
        ...

    # --- what may be ---------------------------------------------------------------------------------------------------

    def asend(self, message: Message[Any], delay: float) -> Awaitable[Receipt]:
        """`send` for coroutines. A cancelled one may still be kept."""

        def send(message: Message[Any]) -> Receipt:
            return self.send(message, delay)

        return on_executor(send, message)

    def flush(self) -> None:
        """Return when everything that was settled before has been carried out, as durably as a message is kept."""
        return

    def figures(self, name: str) -> dict[str, Any] | None:
        """What `stats` of a durable subscription says, where the transport counts for all processes; None: it does not."""
        return None

    def announce(self, subscriptions: list[tuple[str, tuple[Pattern, ...], str]]) -> None:
        """
        Durable subscriptions that others will serve: their messages are kept. Those that are there stay as they are. The
        transport is not started.

        Args:
            subscriptions: Name, patterns and `start` of each.
        """
        return

    def examine(self) -> Iterator[Finding]:
        """What `pipebus doctor` says of the place where messages are kept. Nothing is made or changed; it is not started."""
        yield from ()

    # --- what is promised by few, and refused by the others ------------------------------------------------------------

    def seen(self, scope: str, key: str) -> bool:
        """Whether `learn` was told this key and its time is not over."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no memory for filters")

    def learn(self, scope: str, key: str, seconds: float) -> None:
        """Remember a key; kept not later than what is settled after this call."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no memory for filters")

    def transaction(self, token: Any) -> AbstractContextManager[Any]:
        """
        A connection to the store; at the end of the block what was written on it, what was sent meanwhile on this thread
        and the acknowledgement of the delivery are kept together, or (if it raises) none of it.
        """
        raise UnsupportedCapability(f"{type(self).__name__} has no transactions")

    def if_undone(self, call: Callable[[], object]) -> None:
        """Call this if the transaction that a handler has open here comes to nothing; without one, never."""
        return
