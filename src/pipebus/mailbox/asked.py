"""
The mailbox of a filter actor: one queue for the actor's own messages and for the questions of chains, so that code which
changes the actor by a message and then publishes gets an answer that includes the change.

Questions are not messages: the bound does not count them (each asker waits, so there is at most one per asker), no rule
drops them, and the conservation law leaves them out. When the bus stops they outlive the messages, because a handler that is
still running may have a filter actor in its chain. `end` ends them.
"""

from __future__ import annotations

import contextvars
import itertools
from typing import TYPE_CHECKING, Any, Final

from pipebus.errors import BusClosed
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import closed_for_good
from pipebus.mailbox.parcel import Item, Parcel
from pipebus.mailbox.rare import open_gates
from pipebus.mailbox.shared import STATE as SHARED
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.waiting.latch import Latch
from pipebus.waiting.locks import free

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Question(Latch):
    """A chain's question to a filter actor about one message; it is given an `Answer`."""

    __slots__ = ("context", "inside", "message")

    attempt = 1  # it counts as begun, so no overflow rule drops it

    def __init__(self, message: Message[Any], context: contextvars.Context, inside: bool) -> None:
        super().__init__()
        self.message = message
        self.context = context
        self.inside = inside  # a handler waits for the answer


def is_question(item: Any) -> bool:
    return item.__class__ is Question


class Answer:
    """The result of a question: a value, or an error to raise in the chain that asked."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Waiting:
    """
    A `with` block in which the handler of `asker` waits for an answer from one of `others`. (Not a `contextmanager`, which
    changes the errors that pass through it; they are the user's.)

    It checks only mailboxes with one worker, which does nothing else until its handler continues. If two mailboxes begin to
    wait for each other at the same moment, the second to take the lock finds the first.

    Args:
        asker: None if the caller is not in a handler, so that nothing can wait for it.

    Returns:
        On entry, the names on the way back to `asker` if none of `others` can answer before its handler continues; else None.
    """

    __slots__ = ("asker", "others")

    def __init__(self, asker: Mailbox | None, others: tuple[Mailbox, ...]) -> None:
        self.asker = asker if asker is not None and others and asker.plan.workers == 1 else None
        self.others = others

    def __enter__(self) -> list[str] | None:
        asker = self.asker
        if asker is None:
            return None
        claims = asker.plan.claims
        with free(claims.lock):
            way = circle(asker, self.others)
            claims.waits.setdefault(asker, []).append(self.others)
        return way

    def __exit__(self, *_: object) -> None:
        asker = self.asker
        if asker is None:
            return
        claims = asker.plan.claims
        with free(claims.lock):
            edges = claims.waits[asker]
            edges.remove(self.others)
            if not edges:
                del claims.waits[asker]


def circle(asker: Mailbox, others: tuple[Mailbox, ...]) -> list[str] | None:
    """See `Waiting`. (Called with the claims's lock.)"""
    waits = asker.plan.claims.waits

    def way(one: Mailbox, behind: tuple[Mailbox, ...]) -> list[Mailbox] | None:
        if one is asker:
            return [one]
        if one in behind or one.plan.workers > 1:
            return None
        for answerers in waits.get(one, ()):
            found = ways(answerers, (*behind, one))
            if found is not None:
                return [one, *found]
        return None

    def ways(answerers: tuple[Mailbox, ...], behind: tuple[Mailbox, ...]) -> list[Mailbox] | None:
        """The first answer is enough, so there is a circle only if all of them lead back."""
        found = [way(one, behind) for one in answerers]
        return found[0] if found and all(found) else None

    back = ways(others, ())
    return None if back is None else [mailbox.name for mailbox in (asker, *back)]


STATE: Final = (*SHARED, "answering", "asked", "ended", "hand", "questions")
"""The slots of an asked mailbox; see `shared.STATE`."""


class AskedMailbox(SharedMailbox):
    """A bounded queue with one worker, and questions in it."""

    if not TYPE_CHECKING:
        __slots__ = ()
    hand: Question | None

    def __init__(self, plan: Any, *more: Any, **named: Any) -> None:
        super().__init__(plan, *more, **named)
        self.questions = 0  # queued
        self.answering = 0  # taken and not answered
        self.asked = 0  # all that were ever taken
        self.hand = None  # the last one taken, until it is answered
        self.ended = False

    def ask(self, question: Question) -> None:
        """
        Queue a question.

        Raises:
            BusClosed: the actor has stopped and will not answer.
        """
        with self.lock:
            if self.ended or closed_for_good(self):
                raise self._silent()
            self.items.append(question)  # type: ignore[arg-type]
            self.questions += 1
            calls = self.call_worker()
        if not calls and self.plan.hurry is not None:
            self.plan.hurry(self)
        if calls:
            self.plan.call(self)  # if no worker can start now, the pool tries again soon, and the wait has a time limit

    def _silent(self) -> BusClosed:
        return BusClosed(f"filter actor {self.name} has stopped, and answers no more; spawn it again, or start the bus")

    def answered(self) -> None:
        """The worker has finished with the question that it took."""
        with self.lock:
            self.answering -= 1
            self.hand = None
            if self.rare is not None and self.idle():
                open_gates(self.rare)

    def end(self, at_once: bool = False) -> None:
        """
        After a stop: fail all queued questions, and accept no more.

        Args:
            at_once: Also fail the question that is being answered, if a handler waits for it.
        """
        with self.lock:
            self.ended = True
            self._give_up()
            if at_once and self.hand is not None and self.hand.inside:
                self.hand.give(Answer(error=self._silent()))

    def _give_up(self) -> None:
        for item in self._take_questions():
            item.give(Answer(error=self._silent()))

    def _take_questions(self) -> list[Any]:
        found = [item for item in self.items if is_question(item)]
        kept = [item for item in self.items if not is_question(item)]
        self.items.clear()
        self.items.extend(kept)
        self.questions = 0
        return found

    def may_begin(self) -> bool:
        if self.rare is None or self.rare.closed is None or self.rare.pauses:
            return super().may_begin()
        return self.questions > 0  # when the bus stops, questions outlive messages

    def take(self) -> Item | None:
        with self.lock:
            if not self.may_begin():
                self.go()
                return None
            item = self.items.popleft()
            if is_question(item):
                self.questions -= 1
                self.answering += 1
                self.asked += 1
                self.hand = item  # type: ignore[assignment]
                return item
            item = item if isinstance(item, Parcel) else Parcel(item)
            item.open = True
            self.taken += 1
            self.flying += 1
            return item

    def clear(self, keep: bool) -> list[Item]:
        if not keep:
            self._give_up()
        questions = self._take_questions()
        found = super().clear(keep)
        self.items.extend(questions)
        self.questions = len(questions)
        return found

    def heads(self) -> list[Item]:
        found = [item for item in super().heads() if not is_question(item)]
        return found or [*itertools.islice((item for item in self.items if not is_question(item)), 1)]

    def waiting(self) -> int:
        return super().waiting() - self.questions

    def idle(self) -> bool:
        return self.flying == 0 and self.answering == 0
