"""
What type checkers see of the bus's larger signatures: keyword options, and handlers whose body's type follows the subject's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from pipebus.delivery.subscription import Delivery
from pipebus.mailbox.mailbox import Overflow
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.subject import Address, Name, Subject
from pipebus.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

Where = Name | Address
"""What is published to, when it is no `Subject[T]`."""

Addresses = Name | Address | list[Any] | tuple[Any, ...] | set[Any]
"""What is subscribed to, when it is no `Subject[T]`."""

if TYPE_CHECKING:
    Handler = (
        Callable[Concatenate[T, ...], object]
        | Callable[Concatenate[Message[T], ...], object]
        | Callable[Concatenate[Delivery, ...], object]
        | Callable[Concatenate[Bus, ...], object]
    )


class Publisher(Protocol):
    """For those who only send: a `Bus` is one, and so is a test's stand-in."""

    @overload
    def publish(self, subject: Subject[T], body: T, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Subject[None], body: None = None, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...
    @overload
    def publish(self, subject: Where, body: Any = None, **envelope: Unpack[Envelope]) -> Receipt | Dropped: ...


class Receiver(Protocol):
    """For those who only read: a `Subscription` without a handler is one."""

    def receive(self, timeout: float | None = None) -> Message[Any]: ...
    async def areceive(self, timeout: float | None = None) -> Message[Any]: ...
    def __iter__(self) -> Iterator[Message[Any]]: ...
    def __aiter__(self) -> AsyncIterator[Message[Any]]: ...


class Envelope(TypedDict, total=False):
    """The keyword arguments of `publish`."""

    headers: Mapping[str, str] | None
    key: str | None
    id: str | None
    ttl: float | None
    delay: float
    reply_to: Any
    correlation_id: str | None


class Question(TypedDict, total=False):
    """The keyword arguments of `request`."""

    timeout: float
    headers: Mapping[str, str] | None
    key: str | None
    id: str | None
    ttl: float | None
    correlation_id: str | None


class Options(TypedDict, total=False):
    """The keyword arguments of `subscribe` and `on`."""

    name: str | None
    filters: Sequence[Any] | Pipeline
    to: Any
    workers: int
    run: Literal["pool", "thread", "loop"] | None
    mailbox: int
    overflow: Overflow
    overflow_timeout: float
    attempts: int
    deliver: str


class Register(Protocol[T]):
    """
    What `on(Subject[T])` gives: a decorator for handlers of a T, or of whatever else a handler may take.

    The name of the first parameter is lost to type checkers here; `on("a.string")` keeps the function's type whole.
    """

    @overload
    def __call__(self, handler: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Message[T], P], R], /) -> Callable[Concatenate[Message[T], P], R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Delivery, P], R], /) -> Callable[Concatenate[Delivery, P], R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Bus, P], R], /) -> Callable[Concatenate[Bus, P], R]: ...
