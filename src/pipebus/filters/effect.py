"""What `Retry` and `Fallback` share: whether a message has had its effect, so that it must not be sent again."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pipebus.pipeline import state


class Effect:
    """
    The effect of one message, from now on: true when it has had one. In a publish chain, that is when a mailbox or the store
    has accepted it, or another message that later filters publish. Around a handler, it is when the delivery is settled.

    It reads the context variables when it is made: a generator may be closed in another context.
    """

    def __init__(self, published: bool) -> None:
        self.delivery = None if published else state.delivery.get()
        self._notes = state.accepted.get() if published else None
        self._token = None
        if published and (self._notes is None or getattr(self._notes, "over", False)):
            self._notes = _Notes()
            self._token = state.accepted.set(self._notes)
        self._before = len(self._notes) if self._notes is not None else 0

    def __bool__(self) -> bool:
        if self._notes is not None:
            return len(self._notes) > self._before
        return self.delivery is not None and bool(self.delivery.settled)

    def end(self) -> None:
        """The filter is done with the message."""
        if self._token is not None:
            self._notes.over = True  # type: ignore[union-attr]
            with suppress(ValueError):  # the generator was closed in another context
                state.accepted.reset(self._token)


class _Notes(list[Any]):
    """
    What mailboxes or the store have accepted in one publish. The outermost filter that repeats makes it; inner ones add to it.

    A task or thread that a filter starts inherits the context, and may publish long after this publish. `over` then stops it
    from adding to these notes.
    """

    over = False

    def append(self, accepted: Any, /) -> None:
        if not self.over:
            super().append(accepted)
