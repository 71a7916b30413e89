"""
What stands behind a filter in a test: the rest of its chain, as a script.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from pipebus import links
from pipebus.errors import PipelineError, SubjectChanged
from pipebus.message import HANDLED, Dropped, Handled, Message, Receipt
from pipebus.pipeline import is_async
from pipebus.settings import is_duration
from pipebus.testing.tape import Tape, gives, raises, short


class After:
    """Made by `after`."""

    def __init__(self, seconds: float, then: Any) -> None:
        self.seconds = seconds
        self.then = then


def after(seconds: float, then: Any = None) -> After:
    """
    For `next=`: an outcome that comes after so many virtual seconds.

    Args:
        seconds: >= 0.
        then: What `next=` takes: a value, an exception, a callable.
    """
    if not is_duration(seconds):
        raise PipelineError(f"after({seconds!r}): it is a number of seconds, 0 or more")
    return After(seconds, then)


class ScriptEnded(AssertionError):
    """The filter has run the rest more often than `next=` says."""


class Script:
    """
    The terminal of a chain under test.

    Args:
        given: What `next=` was.
        due: The outcome of this side: `Receipt` or `Handled`.
        subject: Decides what the chain may hand on; None: whatever it likes.
    """

    def __init__(self, given: Any, due: type[Any], tape: Tape, clock: Any) -> None:
        self.given = given
        self.due = due
        self.tape = tape
        self.clock = clock
        self.forwards: list[Message[Any]] = []
        self.raised: list[BaseException] = []
        self.ended: ScriptEnded | None = None

    @property
    def is_async(self) -> bool:
        """It can stand in an async chain only."""
        return _is_async(self.given) or (isinstance(self.given, list) and any(_is_async(one) for one in self.given))

    def sync(self, subject: Any) -> links.Next:
        def terminal(message: Message[Any]) -> Any:
            who, step = self._called(message, subject)
            try:
                while isinstance(step, After) or _is_call(step):
                    if isinstance(step, After):
                        self.clock.sleep(step.seconds)
                        step = step.then
                    else:
                        step = step(message)
                return self._gives(who, step)
            except BaseException as error:
                self._raises(who, error, message)
                raise

        return terminal

    def asynchronous(self, subject: Any) -> links.Next:
        async def terminal(message: Message[Any]) -> Any:
            who, step = self._called(message, subject)
            try:
                while isinstance(step, After) or _is_call(step):
                    if isinstance(step, After):
                        await asyncio.sleep(step.seconds)
                        step = step.then
                    else:
                        step = step(message)
                        step = await step if inspect.isawaitable(step) else step
                return self._gives(who, step)
            except BaseException as error:
                self._raises(who, error, message)
                raise

        return terminal

    def _called(self, message: Message[Any], subject: Any) -> tuple[str, Any]:
        if message.__class__ is not Message:
            raise links.handed_on(message)
        if message.subject != subject:
            raise SubjectChanged(subject, message.subject)
        self.forwards.append(message)
        number = len(self.forwards)
        who = f"next #{number}"
        self.tape.say(who, f"is given {short(message)}")
        if not isinstance(self.given, list):
            return who, self.given
        if number > len(self.given):
            self.ended = ScriptEnded(f"next= has an outcome for {len(self.given)}, and the rest was run {number} times")
            raise self.ended
        return who, self.given[number - 1]

    def _gives(self, who: str, step: Any) -> Any:
        if isinstance(step, BaseException) or (isinstance(step, type) and issubclass(step, BaseException)):
            raise step
        outcome = self._outcome(step)
        self.tape.say(who, gives(outcome))
        return outcome

    def _raises(self, who: str, error: BaseException, message: Message[Any]) -> None:
        self.raised.append(error)
        self.tape.say(who, raises(error))
        links.blame(error, links.Mark(who), message)

    def _outcome(self, value: Any) -> Any:
        if isinstance(value, (self.due, Dropped)):
            return value
        if self.due is Handled:
            return HANDLED if value is None else Handled(value)
        if value is None:
            return Receipt(1)
        raise PipelineError(
            f"next={value!r}: in a publish chain the rest gives a Receipt or Dropped, or raises; "
            'for a handler\'s value write at="delivery"'
        )


def _is_call(step: Any) -> bool:
    return callable(step) and not isinstance(step, type)


def _is_async(step: Any) -> bool:
    while isinstance(step, After):
        step = step.then
    return _is_call(step) and is_async(step)
