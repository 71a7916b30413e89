"""The chains of a file become the nodes that a program would write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from pipebus.bus.origins import set_origin
from pipebus.config import catalogue, vocabulary
from pipebus.config.kinds.base import Loading
from pipebus.config.problems import BROKEN, Bad
from pipebus.config.reading.document import Document
from pipebus.config.reading.filters import Made, make, meant
from pipebus.config.reading.table import Table
from pipebus.config.settings import settings_of
from pipebus.config.wording import Interpolated, as_written, shown
from pipebus.pipeline import recognise
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import ALWAYS, Branch, Fork, Otherwise, Selector, Switch, When
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.places import Place
from pipebus.pipeline.step import Step
from pipebus.values.expressions import Condition

_KEYS: Final = '"use", "when", "branch", "switch" or "filters"'
"""The keys that say what an entry is."""


class Chains:
    """
    Reads chains and the named filters in them.

    Args:
        stand_ins: For tests: what replaces filters, by name.

    Attributes:
        instances: The named filters of `[filters]`; `BROKEN` for a wrong one.
        names: The names of all filters of the file.
        used: Names of the instances that are in a chain.
    """

    def __init__(self, document: Document, loading: Loading, stand_ins: Mapping[str, Any]) -> None:
        self.document = document
        self.loading = loading
        self.stand_ins = stand_ins
        self._words = {catalogue.word(name): name for name in stand_ins}
        self.instances: dict[str, Made | Any] = {}
        self.names: dict[str, None] = {}
        self.used: set[str] = set()

    def read_instances(self, top: Table, filters: Any) -> None:
        """Read `[filters]`."""
        for name, value in filters.items() if filters is not BROKEN else ():
            self.instances[name] = BROKEN
            self.names[name] = None
            if value is BROKEN:
                continue
            table = top.inner("filters", name)
            if name in self.loading.filters:
                table.problem(f"the program hands in a filter {shown(name)} too; give one of them another name")
            if name in self.stand_ins:
                self.instances[name] = Made(self.stand_ins[name], {}, name)
                continue
            made = make(table, self.loading)
            if made is not BROKEN:
                made = made._replace(name=made.name or name)
                self.instances[name] = made if self._step(made, table, 1, f"filters.{name}") is not BROKEN else BROKEN

    def nodes(self, table: Table, chain: Any, side: str, key: str = "filters") -> tuple[Node, ...] | None:
        """Return the nodes for the entries of a chain, which this table has under a key; None if one of them is wrong."""
        if chain is BROKEN:
            return None
        found: list[Any] = []
        for index, entry in enumerate(chain):
            within = self.document.where(table.path)
            if isinstance(entry, dict):
                found.append(self._entry(table.inner(key, index), side, index + 1, within))
            elif isinstance(entry, str):
                place = self.document.place((*table.path, key, index))
                found.append(self._named(entry, table, (key, index), place, within))
            else:
                if entry is not BROKEN:
                    text = f'{key}[{index}] = {shown(entry)}: it has to be a name, as in "log", or a table with {_KEYS}'
                    table.problem(text, key, index)
                found.append(BROKEN)
        return None if BROKEN in found else tuple(found)

    def on_error(self, table: Table, on_error: Any, side: Any) -> Any:
        """Return what happens when a filter of a chain fails; or `BROKEN`, after reporting that this side cannot do it."""
        if on_error == "reject" and side == "delivery":
            table.problem(
                f'on_error = {shown(table.data["on_error"])}: it has to be dead_letter or drop at "delivery"', "on_error"
            )
            return BROKEN
        return on_error

    def selector(self, test: Any, word: str, table: Table) -> Selector:
        """Return the test of a fork, which the table has under this word."""
        made = Selector(test, word, table.place)
        if isinstance(table.data[word], Interpolated):
            set_origin(made, {"": table.data[word].source})
        return made

    def _entry(self, table: Table, side: str, position: int, within: str) -> Any:
        """Return the node for a table in a chain, or `BROKEN`."""
        if "use" in table.data:
            return self._used(table, position, within)
        if "switch" in table.data:
            return self._switch(table.read(vocabulary.Switch, self.loading), table, side)
        if "when" in table.data:
            return self._fork(When, "when", table.read(vocabulary.When, self.loading), table, side)
        if "branch" in table.data:
            return self._fork(Branch, "branch", table.read(vocabulary.Branch, self.loading), table, side)
        if "filters" in table.data:
            return self._pipeline(table, side)
        if "otherwise" in table.data:
            table.problem(vocabulary.OTHERWISE, "otherwise")
        else:
            table.problem(f"it has none of {_KEYS}".replace(" or ", " and "))
        return BROKEN

    def _fork(self, kind: type[When | Branch], word: str, found: Any, table: Table, side: str) -> Any:
        test = getattr(found, word)
        inner = self.nodes(table, found.filters, side)
        if test is BROKEN or inner is None:
            return BROKEN
        return table.guarded(lambda: kind(self.selector(test, word, table), inner, table.place))

    def _switch(self, found: Any, table: Table, side: str) -> Any:
        cases = list(enumerate(found.switch)) if found.switch is not BROKEN else []
        made: list[Fork | Any] = [self._case(table.inner("switch", index), case, side) for index, case in cases]
        if found.otherwise is not None:
            inner = self.nodes(table, found.otherwise, side, "otherwise")
            place = self.document.place((*table.path, "otherwise"))
            made.append(BROKEN if inner is None else Otherwise(ALWAYS, inner, place))
        return BROKEN if not cases or BROKEN in made else Switch(tuple(made), table.place)

    def _case(self, table: Table, found: Any, side: str) -> Any:
        if found is BROKEN:
            return BROKEN
        if isinstance(found.when, Condition) and found.when.is_constant:
            table.problem(
                f"when = {shown(table.data['when'])}: it reads nothing of the message, so it is the same for all; the filters "
                "for messages that no case takes are the otherwise of the switch", "when",
            )  # fmt: skip
        return self._fork(When, "when", found, table, side)

    def _pipeline(self, table: Table, side: str) -> Any:
        found = table.read(vocabulary.Inner, self.loading)
        on_error = self.on_error(table, found.on_error, side)
        inner = self.nodes(table, found.filters, side)
        if on_error is BROKEN or inner is None:
            return BROKEN
        return pipeline_of(inner, on_error, table.place)

    def _used(self, table: Table, position: int, within: str) -> Any:
        use = table.data["use"]
        if isinstance(use, str):
            self.names[str.__str__(use)] = None
        known = use in self.instances or use in self.loading.filters if isinstance(use, str) else False
        if known and (table.data.keys() == {"use"} or use not in (*catalogue.names(), "python")):
            table.read(vocabulary.Reference, self.loading)
            return self._named(use, table, None, table.place, within)
        called = [one.rpartition(":")[2] for key in ("name", "target", "use") if isinstance(one := table.data.get(key), str)]
        stand_in = next((name for one in called if (name := self._words.get(catalogue.word(one)))), None)
        if stand_in is not None:
            self.names[stand_in] = None
            return self._step(Made(self.stand_ins[stand_in], {}, stand_in), table, position, within)
        made = make(table, self.loading)
        if made is not BROKEN:
            return self._step(made, table, position, within)
        self.names.update(dict.fromkeys(called))  # tests that name it are right
        return BROKEN

    def _named(self, name: str, table: Table, at: tuple[str, int] | None, place: Place, within: str) -> Any:
        """Return the node for a name: of an instance, of a filter of the program, or of a kind without required settings."""

        def problem(text: str) -> Any:
            where = self.document.where(table.path) + ("" if at is None else f".{at[0]}[{at[1]}]")
            self.document.problems.add(place.line, where, text)
            return BROKEN

        position = 1 if at is None else at[1] + 1
        made: Any
        stand_in = self._words.get(catalogue.word(name))
        if stand_in is not None and name not in self.instances:
            made = Made(self.stand_ins[stand_in], {}, stand_in)
        elif name in self.instances:
            self.used.add(name)
            made = self.instances[name]
        elif name in self.loading.filters:
            self.names[name] = None
            made = Made(self.loading.filters[name], {"": as_written(name)}, None)
        else:
            try:
                cls = catalogue.find(name)
            except Bad as bad:
                return problem(bad.text)
            if cls is None:
                known = [*self.instances, *self.loading.filters, *catalogue.names()]
                return problem(f"no filter {shown(name)}{meant(name, known)}")
            missing = [key for key, one in settings_of(cls).items() if one.required] if isinstance(cls, type) else []
            if missing:
                return problem(f'"{name}" needs {" and ".join(missing)}; write {{ use = "{name}", {missing[0]} = … }}')
            filter = table.guarded(cls) if isinstance(cls, type) else cls
            made = BROKEN if filter is BROKEN else Made(filter, {}, None)
        return BROKEN if made is BROKEN else self._step(made, table, position, within, place)

    def _step(self, made: Made, table: Table, position: int, within: str, place: Place | None = None) -> Any:
        """Return a new node for a filter, or `BROKEN`."""
        node = table.guarded(lambda: recognise.node(made.filter, position, place or table.place, within))
        if isinstance(node, Step):
            if node is made.filter:  # the program handed in a node, which may be in other chains too
                node = dataclasses.replace(node)
            node.name = made.name or node.name
            self.names[node.name] = None
        elif node is not BROKEN:
            node = node.of(node.nodes)
        if node is not BROKEN:
            set_origin(node, made.origin)
        return node


def pipeline_of(nodes: tuple[Node, ...], on_error: Any, place: Place) -> Pipeline:
    made = Pipeline(on_error=on_error)
    made.nodes, made.place = nodes, place
    return made
