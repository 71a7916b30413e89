"""Find the step in which an error arose: sign errors there, and trim the bus's frames from their tracebacks."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from pipebus.errors import PipebusError, SubjectChanged
from pipebus.foreign.objects import attributes, causes_of, is_a, set_traceback, traceback_of
from pipebus.message.message import Message, check_message

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class StepId:
    """
    One filter at one place of one compiled chain, as its link knows it. Links sign errors with it.

    Args:
        scope: Identifies the compiled pipeline whose `on_error` applies to the errors of this step.
        end: It is the end of the chain, not a filter.
        stats: What the filter shows of its state, for those who watch the chain; None: nothing.
    """

    __slots__ = ("abandon", "call", "end", "name", "scope", "stats")

    def __init__(
        self, name: str, call: Any = None, abandon: bool = False, scope: object = None, *, end: bool = False,
        stats: Callable[[], dict[str, int | float | str]] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.end = end
        self.call = call
        self.abandon = abandon
        self.scope = scope
        self.stats = stats


def blame(error: BaseException, step: StepId, message: object) -> None:
    """Sign `error` with the step in which it arose: the first one that it passes on its way out."""
    if is_a(error, SubjectChanged) and getattr(message, "subject", None) != error.was:  # type: ignore[attr-defined]
        return  # the subject was already changed when the message came in: a filter further out is to blame
    facts = attributes(error)
    if "pipebus_step" in facts:
        return
    if "pipebus_broken" in facts and not _carriable(message):
        return  # the message was already broken when it came in
    facts["pipebus_step"] = step
    if is_a(error, PipebusError) and facts.get("by", step) is None:
        facts["by"] = step.name


def _carriable(message: object) -> bool:
    """True if `message` is a Message that passes the checks."""
    try:
        return message.__class__ is Message and check_message(message) is not None
    except PipebusError:
        return False


def signed(error: BaseException) -> StepId | None:
    """The step in which `error` arose, if a chain has signed it."""
    step: StepId | None = attributes(error).get("pipebus_step")
    return step


def unsign(error: BaseException, keep: bool = False) -> StepId | None:
    """
    Remove the signature where an error leaves the chain: the same object may be raised again elsewhere.

    Args:
        keep: `sign_again` may restore it.
    """
    facts = attributes(error)
    step: StepId | None = facts.pop("pipebus_step", None)
    if keep:
        facts["pipebus_left"] = step
    return step


def sign_again(error: BaseException) -> None:
    """For an error of the publish that belongs to a delivery, that of the handler's value: its filter is to blame here too."""
    facts = attributes(error)
    if (step := facts.pop("pipebus_left", None)) is not None:
        facts["pipebus_step"] = step


def trim(error: BaseException) -> BaseException:
    """Remove the bus's own frames from the traceback of an error and those of its causes; the user's frames stay."""
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


def _trimmed(entry: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while entry is not None:
        if not _is_plumbing(entry.tb_frame.f_globals):
            kept.append(entry)
        entry = entry.tb_next
    for index, frame in enumerate(kept):
        follower = kept[index + 1] if index + 1 < len(kept) else None
        if frame.tb_next is not follower:
            frame.tb_next = follower
    return kept[0] if kept else None


def _is_plumbing(scope: dict[str, Any]) -> bool:
    """True for the globals of a pipebus module that is marked `PLUMBING`."""
    name = scope.get("__name__")
    return type(name) is str and name.startswith("pipebus.") and scope.get("PLUMBING") is True
