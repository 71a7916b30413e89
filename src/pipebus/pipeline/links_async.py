"""The links of `links_sync`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.foreign.objects import is_a
from pipebus.message.message import Message
from pipebus.message.outcomes import Outcome
from pipebus.pipeline.blame import StepId, blame, conclude, dropped, handed_on, signed, trim, undecided, unfinished, unsign
from pipebus.pipeline.compose import Next, Ruling
from pipebus.pipeline.effects import check_seconds, ended, no_effect
from pipebus.pipeline.services import Services
from pipebus.pipeline.shapes import Call, Pause

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class _Pass:
    """What `call_next(message)` gives in an async chain: to be awaited, once, now."""

    __slots__ = ("_begun", "_message", "_passes")

    def __init__(self, passes: _Passes, message: Message[Any]) -> None:
        self._passes = passes
        self._message = message
        self._begun = False

    def __await__(self) -> Generator[Any, Any, Outcome]:
        passes = self._passes
        if self._begun:
            raise ContractError("awaited one call_next(…) twice; call it again for another pass")
        self._begun = True
        if passes.over:
            raise asyncio.CancelledError("its filter has returned, and was told that it left this pass behind")
        try:
            outcome: Outcome = yield from passes.next(self._message).__await__()
            return outcome
        finally:
            passes.open -= 1


class _Passes:
    """One filter's `call_next` for one message: sees a call that is not awaited, and two at the same time."""

    __slots__ = ("next", "open", "over")

    def __init__(self, next_: Next) -> None:
        self.next = next_
        self.open = 0
        self.over = False

    def __call__(self, message: Message[Any]) -> Awaitable[Outcome]:
        if self.open:
            raise ContractError(
                "called call_next again before the pass before was awaited to its end; write `await call_next(…)`, one by one"
            )
        self.open += 1
        return _Pass(self, message)


def _no_stop(error: BaseException, step: StepId) -> BaseException:
    """A coroutine cannot raise StopIteration (PEP 479): Python makes it a RuntimeError, and so do we, in time to sign it."""
    if not is_a(error, StopIteration):
        return error
    stray = RuntimeError(f"{step.name} raised StopIteration")
    stray.__cause__ = error
    return stray


def aplain(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        passes = _Passes(next_)
        try:
            outcome = await call(message, passes)
            if passes.open:
                raise ContractError("returned before its call_next(…) was awaited to its end; write `await call_next(…)`")
        except BaseException as error:
            blame(error, step, message)
            raise
        finally:
            passes.over = True
        if type(outcome) is not due:
            return conclude(step, outcome, due)
        return outcome

    return link


def atransform(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            result = call(message)
        except BaseException as error:
            error = _no_stop(error, step)
            blame(error, step, message)
            raise error
        if type(result) is not Message:
            return dropped(step, result)
        try:
            return await next_(result)  # type: ignore[no-any-return]
        except ContractError as error:
            blame(error, step, message)
            raise

    return link


def awaited_transform(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    """`atransform` whose call is awaited: a filter actor is asked."""
    call = step.call

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            result = await call(message)
        except BaseException as error:
            blame(error, step, message)
            raise
        if type(result) is not Message:
            return dropped(step, result)
        try:
            return await next_(result)  # type: ignore[no-any-return]
        except ContractError as error:
            blame(error, step, message)
            raise

    return link


def aaround(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        outcome: Outcome | None = None
        thrown: BaseException | None = None
        run: Generator[Any, Any, Any] = call(message)
        resume: Any
        resume, value = run.send, None
        try:
            while True:
                try:
                    effect = resume(value)
                except StopIteration as stop:
                    if thrown is not None:
                        unsign(thrown)  # swallowed
                    return ended(step, stop.value, outcome, due)
                except RuntimeError as error:
                    if isinstance(thrown, StopIteration) and error.__cause__ is thrown:
                        raise thrown from None
                    raise
                if thrown is not None:
                    unsign(thrown)  # the generator has dealt with it
                resume, thrown = run.send, None
                try:
                    if type(effect) is Message:
                        value = outcome = await next_(effect)
                    elif type(effect) is Pause:
                        check_seconds("Pause", effect.seconds)
                        await services.apause(effect.seconds, step.name)
                        value = None
                    elif type(effect) is Call:
                        check_seconds("Call", effect.timeout)
                        async with asyncio.timeout(effect.timeout):
                            value = outcome = await next_(effect.message)
                    else:
                        raise no_effect(effect)
                except BaseException as error:
                    resume, value, thrown = run.throw, error, error
        except BaseException as error:
            blame(error, step, message)
            run.close()
            raise
        finally:
            del thrown, value

    return link


def afork(step: StepId, test: Callable[[Message[Any]], object], inside: Next, outside: Next) -> Next:
    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            chosen = test(message)
            if type(chosen) is not bool and (what := unfinished(chosen)) is not None:
                raise undecided(what)
        except BaseException as error:
            error = _no_stop(error, step)
            blame(error, step, message)
            raise error
        outcome: Outcome = await (inside if chosen else outside)(message)
        return outcome

    return link


def aguard(entry: Next, scope: object, rule: Ruling) -> Next:
    async def link(message: Message[Any]) -> Outcome:
        try:
            return await entry(message)  # type: ignore[no-any-return]
        except Exception as error:
            step = signed(error)
            if step is None or step.scope is not scope:
                raise
            unsign(error)
            return rule(message, trim(error), step)

    return link
