"""
Opening the transport that a URL names: one of ours, or one of another package, which registers it by an entry point in the
group `pipebus.transports` (name = URL scheme, value = a callable that takes the URL).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from pipebus.errors import PipebusError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, text_of
from pipebus.transports.urls import redacted

TRANSPORTS: Final[dict[str, str]] = {
    "memory": "pipebus.transports.memory:MemoryTransport.from_url",
    "sqlite": "pipebus.transports.sqlite:SqliteTransport.from_url",
    "nats": "pipebus.transports.nats:NatsTransport.from_url",
    "tls": "pipebus.transports.nats:NatsTransport.from_url",
}
"""URL scheme -> module:callable, imported at its first use."""


def open_transport(url: str) -> Any:
    """
    Open the transport that a URL names.

    Raises:
        UnsupportedCapability: the URL cannot be used; for an unknown scheme the text lists the known ones.
    """
    url = plain_text(url)
    try:
        scheme = urlsplit(url).scheme or url
    except ValueError as error:
        raise UnsupportedCapability(f"{redacted(url)!r} is not a URL: {error}") from None
    target = TRANSPORTS.get(scheme)
    if target is not None:
        module, _, path = target.partition(":")
        factory: Any = import_module(module)
        for part in path.split("."):
            factory = getattr(factory, part)
        return factory(url)
    from importlib.metadata import entry_points

    for point in entry_points(group="pipebus.transports", name=scheme):
        try:
            return point.load()(url)
        except PipebusError:
            raise
        except Exception as error:
            raise UnsupportedCapability(
                f'transport "{scheme}" (of {point.value}) cannot be opened: {text_of(error)}'
            ) from error
    known = sorted({*TRANSPORTS, *(point.name for point in entry_points(group="pipebus.transports"))})
    raise UnsupportedCapability(f'no transport for "{redacted(scheme)}" (in {redacted(url)!r}); there are: {", ".join(known)}')
