"""The contract of transports, on memory: as it is, and with every message through the codec."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipebus.testing.contract import *  # noqa: F403
from pipebus.testing.contract import Stage, UrlStage


@pytest.fixture(params=["memory:", "memory:?wire=json"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = UrlStage(request.param)
    yield stage
    stage.wipe()
