"""
Which subscriptions a message reaches: the stream's consumers, of all programs, as the server reports them.

This is exact for what this bus has bound, and a moment late for what other programs do. Plain NATS does not tell who listens
elsewhere without a name.
"""

from __future__ import annotations

from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from pipebus.errors import PipebusError, SubjectError
from pipebus.message.patterns import Pattern
from pipebus.transports.nats.link import Link

KNOWN: Final = 10_000
"""Most subjects whose count is remembered."""


class Directory:
    """
    Args:
        stream: The stream whose consumers these are.
        replays: How the subject begins that each consumer has for itself.
    """

    def __init__(self, link: Link, stream: str, replays: str) -> None:
        self._link, self._stream, self._replays = link, stream, replays
        self._there: dict[str, tuple[Pattern, ...]] = {}  # consumers, by name
        self._mine: dict[str, tuple[Pattern, ...]] = {}  # those of them that this bus has bound
        self._here: dict[str, tuple[Pattern, ...]] = {}  # listeners of this bus
        self._counts: dict[tuple[str, bool], int] = {}
        self._reading = self._again = False

    async def connected(self, client: Client) -> None:
        for what in ("CREATED", "DELETED"):
            await client.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.{what}.{self._stream}.*", cb=self._told)
        await self._read(client)

    async def _told(self, message: Msg) -> None:
        if self._reading:
            self._again = True
            return
        client = self._link.client
        if client is not None:
            await self._read(client)

    async def _read(self, client: Client) -> None:
        self._reading = True
        try:
            while True:
                self._again = False
                there: dict[str, tuple[Pattern, ...]] = {}
                total = 1
                while len(there) < total:
                    body = {"offset": len(there)}
                    found = await self._link.api(f"CONSUMER.LIST.{self._stream}", body, client)
                    total = found["total"]
                    page = found.get("consumers") or []
                    there |= {one["name"]: self._filters(one["config"]) for one in page}
                    if not page:
                        break
                if not self._again:
                    break
            self._there = {**there, **self._mine}  # one that was made meanwhile may be missing
            self._counts = {}
        except PipebusError:
            pass  # the connection is lost; on the next one it is read again
        finally:
            self._reading = False

    def _filters(self, config: dict[str, Any]) -> tuple[Pattern, ...]:
        texts = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        found = []
        for text in texts:
            if not text.startswith(self._replays):
                try:
                    found.append(Pattern(text))
                except SubjectError:
                    continue
        return tuple(found)

    def bound(self, name: str, filters: list[str], durable: bool) -> None:
        patterns = tuple(Pattern(one) for one in filters)
        if durable:
            self._mine[name] = patterns
            self._there = {**self._there, name: patterns}
        else:
            self._here = {**self._here, name: patterns}
        self._counts = {}

    def removed(self, name: str) -> None:
        """A consumer was removed."""
        self._mine.pop(name, None)
        self._there = {one: patterns for one, patterns in self._there.items() if one != name}
        self._counts = {}

    def unbound(self, name: str) -> None:
        """A listener has ended."""
        self._here = {one: patterns for one, patterns in self._here.items() if one != name}
        self._counts = {}

    def count(self, subject: str, named: bool = False) -> int:
        """
        How many subscriptions a message on one of the server's subjects reaches. From any thread.

        Args:
            named: Count consumers only.
        """
        counts = self._counts
        found = counts.get((subject, named))
        if found is None:
            every = (*self._there.values(), *(() if named else self._here.values()))
            found = sum(any(one.matches(subject) for one in patterns) for patterns in every)
            if len(counts) < KNOWN:
                counts[subject, named] = found
        return found
