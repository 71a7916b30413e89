"""
The transport: what the bus calls, and the keeper, one thread that brings messages in.

The keeper claims deliveries for the subscriptions of this process, hands them in, writes what nobody waits for, keeps the
lease, takes over what processes that have ended have left, and makes room. It sleeps until somebody rings, and looks up every
few milliseconds whether another process has written (`PRAGMA data_version`, some microseconds each; less often the longer
nothing happens).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from typing import Any, Final, TypeVar

from pipebus.codec import JsonCodec
from pipebus.errors import BusClosed, LifecycleError, MessageTooLarge, PipebusError, TransportError, UnsupportedCapability
from pipebus.message import Message, Receipt
from pipebus.transports.base import Binding, Capabilities, Surroundings, Transport, Verdict
from pipebus.transports.sqlite import boot, schema, transaction
from pipebus.transports.sqlite.claims import Bound
from pipebus.transports.sqlite.files import WriteLock
from pipebus.transports.sqlite.letters import StoredLetters
from pipebus.transports.sqlite.options import Options
from pipebus.transports.sqlite.store import Claim, Directory, Outgoing, Owner, Settlement, Store
from pipebus.transports.sqlite.writer import Job, Task, Writer

T = TypeVar("T")
LARGEST: Final = 64 * 2**20
"""Bytes of one message. SQLite would take more; what is larger belongs in a file of its own, and its name in the message."""
QUICK: Final = 0.002
SLOW: Final = 0.02
"""Seconds between two looks at what other processes have written: shortly after something happened, and later."""
LATER: Final = 0.01
"""Seconds until a delivery that found no room is offered again."""
PAGES: Final = 4000
"""About so many pages in the log before it is moved into the database."""
TICK: Final = 1.0
"""Seconds between two looks at who has ended and what may be deleted."""


class SqliteTransport(Transport):
    """
    Messages in one SQLite file.

    Args:
        options: What the URL says.
    """

    local = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self.codec = JsonCodec()
        self.capabilities = Capabilities(
            survives="power" if options.durability == "power" else "process",
            order="subject",
            groups=True,
            delay=True,
            dedup_window=options.window,
            replay=True,
            multi_process=True,
            dead_letters=True,
            memory=True,
            transactions=True,
            max_size=LARGEST,
        )
        self.letters = self.dead_letters = StoredLetters(self, self.codec)
        self._lock = threading.Lock()  # opening and closing; bindings
        self._bound: dict[str, Bound] = {}
        self._by_number: dict[int, Bound] = {}
        self._bell = threading.Event()
        self._keeper: threading.Thread | None = None
        self._open = False
        self._stopping = False
        self._directory = Directory()
        self.owner = 0
        self._turn = 0
        self._users = 0
        self._pid = 0
        self.patience = 5.0  # a stop waits so long, in seconds, for a file that fails, or that others hold

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
        self._use_file()
        self.life = boot.me()
        self._stopping = False
        try:
            self.owner = self._writer.call(self._enter)
        except BaseException:
            self._leave_file()
            raise
        self.renewed = self._now()
        self._due = 0.0
        self._ticked = 0.0
        self._bell.clear()
        self._keeper = threading.Thread(target=self._keep, name="pipebus-sqlite", daemon=True)
        self._keeper.start()
        self._writer.kept = True

    def _enter(self, store: Store) -> int:
        """Be an owner; and what others have left behind waits again, before anybody asks whether something waits."""
        for owner, ended in self._gone(self._now()):
            store.expire(owner, ended)
        return store.enter(self.life, self.until())

    def _use_file(self) -> None:
        """Open the file, if nobody has yet."""
        if self._users and os.getpid() != self._pid:
            raise LifecycleError("this file was opened before a fork, in the parent; make a bus in the child")
        with self._lock:
            self._pid = os.getpid()
            self._users += 1
            if self._users > 1:
                return
            try:
                self._open_file()
            except BaseException:
                self._users -= 1
                raise

    def _open_file(self) -> None:
        path, boot_now = self.options.path, boot.boot_id()
        wait = self.options.wait
        self._look()
        lock = WriteLock(path, wait)
        try:
            lock.open()
        except OSError as error:
            raise TransportError(
                f"{path}-lock cannot be opened: {error.strerror}; {schema.REMEDIES['unable to open']}"
            ) from None
        opened: list[sqlite3.Connection] = []
        try:
            with lock.held():
                schema.look_at(path, wait)
                opened.append(schema.open_file(path, wait))
                store = self._store(opened[0])
                self._base = self._catch_up(store, boot_now)
            opened.append(schema.connect(path, wait))
            self._reading = opened[1]
            self._reading.execute("PRAGMA query_only = ON")
        except BaseException as error:
            for connection in reversed(opened):
                connection.close()
            lock.close()
            if isinstance(error, sqlite3.Error):
                raise TransportError(f"{path} cannot be opened: {schema.said(error)}") from error
            raise
        self._read_lock = threading.Lock()
        self._files = lock
        options = self.options
        power = options.durability == "power"
        self._writer = Writer(store, lock, power, options.max_bytes, path, self._ring, self._wrote, self._rested)
        self._version = -1
        self._told = 0
        self._log = 0  # its size at the last checkpoint
        self._open = True

    def _look(self) -> None:
        """Refuse another program's file before a trace of us is left beside it. With a lock file nobody can say yet."""
        if not os.path.exists(f"{self.options.path}-lock"):
            schema.look_at(self.options.path, self.options.wait)

    def _store(self, connection: sqlite3.Connection) -> Store:
        options = self.options
        return Store(connection, self._directory, self._now, options.window, options.retention, self.letters.cap)

    def _catch_up(self, store: Store, boot_now: str) -> float:
        """
        What to add to the clock since boot, so that the file's time goes on. After a new boot that is the time that passed by
        the calendar, and not less than none; everybody from before has ended.
        """
        base = store.meta("base")
        if base is not None and store.meta("boot") == boot_now:
            return float(base)
        store.execute("BEGIN IMMEDIATE")
        try:
            last = store.execute("SELECT max(stored) FROM message").fetchone()[0] or 0.0
            base = max(time.time(), last) - boot.since_boot()
            store.set_meta("boot", boot_now)
            store.set_meta("base", base)
            for owner in store.owners():
                store.leave(owner.owner, counts=True)
            store.execute("COMMIT")
        except BaseException:
            if store.connection.in_transaction:  # a failing disk has ended it already
                with suppress(sqlite3.Error):
                    store.execute("ROLLBACK")
            raise
        return float(base)

    def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._stopping = True
        self._files.wait = min(self._files.wait, self.patience)
        self._ring()
        keeper.join()
        self._writer.kept = False
        if not self._writer.idle:  # it has given up
            self._files.wait = 0.1
        with self._lock:
            self._bound.clear()
            self._by_number.clear()
        with suppress(PipebusError):  # told below; its lease will end
            self._leave()
        self._leave_file()

    def _leave(self) -> None:
        owner = self.owner
        try:
            self._writer.call(lambda store: store.leave(owner, counts=False))
        except PipebusError as error:
            self._around.warn("store.not_left", path=self.options.path, error=str(error))
            raise

    def _leave_file(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            self._writer.close()
            with self._read_lock:
                self._open = False
                self._reading.close()
            with suppress(PipebusError), self._files.held():  # the last to close moves the log into the database
                self._writer.store.connection.close()
            self._files.close()

    # --- for dead letters, tools and filters -------------------------------------------------------------------------

    def write(self, task: Callable[[Store], T]) -> T:
        """Run a function of the store in a transaction (this handler's, if it has one open); also while the bus is stopped."""
        store = transaction.current(self)
        if store is not None:
            return task(store)
        self._use_file()
        try:
            found: T = self._writer.call(task)
            return found
        finally:
            self._leave_file()

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of a connection that only reads; also while the bus is stopped, and then without any lock."""
        path, wait = self.options.path, self.options.wait
        try:
            if self._keeper is None:
                self._look()
                with closing(schema.connect(path, wait, "ro")) as connection:
                    return query(connection)
            self._use_file()
            try:
                with self._read_lock:
                    return query(self._reading)
            finally:
                self._leave_file()
        except sqlite3.Error as error:
            raise TransportError(f"{path}: {schema.said(error)}") from error

    # --- publishing --------------------------------------------------------------------------------------------------

    def send(self, message: Message[Any], delay: float) -> Receipt:
        outgoing = self._outgoing(message, delay)
        store = transaction.current(self)
        if store is not None:
            most = self.options.max_bytes
            if most is not None and store.size() > most:
                raise TransportError(f"{self.options.path} is full: more than max_bytes={most:,} are in use")
            return transaction.publish(store, outgoing)
        if asyncio._get_running_loop() is not None:
            raise LifecycleError(
                "publish waits for the disk and would stop the running event loop; use `await bus.apublish(…)`"
            )
        receipt: Receipt = self._writer.call(outgoing)
        return receipt

    def asend(self, message: Message[Any], delay: float) -> Awaitable[Receipt]:
        outgoing = self._outgoing(message, delay)
        store = transaction.current(self)
        if store is None:
            return self._writer.acall(outgoing)
        # An async chain, run on the bus's loop for a handler that waits for it inside its transaction.
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        done.set_result(transaction.publish(store, outgoing))
        return done

    def _outgoing(self, message: Message[Any], delay: float) -> Outgoing:
        if self._stopping or self._keeper is None:
            raise BusClosed("the bus is stopped: it takes no more messages")
        data = self.codec.encode(message)
        limit = self._around.max_message_bytes
        limit = LARGEST if limit is None else min(limit, LARGEST)
        if len(data) > limit:
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {len(data):,} bytes; at most {limit:,} are kept"
            )
        return Outgoing(message.id, str(message.subject), message.key, data, delay)

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def bind(self, binding: Binding) -> None:
        if not binding.durable and not binding.name.startswith("_"):
            raise UnsupportedCapability(
                f"{self.options.path} keeps messages for subscriptions by name, and {binding.name} has none of its own; "
                'say subscribe(…, name="…")'
            )
        if binding.overflow != "block":
            raise UnsupportedCapability(
                f'subscription {binding.name}: overflow="{binding.overflow}" is for mailboxes in memory; what waits here waits '
                "in the file, so leave it out"
            )
        bound = Bound(binding, time.monotonic())

        def subscribe(store: Store) -> int:
            return store.subscribe(bound.name, bound.patterns, binding.start, bound.owner(self.owner))

        sub = bound.sub = self._call(subscribe)
        with self._lock:
            self._bound[binding.name] = self._by_number[sub] = bound
        self._ring()

    def unbind(self, name: str) -> None:
        with self._lock:
            bound = self._bound.pop(name, None)
            if bound is None:
                return
            del self._by_number[bound.sub]
        if not bound.binding.durable:
            with suppress(PipebusError):  # it goes with its owner
                self._call(lambda store: store.remove(bound.sub), sync=False)

    def remove(self, name: str) -> None:
        """
        Forget a durable subscription with all that it has coming; its dead letters stay.

        Raises:
            TransportError: there is none of that name, or it is in use here.
        """
        if name in self._bound:
            raise TransportError(f"subscription {name} is in use; stop what serves it first")

        def remove(store: Store) -> bool:
            sub = store.number(name)
            if sub is not None:
                store.remove(sub)
            return sub is not None

        if not self.write(remove):
            raise TransportError(f"{self.options.path} has no subscription {name}")

    # --- settling ----------------------------------------------------------------------------------------------------

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        self._writer.leave([Job(Settlement(token, verdict, delay, why), False)], ring=False)
        self._settled(token)

    def _settled(self, claim: Claim) -> None:
        bound: Bound = claim.binding
        bound.out.pop(claim, None)
        if bound.settle():
            self._ring()

    def flush(self) -> None:
        self._call(None)

    def _call(self, task: Task | None, sync: bool = True) -> Any:
        if transaction.current(self) is not None:
            raise LifecycleError("this would wait for the transaction that this handler has open; do it before or after that")
        return self._writer.call(task, sync)

    def transaction(self, token: Any) -> AbstractContextManager[sqlite3.Connection]:
        def connect() -> Store:
            return self._store(schema.prepare(schema.connect(self.options.path, self.options.wait)))

        log = f"{self.options.path}-wal"
        before = _size(log)

        def wrote(store: Store) -> None:
            self._writer.pages += max(6, (_size(log) - before) // 4096)
            self._settled(token)
            self._touched(store.touched)
            self._around.changed()

        return transaction.transaction(self, connect, self._files, token, self.options.path, wrote, self._writer.doubt)

    # --- what filters remember -----------------------------------------------------------------------------------------

    def seen(self, scope: str, key: str) -> bool:
        query = "SELECT 1 FROM seen WHERE scope = ? AND key = ? AND until > ?"
        store = transaction.current(self)
        if store is not None:
            return bool(store.execute(query, (scope, key, self._now())).fetchall())
        return bool(self.read(lambda connection: connection.execute(query, (scope, key, self._now())).fetchall()))

    def learn(self, scope: str, key: str, seconds: float) -> None:
        def learn(store: Store) -> None:
            store.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (scope, key, store.now() + seconds))

        open_store = transaction.current(self)
        if open_store is not None:
            learn(open_store)
        else:
            self._writer.leave([Job(learn, False)], ring=False)

    def if_undone(self, call: Callable[[], object]) -> None:
        transaction.if_undone(self, call)

    # --- looking -----------------------------------------------------------------------------------------------------

    def pending(self, name: str) -> int:
        """What is out here; and 1 if there is anything to claim."""
        bound = self._bound.get(name)
        if bound is None:
            return 0
        while True:
            before = self._writer.rounds
            found = len(bound.out) or int(not self._writer.idle) or self._peek(bound.sub)
            # A delivery that moved between these looks was seen in neither place; but then something was written, or is being.
            if found or (self._writer.rounds == before and self._writer.idle):
                return found

    def _peek(self, sub: int) -> int:
        with self._read_lock:
            if not self._open:
                return 0
            try:
                return len(self._reading.execute("SELECT 1 FROM ready WHERE sub = ? LIMIT 1", (sub,)).fetchall())
            except sqlite3.Error as error:
                raise TransportError(f"{self.options.path}: {schema.said(error)}") from error

    def figures(self, name: str) -> dict[str, Any] | None:
        if not os.path.exists(self.options.path):
            return None
        if self._keeper is not None and not self._writer.idle:
            with suppress(PipebusError):  # what cannot be settled now is in flight
                self._call(None, sync=False)

        def count(connection: sqlite3.Connection) -> dict[str, Any] | None:
            connection.execute("BEGIN")  # all from one moment
            try:
                row = connection.execute(
                    "SELECT sub, accepted, acknowledged FROM subscription WHERE name = ?", (name,)
                ).fetchone()
                if row is None:
                    return None
                sub = row[0]
                one = {
                    table: connection.execute(f"SELECT count(*) FROM {table} WHERE sub = ?", (sub,)).fetchone()[0]
                    for table in ("ready", "later", "claimed", "dead")
                }
                dropped = dict(connection.execute("SELECT reason, count FROM dropped WHERE sub = ? ORDER BY reason", (sub,)))
            finally:
                connection.execute("COMMIT")
            return {
                "accepted": row[1],
                "acknowledged": row[2],
                "dropped": dropped,
                "dead": one["dead"],
                "pending": one["ready"] + one["later"],
                "in_flight": one["claimed"],
            }

        return self.read(count)

    # --- the keeper --------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """The file's time, in seconds: about the calendar's, but it never jumps."""
        return boot.since_boot() + self._base

    def until(self) -> float:
        return self._now() + self.options.lease

    def _wrote(self) -> None:
        """After each commit of the writer, in the thread that led."""
        self._touched(self._writer.store.touched)

    def _complain(self) -> None:
        """Of settlements that came too late, or cannot be written."""
        stale = self._writer.stale
        if stale > self._told:
            self._around.warn("delivery.settled_too_late", path=self.options.path, deliveries=stale - self._told)
            self._told = stale
        while self._writer.complaints:
            verdict, error = self._writer.complaints.popleft()
            self._around.warn("delivery.not_settled", path=self.options.path, verdict=verdict, error=error)

    def _ring(self) -> None:
        if not self._bell.is_set():
            self._bell.set()

    def _touched(self, subs: set[int]) -> None:
        ring = False
        for sub in subs:
            bound = self._by_number.get(sub)
            if bound is not None:
                bound.maybe = ring = True
        if ring:
            self._ring()

    def _keep(self) -> None:
        quiet_since = failing_since = time.monotonic()
        pause = 0.0
        while not (self._stopping and self._writer.idle):
            try:
                busy = self._round()
                pause = 0.0
            except Exception as error:
                # The file failed, or we did. Everything is still in line, or in the file; who waits in line has to be told.
                with suppress(Exception):  # it is the same, or told to whoever waits
                    if not self._writer.idle:
                        self._writer.call(None, sync=False)
                if not pause:
                    failing_since = time.monotonic()
                if self._stopping and time.monotonic() - failing_since >= self.patience:
                    self._around.warn("store.not_settled", path=self.options.path, error=str(error))
                    return
                if not pause:
                    self._around.warn("store.failed", path=self.options.path, error=str(error))
                pause = min(max(pause * 2, 0.05), 1.0)
                busy = False
            now = time.monotonic()
            if busy:
                quiet_since = now
                continue
            timeout = pause or (QUICK if now - quiet_since < 1.0 else SLOW)
            if self._bell.wait(timeout) and not pause:
                quiet_since = now
            if pause:
                time.sleep(min(pause, 0.05))
            self._bell.clear()

    def _round(self) -> bool:
        """Whatever there is to do; True if there may be more at once."""
        now = time.monotonic()
        self._complain()
        with self._read_lock:
            version = self._reading.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            for bound in self.bindings():
                bound.maybe = True
            self._due = self._next_due()
        tasks = self._duties(now)
        wanted = [] if self._stopping else self._wanted(now)
        if not tasks and not wanted:
            if self._writer.idle:
                return False
            self._writer.call(None, sync=False)
            self._after()
            return False
        work = Round(self, tasks, wanted, looks=bool(tasks))
        try:
            self._writer.call(work, sync=False)
        except BaseException:
            work.undo()
            raise
        work.carry_out()
        for bound, claims, datas in work.claimed:
            self._hand_in(bound, claims, datas)
        self._after()
        return any(claims for _, claims, _ in work.claimed)

    def _wanted(self, now: float) -> list[tuple[Bound, int]]:
        wanted: list[tuple[Bound, int]] = []
        bindings = self.bindings()
        self._turn += 1  # who comes first takes a suspect, if there are any
        first = self._turn % len(bindings) if bindings else 0
        for bound in (*bindings[first:], *bindings[:first]):
            count = bound.wants(now)
            if count:
                if self._peek(bound.sub):
                    wanted.append((bound, count))
                else:
                    bound.maybe = False
                    # Between the look and this line somebody may have published: they ring after their commit, so look again.
                    if self._peek(bound.sub):
                        bound.maybe = True
                        wanted.append((bound, count))
        return wanted

    def _hand_in(self, bound: Bound, claims: list[Claim], datas: list[bytes]) -> None:
        if not claims:  # what is ready has to wait for others: of its key, or suspects
            bound.not_before = time.monotonic() + LATER
        for number, (claim, data) in enumerate(zip(claims, datas, strict=True)):
            if not bound.binding.deliver(data, claim, claim.takings):
                back = claims[number:]
                for one in back:
                    bound.out.pop(one, None)
                bound.not_before = time.monotonic() + LATER
                bound.maybe = True
                self._writer.leave([Job(Settlement(one, "release", 0.0, ""), False) for one in back])
                return

    def _duties(self, now: float) -> list[Callable[[Store], object]]:
        """What the file needs by now."""
        duties: list[Callable[[Store], object]] = []
        moment = self._now()
        if self._due <= moment:
            duties.append(lambda store: store.wake())
            self._version = -1  # and look when the next one is due
        if moment - self.renewed >= self.options.lease / 3:
            duties.append(lambda store: None)  # each transaction of the keeper renews the lease
        if now - self._ticked >= TICK:
            self._ticked = now
            duties += [partial(Store.expire, owner=owner, ended=ended) for owner, ended in self._gone(moment)]
            duties.append(lambda store: store.sweep())
        return duties

    def _next_due(self) -> float:
        with self._read_lock:
            found = self._reading.execute("SELECT due FROM later ORDER BY due LIMIT 1").fetchone()
        return float(found[0]) if found is not None else float("inf")

    def _gone(self, moment: float) -> list[tuple[Owner, bool]]:
        """Owners that have given no sign of life in time; and whether their process has ended for certain."""
        with self._read_lock:
            rows = self._reading.execute(
                "SELECT owner, boot, space, pid, born, until FROM owner WHERE owner != ?", (self.owner,)
            ).fetchall()
        owners = [Owner(row[0], boot.Life(*row[1:5]), row[5]) for row in rows]
        found = [(owner, boot.ended(owner.life, self.life)) for owner in owners]
        return [(owner, ended) for owner, ended in found if ended or owner.until <= moment]

    def move(self, bound: Bound, sub: int) -> None:
        """A subscription has a new number."""
        with self._lock:
            if self._by_number.pop(bound.sub, None) is bound:
                bound.sub = sub
                self._by_number[sub] = bound
        bound.maybe = True
        self._around.warn("subscription.made_again", path=self.options.path, subscription=bound.name)

    def lost_lease(self) -> None:
        self._around.warn("lease.lost", path=self.options.path)

    def bindings(self) -> list[Bound]:
        return list(self._bound.values())

    def _rested(self) -> None:
        """Everything in line is written: whoever waits for a quiet moment may look."""
        if self._keeper is not None and not any(bound.out for bound in self.bindings()):
            self._around.changed()

    def _after(self) -> None:
        size = _size(f"{self.options.path}-wal")
        if self._writer.pages >= PAGES or size > max(self._log, schema.LOG):
            self._writer.checkpoint()
            self._log = size


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class Round:
    """
    What the keeper writes in one transaction: its lease, some duties, claims. It may be run again, if the transaction failed;
    so what it changes beside the file is taken back by `undo`, or is changed in `carry_out`, after the commit.
    """

    def __init__(
        self, transport: SqliteTransport, tasks: list[Callable[[Store], object]], wanted: list[tuple[Bound, int]], looks: bool
    ) -> None:
        self.transport = transport
        self.tasks = tasks
        self.wanted = wanted
        self._looks = looks
        self.claimed: list[tuple[Bound, list[Claim], list[bytes]]] = []
        self._adopted: list[tuple[Claim, int, int]] = []  # with the owner and takings they had
        self._moved: list[tuple[Bound, int]] = []  # to a new row
        self._owner = 0
        self._until = 0.0

    def __call__(self, store: Store) -> None:
        self.undo()
        transport = self.transport
        owner, until = transport.owner, transport.until()
        if not store.renew(owner, until):
            # This process was asleep for longer than its lease, and others have thought it dead.
            owner = store.enter(transport.life, until)
            held = [claim for bound in transport.bindings() for claim in list(bound.out)]
            self._looks = True  # what is this process's own has gone with the lease
            for claim, takings in store.adopt(held, owner):
                # At once, under the lock for writers: a settlement that follows this transaction has to find its new fence.
                self._adopted.append((claim, claim.owner, claim.takings))
                claim.owner, claim.takings = owner, takings
        self._owner, self._until = owner, until
        for bound in transport.bindings() if self._looks else ():
            if store.number(bound.name) != bound.sub:  # gone with a lost lease, or removed by somebody
                self._moved.append((bound, store.subscribe(bound.name, bound.patterns, "new", bound.owner(owner))))
        for task in self.tasks:
            task(store)
        careful = any(bound.suspects for bound in transport.bindings())
        for bound, count in self.wanted:
            found = store.claim(bound.sub, owner, count, careful if bound.binding.handled else None)
            claims = [Claim(bound, bound.sub, owner, one) for one in found]
            self.claimed.append((bound, claims, [one.data for one in found]))
            bound.out.update(dict.fromkeys(claims))
            careful = careful or bound.suspects  # before the commit: a drain must not find them nowhere

    def undo(self) -> None:
        for bound, claims, _ in self.claimed:
            for claim in claims:
                bound.out.pop(claim, None)
        for claim, owner, takings in self._adopted:
            claim.owner, claim.takings = owner, takings
        self.claimed.clear()
        self._adopted.clear()
        self._moved.clear()

    def carry_out(self) -> None:
        transport = self.transport
        if self._owner != transport.owner:
            transport.lost_lease()
            transport.owner = self._owner
        for bound, sub in self._moved:
            transport.move(bound, sub)
        transport.renewed = self._until - transport.options.lease
