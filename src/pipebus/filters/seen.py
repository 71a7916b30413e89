"""What filters share that recognise a message which comes again: the keys that one chain has seen."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from pipebus.clock import Clock
from pipebus.errors import ContractError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.fields import plain_number
from pipebus.pipeline.shapes import Context, Memory


def went_well(delivery: Any, fine: bool) -> bool:
    """Whether a run ended well; the verdict of a handler that has settled its delivery counts more than how the run ended."""
    return delivery.verdict == "acknowledged" if delivery is not None and delivery.settled else fine


def as_text(key: Hashable) -> str:
    """A key as the store keeps it: equal texts for equal keys, in every process."""
    key = plain_number(plain_text(key))
    if isinstance(key, (str, bytes)):
        return f"{type(key).__name__}:{shown(key)}"
    if isinstance(key, (int, float)):  # 1, 1.0 and True are equal
        return f"number:{int(key) if key == key // 1 else key!r}"
    if isinstance(key, tuple):
        return f"tuple:{[as_text(part) for part in key]!r}"
    raise ContractError(
        f"cannot remember {shown(key)}: with durable=True a key is text, bytes, a number, or a tuple of these, found "
        f"{type(key).__name__}"
    )


def memory_of(context: Context, name: str) -> Memory:
    """
    The transport's memory, for the filter of this name.

    Raises:
        UnsupportedCapability: it has none.
    """
    if context.memory is None:
        raise UnsupportedCapability(
            f"{name}(durable=True): {context.bus.url} keeps no memory for filters; use a store that does, such as "
            "sqlite:///bus.db, or leave `durable` out"
        )
    return context.memory


class Seen:
    """The keys of messages that one chain has seen."""

    __slots__ = ("__weakref__", "_known", "_lock", "_running")

    def __init__(self) -> None:
        self._running: dict[Hashable, Any] = {}  # key -> its delivery, which the handler may settle, or None
        self._known: OrderedDict[Hashable, float] = OrderedDict()  # key -> when its run ended well; oldest first
        self._lock = threading.RLock()  # reentrant: a signal handler or a key's own __eq__ may publish while it is held

    def enter(self, key: Hashable, delivery: Any, clock: Clock, window: float) -> bool:
        """Note that a message runs; False if it is a duplicate."""
        with self._lock:
            oldest = clock.monotonic() - window
            for _ in range(2):  # one more than a message adds, so the memory shrinks; forgetting all at once could take long
                if self._known and next(iter(self._known.values())) <= oldest:
                    self._known.popitem(last=False)
            if key in self._running and went_well(self._running[key], True):
                return False
            if self._known.get(key, oldest) > oldest:
                return False
            self._known.pop(key, None)
            self._running[key] = delivery  # may replace one that its handler has given back but that still runs
            return True

    def forget(self, key: Hashable) -> None:
        with self._lock:
            self._known.pop(key, None)

    def leave(self, key: Hashable, delivery: Any, well: bool, clock: Clock, size: int) -> None:
        with self._lock:
            if self._running.get(key) is delivery:
                self._running.pop(key, None)
            if well:
                self._known[key] = clock.monotonic()
                if len(self._known) > size:
                    self._known.popitem(last=False)
