"""
taskiq: a task queue; its in-memory broker makes an asyncio task for each message. It has no fan-out: a task is one function.

The broker is meant for tests and development. Messages are JSON, as on its brokers on servers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness import SUBJECT, Guarantees
from loop_clocks import ACrowd, AHandler, APublish
from simplest import Message

WORDS = "an asyncio task a message, results kept; in memory it is for tests"
GUARANTEES = Guarantees(WORDS, "a task each", "isolated, kept", "no", "no, all at once", package="taskiq")
MOST = 10_000  # messages
SUBJECTS = 1_000


def noops(number: int) -> list[Any]:
    """Middlewares that hand a message on as it is sent."""
    from taskiq import TaskiqMessage, TaskiqMiddleware

    class Noop(TaskiqMiddleware):
        async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
            return message

    return [Noop() for _ in range(number)]


@asynccontextmanager
async def open_crowd(crowd: ACrowd, filters: Sequence[Any] = ()) -> AsyncIterator[APublish]:
    """A task of the broker for each subject; filters are middlewares."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker().with_middlewares(*filters)

    def register(subject: str, handle: AHandler) -> Any:
        async def act(subject: str, body: Any) -> None:
            await handle(Message(subject, body))

        return broker.register_task(act, task_name=subject)

    tasks = {subject: register(subject, handle) for subject, handle in crowd}
    await broker.startup()

    async def publish(subject: str, body: Any) -> None:
        await tasks[subject].kiq(subject, body)

    yield publish
    await broker.wait_all()
    await broker.shutdown()


def open_flow(filters: Sequence[Any], handle: AHandler) -> Any:
    """One task."""
    return open_crowd([(SUBJECT, handle)], filters)


@asynccontextmanager
async def open_requests(answer: Callable[[Any], Awaitable[Any]]) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """A task's result. The broker runs it in `kiq`, for otherwise the caller would look for the result every 0.2 s."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker(await_inplace=True)

    async def act(body: Any) -> Any:
        return await answer(Message(SUBJECT, body))

    task = broker.register_task(act, task_name=SUBJECT)
    await broker.startup()

    async def ask(body: Any) -> Any:
        asked = await task.kiq(body)
        return (await asked.wait_result()).return_value

    yield ask
    await broker.shutdown()
