"""SetHeaders: give every message of a chain the same headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipebus.errors import PipelineError
from pipebus.filters.changing import Changing
from pipebus.filters.field_paths import needed_text
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.headers import check_headers
from pipebus.message.message import Message
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished


@dataclass(eq=False)
class SetHeaders(Changing):
    """
    Set headers: fixed texts, or functions of the message.

    Args:
        headers: Name -> text, or name -> function of the message that returns a text, or a number, which becomes a text.
        overwrite: True: they replace existing headers. False: they fill gaps only.

    Raises:
        HeaderError: a name or fixed text breaks the grammar.
        Rejected: a function returned None, a value that is not a text or number, or a text that no header can hold.
    """

    headers: Mapping[str, str | Callable[[Message[Any]], str | float]]
    overwrite: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.headers, Mapping) or not self.headers:
            raise PipelineError(f'SetHeaders.headers={shown(self.headers)}: it maps names to texts, as in {{"tenant": "acme"}}')
        for name, value in self.headers.items():
            if callable(value) and not is_plain(value):
                raise PipelineError(
                    f'SetHeaders.headers["{name}"] is async or a generator; it is a text, or a plain function of the message'
                )
        self._functions = {plain_text(name): value for name, value in self.headers.items() if callable(value)}
        self._fixed = check_headers({name: value for name, value in self.headers.items() if not callable(value)})
        check_headers(dict.fromkeys(self._functions, ""))

    def transform(self, message: Message[Any], /) -> Message[Any]:
        added: Mapping[str, str] = self._fixed
        if self._functions:
            added = {
                **added,
                **{
                    name: needed_text(f'header "{name}"', finished(function(message)), empty=True)
                    for name, function in self._functions.items()
                },
            }
        if not self.overwrite and message.headers:
            added = {name: value for name, value in added.items() if name not in message.headers}
        return message.with_headers(added) if added else message
