"""
Handlers: subscriptions for modules that are imported before a bus exists.

    handlers = Handlers()

    @handlers.on("orders.created", name="billing")
    def bill(order: Order) -> None: ...

    bus.include(handlers)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from pipebus.bus.typing import Addresses, Options, Register
from pipebus.delivery.binding import check_runs, handler_name
from pipebus.errors import SubscriptionError
from pipebus.foreign.objects import shown
from pipebus.message.subject import Address, Subject, check_pattern, no_address
from pipebus.pipeline import places
from pipebus.pipeline.places import Place

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])


class Handlers:
    """
    Collects handlers for `bus.include`.

    Several buses may include the same `Handlers`, each of them once. While such a bus exists, no handler can be added.
    """

    def __init__(self) -> None:
        self._found: list[tuple[Any, Callable[..., Any], dict[str, Any], Place]] = []
        self._included: weakref.WeakSet[Bus] = weakref.WeakSet()

    @overload
    def on(self, subject: Subject[T], **options: Unpack[Options]) -> Register[T]: ...  # type: ignore[overload-overlap]
    @overload
    def on(self, subject: Addresses, **options: Unpack[Options]) -> Callable[[H], H]: ...
    def on(self, subject: Any, **options: Any) -> Any:
        """
        Remember a handler until a bus includes it. The options are those of `bus.on`; the function is returned unchanged.

        Raises:
            SubjectError: a bad pattern, or no subject at all.
            SubscriptionError: a generator function, or a bus has included these handlers already.
            TypeError: an unknown option.
        """
        place = places.caller()
        unknown = options.keys() - Options.__optional_keys__
        if unknown:
            known = ", ".join(sorted(Options.__optional_keys__))
            raise TypeError(f"on() got an unexpected keyword argument {shown(min(unknown))}; there are {known}")
        for one in subject if isinstance(subject, (list, tuple, set)) else (subject,):
            if isinstance(one, str):
                check_pattern(one)
            elif not isinstance(one, Address):
                raise no_address(one, "on")

        def register(handler: H) -> H:
            check_runs(handler, handler_name(handler), place)
            if self._included:
                raise SubscriptionError(
                    f"{getattr(handler, '__name__', handler)} (at {place}) comes too late: a bus has already included these "
                    "handlers and would not learn of this one; register it earlier, or on the bus itself"
                )
            self._found.append((subject, handler, options, place))
            return handler

        return register

    def hand_over(self, bus: Bus) -> list[tuple[Any, Callable[..., Any], dict[str, Any], Place]]:
        """
        The handlers for `bus.include` to subscribe: subject, function, options and place of each.

        Raises:
            SubscriptionError: this bus has included them before.
        """
        if bus in self._included:
            place = self._found[0][3] if self._found else "nowhere"
            raise SubscriptionError(
                f"the handlers of {place} and below are included already; including them again would handle each message twice"
            )
        self._included.add(bus)
        return list(self._found)

    def take_back(self, bus: Bus) -> None:
        """Undo `hand_over` after an include that failed, so that the bus may try again."""
        self._included.discard(bus)
