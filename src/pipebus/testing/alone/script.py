"""A script in place of the rest of a filter's chain."""

import asyncio
import contextvars
import inspect
from typing import Any, Final, NamedTuple

from pipebus.errors import PipelineError, SubjectChanged
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED, Dropped, Handled, Receipt
from pipebus.pipeline import blame, compose, contract
from pipebus.pipeline.callables import is_async
from pipebus.publishing.route import note
from pipebus.testing.harness.tape import Tape
from pipebus.testing.harness.words import counted, gives, raises, short, times
from pipebus.values import quantities
from pipebus.values.quantities import Duration

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

expected_subject: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("pipebus.testing.expected_subject", default=None)
"""The subject of the current message, in a chain that serves several subjects: a filter may not change it. None: not known."""


class After(NamedTuple):
    """Made by `after`."""

    seconds: float
    then: Any


def after(seconds: Duration, then: Any = None) -> After:
    """
    For `next=`: an outcome that takes this many virtual seconds.

    Args:
        seconds: >= 0, or text such as "5s".
        then: Anything that `next=` takes: a value, an exception, a function.
    """
    return After(quantities.seconds(seconds, "after"), then)


class ScriptEnded(AssertionError):
    """The filter has run the rest more often than `next=` has steps."""


class Script:
    """The end of a chain under test: the argument `next=`."""

    def __init__(self, given: Any, due: type[Any], tape: Tape, clock: Any) -> None:
        self.due = due  # the type of an outcome on this side: `Receipt` or `Handled`
        self.tape = tape
        self.clock = clock
        self.begin(given)

    def begin(self, given: Any) -> None:
        """Start again, for another message."""
        self.given = given
        self.forwards: list[Message[Any]] = []
        self.raised: list[BaseException] = []
        self.wrong: BaseException | None = None  # an error of the script, raised even if the filter catches it
        for step in self._steps:
            self._check(step)

    @property
    def _steps(self) -> list[Any]:
        return self.given if isinstance(self.given, list) else [self.given]

    @property
    def is_async(self) -> bool:
        """Whether it works in an async chain only."""
        return any(map(_is_async, self._steps))

    def sync(self, subject: Any) -> compose.Next:
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

    def asynchronous(self, subject: Any) -> compose.Next:
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
            except StopIteration as stop:  # a coroutine cannot raise it (PEP 479)
                error = RuntimeError(f"{who} raised StopIteration")
                self._raises(who, error, message)
                raise error from stop
            except BaseException as error:
                self._raises(who, error, message)
                raise

        return terminal

    def _called(self, message: Message[Any], subject: Any) -> tuple[str, Any]:
        if message.__class__ is not Message:
            raise contract.handed_on(message)
        due = subject if subject is not None else expected_subject.get()
        if due is not None and message.subject != due:
            raise SubjectChanged(due, message.subject)
        self.forwards.append(message)
        number = len(self.forwards)
        who = f"next #{number}"
        self.tape.say(who, f"is given {short(message)}")
        if not isinstance(self.given, list):
            return who, self.given
        if number > len(self.given):
            count = counted(len(self.given), "outcome")
            self.wrong = ScriptEnded(f"next= has {count}, and the filter ran the rest {times(number)}")
            raise self.wrong
        return who, self.given[number - 1]

    def _gives(self, who: str, step: Any) -> Any:
        if isinstance(step, BaseException) or _is_error(step):
            raise step
        try:
            outcome = self._outcome(step)
        except PipelineError as error:
            self.wrong = error
            raise
        self.tape.say(who, gives(outcome))
        if isinstance(outcome, Receipt):
            note(outcome)
        return outcome

    def _raises(self, who: str, error: BaseException, message: Message[Any]) -> None:
        self.raised.append(error)
        self.tape.say(who, raises(error))
        blame.blame(error, blame.StepId(who), message)

    def _check(self, step: Any) -> None:
        """Raise PipelineError if a script cannot do this."""
        while isinstance(step, After):
            step = step.then
        if _is_call(step):
            try:
                inspect.signature(step).bind(0)
            except TypeError:
                raise PipelineError(f"next={step!r} takes {inspect.signature(step)}; its form is next(message)") from None
            except ValueError:
                pass  # a builtin without a signature: its first call will show
        if not (_is_call(step) or isinstance(step, BaseException) or _is_error(step)):
            self._outcome(step)

    def _outcome(self, value: Any) -> Any:
        if isinstance(value, Dropped):
            return value if value.by is not None else Dropped(value.reason, "next")
        if isinstance(value, self.due):
            return value
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise self._no("a coroutine", 'write the function as `async def`, or set its attribute colour = "async"')
        if self.due is Handled:
            return HANDLED if value is None else Handled(value)
        if value is None:
            return Receipt(1)
        if isinstance(value, (list, tuple)):
            raise self._no(repr(value), "give several outcomes as a list, next=[…, …]")
        raise self._no(
            repr(value),
            'in a publish chain the rest gives a Receipt or Dropped, or raises; for a handler\'s value write at="delivery"',
        )

    @staticmethod
    def _no(found: str, remedy: str) -> PipelineError:
        return PipelineError(f"next= gives {found}; {remedy}")


def _is_error(step: Any) -> bool:
    return isinstance(step, type) and issubclass(step, BaseException)


def _is_call(step: Any) -> bool:
    return callable(step) and not isinstance(step, type)


def _is_async(step: Any) -> bool:
    while isinstance(step, After):
        step = step.then
    return _is_call(step) and is_async(step)
