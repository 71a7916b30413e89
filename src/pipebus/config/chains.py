"""Filters and chains of a file: the nodes that a program would write."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipebus.bus.origins import set_origin
from pipebus.config import catalogue
from pipebus.config.document import Document, Table
from pipebus.config.kinds import Loading, Text, as_rule
from pipebus.config.names import Named
from pipebus.config.problems import BROKEN, Bad, Told, guess, shown
from pipebus.config.vocabulary import ON_ERROR, TEST
from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of
from pipebus.pipeline import recognise
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import Branch, Selector, When
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.places import Place
from pipebus.pipeline.step import Step


class Made(NamedTuple):
    """
    A filter, as a file has it.

    Args:
        told: As of `pipeline.Step`.
        name: What it is to be called; None: as it calls itself.
    """

    filter: Any
    told: dict[str, Any]
    name: str | None


class Chains:
    """
    Reads chains.

    Args:
        stand_ins: For tests: what stands in for filters, by name.
    """

    def __init__(self, document: Document, loading: Loading, stand_ins: Mapping[str, Any]) -> None:
        self.document = document
        self.loading = loading
        self.stand_ins = stand_ins
        self.instances: dict[str, Made | Any] = {}  # named ones; BROKEN for what is wrong
        self.names: dict[str, None] = {}  # of all filters of the file
        self.used: set[str] = set()  # instances that stand in a chain

    def read_instances(self, tables: Table | None) -> None:
        """The named ones."""
        for name in tables.data if tables is not None else ():
            table = tables.inner(name, 'a table, as in { use = "log" }')  # type: ignore[union-attr]
            self.instances[name] = BROKEN
            self.names[name] = None
            if table is None:
                continue
            if name in self.loading.filters:
                table.problem(f"the program hands in a filter {shown(name)} too; give one of them another name")
            if name in self.stand_ins:
                self.instances[name] = Made(self.stand_ins[name], {}, name)
                continue
            made = self._made(table)
            if made is not BROKEN:
                made = made._replace(name=made.name or name)
                self.instances[name] = made if self._step(made, table, 1, f"filters.{name}") is not BROKEN else BROKEN

    def _made(self, table: Table) -> Any:
        """A `Made` of a table with `use`, or `BROKEN`."""
        use = table.take("use", Text(), self.loading)
        table.hidden = ("use", "target")
        if use is BROKEN:
            return BROKEN
        told = told_of(table.data)
        told.pop("use", None)
        try:
            cls = self._target(table) if use == "python" else catalogue.find(use)
        except Bad as bad:
            table.problem(bad.text, "use")
            return BROKEN
        if cls is BROKEN:
            return BROKEN
        if cls is None:
            table.problem(f"no filter {shown(use)}{self._meant(use, catalogue.names())}", "use")
            return BROKEN
        settings = catalogue.settings_of(cls) if isinstance(cls, type) else {}
        table.hidden += () if "name" in settings else ("name",)
        name = None if "name" in settings else table.take("name", Text(), self.loading, None)
        if name is None and "name" in settings and isinstance(table.data.get("name"), str):
            name = table.data["name"]
        if not isinstance(cls, type):
            table.end()
            return BROKEN if name is BROKEN else Made(cls, {"": source_of(table.data)}, name)
        found = table.take_all(settings, self.loading)
        table.end()
        if name is BROKEN or BROKEN in found.values() or any(key not in table.asked for key in table.data):
            return BROKEN
        given = {key: value for key, value in found.items() if key in table.data}
        try:
            made = cls(**given)
        except Exception as error:
            self._refused(table, cls, given, error)
            return BROKEN
        if not dataclasses.is_dataclass(made):  # what it keeps of its settings is its own business
            told[""] = source_of(table.data)
        return Made(made, told, name)

    def _target(self, table: Table) -> Any:
        """What `use = "python"` names: an object, or a class to make one of."""
        return table.take("target", Named(), self.loading)

    def _meant(self, use: str, known: list[str]) -> str:
        if ":" in use:
            return f'; write {{ use = "python", target = {shown(use)} }}'
        return guess(use, known) or "; `pipebus filters` lists them"

    def _refused(self, table: Table, cls: type, given: Mapping[str, Any], error: Exception) -> None:
        """What a filter's constructor says, at the line of the setting that it names."""
        text = str(error) if isinstance(error, PipebusError) else f"cannot be made: {text_of(error)}"
        match = re.match(rf"{cls.__name__}\.(\w+)", text)
        key = match[1] if match is not None and match[1] in table.data else next(iter(given)) if len(given) == 1 else None
        if key is None:
            table.problem(text.replace(f"{cls.__name__}.", ""))
            return
        value = given[key]
        for written in (repr(value), str(value), f"{value:g}" if isinstance(value, float) else ""):
            prefix = f"{cls.__name__}.{key}={written}: "
            if text.startswith(prefix):
                table.problem(f"{key} = {shown(table.data[key])}: {as_rule(text.removeprefix(prefix))}", key)
                return
        table.problem(text.replace(f"{cls.__name__}.", ""), key)

    # --- chains --------------------------------------------------------------------------------------------------------

    def nodes(self, table: Table, side: str, key: str = "filters") -> tuple[Node, ...] | None:
        """The nodes that an array of entries stands for; None if one of them is wrong."""
        table.asked.append(key)
        entries = table.data.get(key, [])
        if entries is BROKEN:
            return None
        if not isinstance(entries, list):
            table.problem(f'{key} = {shown(entries)}: it has to be a list, as in ["log"]', key)
            return None
        found: list[Any] = []
        for index, entry in enumerate(entries):
            path = (*table.path, key, index)
            place = self.document.place(path)
            within = self.document.where(table.path)
            if isinstance(entry, dict):
                found.append(self._entry(Table(self.document, path, entry), side, index + 1, within))
            elif isinstance(entry, str):
                found.append(self._named(entry, table, index, place, within))
            else:
                if entry is not BROKEN:
                    table.problem(
                        f'{key}[{index}] = {shown(entry)}: it has to be a name, as in "log", or a table with "use", "when", '
                        '"branch" or "filters"', key, index,
                    )  # fmt: skip
                found.append(BROKEN)
        return None if BROKEN in found else tuple(found)

    def _entry(self, table: Table, side: str, position: int, within: str) -> Any:
        """A node, or `BROKEN`."""
        forks = [word for word in ("when", "branch") if word in table]
        if forks and "use" not in table:
            word = forks[0]
            test = table.take(word, TEST, self.loading)
            inner = self.nodes(table, side)
            if "filters" not in table:
                table.problem('"filters" is missing')
            table.end()
            if test is BROKEN or inner is None:
                return BROKEN
            kind = When if word == "when" else Branch
            return self.guarded(lambda: kind(self.test(test, word, table), inner, table.place), table)
        if "use" in table:
            return self._used(table, position, within)
        if "filters" in table:
            return self._chain(table, side)
        table.problem('it has none of "use", "when", "branch" and "filters"')
        return BROKEN

    def test(self, test: Any, word: str, table: Table) -> Selector:
        made = Selector(test, "match" if word == "match" else word, table.place)
        if isinstance(table.data[word], Told):
            set_origin(made, {"": table.data[word].source})
        return made

    def _chain(self, table: Table, side: str) -> Any:
        on_error = table.take("on_error", ON_ERROR[side], self.loading, None)
        inner = self.nodes(table, side)
        table.end()
        if on_error is BROKEN or inner is None:
            return BROKEN
        return pipeline_of(inner, on_error, table.place)

    def _used(self, table: Table, position: int, within: str) -> Any:
        use = table.data["use"]
        if isinstance(use, str):
            self.names[str.__str__(use)] = None
        known = use in self.instances or use in self.loading.filters if isinstance(use, str) else False
        if known and (table.data.keys() == {"use"} or use not in (*catalogue.names(), "python")):
            table.asked.append("use")
            table.end()
            return self._named(use, table, None, table.place, within)
        name = catalogue.word(use) if isinstance(use, str) else ""
        if name in self.stand_ins:
            return self._step(Made(self.stand_ins[name], {}, name), table, position, within)
        made = self._made(table)
        return BROKEN if made is BROKEN else self._step(made, table, position, within)

    def _named(self, name: str, table: Table, index: int | None, place: Place, within: str) -> Any:
        """An instance of the file's, what the program hands in, or a kind that needs no settings."""

        def problem(text: str) -> Any:
            self.document.problems.add(place.line, self.document.where(table.path) + _index(index), text)
            return BROKEN

        position = 1 if index is None else index + 1
        if name in self.stand_ins and name not in self.instances:
            return self._step(Made(self.stand_ins[name], {}, name), table, position, within, place)
        if name in self.instances:
            made = self.instances[name]
            self.used.add(name)
            if made is BROKEN:
                return BROKEN
            return self._step(made, table, position, within, place)
        if name in self.loading.filters:
            return self._step(Made(self.loading.filters[name], {"": source_of(name)}, None), table, position, within, place)
        try:
            cls = catalogue.find(name)
        except Bad as bad:
            return problem(bad.text)
        if cls is None:
            known = [*self.instances, *self.loading.filters, *catalogue.names()]
            return problem(f"no filter {shown(name)}{self._meant(name, known)}")
        missing = [key for key, one in catalogue.settings_of(cls).items() if one.required] if isinstance(cls, type) else []
        if missing:
            return problem(f'"{name}" needs {" and ".join(missing)}; write {{ use = "{name}", {missing[0]} = … }}')
        filter = self.guarded(cls, table) if isinstance(cls, type) else cls
        return BROKEN if filter is BROKEN else self._step(Made(filter, {}, None), table, position, within, place)

    def _step(self, made: Made, table: Table, position: int, within: str, place: Place | None = None) -> Any:
        """The filter as a node of its own, or `BROKEN`."""
        node = self.guarded(lambda: recognise.node(made.filter, position, place or table.place, within), table)
        if isinstance(node, Step):
            if node is made.filter:  # somebody has made a node of it before
                node = dataclasses.replace(node)
            node.name = made.name or node.name
            set_origin(node, made.told)
            self.names[node.name] = None
        elif isinstance(node, Pipeline):
            node = node.of(node.nodes)
            set_origin(node, made.told)
        elif isinstance(node, (When, Branch)):
            node = dataclasses.replace(node)
            set_origin(node, made.told)
        return node

    def guarded(self, make: Callable[[], Any], table: Table) -> Any:
        """What it makes, or `BROKEN` after a word about it."""
        try:
            return make()
        except PipebusError as error:
            self.note(table, error)
        except Exception as error:
            table.problem(f"cannot be made: {text_of(error)}")
        return BROKEN

    def note(self, table: Table, error: PipebusError) -> None:
        """Each sentence of an error of the bus's, at the line that it names."""
        for text in sentences(error):
            match = re.search(re.escape(self.document.file) + r":(\d+)", text)
            line = int(match[1]) if match is not None else self.document.line(table.path)
            self.add(line, table, text)

    def add(self, line: int, table: Table, text: str) -> None:
        """At a line that may be in another table."""
        path = self.document.around(line)
        where = table.path if path == table.path[: len(path)] else path
        self.document.problems.add(line, self.document.where(where), text)


def sentences(error: PipebusError) -> list[str]:
    """What an error of the bus's says, with remedies that a file has."""
    return str(error).replace("set abandon=True, or make the chain async", "say abandon = true").splitlines()


def pipeline_of(nodes: tuple[Node, ...], on_error: Any, place: Place) -> Pipeline:
    made = Pipeline(on_error=on_error)
    made.nodes, made.place = nodes, place
    return made


def _index(index: int | None) -> str:
    return "" if index is None else f".filters[{index}]"


def told_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were interpolated, as they were written."""
    return {key: source_of(value) for key, value in data.items() if _is_told(value)}


def _is_told(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_told, value.values()))
    if isinstance(value, list):
        return any(map(_is_told, value))
    return isinstance(value, Told)


def source_of(value: Any) -> Any:
    """A value as it was written, with `${…}`."""
    if isinstance(value, dict):
        return {key: source_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [source_of(inner) for inner in value]
    if isinstance(value, Told):
        return value.source
    return value.replace("${", "$${") if isinstance(value, str) else value
