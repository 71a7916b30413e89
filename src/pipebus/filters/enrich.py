"""Enrich: add fields that the publisher does not know."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipebus.errors import PipelineError, Rejected
from pipebus.filters.changing import Changing
from pipebus.foreign.objects import json_type, plain_text, shown
from pipebus.message.message import Message
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished


@dataclass(eq=False)
class Enrich(Changing):
    """
    Merge fields into the body: fixed values, or the results of functions of the message.

    Args:
        add: Name -> value, or name -> plain function of the message that returns it; or one function that returns all fields.
        overwrite: True: added fields replace the body's own. False: they fill gaps only.

    Raises:
        Rejected: the body is not a mapping, so nothing can be added to it.
    """

    add: Mapping[str, Any | Callable[[Message[Any]], Any]] | Callable[[Message[Any]], Mapping[str, Any]]
    overwrite: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.add, Mapping) and (not callable(self.add) or not is_plain(self.add)):
            raise PipelineError(
                f"Enrich.add={shown(self.add)}: it is a mapping, or a plain function of the message that returns one"
            )
        fields = self.add if isinstance(self.add, Mapping) else {}
        for name, value in fields.items():
            if callable(value) and not is_plain(value):
                raise PipelineError(
                    f'Enrich.add["{name}"] is async or a generator; it is a value, or a plain function of the message'
                )
        self._functions = {plain_text(name): value for name, value in fields.items() if callable(value)}
        self._fixed = {plain_text(name): value for name, value in fields.items() if not callable(value)}

    def transform(self, message: Message[Any], /) -> Message[Any]:
        if not isinstance(message.body, Mapping):
            raise Rejected(f"the body is {json_type(message.body)}; only a table can be enriched")
        found: Mapping[str, Any]
        if isinstance(self.add, Mapping):
            # A copy, so that messages do not share the values.
            made = {name: finished(function(message)) for name, function in self._functions.items()}
            found = {**copy.deepcopy(self._fixed), **made}
        else:
            found = finished(self.add(message))
        return message.with_body({**message.body, **found} if self.overwrite else {**found, **message.body})
