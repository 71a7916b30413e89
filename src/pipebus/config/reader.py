"""
A document becomes a bus, or the list of all that is wrong with it.

There is one pass. What can be read is registered with a bus, by the calls that a program would make, and each refusal is noted
with the line that it is about. A bus of a file with problems is thrown away: it was never started.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from pipebus import pipeline
from pipebus.bus import Bus
from pipebus.config import cases, catalogue
from pipebus.config.cases import Headers, Key, Literal, Patterns
from pipebus.config.catalogue import Setting
from pipebus.config.document import REQUIRED, Document, Table
from pipebus.config.kinds import (
    DURATION,
    INTERVAL,
    SIZE,
    Anything,
    Choice,
    Flag,
    Function,
    Imported,
    ListOf,
    Loading,
    Named,
    OneOf,
    TableOf,
    Text,
    Whole,
)
from pipebus.config.problems import BROKEN, Bad, Told, guess, shown
from pipebus.errors import PipebusError, SubjectError, text_of
from pipebus.message import Message
from pipebus.pipeline import Branch, Node, Pipeline, Place, Side, Step, Test, When

VERSION: Final = 1
HANDLER: Final = 'a name that the program hands in, or "module:function"'


class HandlerName(Imported):
    """A function that handles messages."""

    def problem(self, found: Any) -> str | None:
        return (
            "it is a class; give a function, or an object that can be called"
            if isinstance(found, type)
            else (super().problem(found))
        )


class Tests:
    """What `match`, `when` and `branch` take: a pattern, or a function of the message."""

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str):
            return Patterns().read(value, loading)
        try:
            return Function(text=False, condition=True).read(value, loading)
        except Bad as bad:
            form = Function(text=False, condition=True).form
            raise Bad(f'it is a pattern, as in "orders.>", {form}' if bad.text == f"it is {form}" else bad.text) from None

    def write(self, value: Any) -> Any:
        return value if isinstance(value, str) else Function(text=False, condition=True).write(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, *Function(text=False, condition=True).schema()["anyOf"]]}


TEST: Final = Tests()
ON_ERROR: Final = {
    "publish": Choice(("reject", "dead_letter", "drop")),
    "delivery": Choice(("dead_letter", "drop"), where=' at "delivery"'),
}
BUS: Final[dict[str, Setting]] = {
    "transport": Setting(Text(), False, "memory:", 'What carries messages: a URL, as in "memory:".'),
    "name": Setting(Text(), False, "pipebus", "For thread names and logs."),
    "pool": Setting(Whole(1), False, None, "Worker threads for handlers."),
    "dead_letters": Setting(Whole(1), False, 10_000, "Most dead letters kept in memory."),
    "max_message_bytes": Setting(SIZE, False, None, "Largest encoded message."),
    "require": Setting(TableOf(Anything()), False, None, "Capabilities that the transport must promise."),
    "debug": Setting(Flag(), False, False, "Also see mistakes that are too costly to look for always."),
}
SUBSCRIPTION: Final[dict[str, Setting]] = {
    "name": Setting(Text(), True, None, "Its stable name: of figures, dead letters and tests."),
    "subject": Setting(OneOf((Patterns(), ListOf(Patterns(), least=1))), True, None, 'A pattern, as in "orders.>", or a list.'),
    "handler": Setting(Text(), False, None, f"What handles messages: {HANDLER}. Left out: a program reads them itself."),
    "workers": Setting(Whole(1), False, 1, "How many messages may be handled at once."),
    "run": Setting(Choice(("pool", "thread", "loop")), False, None, "Where the handler runs."),
    "attempts": Setting(Whole(1), False, 3, "How often a returned delivery is taken before it is dead."),
    "deliver": Setting(Choice(("new", "all", "last")), False, "new", "Where to begin, on transports that replay."),
    "to": Setting(Literal(), False, None, "Subject under which a handler's value is published."),
}  # fmt: skip
MAILBOX: Final[dict[str, Setting]] = {
    "size": Setting(Whole(1), False, 10_000, "Most messages queued and in flight."),
    "overflow": Setting(
        Choice(("block", "reject", "drop_newest", "drop_oldest")), False, "block", "What a full mailbox does."
    ),
    "timeout": Setting(DURATION, False, 5.0, "How long \"block\" waits."),
}  # fmt: skip
EVERY: Final[dict[str, Setting]] = {
    "interval": Setting(INTERVAL, True, None, 'Time between two messages, as in "60s".'),
    "subject": Setting(Literal(), True, None, "Where they are published."),
    "body": Setting(Anything(), False, None, "Their body: any data."),
    "headers": Setting(Headers(), False, None, "Their headers."),
    "key": Setting(Key(), False, None, "Keeps the order among messages of equal key."),
    "ttl": Setting(INTERVAL, False, None, "Age after which a message is dropped."),
    "delay": Setting(DURATION, False, 0.0, "Time before it may be taken."),
    "reply_to": Setting(Literal(), False, None, "Subject for an answer."),
    "correlation_id": Setting(Text(), False, None, "Joins messages that belong together."),
}


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


class Reader:
    """
    Args:
        document: The file.
        loading: Imports that are allowed, and what is handed in.
        replace: For tests: stand-ins by the name of a subscription (a handler) or of a filter.
    """

    def __init__(self, document: Document, loading: Loading, replace: Replace | None = None) -> None:
        self.document = document
        self.loading = loading
        self.replace = replace or Replace()
        self.instances: dict[str, Made | Any] = {}  # named ones; BROKEN for what is wrong
        self.names: dict[str, int] = {}  # of subscriptions: the line
        self.filter_names: dict[str, None] = {}
        self.cases: list[cases.Case] = []
        self.broken_chain = False

    def bus(self) -> Bus:
        """
        Raises:
            ConfigError: all that is wrong.
        """
        top = self.document.table()
        self._version(top)
        bus = self._bus(top.inner("bus"))
        self._instances(top.inner("filters"))
        for table in top.tables("pipelines"):
            self._pipeline(table, bus)
        for table in top.tables("subscriptions"):
            self._subscription(table, bus)
        for table in top.tables("every"):
            self._every(table, bus)
        tests = list(top.tables("tests"))
        self.cases = cases.read(tests, self.loading)
        cases.check_names(tests, self.cases, self.names, self.filter_names)
        top.end()
        self.document.problems.check()
        return bus

    def _version(self, top: Table) -> None:
        version = top.take("version", Whole(), self.loading)
        if version is not BROKEN and version != VERSION:
            top.problem(f"version = {shown(version)}: this pipebus reads version {VERSION}", "version")

    def _bus(self, table: Table | None) -> Bus:
        if table is None:
            return Bus()
        found = self._take(table, BUS)
        told = _told(table.data)
        table.end()
        options = {key: value for key, value in found.items() if value is not BROKEN and key != "transport"}
        url = found["transport"] if found["transport"] is not BROKEN else "memory:"
        try:
            bus = Bus(url, **options)
        except PipebusError as error:
            text = str(error)
            about_require = text.startswith("require: ") or "cannot promise" in text
            key = "require" if about_require and "require" in table else "transport"
            table.problem(f"{key} = {shown(table.data.get(key, url))}: {text.removeprefix('require: ')}", key)
            return Bus()
        bus.told.bus = told
        bus.url = told.get("transport", bus.url)
        return bus

    def _take(self, table: Table, settings: Mapping[str, Setting]) -> dict[str, Any]:
        return {
            key: table.take(key, one.kind, self.loading, REQUIRED if one.required else one.default)
            for key, one in settings.items()
        }

    # --- filters -------------------------------------------------------------------------------------------------------

    def _instances(self, tables: Table | None) -> None:
        """The named ones."""
        for name in tables.data if tables is not None else ():
            table = tables.inner(name, 'a table, as in { use = "log" }')  # type: ignore[union-attr]
            self.instances[name] = BROKEN
            self.filter_names[name] = None
            if table is None:
                continue
            if name in self.loading.filters:
                table.problem(f"the program hands in a filter {shown(name)} too; give one of them another name")
            if name in self.replace.filters:
                self.instances[name] = Made(self.replace.filters[name], {}, name)
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
        told = _told(table.data)
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
        found = self._take(table, settings)
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
                table.problem(f"{key} = {shown(table.data[key])}: {text.removeprefix(prefix)}", key)
                return
        table.problem(text.replace(f"{cls.__name__}.", ""), key)

    # --- chains --------------------------------------------------------------------------------------------------------

    def _nodes(self, table: Table, side: str, key: str = "filters") -> tuple[Node, ...] | None:
        """The nodes that an array of entries stands for; None if one of them is wrong."""
        table.asked.append(key)
        entries = table.data.get(key, [])
        if entries is BROKEN:
            return None
        if not isinstance(entries, list):
            table.problem(f'{key} = {shown(entries)}: it is a list, as in ["log"]', key)
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
                        f'{key}[{index}] = {shown(entry)}: it is a name, as in "log", or a table with "use", "when", '
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
            inner = self._nodes(table, side)
            if "filters" not in table:
                table.problem('"filters" is missing')
            table.end()
            if test is BROKEN or inner is None:
                return BROKEN
            kind = When if word == "when" else Branch
            return self._guarded(lambda: kind(self._test(test, word, table), inner, table.place), table)
        if "use" in table:
            return self._used(table, position, within)
        if "filters" in table:
            return self._chain(table, side)
        table.problem('it has none of "use", "when", "branch" and "filters"')
        return BROKEN

    def _test(self, test: Any, word: str, table: Table) -> Test:
        made = Test(test, "match" if word == "match" else word, table.place)
        if isinstance(table.data[word], Told):
            made.told = table.data[word].source
        return made

    def _chain(self, table: Table, side: str) -> Any:
        on_error = table.take("on_error", ON_ERROR[side], self.loading, None)
        inner = self._nodes(table, side)
        table.end()
        if on_error is BROKEN or inner is None:
            return BROKEN
        return _pipeline(inner, on_error, table.place)

    def _used(self, table: Table, position: int, within: str) -> Any:
        use = table.data["use"]
        self.filter_names[str(use)] = None
        known = use in self.instances or use in self.loading.filters if isinstance(use, str) else False
        if known and (table.data.keys() == {"use"} or use not in (*catalogue.names(), "python")):
            table.asked.append("use")
            table.end()
            return self._named(use, table, None, table.place, within)
        name = catalogue.word(use) if isinstance(use, str) else ""
        if name in self.replace.filters:
            return self._step(Made(self.replace.filters[name], {}, name), table, position, within)
        made = self._made(table)
        return BROKEN if made is BROKEN else self._step(made, table, position, within)

    def _named(self, name: str, table: Table, index: int | None, place: Place, within: str) -> Any:
        """An instance of the file's, what the program hands in, or a kind that needs no settings."""

        def problem(text: str) -> Any:
            self.document.problems.add(place.line, self.document.where(table.path) + _index(index), text)
            return BROKEN

        position = 1 if index is None else index + 1
        if name in self.replace.filters and name not in self.instances:
            return self._step(Made(self.replace.filters[name], {}, name), table, position, within, place)
        if name in self.instances:
            made = self.instances[name]
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
        filter = self._guarded(cls, table) if isinstance(cls, type) else cls
        return BROKEN if filter is BROKEN else self._step(Made(filter, {}, None), table, position, within, place)

    def _step(self, made: Made, table: Table, position: int, within: str, place: Place | None = None) -> Any:
        """The filter as a node of its own, or `BROKEN`."""
        node = self._guarded(lambda: pipeline.node(made.filter, position, place or table.place, within), table)
        if isinstance(node, Step):
            if node is made.filter:  # somebody has made a node of it before
                node = dataclasses.replace(node)
            node.name = made.name or node.name
            node.told = made.told
            self.filter_names[node.name] = None
        elif isinstance(node, Pipeline):
            node = node.of(node.nodes)
            node.told = made.told
        elif isinstance(node, (When, Branch)):
            node = dataclasses.replace(node, told=made.told)
        return node

    def _guarded(self, make: Callable[[], Any], table: Table) -> Any:
        """What it makes, or `BROKEN` after a word about it."""
        try:
            return make()
        except PipebusError as error:
            self._note(table, error)
        except Exception as error:
            table.problem(f"cannot be made: {text_of(error)}")
        return BROKEN

    def _note(self, table: Table, error: PipebusError) -> None:
        """Each sentence of an error of the bus's, at the line that it names."""
        for text in str(error).splitlines():
            match = re.search(re.escape(self.document.file) + r":(\d+)", text)
            line = int(match[1]) if match is not None else self.document.line(table.path)
            self._add(line, table, text)

    def _add(self, line: int, table: Table, text: str) -> None:
        """At a line that may be in another table."""
        path = self.document.around(line)
        where = table.path if path == table.path[: len(path)] else path
        self.document.problems.add(line, self.document.where(where), text)

    # --- what is registered --------------------------------------------------------------------------------------------

    def _pipeline(self, table: Table, bus: Bus) -> None:
        at = table.take("at", Choice(("publish", "delivery")), self.loading, "publish")
        side: Side = "publish" if at is BROKEN else at
        test = table.take("match", TEST, self.loading, None)
        on_error = table.take("on_error", ON_ERROR[side], self.loading, None)
        if "filters" not in table:
            table.problem('"filters" is missing')
        inner = self._nodes(table, side)
        table.end()
        if BROKEN in (at, test, on_error) or inner is None:
            self.broken_chain = True
            return
        place = table.place
        nodes: tuple[Node, ...] = inner
        if test is not None:
            fork = self._guarded(lambda: When(self._test(test, "match", table), inner, place), table)
            if fork is BROKEN:
                return
            nodes = (fork,)
        if on_error is not None:
            nodes = (_pipeline(nodes, on_error, place),)
        try:
            bus.use(*nodes, at=side)
        except PipebusError as error:
            if not (self.broken_chain and " requires " in str(error)):  # what it requires may stand in what is broken
                self._note(table, error)

    def _subscription(self, table: Table, bus: Bus) -> None:
        table.expects("name", "subject", "handler", "workers", "run", "mailbox", "attempts", "deliver", "to", "filters")
        found = self._take(table, SUBSCRIPTION)
        name = found["name"]
        mailbox = self._mailbox(table)
        inner = self._nodes(table, "delivery")
        if name is not BROKEN:
            taken = self.names.setdefault(name, self.document.line((*table.path, "name")))
            if taken != self.document.line((*table.path, "name")):
                table.problem(f"name {shown(name)} is taken (line {taken}); choose another", "name")
                name = BROKEN
        handler = self._handler(table, found["handler"], name)
        table.end()
        options = {key: value for key, value in (found | mailbox).items() if key not in ("name", "subject", "handler")}
        if BROKEN in (name, found["subject"], handler, *options.values()) or inner is None:
            return
        for try_async in (False, True):
            stand_in = self.replace.handler(name) if handler is not None else None
            chosen = handler if stand_in is None else _coroutine(stand_in) if try_async else stand_in
            try:
                bus.subscribe_at(table.place, found["subject"], chosen, name=name, filters=inner, **options)
            except PipebusError as error:
                if stand_in is not None and not try_async:
                    continue  # the filters around it may be async
                self._note_subscription(table, name, error)
            except Exception as error:
                table.problem(f"cannot be subscribed: {text_of(error)}")
            break
        told = _told(table.data)
        if found["handler"] is not None and ":" not in found["handler"]:
            told.setdefault("handler", found["handler"])
        if told:
            bus.told.subscriptions[name] = told

    def _mailbox(self, table: Table) -> dict[str, Any]:
        found = {key: one.default for key, one in MAILBOX.items()}
        if type(table.data.get("mailbox", {})) in (int, Told):
            found["size"] = table.take("mailbox", MAILBOX["size"].kind, self.loading)
        else:
            inner = table.inner("mailbox", "a whole number, or a table, as in { size = 100 }")
            if inner is not None:
                found = self._take(inner, MAILBOX)
                inner.end()
            elif "mailbox" in table:
                found["size"] = BROKEN
        return {"mailbox": found["size"], "overflow": found["overflow"], "overflow_timeout": found["timeout"]}

    def _handler(self, table: Table, text: Any, name: Any) -> Any:
        """The function, None (pull), or `BROKEN`."""
        if text is None or text is BROKEN:
            return text
        if isinstance(name, str) and self.replace.handler(name) is not None:
            return self.replace.handler(name)
        if ":" in text:
            table.asked.remove("handler")
            return table.take("handler", HandlerName(), self.loading)
        found = self.loading.handlers.get(text)
        if found is None:
            near = guess(text, self.loading.handlers)
            remedy = near or f'; write "module:function", or pass handlers={{{shown(text)}: …}}'
            table.problem(f"no handler {shown(text)} is handed in{remedy}", "handler")
            return BROKEN
        return found

    def _note_subscription(self, table: Table, name: str, error: PipebusError) -> None:
        ours = re.compile(rf"^subscription {re.escape(name)}( \(at [^)]*\))?: ")
        for sentence in str(error).splitlines():
            if self.broken_chain and " requires " in sentence:
                continue
            text = re.sub(r"^name=.* \(at [^)]*\): ", f"name = {shown(name)}: ", ours.sub("", sentence))
            text = text.replace(f" (at {table.place})", "")
            match = re.search(re.escape(self.document.file) + r":(\d+)", text)
            told = [key for key in SUBSCRIPTION if key in table and key not in ("name", "subject", "handler")]
            first = text.partition(" ")[0]
            words = [first] if first in table else [word for word in re.findall(r"\w+", text) if word in told]
            path = (*table.path, words[0]) if words else table.path
            line = int(match[1]) if match is not None else self.document.line(path)
            self._add(line, table, text)

    def _every(self, table: Table, bus: Bus) -> None:
        found = self._take(table, EVERY)
        table.end()
        if BROKEN in [value for value in found.values() if isinstance(value, type(BROKEN))]:
            return
        interval, subject, body = found.pop("interval"), found.pop("subject"), found.pop("body")
        envelope = {key: value for key, value in found.items() if value is not None and value != EVERY[key].default}
        try:
            bus.every_at(table.place, interval, subject, body, **envelope).told = _told(table.data)
        except PipebusError as error:
            key = "subject" if isinstance(error, SubjectError) else None
            text = str(error)
            table.problem(f"subject = {shown(table.data['subject'])}: {text}" if key else text, key)


class Replace:
    """
    Stand-ins for a test.

    Args:
        handlers: By the subscription's name; "*" for all others.
        filters: By name: of an instance, or of a kind, as a file writes it.
    """

    def __init__(self, handlers: Mapping[str, Any] | None = None, filters: Mapping[str, Any] | None = None) -> None:
        self.handlers = handlers or {}
        self.filters = filters or {}

    def handler(self, name: str) -> Any:
        return self.handlers.get(name, self.handlers.get("*"))


def _pipeline(nodes: tuple[Node, ...], on_error: Any, place: Place) -> Pipeline:
    made = Pipeline(on_error=on_error)
    made.nodes, made.place = nodes, place
    return made


def _coroutine(handler: Callable[[Message[Any]], Any]) -> Any:
    async def stand_in(message: Message[Any]) -> Any:
        return handler(message)

    return stand_in


def _index(index: int | None) -> str:
    return "" if index is None else f".filters[{index}]"


def _told(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were interpolated, as they were written."""
    return {key: source_of(value) for key, value in data.items() if _has_told(value)}


def _has_told(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_told, value.values()))
    if isinstance(value, list):
        return any(map(_has_told, value))
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
