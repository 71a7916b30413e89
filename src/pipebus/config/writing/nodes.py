"""Filters and chains of a bus become entries of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipebus.bus.origins import origin_of
from pipebus.config import catalogue
from pipebus.config.kinds.objects import name_of
from pipebus.config.problems import Problems, Unexportable
from pipebus.config.settings import settings_of
from pipebus.config.vocabulary import TEST
from pipebus.config.wording import escaped
from pipebus.pipeline.callables import name_of as name_of_filter
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import ALWAYS, Fork, Switch, When
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.routes import walk
from pipebus.pipeline.step import Step

Table = dict[str, Any]


class Nodes:
    """
    Writes the nodes of all chains of a bus.

    A filter that is used twice, or that has a name of its own, becomes a table in `[filters]`, to which entries refer by name.

    Args:
        chains: All chains of the bus.

    Attributes:
        filters: The tables of `[filters]`.
    """

    def __init__(self, chains: Iterable[tuple[Node, ...]], problems: Problems) -> None:
        self.problems = problems
        self.filters: dict[str, Table] = {}
        self._instances: dict[int, str] = {}  # by id of a filter: its name in `filters`
        self._name_instances(list(chains))

    def trying(self, where: str, write: Callable[[], Any]) -> Any:
        """Return what a function writes; or None, after reporting that it cannot be written."""
        try:
            return write()
        except Unexportable as error:
            self.problems.add(None, where, str(error))
            return None

    def _name_instances(self, chains: list[tuple[Node, ...]]) -> None:
        first: dict[int, Step] = {}  # by id of a filter: its first step
        named: set[int] = set()
        for step in (one for chain in chains for one in self._walk(chain)):
            if isinstance(origin_of(step).get(""), str) or step.shape == "actor" or not _is_made(step.filter):
                continue
            if id(step.filter) in first or step.name != _own_name(step):
                named.add(id(step.filter))
            first.setdefault(id(step.filter), step)
        taken = {*catalogue.names(), "python", *self._handed_in(chains)}
        for identity, step in first.items():
            if identity not in named:
                continue
            key, number = step.name, 1
            while key in taken or "${" in key:
                number += 1
                key = f"{step.name.replace('${', '')}-{number}"
            taken.add(key)
            self._instances[identity] = key
            where = f"filter {step.name} ({step.where})"
            self.filters[key] = self.trying(where, lambda: self._made(step, key)) or {}  # noqa: B023

    def _walk(self, chain: Iterable[Node]) -> Iterator[Step]:
        """Yield the filters of a chain, without those inside a chain that the program handed in."""
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
        Return the table of a filter that is an object of a class.

        Args:
            key: The name of the table in `[filters]`, which is the filter's name unless the table has another.
        """
        filter = step.filter
        if isinstance(origin_of(step).get(""), dict):
            return self._called(dict(origin_of(step)[""]), step, key)
        cls: Any = type(filter)
        use = catalogue.use_of(cls)
        table: Table = {"use": use} if use is not None else {"use": "python", "target": name_of(cls)}
        if not dataclasses.is_dataclass(filter):
            if getattr(filter, "__dict__", {}).keys() - {"name"} or getattr(cls, "__slots__", ()):
                raise Unexportable(f"{cls.__name__} is not a dataclass, so its settings are unknown; make it one")
            return self._called(table, step, key)
        settings = settings_of(cls)
        for word in table:
            if word in settings:
                raise Unexportable(f'its setting "{word}" has the name of the file\'s own key "{word}"; give it another name')
        hidden = {field.name for field in dataclasses.fields(filter) if not field.repr}
        for name, one in settings.items():
            value = getattr(filter, name)
            if name in origin_of(step):
                table[name] = origin_of(step)[name]
            elif one.required or not _same(value, one.default):
                if value is None:
                    raise Unexportable(f"{name} is None, which a file can only express by leaving it out")
                if name in hidden:
                    raise Unexportable(f"{name} has field(repr=False), so its value is not shown; a file reads it from ${{…}}")
                table[name] = escaped(one.write(value))
        return self._called(table, step, key, "name" in settings)

    @staticmethod
    def _called(table: Table, step: Step, key: str | None, has_name: bool = False) -> Table:
        """Return the table with the filter's name, if a file has to give it."""
        given = origin_of(step).get("name") or (table["name"].replace("$${", "${") if "name" in table else "")
        if "name" in origin_of(step) or step.name == (given or key or _own_name(step)):
            return table
        if has_name:
            raise Unexportable(f"its name is {step.name}, but its setting `name` is another one")
        table["name"] = escaped(step.name)
        return table

    def entry(self, node: Node) -> Any:
        """Return a node as an entry of a chain."""
        if isinstance(node, Step):
            return self.trying(f"filter {node.name} ({node.where})", lambda: self._step(node))
        if "" in origin_of(node):
            return origin_of(node)[""]
        if isinstance(node, Switch):
            cases = {"switch": [self.entry(case) for case in node.nodes if case.test is not ALWAYS]}
            return cases | {case.word: [*map(self.entry, case.nodes)] for case in node.nodes if case.test is ALWAYS}
        inner = [self.entry(one) for one in node.nodes]
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
        if id(step.filter) in self._instances:
            return self._instances[id(step.filter)]
        table = self._made(step)
        return table["use"] if table.keys() == {"use"} and table["use"] != "python" else table

    def _test(self, node: Fork) -> Any:
        test = node.test
        if "" in origin_of(test):
            return origin_of(test)[""]
        if test.pattern is not None:
            return escaped(test.pattern.text)
        return self.trying(f"{node.name} (at {node.place})", lambda: escaped(TEST.write(test.predicate)))

    def pipelines(self, nodes: Iterable[Node], at: str) -> list[Table]:
        """Return the top-level nodes of a side as tables of `[[pipelines]]`. Successive plain filters share one table."""
        merged: list[Table] = []
        for table in (self._pipeline(node, at) for node in nodes):
            if merged and all(one.keys() <= {"at", "filters"} for one in (merged[-1], table)):
                merged[-1]["filters"] += table["filters"]
            else:
                merged.append(table)
        return merged

    def _pipeline(self, node: Node, at: str) -> Table:
        table: Table = {} if at == "publish" else {"at": at}
        if isinstance(origin_of(node).get(""), str):
            return table | {"filters": [origin_of(node)[""]]}
        if isinstance(node, Pipeline) and node.on_error is not None:
            table["on_error"] = node.on_error
            if len(node.nodes) != 1 or not isinstance(node.nodes[0], When) or "" in origin_of(node.nodes[0]):
                return table | {"filters": [self.entry(one) for one in node.nodes]}
            node = node.nodes[0]
        if isinstance(node, When):
            return table | {"match": self._test(node), "filters": [self.entry(one) for one in node.nodes]}
        return table | {"filters": [self.entry(node)]}


def _own_name(step: Step) -> str:
    """Return the name that a filter has when a file makes it without a name."""
    if not _is_made(step.filter):
        return name_of_filter(step.filter)
    cls: Any = type(step.filter)
    name = step.filter.name if "name" in settings_of(cls) else getattr(cls, "name", None)
    return name if isinstance(name, str) and name else cls.__name__


def _is_made(filter: Any) -> bool:
    """True for an object of a class; False for a class or function, which has a name."""
    return not (isinstance(filter, type) or hasattr(filter, "__qualname__"))


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    if isinstance(value, (int, float)):
        return bool(value == default)
    return type(value) is type(default) and value == default and repr(value) == repr(default)  # Decimal("1.00") equals 1
