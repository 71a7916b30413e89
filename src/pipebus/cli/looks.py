"""Where `pipebus top` gets its figures from: the server of a running bus, or a store."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import ValidationError, to_builtins

from pipebus.bus.bus import engine_of
from pipebus.cli import MISTAKES, CommandError
from pipebus.cli.arguments import TOKEN
from pipebus.cli.figures import Figures, Rates, Row, figures_of
from pipebus.cli.show import printable
from pipebus.cli.stores import inspected
from pipebus.cli.targets import open_bus, shown
from pipebus.errors import PipebusError
from pipebus.inputs.records import strict_json
from pipebus.mailbox import endings

EVERY: Final = 1.0
"""Seconds between two looks."""
PATIENCE: Final = 3.0
"""Seconds to wait for the server's answer."""
LARGEST: Final = 64 * 2**20
"""Bytes of an answer."""


class Away(Exception):
    """There are no figures now, but there may be later. The text says why."""


class Server:
    """
    The figures of a running bus: `pipebus run --http`, or a `pipebus.web.app` in another server.

    It uses no proxy and follows no redirect, so that nobody else gets the token.
    """

    def __init__(self, url: str) -> None:
        self.about = shown(url)
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise CommandError(f"{self.about} is not a URL: {error}") from None
        if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
            raise CommandError(
                f"{self.about}: the URL of a running bus has a host and perhaps a path, as in http://127.0.0.1:9000; a token "
                f"belongs in the environment variable {TOKEN}"
            )
        self._host = parts.hostname
        self._path = f"{parts.path.rstrip('/')}/api/figures"
        self._encrypted = parts.scheme == "https"
        self._token = os.environ.get(TOKEN, "").strip()
        if not (self._token.isprintable() and self._path.isascii() and self._path.isprintable()):
            raise CommandError(f"{self.about}: the URL is ASCII, and {TOKEN} is one line; correct what is not")

    def __call__(self) -> dict[str, Any]:
        """
        Look once.

        Raises:
            Away: the server does not answer now. CommandError: it refuses, or it is not the server of a bus.
        """
        from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead

        kind = HTTPSConnection if self._encrypted else HTTPConnection
        headers = {"Accept": b"application/json", "Connection": b"close"}
        if self._token:
            headers["Authorization"] = b"Bearer " + self._token.encode()
        try:
            with closing(kind(self._host, self._port, timeout=PATIENCE)) as connection:
                connection.request("GET", self._path, headers=headers)
                answer = connection.getresponse()
                body = answer.read(LARGEST)
        except (OSError, IncompleteRead) as error:
            raise Away(f"{self.about} does not answer ({printable(_short(error))})") from None
        except (HTTPException, ValueError) as error:
            raise self._other(f"the answer is not HTTP: {type(error).__name__}") from None
        if answer.status != 200:
            raise self._refusal(answer.status, _said(body))
        try:
            found: dict[str, Any] = strict_json(body.decode())
            figures_of(found)
        except (ValueError, RecursionError, ValidationError):
            raise self._other("api/figures is there, but it is not the figures of a bus") from None
        return found

    def _refusal(self, status: int, said: str) -> Exception:
        if status >= 500 or status == 429:
            return Away(f"{self.about} answers {status}{said}")
        if status == 401 and self._token:
            return CommandError(f"{self.about} does not take the token in the environment variable {TOKEN}")
        if status == 401:
            return CommandError(f"{self.about} asks for its token: set the environment variable {TOKEN} to it")
        if status == 403:
            return CommandError(f"{self.about} refuses{said}")
        return self._other(f"api/figures is answered with {status}")

    def _other(self, found: str) -> CommandError:
        return CommandError(
            f"{self.about} is not the server of a bus ({found}); name the address that `pipebus run --http` serves"
        )


def _short(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _said(body: bytes) -> str:
    """The error text in an answer."""
    try:
        return f": {printable(str(strict_json(body.decode())['error']))[:200]}"
    except (ValueError, RecursionError, TypeError, KeyError):
        return ""


class Store:
    """
    What a store knows about its subscriptions, whether a program serves them or not. Nothing is made or changed.

    Rates come from two looks, so the first one has none.
    """

    def __init__(self, target: str, allow: list[str]) -> None:
        self.about = shown(target)
        bus = open_bus(target, allow, url=True)
        self._transport = engine_of(bus).transport
        if self._transport.local:
            raise CommandError(
                f"{self.about}: a bus in memory is seen by its own program only: start that with `pipebus run --http "
                "127.0.0.1:9000`, and name http://127.0.0.1:9000 here"
            )
        inspected(bus)
        self._before: dict[str, tuple[float, int, int]] = {}

    def __call__(self) -> dict[str, Any]:
        """
        Look once.

        Raises:
            Away: the store cannot be read now.
        """
        try:
            rows = [self._row(one) for one in self._transport.kept()]
        except PipebusError as error:
            if isinstance(error, MISTAKES):
                raise
            raise Away(str(error)) from None
        rates = Rates(accepted=_sum(row.entering for row in rows), handled=_sum(row.leaving for row in rows))
        found: dict[str, Any] = to_builtins(Figures(time.time(), rows, rates=rates))
        return found

    def _row(self, one: Any) -> Row:
        had = self._transport.figures(one.name) or {}
        entering = leaving = None
        if had:
            now, accepted, ended = time.monotonic(), had["accepted"], endings.ended(had)
            then, earlier, done = self._before.get(one.name, (now, accepted, ended))
            if now > then:
                entering = max(0.0, accepted - earlier) / (now - then)
                leaving = max(0.0, ended - done) / (now - then)
            self._before[one.name] = now, accepted, ended
        return Row(
            one.name, one.pending, one.in_flight, one.dead, oldest=had.get("oldest"), paused=one.paused,
            entering=entering, leaving=leaving,
        )  # fmt: skip


def _sum(rates: Any) -> float | None:
    known = [one for one in rates if one is not None]
    return sum(known) if known else None
