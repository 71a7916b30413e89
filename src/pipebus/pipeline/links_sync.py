"""
Links: the code that runs for every message, one for each shape of filter.

A link is a function of a message that runs one filter, and the rest of the chain within it, and returns an outcome (in
`links_async`: an awaitable of one). Each link

- refuses an argument that is not a `Message`. The error then passes through the filter that handed it on, whose link signs it;
- refuses a result that is not an outcome;
- signs each error with the step in which it arose (`blame`), which costs nothing without errors. The signature names the filter
  in the error, and shows the `on_error` of a `Pipeline` which errors arose in its own filters.

Where an error leaves the bus, `blame.trim` removes the frames of this module, so that users see their own functions in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.message.message import Message
from pipebus.message.outcomes import Outcome
from pipebus.pipeline.blame import StepId, blame, signed, trim, unsign
from pipebus.pipeline.compose import Next, Ruling
from pipebus.pipeline.contract import conclude, dropped, handed_on, undecided, unfinished
from pipebus.pipeline.effects import abandonable, ended, no_effect, resumed
from pipebus.pipeline.passes import exclusive
from pipebus.pipeline.services import Services
from pipebus.pipeline.shapes import Call, Pause, Steps

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def plain(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call
    if services.debug:
        call = exclusive(step)

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
        except ContractError as error:  # the rest refused what this filter passed on; other errors are signed further in
            blame(error, step, message)
            raise

    return link


def around(step: StepId, next_: Next, due: type[Outcome], services: Services) -> Next:
    call = step.call

    def link(message: Message[Any]) -> Outcome:
        if type(message) is not Message:
            raise handed_on(message)
        outcome = thrown = run = None
        try:
            run = call(message)
            # Nearly every message takes this way: one `yield message`, then the end. `_go_on` continues from anywhere else.
            try:
                effect = run.send(None)
                if type(effect) is Message:
                    try:
                        outcome = next_(effect)
                    except BaseException as error:
                        thrown = error
                    else:
                        effect = run.send(outcome)
            except StopIteration as stop:
                found = outcome if stop.value is None else stop.value
                if type(found) is due:
                    return found
                return ended(step, stop.value, outcome, due)
            return _go_on(step, next_, due, services, run, effect, outcome, thrown)
        except BaseException as error:
            thrown = None  # an error that its own frame refers to is a reference cycle
            blame(error, step, message)
            if run is not None:  # otherwise a wrapper around the generator function has failed
                run.close()
            raise

    return link


def _go_on(
    step: StepId, next_: Next, due: type[Outcome], services: Services, run: Steps,
    effect: Any, outcome: Outcome | None, thrown: BaseException | None,
) -> Outcome:  # fmt: skip
    """Run an Around until it returns, from an effect that it has yielded, or from an error that its pass has `thrown`."""
    value: Any = None
    try:
        while True:
            if thrown is None:
                try:
                    if type(effect) is Message:
                        value = outcome = next_(effect)
                    elif type(effect) is Pause:
                        value = services.pause(effect.seconds, step.name, effect.until)
                    elif type(effect) is Call:
                        value = outcome = abandonable(step, next_, effect, services)
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


def fork(step: StepId, test: Callable[[Message[Any]], object], inside: Next, outside: Next) -> Next:
    """A `when` or `branch` that decides for each message: by predicate, or by a subject that a rerouter may have changed."""

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
    """The `on_error` of a `Pipeline`: `rule` decides about errors that arose in its own filters; others pass."""

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
