"""
Messages as people see them: with the named fields hidden, as `Log` hides them, and never more than a screen can show.

A body may be anything: ten megabytes, nested without end, an object whose own methods raise. So the copy that is shown is made
of plain data, with a budget for its size; what does not fit is left out, and the message says so (`cut`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from pipebus.bus.bus import Bus, engine_of
from pipebus.filters.field_names import HIDDEN, FieldNames, Tables, fields_of, lower
from pipebus.filters.log import Log
from pipebus.filters.redact import Redact
from pipebus.foreign.objects import class_name, plain_text, printable, said, shown, spared, visible
from pipebus.message.message import Message
from pipebus.pipeline.routes import steps

BRIEF: Final = 4_096
"""Characters of a message in a list."""
WHOLE: Final = 65_536
"""Characters of one message, and of a traceback."""
NAME: Final = 256
"""Characters of a subject, an id, a key."""
DEEPEST: Final = 32
"""Levels of a body."""
EXACT: Final = 2**53
"""From here on, a browser's numbers are not exact, so integers are shown as text."""
ELLIPSIS: Final = "…"
NOTHING: Final = FieldNames((), "web.app.redact")
"""No names to hide."""


class Shown:
    """
    What people see of the messages of one bus.

    Args:
        bus: Its filters `Log` and `Redact`, in any chain, name fields and headers whose values are hidden here too.
        redact: Further names, as in `Log.redact`.

    Raises:
        PipelineError: `redact` is not a list of names.
    """

    def __init__(self, bus: Bus, redact: Iterable[str] = ()) -> None:
        self._parts = engine_of(bus)
        self._given = FieldNames(redact, "web.app.redact").names

    def names(self) -> FieldNames:
        """The hidden names. They are looked for each time, because filters come and go with subscriptions."""
        engine = self._parts
        found = dict.fromkeys(self._given)
        for chain in (engine.router.nodes, engine.delivery_nodes, *engine.lifecycle.filters.own_chains()):
            for step in steps(chain):
                if isinstance(step.filter, Log):
                    found |= dict.fromkeys(step.filter.redact)
                elif isinstance(step.filter, Redact):
                    found |= dict.fromkeys(step.filter.names)
        return FieldNames(tuple(found), "web.app.redact")

    def message(
        self, message: Message[Any], number: int | None = None, subscriptions: tuple[str, ...] = (), size: int = BRIEF,
        names: FieldNames | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """
        Return a message as JSON.

        Args:
            number: Its number among those that were seen.
            subscriptions: The names of those that got it.
            size: Characters of body and headers.
            names: Of `names()`, for several messages.
        """
        copy = Copy(names or self.names(), size)
        headers = copy.of(message.headers, "headers")
        body = copy.of(message.body, "body")
        return {
            "number": number,
            "time": message.time,
            "id": name_text(message.id),
            "subject": name_text(message.subject),
            "key": None if message.key is None else name_text(message.key),
            "headers": headers if isinstance(headers, dict) else {},
            "body": body,
            "cut": copy.cut,
            "subscriptions": [name_text(one) for one in subscriptions],
            "correlation_id": None if message.correlation_id is None else name_text(message.correlation_id),
            "causation_id": None if message.causation_id is None else name_text(message.causation_id),
        }

    def value(self, value: Any, table: str = "body", size: int = BRIEF) -> Any:
        """Return a body that belongs to no message, as that of a schedule."""
        return Copy(self.names(), size).of(value, table)


def name_text(value: object) -> str:
    """A subject, an id or a name as one short line."""
    return short(said(value), NAME)


def short(text: str, size: int, but: str = "") -> str:
    """The beginning of a text, without characters that would change how the text around it is shown."""
    return visible(printable(text[:size]), but) + (ELLIPSIS if len(text) > size else "")


class Copy:
    """
    One copy of plain data, with a budget.

    Attributes:
        cut: Whether something was left out.
    """

    def __init__(self, names: FieldNames, size: int) -> None:
        self._names = names
        self._left = size
        self.cut = False

    def of(self, value: Any, table: str) -> Any:
        """Return the copy; the name of the value's class if its own methods fail."""
        try:
            return self._of(value, (table,), 0)
        except BaseException as error:
            spared(error)
            self.cut = True
            return f"<{class_name(value)}: cannot be shown: {class_name(error)}>"

    def _of(self, value: Any, around: Tables, depth: int) -> Any:
        self._left -= 4  # also what takes no characters takes room
        if self._left <= 0 or depth > DEEPEST:
            return self._cut()
        if value is None or isinstance(value, bool):
            return value
        if type(value) is int:
            return value if -EXACT <= value <= EXACT else self._text(shown(value))
        if type(value) is float:
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self._text(plain_text(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._text(shown(bytes(value[: self._left])), len(value) > self._left)
        fields = fields_of(value)
        if fields is not None:
            return self._table(fields, around, depth)
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            return [self._of(one, around, depth + 1) for one in self._first(value)]
        return self._text(shown(value))

    def _table(self, fields: Mapping[Any, Any], around: Tables, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, inner in list(self._first(fields.items())):  # a handler may change the table meanwhile
            name = said(key)
            short_name, hidden = self._text(name), self._names.include(name, around)
            found[short_name] = HIDDEN if hidden else self._of(inner, (*around, lower(name)), depth + 1)
        return found

    def _first(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values that there is room for."""
        most = max(self._left // 4, 1)
        for index, one in enumerate(islice(values, most + 1)):
            if index == most or self._left <= 0:
                self._cut()
                return
            yield one

    def _text(self, text: str, more: bool = False) -> str:
        size = max(self._left, 1)
        self._left -= len(text)
        self.cut = self.cut or more or len(text) > size
        return short(text, size, but="\n\t")

    def _cut(self) -> str:
        self.cut = True
        return ELLIPSIS
