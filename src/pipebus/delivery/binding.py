"""
Binding a handler: deciding once, from its annotations, what each of its parameters receives.

A parameter that is annotated as `Message`, or not at all, receives the message; `Message[T]`, the message with its body
validated as a `T`; `Delivery` or `Bus`, that object. A parameter with any other annotation receives the body, validated as
that type. A body that does not validate raises `Rejected`, which is not retried. A handler without parameters is called for
each message all the same.
"""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

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
"""Types that most handlers return; a value of one of them is never a mistake, so `misreturned` looks no further."""

_MISTAKEN: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((Message,), "return its body, or publish the message: bus.send(message)"),
    ((Receipt,), "make `bus.publish(…)` a statement of its own, and return nothing"),
    ((Dropped,), "drop it in a filter, or refuse it: delivery.reject(reason), or raise Rejected"),
    ((Handled,), "return the value itself"),
    ((shapes.Pause, shapes.Call), "yield it in an Around"),
    ((PipebusError,), "raise it"),
)
"""What a handler should not return, and what it should do with it instead."""


@dataclass(eq=False, slots=True)
class Bound:
    """
    A handler that can be called with a message.

    Args:
        call: Takes a message and returns what the handler returns: an awaitable if the handler is async.
        wants_delivery: Whether the handler has a `Delivery` parameter.
        getters: For each parameter that is filled, how to make its value from the message, and its name ("": positional).
    """

    handler: Callable[..., Any]
    name: str
    is_async: bool
    call: Callable[[Message[Any]], Any]
    wants_delivery: bool
    getters: list[tuple[Getter, str]]

    @property
    def plain(self) -> bool:
        """Whether the handler is called with the message itself and nothing else."""
        return len(self.getters) == 1 and self.getters[0] == (_identity, "")

    def calling(self, handler: Callable[..., Any]) -> Callable[[Message[Any]], Any]:
        """`call` for another handler with the same parameters: the same method of another actor."""
        return _caller(handler, self.getters)


@dataclass(eq=False, slots=True)
class _Form:
    """What the inspection of a handler found; all closures of one function share it."""

    kinds: tuple[tuple[str, Any, str], ...]  # (kind, type, parameter name or "" if positional)
    keep: Any  # the inspected function: while it lives, the ids in the cache's key are not reused


_forms: dict[Any, _Form] = {}


def bind(handler: Callable[..., Any], known: dict[Any, Getter], place: Place, name: str | None = None) -> Bound:
    """
    Decide how `handler` is called.

    Args:
        known: Types of parameters that the bus fills in (`Delivery` and `Bus`), and how.
        name: What errors call the handler. None: its own name.

    Raises:
        SubscriptionError: the text names the handler, the mistake and the remedy.
    """
    title = name or handler_name(handler)
    if isinstance(handler, type) or not callable(handler):
        raise SubscriptionError(
            f"handler {shown(handler)} (at {place}) is not a function; give a function or a callable object"
        )
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
            getters.append((_body(type_, f"handler {title}", kind == "typed_message", place), keyword))
    return Bound(handler, handler_name(handler), asynchronous, _caller(handler, getters), wants_delivery, getters)


def check_runs(handler: Any, title: str, place: Place) -> None:
    """
    Raises:
        SubscriptionError: a call would not run its body, because it is a generator function; or it is a method without its
        object, so that the message would be its `self`.
    """
    owner = _owner(inspect.unwrap(handler)) if inspect.isfunction(handler) else None
    if owner is not None:
        raise SubscriptionError(
            f"handler {title} (at {place}) is a method of the class {owner}, without an object for its `self`; subscribe the "
            f"bound method of an object: bus.subscribe(…, {owner.lower()}.{handler.__name__})"
        )
    if yields(handler):
        raise SubscriptionError(
            f"handler {title} (at {place}) is a generator function, so a call would not run it; remove `yield`: return one "
            "value, and publish the others"
        )


def _owner(function: Any) -> str | None:
    """The name of the class in whose body a function is whose first parameter is a plain `self`."""
    names = function.__qualname__.split(".") if inspect.isfunction(function) else ()
    if len(names) < 2 or names[-2] == "<locals>" or "self" in function.__annotations__:
        return None
    code = function.__code__
    return names[-2] if code.co_argcount and code.co_varnames[0] == "self" else None


def misreturned(name: str, value: Any, taken: bool) -> SubscriptionError | None:
    """
    The error of a handler that returned something that can be neither published nor a reply; None if the value is fine.

    Args:
        name: The handler's name.
        taken: Whether the value would be published or be a reply. If not, a handler may return the outcome of a publish, as
            `lambda message: bus.publish("next", message.body)` does.
    """
    kind: type = type(value)
    if kind in VALUES:
        return None
    if not taken and (kind is Receipt or (kind is Dropped and value.by is not None)):
        return None
    what = contract.unfinished(value)
    if what is not None:
        remedy = (
            'make it `async def`, or use run="loop" without a plain sync filter around it'
            if "awaitable" in what
            else "remove `yield`: return one value, and publish the others"
        )
        return SubscriptionError(f"handler {name} returned {what}, which the bus does not run; {remedy}")
    if issubclass(kind, type):
        kind = value  # a class was returned instead of an instance
    if issubclass(kind, concurrent.futures.Future):
        return SubscriptionError(f"handler {name} returned a Future, for which the bus does not wait; return its result()")
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


def reading(type_: Any, title: str, place: Place) -> Callable[[Message[Any]], Handled]:
    """
    What a reader gets of a message: the message, its body validated as `type_`.

    Raises:
        SubscriptionError: pydantic cannot validate that type.
    """
    get = _body(type_, f"subscription {title}", True, place)
    return lambda message: Handled(get(message))


def _body(type_: Any, title: str, whole: bool, place: Place) -> Getter:
    try:
        validate = validation.validator(type_)
    except Exception as error:
        raise SubscriptionError(f"{title} (at {place}): cannot validate bodies as {shown(type_)}: {error}") from error
    refusal = validation.refusal()

    def body(message: Message[Any]) -> Any:
        try:
            value = validate(message.body)
        except refusal as error:
            raise validation.rejected(error) from None
        if not whole:
            return value
        return message if value is message.body else message.with_body(value)

    return body


def _caller(handler: Callable[..., Any], getters: list[tuple[Getter, str]]) -> Callable[[Message[Any]], Any]:
    """Calls the handler with its parameters filled in. A single positional parameter, the usual case, takes a shorter path."""
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
    """`_inspect`, cached for plain functions and methods."""
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
    hints = _hints(function, title, place)
    kinds: list[tuple[str, Any, str]] = []
    takes_any = False  # it has `*args`, like `print` or a decorated function
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            takes_any = takes_any or parameter.kind is parameter.VAR_POSITIONAL
            continue
        keyword = parameter.name if parameter.kind is parameter.KEYWORD_ONLY else ""
        if parameter.name not in hints:
            if parameter.default is parameter.empty:
                kinds.append(("message", None, keyword))
            continue
        annotation = hints[parameter.name]
        type_ = _bare(annotation)
        given = next((kind for kind in (Message, *known) if kind in getattr(get_origin(type_) or type_, "__mro__", ())), None)
        if given is Message:
            inner = (get_args(type_) or (Any,))[0]
            kinds.append(("message", None, keyword) if inner is Any else ("typed_message", inner, keyword))
        elif given is not None and not get_args(type_):
            kinds.append(("known", given, keyword))
        elif given is not None:
            raise SubscriptionError(
                f"handler {title} (at {place}): {parameter.name} is a {shown(type_)}, but a handler's body is validated as a "
                "parameter of its own; write Delivery without a type"
            )
        elif annotation is Any or annotation is object:
            kinds.append(("body", Any, keyword))
        elif get_origin(type_) in (Union, UnionType) and (always := _member(type_, (Message, *known))) is not None:
            raise SubscriptionError(
                f"handler {title} (at {place}): {parameter.name} is annotated as {always} or something else, but it always "
                f"gets the {always}; annotate it as {always} alone"
            )
        elif parameter.default is parameter.empty or not _has(kinds, "body"):
            kinds.append(("body", annotation, keyword))
    for kind, what in (("body", "body"), ("message", "Message")):
        if sum(found == kind for found, _, _ in kinds) > 1:
            raise SubscriptionError(
                f"handler {title} (at {place}) has two parameters for the {what}; it may take one message, one body, "
                "a Delivery and the Bus, told apart by annotation"
            )
    if not kinds and takes_any:
        kinds.append(("message", None, ""))
    if not kinds and any(parameter.default is not parameter.empty for parameter in parameters):
        raise SubscriptionError(
            f"handler {title} (at {place}) has only parameters with defaults, so it takes no message; remove the default of "
            "the one that gets it, or all parameters"
        )
    return _Form(tuple(kinds), function)


def _bare(type_: Any) -> Any:
    """A type without `Annotated` and without a name that a `type` statement gives it."""
    while True:
        if get_origin(type_) is Annotated:
            type_ = type_.__origin__
        elif type(type_).__name__ == "TypeAliasType":
            type_ = type_.__value__
        else:
            return type_


def _member(union: Any, kinds: tuple[Any, ...]) -> str | None:
    """The name of the first of these types that is in a union."""
    members = [get_origin(bare) or bare for bare in map(_bare, get_args(union))]
    return next((kind.__name__ for kind in kinds if any(member is kind for member in members)), None)


def _has(kinds: list[tuple[str, Any, str]], kind: str) -> bool:
    return any(found == kind for found, _, _ in kinds)


def _hints(function: Any, title: str, place: Place) -> dict[str, Any]:
    """
    The annotations of the parameters as types. Not that of the result, which may exist for type checkers only.

    A name that the handler's module does not define is looked up where the handler is registered: in the local variables of
    the functions that are running, up to the first module.
    """
    target = inspect.unwrap(function)
    names: dict[str, Any] = getattr(target, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, note in getattr(target, "__annotations__", {}).items():
        if name == "return":
            continue
        one = SimpleNamespace(__annotations__={name: note}, __type_params__=getattr(target, "__type_params__", ()))
        try:
            try:
                hints |= get_type_hints(one, names, include_extras=True)
            except NameError:
                hints |= get_type_hints(one, names, _scope(), include_extras=True)
        except TypeError:
            continue  # it is not a type
        except Exception as error:
            raise SubscriptionError(
                f"handler {title} (at {place}): the annotation of {name} cannot be read: {error}; import its names where the "
                "handler is defined, and not under TYPE_CHECKING alone"
            ) from error
    return hints


def _scope() -> dict[str, Any]:
    frame: Any = sys._getframe(1)
    scope: dict[str, Any] = {}
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith("pipebus."):
            scope = {**frame.f_locals, **scope}
            if frame.f_code.co_name == "<module>":
                break
        frame = frame.f_back
    return scope
