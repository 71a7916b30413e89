"""The schedules of one bus: what `bus.every` registers and `schedule.stop()` removes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipebus.bus.lifecycle import Lifecycle
from pipebus.delivery.planning import Planner
from pipebus.errors import MessageError, PipelineError, SubjectError
from pipebus.foreign.objects import plain_text, shown
from pipebus.mailbox.rare import Rules
from pipebus.message.fields import check_fields, ttl_of
from pipebus.message.headers import check_headers
from pipebus.message.subject import Address
from pipebus.pipeline import callables, places
from pipebus.publishing.options import check_options, delay_of, is_strict
from pipebus.publishing.schedule import Schedule, Ticking
from pipebus.publishing.sender import Sender
from pipebus.running.pool import Pool
from pipebus.values import quantities
from pipebus.waiting.locks import Locks


class Schedules:
    """
    Args:
        hub: What the schedules publish through.
    """

    def __init__(
        self, hub: Ticking, *, locks: Locks, lifecycle: Lifecycle, planner: Planner, sender: Sender, pool: Pool
    ) -> None:
        self.hub = hub
        self.locks = locks
        self.lifecycle = lifecycle
        self.planner = planner
        self.sender = sender
        self.pool = pool
        self._all: dict[Schedule, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Schedule]:
        """Over a copy, which is made in one step, because threads add and remove schedules at any time."""
        return iter(list(self._all))

    def every(self, place: places.Place, interval: float | str, subject: Any, body: Any = None, **envelope: Any) -> Schedule:
        """
        `Bus.every`.

        Args:
            place: What errors and `explain` name as the place of registration.
        """
        self.lifecycle.check_process()
        for given in (interval, subject):
            if callable(given) and not isinstance(given, Address):
                raise PipelineError(
                    f"every is given the function {callables.name_of(given)}, but it publishes a message; subscribe it: "
                    '@bus.on("headlines.fetch"), and bus.every(60.0, "headlines.fetch")'
                )
        if subject is None:
            raise SubjectError(
                f'every publishes a message, and is given no subject; write bus.every({shown(interval)}, "headlines.fetch"), '
                'and @bus.on("headlines.fetch") above the function'
            )
        self.locks.check()
        period = quantities.seconds(interval, "every", above=0.0)
        check_options(envelope, "every")
        subject = plain_text(subject)
        if envelope.get("id") is not None:
            raise MessageError(f"every: id={shown(envelope['id'])}, but each message has an id of its own; leave it out")
        if envelope.get("delay"):
            envelope["delay"] = delay_of(envelope["delay"])
            self.sender.check_delay(envelope["delay"])
        if envelope.get("ttl") is not None:
            envelope["ttl"] = ttl_of(envelope["ttl"])
        is_strict(envelope.get("strict"), False)
        self.sender.check_address(subject)
        if envelope.get("headers"):
            envelope["headers"] = check_headers(envelope["headers"])
        check_fields(envelope.get("key"), None, envelope.get("reply_to"), envelope.get("correlation_id"))
        rules = Rules(
            **self.planner.machinery(), size=1, overflow="drop_newest", enlist=self.pool.ready.append, call=self.pool.call
        )
        schedule = Schedule(self.hub, period, subject, body, envelope, rules, place)
        with self.lifecycle.lock:
            self._all[schedule] = None
            if self.lifecycle.state == "started":
                schedule.begin()
        return schedule

    def forget(self, schedule: Schedule) -> None:
        """`Schedule.stop`."""
        self.locks.check()
        with self.lifecycle.lock:
            if self._all.pop(schedule, schedule) is None:
                schedule.end()
