"""nats-py's client, which the bytes of strangers do not end, and which ends when it is told to."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg


class SturdyClient(Client):
    """nats-py's; but what is no block of headers, or no text, does not end the reading of everything else."""

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
            return found
        except Exception:  # the server looks at no header, so these may be any bytes of anybody's
            return None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None) -> Msg:
        try:
            found: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            subject, reply = (one.decode(errors="replace").encode() for one in (subject, reply))
            found = super()._build_message(sid, subject, reply, data, headers)
        return found

    async def flush(self, timeout: int = 10) -> None:
        """The server has read all that was said before: a first one alone may overtake what is still to be written."""
        await super().flush(timeout)
        await super().flush(timeout)

    @property
    def deaf(self) -> bool:
        """It reads no more."""
        task: asyncio.Task[Any] | None = self._reading_task
        return task is not None and task.done()

    async def leave(self) -> None:
        """Close it; also one that has never been connected."""
        with suppress(Exception):
            await asyncio.wait_for(self.close(), 1.0)
        # Where the connection was reset with something still to be written, its closing ends before its subscriptions have.
        for subscription in self._subs.values():
            subscription._stop_processing()
        self._subs.clear()
        await asyncio.sleep(0)  # they end now, and bring in nothing more of what they had
        transport: Any = getattr(self, "_transport", None)
        with suppress(Exception):
            if transport:
                transport.close()
