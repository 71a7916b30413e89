"""The handlers of `pipebus.toml` next to this file: plain functions, and what they keep."""

from collections import Counter

from pipebus.demo.flights import Departure

flights: Counter[str] = Counter()  # by carrier
minutes: Counter[str] = Counter()  # arrival delays, summed


def add(departure: Departure) -> None:
    """Every departure."""
    flights[departure.carrier] += 1
    minutes[departure.carrier] += departure.arr_delay


def alert(departure: Departure) -> None:
    """Those that arrived an hour late or more. (Something would be rung here.)"""


def carrier(code: str) -> dict[str, object]:
    """Answers a request: one carrier's flights, and their mean arrival delay in minutes."""
    if code not in flights:
        raise LookupError(f"no flight of {code} was accepted")
    return {"flights": flights[code], "mean_arrival_delay": round(minutes[code] / flights[code], 3)}
