"""
Binding a handler: its parameters are filled by their annotations, decided once.

`Message` or no annotation: the message. `Message[T]`: the message with its body as a T. `Delivery`, `Bus`: those. One other
annotated parameter: the body, validated into its type. A body that the type refuses is `Rejected`: permanent.
"""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin, get_type_hints

from pipebus.errors import PipebusError, SubscriptionError
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Handled, Receipt
from pipebus.pipeline import contract, shapes
from pipebus.pipeline.callables import is_async, yields
from pipebus.pipeline.places import Place
from pipebus.values import validation

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

Getter = Callable[[Message[Any]], Any]

VALUES: Final = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple})
"""What most handlers return: nothing is to be looked for in it."""

_MISTAKEN: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((Message,), "return its body, or publish the message: bus.send(message)"),
    ((Receipt,), "end with a statement of its own, such as `bus.publish(…)`, and return nothing"),
    ((Dropped,), "drop it in a filter, or refuse it: delivery.reject(reason), or raise Rejected"),
    ((Handled,), "return the value itself"),
    ((shapes.Pause, shapes.Call), "yield it in an Around"),
    ((PipebusError,), "raise it"),
)
"""What is meant to be done with something instead of returning it."""


@dataclass(eq=False, slots=True)
class Bound:
    """
    A handler, ready to be given messages.

    Args:
        call: message -> what the handler returns (an awaitable if it is async).
        wants_delivery: It has a `Delivery` parameter.
    """

    handler: Callable[..., Any]
    name: str
    is_async: bool
    call: Callable[[Message[Any]], Any]
    wants_delivery: bool
    getters: list[tuple[Getter, str]]

    @property
    def plain(self) -> bool:
        """The handler is called with the message as it is."""
        return len(self.getters) == 1 and self.getters[0] == (_identity, "")

    def calling(self, handler: Callable[..., Any]) -> Callable[[Message[Any]], Any]:
        """`call` for another object's method of the same form."""
        return _caller(handler, self.getters)


@dataclass(eq=False, slots=True)
class _Form:
    """What inspection found; the same for all closures of one function."""

    kinds: tuple[tuple[str, Any, str], ...]  # (kind, type, parameter name or "" if positional)
    keep: Any  # the function inspected: keeps the ids in the cache's key alive


_forms: dict[Any, _Form] = {}


def bind(handler: Callable[..., Any], known: dict[Any, Getter], place: Place, name: str | None = None) -> Bound:
    """
    Decide how `handler` is called.

    Args:
        known: Types with a getter of their own: `Delivery` and `Bus`.
        name: For errors; the handler's own if None.

    Raises:
        SubscriptionError: naming the handler, the parameter and the remedy.
    """
    title = name or handler_name(handler)
    if isinstance(handler, type) or not callable(handler):
        raise SubscriptionError(f"handler {shown(handler)} (at {place}) is no function; give a function or a callable object")
    check_runs(handler, title, place)
    form = _form(handler, title, known, place)
    asynchronous = is_async(handler)
    getters: list[tuple[Getter, str]] = []
    wants_delivery = False
    for kind, type_, keyword in form.kinds:
        if kind == "known":
            getters.append((known[type_], keyword))
            wants_delivery = wants_delivery or getattr(type_, "__name__", "") == "Delivery"
        elif kind == "message":
            getters.append((_identity, keyword))
        else:
            getters.append((_body(type_, title, kind == "typed_message", place), keyword))
    return Bound(handler, handler_name(handler), asynchronous, _caller(handler, getters), wants_delivery, getters)


def check_runs(handler: Any, title: str, place: Place) -> None:
    """
    Raises:
        SubscriptionError: calling it runs nothing of it.
    """
    if yields(handler):
        raise SubscriptionError(
            f"handler {title} (at {place}) is a generator function, of which nothing would run; take `yield` out: return one "
            "value, and publish what there is besides"
        )


def misreturned(name: str, value: Any, taken: bool) -> SubscriptionError | None:
    """
    The error of a handler of that name, if what it has returned is nothing to publish or to reply with.

    Args:
        taken: The value would be published, or be a reply. If not, the outcome of a publish may be returned, as by
            `lambda message: bus.publish("next", message.body)`.
    """
    kind: type = type(value)
    if kind in VALUES:
        return None
    if not taken and (kind is Receipt or (kind is Dropped and value.by is not None)):
        return None
    what = contract.unfinished(value)
    if what is not None:
        remedy = (
            'make it `async def`, or say run="loop" and let no plain sync filter stand around it'
            if "awaitable" in what
            else "take `yield` out: return one value, and publish what there is besides"
        )
        return SubscriptionError(f"handler {name} returned {what}, which nobody runs; {remedy}")
    if issubclass(kind, type):
        kind = value
    if issubclass(kind, concurrent.futures.Future):
        return SubscriptionError(f"handler {name} returned a Future, for which nobody waits; return its result()")
    for kinds, remedy in _MISTAKEN:
        if issubclass(kind, kinds):
            return SubscriptionError(f"handler {name} returned {kind.__name__}, which is not a value to publish; {remedy}")
    return None


def handler_name(handler: Any) -> str:
    while isinstance(handler, functools.partial):
        handler = handler.func
    name = plain_text(getattr(handler, "__name__", None))
    if not isinstance(name, str) or not name:
        name = type(handler).__name__
    return "handler" if name == "<lambda>" else name


def _identity(message: Message[Any]) -> Message[Any]:
    return message


def _body(type_: Any, title: str, whole: bool, place: Place) -> Getter:
    try:
        validate = validation.validator(type_)
    except Exception as error:
        raise SubscriptionError(f"handler {title} (at {place}): cannot validate bodies as {shown(type_)}: {error}") from error
    refusal = validation.refusal()

    def body(message: Message[Any]) -> Any:
        try:
            value = validate(message.body)
        except refusal as error:
            raise validation.rejected(None, error) from None  # the subscription says who refused it
        return message.with_body(value) if whole else value

    return body


def _caller(handler: Callable[..., Any], getters: list[tuple[Getter, str]]) -> Callable[[Message[Any]], Any]:
    """The few common forms written out, the rest in general. An async handler's awaitable is passed through."""
    if len(getters) == 1 and not getters[0][1]:
        get = getters[0][0]
        if get is _identity:
            return handler

        def call_with_one(message: Message[Any]) -> Any:
            return handler(get(message))

        return call_with_one
    positional = [get for get, keyword in getters if not keyword]
    keywords = {keyword: get for get, keyword in getters if keyword}

    def call(message: Message[Any]) -> Any:
        return handler(*[get(message) for get in positional], **{name: get(message) for name, get in keywords.items()})

    return call


def _form(handler: Callable[..., Any], title: str, known: dict[Any, Getter], place: Place) -> _Form:
    function = handler
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    plain = getattr(function, "__func__", function)
    key = None
    if getattr(plain, "__code__", None) is not None and handler is function and not hasattr(plain, "__wrapped__"):
        notes = plain.__annotations__
        key = (plain.__code__, inspect.ismethod(handler), tuple(map(id, notes.values())), id(plain.__globals__))
        form = _forms.get(key)
        if form is not None:
            return form
    form = _inspect(handler, plain, title, known, place)
    if key is not None and len(_forms) < 4096:
        _forms[key] = form
    return form


def _inspect(handler: Any, function: Any, title: str, known: dict[Any, Getter], place: Place) -> _Form:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return _Form((("message", None, ""),), function)  # a builtin, such as list.append
    hints = _hints(handler, function, title, place)
    kinds: list[tuple[str, Any, str]] = []
    takes_any = False  # `*args`: a print, a decorated function
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            takes_any = takes_any or parameter.kind is parameter.VAR_POSITIONAL
            continue
        keyword = parameter.name if parameter.kind is parameter.KEYWORD_ONLY else ""
        if parameter.name not in hints:
            if parameter.default is parameter.empty:
                kinds.append(("message", None, keyword))
            continue
        type_ = hints[parameter.name]
        if type_ is Message or get_origin(type_) is Message:
            inner = (get_args(type_) or (Any,))[0]
            kinds.append(("message", None, keyword) if inner is Any else ("typed_message", inner, keyword))
        elif isinstance(type_, type) and type_ in known:
            kinds.append(("known", type_, keyword))
        elif type_ is Any or type_ is object:
            kinds.append(("body", Any, keyword))
        elif parameter.default is parameter.empty or not _has(kinds, "body"):
            kinds.append(("body", type_, keyword))
    for kind, what in (("body", "body"), ("message", "Message")):
        if sum(found == kind for found, _, _ in kinds) > 1:
            raise SubscriptionError(
                f"handler {title} (at {place}) has two parameters for the {what}; it may take one message, one body, "
                "a Delivery and the Bus, told apart by annotation"
            )
    if not kinds and takes_any:
        kinds.append(("message", None, ""))
    if not kinds:
        raise SubscriptionError(f"handler {title} (at {place}) takes no message; give it a parameter")
    return _Form(tuple(kinds), function)


def _has(kinds: list[tuple[str, Any, str]], kind: str) -> bool:
    return any(found == kind for found, _, _ in kinds)


def _hints(handler: Any, function: Any, title: str, place: Place) -> dict[str, Any]:
    """Annotations as types; names that are local to where the handler is registered are found there."""
    target = inspect.unwrap(function)
    try:
        hints = get_type_hints(target)
    except NameError:
        frame: Any = sys._getframe(1)
        scope: dict[str, Any] = {}
        while frame is not None:
            if not frame.f_globals.get("__name__", "").startswith("pipebus."):
                scope = {**frame.f_locals, **scope}
                if frame.f_code.co_name == "<module>":
                    break
            frame = frame.f_back
        try:
            hints = get_type_hints(target, localns=scope)
        except NameError as error:
            raise SubscriptionError(
                f"handler {title} (at {place}): its annotations cannot be read: {error}; import the name where it is defined"
            ) from error
    except TypeError:
        hints = {}
    hints.pop("return", None)
    return hints
