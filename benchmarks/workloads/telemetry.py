"""
telemetry: what it costs to be watched by OpenTelemetry, and that it costs nothing not to be.

The limit here is a bus that nobody has instrumented. Its own time is that of W1, before telemetry existed and after.
"""

from collections.abc import Callable
from typing import Any

import ours
from harness import MICROSECONDS, SUBJECT, Contender, Flow, Handler, Workload, anything, time_flow

PACKAGE = "opentelemetry-sdk"


def instrumented(providers: Callable[[], dict[str, Any]], **options: Any) -> Callable[[Handler], Flow]:
    """A started memory bus with one subscription, instrumented."""

    def open_flow(handle: Handler) -> Flow:
        from pipebus import Bus
        from pipebus.telemetry import instrument

        bus = Bus()
        instrument(bus, **providers(), **options)
        bus.subscribe(SUBJECT, handle)
        bus.start()
        return Flow(bus.publish, bus.stop)

    return open_flow


def nothing() -> dict[str, Any]:
    """Providers of the API alone, as where no SDK is set up."""
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.trace import NoOpTracerProvider

    return {"tracer_provider": NoOpTracerProvider(), "meter_provider": NoOpMeterProvider()}


def sdk(ratio: float = 1.0) -> dict[str, Any]:
    """Providers of the SDK that measure and make spans, and export none."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    return {"tracer_provider": TracerProvider(TraceIdRatioBased(ratio)), "meter_provider": MeterProvider()}


def contender(words: str, open_flow: Callable[[Handler], Flow], package: str = "") -> Contender:
    promises = ours.GUARANTEES._replace(words=words, package=package)
    return Contender(promises, lambda size: time_flow(open_flow, size, anything))


WORKLOAD = Workload(
    about="publish, one handler: a bus that is instrumented, and one that is not",
    columns=MICROSECONDS,
    contenders={
        "pipebus": contender("not instrumented", lambda handle: ours.open_flow((), handle)),
        "no-sdk": contender("instrumented, but no SDK is set up", instrumented(nothing), "opentelemetry-api"),
        "sampled": contender("the SDK keeps one trace of a hundred", instrumented(lambda: sdk(0.01)), PACKAGE),
        "sdk": contender("the SDK keeps all spans", instrumented(sdk), PACKAGE),
        "filters": contender("the same, with spans for handlers", instrumented(sdk, spans="filters"), PACKAGE),
    },
    size=20_000,
)
