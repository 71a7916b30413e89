"""The effects that an `Around` yields: checking them, and running a `Call` in a sync chain."""

from __future__ import annotations

import contextvars
import threading
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.foreign.objects import shown
from pipebus.message.outcomes import Outcome
from pipebus.pipeline.blame import StepId, unsign
from pipebus.pipeline.compose import Next
from pipebus.pipeline.contract import conclude
from pipebus.pipeline.services import Services
from pipebus.pipeline.shapes import Call, Steps

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def ended(step: StepId, returned: object, outcome: Outcome | None, due: type[Outcome]) -> Outcome:
    """The outcome of an Around that has returned: its own, or else that of its last pass."""
    if returned is not None:
        return conclude(step, returned, due)
    if outcome is None:
        raise ContractError("returned before any pass gave an outcome; yield the message, or `return Dropped(reason)`")
    return outcome


def resumed(run: Steps, value: object, thrown: BaseException | None) -> tuple[bool, Any]:
    """
    Resume an Around with the result of its last effect, or with the error that the effect has `thrown`.

    Returns:
        False and its next effect, or True and what it has returned.
    """
    try:
        try:
            found = False, run.send(value) if thrown is None else run.throw(thrown)
        except StopIteration as stop:
            found = True, stop.value
        if thrown is not None:
            unsign(thrown)  # the generator has handled it
        return found
    except RuntimeError as error:
        # PEP 479: a StopIteration that leaves a generator is wrapped in a RuntimeError; raise the original.
        if isinstance(thrown, StopIteration) and error.__cause__ is thrown:
            raise thrown from None
        raise
    finally:
        del thrown  # an error that its own frame refers to is a reference cycle


def no_effect(effect: object) -> ContractError:
    return ContractError(f"yielded {shown(effect)}; an Around yields a Message, Pause(seconds) or Call(message, timeout=…)")


def abandonable(step: StepId, next_: Next, effect: Call, services: Services) -> Any:
    """Run a sync rest on a thread of its own, so that the caller can stop waiting for it."""
    if not step.abandon:
        raise ContractError("yielded Call in a sync chain; a sync rest cannot be cancelled, only left behind: abandon=True")
    gate = threading.Lock()
    gate.acquire()
    result: list[tuple[bool, Any]] = []
    context = contextvars.copy_context()
    handler = services.carry(context)

    def run() -> None:
        try:
            result.append((True, context.run(next_, effect.message)))
        except BaseException as error:
            result.append((False, error))
        finally:
            handler.empty()
            gate.release()

    try:
        threading.Thread(target=run, name=f"pipebus-abandonable-{step.name}", daemon=True).start()
    except BaseException:
        handler.empty()
        raise
    if not services.wait(gate, effect.timeout):
        raise TimeoutError(
            f"the rest of the chain took longer than {effect.timeout} s; it continues, but its result is discarded"
        )
    succeeded, value = result[0]
    if not succeeded:
        raise value
    return value
