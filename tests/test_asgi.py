"""`pipebus.asgi.lifespan`: a bus lives as long as the application that it is given to."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flow_helpers import WAIT, Boom, Hold
from loop_helpers import amain
from missing import needs
from pipebus import Bus, LifecycleError
from pipebus.asgi import lifespan
from values_helpers import environment

APP = object()
"""The application; the bus does not look at it."""


def test_the_bus_runs_while_the_application_does() -> None:
    """Requests find the bus in their state, started; after the shutdown it is stopped, and what it accepted is handled."""
    bus, handled = Bus(), list[Any]()

    @bus.on("orders")
    async def handle(body: int) -> None:
        await asyncio.sleep(0)
        handled.append((body, asyncio.get_running_loop()))

    async def main() -> asyncio.AbstractEventLoop:
        async with lifespan(bus)(APP) as state:
            assert state == {"bus": bus}
            assert bus.state == "started"
            await bus.apublish("orders", 1)
        return asyncio.get_running_loop()

    loop = amain(main)
    assert bus.state == "stopped"
    assert handled == [(1, loop)]


def test_an_application_may_start_several_times() -> None:
    """A test client that is opened twice starts the same bus twice, each time on the loop of that client."""
    bus, loops = Bus(), list[Any]()

    @bus.on("orders")
    async def handle() -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> asyncio.AbstractEventLoop:
        async with lifespan(bus)(APP):
            await bus.apublish("orders")
        return asyncio.get_running_loop()

    assert [amain(main), amain(main)] == loops


def test_a_function_makes_a_bus_for_each_start() -> None:
    """Tests get a bus without the letters and figures of the test before; a forked worker gets one that is its own."""
    made = list[Bus]()

    def make() -> Bus:
        made.append(Bus())
        return made[-1]

    async def main() -> None:
        running = lifespan(make)
        for _ in range(2):
            async with running(APP) as state:
                assert state["bus"] is made[-1]

    amain(main)
    assert [bus.state for bus in made] == ["stopped", "stopped"]


def test_another_lifespan_runs_inside() -> None:
    """It begins with a bus that has started, adds to the state, and ends before the bus stops."""
    bus, states, given = Bus(), list[str](), list[Any]()

    @asynccontextmanager
    async def database(app: Any) -> AsyncIterator[dict[str, str]]:
        given.append(app)
        states.append(bus.state)
        yield {"database": "open"}
        states.append(bus.state)

    async def main() -> None:
        async with lifespan(bus, database)(APP) as state:
            assert state == {"bus": bus, "database": "open"}

    amain(main)
    assert (states, given, bus.state) == (["started", "started"], [APP], "stopped")


def test_two_buses_live_in_one_application() -> None:
    one, other = Bus(), Bus()

    async def main() -> None:
        async with lifespan(one, lifespan(other, state="other"))(APP) as state:
            assert state == {"bus": one, "other": other}

    amain(main)
    with pytest.raises(
        LifecycleError, match=re.escape('the state of the inner lifespan has a "bus" too; give one another name')
    ):
        amain(lambda: started(lifespan(one, lifespan(other))))
    assert (one.state, other.state) == ("stopped", "stopped")


async def started(running: Any) -> None:
    async with running(APP):
        pass


def test_an_application_that_fails_to_start_stops_the_bus() -> None:
    """Its error comes out as the same object."""
    bus, error = Bus(), Boom("no database")

    @asynccontextmanager
    async def database(app: Any) -> AsyncIterator[None]:
        raise error
        yield

    with pytest.raises(Boom) as caught:
        amain(lambda: started(lifespan(bus, database)))
    assert caught.value is error
    assert bus.state == "stopped"


def test_a_bus_that_cannot_start_keeps_the_application_from_it() -> None:
    class Closed:
        def start(self, context: Any) -> None:
            raise Boom("closed")

        def __call__(self, message: Any, call_next: Any) -> Any:
            return call_next(message)

    bus = Bus()
    bus.use(Closed())
    with pytest.raises(Boom):
        amain(lambda: started(lifespan(bus)))
    assert bus.state == "new"


def test_a_cancelled_application_stops_the_bus_without_draining() -> None:
    """A server that is ended at once cancels the task of the lifespan."""
    bus, hold = Bus(), Hold()
    bus.subscribe("orders", hold, name="orders")

    async def main() -> None:
        up = asyncio.Event()

        async def serve() -> None:
            async with lifespan(bus, timeout=0.0)(APP):
                for number in range(3):
                    await bus.apublish("orders", number)
                up.set()
                await asyncio.Event().wait()

        serving = asyncio.create_task(serve())
        await up.wait()
        await asyncio.to_thread(hold.wait_started)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    amain(main)
    assert bus.state == "stopped"
    assert hold.given == [0]
    hold.open()


def test_the_time_for_the_stop_can_be_said() -> None:
    """A handler that does not end is abandoned after that time, and the application shuts down."""
    bus, hold = Bus(), Hold()
    bus.subscribe("orders", hold)

    async def main() -> None:
        async with lifespan(bus, timeout="50ms")(APP):
            await bus.apublish("orders")
            await asyncio.to_thread(hold.wait_started)

    amain(main)
    assert bus.state == "stopped"
    hold.open()


def test_signal_handlers_stay_those_of_the_server() -> None:
    bus = Bus()

    async def main() -> tuple[Any, Any]:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        async with lifespan(bus)(APP):
            return before, [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    before, within = asyncio.run(main())
    assert before == within


def test_what_is_no_bus_is_refused() -> None:
    with pytest.raises(LifecycleError, match=re.escape("lifespan('memory:'): it takes a Bus, or a function that makes one")):
        lifespan("memory:")  # type: ignore[arg-type]
    with pytest.raises(LifecycleError, match=re.escape("returned None; it has to return a Bus")):
        amain(lambda: started(lifespan(lambda: None)))  # type: ignore[arg-type, return-value]


# --- with the frameworks themselves ----------------------------------------------------------------------------------------

SHOP = """
import threading

from starlette.requests import Request
from starlette.responses import Response

from pipebus import Bus
from pipebus.asgi import lifespan

bus = Bus()


@bus.on("orders")
def slow(message):
    threading.Event().wait(0.3)
    print("handled", message.body, flush=True)


async def order(request: Request):
    await request.state.bus.apublish("orders", 7)
    return Response("accepted")
"""
"""A handler that is slower than the request that it serves."""

FASTAPI = """
from fastapi import FastAPI

app = FastAPI(lifespan=lifespan(bus))
app.post("/orders")(order)
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.routing import Mount, Route

part = Starlette(routes=[Route("/orders", order, methods=["POST"])])
app = Starlette(routes=[Mount("/shop", part)], lifespan=lifespan(bus))
"""
"""A part that is mounted shares the state of the whole."""

SERVE = """
import uvicorn


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


Server(uvicorn.Config(app, port=0, log_level="warning")).run()
"""
"""A server on a free port, which it prints."""


@pytest.mark.thorough
@pytest.mark.parametrize(("app", "path"), [(FASTAPI, "/orders"), (STARLETTE, "/shop/orders")], ids=["fastapi", "starlette"])
def test_a_server_that_gets_a_signal_ends_after_the_handlers(app: str, path: str) -> None:
    """uvicorn hears SIGTERM and shuts the application down; the bus handles what it has accepted, and nothing is lost."""
    for package in ("fastapi", "starlette", "uvicorn"):
        needs(package)
    program = [sys.executable, "-c", SHOP + app + SERVE]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, env=environment(), **pipes) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", b"", timeout=WAIT).close()
            server.send_signal(signal.SIGTERM)
            out, err = server.communicate(timeout=WAIT)
        finally:
            server.kill()
    assert (out, err) == ("handled 7\n", "")
