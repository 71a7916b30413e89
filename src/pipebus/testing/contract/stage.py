"""
The stage: what the contract asks of whoever wants a transport tested.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from pipebus.bus.bus import Bus
from pipebus.transports.base import Capabilities


class Stage(Protocol):
    """
    One transport with a store of its own, empty at the beginning of each test.

    Args:
        capabilities: What the transport promises.
        patience: Seconds to wait for what must come, before a promise counts as broken.
        many: Messages in the tests that want many (10 000 where each is cheap).
    """

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def patience(self) -> float: ...
    @property
    def many(self) -> int: ...

    def open(self, name: str = "contract", **options: Any) -> Bus:
        """
        A bus, not started. All buses of a stage share its store if the transport has one that they can share.

        Args:
            name: The bus's.
            options: For `Bus`.
        """
        ...

    def wipe(self) -> None:
        """Stop what still runs, and forget the store."""
        ...


@runtime_checkable
class LosesLeases(Protocol):
    """A stage that can end leases."""

    def lose_leases(self) -> None:
        """End the lease of whatever has been delivered and not settled: it is delivered again."""
        ...


@runtime_checkable
class OpensWithLease(Protocol):
    """A stage whose transport lets a delivery be lost when nobody has settled or renewed it for a time."""

    def open_with_lease(self, seconds: float) -> Bus:
        """`open` with a lease of so many seconds."""
        ...


@runtime_checkable
class Crashes(Protocol):
    """A stage that can kill."""

    def crash(self) -> None:
        """
        What SIGKILL does to a process that holds the open buses: nothing of them reaches the store from now on. What was
        opened before is not used again; the next `open` finds what a crash leaves.
        """
        ...


@runtime_checkable
class HasChildren(Protocol):
    """A stage whose store other processes can open."""

    def child_url(self) -> str:
        """The URL that opens it in another process."""
        ...


@runtime_checkable
class Injects(Protocol):
    """A stage that can put on the wire what no bus would."""

    def inject(self, raw: bytes, subject: str) -> None:
        """Bytes, as if another program had published them to `subject`; a bus of the stage is started."""
        ...


class UrlStage:
    """
    A stage for a transport that a URL names; to be derived from where a stage can do more.

    Args:
        url: All its buses are opened with it, so they share what it names.
        many: See `Stage`.
    """

    def __init__(self, url: Any, *, patience: float = 10.0, many: int = 10_000) -> None:
        self.url = url
        self.patience = patience
        self.many = many
        self.buses: list[Bus] = []
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            self._capabilities = Bus(self.url).transport.capabilities
        return self._capabilities

    def open(self, name: str = "contract", **options: Any) -> Bus:
        bus = Bus(self.url, name=name, **options)
        self.buses.append(bus)
        return bus

    def wipe(self) -> None:
        """Stops its buses; the store's place (a temporary directory) is the fixture's."""
        for bus in self.buses:
            bus.stop(timeout=1.0, drain=False)
        self.buses.clear()
