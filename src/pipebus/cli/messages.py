"""Messages, and what became of them, as JSON."""

import difflib
from typing import Any, Final

from pipebus.cli.show import as_json
from pipebus.message.headers import HOPS_HEADER

OPTIONS: Final = ("headers", "key", "id", "ttl", "delay", "reply_to", "correlation_id")
"""Arguments of `publish` that a message in JSON may give."""

FIELDS: Final = ("subject", "body", *OPTIONS, "time")
"""All fields of a message in JSON. The bus sets "time" itself."""


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
    }
    return {key: value for key, value in fields.items() if value not in (None, {})} | body_json(message)


def body_json(message: Any) -> dict[str, Any]:
    """Return the body, or the reason why it cannot be shown."""
    from pipebus.values.json_data import plain

    try:
        return {"body": plain(message.body)}
    except ValueError as error:
        return {"body": None, "body_error": str(error)}


def outcome_json(outcome: Any) -> dict[str, Any]:
    """Return a `Receipt` or `Dropped`."""
    if not outcome:
        return {"outcome": "dropped", "by": outcome.by, "reason": outcome.reason}
    return {"outcome": "accepted" if outcome.mailboxes else "unrouted", "mailboxes": outcome.mailboxes}


def arguments_of(record: Any, where: str) -> tuple[str, Any, dict[str, Any]]:
    """
    Return subject, body and options with which to publish a message in JSON.

    Raises:
        BadRecord: it is not a message.
    """
    from pipebus.inputs.records import BadRecord

    if not isinstance(record, dict) or "subject" not in record:
        raise BadRecord(
            f'{where}: not a message: write {{"subject": …, "body": …}}, or add --subject for records that are bodies'
        )
    if not isinstance(record["subject"], str):
        raise BadRecord(f"{where}: subject = {as_json(record['subject'])[:60]}: it has to be text")
    for key in record:
        if key not in FIELDS:
            near = difflib.get_close_matches(key, FIELDS, 1)
            meant = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(FIELDS)}"
            raise BadRecord(f'{where}: a message has no "{key}"; {meant}')
    return record["subject"], record.get("body"), {key: record[key] for key in OPTIONS if record.get(key) is not None}
