"""Messages for tests, made by hypothesis: of any kind, or with bodies of one type."""

import dataclasses
import decimal
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.message.subject import Subject
from pipebus.testing.laws.case import as_message

words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
_REFUSED = object()
any_body = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value."""


def messages(subject: Any = "test", bodies: Any = None) -> st.SearchStrategy[Message[Any]]:
    """Messages of one subject. Bodies: a type that pydantic knows, a strategy, those of a `Subject[T]`, or any JSON value."""
    if bodies is None and isinstance(subject, Subject):
        bodies = subject.type
    if bodies is None:
        made = any_body
    else:
        made = bodies if isinstance(bodies, st.SearchStrategy) else bodies_of(bodies)
    return st.builds(
        Message,
        st.just(str(subject) if isinstance(subject, str) else subject),
        made,
        headers=st.dictionaries(words, st.text(st.characters(categories=["L", "N", "Zs"]), max_size=8), max_size=2),
        key=st.none() | words,
        ttl=st.none() | st.just(3600.0),
        correlation_id=st.none() | words,
    )


def bodies_of(type_: Any) -> st.SearchStrategy[Any]:
    """What pydantic validates as a `type_`, as a publisher sends it: fields within their bounds, with and without defaults."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
    except Exception as error:
        raise PipelineError(f"messages=: pydantic does not know the type {type_!r}: {error}") from error

    def validated(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except Exception:
            return _REFUSED

    return _of(type_).map(validated).filter(lambda body: body is not _REFUSED)


def _of(type_: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return _of(arguments[0], (*arguments[1:], *metadata))
    if origin in (Union, types.UnionType):
        return st.one_of([_of(one, metadata if one is not type(None) else ()) for one in arguments])
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        return st.deferred(lambda: _fields(type_))
    if origin in (list, set, frozenset, dict, tuple) and not metadata and origin is not tuple:
        inner = [_of(one) for one in arguments]
        if origin is dict:
            return st.dictionaries(inner[0], inner[1], max_size=3)
        return st.lists(inner[0], max_size=3) if origin is list else st.frozensets(inner[0], max_size=3)
    pattern = next((found for one in metadata if (found := getattr(one, "pattern", None))), None)
    if pattern is not None:
        return st.from_regex(pattern, fullmatch=True)
    if origin is Literal:
        return st.sampled_from(arguments)
    if type_ is Any or type_ is object:
        return any_body
    if type_ is float and not metadata:
        return st.floats(allow_nan=False, allow_infinity=False)
    if type_ is decimal.Decimal:
        return st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1000, max_value=1000)
    known = tuple(one for one in metadata if type(one).__module__ == "annotated_types")
    return st.from_type(Annotated[(type_, *known)] if known else type_)  # type: ignore[arg-type]


def _fields(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    needed: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, info in model.model_fields.items():
        alias = info.validation_alias if isinstance(info.validation_alias, str) else info.alias or name
        (needed if info.is_required() else optional)[alias] = _of(info.annotation, tuple(info.metadata))
    return st.fixed_dictionaries(needed, optional=optional)


def chosen(given: Any) -> Any:
    """The strategy that `check_filter(messages=…)` means, if it is not a list."""
    if given is None:
        return messages()
    if isinstance(given, st.SearchStrategy):
        return given.map(as_message)
    if isinstance(given, Subject):
        return messages(given)
    if isinstance(given, type) or get_origin(given) is not None or dataclasses.is_dataclass(given):
        return messages(bodies=given)
    raise PipelineError(
        f"messages={given!r}: it is a Subject[T], a type that pydantic knows, a hypothesis strategy, or a list of messages"
    )
