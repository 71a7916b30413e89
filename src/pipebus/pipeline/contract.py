"""What a filter may pass on and return; anything else is an error of the filter, a `ContractError`."""

from __future__ import annotations

from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from pipebus.errors import ContractError, PipebusError
from pipebus.foreign.objects import class_name, shown
from pipebus.message.message import Message, check_message
from pipebus.message.outcomes import Dropped, Outcome
from pipebus.pipeline.blame import StepId, blame

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def conclude(step: StepId, found: object, due: type[Outcome]) -> Outcome:
    """
    What a filter returned, as an outcome; a `Dropped` gets its `by`.

    Raises:
        ContractError: it is not an outcome.
    """
    if type(found) is due:
        return found
    if type(found) is Dropped:
        return found if found.by is not None else Dropped(found.reason, step.name)
    error = ContractError(
        f"returned {unfinished(found) or shown(found)} where an outcome is due; return what call_next gave, or Dropped(reason)"
        if found is not None
        else "returned None where an outcome is due; end with `return call_next(message)` or `return Dropped(reason)`"
    )
    blame(error, step, None)
    raise error


def dropped(step: StepId, found: object) -> Dropped:
    """
    What a Transform returned instead of a message, as `Dropped` with its `by`.

    Raises:
        ContractError: it is something else.
    """
    if type(found) is Dropped:
        return found if found.by is not None else Dropped(found.reason, step.name)
    error = ContractError(f"returned {unfinished(found) or shown(found)} where a Message or Dropped(reason) is due")
    blame(error, step, None)
    raise error


def checked(message: Message[Any]) -> Message[Any]:
    """
    The message that leaves a chain, checked again: a filter may have copied it without the checks.

    Returns:
        The message, with plain strings in its fields.

    Raises:
        ContractError: a field has an impossible value.
    """
    try:
        return check_message(message)
    except PipebusError as error:
        broken = ContractError(f"handed on a message that cannot be carried: {error}")
        broken.__dict__["pipebus_broken"] = True
        raise broken from error


def finished(value: Any) -> Any:
    """
    What a user's function, an argument of a filter, returned.

    Raises:
        ContractError: it is a coroutine or generator, which nobody would run.
    """
    if type(value) not in _VALUES and (what := unfinished(value)) is not None:
        raise ContractError(f"was given a function that returned {what}; it takes a plain function, which returns the value")
    return value


_VALUES: Final = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple})


def unfinished(found: Any) -> str | None:
    """A description of `found` if it is an awaitable or a generator, which is closed here so that Python does not warn."""
    kind = type(found)
    if issubclass(kind, Awaitable):
        what = "an awaitable"
    elif issubclass(kind, (GeneratorType, AsyncGeneratorType)):
        what = "a generator"
    else:
        return None
    if issubclass(kind, (CoroutineType, GeneratorType)):
        found.close()
    return f"{what} ({class_name(found)})"


def handed_on(found: object) -> ContractError:
    return ContractError(f"handed on {shown(found)}, not a Message; pass a Message to call_next (or yield or return one)")


def undecided(what: str) -> ContractError:
    return ContractError(f"asked a predicate that returned {what}; a predicate is a plain function that returns yes or no")
