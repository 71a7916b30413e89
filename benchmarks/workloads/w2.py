"""
W2: a count, a pydantic validation, a copying transform. What a small real chain costs.

In W2 the validated model replaces the body, in W2k the raw body is kept and the model thrown away. All
contenders end with the same message, which is checked after the clock stopped. A change is a changed copy,
because several may read one message; `limit-in-place` shows what that costs by letting the validation
overwrite the body.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import limit
import ours
import simplest
from harness import BODY, MICROSECONDS, SUBJECT, Contender, Workload, flow_contender
from peers import pymessagebus, reactivex

from .orders import Order, validated

Next = Callable[[Any], Any]


class Counter:
    """A count that only the publishing thread touches."""

    def __init__(self) -> None:
        self.messages = 0

    def filter(self, message: Any, call_next: Next) -> Any:
        """Count on the way in: the limit's shape, and pipebus's plain one."""
        self.messages += 1
        return call_next(message)

    def filter_in(self, message: Any) -> Any:
        """Count, in the shape of the simplest design."""
        self.messages += 1
        return message


def limit_filters(keep: bool, in_place: bool = False) -> list[Any]:
    """Closest to the metal: copies are made by the constructor itself."""

    def check(message: limit.Message, call_next: Next) -> Any:
        validated(message.body)
        return call_next(message)

    def replace(message: limit.Message, call_next: Next) -> Any:
        body = validated(message.body)
        return call_next(limit.Message(message.id, message.subject, body, message.headers))

    def overwrite(message: limit.Message, call_next: Next) -> Any:
        message.body = validated(message.body)
        return call_next(message)

    def stamp(message: limit.Message, call_next: Next) -> Any:
        headers = {**message.headers, "seen_by": "stamp"}
        return call_next(limit.Message(message.id, message.subject, message.body, headers))

    return [Counter().filter, check if keep else overwrite if in_place else replace, stamp]


def simplest_filters(keep: bool) -> list[Any]:
    """Functions of one message."""

    def check(message: simplest.Message) -> simplest.Message:
        validated(message.body)
        return message

    def replace(message: simplest.Message) -> simplest.Message:
        return simplest.Message(message.subject, validated(message.body), message.headers)

    def stamp(message: simplest.Message) -> simplest.Message:
        return simplest.Message(message.subject, message.body, {**message.headers, "seen_by": "stamp"})

    return [Counter().filter_in, check if keep else replace, stamp]


def plain_filters(keep: bool) -> list[Any]:
    """The shape that the limit has, on pipebus."""

    def check(message: Any, call_next: Next) -> Any:
        validated(message.body)
        return call_next(message)

    def replace(message: Any, call_next: Next) -> Any:
        return call_next(message.with_body(validated(message.body)))

    def stamp(message: Any, call_next: Next) -> Any:
        return call_next(message.with_headers(seen_by="stamp"))

    return [Counter().filter, check if keep else replace, stamp]


def built_in_filters(keep: bool) -> list[Any]:
    """The shapes that serve sync and async chains: an @around and two built-in Transforms."""
    from pipebus import around
    from pipebus.filters import SetHeaders, Validate

    messages = 0

    @around
    def tally(message: Any) -> Generator[Any, Any, Any]:
        nonlocal messages
        messages += 1
        yield message

    return [tally, Validate({SUBJECT: Order}, replace=not keep), SetHeaders({"seen_by": "stamp"})]


def pymessagebus_filters(keep: bool) -> list[Any]:
    """Middlewares, with the message as a named tuple."""

    def check(message: pymessagebus.Order, call_next: Next) -> Any:
        validated(message.body)
        return call_next(message)

    def replace(message: pymessagebus.Order, call_next: Next) -> Any:
        return call_next(message._replace(body=validated(message.body)))

    def stamp(message: pymessagebus.Order, call_next: Next) -> Any:
        return call_next(message._replace(headers={**message.headers, "seen_by": "stamp"}))

    return [Counter().filter, check if keep else replace, stamp]


def is_stamped(message: Any, body: Any) -> bool:
    """Whether the work was done to a message."""
    return bool(message.body == body and message.headers["seen_by"] == "stamp")


def contenders(keep: bool) -> dict[str, Contender]:
    """Everybody who can do it, with the same work to show for it."""
    add = partial(flow_contender, expect=partial(is_stamped, body=BODY if keep else validated(BODY)))
    plain, built_in = partial(plain_filters, keep), partial(built_in_filters, keep)
    shapes = ours.GUARANTEES._replace(words="the same; filters as @around, Validate, SetHeaders: for sync and async chains")
    maps, middlewares = partial(simplest_filters, keep), partial(pymessagebus_filters, keep)
    found = {"limit": add(limit.GUARANTEES, limit.open_flow, partial(limit_filters, keep))}
    if not keep:
        in_place = partial(limit_filters, keep, in_place=True)
        found["limit-in-place"] = add(
            limit.GUARANTEES._replace(words="the same; validation overwrites the body"), limit.open_flow, in_place
        )
    return found | {
        "simplest": add(simplest.GUARANTEES, simplest.open_flow, maps),
        "pipebus-plain": add(ours.GUARANTEES, ours.open_flow, plain, reach_ratio=1.15),
        "pipebus-plain-wide": add(ours.WIDE, ours.open_wide, plain, reach_ratio=1.15),
        "pipebus-built-in": add(shapes, ours.open_flow, built_in, reach_ratio=1.5),
        "pipebus-built-in-wide": add(ours.WIDE, ours.open_wide, built_in, reach_ratio=1.5),
        "reactivex": add(reactivex.GUARANTEES, reactivex.open_flow, maps, most=reactivex.MOST),
        "reactivex-direct": add(reactivex.DIRECT, reactivex.open_direct_flow, maps),
        "pymessagebus": add(pymessagebus.GUARANTEES, pymessagebus.open_flow, middlewares),
    }


WORKLOAD = Workload(
    about="count, validate with pydantic (dict -> model), add a header",
    columns=MICROSECONDS,
    contenders=contenders(keep=False),
)
KEEPING = Workload(
    about="count, validate with pydantic but keep the dict, add a header",
    columns=MICROSECONDS,
    contenders=contenders(keep=True),
)
