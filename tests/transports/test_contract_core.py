"""
What the table of engines says about core NATS: these tests of the contract, on a server that keeps nothing.

The others ask for more: nobody knows of a message that is on its way, so a drain may return before it has come.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("nats")

from nats_server import NatsServer

from pipebus.testing.contract import *  # noqa: F403
from pipebus.testing.contract import Stage, UrlStage


class CoreStage(UrlStage):
    """Subjects of its own on a server."""

    count = 0

    def __init__(self, server: NatsServer) -> None:
        CoreStage.count += 1
        super().__init__(f"{server.url}?core=yes&prefix=core{CoreStage.count}", many=2_000)

    def child_url(self) -> str:
        """Other processes connect to the same server."""
        return str(self.url)


@pytest.fixture
def stage(server: NatsServer) -> Iterator[Stage]:
    stage = CoreStage(server)
    yield stage
    stage.wipe()
