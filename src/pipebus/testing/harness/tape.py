"""What happens in a test, in order: recorded while filters and handlers run, and written as a story when it is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipebus import events
from pipebus.bus.bus import engine_of
from pipebus.errors import Rejected
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.pipeline import blame, compose
from pipebus.testing.harness.strikes import Faults, Strike
from pipebus.testing.harness.words import cut, event_words, gives, raises, returns, short

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


_first: Final[ContextVar[str | None]] = ContextVar("pipebus_first_id", default=None)
"""The id that a message had when the outermost filter around this code was given it."""


class _Seen(NamedTuple):
    """A message on its way through filters, the id that it had at first, and whether it has left the publish chain."""

    message: Message[Any]
    first: str
    left: bool


class Moment(NamedTuple):
    """One line of a story: when (seconds since the beginning), who, and what."""

    time: float
    who: str
    what: str


class Tape:
    """Records what a bus, its filters and its handlers do, with faults to inject before, after or instead of these."""

    def __init__(self, elapsed: Callable[[], float], faults: Faults) -> None:
        self.elapsed = elapsed  # returns the seconds since the beginning
        self.faults = faults
        self.moments: list[Moment] = []
        self.pauses: list[float] = []
        self.heard: list[events.Event] = []
        self.accepted: list[Message[Any]] = []  # as the last publish filter passed them on
        self.warnings: list[tuple[str, dict[str, Any], BaseException | None]] = []
        self.names: dict[str, None] = {}  # of the filters and handlers so far
        self._seen: dict[str, _Seen] = {}  # by id
        self.handled: Callable[[str, Any, BaseException | None], object] = lambda *_: None  # called when a handler ends
        self.also: Callable[[str], object] = lambda text: None  # called with each line
        self.over: Callable[[], bool] = lambda: False
        self._attached = 0
        self.loud = True  # pass the bus's warnings on to the log
        self.inside = 0  # how many filters are running
        self.listeners: list[Callable[[events.Event], object]] = []

    def attach(self, bus: Bus) -> None:
        """Record this bus from now on. Chains that are built already are built again when it starts."""
        services, ledger = engine_of(bus).services, engine_of(bus).ledger
        services.also_watch(self._watch)
        pause, apause, warn = services.pause, services.apause, ledger.warn

        def hear_pause(seconds: float, name: str, until: Any = None) -> Any:
            self._pauses(seconds, name, until)
            return pause(seconds, name, until)

        async def hear_apause(seconds: float, name: str, until: Any = None) -> Any:
            self._pauses(seconds, name, until)
            return await apause(seconds, name, until)

        def hear_warning(event: str, **facts: Any) -> None:
            self.warnings.append((event, facts, sys.exc_info()[1]))  # called where the error was caught
            if self.loud:
                warn(event, **facts)

        services.pause, services.apause = hear_pause, hear_apause  # type: ignore[method-assign,assignment]
        ledger.warn = hear_warning  # type: ignore[method-assign]
        self._attached += 1
        own = bus.name if bus.name != "pipebus" else f"bus {self._attached}"
        who = own if self._attached > 1 else "bus"
        bus.observe(lambda event: self.hear(event, who))

    def quiet(self, bus: Bus) -> None:
        """Keep this bus's own lines out of the log."""
        self.loud = False
        engine_of(bus).ledger.debug = lambda event, **facts: None  # type: ignore[method-assign]

    def say(self, who: str, what: str) -> None:
        if self.over():
            return  # how its threads and coroutines are ended does not belong to the story
        self.moments.append(Moment(self.elapsed(), who, what))
        self.also(f"{who} {what}")

    def _pauses(self, seconds: float, name: str, until: Any) -> None:
        self.pauses.append(seconds)
        self.say(name, f"waits {seconds:g} s" if until is None else f"waits for its turn, at most {seconds:g} s")

    def hear(self, event: events.Event, who: str) -> None:
        """`who`: the name of the bus, for events that have no subscription."""
        self.heard.append(event)
        line = event_words(event, who, self._latest(event))
        if line is not None:
            self.say(*line)
        for listener in self.listeners:
            listener(event)

    def _latest(self, event: events.Event) -> Any:
        """The message of an event. At the end of a publish that is the published one: return what filters made of it."""
        message: Any = getattr(event, "message", None)
        if message is None:
            return None
        if isinstance(event, (events.Published, events.Refused)) or getattr(event, "place", None) == PUBLISH:
            # A filter may have changed the id, or published other messages, whose ends were heard before this one.
            ids = [id for id, seen in self._seen.items() if message.id in (id, seen.first)]
            for id in ids:
                message = self._seen.pop(id).message
            if isinstance(event, events.Published):
                self.accepted.append(message)
        elif isinstance(event, (events.Acknowledged, events.Discarded, events.Died, events.Returned)):
            self._seen.pop(message.id, None)  # it was seen by filters of the delivery
        return message

    def _see(self, message: Any, *, left: bool = False) -> None:
        """Note a message that a filter is given, or that has left the publish chain: a delivery may begin before that ends."""
        if isinstance(message, Message):
            known = self._seen.get(message.id)
            if left or known is None or not known.left:
                self._seen[message.id] = _Seen(message, _first.get() or message.id, left)

    # --- filters and handlers ------------------------------------------------------------------------------------------

    def _watch(self, mark: blame.StepId, colour: str, link: compose.Next, names: tuple[str, ...]) -> compose.Next:
        if not names:

            def leave(message: Message[Any]) -> Any:
                self._see(message, left=True)
                return link(message)

            return leave
        handler = len(names) > 1
        name = names[0]
        self.names.update(dict.fromkeys(names))

        def struck(message: Message[Any]) -> tuple[Iterable[Strike], Iterable[Strike]]:
            """The strikes before the work, and those after it."""
            strikes = self.faults.of(names)
            return self._struck(name, mark, message, strikes, late=False), self._struck(name, mark, message, strikes, late=True)

        def sync(message: Message[Any]) -> Any:
            with self._passing(name, message, handler):
                before, after = struck(message)
                for strike in before:
                    strike.sync()
                outcome = link(message)
                for strike in after:
                    strike.sync()
            return self._ended(name, outcome, handler)

        async def asynchronous(message: Message[Any]) -> Any:
            with self._passing(name, message, handler):
                before, after = struck(message)
                for strike in before:
                    await strike.asynchronous()
                outcome = await link(message)
                for strike in after:
                    await strike.asynchronous()
            return self._ended(name, outcome, handler)

        return sync if colour == "sync" else asynchronous

    @contextmanager
    def _passing(self, name: str, message: Message[Any], handler: bool) -> Iterator[None]:
        self.say(name, f"is given {short(message)}")
        token = _first.set(None if handler else _first.get() or getattr(message, "id", None))
        if not handler:
            self._see(message)
        self.inside += not handler
        try:
            yield
        except BaseException as error:
            mark = blame.signed(error)
            own = handler or mark is None or mark.name == name
            if handler and isinstance(error, Rejected) and error.by is None:
                error.by = name  # as the subscription does when a body does not validate
            self.say(name, raises(error) if own else f"lets {type(error).__name__} pass")
            if handler:
                self.handled(name, None, error)
            raise
        finally:
            self.inside -= not handler
            with suppress(ValueError):  # a coroutine whose loop is gone is closed in another context
                _first.reset(token)

    def _ended(self, name: str, outcome: Any, handler: bool) -> Any:
        self.say(name, returns(outcome) if handler else gives(outcome))
        if handler:
            self.handled(name, outcome, None)
        return outcome

    def _struck(
        self, name: str, mark: blame.StepId, message: Message[Any], strikes: list[Strike], late: bool
    ) -> Iterator[Strike]:
        for strike in strikes:
            if strike.late == late:
                self.say(name, cut(strike.text))
                if strike.error is not None:
                    blame.blame(strike.error, mark, message)
                yield strike

    # --- reading it ----------------------------------------------------------------------------------------------------

    def since(self, first: int, began: float) -> list[Moment]:
        """The moments from this number on, with times counted from `began` (of `elapsed`)."""
        return [moment._replace(time=round(moment.time - began, 9)) for moment in self.moments[first:]]

    def text(self) -> str:
        """The story, one line for each moment."""
        return tell(self.moments)


def tell(moments: list[Moment]) -> str:
    width = max((len(moment.who) for moment in moments), default=0)
    return "\n".join(f"{moment.time:8.3f}  {moment.who:<{width}}  {moment.what}" for moment in moments)
