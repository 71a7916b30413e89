"""A bus becomes the data of a file. Reading that file gives a bus with the same description, except for places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.origins import origin_of
from pipebus.config import vocabulary
from pipebus.config.kinds.objects import name_of
from pipebus.config.problems import Problems
from pipebus.config.reading.document import DEEPEST
from pipebus.config.settings import settings_of
from pipebus.config.wording import escaped
from pipebus.config.writing.nodes import Nodes, Table
from pipebus.message.subject import Address
from pipebus.publishing.schedule import Schedule
from pipebus.values.validation import name_of_type


def document(bus: Bus) -> Table:
    """
    Return the data of a file.

    Raises:
        ConfigError: with each part of the bus that a file cannot hold.
    """
    return Writer(bus).document()


class Writer:
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.problems = Problems(repr(bus))
        # In the order of the program's lines, as in a file; subscriptions of one line in the order in which they get messages.
        self.subscriptions = sorted(bus.subscriptions, key=lambda one: one.place)
        enclosing = engine_of(bus).registry.enclosing
        self.publish, self.delivery = (
            tuple(node for node in chain if node not in enclosing)
            for chain in (engine_of(bus).router.nodes, engine_of(bus).delivery_nodes)
        )
        chains = [self.publish, self.delivery, *(one.plan.nodes for one in self.subscriptions)]
        self.nodes = Nodes(chains, self.problems)

    def document(self) -> Table:
        schedules = list(engine_of(self.bus).schedules)
        found: Table = {
            "version": vocabulary.VERSION,
            "bus": self._bus(),
            "filters": self.nodes.filters,
            "pipelines": [
                *self.nodes.pipelines(self.publish, "publish"),
                *self.nodes.pipelines(self.delivery, "delivery"),
            ],
            "subscriptions": [self._subscription(one) for one in self.subscriptions if self._has_name(one)],
            "every": [self._schedule(one, vocabulary.Every) for one in schedules if "every" in one.timetable.facts],
            "cron": [self._schedule(one, vocabulary.Cron) for one in schedules if "cron" in one.timetable.facts],
        }
        self.problems.check()
        if _depth(found) - 1 > DEEPEST:
            self.problems.add(None, "", f"it is nested in more than {DEEPEST} levels, and no file may be")
            self.problems.check()
        return {key: value for key, value in found.items() if value not in ({}, [])}

    def _bus(self) -> Table:
        engine = engine_of(self.bus)
        options = {key: value for key, value in engine.options().items() if value != {}}
        telemetry = options.pop("telemetry", None)
        table = self._settings("bus", vocabulary.Bus, {"transport": self.bus.url, **options}, engine.from_file.bus)
        if telemetry is not None and "telemetry" not in table:
            chosen = self._settings("bus", vocabulary.Telemetry, telemetry, {})
            table["telemetry"] = {"use": telemetry["use"], **chosen} if chosen else telemetry["use"]
        return table

    def _settings(self, where: str, model: type, values: Mapping[str, Any], written: Mapping[str, Any]) -> Table:
        """
        Return the settings whose values are not the defaults.

        Args:
            values: A setting that is missing here, or whose value is None, is left out.
            written: What a file said of a setting, which is written again as it was.
        """
        table: Table = {}
        for key, one in settings_of(model).items():
            if key in written:
                table[key] = written[key]
                continue
            value = values.get(key)
            if value is not None and (one.required or value != one.default):
                table[key] = self.nodes.trying(where, lambda: escaped(one.write(value)))  # noqa: B023 (called at once)
        return table

    def _has_name(self, one: Any) -> bool:
        """Return False for what is not written as a subscription, after reporting it if it is a problem."""
        if getattr(one, "actor", None) is not None and callable(getattr(one.actor, "filter", None)):
            return False  # a filter actor's own mailbox; its filter is written, or reported
        where = f"subscription {one.name} (at {one.place})"
        subjects = one.subjects if isinstance(one.subjects, tuple) else (one.subjects,)
        if getattr(one, "actor", None) is not None or any(isinstance(subject, Address) for subject in subjects):
            self.problems.add(None, where, "it is for an object, not for a named subject")
            return False
        if not one.named:
            self.problems.add(None, where, "it has no name; give it one: name=…")
            return False
        if one.plan.reads is not None:
            text = f"it reads bodies as {name_of_type(one.plan.reads)}, and a file has no types; subscribe to the bare name"
            self.problems.add(None, where, text)
            return False
        return True

    def _subscription(self, one: Any) -> Table:
        plan, rules = one.plan, one.plan
        written = dict(engine_of(self.bus).from_file.subscriptions.get(one.name, {}))
        where = f"subscription {one.name} (at {one.place})"
        subjects = [str(pattern) for pattern in one.patterns]
        values = {
            "name": one.name,
            "subject": subjects[0] if len(subjects) == 1 else subjects,
            "workers": rules.workers,
            "attempts": plan.attempts,
            "deliver": plan.deliver,
            "to": plan.to,
        }
        if plan.bound is not None:
            values["run"] = plan.run_on if plan.run_on != ("loop" if plan.bound.is_async else "pool") else None
            if "handler" not in written:
                written["handler"] = self.nodes.trying(where, lambda: name_of(plan.bound.handler))
        table = self._settings(where, vocabulary.Subscription, values, written)
        rules_of = {"size": rules.size, "overflow": rules.overflow, "timeout": rules.timeout}
        mailbox = self._settings(where, vocabulary.Mailbox, rules_of, {})
        if "mailbox" in written or mailbox:
            table["mailbox"] = written.get("mailbox", mailbox["size"] if mailbox.keys() == {"size"} else mailbox)
        if plan.nodes:
            table["filters"] = [self.nodes.entry(node) for node in plan.nodes]
        return table

    def _schedule(self, schedule: Schedule, model: type) -> Table:
        facts = schedule.timetable.facts
        values = {
            "interval": facts.get("every"),
            "expression": facts.get("cron"),
            "timezone": facts.get("timezone"),
            "subject": schedule.subject,
            "body": schedule.body,
            "name": schedule.given,
            "now": schedule.now,
            "missed": schedule.missed,
            **schedule.envelope,
        }
        return self._settings(f"{schedule.name} (at {schedule.place})", model, values, origin_of(schedule))


def _depth(value: Any) -> int:
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
