"""
Messages as the server has them: headers and bytes, ours and those of other programs.

What we publish is a CloudEvent in structured mode: the codec's JSON, with the header `content-type:
application/cloudevents+json`. The JSON contains the message's headers exactly. Those with plain names and values are headers of
NATS, too, for programs that do not know pipebus. In binary mode (`events=binary`) the data are the body alone, and every other
member of that JSON is a header: `ce-id`, `ce-type`, …, escaped with % as in the HTTP binding of CloudEvents.

What other programs publish is accepted in any form: CloudEvents in either mode, or anything else. Its subject is the server's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from pipebus.errors import PipebusError, SubjectError
from pipebus.message.headers import RESERVED_PREFIXES, Headers, check_headers, frozen_headers
from pipebus.message.message import Message
from pipebus.message.subject import check_subject
from pipebus.transports.nats.subjects import INBOX, REPLY

CLOUDEVENT: Final = "application/cloudevents+json"
VERSION: Final = "Pipebus-Version"
"""The version of the envelope. A message with this header is one of ours."""
ID: Final = "Nats-Msg-Id"
STREAM: Final = "Nats-Expected-Stream"
ORIGIN: Final = "Pipebus-Origin"
"""In a copy: JSON of the subject, id and time that the message had on the server."""
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
CORRELATION: Final = "correlation_id"
REPLY_TO: Final = "reply_to"
"""As in FastStream. The second one says where an answer is awaited, since a stream uses the reply subject for itself."""
_OWN: Final = ("content-type", "status", "description", CORRELATION, "correlation-id", REPLY_TO, "reply-to")
"""Names of headers that have a meaning of their own, and so cannot be a user's."""
_EVENT: Final = ("ce-", "ce_")
_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What the HTTP binding of CloudEvents does not escape in a header."""
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def message_id(id: str) -> str:
    """An id that can be a header: the same for equal ids, and different for different ones."""
    return id if _VALUE.fullmatch(id) and not id.startswith("sha256:") else f"sha256:{hashlib.sha256(id.encode()).hexdigest()}"


def written(message: Message[Any], data: bytes, binary: bool = False, reply: str = "") -> tuple[bytes, dict[str, str]]:
    """
    Data and headers for the server.

    Args:
        data: The codec's encoding of the message.
        reply: The server's subject on which an answer is awaited.
    """
    own = {VERSION: "1", "content-type": CLOUDEVENT}
    if binary:
        with suppress(msgspec.DecodeError):  # such as for NaN, which other programs could not read as JSON
            data, own = _unfolded(data)
    if reply:
        own[REPLY_TO] = reply
    if message.correlation_id is not None and _VALUE.fullmatch(message.correlation_id):
        own[CORRELATION] = message.correlation_id
    return data, own | _plain(message.headers)


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that can be headers of NATS."""
    found = {}
    for name, value in headers.items():
        if _NAME.fullmatch(name) and _VALUE.fullmatch(value):
            low = name.lower()
            if low not in _OWN and not low.startswith((*RESERVED_PREFIXES, *_EVENT)):
                found[name] = value
    return found


def _unfolded(data: bytes) -> tuple[bytes, dict[str, str]]:
    """The codec's JSON in binary mode: the body, and everything else as headers."""
    members = _members(data)
    body, encoded = members.pop("data", None), members.pop("data_base64", None)
    members.pop("datacontenttype", None)
    found = {VERSION: "1"} | {f"ce-{name}": quote(_text(raw), safe=_SAFE) for name, raw in members.items()}
    if encoded is not None:
        return base64.b64decode(_text(encoded)), found | {"content-type": "application/octet-stream"}
    if body is not None:
        return bytes(body), found | {"content-type": "application/json"}
    return b"", found


def _text(raw: msgspec.Raw) -> str:
    """A string as it is, everything else as JSON."""
    text = bytes(raw)
    return str(msgspec.json.decode(text)) if text.startswith(b'"') else text.decode()


def _folded(data: bytes, names: Mapping[str, str]) -> bytes:
    """The reverse of `_unfolded`. The data come first, so that they cannot replace another member, whatever they are."""
    members = {name[3:]: unquote(value, errors="strict") for name, value in names.items() if name.startswith("ce-")}
    kind = names.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        members["data_base64"] = base64.b64encode(data).decode()
    rest = json.dumps(members).encode()
    if kind == "application/json" or (data and not kind):
        return b'{"data":' + data + b"," + rest[1:]
    return rest


def size_of(data: bytes, headers: Mapping[str, str]) -> int:
    """The size that the server counts, in bytes: the data, and the headers with their framing."""
    return len(data) + 14 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def decode(
    subject: str, data: bytes, headers: Mapping[str, str], id: str, time: float, reply: str = ""
) -> Message[Any] | bytes:
    """
    A message of another program; or bytes for the codec, if the message is one of ours or claims to be.

    Args:
        subject: Our name of it.
        id, time: For a message that has none.
        reply: The server's subject on which an answer is awaited; "": none is.
    """
    names = {name.lower(): value for name, value in headers.items()}
    id = names.get(ID.lower(), id)
    kind = names.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if VERSION.lower() in names:
            if subject.startswith(REPLY) and _echoes(subject, data, names):
                return _foreign(subject, data, {}, {}, "", id, time, "")
            return _folded(data, names) if "ce-specversion" in names else data
        if kind == CLOUDEVENT:
            return _structured(subject, data, names, id, time)
        if any(f"{before}specversion" in names for before in _EVENT):
            return _binary(subject, data, names, id, time)
        return _foreign(subject, data, headers, names, kind, id, time, reply)
    except Exception:  # other programs may send any bytes; the codec says what is wrong with them
        return data


def _echoes(subject: str, data: bytes, names: Mapping[str, str]) -> bool:
    """It is an answer that repeats the headers of the request, as `respond` of nats-py does."""
    if "ce-specversion" in names:
        return unquote(names.get("ce-type", "")) != subject
    return b'"pipebusversion"' not in data


def decode_copy(
    subject: str, data: bytes, headers: Mapping[str, str], id: str, time: float
) -> tuple[str, Message[Any] | bytes]:
    """`decode` a dead letter or a replayed message, which says where it came from. Returns its subject, too."""
    try:
        found = json.loads(headers[ORIGIN])
        subject, id, time = str(found["subject"]), str(found["id"]), float(found["time"])
    except (ValueError, KeyError, TypeError):
        pass  # another program has written it
    return subject, decode(subject, data, {name: value for name, value in headers.items() if name != ID}, id, time)


def _structured(subject: str, data: bytes, names: dict[str, str], id: str, time: float) -> Message[Any] | bytes:
    event = json.loads(data)
    if "pipebusversion" in event:
        return data
    return _event(subject, event, id, time)


def _binary(subject: str, data: bytes, names: dict[str, str], id: str, time: float) -> Message[Any] | bytes:
    if "ce-pipebusversion" in names:  # one of ours that another program has passed on
        return _folded(data, names)
    # There are two ways to write such headers: that of HTTP escapes with %, that of Kafka does not.
    event: dict[str, Any] = {
        name[3:]: unquote(value, errors="strict") if name.startswith("ce-") else value
        for name, value in names.items()
        if name.startswith(_EVENT)
    }
    kind = names.get("content-type", "")
    if kind:
        event["datacontenttype"] = kind
    body = _body(data, kind.partition(";")[0].strip().lower()) if data or kind else None
    return _event(subject, event, id, time, body)


def _event(subject: str, event: dict[str, Any], id: str, time: float, body: Any = None) -> Message[Any]:
    """
    A CloudEvent of another program. Its subject is the server's, which subscriptions match; its attributes become headers, as
    in "ce-type".
    """
    if event.get("specversion") != "1.0":
        raise ValueError("not CloudEvents 1.0")
    if "data_base64" in event:
        body = base64.b64decode(event["data_base64"], validate=True)
    elif "data" in event:
        body = event["data"]
    if isinstance(event.get("time"), str):
        time = datetime.fromisoformat(event["time"]).timestamp()
    kept = {
        f"ce-{name}": str(value)
        for name, value in event.items()
        if name not in ("specversion", "id", "time", "data", "data_base64") and isinstance(value, (str, int))
    }
    return Message(
        subject,
        body,
        headers=_fitting(kept),
        key=event.get("partitionkey"),
        correlation_id=event.get("correlationid"),
        causation_id=event.get("causationid"),
        id=str(event.get("id") or id),
        time=time,
    )


def _foreign(
    subject: str, data: bytes, headers: Mapping[str, str], names: dict[str, str], kind: str, id: str, time: float, reply: str
) -> Message[Any] | bytes:
    body = _body(data, kind)
    reply = reply or names.get(REPLY_TO, "")
    if isinstance(body, dict) and body.get("specversion") == "1.0" and isinstance(body.get("type"), str):
        return data if "pipebusversion" in body else _event(subject, body, id, time)
    return Message(
        subject,
        body,
        headers=_fitting({name: value for name, value in headers.items() if name.lower() != ORIGIN.lower()}),
        correlation_id=names.get(CORRELATION) or names.get("correlation-id") or None,
        reply_to=_address(reply),
        id=id,
        time=time,
    )


def _address(reply: str) -> str | None:
    """Where the program waits for an answer. An invalid subject is ignored, and the message is handled all the same."""
    if not reply.startswith(INBOX):
        return None
    with suppress(SubjectError):
        check_subject(reply)
        return REPLY + reply
    return None


def _body(data: bytes, kind: str) -> Any:
    """JSON, if the content type says so or the data look like an object or array; text, if it says so; otherwise bytes."""
    if kind == "application/json" or kind.endswith("+json"):
        return json.loads(data) if data else None
    if kind.startswith("text/"):
        return data.decode()
    if not kind and data.lstrip()[:1] in (b"{", b"["):
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return data
    return data


def _fitting(headers: Mapping[str, str]) -> Headers:
    """Those headers that our messages may have."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        if not name.lower().startswith(RESERVED_PREFIXES):
            try:
                found |= check_headers({name: value})
            except PipebusError:
                continue
    return frozen_headers(found)
