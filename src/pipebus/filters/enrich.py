"""Enrich: add what the publisher did not know."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipebus.errors import PipelineError, Rejected
from pipebus.message import Message
from pipebus.pipeline import Transform, is_async


@dataclass(eq=False)
class Enrich(Transform):
    """
    Merge fields into the body: fixed ones, or what a function of the message returns.

    Args:
        add: A mapping, or a plain function message -> mapping.
        overwrite: True: added fields win over the body's own. False: they fill gaps only.

    Raises:
        Rejected: the body is no mapping, so nothing can be added to it.
    """

    add: Mapping[str, Any] | Callable[[Message[Any]], Mapping[str, Any]]
    overwrite: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.add, Mapping) and (not callable(self.add) or is_async(self.add)):
            raise PipelineError(
                f"Enrich.add={self.add!r}: it is a mapping, or a plain function of the message that returns one"
            )

    def transform(self, message: Message[Any], /) -> Message[Any]:
        if not isinstance(message.body, Mapping):
            raise Rejected(None, f"the body is {type(message.body).__name__}; only a mapping can be enriched")
        # A copy: what is added belongs to this message alone.
        found = copy.deepcopy(dict(self.add)) if isinstance(self.add, Mapping) else self.add(message)
        return message.with_body({**message.body, **found} if self.overwrite else {**found, **message.body})
