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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pipebus.errors import BusClosed, PipelineError
from pipebus.mailbox import Item, Owner, Parcel, Rules
from pipebus.mailbox_shared import SharedMailbox
from pipebus.message import Message
from pipebus.waiting import Once

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Question(Once):
    """One message that a chain asks a filter actor about; given an `Answer`."""

    __slots__ = ("context", "message")

    attempt = 1  # it has begun: no overflow rule may take it

    def __init__(self, message: Message[Any], context: contextvars.Context) -> None:
        super().__init__()
        self.message = message
        self.context = context


def is_question(item: Any) -> bool:
    return item.__class__ is Question


class Answer:
    """What became of a question: a value, or an error that is raised where it was asked."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class AskedMailbox(SharedMailbox):
    """A bounded queue with one worker, and questions in it."""

    __slots__ = ("answering", "asked", "ended", "questions", "waits")

    def __init__(self, rules: Rules, owner: Owner) -> None:
        super().__init__(rules, owner)
        self.questions = 0  # in line
        self.answering = 0  # in hand
        self.asked = 0  # all that were taken
        self.ended = False
        self.waits: list[AskedMailbox] = []  # filter actors that this one waits for at this moment

    @contextmanager
    def waiting_for(self, other: AskedMailbox) -> Iterator[None]:
        """
        Entered by this actor while it asks another.

        Raises:
            PipelineError: that one waits for this one, by itself or by way of others.
        """
        with self.rules.traffic.lock:
            way = other.way_to(self)
            if way is not None:
                names = " -> ".join(mailbox.owner.name for mailbox in (self, *way))
                raise PipelineError(
                    f"filter actors would wait for each other ({names}); publish after the answer, or take one of them out"
                )
            self.waits.append(other)
        try:
            yield
        finally:
            with self.rules.traffic.lock:
                self.waits.remove(other)

    def way_to(self, goal: AskedMailbox) -> list[AskedMailbox] | None:
        """Over whom this one waits for `goal`. (Nobody can wait in a circle, so it ends.)"""
        if self is goal:
            return [self]
        for other in self.waits:
            way = other.way_to(goal)
            if way is not None:
                return [self, *way]
        return None

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
        self.schedule(schedule)

    def _silent(self) -> BusClosed:
        return BusClosed(f"filter actor {self.owner.name} has stopped, and answers no more; spawn it again, or start the bus")

    def answered(self) -> None:
        """One question that was taken is done with."""
        with self.lock:
            self.answering -= 1
            self._open_gates()

    def end(self) -> None:
        """After a stop: no question will be answered any more."""
        with self.lock:
            self.ended = True
            self._give_up()

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
            else:
                item = item if isinstance(item, Parcel) else Parcel(item)
                item.open = True
                self.taken += 1
                self.flying += 1
            return item

    def counts(self) -> dict[str, Any]:
        """The law's figures, and beside them how many questions were taken."""
        return super().counts() | {"questions": self.asked}
