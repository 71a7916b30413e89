"""Buses on every carrier of messages, for tests whose promise does not depend on the carrier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipebus import Bus

CARRIERS = ["memory:", "memory:?wire=json", "sqlite", "nats"]


@contextmanager
def made(carrier: str, folder: Path, **options: Any) -> Iterator[Bus]:
    """A bus on a carrier of its own, not started yet; it is stopped at the end."""
    if carrier == "nats":
        from transports.nats_server import NatsServer  # needs a package that other carriers do not need

        with NatsServer(folder / "nats") as server, made(server.url, folder, **options) as bus:
            yield bus
        return
    bus = Bus(f"sqlite:///{folder}/bus.db" if carrier == "sqlite" else carrier, **options)
    try:
        yield bus
    finally:
        bus.stop(timeout=10, drain=False)
