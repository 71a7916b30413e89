"""
The hand-written limit where there are many subscribers: mailboxes, a ready list, and a few threads that empty them.

A mailbox that gets its first message is put on the ready list; the thread that takes it from there works through it until
it is empty. So each subscriber sees its messages in order and one at a time, and a slow one keeps one thread, not all.
The orders that could lose a message or run a mailbox twice are closed (next to the code); nothing else is promised.

There are two, because one cannot be best at both: `Pool` keeps a deque for each mailbox and is the fastest; `SparePool`
makes one on demand and lets it go, and is the smallest while nothing happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue
from threading import Lock, Thread
from time import sleep
from typing import Any

from clocks import Crowd
from harness import Flow, Guarantees
from limit import BARE, NO_HEADERS, Message

THREADS = 4
GUARANTEES = Guarantees(f"{THREADS} threads, a deque each; no turns", *BARE)
SPARE = GUARANTEES._replace(words="the same with a deque only while there is mail: small while idle")

Act = Callable[[Message], Any]


class Mailbox:
    """A handler, its messages, and whether a thread is needed to look at them."""

    __slots__ = ("handle", "items", "resting")

    def __init__(self, handle: Act) -> None:
        self.handle = handle
        self.items: deque[Message] = deque()
        self.resting = True


class Pool:
    """Mailboxes that keep their deque."""

    def __init__(self) -> None:
        self.ready: SimpleQueue[Any] = SimpleQueue()
        self.lock = Lock()
        self.threads = [Thread(target=self.work) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    # A put appends and then looks at `resting`. A thread that found the deque empty says `resting` and then looks at the
    # deque once more. Whichever comes second sees the other; the lock lets only one of them act on it.

    def wake(self, mailbox: Any) -> None:
        """Put a mailbox on the ready list, once."""
        with self.lock:
            if not mailbox.resting:
                return
            mailbox.resting = False
        self.ready.put(mailbox)

    def work(self) -> None:
        """Empty one mailbox after the other."""
        get, lock = self.ready.get, self.lock
        while (mailbox := get()) is not None:
            handle, items = mailbox.handle, mailbox.items
            take = items.popleft
            while True:
                try:
                    handle(take())
                    if items:  # one message costs no exception, and many cost one
                        while True:
                            handle(take())
                except IndexError:
                    pass
                with lock:
                    mailbox.resting = True
                    if not items:
                        break
                    mailbox.resting = False

    def close(self) -> None:
        """End the threads when they have emptied what is ready."""
        for _ in self.threads:
            self.ready.put(None)
        for thread in self.threads:
            thread.join()


def open_crowd(crowd: Crowd) -> Flow:
    """Subject -> its mailboxes."""
    pool = Pool()
    routes: dict[str, list[Mailbox]] = {}
    for subject, handle in crowd:
        routes.setdefault(subject, []).append(Mailbox(handle))
    wake, next_id = pool.wake, count(1).__next__

    def publish(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        message = Message(next_id(), subject, body, headers)
        for mailbox in routes[subject]:
            mailbox.items.append(message)
            if mailbox.resting:
                wake(mailbox)

    return Flow(publish, pool.close)


def open_spare_crowd(crowd: Crowd) -> Flow:
    """The same with deques on demand."""
    pool = SparePool()
    routes: dict[str, list[SpareMailbox]] = {}
    for subject, handle in crowd:
        routes.setdefault(subject, []).append(SpareMailbox(handle))
    begin, put, next_id = pool.begin, pool.put, count(1).__next__

    def publish(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        message = Message(next_id(), subject, body, headers)
        for mailbox in routes[subject]:
            if mailbox.items is None:
                begin(mailbox, message)
            else:
                put(mailbox, message)

    return Flow(publish, pool.close)


class SpareMailbox:
    """A handler, and its messages while there are any. An actor has `handle` as a method instead."""

    __slots__ = ("handle", "items")

    def __init__(self, handle: Act) -> None:
        self.handle = handle
        self.items: deque[Message] | None = None


GONE: deque[Message] = deque(maxlen=0)  # the deque of a mailbox that was stopped: it keeps nothing


class SparePool(Pool):
    """Mailboxes that have a deque while there is mail. Anything with `handle` and `items` is one."""

    # `items` changes under the lock only. A put reads it, appends, and reads it again: a deque that was let go in between
    # is nobody's any more, so the put takes its message back out and begins again. If the thread that emptied the mailbox
    # has seen the message, or has put the deque back, there is nothing left to do.
    #
    # Nobody waits for the lock: who finds it taken lets the other thread run and tries again. A thread that waited would be
    # given the lock while it does not have the interpreter, and from then on each message would cost a thread switch. Here
    # the lock is taken twice a message where mail is sparse, and that halves the time.

    def begin(self, mailbox: Any, message: Message) -> None:
        """Give a mailbox its deque, and put it on the ready list."""
        lock = self.lock
        while not lock.acquire(False):
            sleep(0)
        if mailbox.items is None:
            mailbox.items = deque((message,))
            lock.release()
            self.ready.put(mailbox)
        else:  # another publisher was faster
            mailbox.items.append(message)
            lock.release()

    def put(self, mailbox: Any, message: Message) -> None:
        """Append, whatever has become of the deque."""
        items = mailbox.items
        if items is None:
            self.begin(mailbox, message)
            return
        items.append(message)
        if mailbox.items is items:
            return
        lock = self.lock
        while not lock.acquire(False):
            sleep(0)
        try:
            if mailbox.items is items:
                return
            items.remove(message)
        except ValueError:
            return
        finally:
            lock.release()
        self.put(mailbox, message)

    def work(self) -> None:
        """Empty one mailbox after the other, and let its deque go."""
        get, acquire, release = self.ready.get, self.lock.acquire, self.lock.release
        while (mailbox := get()) is not None:
            handle, items = mailbox.handle, mailbox.items
            take = items.popleft
            while True:
                try:
                    handle(take())
                    if items:  # one message costs no exception, and many cost one
                        while True:
                            handle(take())
                except IndexError:
                    pass
                while not acquire(False):
                    sleep(0)
                if mailbox.items is GONE:
                    release()
                    break
                mailbox.items = None
                if not items:
                    release()
                    break
                mailbox.items = items
                release()

    def stop(self, mailbox: Any) -> None:
        """Take no more mail; what a thread has already begun to empty is still handled."""
        lock = self.lock
        while not lock.acquire(False):
            sleep(0)
        mailbox.items = GONE
        lock.release()
