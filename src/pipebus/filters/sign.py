"""Sign: sign messages, so that `Verify` can tell whether they are genuine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipebus.filters.signing import SIGNATURE, canonical, checked_key, checked_names, signature
from pipebus.message.codec import prepare
from pipebus.message.message import Message
from pipebus.pipeline.shapes import Context, Transform
from pipebus.values.quantities import Secret

if TYPE_CHECKING:
    from pydantic import SecretBytes, SecretStr


@dataclass(eq=False)
class Sign(Transform):
    """
    Sign messages, so that `Verify` can tell whether they are genuine.

    The signature is a header, `signature`. It covers id, subject, time, key, ttl, reply_to, body and headers, as the wire
    carries them, so it is still good when a store or server has carried the message. An older signature is replaced.

    Args:
        key: The secret that signer and verifier share, of at least 16 bytes. Text counts as UTF-8.
        headers: Names of the headers that are signed, whether the message has them or not. None: all that it has, except the
            signature and what others add on the way: the trace context (`traceparent`, `tracestate`, `baggage`), the count of
            hops, and the marks of a schedule.

    Raises:
        CodecError: the body cannot be written as JSON.
        UnsupportedCapability: the message is addressed to an object, such as an actor. Filters under a pattern do not see it.

    The ids of the conversation (`correlation_id`, `causation_id`) are not signed, because they change when a message is passed
    on. Nothing is encrypted.

    Source:
        HMAC with SHA-256: RFC 2104 and FIPS 180-4. The list that is signed is described in `pipebus.filters.signing`.

    Example:
        >>> from pipebus import Message
        >>> signed = Sign("correct horse battery").transform(Message("a", {"n": 1}, id="m", time=0.0))
        >>> signed.headers["signature"][:15]
        'v1=736e5c39553f'
    """

    key: Secret
    headers: list[str] | None = None
    deterministic = True
    idempotent = True
    provides = ("signed",)
    follows: ClassVar = {"verified": "it signs what nobody has verified, so forged messages are accepted"}

    if TYPE_CHECKING:  # a key may be plain text or bytes

        def __init__(self, key: SecretStr | SecretBytes | str | bytes, headers: list[str] | None = ...) -> None: ...

    def __post_init__(self) -> None:
        self.key = checked_key(self.key, "Sign.key")
        self.headers = checked_names(self.headers, "Sign.headers")

    def start(self, context: Context) -> None:
        prepare()

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message.with_headers({SIGNATURE: signature(self.key, canonical(message, self.headers))})
