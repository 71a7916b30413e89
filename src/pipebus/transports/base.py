"""
The interface between the bus and what carries its messages.

Memory carries nothing: the end of the publish chain puts the message into the mailboxes. Every other transport encodes a
message (`send`), keeps it as it promises, and hands it (`Binding.deliver`) to each subscription whose pattern matches; the
subscription reports what became of it (`settle`).

A transport is one module with a class derived from `Transport`, and one line in `opening.py` or an entry point. Seven methods
must be written; the others have a default. `Capabilities` says what it promises; the bus refuses what it does not promise.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pipebus.clock import Clock
from pipebus.errors import UnsupportedCapability
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern
from pipebus.message.slot import Slot
from pipebus.transports.capabilities import Capabilities
from pipebus.transports.health import Health
from pipebus.values import defaults
from pipebus.waiting.elsewhere import on_executor
from pipebus.waiting.locks import Locks

if TYPE_CHECKING:
    from pipebus.outcomes.dead_letters import DeadLetter, DeadLetters

__all__ = ["Binding", "Capabilities", "Finding", "Follower", "Health", "Kept", "Surroundings", "Transport", "Verdict"]

Verdict = Literal["acknowledge", "return", "release", "drop", "dead"]
"""What became of a delivery. "return": deliver it again, and count this attempt; "release": deliver it again, without that."""


@dataclass(eq=False, slots=True)
class Binding:
    """
    One subscription, as a transport sees it.

    Args:
        name: Stable across restarts if `durable`.
        durable: Its messages are kept while no program serves it.
        patterns: It gets a message that any of them matches, once.
        deliver: Puts one message into the mailbox, from any thread: (message or its bytes, token, earlier attempts). The token
            comes back in `settle`. False: there is no room now. Nothing tells when there is, so offer the message again after
            each settlement of this binding, and from time to time.
        attempts: Attempts before a message is dead.
        start: Which older messages a new subscription gets: "new" (none), "all" or "last".
        limit: Most deliveries that its mailbox holds; more are refused until some are settled.
        workers: How many of them it handles at once.
        overflow: What the subscription wants to happen when its mailbox is full.
        handled: It has a handler; otherwise a reader takes its messages.
        ready: Returns whether it would begin to handle a message now; not while it is paused, nor before somebody reads. What a
            reader does not ask for is for the readers in other programs.
    """

    name: str
    durable: bool
    patterns: tuple[Pattern, ...]
    deliver: Callable[[Message[Any] | bytes, Any, int], bool]
    attempts: int
    start: str
    limit: int = defaults.MAILBOX_SIZE
    workers: int = defaults.WORKERS
    overflow: str = defaults.OVERFLOW
    handled: bool = True
    ready: Callable[[], bool] = lambda: True


@dataclass(eq=False, slots=True)
class Surroundings:
    """
    What a transport gets at its start.

    Args:
        max_message_bytes: Refuse larger messages with `MessageTooLarge` before anything is written; None: no limit.
        changed: Call this when something was settled or delivered that a drain may wait for.
        warn: Logs a warning: a name such as "store.failed", and facts by keyword. Never raises.
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
        text: What was found; and what to do, if it is not ok.
    """

    level: Literal["ok", "hint", "wrong"]
    about: str
    text: str


class Kept(NamedTuple):
    """
    A durable subscription in a store.

    Args:
        name: Its name there.
        patterns: What it listens to.
        paused: No program gets its messages until it is resumed.
        pending, in_flight: Messages that wait, and that programs have taken.
        dead: Dead letters; None: the store does not count them by subscription.
    """

    name: str
    patterns: tuple[str, ...]
    paused: bool
    pending: int
    in_flight: int
    dead: int | None


class Follower(Protocol):
    """Messages of a store as any process keeps them, without being one of its subscriptions."""

    def read(self, pattern: str, pause: Callable[[float], bool]) -> Iterator[Any]:
        """
        Messages whose subjects match, each with `seq`, `id`, `subject` and `data` (the codec's encoding), until `pause` returns
        False; those that are kept by then are still read.

        Args:
            pause: Waits for a number of seconds. False: it is time to end.

        Raises:
            TransportError: the store failed.
        """
        ...


class Transport(Protocol):
    """
    All methods may be called from any thread; on an event loop only `asend` and `settle`.

    It has many methods, since it is all that a bus and the command line ask of an engine.
    """

    capabilities: Capabilities
    local: bool = False
    """True: messages never leave the process, and the bus fans out itself; only `capabilities` and `codec` are used."""
    dead_letters: DeadLetters | None = None
    """The bus's `dead_letters`, if the capabilities include them; they can be read before the start."""

    path: str | None = None
    """The file in which it keeps messages; None: it keeps none, or elsewhere."""
    kept_for: float | None = None
    """Seconds for which it keeps a message that no subscription waits for; None: nothing says so."""
    locks: Locks | None = None
    """Locks that a call shares with the threads that deliver messages, so that a signal handler can be refused; see `Locks`."""

    # --- what must be written ------------------------------------------------------------------------------------------

    def start(self, surroundings: Surroundings) -> None: ...

    def stop(self) -> None:
        """Deliver nothing more, and return when everything that was settled has been carried out."""
        ...

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        """
        Store the message, and return when it is stored as promised.

        Args:
            delay: Seconds until it may be delivered; 0.0: now.
            strict: If it would reach no subscription, store nothing; the receipt is for 0 mailboxes. Given only if it is True.

        Raises:
            MessageTooLarge, UnsupportedCapability, CodecError, TransportError: it is not stored. PublishUnknown: it may be
            stored. BusClosed: `stop` was called.
        """
        ...

    def bind(self, binding: Binding) -> None:
        """
        Deliver matching messages from now on. A message that is published after this returns is delivered.

        Raises:
            UnsupportedCapability: as `check`.
        """
        ...

    def unbind(self, name: str) -> None:
        """Deliver nothing more to a binding, since it is unsubscribed or the bus stops. Its deliveries may still be settled."""
        ...

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: str | DeadLetter = "") -> None:
        """
        Report what became of a delivery. It may be carried out later, in the order of calls; `flush` and `stop` wait for it.

        Args:
            delay: Seconds, for "return" and "release".
            why: The reason of a "drop"; the dead letter of a "dead", for a transport that stores dead letters.
        """
        ...

    def pending(self, name: str) -> int:
        """How many messages it knows that a subscription has yet to settle, without delayed ones: a drain waits for them."""
        ...

    # --- what has a default ---------------------------------------------------------------------------------------------------

    def check(self, binding: Binding) -> None:
        """
        Refuse what `bind` would refuse, when a subscription is made. Nothing is stored, and the transport need not be started.

        Raises:
            UnsupportedCapability: the binding asks for something that this transport cannot do.
        """
        return

    def asend(self, message: Message[Any], delay: float, strict: bool = False) -> Awaitable[Receipt]:
        """`send` for coroutines. If it is cancelled, the message may still be stored."""
        send = partial(self.send, strict=True) if strict else self.send
        return on_executor(lambda message: send(message, delay), message)

    def holds(self, token: Any) -> bool:
        """Asked before a handler begins. False: the lease of this delivery is over, so others may have it."""
        return True

    def flush(self) -> None:
        """Return when everything that was settled before has been carried out, as durably as messages are stored."""
        return

    def figures(self, name: str) -> dict[str, Any] | None:
        """
        Figures of a durable subscription for `stats`, counted for all processes; None: this transport does not count.

        Among them may be `oldest`: seconds that the oldest message has waited which no process has, if that costs little.
        """
        return None

    def glancing(self) -> AbstractContextManager[object]:
        """A `with` block in which `figures` waits for nothing that is being written: they may be those of a moment ago."""
        return nullcontext()

    def announce(self, subscriptions: list[tuple[str, tuple[Pattern, ...], str]]) -> None:
        """
        Make durable subscriptions that other programs will serve, so that their messages are kept. Existing ones are not
        changed. The transport is not started.

        Args:
            subscriptions: Name, patterns and `start` of each.
        """
        return

    def kept(self) -> list[Kept]:
        """The durable subscriptions in the store, whether a program serves them or not. The transport may be stopped."""
        raise UnsupportedCapability("a bus in memory keeps no subscriptions: they end with their program")

    def hold(self, name: str, on: bool) -> None:
        """
        Pause a durable subscription for all programs, or let it go on. Its messages are kept meanwhile, and what programs have
        taken already is still handled. The transport may be stopped.

        Raises:
            TransportError: there is no such subscription.
        """
        raise UnsupportedCapability(f"{type(self).__name__} cannot pause subscriptions")

    def remove(self, name: str) -> None:
        """
        Remove a durable subscription and its deliveries, for all programs; its dead letters stay. The transport may be stopped.

        Raises:
            TransportError: there is no such subscription, or it is in use here.
        """
        raise UnsupportedCapability(f"{type(self).__name__} keeps no subscriptions")

    def backup(self, copy: str) -> int:
        """
        Write what the store keeps at one moment into a new file; returns its bytes. The transport may be stopped.

        Raises:
            TransportError: it cannot be read, or not be written; or there is such a file.
        """
        raise UnsupportedCapability(f"{type(self).__name__} keeps nothing in a file that could be copied")

    def inspect(self, new: bool = False) -> bool:
        """
        Check a store before it is opened, and make nothing.

        Args:
            new: It may be missing yet.

        Returns:
            The start will make it.

        Raises:
            TransportError: it is missing, or cannot be used.
        """
        return False

    def in_use(self) -> bool:
        """False: no living process uses the store. The transport may be stopped."""
        return True

    def next_due(self, names: list[str]) -> float:
        """Seconds until a delayed message of these subscriptions is due; infinity: there is none, or it cannot be looked up."""
        return math.inf

    def follow(self, all: bool = False) -> Follower | None:
        """
        Follow the messages of the store. None: only a subscription can.

        Args:
            all: Begin with the oldest message that is kept, not with the next one.

        Raises:
            TransportError: it cannot be read.
        """
        return None

    def health(self) -> Health:
        """
        How well it is, while the bus is started; for `Bus.health`. It is asked each second, so it returns what the transport
        knows already, and waits for nothing: no lock, file or network. A server that is away is not `ready`, but `live`.
        """
        return Health()

    def examine(self) -> Iterator[Finding]:
        """What `pipebus doctor` reports about the store. Nothing is made or changed, and the transport is not started."""
        yield from ()

    def shortcoming(self, capability: str) -> str:
        """
        Why it lacks a capability that others of its kind have, and what to do; "": it never has it. A server may promise less
        than was declared before the start; then the start of a bus that requires more is refused.
        """
        return ""

    # --- for some capabilities only ------------------------------------------------------------------------------------

    def seen(self, scope: str, key: str) -> bool:
        """Whether this key was given to `learn`, and its time is not over."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no memory for filters")

    def learn(self, scope: str, key: str, seconds: float) -> None:
        """Remember a key. It is stored before, or together with, anything that is settled after this call."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no memory for filters")

    def slot(self, name: str) -> float | None:
        """
        The last slot of a schedule that any process has published, or passed over with `skip_slot`. None: there is none yet.

        `send` records the slot of a message (`slot_of`) together with the message. If this slot or a later one is recorded
        already, it stores nothing, and returns a receipt with `duplicate`.
        """
        raise UnsupportedCapability(f"{type(self).__name__} keeps no schedules")

    def skip_slot(self, slot: Slot) -> None:
        """Record a slot without a message, unless a later one is recorded."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no schedules")

    def schedules(self) -> list[Slot]:
        """The last slot of each schedule in the store. The transport may be stopped."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no schedules")

    def forget_schedule(self, name: str) -> bool:
        """Forget the last slot of a schedule, so that the next one counts as its first. False: there is none of this name."""
        raise UnsupportedCapability(f"{type(self).__name__} keeps no schedules")

    def transaction(self, token: Any) -> AbstractContextManager[Any]:
        """
        A connection to the store. At the end of the block, everything that was written on it, everything that this thread has
        sent meanwhile, and the acknowledgement of the delivery are stored together; or nothing, if the block raises.
        """
        raise UnsupportedCapability(f"{type(self).__name__} has no transactions")

    def within(self, connection: Any) -> AbstractContextManager[None]:
        """
        What is sent in this block, in this context, is stored through a connection of the application's, by its transaction.

        Raises:
            MessageError, UnsupportedCapability, TransportError, LifecycleError: this connection cannot be used.
        """
        raise UnsupportedCapability(f"{type(self).__name__} has no outbox")

    def awithin(self, connection: Any) -> AbstractAsyncContextManager[bool]:
        """`within` for coroutines. The value: `send` may be called on this loop too, since the connection is not awaited."""
        raise UnsupportedCapability(f"{type(self).__name__} has no outbox")

    def if_undone(self, call: Callable[[], object]) -> None:
        """Call this if the transaction that this handler has open is rolled back; without a transaction, never."""
        return
