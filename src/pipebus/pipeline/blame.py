"""Who is to blame for an error: signing it where it arises, and cutting our frames out of its traceback."""

from __future__ import annotations

from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType
from typing import Any, Final

from pipebus.errors import ContractError, PipebusError, SubjectChanged
from pipebus.foreign.objects import attributes, causes_of, class_name, is_a, set_traceback, shown, traceback_of
from pipebus.message.message import Message, check_message
from pipebus.message.outcomes import Dropped, Outcome

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class StepId:
    """
    One filter at one place of one compiled chain: what a link knows of it, and signs errors with.

    Args:
        scope: The compilation of the pipeline whose `on_error` rules its errors.
    """

    __slots__ = ("abandon", "call", "name", "scope")

    def __init__(self, name: str, call: Any = None, abandon: bool = False, scope: object = None) -> None:
        self.name = name
        self.call = call
        self.abandon = abandon
        self.scope = scope


def handed_on(found: object) -> ContractError:
    return ContractError(f"handed on {shown(found)}, which is no Message; pass a Message to call_next (or yield or return one)")


def checked(message: Message[Any]) -> Message[Any]:
    """
    What a filter has handed on, where it leaves the chain; its strings are plain text then.

    Raises:
        ContractError: a field that no message can have, from a filter that has made its copy past the checks.
    """
    try:
        return check_message(message)
    except PipebusError as error:
        broken = ContractError(f"handed on a message that cannot be carried: {error}")
        broken.__dict__["pipebus_broken"] = True
        raise broken from error


def _carriable(message: object) -> bool:
    try:
        return message.__class__ is Message and check_message(message) is not None
    except PipebusError:
        return False


def blame(error: BaseException, step: StepId, message: object) -> None:
    """Sign `error` with the step in which it arose: the innermost one that it passes."""
    if is_a(error, SubjectChanged) and getattr(message, "subject", None) != error.was:  # type: ignore[attr-defined]
        return  # the message came in changed: the culprit is further out
    facts = attributes(error)
    if "pipebus_step" in facts:
        return
    if "pipebus_broken" in facts and not _carriable(message):
        return  # likewise
    facts["pipebus_step"] = step
    if is_a(error, PipebusError) and facts.get("by", step) is None:
        facts["by"] = step.name


def signed(error: BaseException) -> StepId | None:
    """The step that `error` arose in, if a chain has signed it."""
    mark: StepId | None = attributes(error).get("pipebus_step")
    return mark


def unsign(error: BaseException) -> StepId | None:
    """Take the signature off, where an error leaves the chain; the same object may be raised again elsewhere."""
    mark: StepId | None = attributes(error).pop("pipebus_step", None)
    return mark


def trim(error: BaseException) -> BaseException:
    """Cut our frames out of the traceback, and of those of its causes: those between the user's functions or above them."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        set_traceback(one, _trimmed(traceback_of(one)))
        queue += causes_of(one)
    return error


def _trimmed(here: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while here is not None:
        if not _is_plumbing(here.tb_frame.f_globals):
            kept.append(here)
        here = here.tb_next
    for index, frame in enumerate(kept):
        follower = kept[index + 1] if index + 1 < len(kept) else None
        if frame.tb_next is not follower:
            frame.tb_next = follower
    return kept[0] if kept else None


def _is_plumbing(scope: dict[str, Any]) -> bool:
    """Whether these are the globals of a module of ours that marks itself as one to leave out."""
    name = scope.get("__name__")
    return type(name) is str and name.startswith("pipebus.") and scope.get("PLUMBING") is True


def unfinished(found: Any) -> str | None:
    """What `found` is, if it is work that has still to be done: nobody will do it, and it is ended here without a warning."""
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


_VALUES: Final = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple})


def given(value: Any) -> Any:
    """
    What a function has returned that a filter was given.

    Raises:
        ContractError: it is work that has still to be done.
    """
    if type(value) not in _VALUES and (what := unfinished(value)) is not None:
        raise ContractError(f"was given a function that returned {what}; it takes a plain function, which returns the value")
    return value


def conclude(step: StepId, found: object, due: type[Outcome]) -> Outcome:
    """`found` as an outcome: `Dropped` gets its `by`; what is no outcome is the filter's error."""
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


def undecided(what: str) -> ContractError:
    return ContractError(f"asked a predicate that returned {what}; a predicate is a plain function that returns yes or no")


def dropped(step: StepId, result: object) -> Dropped:
    """What a Transform returned that is no message: `Dropped`, or its error."""
    if type(result) is Dropped:
        return result if result.by is not None else Dropped(result.reason, step.name)
    error = ContractError(f"returned {unfinished(result) or shown(result)} where a Message or Dropped(reason) is due")
    blame(error, step, None)
    raise error
