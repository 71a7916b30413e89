"""
Traces of a small shop over HTTP: each order is one trace, from its request to its last filter.

    pip install fastapi httpx2 opentelemetry-sdk
    python examples/11_telemetry.py

OpenTelemetry's console exporter prints a line for each span when it ends, so the innermost come first. Those of the requests
are FastAPI's own. With an exporter for OTLP instead, the same spans are in Jaeger, Tempo or any other place for traces.
"""

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from pipebus import Bus, Dropped, Message, Rejected, transform
from pipebus.asgi import lifespan
from pipebus.telemetry import instrument


def line(span: ReadableSpan) -> str:
    """One line of the console: the trace, the span, and what became of the message."""
    facts, context = span.attributes or {}, span.get_span_context()
    number = traces.setdefault(context.trace_id if context is not None else 0, len(traces) + 1)
    words = (facts.get("messaging.pipebus.verdict"), facts.get("messaging.pipebus.reason"), facts.get("error.type"))
    return f"trace {number}  {span.name:<22} {', '.join(str(word) for word in words if word)}".rstrip() + "\n"


traces: dict[int, int] = {}
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")

bus = Bus()
instrument(bus, spans="filters", parent="child")  # a span for each filter, and one trace for all that an order leads to


@bus.use
@transform
def with_price(message: Message) -> Message | Dropped:
    if "item" not in message.body:
        raise Rejected("no item")
    if message.body["item"] == "nothing":
        return Dropped("nothing was ordered")
    return message.with_body(message.body | {"price": 4.20})


@bus.on("orders.*", name="billing")
def bill(order: dict[str, object]) -> None:
    with tracer.start_as_current_span("charge the card"):  # the application's own span is in the same trace
        pass


app = FastAPI(lifespan=lifespan(bus))


@app.post("/orders")
async def create(order: dict[str, str]) -> str:
    try:
        return str(await bus.apublish("orders.created", order))  # a child of the span of the request
    except Rejected as error:
        return str(error)


if __name__ == "__main__":
    with TestClient(app) as client:
        for order in ({"item": "tea"}, {"item": "nothing"}, {"things": "tea"}):
            print(client.post("/orders", json=order).json())
            bus.drain()
