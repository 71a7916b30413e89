"""Publishing on NATS: answers that are lost."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsStage, Proxy, with_client

from pipebus import Bus, Receipt

PATIENCE = 30.0


def stored(stage: NatsStage) -> Any:
    """The number of messages in the stream."""

    async def count(client: Any) -> int:
        return int((await client.jetstream().stream_info(stage.stream)).state.messages)

    return with_client(stage.server, count)


@pytest.mark.parametrize("publish", ["from a thread", "from a loop"])
@pytest.mark.few(1)
def test_a_lost_answer_is_asked_for_again(stage: NatsStage, publish: str) -> None:
    """
    A leader that dies answers nothing, and the connection goes on. The message is sent again long before `publish_timeout`; the
    server has it once, and the receipt says that it is new.
    """

    def work() -> Any:
        return bus.publish("a", 1) if publish == "from a thread" else asyncio.run(bus.apublish("a", 1))

    with Proxy(stage.server.port) as proxy, ThreadPoolExecutor(1) as thread:
        through = stage.url.replace(str(stage.server.port), str(proxy.port))
        with Bus(f"{through}&publish_timeout=600s&window=600s") as bus:
            proxy.swallow = b'"seq":'
            assert thread.submit(work).result(PATIENCE) == Receipt(0)
            assert proxy.swallow is None, "an answer was lost"
        assert stored(stage) == 1
