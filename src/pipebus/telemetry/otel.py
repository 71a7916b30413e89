"""Put OpenTelemetry around a bus: its parts, and what they need of the bus."""

from __future__ import annotations

import importlib.metadata
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace

from pipebus.bus.engine import Engine
from pipebus.telemetry import names
from pipebus.telemetry.destinations import Destinations
from pipebus.telemetry.metrics import Metrics
from pipebus.telemetry.settling import Observer
from pipebus.telemetry.spans import Kit, Process, Send, bounded
from pipebus.telemetry.steps import Steps


def put_around(engine: Engine, *, filters: bool, child: bool, tracer_provider: Any, meter_provider: Any) -> None:
    """
    Args:
        engine: That of a bus which is not started.
        filters: Also make spans for filters and handlers.
        child: See `Process`.
        tracer_provider, meter_provider: None: those of the process.
    """
    always = {names.SYSTEM: names.PIPEBUS, names.BUS: bounded(engine.name), **_server(engine.url)}
    who, version = "pipebus", _version()
    kit = Kit(
        tracer=trace.get_tracer(who, version, tracer_provider, names.SCHEMA_URL),
        metrics=Metrics(metrics.get_meter(who, version, meter_provider, names.SCHEMA_URL), always),
        destinations=Destinations(engine.registry.named, engine.listeners, engine.replies.owns),
        always=always,
        failed=lambda error: engine.ledger.failed("telemetry.failed", error),
    )
    send = Send(kit)
    engine.registry.enclose(send, Process(kit, child))
    if filters:
        engine.services.also_watch(Steps(kit).watch)
    engine.bus.observe(Observer(kit, send, child))


def _version() -> str:
    try:
        return importlib.metadata.version("pipebus")
    except importlib.metadata.PackageNotFoundError:  # it runs from a source tree
        return ""


def _server(url: Any) -> dict[str, Any]:
    """The address of the server, if messages go to one. `url`: a transport that has none is there itself."""
    if not isinstance(url, str):
        return {}
    try:
        found = urlsplit(url)
        if found.hostname is None or "," in found.netloc:
            return {}
        return {names.SERVER_ADDRESS: found.hostname} | ({} if found.port is None else {names.SERVER_PORT: found.port})
    except ValueError:
        return {}
