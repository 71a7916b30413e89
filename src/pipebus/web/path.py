"""The path of one message, by a dry run: what each filter makes of it, why it ends, and which mailboxes would get it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from starlette.exceptions import HTTPException

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.dry_run import dry_run
from pipebus.bus.explain import describe_node, place_text
from pipebus.bus.watched import Note, way
from pipebus.filters.field_names import HIDDEN, FieldNames
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.telemetry.sampler import Sampler
from pipebus.web.messages import NOTHING, WHOLE, Copy, Shown, name_text, short

RUNS: Final = 4
"""The most dry runs at the same time, with those that were given up and still hang in a filter."""
STEPS: Final = 200
"""The most passes that are shown: a filter may run the rest many times."""
CHANGES: Final = 100
"""The most changes that are shown of one filter."""
SIZE: Final = 16_384
"""Characters of a message after a filter."""
REASON: Final = 1_000
"""Characters of a reason."""
FIELDS: Final = ("subject", "key", "headers", "body")


class Paths:
    """
    Dry runs on one bus.

    Args:
        sampler: Knows the recent messages.
        shown: How messages are shown.
    """

    def __init__(self, bus: Bus, sampler: Sampler, shown: Shown) -> None:
        self._parts = engine_of(bus)
        self._sampler = sampler
        self._shown = shown
        self._free = threading.BoundedSemaphore(RUNS)

    def find(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """
        Return the path of a message, which takes up to some seconds.

        Args:
            wanted: Of a message: "subject", "body", "headers", "key"; or the "number" of a recent one.

        Raises:
            HTTPException: 400: this is not a message; 404: the message is not there any more; 503: too many dry runs hang.
            PipebusError: a subject, header or field is wrong.
        """
        message = self._message(wanted)
        if not self._free.acquire(blocking=False):
            raise HTTPException(503, f"{RUNS} dry runs are going on; filters hang, or try again in a moment")
        found = dry_run(self._parts, message, then=self._free.release)
        names = self._shown.names()
        delivery, reached = self._parts.delivery_nodes, sorted(found.reached, key=lambda one: one.name)
        return {
            "steps": [self._step(note, names) for note in found.notes[:STEPS]],
            "outcome": {name: _text(found.outcome[name]) for name in ("outcome", "by", "reason")},
            "mailboxes": Copy(NOTHING, WHOLE).of([way(one, delivery) for one in reached], "mailboxes"),
        }

    def _message(self, wanted: dict[str, Any]) -> Message[Any]:
        if "number" in wanted:
            number = wanted["number"]
            for one in self._sampler.recent(number - 1 if isinstance(number, int) else 0):
                if one.number == number:
                    return _apart(one.message)
            raise HTTPException(404, "this message is not among the recent ones any more; take another")
        unknown = wanted.keys() - {*FIELDS}
        if unknown or not isinstance(wanted.get("subject"), str):
            raise HTTPException(
                400, f"a message has a subject, and may have {', '.join(FIELDS[1:])}; or it has the number of one"
            )
        headers, key = wanted.get("headers") or {}, wanted.get("key")
        if not isinstance(headers, dict):
            raise HTTPException(400, 'headers are a table of texts, as in {"tenant": "acme"}')
        return Message(wanted["subject"], wanted.get("body"), headers, key=key)

    def _step(self, note: Note, names: FieldNames) -> dict[str, Any]:
        before = self._shown.message(note.before, size=SIZE, names=names)
        after = None if note.after is None else self._shown.message(note.after, size=SIZE, names=names)
        changes = [] if after is None else list(islice(changes_of(_content(before), _content(after)), CHANGES))
        known = {change["path"] for change in changes}
        hidden = [] if note.after is None else [path for path in self._changed(note.before, note.after) if path not in known]
        return {
            "filter": name_text(note.step.name),
            "place": place_text(note.step.place),
            "settings": Copy(NOTHING, SIZE).of(describe_node(note.step)["settings"], "settings"),
            "took": note.took,
            "why": _text(note.why),
            "message": after,
            "changes": [*changes, *({"path": path, "before": HIDDEN, "after": HIDDEN} for path in hidden)],
        }

    def _changed(self, before: Message[Any], after: Message[Any]) -> list[str]:
        """The paths of what differs, also in values that are not shown."""
        plain, other = (_content(self._shown.message(one, size=SIZE, names=NOTHING)) for one in (before, after))
        return [change["path"] for change in islice(changes_of(plain, other), CHANGES)]


def _apart(message: Message[Any]) -> Message[Any]:
    """
    The same message with a body of its own: in memory, the real one is in the hands of handlers and readers.

    Raises:
        HTTPException: 400: the body cannot be copied.
    """
    try:
        return message.with_body(copy.deepcopy(message.body))
    except Exception as error:
        raise HTTPException(400, f"its body cannot be copied for a dry run: {short(text_of(error), REASON)}") from None


def changes_of(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """
    Yield what differs between two values of plain data.

    Each has a "path", as in `body.items[0].price`, and "before" and "after"; without one of them if there was, or is, nothing.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            yield from _change(before, after, name, f"{path}.{name}" if path else name, name in before, name in after)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from _change(before, after, index, f"{path}[{index}]", index < len(before), index < len(after))
    elif type(before) is not type(after) or before != after:
        yield {"path": path, "before": before, "after": after}


def _change(before: Any, after: Any, key: Any, path: str, was: bool, stays: bool) -> Iterator[dict[str, Any]]:
    if was and stays:
        yield from changes_of(before[key], after[key], path)
    else:
        yield {"path": path} | ({"before": before[key]} if was else {}) | ({"after": after[key]} if stays else {})


def _content(message: dict[str, Any]) -> dict[str, Any]:
    return {name: message[name] for name in FIELDS}


def _text(text: str | None) -> str | None:
    return None if text is None else short(text, REASON)
