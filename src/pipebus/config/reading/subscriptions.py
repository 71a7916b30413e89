"""`[[subscriptions]]`: each table becomes a subscription of the bus."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from pipebus.bus.bus import Bus, engine_of
from pipebus.config.problems import BROKEN
from pipebus.config.reading.cases import Replace
from pipebus.config.reading.chains import Chains
from pipebus.config.reading.table import Table, sentences
from pipebus.config.vocabulary import Handler, Mailbox, Subscription
from pipebus.config.wording import guess, shown
from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message

_OPTIONS: Final = ("workers", "run", "attempts", "deliver", "to")
"""The keys that an error of the bus may name."""


class Subscriptions:
    """
    Args:
        incomplete: Returns True if a chain of the file is broken, so that a missing `requires` may be a consequence of that.

    Attributes:
        names: The line of each subscription's name.
    """

    def __init__(self, chains: Chains, replace: Replace, incomplete: Callable[[], bool]) -> None:
        self.chains = chains
        self.loading = chains.loading
        self.replace = replace
        self.incomplete = incomplete
        self.names: dict[str, int] = {}

    def read(self, table: Table, found: Subscription, bus: Bus) -> None:
        """Subscribe what a table describes, or report what is wrong with it."""
        name = found.name
        if name is not BROKEN and not table.check_new(name, self.names):
            name = BROKEN
        inner = self.chains.nodes(table, found.filters, "delivery")
        handler = self._handler(table, found.handler, name)
        mailbox = found.mailbox if isinstance(found.mailbox, Mailbox) else Mailbox.model_construct()
        options = {
            **{key: value for key, value in found.values().items() if key not in ("name", "subject", "handler", "filters")},
            "mailbox": found.mailbox if found.mailbox is BROKEN or isinstance(found.mailbox, int) else mailbox.size,
            "overflow": mailbox.overflow,
            "overflow_timeout": mailbox.timeout,
        }
        if any(value is BROKEN for value in (name, found.subject, handler, *options.values())) or inner is None:
            return
        stand_in = None if handler is None else self.replace.handler(name)
        # A stand-in becomes async where the filters around it are.
        handlers = [handler] if stand_in is None else [stand_in, _coroutine(stand_in)]
        for chosen in handlers:
            try:
                engine_of(bus).registry.subscribe(table.place, found.subject, chosen, name=name, filters=inner, **options)
            except PipebusError as error:
                if chosen is not handlers[-1]:
                    continue
                self._note(table, name, error)
            except Exception as error:
                table.problem(f"cannot be subscribed: {text_of(error)}")
            break
        written = {key: value for key, value in table.interpolated().items() if key != "filters"}
        if found.handler is not None and ":" not in found.handler:
            written.setdefault("handler", found.handler)
        if written:
            engine_of(bus).from_file.subscriptions[name] = written

    def _handler(self, table: Table, text: Any, name: Any) -> Any:
        """Return the function; None if the program reads the messages; or `BROKEN`."""
        if text is None or text is BROKEN:
            return text
        if isinstance(name, str) and self.replace.handler(name) is not None:
            return self.replace.handler(name)
        if ":" in text:
            return table.read(Handler, self.loading).handler
        found = self.loading.handlers.get(text)
        if found is None:
            near = guess(text, self.loading.handlers)
            remedy = near or f'; write "module:function", or pass handlers={{{shown(text)}: …}}'
            table.problem(f"no handler {shown(text)} is handed in{remedy}", "handler")
            return BROKEN
        return found

    def _note(self, table: Table, name: str, error: PipebusError) -> None:
        """Report each sentence of an error, without what the file's line says already, at the line of the key that it names."""
        ours = rf"^subscription {re.escape(name)}( \(at [^)]*\))?: | \(at {re.escape(str(table.place))}\)"
        for sentence in sentences(error):
            if self.incomplete() and " requires " in sentence:
                continue
            text = re.sub("^name=.*: ", lambda _: f"name = {shown(name)}: ", re.sub(ours, "", sentence))
            words = enumerate(re.findall(r"\w+", text))
            key = next((word for at, word in words if word in table.data and (at == 0 or word in _OPTIONS)), None)
            line = table.document.line((*table.path, *filter(None, [key])))
            table.problem_at(table.document.line_in(text) or line, text)


def _coroutine(handler: Callable[[Message[Any]], Any]) -> Any:
    async def stand_in(message: Message[Any]) -> Any:
        return handler(message)

    return stand_in
