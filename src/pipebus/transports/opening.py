"""
Which transport a URL names: one of ours, or one that another package brings, by an entry point in the group
`pipebus.transports` (name = URL scheme, value = a callable of the URL).
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from pipebus.errors import PipebusError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, text_of

TRANSPORTS: Final[dict[str, str]] = {
    "memory": "pipebus.transports.memory:MemoryTransport.from_url",
    "sqlite": "pipebus.transports.sqlite:SqliteTransport.from_url",
    "nats": "pipebus.transports.nats:NatsTransport.from_url",
    "tls": "pipebus.transports.nats:NatsTransport.from_url",
}
"""URL scheme -> module:callable, imported when first used."""


def _shown(url: str) -> str:
    """Without what stands before the host: a user and a password, as a rule."""
    return re.sub(r"//.*@", "//…@", url, flags=re.DOTALL)


def open_transport(url: str) -> Any:
    """
    The transport that a URL names.

    Raises:
        UnsupportedCapability: unknown scheme, naming the known ones.
    """
    url = plain_text(url)
    try:
        scheme = urlsplit(url).scheme or url
    except ValueError as error:
        raise UnsupportedCapability(f"{_shown(url)!r} is no URL: {error}") from None
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
    raise UnsupportedCapability(f'no transport for "{_shown(scheme)}" (in {_shown(url)!r}); there are: {", ".join(known)}')
