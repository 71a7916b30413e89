"""
A program that ends in one way while its handler does one thing: `ends_child.py URL END DOING TIMEOUT`.

If it still writes a last line of output, that line is the report of its stop.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn

from pipebus import Actor, Around, Bus, Delivery, Message, Pause, StopReport, when
from pipebus.bus.bus import engine_of

URL, END, DOING, TIMEOUT = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
LONG = 600.0
MAIN = threading.get_ident()


class Impatient(Bus):
    """A bus whose block does not wait half a minute when it is left."""

    def stop(self, timeout: float = TIMEOUT, *, drain: bool | None = None) -> StopReport:
        return super().stop(timeout, drain=drain)

    async def astop(self, timeout: float = TIMEOUT, *, drain: bool | None = None) -> StopReport:
        return await super().astop(timeout, drain=drain)


bus = Impatient(URL)
begun, draining = threading.Event(), threading.Event()
ready = threading.Event()  # all messages are published, and the first message's handler runs
handled: list[int] = []


class Ended(Exception):
    """An error of the application."""


@bus.observe
def tell(event: Any) -> None:
    if getattr(event, "new", None) == "draining":
        draining.set()


# --- what the handler does ---------------------------------------------------------------------------------------------


class Pauses(Around):
    waits = True

    def around(self, message: Message) -> Any:
        if message.body == 0:
            begun.set()
            yield Pause(LONG)
        yield message


class Actress(Actor):
    filter_timeout = LONG

    def filter(self, message: Message) -> Message:
        begun.set()
        threading.Event().wait(LONG)
        return message


def do(message: Message, delivery: Delivery) -> None:
    begun.set()
    if DOING == "ends":
        assert draining.wait(LONG)
    elif DOING == "sleeps":
        threading.Event().wait(LONG)
    elif DOING == "computes":
        while True:
            sum(range(1000))
    elif DOING == "asks":
        bus.request("person", timeout=LONG)
    elif DOING == "full":
        bus.publish("narrow")
        bus.publish("narrow")
    elif DOING == "asked":
        bus.publish("filtered")
    elif DOING == "writes":
        assert ready.wait(60)  # it keeps everybody else from publishing
        with delivery.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS done (body)")
            connection.execute("INSERT INTO done VALUES (?)", (message.body,))
            assert draining.wait(LONG)


async def ado(message: Message, delivery: Delivery) -> None:
    begun.set()
    if DOING == "awaits":
        await asyncio.sleep(LONG)
    elif DOING == "finally":
        try:
            await asyncio.sleep(LONG)
        finally:
            await bus.apublish("person", "tidied up")


def handle(message: Message, delivery: Delivery) -> None:
    if message.body == 0:
        do(message, delivery)
    handled.append(message.body)


async def ahandle(message: Message, delivery: Delivery) -> None:
    if message.body == 0:
        await ado(message, delivery)
    handled.append(message.body)


def exits(message: Message) -> NoReturn:
    sys.exit(message.body)


def exiting(message: Message) -> Message:
    if message.subject == "forbidden":
        sys.exit(4)
    return message


def plain(message: Message, call_next: Callable[[Message], Any]) -> Any:
    return call_next(exiting(message))


if END == "sys.exit in a filter":
    bus.use(plain)
if DOING == "asked":
    bus.use(when("filtered", Actress("actress")))
asynchronous = DOING in ("awaits", "finally")
filters = [Pauses()] if DOING == "pauses" else []
bus.subscribe("task", ahandle if asynchronous else handle, name="agent", filters=filters)
bus.subscribe("exits", exits, name="exits")
for name in ("person", "narrow", "filtered"):
    kind = {"mailbox": 1, "overflow_timeout": LONG} if name == "narrow" and engine_of(bus).transport.local else {}
    bus.subscribe(name, name=name, **kind)


# --- how the program ends ----------------------------------------------------------------------------------------------


def publish() -> None:
    for body in range(3):
        bus.publish("task", body)


def wait(code: int | None = None) -> None:
    """Wait until the handler has begun; with a code, let another handler exit with that code."""
    assert begun.wait(60), "the handler has not begun"
    if code is not None:
        bus.publish("exits", code)
    ready.set()


def signals(*numbers: int) -> None:
    """Send signals to this process, from a thread: the first while the handler runs, each next one when the bus drains."""

    def send() -> None:
        assert ready.wait(60)
        for number in numbers:
            signal.pthread_kill(MAIN, number)
            assert draining.wait(60)

    threading.Thread(target=send, daemon=True).start()


def stay() -> None:
    """Wait in slices, because a signal that comes just before a long wait would be seen only after it."""
    for _ in range(1200):
        threading.Event().wait(0.05)


@contextmanager
def block() -> Iterator[None]:
    with bus:
        publish()
        wait()
        yield


@asynccontextmanager
async def ablock() -> AsyncIterator[None]:
    async with bus:
        for body in range(3):
            await bus.apublish("task", body)
        await asyncio.to_thread(wait)
        yield


def run(*numbers: int) -> None:
    signals(*numbers)
    threading.Thread(target=lambda: (started.wait(60), publish(), wait()), daemon=True).start()
    bus.run(TIMEOUT)


started = threading.Event()
bus.observe(lambda event: started.set() if getattr(event, "new", None) == "started" else None)


def end() -> None:
    match END:
        case "leaving the block":
            with block():
                pass
        case "stop":
            bus.start()
            publish()
            wait()
            bus.stop(TIMEOUT)
        case "an error out of the block":
            with block():
                raise Ended
        case "sys.exit in main":
            with block():
                sys.exit(5)
        case "sys.exit in a filter":
            with block():
                bus.publish("forbidden")
        case "sys.exit in a handler" | "sys.exit(0) in a handler":
            threading.Thread(
                target=lambda: (started.wait(60), publish(), wait(0 if "(0)" in END else 3)),
                daemon=True,
            ).start()
            bus.run(TIMEOUT)
        case "run: SIGINT" | "run: SIGTERM" | "run: SIGHUP":
            run(getattr(signal, END.removeprefix("run: ")))
        case "run: SIGINT twice":
            run(signal.SIGINT, signal.SIGINT)
        case "block: SIGINT":
            signals(signal.SIGINT)
            with block():
                stay()
        case "block: SIGINT twice":
            signals(signal.SIGINT, signal.SIGINT)
            with block():
                stay()
        case "asyncio.run cancelled":

            async def main() -> None:
                async with ablock():
                    signals(signal.SIGINT)
                    await asyncio.sleep(60)

            asyncio.run(main())
        case "the loop closed":

            async def begin() -> None:
                await bus.astart()
                for body in range(3):
                    await bus.apublish("task", body)
                await asyncio.to_thread(wait)

            loop = asyncio.new_event_loop()
            loop.run_until_complete(begin())
            loop.close()
            bus.stop(TIMEOUT)
        case "no stop":
            bus.start()
            publish()
            wait()
        case "SIGKILL":
            bus.start()
            publish()
            wait()
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            raise AssertionError(END)


try:
    end()
finally:
    if bus.state == "stopped":
        with suppress(SystemExit):
            report = bus.stop()
            told = {
                "drained": report.drained,
                "left": report.left.get("agent", 0),
                "abandoned": len(report.abandoned),
                "handled": sorted(handled),
                "dead": len(bus.dead_letters.list()) if engine_of(bus).transport.local else 0,
            }
            sys.stdout.write(f"{json.dumps(told)}\n")
            sys.stdout.flush()
