"""The links of `links_sync`, for async chains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.foreign.objects import is_a
from pipebus.message.message import Message
from pipebus.message.outcomes import Outcome
from pipebus.pipeline.blame import StepId, blame, signed, trim, unsign
from pipebus.pipeline.compose import Next, Ruling
from pipebus.pipeline.contract import conclude, dropped, handed_on, undecided, unfinished
from pipebus.pipeline.effects import ended, no_effect, resumed
from pipebus.pipeline.passes import AFTER, BEFORE, as_coroutine, ended_in, refused
from pipebus.pipeline.services import Services
from pipebus.pipeline.shapes import Call, Pause, Steps

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def _without_stop(error: BaseException, step: StepId) -> BaseException:
    """Python turns a StopIteration that leaves a coroutine into a RuntimeError (PEP 479). Do so earlier, to sign the error."""
    if not is_a(error, StopIteration):
        return error
    stray = RuntimeError(f"{step.name} raised StopIteration")
    stray.__cause__ = error
    return stray


def aplain(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call, begin = step.call, as_coroutine(next_)

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        latest = BEFORE  # the filter's last pass

        def call_next(message: Message[Any]) -> Any:
            nonlocal latest
            if latest.cr_frame is not None:
                raise refused(latest)
            latest = begin(message)
            return latest

        try:
            outcome = await call(message, call_next)
            if latest.cr_frame is not None:
                raise ContractError("returned before its call_next(…) had finished; write `await call_next(…)`")
        except BaseException as error:
            error = ended_in(error, latest)
            blame(error, step, message)
            raise error
        finally:
            latest = AFTER
        if type(outcome) is not due:
            return conclude(step, outcome, due)
        return outcome

    return link


def atransform(step: StepId, next_: Next, due: type[Outcome], services: Services, awaited: bool = False) -> Next:
    call = step.call

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            result = await call(message) if awaited else call(message)
        except BaseException as error:
            error = _without_stop(error, step)
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


awaited_transform: Final = partial(atransform, awaited=True)
"""For a call that returns an awaitable: the answer of a filter actor."""


def aaround(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        outcome = thrown = run = None
        try:
            run = call(message)
            try:
                effect = run.send(None)
                if type(effect) is Message:
                    try:
                        outcome = await next_(effect)
                    except BaseException as error:
                        thrown = error
                    else:
                        effect = run.send(outcome)
            except StopIteration as stop:
                found = outcome if stop.value is None else stop.value
                if type(found) is due:
                    return found
                return ended(step, stop.value, outcome, due)
            return await _ago_on(step, next_, due, services, run, effect, outcome, thrown)
        except BaseException as error:
            thrown = None
            blame(error, step, message)
            if run is not None:
                run.close()
            raise

    return link


async def _ago_on(
    step: StepId, next_: Next, due: type[Outcome], services: Services, run: Steps,
    effect: Any, outcome: Outcome | None, thrown: BaseException | None,
) -> Outcome:  # fmt: skip
    value: Any = None
    try:
        while True:
            if thrown is None:
                try:
                    if type(effect) is Message:
                        value = outcome = await next_(effect)
                    elif type(effect) is Pause:
                        value = await services.apause(effect.seconds, step.name, effect.until)
                    elif type(effect) is Call:
                        async with asyncio.timeout(effect.timeout):
                            value = outcome = await next_(effect.message)
                    else:
                        raise no_effect(effect)
                except BaseException as error:
                    thrown = error
            done, effect = resumed(run, value, thrown)
            if done:
                return ended(step, effect, outcome, due)
            thrown = None
    finally:
        del thrown


def afork(step: StepId, test: Callable[[Message[Any]], object], inside: Next, outside: Next) -> Next:
    async def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            chosen = test(message)
            if type(chosen) is not bool and (what := unfinished(chosen)) is not None:
                raise undecided(what)
        except BaseException as error:
            error = _without_stop(error, step)
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
