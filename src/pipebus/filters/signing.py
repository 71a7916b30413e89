"""
What `Sign` and `Verify` share: what of a message is signed, the signature of it, and their settings.

What is signed is this list as JSON, in ASCII, without spaces, and with the names in every table sorted:

    ["pipebus 1", id, subject, time, key, ttl, reply_to, "json", body, headers]

The time is a text, as on the wire: "2026-12-02T09:30:00.250000+00:00", without the fraction if that is zero. A ttl is a number
with a fraction. For bytes, the word is "bytes", and the body is their base64. The headers are a table; in it, a header that the
settings name and the message does not have is null.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable
from typing import Any, Final

from pipebus.errors import CodecError, HeaderError, PipelineError
from pipebus.foreign.objects import class_name, plain_text, shown, text_of
from pipebus.message.codec import carried, check_lasting, moment
from pipebus.message.headers import HOPS_HEADER, SCHEDULE_HEADER, SLOT_HEADER, TIMETABLE_HEADER, check_headers
from pipebus.message.message import Message
from pipebus.message.subject import not_carried

SIGNATURE: Final = "signature"
"""The header with the signature: "v1=" and 64 hexadecimal digits."""

ON_THE_WAY: Final = frozenset(
    {SIGNATURE, "traceparent", "tracestate", "baggage", HOPS_HEADER, SCHEDULE_HEADER, SLOT_HEADER, TIMETABLE_HEADER}
)
"""Headers that others add, change or remove between signing and verifying, so a signature of all headers leaves them out."""

_SHORTEST: Final = 16
"""Fewest bytes of a key. With one signed message, anybody can try keys without end; 128 bits are too many to try."""


def canonical(message: Message[Any], names: Iterable[str] | None) -> bytes:
    """
    What is signed: equal bytes before and after the wire, in every process.

    Args:
        names: The headers; None: all except those of `ON_THE_WAY`.

    Raises:
        CodecError: the body cannot be written as JSON.
        UnsupportedCapability: the message is addressed to an object, which has no name outside of this process.
    """
    for field in ("subject", "reply_to"):
        address = getattr(message, field)
        if address is not None and not isinstance(address, str):
            raise not_carried(address, "a signature", field)
    check_lasting(message.body)
    body, form = carried(message.body), "json"
    if isinstance(body, bytes):
        body, form = base64.b64encode(body).decode(), "bytes"
    own = message.headers
    if names is None:
        headers: dict[str, str | None] = {name: own[name] for name in own.keys() - ON_THE_WAY}
    else:
        headers = {name: own.get(name) for name in names}
    ttl = None if message.ttl is None else float(message.ttl)
    envelope = (message.id, message.subject, moment(message.time), message.key, ttl, message.reply_to)
    try:
        return json.dumps(["pipebus 1", *envelope, form, body, headers], sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; this much nesting, this deep in calls
        raise CodecError(f"the message cannot be signed: {text_of(error)}") from error


def genuine(message: Message[Any], keys: Iterable[Any], names: Iterable[str] | None) -> bool:
    """Whether the message has a signature by one of the keys. The time that it takes does not tell which, or why not."""
    given = message.headers.get(SIGNATURE, "").encode()
    try:
        signed = canonical(message, names)
    except Exception:  # no signature exists for such a message, whatever the reason
        return False
    found = False
    for key in keys:
        found |= hmac.compare_digest(signature(key, signed).encode(), given)
    return found


def signature(key: Any, signed: bytes) -> str:
    """The value of the header, for a key of `checked_key` and bytes of `canonical`."""
    secret = key.get_secret_value()
    return f"v1={hmac.digest(secret if isinstance(secret, bytes) else secret.encode(), signed, 'sha256').hex()}"


def checked_key(value: Any, what: str) -> Any:
    """
    A key as a `SecretStr`, or a `SecretBytes` for bytes. No error shows it.

    Args:
        what: The setting, as in "Sign.key".

    Raises:
        PipelineError: it is not a key, or is too short.
    """
    from pydantic import SecretBytes, SecretStr  # only a chain that signs pays for this import

    secret = plain_text(value.get_secret_value() if isinstance(value, (SecretStr, SecretBytes)) else value)
    if not isinstance(secret, (str, bytes)):
        raise PipelineError(f"{what}: it is a text, bytes or a SecretStr, found {class_name(value)}")
    if len(secret if isinstance(secret, bytes) else secret.encode("utf-8", "replace")) < _SHORTEST:
        raise PipelineError(
            f"{what}: it has fewer than {_SHORTEST} bytes; make one with `python -c 'import secrets; "
            "print(secrets.token_urlsafe(32))'`"
        )
    if isinstance(secret, bytes):
        return SecretBytes(secret)
    try:
        secret.encode()
    except UnicodeEncodeError:
        raise PipelineError(f"{what}: it contains a lone surrogate, which has no UTF-8 form; take another key") from None
    return SecretStr(secret)


def checked_names(names: Any, what: str) -> list[str] | None:
    """
    The setting `headers`: the names that are signed, or None for all headers.

    Raises:
        PipelineError: it is not a list of names of headers.
    """
    if names is None:
        return None
    if not isinstance(names, (list, tuple)):
        raise PipelineError(f"{what}={shown(names)}: it is a list of names, as in ['tenant']; leave it out for all headers")
    plain: list[str] = [plain_text(name) for name in names]
    try:
        check_headers(dict.fromkeys(plain, ""))
    except (HeaderError, TypeError) as error:  # a name that is a list cannot be a key of a table
        raise PipelineError(f"{what}={shown(names)}: {error}") from None
    if SIGNATURE in plain:
        raise PipelineError(f"{what}={shown(names)}: a signature cannot sign itself; take {SIGNATURE!r} out")
    return plain
