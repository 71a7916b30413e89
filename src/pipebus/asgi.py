"""
A bus that lives as long as an ASGI application: `FastAPI(lifespan=lifespan(bus))`, `Starlette(lifespan=lifespan(bus))`.

It imports no framework. A lifespan is a function of the application that returns an asynchronous context manager: the server
enters it before the first request and leaves it after the last one, and what it yields is the state of each request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any

from pipebus.bus.bus import Bus
from pipebus.errors import LifecycleError
from pipebus.foreign.objects import shown
from pipebus.values.quantities import Duration, limit

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
"""What `FastAPI(lifespan=…)` and `Starlette(lifespan=…)` take."""


def lifespan(
    bus: Bus | Callable[[], Bus],
    inner: Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]] | None = None,
    *,
    state: str = "bus",
    timeout: Duration = 30.0,
) -> Lifespan:
    """
    Start a bus on the application's event loop when it starts up, and stop it when it shuts down, as `bus.astop` does.

    If the application fails to start, or is cancelled, the bus stops without draining. It sets no signal handler: the server
    has its own, and shuts the application down.

    Args:
        bus: The bus, which is started again if the application is; or a function that makes one for each start.
        inner: Another lifespan. It begins when the bus has started, and ends before the bus stops.
        state: The name of the bus in the state that the application's requests share: `request.state.bus`.
        timeout: Seconds for the stop, or text such as "30s".

    Raises:
        LifecycleError: now, if `bus` is neither; at startup, if the function makes no bus, or if `inner` uses the same name.

    Example:
        >>> from pipebus import Bus
        >>> from pipebus.asgi import lifespan
        >>> bus = Bus()
        >>> running = lifespan(bus)  # app = FastAPI(lifespan=running)
    """
    if not isinstance(bus, Bus) and not callable(bus):
        raise LifecycleError(f"lifespan({shown(bus)}): it takes a Bus, or a function that makes one")
    timeout = limit(timeout)

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        here = bus if isinstance(bus, Bus) else bus()
        if not isinstance(here, Bus):
            raise LifecycleError(f"lifespan: {shown(bus)} returned {shown(here)}; it has to return a Bus")
        await here.astart()
        try:
            async with inner(app) if inner is not None else nullcontext() as more:
                if state in (more or {}):
                    raise LifecycleError(
                        f'lifespan: the state of the inner lifespan has a "{state}" too; give one another name'
                    )
                yield {state: here, **(more or {})}
        except BaseException:
            with suppress(SystemExit):  # a handler has called `sys.exit()`, which does not hide the application's own error
                await here.astop(timeout, drain=False)
            raise
        await here.astop(timeout)

    return running
