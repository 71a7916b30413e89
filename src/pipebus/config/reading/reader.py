"""
A document becomes a bus, or the list of everything that is wrong with it.

There is one pass. It makes on a bus the calls that a program would make, and reports each error at the line that it is about.
If a file has problems, its bus is discarded; it was never started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.opening import check_chains
from pipebus.bus.origins import set_origin
from pipebus.config.kinds.base import Loading
from pipebus.config.problems import BROKEN
from pipebus.config.reading import tests
from pipebus.config.reading.cases import Case, Replace
from pipebus.config.reading.chains import Chains, pipeline_of
from pipebus.config.reading.document import Document
from pipebus.config.reading.subscriptions import Subscriptions
from pipebus.config.reading.table import Table
from pipebus.config.sections import Section
from pipebus.config.vocabulary import VERSION, File, Pipeline
from pipebus.config.wording import shown
from pipebus.errors import PipebusError, SubjectError
from pipebus.pipeline.compose import Node, Side
from pipebus.pipeline.forks import When
from pipebus.transports.opening import open_transport


class Reader:
    """
    Args:
        document: The file.
        loading: Imports that are allowed, and what the program hands in.
        replace: For tests: what replaces handlers and filters.
        kind: The class of the bus.

    Attributes:
        cases: The tests of the file, once `bus` has returned.
    """

    def __init__(self, document: Document, loading: Loading, replace: Replace | None = None, kind: type[Bus] = Bus) -> None:
        self.kind = kind
        self.document = document
        self.loading = loading
        replace = replace or Replace()
        self.chains = Chains(document, loading, replace.filters)
        self.subscriptions = Subscriptions(self.chains, replace, lambda: self.broken_chain)
        self.cases: list[Case] = []
        self.broken_chain = False

    def bus(self) -> Bus:
        """
        Return the bus that the file declares.

        Raises:
            ConfigError: with everything that is wrong.
        """
        top = Table(self.document, (), self.document.data)
        file = top.read(File, self.loading)
        if file.version not in (BROKEN, VERSION):
            top.problem(f"version = {shown(top.data['version'])}: this pipebus reads version {VERSION}", "version")
        bus = self._bus(top, file.bus)
        self.chains.read_instances(top, file.filters)
        for table, pipeline in _each(top, "pipelines", file.pipelines):
            self._pipeline(table, pipeline, bus)
        for table, subscription in _each(top, "subscriptions", file.subscriptions):
            self.subscriptions.read(table, subscription, bus)
        for table, every in _each(top, "every", file.every):
            self._schedule(table, every, engine_of(bus).schedules.every, "interval")
        for table, cron in _each(top, "cron", file.cron):
            self._schedule(table, cron, engine_of(bus).schedules.cron, "expression")
        found = list(_each(top, "tests", file.tests))
        self.cases = tests.read(found, file.every != () or file.cron != ())
        tests.check_names(found, self.subscriptions.names, self.chains.names)
        if not self.document.problems:
            try:
                check_chains(engine_of(bus))
            except PipebusError as error:
                top.note(error)
        self.document.problems.check()
        engine_of(bus).from_file.hints = self._hints()
        return bus

    def _hints(self) -> list[str]:
        """Return sentences about what is allowed, but perhaps not meant."""
        found = [
            (self.document.line(("filters", name)), f"filters.{name} is not used in any chain")
            for name in self.chains.instances
            if name not in self.chains.used
        ]
        return [f"{self.document.file}:{line}: hint: {text}" for line, text in sorted(found)]

    def _bus(self, top: Table, found: Any) -> Bus:
        if found is None or found is BROKEN:
            return self.kind()
        table = top.inner("bus")
        written = table.interpolated()
        values = found.values(given=True)
        options = {key: value for key, value in values.items() if value is not BROKEN and key not in ("transport", "telemetry")}
        url = found.transport if found.transport is not BROKEN else "memory:"
        if self.document.lacks and not _opens(url):  # the file is read for its tests, and its URL is not known here
            url = "memory:?wire=json"
            options.pop("require", None)
        try:
            bus = self.kind(url, **options)
        except PipebusError as error:
            text = str(error)
            about_require = text.startswith("require: ") or "cannot promise" in text
            key = "require" if about_require and "require" in table.data else "transport"
            table.problem(f"{key} = {shown(table.data.get(key, url))}: {text.removeprefix('require: ')}", key)
            return self.kind()
        self._instrument(table, found.telemetry, bus)
        engine_of(bus).from_file.bus = written
        engine_of(bus).url = written.get("transport", bus.url)
        return bus

    def _instrument(self, table: Table, found: Any, bus: Bus) -> None:
        if found is None or found is BROKEN or BROKEN in found.values().values():
            return
        from pipebus.telemetry.instrumenting import instrument

        try:
            instrument(bus, spans=found.spans, parent=found.parent)
        except PipebusError as error:
            table.problem(str(error), "telemetry")

    def _pipeline(self, table: Table, found: Pipeline, bus: Bus) -> None:
        side: Side = "delivery" if found.at == "delivery" else "publish"
        test, on_error = found.match, self.chains.on_error(table, found.on_error, side)
        inner = self.chains.nodes(table, found.filters, side)
        if BROKEN in (found.at, test, on_error) or inner is None:
            self.broken_chain = True
            return
        place = table.place
        nodes: tuple[Node, ...] = inner
        if test is not None:
            fork = table.guarded(lambda: When(self.chains.selector(test, "match", table), inner, place))
            if fork is BROKEN:
                return
            nodes = (fork,)
        if on_error is not None:
            nodes = (pipeline_of(nodes, on_error, place),)
        try:
            bus.use(*nodes, at=side)
        except PipebusError as error:
            if not (self.broken_chain and " requires " in str(error)):  # a broken chain may provide what this one requires
                table.note(error)

    def _schedule(self, table: Table, found: Section, add: Callable[..., Any], when: str) -> None:
        values = found.values()
        if any(value is BROKEN for value in values.values()):
            return
        given, subject, body = values.pop(when), values.pop("subject"), values.pop("body")
        defaults = {key: field.default for key, _, field in found.fields()}
        options = {key: value for key, value in values.items() if value is not None and value != defaults[key]}
        try:
            schedule = add(table.place, given, subject, body, **options)
            set_origin(schedule, table.interpolated())
        except PipebusError as error:
            if isinstance(error, SubjectError):
                table.problem(f"subject = {shown(table.data['subject'])}: {error}", "subject")
            else:
                text = str(error).removeprefix(f"{add.__name__}: ")
                key = text.partition("=")[0].replace("cron", when)
                table.problem(text, *[key] * (key in table.data))


def _each(top: Table, key: str, found: Any) -> Iterator[tuple[Table, Any]]:
    """Yield each table of an array of tables, and its model."""
    for index, model in enumerate(found if found is not BROKEN else ()):
        if model is not BROKEN:
            yield top.inner(key, index), model


def _opens(url: str) -> bool:
    try:
        open_transport(url)
    except PipebusError:
        return False
    return True
