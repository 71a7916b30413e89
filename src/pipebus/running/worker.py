"""A worker thread of a pool: it takes mailboxes from the ready list, and works through a slice of each."""

from __future__ import annotations

import contextvars
import threading
from typing import Any, Final

from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED
from pipebus.running.here import begin

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

SLICE: Final = 0.005  # seconds that a worker stays with one mailbox while others are ready: CPython's own switch interval
CHUNK: Final = 32  # messages between two looks at the clock


class Worker(threading.Thread):
    """One thread of the pool."""

    def __init__(self, pool: Any, number: int) -> None:
        super().__init__(name=f"{pool.name}-{number}" if number else pool.name, daemon=True)
        self.pool = pool
        self.gate = threading.Lock()
        self.gate.acquire()
        self.context: contextvars.Context
        self.woken = True  # on its way to the ready list; pool.waking is about this worker
        self.abandoned = False
        self.waits = 0  # how many waits of the bus its handler is in
        self.cut_short = False  # a stop ended its wait
        self.mailbox: Any = None  # the one it works on
        self.item: Any = None  # the message in hand; the last one, while it looks for the next
        self.thread: int | None = None

    def run(self) -> None:
        # Each delivery has its own context. If nothing was left in the last one, it is used again.
        deliveries = begin(self)
        going: Mailbox | bool = True
        while going:
            self.context = deliveries.copy()
            going = self.context.run(self.serve, going)
        self.item = None  # a copy of its context may go to a thread that gets its number next

    def serve(self, going: Mailbox | bool) -> Mailbox | bool:
        """
        Work through one ready mailbox after the other, in one context.

        Args:
            going: A mailbox to continue with, because a delivery left something in the context before this one; or True.

        Returns:
            Such a mailbox; True if only a new context is needed; False if this worker ends.
        """
        pool, ready = self.pool, self.pool.ready
        mailbox: Any = None if going is True else going
        begun = mailbox is not None
        while True:
            if not begun:
                try:
                    mailbox = ready.popleft()
                except IndexError:
                    self.mailbox = self.item = None
                    mailbox = None  # a worker that sleeps must not keep a stopped actor alive
                    if not pool.sleep(self):
                        return False
                    continue
                if self.woken:
                    pool.awake(self)
            self.mailbox = mailbox
            again = self.work_shared(mailbox) if isinstance(mailbox, SharedMailbox) else self.work_solo(mailbox, begun)
            begun = False
            if again is None:
                return mailbox  # type: ignore[no-any-return]
            if again:
                if pool.lent_out and isinstance(mailbox, AskedMailbox) and mailbox.questions:
                    pool.submit_first(mailbox)
                else:
                    pool.submit(mailbox)
            if self.abandoned or (pool.ever_lent and pool.surplus() and pool.retire(self)):
                return False
            if len(self.context) > 1:
                return True

    def work_solo(self, mailbox: Any, begun: bool) -> bool | None:
        """True: back to the ready list. False: at rest, or with another owner. None: continue in another context."""
        box = mailbox.box if begun else mailbox.begin(self)
        if box is None:
            return False
        item: Any = None
        end = 0.0
        try:
            context, ready = self.context, self.pool.ready
            run, quick, take = mailbox.chain(), mailbox.quick, box.popleft
            while True:
                for _ in range(CHUNK):
                    if mailbox.attention:
                        if self.abandoned:
                            return mailbox.leave()  # type: ignore[no-any-return]
                        if not mailbox.attend(box):
                            return False
                    try:
                        item = take()
                    except IndexError:
                        if mailbox.rest(box):
                            return False
                        continue
                    mailbox.taken += 1
                    self.item = item
                    if quick and item.__class__ is Message and item.ttl is None:
                        try:
                            outcome = run(item)
                        except BaseException as error:
                            mailbox.failed(item, error)
                        else:
                            if outcome is None or outcome is HANDLED or mailbox.settled_at_once(item, outcome):
                                mailbox.acknowledged += 1
                            else:
                                mailbox.settle(item, outcome)
                    else:
                        mailbox.deliver(item)
                    if len(context) > 1:
                        return None
                    if not box and not mailbox.attention and mailbox.rest(box):  # no exception, where mail is sparse
                        return False
                quick = mailbox.quick  # somebody may have begun or ceased to look
                if ready:
                    now = self.pool.clock.monotonic()
                    if not end:
                        end = now + SLICE
                    elif now > end:
                        return mailbox.leave()  # type: ignore[no-any-return]
        except BaseException as error:
            return rescued(mailbox, item, error, self)

    def work_shared(self, mailbox: Any) -> bool:
        """True: back to the ready list. False: this worker has left."""
        item = None
        try:
            for _ in range(CHUNK):
                item = mailbox.take()
                if item is None:
                    return False
                self.item = item
                mailbox.deliver(item)
                if len(self.context) > 1 or self.abandoned:
                    break
        except BaseException as error:
            return rescued(mailbox, item, error, self)
        return mailbox.leave()  # type: ignore[no-any-return]


def rescued(mailbox: Any, item: Any, error: BaseException, worker: object) -> bool:
    """
    Contain an unexpected error in settling, so that the worker continues. An item that is still unsettled is a dead letter.

    Returns:
        Whether the mailbox must go to the end of the ready list, like the result of its `leave`.
    """
    if item is not None and mailbox.is_open(item):
        mailbox.bury(item, error)
    return still_at(mailbox, worker) and bool(mailbox.leave())


def still_at(mailbox: Any, worker: object) -> bool:
    """Whether a worker is still in a mailbox that it has begun."""
    return isinstance(mailbox, SharedMailbox) or mailbox.plan.claims.working.get(mailbox) is worker
