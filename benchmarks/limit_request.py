"""
The hand-written limit where an answer comes back: one caller's question to one thread, or to one task of an event loop.

No time-out, no error that travels back, no subject looked up, and a wait for an answer that does not come lasts
forever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple

from harness import Flow, Guarantees, Handler
from limit import BARE, NO_HEADERS, Message

THREAD = Guarantees("two threads, a lock for each answer; no time-out, one handler", *BARE)
LOOP = Guarantees("one task, a future for each answer; no time-out, one handler", "yes", "end its task", "no", "yes")
BOTH = Guarantees("one wake-up of the loop for many, a queue and a thread back; one handler each", *BARE)


class Question(Message):
    """A message that an answer is waited for with."""

    __slots__ = ("answer", "arrived")

    def __init__(self, id: int, subject: str, body: Any, headers: dict[str, Any], arrived: Any) -> None:
        self.id = id
        self.subject = subject
        self.body = body
        self.headers = headers
        self.arrived = arrived
        self.answer: Any = None


class Requests(NamedTuple):
    """An open route there and back, and how to end it."""

    request: Callable[[str, Any], Message]
    close: Callable[[], Any]


def open_requests(handle: Callable[[Message], Any]) -> Requests:
    """Ask a thread; it releases the lock that the caller waits for."""
    questions: SimpleQueue[Question | None] = SimpleQueue()
    next_id = count(1).__next__

    def request(subject: str, body: Any) -> Message:
        arrived = Lock()
        arrived.acquire()
        question = Question(next_id(), subject, body, NO_HEADERS, arrived)
        questions.put(question)
        arrived.acquire()
        answer: Message = question.answer
        return answer

    def serve() -> None:
        get = questions.get
        while (question := get()) is not None:
            question.answer = Message(next_id(), question.subject, handle(question), NO_HEADERS)
            question.arrived.release()

    thread = Thread(target=serve)
    thread.start()

    def close() -> None:
        questions.put(None)
        thread.join()

    return Requests(request, close)


@asynccontextmanager
async def open_arequests(
    handle: Callable[[Message], Awaitable[Any]],
) -> AsyncIterator[Callable[[str, Any], Awaitable[Message]]]:
    """Ask a task of the same loop; it sets the future that the caller waits for."""
    loop = asyncio.get_running_loop()
    questions: deque[Question] = deque()
    next_id = count(1).__next__
    bell: asyncio.Future[None] = loop.create_future()

    def request(subject: str, body: Any) -> Awaitable[Message]:
        arrived: asyncio.Future[Message] = loop.create_future()
        questions.append(Question(next_id(), subject, body, NO_HEADERS, arrived))
        if not bell.done():
            bell.set_result(None)
        return arrived

    async def serve() -> None:
        nonlocal bell
        while True:
            while questions:
                question = questions.popleft()
                body = await handle(question)
                question.arrived.set_result(Message(next_id(), question.subject, body, NO_HEADERS))
            bell = loop.create_future()
            await bell

    server = loop.create_task(serve())
    try:
        yield request
    finally:
        server.cancel()


def open_there_and_back(ahandle: Callable[[Message, Callable[[str, Any], Any]], Awaitable[Any]], handle: Handler) -> Flow:
    """
    From a thread to a task on an event loop, and from there to another thread.

    Args:
        ahandle: Called on the loop with a message and with the `publish` of the way back.
        handle: Called on the other thread.
    """
    loop = asyncio.new_event_loop()
    waiting: deque[Message] = deque()
    back: SimpleQueue[Message | None] = SimpleQueue()
    next_id = count(1).__next__
    asleep = True
    bell: asyncio.Future[None]

    # The task says `asleep` and then looks at the deque once more; a publish appends and then looks at `asleep`. So one of
    # them sees the other, and the loop is woken once for all that comes while it is awake.

    def publish(subject: str, body: Any) -> None:
        nonlocal asleep
        waiting.append(Message(next_id(), subject, body, NO_HEADERS))
        if asleep:
            asleep = False
            loop.call_soon_threadsafe(ring)

    def ring() -> None:
        if not bell.done():
            bell.set_result(None)

    def publish_back(subject: str, body: Any) -> None:
        back.put(Message(next_id(), subject, body, NO_HEADERS))

    async def serve() -> None:
        nonlocal asleep, bell
        while True:
            bell = loop.create_future()
            asleep = True
            if not waiting:
                await bell
            asleep = False
            while waiting:
                await ahandle(waiting.popleft(), publish_back)

    def consume() -> None:
        get = back.get
        while (message := get()) is not None:
            handle(message)

    def run_loop() -> None:
        server = loop.create_task(serve())
        loop.run_forever()
        server.cancel()
        loop.run_until_complete(asyncio.gather(server, return_exceptions=True))
        loop.close()

    bell = loop.create_future()
    threads = [Thread(target=run_loop), Thread(target=consume)]
    for thread in threads:
        thread.start()

    def close() -> None:
        loop.call_soon_threadsafe(loop.stop)
        back.put(None)
        for thread in threads:
            thread.join()

    return Flow(publish, close)
