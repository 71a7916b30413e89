"""
The mailbox of a filter actor: messages addressed to it, and the questions of chains, in one line, so that who changes the
actor by mail and then publishes is asked about with the change in place.

Questions are no messages: the bound does not count them (who asks waits, so there are no more than askers), no rule drops
them, and the conservation law knows nothing of them. When the bus stops they outlive the messages: a handler that is still
running may have a filter actor around it. `end` is for them.
"""

from __future__ import annotations

import contextvars
from collections import deque
from typing import Any, Final

from pipebus.errors import BusClosed
from pipebus.mailbox.mailbox import Item, Mailbox, Owner, Parcel, Rules
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.waiting.latch import Latch
from pipebus.waiting.locks import free

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Question(Latch):
    """One message that a chain asks a filter actor about; given an `Answer`."""

    __slots__ = ("context", "inside", "message")

    attempt = 1  # it has begun: no overflow rule may take it

    def __init__(self, message: Message[Any], context: contextvars.Context, inside: bool) -> None:
        super().__init__()
        self.message = message
        self.context = context
        self.inside = inside  # a handler waits for the answer


def is_question(item: Any) -> bool:
    return item.__class__ is Question


class Answer:
    """What became of a question: a value, or an error that is raised where it was asked."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Waiting:
    """
    Entered while the handler of `asker` waits until one of `others` has answered it. (Not a `contextmanager`, which touches the
    errors that pass it; they are the user's.)

    Only mailboxes with one worker are looked at: such a one does nothing else until its handler goes on. Of two that come to
    wait for each other at the same moment, the second to take the lock finds the first.

    Args:
        asker: None: nobody else waits for who asks here.

    Returns:
        On entry, the names on the way back to `asker`, if none of `others` can answer before its handler has gone on.
    """

    __slots__ = ("asker", "others")

    def __init__(self, asker: Mailbox | None, others: tuple[Mailbox, ...]) -> None:
        self.asker = asker if asker is not None and others and asker.rules.workers == 1 else None
        self.others = others

    def __enter__(self) -> list[str] | None:
        asker = self.asker
        if asker is None:
            return None
        traffic = asker.rules.traffic
        with free(traffic.lock):
            way = circle(asker, self.others)
            traffic.waits.setdefault(asker, []).append(self.others)
        return way

    def __exit__(self, *_: object) -> None:
        asker = self.asker
        if asker is None:
            return
        traffic = asker.rules.traffic
        with free(traffic.lock):
            edges = traffic.waits[asker]
            edges.remove(self.others)
            if not edges:
                del traffic.waits[asker]


def circle(asker: Mailbox, others: tuple[Mailbox, ...]) -> list[str] | None:
    """See `Waiting`. (Called with the traffic's lock.)"""
    waits = asker.rules.traffic.waits

    def way(one: Mailbox, behind: tuple[Mailbox, ...]) -> list[Mailbox] | None:
        if one is asker:
            return [one]
        if one in behind or one.rules.workers > 1:
            return None
        for answerers in waits.get(one, ()):
            found = ways(answerers, (*behind, one))
            if found is not None:
                return [one, *found]
        return None

    def ways(answerers: tuple[Mailbox, ...], behind: tuple[Mailbox, ...]) -> list[Mailbox] | None:
        """The first answer is enough: so all of them have to lead back."""
        found = [way(one, behind) for one in answerers]
        return found[0] if found and all(found) else None

    back = ways(others, ())
    return None if back is None else [mailbox.owner.name for mailbox in (asker, *back)]


class AskedMailbox(SharedMailbox):
    """A bounded queue with one worker, and questions in it."""

    __slots__ = ("answering", "asked", "ended", "hand", "questions")

    def __init__(self, rules: Rules, owner: Owner) -> None:
        super().__init__(rules, owner)
        self.questions = 0  # in line
        self.answering = 0  # in hand
        self.asked = 0  # all that were taken
        self.hand: Question | None = None  # the one that was taken last
        self.ended = False

    def ask(self, question: Question) -> None:
        """
        Stand a question in line.

        Raises:
            BusClosed: nobody will answer.
        """
        with self.lock:
            if self.ended or self.closed_for_good():
                raise self._silent()
            if self.items is None:
                self.items = deque()
            self.items.append(question)  # type: ignore[arg-type]
            self.questions += 1
            schedule = self._call_worker()
        if not schedule and self.rules.hurry is not None:
            self.rules.hurry(self)
        self.schedule(schedule)  # a worker that cannot be started now is started soon; the wait for the answer has its end

    def _silent(self) -> BusClosed:
        return BusClosed(f"filter actor {self.owner.name} has stopped, and answers no more; spawn it again, or start the bus")

    def answered(self) -> None:
        """One question that was taken is done with."""
        with self.lock:
            self.answering -= 1
            self.hand = None
            self._open_gates()

    def end(self, at_once: bool = False) -> None:
        """
        After a stop: no question will be answered any more.

        Args:
            at_once: Nor does a handler wait any longer for the answer to the one in hand.
        """
        with self.lock:
            self.ended = True
            self._give_up()
            if at_once and self.hand is not None and self.hand.inside:
                self.hand.give(Answer(error=self._silent()))

    def _give_up(self) -> None:
        kept: deque[Item] = deque()
        item: Any
        for item in self.items or ():
            if is_question(item):
                item.give(Answer(error=self._silent()))
            else:
                kept.append(item)
        self.items = kept or None
        self.questions = 0

    def reopen(self) -> bool:
        self.ended = False
        return super().reopen()

    def _ahead(self, left: deque[Item] | None) -> deque[Item] | None:
        return deque((*(self.items or ()), *(left or ()))) or None  # the questions, which have waited on

    def waiting(self) -> int:
        return super().waiting() - self.questions

    def _idle(self) -> bool:
        return self.flying == 0 and self.answering == 0

    def _behind(self) -> deque[Item] | None:
        if self.rare is not None and not self.rare.keep:
            self._give_up()
            return super()._behind()
        items = self.items or deque()
        questions = deque(item for item in items if is_question(item))
        self.items = questions or None
        return deque(item for item in items if not is_question(item)) or None

    def _call_worker(self) -> int:
        rare = self.rare
        if rare is None or rare.closed is None or rare.paused:
            return super()._call_worker()
        if not self.questions or self.claims >= self.rules.workers:
            return 0
        self.claims += 1
        self._tell(busy=1)
        self.rules.enlist(self)
        return 1

    def take(self) -> Item | None:
        with self.lock:
            if not self.items or (self.rare is not None and self.rare.paused):
                self.claims -= 1
                self._tell(busy=-1)
                return None
            item = self.items.popleft()
            if is_question(item):
                self.questions -= 1
                self.answering += 1
                self.asked += 1
                self.hand = item  # type: ignore[assignment]
            else:
                item = item if isinstance(item, Parcel) else Parcel(item)
                item.open = True
                self.taken += 1
                self.flying += 1
            return item

    def counts(self) -> dict[str, Any]:
        """The law's figures, and beside them how many questions were taken."""
        return super().counts() | {"questions": self.asked}
