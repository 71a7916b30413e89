"""The contract of transports, on a NATS server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage

from pipebus.testing.contract import *  # noqa: F403

SHORT_LEASES = ("test_a_crash_counts_as_an_attempt", "test_exit_without_stop_loses_nothing")
"""Tests in which a process ends with messages in hand, so the server learns of it only when their leases end."""


@pytest.fixture
def stage(request: pytest.FixtureRequest, server: NatsServer) -> Iterator[Any]:
    lease = 2.0 if request.node.originalname in SHORT_LEASES else 30.0
    stage = NatsStage(server, lease, many=2_000)
    yield stage
    stage.wipe()
