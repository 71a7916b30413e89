"""A running bus on a page in a browser: `pipebus.web.app(bus)`. It can look at everything and change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from pipebus.bus.bus import Bus
from pipebus.errors import LifecycleError, UnsupportedCapability
from pipebus.foreign.objects import shown
from pipebus.foreign.packages import install

_Event = MutableMapping[str, Any]
App = Callable[[_Event, Callable[[], Awaitable[_Event]], Callable[[_Event], Awaitable[None]]], Awaitable[None]]
"""What a server of ASGI calls: (scope, receive, send)."""


def app(bus: Bus, *, token: str | None = None, dry_run: bool = True, redact: Iterable[str] = ()) -> App:
    """
    Make an ASGI application that shows a bus: the page, its figures, `livez`, `readyz` and `metrics`. Mount it into an
    application of your own, or serve it. It needs starlette, from the extra `web`.

    It is read-only. While nobody looks, it does nothing. The bus may be new, started or stopped.

    Args:
        bus: The bus.
        token: A secret that lets people in from anywhere. None: the page answers only to this computer. Behind a proxy, always
            set one: not every proxy says that it forwards.
        dry_run: Whether people may send a message of theirs through the filters, to see what each does. No mailbox gets it and
            no figure changes, but filters that are not dataclasses are run themselves, with whatever else they do.
        redact: Names of headers and body fields whose values are hidden, as in `Log.redact`. Those that the bus's own `Log` and
            `Redact` filters name are hidden too.

    Raises:
        UnsupportedCapability: starlette is not installed. PipebusError: the token is empty. PipelineError: `redact` is not a
        list of names. LifecycleError: `bus` is not a bus.

    Example:
        >>> from pipebus import Bus
        >>> from pipebus.web import app
        >>> page = app(Bus())  # api.mount("/bus", page)
    """
    if not isinstance(bus, Bus):
        raise LifecycleError(f"web.app({shown(bus)}): it takes a Bus")
    try:
        import starlette  # noqa: F401
    except ImportError:
        raise UnsupportedCapability(f"the page of a bus needs the package starlette: {install('web')}") from None
    from pipebus.web.routes import Site

    return Site(bus, token=token, dry_run=dry_run, redact=redact)
