"""What commands do with a transport that keeps messages or dead letters outside this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli import CommandError
from pipebus.errors import TransportError
from pipebus.publishing.arrival import patterns_of

if TYPE_CHECKING:
    from pipebus.transports.sqlite.transport import SqliteTransport


def file_of(bus: Bus) -> SqliteTransport | None:
    """Return the transport of a bus if it keeps messages in a SQLite file."""
    if engine_of(bus).transport.local:
        return None  # without importing the SQLite transport
    from pipebus.transports.sqlite.transport import SqliteTransport

    return engine_of(bus).transport if isinstance(engine_of(bus).transport, SqliteTransport) else None


def keeps_letters(bus: Bus) -> bool:
    """True if the transport keeps dead letters, those of other programs included."""
    return engine_of(bus).transport.dead_letters is not None


def leave_alone(bus: Bus) -> None:
    """Remove the subscriptions and schedules of a bus, which another process runs."""
    for schedule in list(engine_of(bus).schedules):
        schedule.stop()
    for one in bus.subscriptions:
        engine_of(bus).end(one, "unsubscribed")


def only_publish(bus: Bus) -> None:
    """Announce the subscriptions to the transport, but leave them and the schedules to the process that runs the bus."""
    found = [(one.name, patterns_of(one), one.plan.deliver) for one in bus.subscriptions if one.durable]
    leave_alone(bus)
    engine_of(bus).transport.announce(found)


def next_due(store: SqliteTransport, names: list[str]) -> float:
    """Return when a delayed message of these subscriptions is due, in the file's time; infinity if there is none."""
    from pipebus.transports.sql.subscriptions import next_due

    return store.file.read(lambda connection: next_due(connection, names))


def check_file(store: SqliteTransport, *, new: bool = False) -> bool:
    """
    Check the file before the transport opens it, which could create files; with `new` it may be missing or empty. Returns True
    if the transport will make it.
    """
    from pipebus.transports.sqlite.glance import look_into

    path = store.options.path
    if new and not os.path.isdir(os.path.dirname(path)):
        raise CommandError(f"{path}: there is no folder {os.path.dirname(path)}; make it, or correct the path")
    if new and (not os.path.exists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0)):
        return True
    try:
        look_into(path, older=True).close()
    except TransportError as error:
        raise CommandError(str(error)) from None
    return False
