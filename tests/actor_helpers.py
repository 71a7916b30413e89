"""
What the tests of actors share: actors under control, and every way to run one.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from flow_helpers import LONG, WAIT, Hold, InThread, wait_until
from pipebus import Actor, Bus, Message


def at_rest(bus: Bus) -> None:
    """
    Wait until everything is handled. The drain runs on a thread, because it would wait forever if it failed while a clock does
    not move.
    """
    InThread(bus.drain, WAIT).result()


class Notes(Actor):
    """An actor that records its messages and calls `act`, if there is one, with each."""

    def __init__(self, name: str | None = None, act: Callable[[Message], Any] | None = None) -> None:
        super().__init__(name)
        self.act = act
        self.mail: list[Message] = []

    @property
    def given(self) -> list[Any]:
        return [message.body for message in self.mail]

    def on_message(self, message: Message) -> Any:
        self.mail.append(message)
        return self.act(message) if self.act is not None else None


class AsyncNotes(Notes):
    """The same on an event loop; it waits for a `Hold` on another thread."""

    async def on_message(self, message: Message) -> Any:
        self.mail.append(message)
        if isinstance(self.act, Hold):
            return await asyncio.to_thread(self.act, message)
        done = self.act(message) if self.act is not None else None
        return await done if inspect.isawaitable(done) else done


class PassingNotes(Notes):
    """The same notes, taken by a filter actor."""

    def filter(self, message: Message) -> Message:
        return message


class AsyncPassingNotes(AsyncNotes):
    """The same notes, taken by an async filter actor."""

    async def filter(self, message: Message) -> Message:
        return message


class Sort(NamedTuple):
    """A sort of actor: its class, and where it runs."""

    name: str
    cls: type[Notes]
    run: Any

    def spawn(self, bus: Bus, name: str | None = None, act: Callable[[Message], Any] | None = None, **options: Any) -> Notes:
        return bus.spawn(self.cls(name, act), run=self.run, **options)


SORTS = (
    Sort("pool", Notes, "pool"),
    Sort("thread", Notes, "thread"),
    Sort("loop", Notes, "loop"),
    Sort("async", AsyncNotes, None),
    Sort("filter", PassingNotes, None),
    Sort("filter-thread", PassingNotes, "thread"),
    Sort("filter-async", AsyncPassingNotes, None),
)

every_sort = pytest.mark.parametrize("sort", SORTS, ids=[sort.name for sort in SORTS])
"""Run a test once for each sort of actor; `sort.spawn(bus, …)` makes one."""


# --- filter actors -----------------------------------------------------------------------------------------------------


def as_it_is(message: Message) -> Any:
    """The answer of a filter actor that lets everything pass."""
    return message


class Asked(Actor):
    """A filter actor that gives the answer a test chose, and records the questions and the mail it gets."""

    def __init__(
        self,
        name: str | None = "asked",
        answer: Callable[[Message], Any] = as_it_is,
        control: Callable[[Message], Any] = lambda message: None,
    ) -> None:
        super().__init__(name)
        self.answer = answer
        self.control = control
        self.questions: list[Any] = []
        self.mail: list[Any] = []

    def filter(self, message: Message) -> Any:
        self.questions.append(message.body)
        return self.answer(message)

    def on_message(self, message: Message) -> Any:
        self.mail.append(message.body)
        return self.control(message)

    def wait_for_line(self, questions: int) -> None:
        """Wait until this many questions are in the queue."""
        mailbox: Any = self.subscription
        wait_until(lambda: mailbox.questions == questions, f"{questions} questions stand in line")


async def _awaited(call: Callable[[Message], Any], message: Message) -> Any:
    """Run a `Hold` on another thread, await an async answer, and return any other as it is."""
    if isinstance(call, Answers):
        return await asyncio.to_thread(call, message)
    found = call(message)
    return await found if inspect.isawaitable(found) else found


class AsyncAsked(Asked):
    """The same on an event loop."""

    async def filter(self, message: Message) -> Any:
        self.questions.append(message.body)
        return await _awaited(self.answer, message)

    async def on_message(self, message: Message) -> Any:
        self.mail.append(message.body)
        return await _awaited(self.control, message)


class AsyncFilter(Asked):
    """An async `filter` and a plain `on_message`."""

    async def filter(self, message: Message) -> Any:
        self.questions.append(message.body)
        return await _awaited(self.answer, message)


class AsyncMail(Asked):
    """A plain `filter` and an async `on_message`."""

    async def on_message(self, message: Message) -> Any:
        self.mail.append(message.body)
        return await _awaited(self.control, message)


class Answers(Hold):
    """An answer that waits until it is let out: the message as it is, or what `then` makes of it."""

    def __init__(self, then: Callable[[Message], Any] = as_it_is, *, open: bool = False) -> None:
        super().__init__(open=open)
        self.then = then

    def __call__(self, message: Message) -> Any:
        super().__call__(message)
        return self.then(message)

    def close(self) -> None:
        """Hold every further answer back."""
        self._gate.clear()


def patient(actor: Asked, timeout: float = LONG) -> Asked:
    """Make an actor whose chains wait longer than any test."""
    actor.filter_timeout = timeout
    return actor


class AskedSort(NamedTuple):
    """A sort of filter actor: its class, and where it runs."""

    name: str
    cls: type[Asked]
    run: Any

    def make(self, bus: Bus, *given: Any, **named: Any) -> Asked:
        """Spawn the actor and leave it out of every chain."""
        return bus.spawn(self.cls(*given, **named), run=self.run)

    def use(self, bus: Bus, *given: Any, at: Any = "publish", **named: Any) -> Asked:
        """Spawn the actor and add it to the bus's chain."""
        return bus.use(self.make(bus, *given, **named), at=at)


ASKED_SORTS = (
    AskedSort("pool", Asked, "pool"),
    AskedSort("thread", Asked, "thread"),
    AskedSort("loop", Asked, "loop"),
    AskedSort("async", AsyncAsked, None),
    AskedSort("async-filter", AsyncFilter, None),
    AskedSort("async-mail", AsyncMail, None),
)

every_asked_sort = pytest.mark.parametrize("sort", ASKED_SORTS, ids=[sort.name for sort in ASKED_SORTS])
"""Run a test once for each sort of filter actor; `sort.use(bus, …)` makes one."""

_FREE = [sort for sort in ASKED_SORTS if sort.name in ("pool", "thread", "async", "async-filter")]
every_free_sort = pytest.mark.parametrize("sort", _FREE, ids=[sort.name for sort in _FREE])
"""Those whose `filter` may be held by `Answers` without stopping the bus's loop."""

_AROUND = [sort for sort in ASKED_SORTS if sort.name in ("pool", "thread", "async", "async-mail")]
every_sort_around_handlers = pytest.mark.parametrize("sort", _AROUND, ids=[sort.name for sort in _AROUND])
"""
The sorts whose own mail may pass through another filter actor: nothing can wait in front of a plain `on_message` on a loop.
"""
