"""
Types for the bus's larger signatures: keyword options, and handlers whose body has the type of the subject.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from pipebus.delivery.delivery import Delivery
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import A, Address, Name, Subject, T
from pipebus.pipeline.pipeline import Pipeline
from pipebus.values.defaults import Overflow
from pipebus.values.quantities import Duration

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

P = ParamSpec("P")
R = TypeVar("R")

Where = Name | Address
"""What a message can be published to, other than a `Subject[T]`."""

Addresses = Name | Address | list[Any] | tuple[Any, ...] | set[Any]
"""What can be subscribed to, other than a `Subject[T]`: a subject, a pattern, an object, or a collection of them."""

if TYPE_CHECKING:
    MessageHandler = Callable[Concatenate[Message[T], ...], A | Coroutine[Any, Any, A | None] | None]
    Handler = (
        MessageHandler[T, A]
        | Callable[Concatenate[T, ...], A | Coroutine[Any, Any, A | None] | None]
        | Callable[Concatenate[Delivery, ...], object]
        | Callable[Concatenate[Bus, ...], object]
        | Callable[[], object]
    )
    AnyHandler = Callable[Concatenate[Message, ...], object] | Callable[..., object]  # the first for the parameter of a lambda


class Publisher(Protocol):
    """The type of a parameter through which code only publishes: a `Bus`, or a fake in a test."""

    @overload
    def publish(self, subject: Subject[T], body: T, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Subject[None], body: None = None, **options: Unpack[Publication]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Where, body: Any = None, **options: Unpack[Publication]) -> Receipt | Dropped: ...


class Receiver(Protocol[T]):
    """
    The type of a parameter from which code only reads messages with a body of type T: a `Subscription[T]` without a handler, or
    a fake in a test.
    """

    def receive(self, timeout: float | None = None) -> Message[T]: ...
    async def areceive(self, timeout: float | None = None) -> Message[T]: ...
    def __iter__(self) -> Iterator[Message[T]]: ...
    def __aiter__(self) -> AsyncIterator[Message[T]]: ...


class Envelope(TypedDict, total=False):
    """The keyword arguments of a message."""

    headers: Mapping[str, str] | None
    key: str | None
    id: str | None
    ttl: Duration | None
    delay: Duration
    reply_to: Any
    correlation_id: str | None
    causation_id: str | None
    strict: bool | None


class Recurring(Envelope, total=False):
    """The keyword arguments of `every` and `cron`."""

    name: str | None
    now: bool
    missed: Literal["skip", "once"]


class Publication(Envelope, total=False):
    """The keyword arguments of `publish`."""

    within: Any


class Question(TypedDict, total=False):
    """The keyword arguments of `request`."""

    timeout: Duration
    headers: Mapping[str, str] | None
    key: str | None
    id: str | None
    ttl: Duration | None
    correlation_id: str | None
    causation_id: str | None


class Options(TypedDict, total=False):
    """The keyword arguments of `subscribe` and `on`."""

    name: str | None
    filters: Sequence[Any] | Pipeline
    to: Any
    workers: int
    run: Literal["pool", "thread", "loop"] | None
    mailbox: int
    overflow: Overflow
    overflow_timeout: Duration
    attempts: int
    deliver: str


class Register(Protocol[T]):
    """
    What `on(Subject[T])` returns: a decorator for handlers that take a `T`, a `Message[T]`, a `Delivery` or the `Bus` first, or
    nothing.

    With it, type checkers lose the name of the first parameter; `on("a.string")` keeps the function's whole type.
    """

    @overload
    def __call__(self, handler: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Message[T], P], R], /) -> Callable[Concatenate[Message[T], P], R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Delivery, P], R], /) -> Callable[Concatenate[Delivery, P], R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Bus, P], R], /) -> Callable[Concatenate[Bus, P], R]: ...
    @overload
    def __call__(self, handler: Callable[[], R], /) -> Callable[[], R]: ...
