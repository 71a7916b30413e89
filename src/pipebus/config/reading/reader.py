"""
A document becomes a bus, or the list of everything that is wrong with it.

There is one pass. It makes on a bus the calls that a program would make, and reports each error at the line that it is about.
If a file has problems, its bus is discarded; it was never started.
"""

from __future__ import annotations

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.opening import check_chains
from pipebus.bus.origins import set_origin
from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.plain import Choice, Whole
from pipebus.config.problems import BROKEN
from pipebus.config.reading import tests
from pipebus.config.reading.cases import Case, Replace
from pipebus.config.reading.chains import Chains, pipeline_of
from pipebus.config.reading.document import Document
from pipebus.config.reading.subscriptions import Subscriptions
from pipebus.config.reading.table import Table
from pipebus.config.vocabulary import BUS, EVERY, ON_ERROR, TEST, VERSION
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
        self._version(top)
        bus = self._bus(top.inner("bus"))
        self.chains.read_instances(top.inner("filters"))
        for table in top.tables("pipelines"):
            self._pipeline(table, bus)
        for table in top.tables("subscriptions"):
            self.subscriptions.read(table, bus)
        for table in top.tables("every"):
            self._every(table, bus)
        tables = list(top.tables("tests"))
        self.cases = tests.read(tables, self.loading)
        tests.check_names(tables, self.cases, self.subscriptions.names, self.chains.names)
        top.end()
        if not self.document.problems:
            try:
                check_chains(engine_of(bus))
            except PipebusError as error:
                top.note(error)
        self.document.problems.check()
        engine_of(bus).from_file.hints = self._hints(bus)
        return bus

    def _hints(self, bus: Bus) -> list[str]:
        """Return sentences about what is allowed, but perhaps not meant."""
        found = [
            (self.document.line(("filters", name)), f"filters.{name} is not used in any chain")
            for name in self.chains.instances
            if name not in self.chains.used
        ]
        for subscription in bus.subscriptions:
            for pattern in map(str, subscription.patterns):
                for token in pattern.split("."):
                    if len(token) > 1 and ("*" in token or ">" in token):
                        text = (
                            f'"{pattern}" of {subscription.name}: * and > are wildcards only as whole tokens; "{token}" is not'
                        )
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
        written = table.interpolated()
        table.end()
        options = {key: value for key, value in found.items() if value is not BROKEN and key != "transport"}
        url = found["transport"] if found["transport"] is not BROKEN else "memory:"
        if self.document.lacks and not _opens(url):  # the file is read for its tests, and its URL is not known here
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
        engine_of(bus).from_file.bus = written
        engine_of(bus).url = written.get("transport", bus.url)
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

    def _every(self, table: Table, bus: Bus) -> None:
        found = table.take_all(EVERY, self.loading)
        table.end()
        if any(value is BROKEN for value in found.values()):
            return
        interval, subject, body = found.pop("interval"), found.pop("subject"), found.pop("body")
        envelope = {key: value for key, value in found.items() if value is not None and value != EVERY[key].default}
        try:
            schedule = engine_of(bus).schedules.every(table.place, interval, subject, body, **envelope)
            set_origin(schedule, table.interpolated())
        except PipebusError as error:
            key = "subject" if isinstance(error, SubjectError) else None
            text = str(error)
            table.problem(f"subject = {shown(table.data['subject'])}: {text}" if key else text, key)


def _opens(url: str) -> bool:
    try:
        open_transport(url)
    except PipebusError:
        return False
    return True
