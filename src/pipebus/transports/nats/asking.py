"""Questions to the server, and what its errors mean."""

from __future__ import annotations

import json
import ssl
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from pipebus.errors import PipebusError, TransportError

ANSWER: Final = 5.0
"""Seconds to wait for the answer to a question."""
LEADERLESS: Final = (10008, 10009)
"""JetStream's error codes while a cluster elects a leader."""
WITHOUT_JETSTREAM: Final = "start the server with JetStream (nats-server -js), or say core=yes"
"""What to do where nobody answers for JetStream."""


class _Refused(TransportError):
    """
    The server has refused a request.

    Args:
        code: Its error code, as in the list of JetStream's errors; 0: it gave none.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


async def ask(
    client: Client, subject: str, data: bytes = b"", headers: dict[str, str] | None = None, timeout: float = ANSWER
) -> Msg:
    """
    One question, one answer.

    Raises:
        TransportError: no connection, no answer, or nobody there to answer.
    """
    try:
        return await client.request(subject, data, timeout=timeout, headers=headers)
    except nats.errors.NoRespondersError:
        raise _Refused(f"nobody answers on {subject}: JetStream is not enabled, or this user may not use it") from None
    except (TimeoutError, nats.errors.TimeoutError):
        raise TransportError(f"no answer on {subject} within {timeout:g} s: not allowed, or no connection") from None
    except (nats.errors.Error, OSError) as error:
        raise TransportError(f"{subject}: {why(error)}") from None


async def api(client: Client, subject: str, body: Any = None) -> dict[str, Any]:
    """
    A question to JetStream.

    Raises:
        _Refused: with its error code. TransportError: as `ask`.
    """
    data = b"" if body is None else json.dumps(body).encode()
    answer = await ask(client, f"$JS.API.{subject}", data)
    found: dict[str, Any] = json.loads(answer.data)
    if "error" in found:
        error = found["error"]
        raise _Refused(f"JetStream refused {subject}: {error.get('description', '?')}", int(error.get("err_code", 0)))
    return found


def final(error: BaseException | None) -> bool:
    """Whether another attempt to connect would fail in the same way."""
    if isinstance(error, _Refused) and error.code in LEADERLESS:
        return False
    return isinstance(error, (PipebusError, ssl.SSLCertVerificationError)) or "authorization violation" in str(error).lower()


def why(error: BaseException | None) -> str:
    """The error of a connection, and what to do."""
    if error is None:
        return "no server has answered; is it running, and is the port right?"
    text = str(error) or type(error).__name__
    low = text.lower()
    if isinstance(error, ConnectionRefusedError) or "connect call failed" in low:
        return f"{text}; start nats-server there, or correct host and port"
    if "authorization" in low or "authentication" in low:
        return f"{text}; give user and password as in nats://user:password@host, a token as in nats://token@host, or creds="
    if isinstance(error, ssl.SSLError) or "certificate" in low:
        return f"{text}; say cafile= where the server's certificate is signed by an authority of your own"
    return text
