"""Messages, and what became of them, as JSON."""

import difflib
from typing import Any, Final

from pipebus import events
from pipebus.cli.show import as_json
from pipebus.foreign.objects import json_type
from pipebus.inputs.records import BadRecord
from pipebus.message.headers import HOPS_HEADER
from pipebus.running.here import current_mailbox
from pipebus.values.json_data import plain

OPTIONS: Final = ("headers", "key", "id", "ttl", "delay", "reply_to", "correlation_id", "causation_id", "time")
"""Fields that a message in JSON may have. With its own time, `Expire` and ttl treat it as they would have then."""

TEXTS: Final = ("key", "id", "reply_to", "correlation_id", "causation_id")
"""Those of them that are text."""

FIELDS: Final = ("subject", "body", *OPTIONS)
"""All fields of a message in JSON."""


def message_json(message: Any) -> dict[str, Any]:
    """Return a message without its empty fields, and without its hop count: published again, it begins at 0."""
    fields = {
        "subject": str(message.subject),
        "id": message.id,
        "time": message.time,
        "key": message.key,
        "headers": {name: text for name, text in message.headers.items() if name != HOPS_HEADER},
        "ttl": message.ttl,
        "reply_to": None if message.reply_to is None else str(message.reply_to),
        "correlation_id": message.correlation_id,
        "causation_id": message.causation_id,
    }
    return {key: value for key, value in fields.items() if value not in (None, {})} | body_json(message)


def body_json(message: Any) -> dict[str, Any]:
    """Return the body, or the reason why it cannot be shown."""
    try:
        return {"body": plain(message.body)}
    except ValueError as error:
        return {"body": None, "body_error": str(error)}


class Unrouted:
    """
    An observer that notes the subject of the last message that nobody listens to. Filters may have changed it, so the publisher
    does not know it. What handlers publish does not count.
    """

    def __init__(self, bus: Any) -> None:
        self._subject: str | None = None
        bus.observe(self)

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.Unrouted) and current_mailbox() is None:
            self._subject = str(event.message.subject)

    def take(self) -> str | None:
        """Return the subject that was noted since the last call."""
        found, self._subject = self._subject, None
        return found


def message_of(record: Any) -> tuple[str, Any, dict[str, Any]]:
    """Return subject, body and options with which to publish a message in JSON; raise BadRecord if it is not one."""
    if not isinstance(record, dict) or "subject" not in record:
        raise BadRecord('not a message: write {"subject": …, "body": …}, or add --subject for records that are bodies')
    if not isinstance(record["subject"], str):
        raise BadRecord(f"subject = {as_json(record['subject'])[:60]}: it has to be text")
    options = {key: value for key, value in record.items() if value is not None and key not in ("subject", "body")}
    headers = options.get("headers", {})
    if not isinstance(headers, dict):
        raise BadRecord(f"headers is {json_type(headers)}; it has to be a table of texts")
    texts = {key: options[key] for key in TEXTS if key in options} | {
        f'header "{name}"': text for name, text in headers.items()
    }
    for key, value in texts.items():
        if not isinstance(value, str):
            raise BadRecord(f"{key} is {json_type(value)}; it has to be text")
    for key in options.keys() - OPTIONS:
        near = difflib.get_close_matches(key, FIELDS, 1)
        meant = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(FIELDS)}"
        raise BadRecord(f'a message has no "{key}"; {meant}')
    if "time" in options and "delay" in options:
        raise BadRecord("a message has a time or a delay, not both: a delay counts from now")
    return record["subject"], record.get("body"), options
