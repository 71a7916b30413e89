"""
The transport: what the bus calls. Statements are functions of a store (`store.py`), `writer.py` says who carries them out, and
the keeper (`keeper.py`) brings messages in.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any, Final

from pipebus.errors import BusClosed, LifecycleError, MessageTooLarge, PipebusError, TransportError, UnsupportedCapability
from pipebus.message.codec import JsonCodec
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern
from pipebus.message.slot import Slot, slot_of
from pipebus.transports.base import Binding, Capabilities, Finding, Health, Kept, Surroundings, Transport, Verdict
from pipebus.transports.sql import retention, slots, subscriptions
from pipebus.transports.sql.bound import Bound
from pipebus.transports.sql.records import Outgoing, Settlement
from pipebus.transports.sql.store import Store
from pipebus.transports.sqlite import backup, glance, health, outbox, transaction
from pipebus.transports.sqlite.commits import Job
from pipebus.transports.sqlite.file import OpenFile
from pipebus.transports.sqlite.keeper import Keeper
from pipebus.transports.sqlite.letters import StoredLetters
from pipebus.transports.sqlite.options import Options
from pipebus.transports.sqlite.tail import Follower

LARGEST: Final = 64 * 2**20
"""Bytes of one message. SQLite would take more, but larger data belong in a file of their own, with its name in the message."""

_glancing: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("pipebus.glancing", default=False)


class SqliteTransport(Transport):
    """
    Messages in one SQLite file. It has many methods, since it is the interface to the bus.

    Args:
        options: What the URL says.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.codec = JsonCodec()
        self.capabilities = Capabilities(
            survives="power" if options.durability == "power" else "process",
            order="subject",
            groups=True,
            exclusive_keys=True,
            delay=True,
            dedup_window=options.window,
            replay=True,
            multi_process=True,
            dead_letters=True,
            memory=True,
            transactions=True,
            outbox=True,
            schedules=True,
            max_size=LARGEST,
        )
        self.file = OpenFile(options, lambda: self.letters.cap, self._ring, self._wrote, self._rested)
        self.locks = self.file.locks
        self.letters = self.dead_letters = StoredLetters(
            self.file, self.codec, lambda token, letter: self.settle(token, "dead", 0.0, letter)
        )
        self.patience = 5.0  # seconds that a stop waits for a file that fails or that others hold
        self._settled = threading.local()  # what each thread has settled last
        self._keeper: Keeper | None = None
        self._last: Keeper | None = None  # while it stops, what it has delivered may still be settled

        self.path = options.path
        self.kept_for = max(options.retention, options.window)

    @classmethod
    def from_url(cls, url: str) -> SqliteTransport:
        return cls(Options.from_url(url))

    # --- opening and closing -----------------------------------------------------------------------------------------

    def start(self, surroundings: Surroundings) -> None:
        """
        Raises:
            TransportError: the file cannot be used; the text says why, and it was not changed.
        """
        self._around = surroundings
        self.file.use()
        try:
            keeper = Keeper(self.file, surroundings, self.patience)
        except BaseException:
            self.file.leave()
            raise
        self._keeper = self._last = keeper
        try:
            keeper.start()
        except BaseException:
            self._keeper = None
            self.file.leave()
            raise

    def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stop()
            self.file.leave()
            keeper.complain()

    def _ring(self) -> None:
        if self._keeper is not None:
            self._keeper.ring()

    def _wrote(self) -> None:
        """After each commit of the writer, in the leading thread."""
        if self._keeper is not None:
            self._keeper.touched(self.file.commits.store.touched)

    def _rested(self) -> None:
        if self._keeper is not None:
            self._keeper.rested()

    # --- publishing --------------------------------------------------------------------------------------------------

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        outgoing = self._outgoing(message, delay, strict)
        opened = transaction.current(self.file)
        if opened is not None and not opened.away:
            return opened.run(partial(self._keep, outgoing))
        if asyncio._get_running_loop() is not None:
            raise LifecycleError(
                "publish waits for the disk and would stop the running event loop; use `await bus.apublish(…)`"
            )
        receipt: Receipt = self.file.writer.call(outgoing)
        return receipt

    def asend(self, message: Message[Any], delay: float, strict: bool = False) -> Awaitable[Receipt]:
        outgoing = self._outgoing(message, delay, strict)
        opened = transaction.current(self.file)
        return self.file.writer.acall(outgoing) if opened is None else opened.arun(partial(self._keep, outgoing))

    def _keep(self, outgoing: Outgoing, store: Store) -> Receipt:
        most = self.options.max_bytes
        if most is not None and retention.size(store) > most:
            raise TransportError(f"{self.options.path} is full: more than max_bytes={most:,} are in use")
        return transaction.publish(store, outgoing)

    @contextmanager
    def within(self, connection: Any) -> Iterator[None]:
        with self._hurried(), outbox.within(self.file, connection):
            yield

    @asynccontextmanager
    async def awithin(self, connection: Any) -> AsyncIterator[bool]:
        with self._hurried():
            async with outbox.awithin(self.file, connection) as here:
                yield here

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """Look often, for a while, whether the application has committed."""
        keeper = self._keeper
        if keeper is None:
            raise BusClosed("the bus is stopped: it takes no more messages")
        yield
        keeper.ring()

    def _outgoing(self, message: Message[Any], delay: float, strict: bool) -> Outgoing:
        if self._keeper is None or self._keeper.stopping:
            raise BusClosed("the bus is stopped: it takes no more messages")
        data = self.codec.encode(message)
        limit = self._around.max_message_bytes
        limit = LARGEST if limit is None else min(limit, LARGEST)
        if len(data) > limit:
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {len(data):,} bytes; at most {limit:,} are kept"
            )
        return Outgoing(message.id, str(message.subject), message.key, data, delay, slot_of(message), strict)

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def check(self, binding: Binding) -> None:
        if binding.overflow != "block":
            raise UnsupportedCapability(
                f'subscription {binding.name}: overflow="{binding.overflow}" is for mailboxes in memory; what waits here waits '
                "in the file, so leave it out"
            )

    def bind(self, binding: Binding) -> None:
        self.check(binding)
        keeper = self._keeper
        if keeper is None:
            raise BusClosed("the bus is stopped: it takes no more subscriptions")
        bound = Bound(binding)

        def subscribe(store: Store) -> int:
            owner = bound.owner(keeper.owner)
            sub = subscriptions.subscribe(store, bound.name, bound.patterns, binding.start, owner)
            bound.seen = subscriptions.position(store, sub)
            return sub

        bound.sub = self.file.call(subscribe)
        keeper.add(bound)

    def announce(self, named: list[tuple[str, tuple[Pattern, ...], str]]) -> None:
        def make(store: Store) -> None:
            for name, patterns, start in named:
                if subscriptions.number(store, name) is None:
                    subscriptions.subscribe(store, name, [pattern.text for pattern in patterns], start, None)

        if named:
            self.file.write(make)

    def unbind(self, name: str) -> None:
        keeper = self._keeper
        bound = keeper.bindings.remove(name) if keeper is not None else None
        if keeper is not None and bound is not None and not bound.binding.durable:
            keeper.end(bound)

    def remove(self, name: str) -> None:
        if self._keeper is not None and self._keeper.bindings.get(name) is not None:
            raise TransportError(f"subscription {name} is in use; stop what serves it first")

        def remove(store: Store) -> bool:
            sub = subscriptions.number(store, name)
            if sub is not None:
                subscriptions.remove(store, sub)
            return sub is not None

        if not self.file.write(remove):
            raise TransportError(f"{self.options.path} has no subscription {name}")

    def kept(self) -> list[Kept]:
        with closing(glance.look_into(self.options.path)) as connection:
            return subscriptions.kept(connection)

    def hold(self, name: str, on: bool) -> None:
        if not self.file.write(partial(subscriptions.hold, name=name, on=on)):
            raise TransportError(f"{self.options.path} has no subscription {name}")

    # --- settling ----------------------------------------------------------------------------------------------------

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        self.file.writer.leave([Job(Settlement(token, verdict, delay, why), False)], ring=False)
        self._settled.claim = token
        if self._last is not None:
            self._last.settled(token)

    def holds(self, token: Any) -> bool:
        return self._last is None or self._last.holds(token)

    def flush(self) -> None:
        """
        Raises:
            TransportError: what this thread settled last was not kept, because the file was swapped.
        """
        self.file.call(None)
        claim, self._settled.claim = getattr(self._settled, "claim", None), None
        if claim is not None and claim.refused is not None:
            raise TransportError(claim.refused)

    def backup(self, copy: str) -> int:
        return backup.backup(self.options.path, copy)

    def inspect(self, new: bool = False) -> bool:
        return glance.inspect(self.options.path, new)

    def in_use(self) -> bool:
        return any(one.lives for one in self.file.read(glance.owners))

    def next_due(self, names: list[str]) -> float:
        return self.file.read(lambda connection: subscriptions.next_due(connection, names)) - self.file.now()

    def follow(self, all: bool = False) -> Follower:
        if not os.path.exists(self.options.path):
            self.file.write(lambda store: None)
        return Follower(self.options.path, all=all)

    def health(self) -> Health:
        keeper = self._keeper
        return Health() if keeper is None else keeper.health()

    def examine(self) -> Iterator[Finding]:
        return health.examine(self.options)

    def transaction(self, token: Any) -> AbstractContextManager[sqlite3.Connection]:
        keeper, before = self._last, self.file.log
        if keeper is None:
            raise BusClosed("the bus has never been started")

        def wrote(store: Store) -> None:
            self.file.commits.pages += max(6, (self.file.log - before) // 4096)
            keeper.settled(token)
            keeper.touched(store.touched)
            self._around.changed()

        return transaction.transaction(self.file, token, wrote)

    # --- what filters remember -----------------------------------------------------------------------------------------

    def seen(self, scope: str, key: str) -> bool:
        opened, now = transaction.current(self.file), self.file.now()
        if opened is not None and not opened.away:
            return opened.run(lambda store: retention.knows(store.connection, scope, key, now))
        return self.file.query(lambda connection: retention.knows(connection, scope, key, now))

    def learn(self, scope: str, key: str, seconds: float) -> None:
        opened, learn = transaction.current(self.file), partial(retention.learn, scope=scope, key=key, seconds=seconds)
        if opened is not None:
            opened.run(learn)
        else:
            self.file.writer.leave([Job(learn, False)], ring=False)

    def if_undone(self, call: Callable[[], object]) -> None:
        opened = transaction.current(self.file)
        if opened is not None:
            opened.undo.append(call)

    # --- schedules -----------------------------------------------------------------------------------------------------

    def slot(self, name: str) -> float | None:
        return self.file.query(lambda connection: slots.last(connection, name))

    def skip_slot(self, slot: Slot) -> None:
        self.file.write(lambda store: slots.record(store, slot))

    def forget_schedule(self, name: str) -> bool:
        return self.file.write(lambda store: slots.forget(store, name))

    def schedules(self) -> list[Slot]:
        with closing(glance.look_into(self.options.path)) as connection:
            return slots.every(connection)

    # --- looking -----------------------------------------------------------------------------------------------------

    def pending(self, name: str) -> int:
        """How many deliveries this process holds; if none, 1 if there may be something to claim."""
        bound = self._keeper.bindings.get(name) if self._keeper is not None else None
        if bound is None:
            return 0
        writer = self.file.writer
        while True:
            before = writer.rounds
            found = len(bound.out) or int(not writer.idle) or self.file.peek(bound.sub)
            # A delivery that moved between these checks was seen in neither place; but then something was written, or is being.
            if found or (writer.rounds == before and writer.idle):
                return found

    @contextmanager
    def glancing(self) -> Iterator[None]:
        token = _glancing.set(True)
        try:
            yield
        finally:
            _glancing.reset(token)

    def figures(self, name: str) -> dict[str, Any] | None:
        if self._keeper is not None:
            if not self.file.refresh():  # the file was removed, and all counts with it
                return {"accepted": 0, "acknowledged": 0, "dropped": {}, "dead": 0, "pending": 0, "in_flight": 0}
        elif not os.path.exists(self.options.path):
            return None
        bound = self._keeper.bindings.get(name) if self._keeper is not None else None
        name = name if bound is None else bound.name
        if self._keeper is not None and not (_glancing.get() or self.file.writer.idle):
            with suppress(PipebusError):  # what cannot be settled now counts as in flight
                self.file.call(None, sync=False)

        def look(connection: sqlite3.Connection) -> dict[str, Any] | None:
            found = subscriptions.figures(connection, name)
            if found is not None:
                since = found.pop("since")
                found["oldest"] = None if since is None else max(0.0, glance.moment(connection) - since)
            return found

        return self.file.read(look)
