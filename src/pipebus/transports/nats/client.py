"""nats-py's client, made robust: it survives any bytes that others send, and closes when it must. And what a login needs."""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from typing import Any, Final

from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg

from pipebus.errors import TransportError
from pipebus.foreign.packages import install
from pipebus.transports.nats.options import Options

_BLOCK: Final = re.compile(r"^-{3,} *BEGIN ([A-Z ]+?) *-{3,}\s*(\S+)\s*^-{3,} *END [A-Z ]+? *-{3,}", re.MULTILINE)
JWT: Final = "NATS USER JWT"
SEED: Final = "USER NKEY SEED"
REMEDY: Final = "write it again with nsc generate creds"


class SturdyClient(Client):
    """Malformed headers and subjects do not end the reading of everything else."""

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
            return found
        except Exception:  # the server checks no headers, so these may be any bytes that anybody has sent
            return None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None) -> Msg:
        try:
            found: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            subject, reply = (one.decode(errors="replace").encode() for one in (subject, reply))
            found = super()._build_message(sid, subject, reply, data, headers)
        return found

    async def flush(self, timeout: int = 10) -> None:
        """Return when the server has read all that was said before. One flush may overtake what is still to be written."""
        await super().flush(timeout)
        await super().flush(timeout)

    @property
    def deaf(self) -> bool:
        """It has stopped reading."""
        task: asyncio.Task[Any] | None = self._reading_task
        return task is not None and task.done()

    async def leave(self) -> None:
        """Close it, even if it was never connected."""
        with suppress(Exception):
            await asyncio.wait_for(self.close(), 1.0)
        # If the connection was reset while something was to be written, `close` returns before its subscriptions have ended.
        for subscription in self._subs.values():
            subscription._stop_processing()
        self._subs.clear()
        await asyncio.sleep(0)  # they end now, and deliver nothing more of what they have
        transport: Any = getattr(self, "_transport", None)
        with suppress(Exception):
            if transport:
                transport.close()


def tls_context(options: Options) -> ssl.SSLContext | None:
    """
    None: the connection is not encrypted.

    Raises:
        TransportError: a file of the options cannot be used.
    """
    if not options.encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=options.cafile)
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except (OSError, ssl.SSLError) as error:
        raise TransportError(f"the files of cafile, cert and key cannot be used: {error}") from None
    return context


def read_credentials(path: str) -> RawCredentials:
    """
    A credentials file, as `nsc` writes it: a JWT that says who the user is, and the seed of the key that proves it. Reduced to
    these two blocks, which the client looks for; in other files it may loop forever.

    Raises:
        TransportError: the text says what is wrong with the file, and shows nothing of its contents.
    """

    def bad(text: str) -> TransportError:
        return TransportError(f"creds={path} {text}")

    try:
        import nkeys  # type: ignore[import-untyped]
    except ImportError as error:
        raise bad(f"needs the package nkeys: {install('nats')} ({error})") from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise bad(f"is not a credentials file; {REMEDY}") from None
    found = dict(_BLOCK.findall(text))
    for name in (JWT, SEED):
        if name not in found:
            raise bad(f'has no block "{name}"; {REMEDY}')
    if found[JWT].count(".") != 2:
        raise bad(f"contains an invalid JWT; {REMEDY}")
    try:
        if not found[SEED].startswith("SU"):
            raise ValueError
        nkeys.from_seed(found[SEED].encode()).wipe()
    except Exception:  # of many kinds
        raise bad(f"contains a seed that is not a user's; {REMEDY}") from None
    return RawCredentials("".join(f"-----BEGIN {name}-----\n{found[name]}\n------END {name}------\n\n" for name in (JWT, SEED)))
