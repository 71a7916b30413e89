"""
Serve the page of a bus by itself, as `pipebus run --http` does: a server of uvicorn on a thread and an event loop of its own.

On the bus's loop, a slow handler would hold up the page, and a page the handlers. The server uses only what all threads may
call. It begins before the bus starts, so that a supervisor can ask meanwhile, and ends after the bus has stopped.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pipebus.bus.bus import Bus
from pipebus.errors import PipebusError, UnsupportedCapability
from pipebus.foreign.packages import install
from pipebus.web.access import is_loopback
from pipebus.web.routes import Site

BACKLOG: Final = 128
"""Connections that may wait to be accepted."""
GRACE: Final = 2
"""Seconds that answers have when the server ends."""


@contextmanager
def serving(bus: Bus, address: str, token: str | None = None, dry_run: bool = True) -> Iterator[str]:
    """
    Serve the page of a bus in a `with` block; the value is its URL.

    Args:
        address: HOST:PORT, as in "127.0.0.1:9000" or "[::1]:9000"; port 0: a free one.
        token: As for `pipebus.web.app`; other computers can reach the page only with one.
        dry_run: As for `pipebus.web.app`.

    Raises:
        UnsupportedCapability: uvicorn is not installed. PipebusError: the address is malformed, is taken, or needs a token.
    """
    try:
        import uvicorn

        from pipebus.web.connection import Connection
    except ImportError:
        raise UnsupportedCapability(f"serving the page of a bus needs the package uvicorn: {install('web')}") from None

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            up.set()

    site = Site(bus, token=token, dry_run=dry_run, redact=())
    with _listening(address, token) as listener:
        config = uvicorn.Config(
            site, http=Connection, ws="none", lifespan="off", log_config=None, log_level="warning", access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=GRACE,
        )  # fmt: skip
        server, up = Server(config), threading.Event()
        thread = threading.Thread(target=server.run, args=([listener],), name="pipebus-page", daemon=True)
        thread.start()
        while not up.wait(0.1) and thread.is_alive():
            pass
        try:
            yield _url(listener)
        finally:
            site.end()
            server.should_exit = True
            thread.join(2 * GRACE + 1)


def _listening(address: str, token: str | None) -> socket.socket:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise PipebusError(f"{address!r} is not an address; write HOST:PORT, as in 127.0.0.1:9000 (port 0: a free one)")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PipebusError(f"{host} is not the name of a computer ({error}); write HOST:PORT, as in 127.0.0.1:9000") from None
    family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    if token is None and not is_loopback(str(place[0])):
        raise PipebusError(
            f"other computers can reach {address}, so the page needs a token; set the environment variable "
            "PIPEBUS_HTTP_TOKEN, or listen on 127.0.0.1"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PipebusError(f"cannot listen on {address}: {error.strerror}; take another port (0: a free one)") from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
