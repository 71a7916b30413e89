"""
Links: how one filter of each shape is joined to what follows it, in each colour.

`compose` decides what follows what; here is the code that runs for every message. A link is a function of a message
that returns an outcome (or, in an async chain, an awaitable of one). Each of them

- refuses what is no `Message`: the error passes through the filter that handed it on, whose link signs it;
- refuses what is no outcome;
- signs every error with the step in which it arose (`blame`), at no cost while there is none. The signature names the
  filter in errors and tells a `Pipeline`'s `on_error` its own filters' errors from those that only pass through.

Frames of this module are cut out of tracebacks where an error leaves the bus (`trim`), so that a person sees their own
functions in a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.message.message import Message
from pipebus.message.outcomes import Outcome
from pipebus.pipeline.blame import StepId, blame, conclude, dropped, handed_on, signed, trim, undecided, unfinished, unsign
from pipebus.pipeline.compose import Next, Ruling
from pipebus.pipeline.effects import abandonable, check_seconds, ended, no_effect
from pipebus.pipeline.services import Services
from pipebus.pipeline.shapes import Call, Pause

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def plain(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call
    if services.debug:
        call = _watched(step)

    def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            outcome = call(message, next_)
        except BaseException as error:
            blame(error, step, message)
            raise
        if type(outcome) is not due:
            return conclude(step, outcome, due)
        return outcome

    return link


def _watched(step: StepId) -> Callable[[Message[Any], Next], Any]:
    """With `debug`: a filter whose call_next is entered by two threads at once is told so."""

    def call(message: Message[Any], next_: Next) -> Any:
        lock = threading.Lock()

        def call_next(message: Message[Any]) -> Any:
            if not lock.acquire(blocking=False):
                raise ContractError("called call_next twice at the same time; wait for one pass before the next")
            try:
                return next_(message)
            finally:
                lock.release()

        return step.call(message, call_next)

    return call


def transform(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            result = call(message)
        except BaseException as error:
            blame(error, step, message)
            raise
        if type(result) is not Message:
            return dropped(step, result)
        try:
            return next_(result)  # type: ignore[no-any-return]
        except ContractError as error:
            blame(error, step, message)
            raise

    return link


def around(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        outcome: Outcome | None = None
        thrown: BaseException | None = None
        run = call(message)
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
                    # PEP 479: a StopIteration that passes through a generator comes out wrapped; give back the original.
                    if isinstance(thrown, StopIteration) and error.__cause__ is thrown:
                        raise thrown from None
                    raise
                if thrown is not None:
                    unsign(thrown)  # the generator has dealt with it
                resume, thrown = run.send, None
                try:
                    if type(effect) is Message:
                        value = outcome = next_(effect)
                    elif type(effect) is Pause:
                        check_seconds("Pause", effect.seconds)
                        services.pause(effect.seconds, step.name)
                        value = None
                    elif type(effect) is Call:
                        check_seconds("Call", effect.timeout)
                        value = outcome = abandonable(step, next_, effect, services)
                    else:
                        raise no_effect(effect)
                except BaseException as error:
                    resume, value, thrown = run.throw, error, error
        except BaseException as error:
            blame(error, step, message)
            run.close()
            raise
        finally:
            del thrown, value  # an error that is kept in its own frame is a cycle

    return link


def fork(step: StepId, test: Callable[[Message[Any]], object], inside: Next, outside: Next) -> Next:
    """`when` and `branch` by predicate: asked once a pass, here."""

    def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        try:
            chosen = test(message)
            if type(chosen) is not bool and (what := unfinished(chosen)) is not None:
                raise undecided(what)
        except BaseException as error:
            blame(error, step, message)
            raise
        return (inside if chosen else outside)(message)  # type: ignore[no-any-return]

    return link


def guard(entry: Next, scope: object, rule: Ruling) -> Next:
    """A `Pipeline`'s `on_error`: what arose in its own filters becomes what `rule` says."""

    def link(message: Message[Any]) -> Outcome:
        try:
            return entry(message)  # type: ignore[no-any-return]
        except Exception as error:
            step = signed(error)
            if step is None or step.scope is not scope:
                raise
            unsign(error)
            return rule(message, trim(error), step)

    return link
