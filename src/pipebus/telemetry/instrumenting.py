"""`instrument`: traces and metrics of a bus for OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pipebus.bus.bus import Bus, engine_of
from pipebus.errors import LifecycleError, PipelineError
from pipebus.foreign.objects import shown
from pipebus.foreign.packages import install

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

Spans = Literal["messages", "filters"]
Parent = Literal["link", "child"]

SPANS: Final = ("messages", "filters")
PARENTS: Final = ("link", "child")


def instrument(
    bus: Bus, *, spans: Spans = "messages", parent: Parent = "link", tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:  # fmt: skip
    """
    Make a bus emit spans and metrics, by OpenTelemetry's conventions for messaging. Call it once, before the bus starts.

        bus = Bus()
        instrument(bus, spans="filters")

    Args:
        spans: "messages": one for each `send`, `process`, `receive` and `settle`. "filters": also one for each filter and
            handler, with its verdict.
        parent: "link": the handling of a message is a trace of its own, with a link to the one that published it. "child": it
            continues that trace.
        tracer_provider: Where spans go; None: the provider of the process.
        meter_provider: Where metrics go; None: the provider of the process.

    Raises:
        LifecycleError: the bus has started, or is instrumented already. PipelineError: a wrong argument, or the package
        opentelemetry-api is not installed.
    """
    if not isinstance(bus, Bus):
        raise PipelineError(f"instrument takes a Bus, found {shown(bus)}")
    for name, value, known in (("spans", spans, SPANS), ("parent", parent, PARENTS)):
        if value not in known:
            raise PipelineError(f'instrument({name}={shown(value)}): it is "{known[0]}" or "{known[1]}"')
    for name, provider, method in (
        ("tracer_provider", tracer_provider, "get_tracer"), ("meter_provider", meter_provider, "get_meter")
    ):  # fmt: skip
        if provider is not None and not callable(getattr(provider, method, None)):
            raise PipelineError(f"instrument({name}={shown(provider)}): it is a provider of OpenTelemetry, with {method}()")
    engine = engine_of(bus)
    try:
        from pipebus.telemetry import otel
    except ImportError as error:
        raise PipelineError(f"telemetry needs the package opentelemetry-api: {install('otel')} ({error})") from None
    if engine.telemetry is not None:
        raise LifecycleError(f"{bus!r} is instrumented already; call instrument once")
    otel.put_around(
        engine, filters=spans == "filters", child=parent == "child", tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )  # fmt: skip
    engine.telemetry = {"use": "otel", "spans": spans, "parent": parent}
