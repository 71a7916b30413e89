"""
The demo: a day of real departures through a real chain of filters. Read it from top to bottom.

    flights.raw ─ Log ─ Validate ─ to_departure ─ Reroute ─► flights.EWR.UA ─┬─► delays   (every departure)
                           │                                 flights.JFK.B6  └─► alerts   (an hour late or more)
                           └─► Rejected, with its reason

    a request, "UA" ─ Log ─► carriers ─► its reply: the figures of `delays` for that carrier

The reader (`records.py`) publishes raw rows and counts nothing. Every figure comes from a subscriber or from
`bus.stats()`.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

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

USES_THE_BUS: Final = True  # errors name its lines as places of registration, like those of any program

RAW = "flights.raw"
DEPARTURES = "flights.*.*"
CARRIERS = "carriers"


class Demo:
    """
    The bus of the demo with its subscribers.

    Args:
        url: The transport.
        gate: The filters that check raw records, instead of `Validate`. An empty list shows what `Validate` is for.
    """

    def __init__(self, url: str = "memory:", *, gate: Sequence[Any] | None = None) -> None:
        self.bus = bus = Bus(url)
        self.delays = Delays()
        self.alerts = Alerts()

        bus.use(Log())
        bus.use(*([Validate({RAW: Flight})] if gate is None else gate))
        # Only for raw records; requests and replies pass unchanged.
        bus.use(when(RAW, to_departure, Reroute("flights.{body.origin}.{body.carrier}")))
        bus.subscribe(DEPARTURES, self.delays.add, name="delays")
        # Filters of a subscription see bodies as the transport delivers them, which may be plain JSON.
        typed = Validate({DEPARTURES: Departure})
        bus.subscribe(DEPARTURES, self.alerts.add, name="alerts", filters=[typed, only_alerts])
        bus.spawn(Carriers(self.delays))

    def publish(self, records: Iterable[Row]) -> None:
        """Publish each record, and wait until all accepted ones have been handled. A rejected record is not an error."""
        for record in records:
            try:
                self.bus.publish(RAW, record)
            except Rejected:
                continue
        self.bus.drain()

    def counts(self) -> dict[str, Any]:
        """Return what became of the messages so far. Callable at any time."""
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
        """Return the results of the run, as data of JSON. Call it only after `publish` has returned."""
        carriers = sorted(self.delays.carriers.items())
        return self.counts() | {
            "alerts": self.alerts.count,
            "subjects": len(self.delays.subjects),
            "carriers": {code: {"flights": c.flights, "mean_arrival_delay": c.mean} for code, c in carriers},
        }

    def carrier(self, code: str) -> "Carrier":
        """
        Request the figures of one carrier. Call it while the bus is started, and after `publish` has returned.

        Raises:
            RequestFailed: there is no such carrier. The text names the carriers.
        """
        return self.bus.request(CARRIERS, code, reply=Carrier).body


@transform
def only_alerts(message: Message[Departure]) -> Message[Departure] | Dropped:
    """A filter of one subscription: it sees every departure, but passes only those that are an hour late to the handler."""
    return message if message.body.band is Band.ALERT else Dropped("not late enough")


@dataclass
class Carrier:
    """The figures of one carrier: sums, so that a year needs no more memory than a day."""

    flights: int = 0
    delay: int = 0
    bands: Counter[Band] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """Mean arrival delay in minutes."""
        return round(self.delay / self.flights, 3) if self.flights else 0.0

    @property
    def alerts(self) -> int:
        """Number of flights that were an hour late or more."""
        return self.bands[Band.ALERT]

    @property
    def late(self) -> int:
        """Number of flights that were late in the Bureau's sense: by fifteen minutes or more."""
        return self.bands[Band.LATE] + self.bands[Band.ALERT]


class Delays:
    """Subscriber on a worker thread: sums up arrival delays by carrier."""

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
    """Actor: answers requests for the figures of a carrier. The body of a request is the carrier's code."""

    def __init__(self, delays: Delays) -> None:
        super().__init__(CARRIERS)
        self.delays = delays

    def on_message(self, code: str) -> Carrier:
        known = self.delays.carriers
        if code not in known:
            raise LookupError(f"no flight of {code!r} was accepted; there are {', '.join(sorted(known)) or 'none'}")
        return deepcopy(known[code])  # in memory, the requester receives the very object that we return


class Alerts:
    """Subscriber on an event loop: counts alerts, and keeps the worst few."""

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
        """The most delayed flights, worst first; among equals, the one that came first."""
        return [departure for _, _, departure in sorted(self._worst, reverse=True)]
