"""A filter whose state a test decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipebus import Message, Transform
from pipebus.pipeline.shapes import Context


class Door(Transform):
    """
    A filter that shows `figures`; if they are an error, it is raised. `shut` pauses a subscription, as a circuit breaker does.

    Attributes:
        places: The chains for which the bus has asked.
    """

    def __init__(self, figures: Any = None, name: str = "Door", **more: Any) -> None:
        self.name = name
        self.figures: Any = more if figures is None else figures
        self.places: list[str] = []

    def start(self, context: Context) -> None:
        self.shut: Callable[[str], Callable[[], None]] = context.pause

    def transform(self, message: Message) -> Message:
        return message

    def stats(self, place: str) -> Any:
        self.places.append(place)
        if isinstance(self.figures, BaseException):
            raise type(self.figures)(*self.figures.args)
        return self.figures
