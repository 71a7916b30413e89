"""Providers that keep spans and metrics in memory, and what the tests ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipebus import Bus
from pipebus.telemetry import instrument


class Emitted:
    """
    What buses emit.

    Attributes:
        tracer: For spans of a test's own.
    """

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("test")

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()

    def watch(self, bus: Bus, **options: Any) -> Bus:
        """Instrument a bus."""
        instrument(bus, tracer_provider=self.tracers, meter_provider=self.meters, **options)
        return bus

    @property
    def spans(self) -> list[ReadableSpan]:
        """All that have ended, in the order of their beginnings."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.all(name)
        assert len(found) == 1, (name, [span.name for span in self.spans])
        return found[0]

    def children(self, parent: ReadableSpan) -> list[str]:
        """The names of a span's children."""
        return [span.name for span in self.spans if span.parent is not None and span.parent.span_id == id_of(parent)]

    def points(self, metric: str) -> Iterator[Any]:
        """What was measured, one for each set of attributes."""
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for one in scope.metrics:
                    if one.name == metric:
                        yield from one.data.data_points


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def links(span: ReadableSpan) -> list[int]:
    """The ids of the spans that it links to."""
    return [link.context.span_id for link in span.links]


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id
