"""The addresses of the page: who may ask for each, and what it answers. See `docs/howto` for what people do with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pipebus import __version__
from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.explain import describe_bus
from pipebus.errors import DeadLetterError, PipebusError, TransportError, reason_of
from pipebus.foreign.objects import text_of
from pipebus.telemetry.figures import Figures, health_of, shape_of, watched
from pipebus.web import letters
from pipebus.web.access import Access
from pipebus.web.headers import Headers
from pipebus.web.messages import NOTHING, WHOLE, Copy, Shown, short
from pipebus.web.path import Paths
from pipebus.web.stream import PATIENCE, EventStream, FigureEvents, Streams, tap

STATIC: Final = Path(__file__).parent / "static"
KINDS: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
LARGEST: Final = 1 << 20
"""Bytes of a request's body."""
FRESH: Final = 10
"""Seconds for which a description is kept, at most."""
DESCRIBED: Final = 1 << 24
"""Characters of the description of a bus."""

READERS: Final = 2
"""The most answers at the same time that read many messages or figures at once."""

CONVERSATION: Final = 200
"""The most messages of a conversation that are shown."""

Endpoint = Callable[[Request], Awaitable[Response]]


class Site:
    """
    The application of one bus.

    Args:
        bus, token, dry_run, redact: As for `pipebus.web.app`.
    """

    def __init__(self, bus: Bus, *, token: str | None, dry_run: bool, redact: Iterable[str]) -> None:
        self.bus = bus
        self.dry_run = dry_run
        self.access = Access(token)
        self.shown = Shown(bus, redact)
        self.streams = Streams()
        self.figures = Figures(bus)
        self.events = FigureEvents(self.figures)
        self.paths = Paths(bus, self.figures.sampler, self.shown)
        self._described: tuple[object, bytes] = (None, b"")
        get = ["GET"]
        routes = [
            Route("/livez", self.livez, methods=get),
            Route("/readyz", self.readyz, methods=get),
            Route("/login", self.login, methods=["POST"]),
            Route("/", self._file(STATIC / "page.html")),
            *(Route(f"/{path.name}", self._file(path)) for path in STATIC.iterdir() if path.suffix in KINDS),
            Route("/metrics", self._guarded(self.metrics)),
            Route("/api/bus", self._guarded(self.api_bus)),
            Route("/api/figures", self._guarded(self.api_figures)),
            Route("/api/events", self._guarded(self.api_events)),
            Route("/api/messages", self._guarded(self.api_messages)),
            Route("/api/path", self._guarded(self.api_path), methods=["POST"]),
            Route("/api/dead", self._guarded(self.api_dead)),
            Route("/api/dead/{id:path}", self._guarded(self.api_letter)),
            Route("/api/conversation/{id:path}", self._guarded(self.api_conversation)),
        ]
        errors = {HTTPException: _http_error, PipebusError: _bus_error, Exception: _failure}
        self._readers = asyncio.Semaphore(READERS)
        app = Starlette(routes=routes, exception_handlers=errors)
        app.router.redirect_slashes = False  # it would send people wherever the Host header says
        self._app = Headers(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def end(self) -> None:
        """End what goes on, because the server stops; from any thread."""
        self.streams.end()

    # --- for machines --------------------------------------------------------------------------------------------------

    async def livez(self, request: Request) -> Response:
        return await self._probe(request, "live")

    async def readyz(self, request: Request) -> Response:
        return await self._probe(request, "ready")

    async def _probe(self, request: Request, what: str) -> Response:
        """Anybody may ask whether the bus works; why it does not is for those who may look."""
        health = health_of(self.bus)  # here, since it does not wait, and the threads may be busy
        if health[what]:
            return PlainTextResponse("ok")
        reasons = "\n".join(health["reasons"]) if self.access.may_look(request) else ""
        return PlainTextResponse(reasons or f"not {what}", 503)

    async def metrics(self, request: Request) -> Response:
        try:
            found = import_module("pipebus.telemetry.prometheus")
        except PipebusError as error:
            raise HTTPException(501, str(error)) from None
        return Response(await self._read(found.metrics_text, self.bus), media_type=found.CONTENT_TYPE)

    # --- for people ----------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        self.access.check_origin(request)
        body = await _body(request)
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
            response = self.access.login(request, fields.get("token", [""])[0])
            response.status_code, response.headers["location"] = 303, "./"
            return response
        return self.access.login(request, _table(body).get("token"))

    def _file(self, path: Path) -> Endpoint:
        content, kind = path.read_bytes(), KINDS[path.suffix]

        async def send(request: Request) -> Response:
            self.access.check_page(request)
            return Response(content, media_type=kind)

        return send

    async def api_bus(self, request: Request) -> Response:
        return _json(await self._read(self._description))

    def _description(self) -> bytes:
        """The description, made again if it may be another one: with a thousand subscriptions it is much work."""
        engine = engine_of(self.bus)
        found = watched(engine)
        key = (shape_of(engine, found), int(time.monotonic() / FRESH))
        if self._described[0] != key:
            described = describe_bus(engine, found.values())
            for schedule in described["schedules"]:
                schedule |= {part: self.shown.value(schedule[part], part) for part in ("body", "headers") if part in schedule}
            facts = {"name": engine.name, "url": engine.url, "version": __version__, "state": engine.state}
            plain = Copy(NOTHING, DESCRIBED).of(facts | {"describe": described, "dry_run": self.dry_run}, "bus")
            self._described = (key, msgspec.json.encode(plain))
        return self._described[1]

    async def api_figures(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.events.encoded))

    async def api_events(self, request: Request) -> Response:
        return EventStream(self.streams, self.events.stream())

    async def api_messages(self, request: Request) -> Response:
        return EventStream(self.streams, tap(self.figures, self.shown, request.query_params.get("pattern") or ">"))

    async def api_path(self, request: Request) -> Response:
        if not self.dry_run:
            raise HTTPException(403, "dry runs are switched off here: app(bus, dry_run=False)")
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(415, "a message is sent as JSON: Content-Type: application/json")
        return _json(await run_in_threadpool(self.paths.find, _table(await _body(request))))

    async def api_dead(self, request: Request) -> Response:
        wanted = dict(request.query_params)
        return _json(await self._read(letters.listed, self.bus, wanted))

    async def api_letter(self, request: Request) -> Response:
        return _json(await self._read(letters.one, self.bus, self.shown, request.path_params["id"]))

    async def api_conversation(self, request: Request) -> Response:
        id = request.path_params["id"]

        def look() -> dict[str, Any]:
            found = [one for one in self.figures.sampler.recent(0) if id in (one.message.correlation_id, one.message.id)]
            names = self.shown.names()
            found = found[-CONVERSATION:]
            return {"messages": [self.shown.message(one.message, one.number, one.subscriptions, names=names) for one in found]}

        return _json(await self._read(look))

    async def _read(self, call: Callable[..., Any], *arguments: Any) -> Any:
        async with self._readers:
            return await run_in_threadpool(call, *arguments)

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint for those who may look."""

        async def checked(request: Request) -> Response:
            self.access.check(request)
            return await endpoint(request)

        return checked


async def _body(request: Request) -> bytes:
    """
    Raises:
        HTTPException: 413: it is too large; 408, 400: it has not come.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST:
                    raise HTTPException(413, f"a request has at most {LARGEST:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the request has not come within {PATIENCE:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client is gone") from None
    return bytes(body)


def _table(body: bytes) -> dict[str, Any]:
    """
    Raises:
        HTTPException: 400: it is not a table in JSON.
    """
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the request is not JSON: {short(str(error), 200)}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, 'the request is a table, as in {"subject": "orders.created"}')
    return found


def _json(value: Any, status: int = 200) -> Response:
    return Response(value if isinstance(value, bytes) else msgspec.json.encode(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)
    response = _json({"error": found.detail}, found.status_code)
    response.headers.update(found.headers or {})
    return response


async def _bus_error(request: Request, error: Exception) -> Response:
    """What was asked for does not exist or cannot be, as a pattern; or a store is away."""
    status = 404 if isinstance(error, DeadLetterError) else 503 if isinstance(error, TransportError) else 400
    return _json({"error": short(reason_of(error), WHOLE)}, status)


async def _failure(request: Request, error: Exception) -> Response:
    """An error of the page itself. The server that runs it logs the traceback."""
    return _json({"error": f"the page has failed: {short(text_of(error), 1000)}"}, 500)
