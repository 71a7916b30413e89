"""
Message <-> bytes: JSON in the structured form of CloudEvents 1.0, with its attribute names where one fits.

    envelope          on the wire            envelope          on the wire
    id                id                     body              data, or data_base64 for bytes
    subject           type                   headers           pipebusheaders (JSON, as a string)
    time              time (RFC 3339)        key               partitionkey
    (the bus)         source                 ttl               pipebusttl (seconds, as a string)
    (version 1)       pipebusversion         reply_to          pipebusreplyto
    (always "1.0")    specversion            correlation_id    correlationid
    (bytes)           datacontenttype

Attributes of CloudEvents are strings and whole numbers, never objects; an intermediary may rewrite all of them as strings.

Bodies are JSON: pydantic models, dataclasses, datetimes, decimals, UUIDs and enums are written as pydantic writes them and read
as plain JSON values; the type of a handler's parameter or of `Validate` restores them. Bytes are read as bytes.
"""

from __future__ import annotations

import base64
import functools
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from pipebus.errors import CodecError, PipebusError
from pipebus.foreign.objects import class_name, plain_text, shown, text_of
from pipebus.message.headers import NO_HEADERS, OWN_HEADERS, Headers, check_headers, frozen_headers
from pipebus.message.message import Message
from pipebus.message.subject import check_subject, not_carried

VERSION: Final = 1
_quickly: Final = msgspec.json.Decoder().decode


class Codec(Protocol):
    """How a transport writes and reads messages."""

    def encode(self, message: Message[Any]) -> bytes: ...
    def decode(self, data: bytes) -> Message[Any]: ...


class JsonCodec:
    """
    The default codec.

    Args:
        source: The CloudEvents `source`: a URI reference that names the program.
    """

    def __init__(self, source: str = "pipebus") -> None:
        self.source = source

    def encode(self, message: Message[Any]) -> bytes:
        """
        Raises:
            UnsupportedCapability: the message is addressed to an object, which has no name outside of this process.
            CodecError: the body cannot be written as JSON.
        """
        for field in ("subject", "reply_to"):
            value = getattr(message, field)
            if value is not None and not isinstance(value, str):
                raise not_carried(value, "a transport that encodes", field)
        check_subject(message.subject)
        wire: dict[str, Any] = {
            "specversion": "1.0",
            "id": message.id,
            "source": self.source,
            "type": plain_text(message.subject),
            "time": moment(message.time),
            "pipebusversion": VERSION,
        }
        for name, value in (
            ("partitionkey", message.key),
            ("pipebusttl", None if message.ttl is None else repr(message.ttl)),
            ("pipebusreplyto", message.reply_to),
            ("correlationid", message.correlation_id),
            ("causationid", message.causation_id),
            ("pipebusheaders", _as_text(message.headers) if message.headers else None),
        ):
            if value is not None:
                wire[name] = value
        if isinstance(message.body, (bytes, bytearray, memoryview)):
            wire["datacontenttype"] = "application/octet-stream"
            wire["data_base64"] = base64.b64encode(message.body).decode()
        elif message.body is not None:
            wire["data"] = message.body
        try:
            return _to_json(wire)
        except Exception as error:  # anything that the body's own methods raise
            text = str(error).encode("utf-8", "backslashreplace").decode()
            what = f"message {shown(message.id)} (body: {type(message.body).__name__})"
            raise CodecError(f"{what} cannot be written as JSON: {text}") from error

    def decode(self, data: bytes) -> Message[Any]:
        """
        Raises:
            CodecError: saying what is missing or wrong; the caller keeps the bytes.
        """
        try:
            wire = _parsed(data)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"{len(data)} bytes are not JSON: {error}") from error
        if not isinstance(wire, dict):
            raise CodecError(f"a message is a JSON object, found {type(wire).__name__}")
        if wire.get("specversion") != "1.0":
            raise CodecError(f'"specversion" is "1.0", found {wire.get("specversion")!r}')
        if wire.get("pipebusversion", VERSION) not in (VERSION, str(VERSION)):
            raise CodecError(f'"pipebusversion" {shown(wire["pipebusversion"])} is not {VERSION}: written by another pipebus')
        for name in ("type", "id", "time"):
            if not isinstance(wire.get(name), str):
                raise CodecError(f'"{name}" is a string, found {wire.get(name)!r}' if name in wire else f'"{name}" is missing')
        try:
            return _message(wire, data)
        except (PipebusError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CodecError(f"not a message: {error}") from error


def check_lasting(body: Any) -> None:
    """
    Refuse a body that reading uses up, for filters that read it and then pass it on.

    Raises:
        CodecError: it is an iterator, such as a generator.
    """
    if hasattr(type(body), "__next__"):
        raise CodecError(f"a body ({class_name(body)}) can be read once only, and would then be empty; publish a list of it")


def carried(body: Any) -> Any:
    """
    A body as its readers have it once it has been written and read: bytes, or JSON's own types.

    Raises:
        CodecError: it cannot be written as JSON.
    """
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    try:
        return _parsed(_to_json(body))
    except Exception as error:  # anything that the body's own methods raise
        raise CodecError(f"a body ({class_name(body)}) cannot be written as JSON: {text_of(error)}") from error


def _parsed(data: bytes) -> Any:
    try:
        return _quickly(data)
    except Exception:  # msgspec is stricter (NaN, lone surrogates) and its errors say less
        return json.loads(data.decode())


def _as_text(headers: Headers) -> str:
    return json.dumps(headers, ensure_ascii=False, separators=(",", ":"))


_last: tuple[int, str] = (0, "1970-01-01T00:00:00")
"""The last second written, with its text: most messages fall into the same second as the message before."""


def moment(time: float) -> str:
    """A time as text: RFC 3339, with microseconds, as `datetime.isoformat` writes them."""
    global _last  # noqa: PLW0603 (replaced as a whole: other threads see a matching pair, this one or another)
    micros = round(time * 1e6)
    second, micro = divmod(micros, 1_000_000)
    known, text = _last
    if known != second:
        text = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
        _last = (second, text)
    return f"{text}.{micro:06d}+00:00" if micro else f"{text}+00:00"


def _to_json(value: Any) -> bytes:
    """Bytes inside a body are written as text, or raise if they are not UTF-8: base64 would be read back as different bytes."""
    return _writer()(value, bytes_mode="utf8", inf_nan_mode="constants")  # type: ignore[no-any-return]


@functools.cache
def _writer() -> Any:
    """pydantic's writer, imported when it is first needed; see `prepare`."""
    from pydantic_core import to_json

    return to_json


def prepare() -> None:
    """
    For a bus that encodes messages: import now. A signal handler that publishes during an import would hang in it.

    Something is written as well: pydantic's writer imports modules of its own when it is first called.
    """
    _to_json([])


def _message(wire: dict[str, Any], data: bytes) -> Message[Any]:
    check_subject(wire["type"])
    body = wire.get("data")
    if "data_base64" in wire:
        body = base64.b64decode(wire["data_base64"], validate=True)
    elif b"\\u" in data:
        _to_json(body)  # a lone surrogate, written as an escape, has no UTF-8 form: refuse it here, not where it is used
    headers: Any = wire.get("pipebusheaders", NO_HEADERS)
    ttl: Any = wire.get("pipebusttl")
    if isinstance(headers, str):
        headers = json.loads(headers)
    if isinstance(ttl, str):
        with suppress(ValueError):  # `Message` raises the better error below
            ttl = json.loads(ttl)
    if not isinstance(headers, dict):
        raise CodecError(f'"pipebusheaders" is an object, found {shown(headers)}')
    own = {name: str(headers[name]) for name in OWN_HEADERS if headers.get(name) is not None}
    if own:
        others = check_headers({name: text for name, text in headers.items() if name not in own})
        headers = frozen_headers({**others, **own})
    when = datetime.fromisoformat(wire["time"])
    if when.tzinfo is None:
        raise CodecError(f'"time" {shown(wire["time"])} has no offset; RFC 3339 requires one')
    return Message(
        wire["type"],
        body,
        headers=headers,
        key=wire.get("partitionkey"),
        ttl=ttl,
        reply_to=wire.get("pipebusreplyto"),
        correlation_id=wire.get("correlationid"),
        causation_id=wire.get("causationid"),
        id=wire["id"],
        time=when.timestamp(),
    )
