"""
Links: how one filter of each shape is joined to what follows it, in each colour.

`pipeline.py` decides what follows what; here is the code that runs for every message. A link is a function of a message
that returns an outcome (or, in an async chain, an awaitable of one). Each of them

- refuses what is no `Message`: the error passes through the filter that handed it on, whose link signs it;
- refuses what is no outcome;
- signs every error with the step in which it arose (`blame`), at no cost while there is none. The signature names the
  filter in errors and tells a `Pipeline`'s `on_error` its own filters' errors from those that only pass through.

Frames of this module are cut out of tracebacks where an error leaves the bus (`trim`), so that a person sees their own
functions in a row.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Generator
from types import AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType
from typing import Any, Final, Protocol

import msgspec

from pipebus.clock import Gate
from pipebus.errors import ContractError, PipebusError, SubjectChanged
from pipebus.foreign import attributes, causes_of, class_name, is_a, set_traceback, shown, traceback_of
from pipebus.message import Dropped, Message, Outcome, check_message
from pipebus.settings import is_duration

PLUMBING: Final = True  # tracebacks leave its frames out: `links.trim`

Next = Callable[[Message[Any]], Any]
"""The rest of a chain: message -> outcome, or message -> awaitable of an outcome."""


class Pause(msgspec.Struct, frozen=True):
    """Yielded by an `Around`: wait `seconds` (>= 0), without holding a worker's slot."""

    seconds: float


class Call(msgspec.Struct, frozen=True):
    """
    Yielded by an `Around` that declares `bounds = True`: run the rest, at most `timeout` seconds, else `TimeoutError`.

    In an async chain the rest is cancelled. A sync chain cannot be cancelled: there the filter must have `abandon = True`,
    the rest runs on a thread of its own, and a rest that outlives its time goes on, with nobody listening.
    """

    message: Message[Any]
    timeout: float


class Mark:
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


accepted: Final[contextvars.ContextVar[list[Any] | None]] = contextvars.ContextVar("pipebus.accepted", default=None)
"""
A list of what a mailbox or the store has accepted in this publish so far. A filter that `repeats` passes sets one: what was
accepted must not be sent again. (On the delivery side the same is told by `delivery`, which may be settled.)
"""

replayed: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("pipebus.replayed", default=False)
"""True around a dead letter that has come back: whoever knows it already has to let it pass."""

delivery: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("pipebus.delivery", default=None)
"""The `Delivery` that a handler with a parameter for it is being given."""


class Services(Protocol):
    """What running chains ask of the bus; handed down at build."""

    debug: bool
    watch: Any
    carry: Callable[[contextvars.Context], Any]

    def pause(self, seconds: float, filter_name: str) -> None: ...
    async def apause(self, seconds: float, filter_name: str) -> None: ...
    def wait(self, gate: Gate, timeout: float) -> bool: ...


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


# --- errors on their way out -------------------------------------------------------------------------------------------


def blame(error: BaseException, step: Mark, message: object) -> None:
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


def signed(error: BaseException) -> Mark | None:
    """The step that `error` arose in, if a chain has signed it."""
    mark: Mark | None = attributes(error).get("pipebus_step")
    return mark


def unsign(error: BaseException) -> Mark | None:
    """Take the signature off, where an error leaves the chain; the same object may be raised again elsewhere."""
    mark: Mark | None = attributes(error).pop("pipebus_step", None)
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


def conclude(step: Mark, found: object, due: type[Outcome]) -> Outcome:
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


# --- sync --------------------------------------------------------------------------------------------------------------


def plain(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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


def _watched(step: Mark) -> Callable[[Message[Any], Next], Any]:
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


def transform(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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


def dropped(step: Mark, result: object) -> Dropped:
    """What a Transform returned that is no message: `Dropped`, or its error."""
    if type(result) is Dropped:
        return result if result.by is not None else Dropped(result.reason, step.name)
    error = ContractError(f"returned {unfinished(result) or shown(result)} where a Message or Dropped(reason) is due")
    blame(error, step, None)
    raise error


def around(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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
                    return _ended(step, stop.value, outcome, due)
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
                        value = outcome = _abandonable(step, next_, effect, services)
                    else:
                        raise _no_effect(effect)
                except BaseException as error:
                    resume, value, thrown = run.throw, error, error
        except BaseException as error:
            blame(error, step, message)
            run.close()
            raise
        finally:
            del thrown, value  # an error that is kept in its own frame is a cycle

    return link


def _ended(step: Mark, returned: object, outcome: Outcome | None, due: type[Outcome]) -> Outcome:
    """What an Around's return means: an outcome of its own, or the last one that its passes gave."""
    if returned is not None:
        return conclude(step, returned, due)
    if outcome is None:
        raise ContractError("returned before any pass gave an outcome; yield the message, or `return Dropped(reason)`")
    return outcome


def check_seconds(effect: str, seconds: Any) -> None:
    """A time that can be waited for."""
    if not is_duration(seconds):
        raise ContractError(f"yielded {effect} with {shown(seconds)}; it takes a number of seconds, 0 or more")


def _no_effect(effect: object) -> ContractError:
    return ContractError(f"yielded {shown(effect)}; an Around yields a Message, Pause(seconds) or Call(message, timeout=…)")


def _abandonable(step: Mark, next_: Next, effect: Call, services: Services) -> Any:
    """A sync rest on a thread of its own, so that its caller can stop waiting for it."""
    if not step.abandon:
        raise ContractError("yielded Call in a sync chain; a sync rest cannot be cancelled, only left behind: abandon=True")
    gate = threading.Lock()
    gate.acquire()
    result: list[tuple[bool, Any]] = []
    context = contextvars.copy_context()
    here = services.carry(context)

    def run() -> None:
        try:
            result.append((True, context.run(next_, effect.message)))
        except BaseException as error:
            result.append((False, error))
        finally:
            here.mailbox = None
            gate.release()

    try:
        threading.Thread(target=run, name=f"pipebus-abandonable-{step.name}", daemon=True).start()
    except BaseException:
        here.mailbox = None
        raise
    if not services.wait(gate, effect.timeout):
        raise TimeoutError(f"the rest of the chain took longer than {effect.timeout} s; it goes on, unheard")
    fine, value = result[0]
    if not fine:
        raise value
    return value


def fork(step: Mark, test: Callable[[Message[Any]], object], inside: Next, outside: Next) -> Next:
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


Ruling = Callable[[Message[Any], BaseException, Mark], Dropped]


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


# --- async: the same, with await ---------------------------------------------------------------------------------------


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


def _no_stop(error: BaseException, step: Mark) -> BaseException:
    """A coroutine cannot raise StopIteration (PEP 479): Python makes it a RuntimeError, and so do we, in time to sign it."""
    if not is_a(error, StopIteration):
        return error
    stray = RuntimeError(f"{step.name} raised StopIteration")
    stray.__cause__ = error
    return stray


def aplain(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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


def atransform(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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


def awaited_transform(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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


def aaround(step: Mark, next_: Next, due: type[Outcome], services: Services) -> Next:
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
                    return _ended(step, stop.value, outcome, due)
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
                        raise _no_effect(effect)
                except BaseException as error:
                    resume, value, thrown = run.throw, error, error
        except BaseException as error:
            blame(error, step, message)
            run.close()
            raise
        finally:
            del thrown, value

    return link


def afork(step: Mark, test: Callable[[Message[Any]], object], inside: Next, outside: Next) -> Next:
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
