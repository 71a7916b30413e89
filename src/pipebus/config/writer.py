"""A bus becomes a file: what `reader` makes of it is described like this bus, places apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.origins import origin_of
from pipebus.config import catalogue
from pipebus.config.document import DEEPEST
from pipebus.config.imports import name_of
from pipebus.config.kinds import Kind
from pipebus.config.problems import Problems, Unexportable
from pipebus.config.vocabulary import BUS, EVERY, MAILBOX, SUBSCRIPTION, TEST, VERSION
from pipebus.errors import PipebusError
from pipebus.message.subject import Address
from pipebus.pipeline.callables import name_of as name_of_filter
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import Fork, When
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.routes import walk
from pipebus.pipeline.step import Step

Table = dict[str, Any]

WIDTH = 100
"""Characters of a list in one line."""


def document(bus: Bus) -> Table:
    """
    The data of a file.

    Raises:
        ConfigError: what no file can hold, each part by name.
    """
    return Writer(bus).document()


class Writer:
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.problems = Problems(repr(bus))
        self.instances: dict[int, str] = {}  # of filters that need a name: id -> name
        self.filters: dict[str, Table] = {}
        # In the order of the program's lines, which is that of a file's; those of one line by name.
        self.subscriptions = sorted(bus.subscriptions, key=lambda one: (one.place, one.name))

    def document(self) -> Table:
        bus = self.bus
        self._name_instances()
        found: Table = {"version": VERSION, "bus": self._bus()}
        pipelines = [self._pipeline(node, "publish") for node in engine_of(bus).router.nodes]
        pipelines += [self._pipeline(node, "delivery") for node in engine_of(bus).delivery_nodes]
        subscriptions = [self._subscription(one) for one in self.subscriptions if self._has_name(one)]
        every = [self._every(one) for one in list(engine_of(bus).schedules)]
        self.problems.check()
        found["filters"] = self.filters
        found["pipelines"] = _merged(pipelines)
        found["subscriptions"] = subscriptions
        found["every"] = every
        if _depth(found) - 1 > DEEPEST:
            self.problems.add(None, "", f"it is nested in more than {DEEPEST} levels, and no file may be")
            self.problems.check()
        return {key: value for key, value in found.items() if value not in ({}, [])}

    def _trying(self, where: str, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except Unexportable as error:
            self.problems.add(None, where, str(error))
            return None

    # --- the bus -------------------------------------------------------------------------------------------------------

    def _bus(self) -> Table:
        bus = self.bus
        found: Table = {}
        for key, value in {"transport": bus.url, **engine_of(bus).options()}.items():
            one = BUS[key]
            if key in engine_of(bus).from_file.bus:
                found[key] = engine_of(bus).from_file.bus[key]
            elif value is not None and value not in (one.default, {}):
                found[key] = self._trying("bus", lambda: _escaped(one.kind.write(value)))  # noqa: B023 (called at once)
        return found

    # --- filters -------------------------------------------------------------------------------------------------------

    def _name_instances(self) -> None:
        """Filters with a name of their own, and those that stand in several places."""
        chains: list[tuple[Node, ...]] = [engine_of(self.bus).router.nodes, engine_of(self.bus).delivery_nodes]
        chains += [one.plan.nodes for one in self.subscriptions]
        seen: dict[int, Step] = {}  # where each stands first
        named: dict[int, Step] = {}
        for step in (one for chain in chains for one in self._walk(chain)):
            if isinstance(origin_of(step).get(""), str) or step.shape == "actor" or not _is_made(step.filter):
                continue
            if id(step.filter) in seen or step.name != _own_name(step):
                named[id(step.filter)] = step
            seen.setdefault(id(step.filter), step)
        taken = {*catalogue.names(), "python", *self._handed_in(chains)}
        for identity, step in seen.items():
            if identity not in named:
                continue
            key, number = step.name, 1
            while key in taken or "${" in key:
                number += 1
                key = f"{step.name.replace('${', '')}-{number}"
            taken.add(key)
            self.instances[identity] = key
            where = f"filter {step.name} ({step.where})"
            self.filters[key] = self._trying(where, lambda: self._made(step, key)) or {}  # noqa: B023

    def _walk(self, chain: Iterable[Node]) -> Iterator[Step]:
        """The filters that are written in place; not those of chains that the program hands in."""
        for node in chain:
            if isinstance(node, Step):
                yield node
            elif "" not in origin_of(node):
                yield from self._walk(node.nodes)

    @staticmethod
    def _handed_in(chains: Iterable[tuple[Node, ...]]) -> list[str]:
        return [origin_of(one)[""] for chain in chains for one in walk(chain) if isinstance(origin_of(one).get(""), str)]

    def _made(self, step: Step, key: str | None = None) -> Table:
        """
        The table of a filter that was made of a class with settings.

        Args:
            key: Of the table, if it has one; the filter is called by it, if nothing else is said.
        """
        filter = step.filter
        if isinstance(origin_of(step).get(""), dict):
            return self._called(dict(origin_of(step)[""]), step, key)
        cls: Any = type(filter)
        use = catalogue.use_of(cls)
        table: Table = {"use": use} if use is not None else {"use": "python", "target": name_of(cls)}
        if not dataclasses.is_dataclass(filter):
            if getattr(filter, "__dict__", {}).keys() - {"name"} or getattr(cls, "__slots__", ()):
                raise Unexportable(f"{cls.__name__} is no dataclass, so nobody can tell its settings; make it one")
            return self._called(table, step, key)
        settings = catalogue.settings_of(cls)
        for word in table:
            if word in settings:
                raise Unexportable(f'its setting "{word}" cannot be told from the "{word}" of the file; give it another name')
        for name, one in settings.items():
            value = getattr(filter, name)
            if name in origin_of(step):
                table[name] = origin_of(step)[name]
            elif one.required or not _same(value, one.default):
                if value is None:
                    raise Unexportable(f"{name} is None, which a file can only say by leaving it out")
                table[name] = _escaped(one.kind.write(value))
        return self._called(table, step, key, "name" in settings)

    @staticmethod
    def _called(table: Table, step: Step, key: str | None, has_name: bool = False) -> Table:
        """With the name that it goes by, if a file has to say it."""
        said = origin_of(step).get("name") or (table["name"].replace("$${", "${") if "name" in table else "")
        if "name" in origin_of(step) or step.name == (said or key or _own_name(step)):
            return table
        if has_name:
            raise Unexportable(f"it is called {step.name}, and its setting `name` says otherwise")
        table["name"] = _escaped(step.name)
        return table

    def _entry(self, node: Node) -> Any:
        if isinstance(node, Step):
            return self._trying(f"filter {node.name} ({node.where})", lambda: self._step(node))
        if "" in origin_of(node):
            return origin_of(node)[""]
        inner = [self._entry(one) for one in node.nodes]
        if isinstance(node, Fork):
            return {"when" if isinstance(node, When) else "branch": self._test(node), "filters": inner}
        on_error = getattr(node, "on_error", None)
        return {"filters": inner} | ({} if on_error is None else {"on_error": on_error})

    def _step(self, step: Step) -> Any:
        if isinstance(origin_of(step).get(""), str):
            return origin_of(step)[""]
        if step.shape == "actor":
            raise Unexportable("it is an actor, an object with a state of its own; hand it in: from_config(filters={…})")
        if not _is_made(step.filter):
            return self._called({"use": "python", "target": name_of(step.filter)}, step, None)
        if id(step.filter) in self.instances:
            return self.instances[id(step.filter)]
        table = self._made(step)
        return table["use"] if table.keys() == {"use"} and table["use"] != "python" else table

    def _test(self, node: Fork) -> Any:
        test = node.test
        if "" in origin_of(test):
            return origin_of(test)[""]
        if test.pattern is not None:
            return _escaped(test.pattern.text)
        return self._trying(f"{node.name} (at {node.place})", lambda: _escaped(TEST.write(test.predicate)))

    def _pipeline(self, node: Node, at: str) -> Table:
        """One top-level node as `[[pipelines]]`."""
        table: Table = {} if at == "publish" else {"at": at}
        if isinstance(origin_of(node).get(""), str):
            return table | {"filters": [origin_of(node)[""]]}
        if isinstance(node, Pipeline) and node.on_error is not None:
            table["on_error"] = node.on_error
            if len(node.nodes) != 1 or not isinstance(node.nodes[0], When) or "" in origin_of(node.nodes[0]):
                return table | {"filters": [self._entry(one) for one in node.nodes]}
            node = node.nodes[0]
        if isinstance(node, When):
            return table | {"match": self._test(node), "filters": [self._entry(one) for one in node.nodes]}
        return table | {"filters": [self._entry(node)]}

    # --- subscriptions and schedules -----------------------------------------------------------------------------------

    def _has_name(self, one: Any) -> bool:
        if getattr(one, "actor", None) is not None and callable(getattr(one.actor, "filter", None)):
            return False  # a filter actor's own mailbox: the filter tells
        subjects = one.subjects if isinstance(one.subjects, tuple) else (one.subjects,)
        objects = [subject for subject in subjects if isinstance(subject, Address)]
        if getattr(one, "actor", None) is not None or objects:
            self.problems.add(None, f"subscription {one.name} (at {one.place})", "it is for an object, not for a named subject")
            return False
        if not one.named:
            self.problems.add(None, f"subscription {one.name} (at {one.place})", "it has no name; give it one: name=…")
            return False
        return True

    def _subscription(self, one: Any) -> Table:
        plan, rules = one.plan, one.plan.rules
        told = engine_of(self.bus).from_file.subscriptions.get(one.name, {})
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
            values["handler"] = None
            values["run"] = plan.run_on if plan.run_on != ("loop" if plan.bound.is_async else "pool") else None
        table: Table = {}
        for key, setting in SUBSCRIPTION.items():
            if key in told:
                table[key] = told[key]
            elif key == "handler" and plan.bound is not None:
                table[key] = self._trying(where, lambda: name_of(plan.bound.handler))
            elif values.get(key) is not None and (setting.required or values[key] != setting.default):
                value = values[key]
                table[key] = self._trying(where, lambda: _escaped(setting.kind.write(value)))  # noqa: B023
        mailbox = {"size": rules.size, "overflow": rules.overflow, "timeout": rules.timeout}
        mailbox = {
            key: self._trying(where, lambda: MAILBOX[key].kind.write(value))  # noqa: B023
            for key, value in mailbox.items()
            if value != MAILBOX[key].default
        }
        if "mailbox" in told or mailbox:
            table["mailbox"] = told.get("mailbox", mailbox["size"] if mailbox.keys() == {"size"} else mailbox)
        if plan.nodes:
            table["filters"] = [self._entry(node) for node in plan.nodes]
        return table

    def _every(self, schedule: Any) -> Table:
        values = {"interval": schedule.interval, "subject": schedule.subject, "body": schedule.body}
        values |= {**schedule.envelope, **origin_of(schedule)}
        where = f"{schedule.name} (at {schedule.place})"
        table: Table = {}
        for key, value in ((key, values[key]) for key in EVERY if key in values):
            if key in origin_of(schedule):
                table[key] = origin_of(schedule)[key]
            elif value is not None and (EVERY[key].required or value != EVERY[key].default):
                kind: Kind = EVERY[key].kind
                table[key] = self._trying(where, lambda: _escaped(kind.write(value)))  # noqa: B023
        return table


def written(data: Table) -> str:
    """
    The text of a file: a header for each table of the first level and each table in a list there, all else in one line each.

    Raises:
        PipebusError: tomlkit is not installed.
    """
    try:
        import tomlkit
    except ImportError:
        raise PipebusError("writing a file needs the package tomlkit: pip install 'pipebus[config]'") from None

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            table = tomlkit.inline_table()
            table.update({key: inline(inner) for key, inner in value.items()})
            return table
        if isinstance(value, list):
            array = tomlkit.array()
            array.extend(map(inline, value))
            return array.multiline(len(value) > 1 and len(array.as_string()) > WIDTH)
        return value

    def table_of(value: Table) -> Any:
        table = tomlkit.table()
        table.update({key: inline(inner) for key, inner in value.items()})
        return table

    document = tomlkit.document()
    for key, value in data.items():
        if key == "filters":
            outer = tomlkit.table(is_super_table=True)
            outer.update({name: table_of(inner) for name, inner in value.items()})
            document[key] = outer
        elif isinstance(value, list):
            tables = tomlkit.aot()
            tables.extend(map(table_of, value))
            document[key] = tables
        else:
            document[key] = table_of(value) if isinstance(value, dict) else value
    return tomlkit.dumps(document)


def _own_name(step: Step) -> str:
    """What a filter is called when a file has made it, and says no more."""
    if not _is_made(step.filter):
        return name_of_filter(step.filter)
    cls: Any = type(step.filter)
    name = step.filter.name if "name" in catalogue.settings_of(cls) else getattr(cls, "name", None)
    return name if isinstance(name, str) and name else cls.__name__


def _is_made(filter: Any) -> bool:
    """An object that was made of a class, and has no name of its own."""
    return not (isinstance(filter, type) or hasattr(filter, "__qualname__"))


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return bool(type(value) is type(default) or isinstance(value, (int, float))) and value == default


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _escaped(value: Any) -> Any:
    """Texts that would be interpolated are not meant to be."""
    if isinstance(value, Mapping):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _merged(pipelines: Iterable[Table]) -> list[Table]:
    """Plain filters that follow one another are one pipeline."""
    merged: list[Table] = []
    for table in pipelines:
        plain = table.keys() <= {"at", "filters"}
        before = merged[-1] if merged else {}
        if plain and before.keys() <= {"at", "filters"} and before.get("at") == table.get("at") and before:
            before["filters"] += table["filters"]
        else:
            merged.append(table)
    return merged
