"""
The demo: a day of real departures through a real chain, read it from top to bottom.

    flights.raw ─ Log ─ Validate ─ to_departure ─ Reroute ─► flights.EWR.UA ─┬─► delays   (every departure)
                           │                                 flights.JFK.B6  └─► alerts   (an hour late or more)
                           └─► Rejected, with its reason

    a request, "UA" ─ Log ─► carriers ─► its reply, what `delays` has found on that carrier

The reader (`records.py`) publishes raw rows and counts nothing. Every figure comes from a subscriber or from
`bus.stats()`.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from pipebus.bus.bus import Bus
from pipebus.delivery.actor import Actor
from pipebus.demo.flights import Band, Departure, Flight, to_departure
from pipebus.errors import Rejected
from pipebus.filters.log import Log
from pipebus.filters.reroute import Reroute
from pipebus.filters.validate import Validate
from pipebus.inputs.records import Row
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.forks import when
from pipebus.pipeline.shapes import transform

USES_THE_BUS: Final = True  # its lines are places of registration, as a program's are

RAW = "flights.raw"
DEPARTURES = "flights.*.*"
CARRIERS = "carriers"


class Demo:
    """
    The bus of the demo with its subscribers.

    Args:
        url: The transport.
        gate: The filters that judge raw records, if not `Validate`; without any one sees what it is good for.
    """

    def __init__(self, url: str = "memory:", *, gate: Sequence[Any] | None = None) -> None:
        self.bus = bus = Bus(url)
        self.delays = Delays()
        self.alerts = Alerts()

        bus.use(Log())
        bus.use(*([Validate({RAW: Flight})] if gate is None else gate))
        # Only raw records: requests and their replies pass untouched.
        bus.use(when(RAW, to_departure, Reroute("flights.{body.origin}.{body.carrier}")))
        bus.subscribe(DEPARTURES, self.delays.add, name="delays")
        # A filter of a subscription sees bodies as the transport brings them, and some bring plain JSON.
        typed = Validate({DEPARTURES: Departure})
        bus.subscribe(DEPARTURES, self.alerts.add, name="alerts", filters=[typed, only_alerts])
        bus.spawn(Carriers(self.delays))

    def publish(self, records: Iterable[Row]) -> None:
        """Publish each record and wait until all that was accepted has been handled. A refused record is no error."""
        for record in records:
            try:
                self.bus.publish(RAW, record)
            except Rejected:
                continue
        self.bus.drain()

    def counts(self) -> dict[str, Any]:
        """What became of the messages so far; may be asked at any time."""
        stats = self.bus.stats()
        reasons: Counter[str] = Counter()
        for counted in stats["rejected"].values():
            reasons.update(counted)
        return {
            "published": stats["published"],
            "accepted": stats["accepted"],
            "rejected": reasons.total(),
            "reasons": dict(reasons.most_common()),
        }

    def figures(self) -> dict[str, Any]:
        """What the run found, JSON-able. To be asked when `publish` has returned: before, the subscribers are at work."""
        carriers = sorted(self.delays.carriers.items())
        return self.counts() | {
            "alerts": self.alerts.count,
            "subjects": len(self.delays.subjects),
            "carriers": {code: {"flights": c.flights, "mean_arrival_delay": c.mean} for code, c in carriers},
        }

    def carrier(self, code: str) -> "Carrier":
        """
        One carrier's figures, by a request: while the bus is started, and (as `figures`) when `publish` has returned.

        Raises:
            RequestFailed: there is no such carrier. Its text says which there are.
        """
        reply = self.bus.request(CARRIERS, code)
        carrier: Carrier = TypeAdapter(Carrier).validate_python(reply.body)
        return carrier


@transform
def only_alerts(message: Message[Departure]) -> Message[Departure] | Dropped:
    """A filter of one subscription alone: it sees every departure, its handler those that are an hour late."""
    return message if message.body.band is Band.ALERT else Dropped("not late enough")


@dataclass
class Carrier:
    """What is kept of one carrier: sums, so that a year takes no more room than a day."""

    flights: int = 0
    delay: int = 0
    bands: Counter[Band] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """Mean arrival delay in minutes."""
        return round(self.delay / self.flights, 3) if self.flights else 0.0

    @property
    def alerts(self) -> int:
        """How many of its flights were an hour late or more."""
        return self.bands[Band.ALERT]

    @property
    def late(self) -> int:
        """How many of its flights were late in the Bureau's sense: by fifteen minutes or more."""
        return self.bands[Band.LATE] + self.bands[Band.ALERT]


class Delays:
    """Subscriber, run on a worker thread: the mean arrival delay by carrier."""

    def __init__(self) -> None:
        self.carriers: defaultdict[str, Carrier] = defaultdict(Carrier)
        self.subjects: set[str] = set()

    def add(self, message: Message[Departure]) -> None:
        departure = message.body
        carrier = self.carriers[departure.carrier]
        carrier.flights += 1
        carrier.delay += departure.arr_delay
        carrier.bands[departure.band] += 1
        self.subjects.add(message.subject)


class Carriers(Actor):
    """Actor: answers a request for a carrier's figures, whose body is the carrier's code."""

    def __init__(self, delays: Delays) -> None:
        super().__init__(CARRIERS)
        self.delays = delays

    def on_message(self, code: str) -> Carrier:
        known = self.delays.carriers
        if code not in known:
            raise LookupError(f"no flight of {code!r} was accepted; there are {', '.join(sorted(known)) or 'none'}")
        return deepcopy(known[code])  # in memory, whoever asks gets the very object that we return


class Alerts:
    """Subscriber, run on an event loop: counts what it gets and keeps the worst few."""

    KEPT = 3

    def __init__(self) -> None:
        self.count = 0
        self._worst: list[tuple[int, int, Departure]] = []

    async def add(self, departure: Departure) -> None:
        self.count += 1
        heapq.heappush(self._worst, (departure.arr_delay, -self.count, departure))
        if len(self._worst) > self.KEPT:
            heapq.heappop(self._worst)

    @property
    def worst(self) -> list[Departure]:
        """The most delayed, worst first; of equals the one that came first."""
        return [departure for _, _, departure in sorted(self._worst, reverse=True)]
