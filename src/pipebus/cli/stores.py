"""What commands do with a transport that keeps messages or dead letters outside this process."""

from __future__ import annotations

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli import CommandError
from pipebus.errors import TransportError
from pipebus.publishing.arrival import patterns_of


def inspected(bus: Bus, *, new: bool = False) -> bool:
    """
    Check the store of a bus before it is opened, which could create files; with `new` it may be missing or empty. Returns True
    if the start will make it.
    """
    try:
        return bool(engine_of(bus).transport.inspect(new))
    except TransportError as error:
        raise CommandError(str(error)) from None


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
