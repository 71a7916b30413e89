"""The stage: what the contract needs in order to test a transport."""

from typing import Any, Literal, Protocol, runtime_checkable

from pipebus.bus.bus import Bus, engine_of
from pipebus.transports.base import Capabilities


class Stage(Protocol):
    """
    One transport with a store of its own, empty at the beginning of each test.

    Args:
        capabilities: What the transport promises.
        patience: Seconds to wait for what must happen, before a promise counts as broken.
        many: How many messages a test sends that needs many (10 000 if each is cheap).
        refused: What the transport has refused to promise, as it should, since the stage was made.
    """

    refused: list[dict[str, Any]]

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def patience(self) -> float: ...
    @property
    def many(self) -> int: ...

    def open(self, name: str = "contract", **options: Any) -> Bus:
        """
        Make a bus and do not start it. All buses of a stage share its store, if the transport has one that can be shared.

        Args:
            name: The name of the bus.
            options: Arguments of `Bus`.
        """

    def wipe(self) -> None:
        """Stop the buses that are still running, and delete the store."""


@runtime_checkable
class LosesLeases(Protocol):
    """A stage that can end leases."""

    def lose_leases(self) -> None:
        """End the lease of every delivery that is not settled, so that it is delivered again."""


@runtime_checkable
class OpensWithLease(Protocol):
    """A stage whose transport ends the lease of a delivery that is neither settled nor renewed for some time."""

    def open_with_lease(self, seconds: float) -> Bus:
        """`open` with a lease of this many seconds."""


@runtime_checkable
class Crashes(Protocol):
    """A stage that can crash its buses."""

    def crash(self) -> None:
        """
        Do what SIGKILL does to a process with the open buses: from now on they change nothing in the store. The tests do not
        use them again; the next `open` finds what a crash leaves.
        """


@runtime_checkable
class HasChildren(Protocol):
    """A stage whose store other processes can open."""

    def child_url(self) -> str:
        """The URL with which another process opens the store."""


@runtime_checkable
class Injects(Protocol):
    """A stage that can put any bytes on the wire."""

    def inject(self, raw: bytes, subject: str) -> None:
        """Publish bytes to `subject`, as another program would; a bus of the stage is running."""


@runtime_checkable
class Connects(Protocol):
    """A stage in whose store an application may have transactions of its own."""

    def connect(self) -> Any:
        """The application's connection to the store. It has `commit`, `rollback` and `close`."""

    def connect_elsewhere(self) -> Any:
        """Its connection to a store of another bus."""


@runtime_checkable
class Swaps(Protocol):
    """A stage that can take away the place in which a store keeps its messages."""

    def swap(self, how: Literal["removed", "replaced"]) -> None:
        """Remove the file or stream that running buses use; "replaced": and put an empty one in its place."""


@runtime_checkable
class RemovesGroups(Protocol):
    """A stage that can delete what serves a subscription in the store."""

    def remove_group(self, name: str) -> None:
        """Delete the consumer or row of a subscription that a running bus serves, as another program would."""


@runtime_checkable
class LosesMessages(Protocol):
    """A stage that can lose a message."""

    def lose_message(self, name: str) -> None:
        """Delete from the store a message that waits for this subscription."""


@runtime_checkable
class CountsRows(Protocol):
    """
    A stage that can look into the store.

    Args:
        backlog: How many messages that nobody handles a test puts into it.
    """

    backlog: int

    def open_with_window(self, seconds: float) -> Bus:
        """`open` with this window for ids, where messages that nobody waits for are kept no longer."""

    def stored(self) -> tuple[int, int]:
        """How many messages the store has, and how many bytes it needs."""


class UrlStage:
    """
    A stage for a transport that a URL names. Derive from it for a stage that can do more.

    Args:
        url: The URL of all its buses, so they share a store.
        patience, many: As for `Stage`.
    """

    def __init__(self, url: Any, *, patience: float = 10.0, many: int = 10_000) -> None:
        self.url = url
        self.patience = patience
        self.many = many
        self.refused: list[dict[str, Any]] = []
        self.buses: list[Bus] = []
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            self._capabilities = engine_of(Bus(self.url)).transport.capabilities
        return self._capabilities

    def open(self, name: str = "contract", **options: Any) -> Bus:
        bus = Bus(self.url, name=name, **options)
        self.buses.append(bus)
        return bus

    def wipe(self) -> None:
        """Stop the buses; the fixture deletes the store (in a temporary directory)."""
        for bus in self.buses:
            bus.stop(timeout=1.0, drain=False)
        self.buses.clear()
