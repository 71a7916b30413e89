"""The schedules of one bus: what `bus.every` and `bus.cron` register and `schedule.stop()` removes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipebus.bus.lifecycle import Lifecycle
from pipebus.delivery.planning import Planner
from pipebus.errors import MessageError, PipelineError, SubjectError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, shown
from pipebus.mailbox.rare import Rules
from pipebus.message.fields import check_fields, ttl_of
from pipebus.message.headers import check_headers
from pipebus.message.subject import Address
from pipebus.pipeline import callables, places
from pipebus.publishing.options import check_options, delay_of, is_strict
from pipebus.publishing.schedule import Schedule, Ticking
from pipebus.publishing.sender import Sender
from pipebus.publishing.timetable import Cron, Intervals, Timetable
from pipebus.publishing.turns import Turns
from pipebus.running.pool import Pool
from pipebus.values.quantities import seconds
from pipebus.waiting.locks import Locks

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


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

    def every(self, place: places.Place, interval: float | str, subject: Any, body: Any = None, **options: Any) -> Schedule:
        """
        `Bus.every`.

        Args:
            place: What errors and `explain` name as the place of registration.
        """
        return self._add(
            "every", place, interval, subject, body, lambda: Intervals(seconds(interval, "every", above=0.0)), options
        )

    def cron(
        self, place: places.Place, expression: str, subject: Any, body: Any = None, *, timezone: str = "UTC", **options: Any
    ) -> Schedule:
        """`Bus.cron`; `place` as for `every`."""
        return self._add("cron", place, expression, subject, body, lambda: Cron(expression, timezone), options)

    def _add(
        self, call: str, place: places.Place, given: Any, subject: Any, body: Any, timetable: Callable[[], Timetable],
        options: dict[str, Any],
    ) -> Schedule:  # fmt: skip
        self.lifecycle.check_process()
        for one in (given, subject):
            if callable(one) and not isinstance(one, Address):
                raise PipelineError(
                    f"{call} is given the function {callables.name_of(one)}, but it publishes a message; subscribe it: "
                    '@bus.on("headlines.fetch"), and bus.every(60.0, "headlines.fetch")'
                )
        if subject is None:
            raise SubjectError(
                f'{call} publishes a message, and is given no subject; write bus.{call}({shown(given)}, "headlines.fetch"), '
                'and @bus.on("headlines.fetch") above the function'
            )
        self.locks.check()
        when = timetable()
        name, now, missed = plain_text(options.pop("name", None)), options.pop("now", False), options.pop("missed", "skip")
        turns = self._turns(call, name, now, missed)
        subject = self.sender.composer.address(subject)
        self._check_envelope(call, subject, options)
        rules = Rules(
            **self.planner.machinery(),
            # A slot of a named schedule may wait until the one before it is published; of several, the last one does.
            size=1 if turns is None else 2,
            overflow="drop_newest" if turns is None else "drop_oldest",
            enlist=self.pool.ready.append,
            call=self.pool.call,
        )
        schedule = Schedule(
            self.hub, when, subject, body, options, rules, place, given=name, now=now, missed=missed, turns=turns
        )
        with self.lifecycle.lock:
            if name is not None and (other := next((one for one in self._all if one.given == name), None)) is not None:
                raise PipelineError(
                    f'{call}: name="{name}" is the schedule of {other.place}; each needs a name of its own, since the store '
                    "publishes one message at a time under each name"
                )
            self._all[schedule] = None
            if self.lifecycle.state == "started":
                schedule.begin()
        return schedule

    def _turns(self, call: str, name: Any, now: Any, missed: Any) -> Turns | None:
        """Check the options of a named schedule."""
        if not isinstance(now, bool):
            raise PipelineError(f"{call}: now={shown(now)}; it is True or False")
        if missed not in ("skip", "once"):
            raise PipelineError(f'{call}: missed={shown(missed)}; it is "skip" or "once"')
        if name is None:
            if missed == "once":
                raise PipelineError(f'{call}: missed="once" needs a name, under which the last message is remembered')
            return None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PipelineError(f'{call}: name={shown(name)}; it is letters, digits, and any of . _ -, as in "headlines"')
        transport = self.sender.transport
        if not (transport.local or transport.capabilities.schedules):
            raise UnsupportedCapability(
                f'{call}: {self.sender.url} keeps no schedules, so name="{name}" would not help: each process would publish; '
                "leave the name out"
            )
        return Turns(transport, now=now, missed=missed, warn=self.sender.ledger.warn)

    def _check_envelope(self, call: str, subject: Any, envelope: dict[str, Any]) -> None:
        check_options(envelope, call, ("name", "now", "missed"))
        if envelope.get("id") is not None:
            raise MessageError(f"{call}: id={shown(envelope['id'])}, but each message has an id of its own; leave it out")
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

    def forget(self, schedule: Schedule) -> None:
        """`Schedule.stop`."""
        self.locks.check()
        with self.lifecycle.lock:
            if self._all.pop(schedule, schedule) is None:
                schedule.end()
