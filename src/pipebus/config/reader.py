"""
A document becomes a bus, or the list of all that is wrong with it.

There is one pass. What can be read is registered with a bus, by the calls that a program would make, and each refusal is noted
with the line that it is about. A bus of a file with problems is thrown away: it was never started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.origins import set_origin
from pipebus.config import cases
from pipebus.config.chains import Chains, pipeline_of, sentences, told_of
from pipebus.config.document import Document, Table
from pipebus.config.kinds import Choice, Loading, Whole
from pipebus.config.problems import BROKEN, Told, guess, shown
from pipebus.config.vocabulary import BUS, EVERY, MAILBOX, ON_ERROR, SUBSCRIPTION, TEST, VERSION, HandlerName
from pipebus.errors import PipebusError, SubjectError
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.pipeline.compose import Node, Side
from pipebus.pipeline.forks import When
from pipebus.transports.opening import open_transport


class Reader:
    """
    Args:
        document: The file.
        loading: Imports that are allowed, and what is handed in.
        replace: For tests: stand-ins by the name of a subscription (a handler) or of a filter.
        kind: The class of the bus.
    """

    def __init__(self, document: Document, loading: Loading, replace: Replace | None = None, kind: type[Bus] = Bus) -> None:
        self.kind = kind
        self.document = document
        self.loading = loading
        self.replace = replace or Replace()
        self.chains = Chains(document, loading, self.replace.filters)
        self.names: dict[str, int] = {}  # of subscriptions: the line
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
        self.chains.read_instances(top.inner("filters"))
        for table in top.tables("pipelines"):
            self._pipeline(table, bus)
        for table in top.tables("subscriptions"):
            self._subscription(table, bus)
        for table in top.tables("every"):
            self._every(table, bus)
        tests = list(top.tables("tests"))
        self.cases = cases.read(tests, self.loading)
        cases.check_names(tests, self.cases, self.names, self.chains.names)
        top.end()
        if not self.document.problems:
            try:
                engine_of(bus).lifecycle.check_chains()
            except PipebusError as error:
                self.chains.note(top, error)
        self.document.problems.check()
        engine_of(bus).from_file.hints = self._hints(bus)
        return bus

    def _hints(self, bus: Bus) -> list[str]:
        """What is no mistake, and perhaps not meant."""
        found = [
            (self.document.line(("filters", name)), f"filters.{name} stands in no chain")
            for name in self.chains.instances
            if name not in self.chains.used
        ]
        for subscription in bus.subscriptions:
            for pattern in map(str, subscription.patterns):
                for token in pattern.split("."):
                    if len(token) > 1 and ("*" in token or ">" in token):
                        text = f'"{pattern}" of {subscription.name}: * and > stand for tokens only alone; "{token}" is itself'
                        found.append((subscription.place.line, text))
        return [f"{self.document.file}:{line}: hint: {text}" for line, text in sorted(found)]

    def _version(self, top: Table) -> None:
        version = top.take("version", Whole(), self.loading)
        if version is not BROKEN and version != VERSION:
            top.problem(f"version = {shown(version)}: this pipebus reads version {VERSION}", "version")

    def _bus(self, table: Table | None) -> Bus:
        if table is None:
            return self.kind()
        found = table.take_all(BUS, self.loading)
        told = told_of(table.data)
        table.end()
        options = {key: value for key, value in found.items() if value is not BROKEN and key != "transport"}
        url = found["transport"] if found["transport"] is not BROKEN else "memory:"
        if self.document.lacks and not _opens(url):  # read for its tests, where nobody knows what its URL would promise
            url = "memory:?wire=json"
            options.pop("require", None)
        try:
            bus = self.kind(url, **options)
        except PipebusError as error:
            text = str(error)
            about_require = text.startswith("require: ") or "cannot promise" in text
            key = "require" if about_require and "require" in table else "transport"
            table.problem(f"{key} = {shown(table.data.get(key, url))}: {text.removeprefix('require: ')}", key)
            return self.kind()
        engine_of(bus).from_file.bus = told
        engine_of(bus).url = told.get("transport", bus.url)
        return bus

    def _pipeline(self, table: Table, bus: Bus) -> None:
        at = table.take("at", Choice(("publish", "delivery")), self.loading, "publish")
        side: Side = "publish" if at is BROKEN else at
        test = table.take("match", TEST, self.loading, None)
        on_error = table.take("on_error", ON_ERROR[side], self.loading, None)
        if "filters" not in table:
            table.problem('"filters" is missing')
        inner = self.chains.nodes(table, side)
        table.end()
        if BROKEN in (at, test, on_error) or inner is None:
            self.broken_chain = True
            return
        place = table.place
        nodes: tuple[Node, ...] = inner
        if test is not None:
            fork = self.chains.guarded(lambda: When(self.chains.test(test, "match", table), inner, place), table)
            if fork is BROKEN:
                return
            nodes = (fork,)
        if on_error is not None:
            nodes = (pipeline_of(nodes, on_error, place),)
        try:
            bus.use(*nodes, at=side)
        except PipebusError as error:
            if not (self.broken_chain and " requires " in str(error)):  # what it requires may stand in what is broken
                self.chains.note(table, error)

    def _subscription(self, table: Table, bus: Bus) -> None:
        table.expects("name", "subject", "handler", "workers", "run", "mailbox", "attempts", "deliver", "to", "filters")
        found = table.take_all(SUBSCRIPTION, self.loading)
        name = found["name"]
        mailbox = self._mailbox(table)
        inner = self.chains.nodes(table, "delivery")
        if name is not BROKEN:
            if name in self.names:
                table.problem(f"name {shown(name)} is taken (line {self.names[name]}); choose another", "name")
                name = BROKEN
            else:
                self.names[name] = self.document.line((*table.path, "name"))
        handler = self._handler(table, found["handler"], name)
        table.end()
        options = {key: value for key, value in (found | mailbox).items() if key not in ("name", "subject", "handler")}
        if BROKEN in (name, found["subject"], handler, *options.values()) or inner is None:
            return
        for try_async in (False, True):
            stand_in = self.replace.handler(name) if handler is not None else None
            chosen = handler if stand_in is None else _coroutine(stand_in) if try_async else stand_in
            try:
                engine_of(bus).registry.subscribe(table.place, found["subject"], chosen, name=name, filters=inner, **options)
            except PipebusError as error:
                if stand_in is not None and not try_async:
                    continue  # the filters around it may be async
                self._note_subscription(table, name, error)
            except Exception as error:
                table.problem(f"cannot be subscribed: {text_of(error)}")
            break
        told = told_of(table.data)
        if found["handler"] is not None and ":" not in found["handler"]:
            told.setdefault("handler", found["handler"])
        if told:
            engine_of(bus).from_file.subscriptions[name] = told

    def _mailbox(self, table: Table) -> dict[str, Any]:
        found = {key: one.default for key, one in MAILBOX.items()}
        if type(table.data.get("mailbox", {})) in (int, Told):
            found["size"] = table.take("mailbox", MAILBOX["size"].kind, self.loading)
        else:
            inner = table.inner("mailbox", "a whole number, or a table, as in { size = 100 }")
            if inner is not None:
                found = inner.take_all(MAILBOX, self.loading)
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
        told = f"name = {shown(name)}: "
        for sentence in sentences(error):
            if self.broken_chain and " requires " in sentence:
                continue
            text = re.sub(r"^name=.* \(at [^)]*\): ", lambda _: told, ours.sub("", sentence))
            text = text.replace(f" (at {table.place})", "")
            match = re.search(re.escape(self.document.file) + r":(\d+)", text)
            keys = [key for key in SUBSCRIPTION if key in table and key not in ("name", "subject", "handler")]
            first = text.partition(" ")[0]
            words = [first] if first in table else [word for word in re.findall(r"\w+", text) if word in keys]
            path = (*table.path, words[0]) if words else table.path
            line = int(match[1]) if match is not None else self.document.line(path)
            self.chains.add(line, table, text)

    def _every(self, table: Table, bus: Bus) -> None:
        found = table.take_all(EVERY, self.loading)
        table.end()
        if BROKEN in [value for value in found.values() if isinstance(value, type(BROKEN))]:
            return
        interval, subject, body = found.pop("interval"), found.pop("subject"), found.pop("body")
        envelope = {key: value for key, value in found.items() if value is not None and value != EVERY[key].default}
        try:
            schedule = engine_of(bus).schedules.every(table.place, interval, subject, body, **envelope)
            set_origin(schedule, told_of(table.data))
        except PipebusError as error:
            key = "subject" if isinstance(error, SubjectError) else None
            text = str(error)
            table.problem(f"subject = {shown(table.data['subject'])}: {text}" if key else text, key)


class Replace:
    """
    Stand-ins for a test.

    Args:
        handlers: What makes one, by the subscription's name; "*" for all others.
        filters: By name: of an instance, or of a kind, as a file writes it.
    """

    def __init__(
        self, handlers: Mapping[str, Callable[[], Any]] | None = None, filters: Mapping[str, Any] | None = None
    ) -> None:
        self.handlers = handlers or {}
        self.filters = filters or {}
        self._made: dict[str, Any] = {}

    def handler(self, name: str) -> Any:
        """One for each subscription, or None."""
        make = self.handlers.get(name, self.handlers.get("*"))
        if make is not None and name not in self._made:
            self._made[name] = make()
        return self._made.get(name)


def _opens(url: str) -> bool:
    try:
        open_transport(url)
    except PipebusError:
        return False
    return True


def _coroutine(handler: Callable[[Message[Any]], Any]) -> Any:
    async def stand_in(message: Message[Any]) -> Any:
        return handler(message)

    return stand_in
