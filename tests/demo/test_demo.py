"""The demo: one record by itself, the whole day, and what happens without its gate."""

import asyncio
import csv
import gzip
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipebus.demo import RAW, Alerts, Demo
from pipebus.demo.flights import Band, Departure, Flight, departure_of, to_departure
from pipebus.demo.records import COLUMNS, PACKAGED_DAY, Records
from pipebus.errors import RequestFailed
from pipebus.inputs.lines import BadInput
from pipebus.inputs.records import Row
from pipebus.message.message import Message
from pipebus.pipeline.shapes import transform
from tables import table


def row(**changes: object) -> Row:
    """A raw record: on time, from Newark to Houston, on 1 January 2013."""
    record = {
        "year": "2013",
        "month": "1",
        "day": "1",
        "dep_time": "1200",
        "sched_dep_time": "1200",
        "dep_delay": "0",
        "arr_time": "1500",
        "sched_arr_time": "1500",
        "arr_delay": "0",
        "carrier": "UA",
        "flight": "1",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
    }
    return record | {name: str(value) for name, value in changes.items()}


def departure(**changes: object) -> Departure:
    return departure_of(Flight.model_validate(row(**changes)))


def reasons(**changes: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Flight.model_validate(row(**changes))
    return [error["msg"] for error in caught.value.errors()]


@pytest.fixture
def day() -> Iterator[Records]:
    with Records() as records:
        yield records


class TestFlight:
    @table(
        ("changes", "reason"),
        [
            pytest.param({"dep_time": "NA"}, "no departure time", id="cancelled"),
            pytest.param({"arr_delay": "NA"}, "no arrival delay", id="diverted"),
            pytest.param({"arr_time": "NA"}, "no arrival time", id="arrival not recorded"),
            pytest.param({"origin": "NA"}, "no origin", id="a field without a title"),
            pytest.param({"dep_time": 2401}, "not a time between 0 and 2400, written HHMM", id="past midnight"),
            pytest.param({"arr_time": 1260}, "not a time between 0 and 2400, written HHMM", id="sixty minutes"),
            pytest.param({"dep_time": -5}, "not a time between 0 and 2400, written HHMM", id="negative"),
            pytest.param({"month": 2, "day": 30}, "no such day in the calendar", id="30 February"),
        ],
    )
    def test_a_record_that_cannot_be_used_says_why(self, changes: dict[str, object], reason: str) -> None:
        """A user who reads the rejection knows what was wrong without opening the file."""
        assert reasons(**changes) == [reason]

    def test_a_cancelled_flight_is_refused_for_one_reason(self) -> None:
        """A cancelled flight lacks everything; the one reason is the one that describes it, so that reasons can be counted."""
        found = reasons(dep_time="NA", dep_delay="NA", arr_time="NA", arr_delay="NA")

        assert found == ["no departure time"]

    @table("origin", ["", "E.R", "*", "EWRX", "ewr"])
    def test_an_origin_that_is_no_airport_code_is_refused(self, origin: str) -> None:
        """The origin and the carrier become tokens of a subject, so no other text may pass."""
        assert len(reasons(origin=origin)) == 1


class TestDeparture:
    @table(
        ("changes", "departed", "arrived"),
        [
            pytest.param({}, "2013-01-01 12:00", "2013-01-01 15:00", id="same day"),
            pytest.param({"dep_time": 5, "arr_time": 159}, "2013-01-01 00:05", "2013-01-01 01:59", id="short times"),
            pytest.param(
                {"sched_dep_time": 2200, "dep_time": 2215, "dep_delay": 15, "arr_time": 2400},
                "2013-01-01 22:15",
                "2013-01-02 00:00",
                id="arrives at 2400",
            ),
            pytest.param(
                {"sched_dep_time": 2359, "dep_time": 2400, "dep_delay": 1, "arr_time": 445},
                "2013-01-02 00:00",
                "2013-01-02 04:45",
                id="departs at 2400",
            ),
            pytest.param(
                {"sched_dep_time": 2245, "dep_time": 2253, "dep_delay": 8, "arr_time": 217},
                "2013-01-01 22:53",
                "2013-01-02 02:17",
                id="arrives on the next day",
            ),
            pytest.param(
                {"sched_dep_time": 2135, "dep_time": 26, "dep_delay": 171, "arr_time": 314},
                "2013-01-02 00:26",
                "2013-01-02 03:14",
                id="so late that it departs on the next day",
            ),
            pytest.param(
                {"sched_dep_time": 2300, "dep_time": 2200, "dep_delay": 1380, "arr_time": 30},
                "2013-01-02 22:00",
                "2013-01-03 00:30",
                id="over two midnights",
            ),
            pytest.param(
                {"sched_dep_time": 600, "dep_time": 554, "dep_delay": -6, "arr_time": 812},
                "2013-01-01 05:54",
                "2013-01-01 08:12",
                id="early, so earlier on the clock",
            ),
            pytest.param(
                {"month": 12, "day": 31, "sched_dep_time": 2330, "dep_time": 2330, "arr_time": 10},
                "2013-12-31 23:30",
                "2014-01-01 00:10",
                id="over the end of the year",
            ),
        ],
    )
    def test_clock_times_become_real_times(self, changes: dict[str, object], departed: str, arrived: str) -> None:
        """2400 is midnight at the end of the day, and an arrival time before the departure is on the next day."""
        found = departure(**changes)

        assert found.departed == datetime.fromisoformat(departed)
        assert found.arrived == datetime.fromisoformat(arrived)

    @table(
        ("minutes", "band"),
        [
            pytest.param(-70, Band.EARLY, id="early"),
            pytest.param(-1, Band.EARLY, id="a minute early"),
            pytest.param(0, Band.ON_TIME, id="to the minute"),
            pytest.param(14, Band.ON_TIME, id="last minute of on time"),
            pytest.param(15, Band.LATE, id="first minute of late"),
            pytest.param(59, Band.LATE, id="last minute of late"),
            pytest.param(60, Band.ALERT, id="an hour"),
            pytest.param(1272, Band.ALERT, id="almost a day"),
        ],
    )
    def test_each_delay_has_its_band(self, minutes: int, band: Band) -> None:
        """A delay at a limit belongs to the later band."""
        assert departure(arr_delay=minutes).band is band

    def test_the_filter_changes_the_body_and_nothing_else(self) -> None:
        """A user who follows a message through the chain finds the same id before and after."""
        message = Message(RAW, Flight.model_validate(row()))

        forwarded = to_departure(message)

        assert forwarded == message.with_body(departure())


class TestRecords:
    def test_the_packaged_day_has_842_records(self, day: Records) -> None:
        """The package contains what SOURCE.md says."""
        assert sum(1 for _ in day) == 842
        assert day.progress == 1.0

    @pytest.mark.parametrize("name", ["day.csv.gz", "day.csv"])
    def test_gzip_is_told_by_content_not_by_name(self, tmp_path: Path, name: str) -> None:
        """A compressed file is read under any name."""
        path = tmp_path / name
        path.write_bytes(gzip.compress(PACKAGED_DAY.read_bytes()))

        with Records(path) as records:
            assert sum(1 for _ in records) == 842

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            pytest.param(b"", "is empty", id="empty"),
            pytest.param(b"a,b\n1,2\n", "no column dep_time, arr_delay", id="another table"),
            pytest.param(",".join(COLUMNS).encode(), "has a header but no records", id="header only"),
            pytest.param(
                ",".join(COLUMNS).encode() + b"\n\n1,2\n",
                ":3: 2 fields where the header has 12",
                id="broken row",
            ),
            pytest.param(",".join(COLUMNS).encode() + b'\n"1,2\n', ":2: unexpected end of data", id="open quote"),
            pytest.param(b"\x89PNG\r\n\x1a\n", "not a CSV file in UTF-8", id="picture"),
            pytest.param(b"PK\x03\x04", "is a zip archive; unpack it first", id="zip"),
            pytest.param(b"\x1f\x8b\x08rubbish", "broken gzip data", id="no gzip"),
            pytest.param(gzip.compress(PACKAGED_DAY.read_bytes())[:9000], "broken gzip data", id="cut gzip"),
        ],
    )
    def test_a_file_that_is_not_what_it_should_be_is_named(self, tmp_path: Path, content: bytes, text: str) -> None:
        """The error says which file it is, what was found, and what to give instead."""
        path = tmp_path / "input"
        path.write_bytes(content)

        with pytest.raises(BadInput) as caught, Records(path) as records:
            list(records)

        assert str(caught.value).startswith(str(path))
        assert text in str(caught.value)

    def test_a_byte_order_mark_is_no_part_of_the_first_column(self, tmp_path: Path) -> None:
        """A file that a spreadsheet saved is read like any other."""
        path = tmp_path / "input"
        path.write_bytes(b"\xef\xbb\xbf" + PACKAGED_DAY.read_bytes())

        with Records(path) as records:
            assert next(iter(records))["year"] == "2013"


class TestDemo:
    @pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"])
    def test_the_figures_of_the_packaged_day_are_true(self, day: Records, url: str) -> None:
        """The figures equal those that were worked out from the file by other means, even when every message is encoded."""
        demo = Demo(url)
        with demo.bus:
            demo.publish(day)
        figures = demo.figures()

        carriers = figures.pop("carriers")
        assert figures == {
            "published": 842,
            "accepted": 831,
            "rejected": 11,
            "reasons": {"no arrival delay": 7, "no departure time": 4},
            "alerts": 62,
            "subjects": 29,
        }
        assert carriers == by_hand()

    def test_every_delivery_is_accounted_for(self, day: Records) -> None:
        """The subscription's own filter lets the alerts through, and the rest is dropped under its name."""
        demo = Demo()
        with demo.bus:
            demo.publish(day)
            subscriptions = demo.bus.stats()["subscriptions"]

        assert subscriptions["delays"]["acknowledged"] == 831
        assert subscriptions["alerts"]["acknowledged"] == 62
        assert sum(subscriptions["alerts"]["dropped"].values()) == 831 - 62
        assert all(s["dead"] == s["pending"] == s["in_flight"] == 0 for s in subscriptions.values())

    def test_without_the_gate_nothing_comes_through(self, day: Records) -> None:
        """The chain makes records usable and not the reader, so raw rows stop at the next filter."""
        demo = Demo(gate=[])
        with demo.bus, pytest.raises(AttributeError):
            demo.publish(day)

        assert demo.figures()["accepted"] == 0

    def test_with_a_gate_that_trusts_everybody_the_figures_are_wrong(self, day: Records) -> None:
        """The figures come from what the chain lets through, so they change if NA counts as zero."""

        @transform
        def trust(message: Message[Any]) -> Message[Any]:
            known = {name: "0" if value == "NA" else value for name, value in message.body.items()}
            return message.with_body(Flight.model_validate(known))

        demo = Demo(gate=[trust])
        with demo.bus:
            demo.publish(day)
        figures = demo.figures()

        assert (figures["accepted"], figures["rejected"]) == (842, 0)
        assert figures["carriers"]["EV"] != {"flights": 112, "mean_arrival_delay": 41.366}

    def test_the_worst_alerts_are_kept_and_all_are_counted(self) -> None:
        """A year of alerts takes as much room as a day of them."""
        alerts = Alerts()

        async def add_all() -> None:
            for minutes in (70, 300, 60, 200, 100):
                await alerts.add(departure(arr_delay=minutes))

        asyncio.run(add_all())

        assert alerts.count == 5
        assert [d.arr_delay for d in alerts.worst] == [300, 200, 100]

    def test_a_plain_and_an_async_subscriber_share_the_bus(self) -> None:
        """The demo shows both: worker threads for delays, an event loop for alerts, and filters that serve both."""
        runs = {s["name"]: s["run"] for s in Demo().bus.describe()["subscriptions"]}

        assert runs == {"delays": "pool", "alerts": "loop", "carriers": "pool"}

    @pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"])
    def test_a_carriers_figures_are_told_on_request(self, day: Records, url: str) -> None:
        """The actor answers with what the subscriber has found, also when the answer is encoded."""
        demo = Demo(url)
        with demo.bus:
            demo.publish(day)
            found = {code: demo.carrier(code) for code in demo.delays.carriers}

        assert found == demo.delays.carriers
        assert {c: {"flights": f.flights, "mean_arrival_delay": f.mean} for c, f in found.items()} == by_hand()

    def test_what_was_told_is_the_askers_own(self, day: Records) -> None:
        """An answer does not change when more flights come, or when the caller changes it."""
        demo = Demo()
        with demo.bus:
            demo.publish(day)
            told = demo.carrier("UA")
            told.flights = 0
            told.bands.clear()

            assert demo.carrier("UA").flights == demo.carrier("UA").bands.total() == 164

    def test_a_carrier_that_is_not_there_is_told_which_are(self) -> None:
        """The answer to a wrong question helps the user ask the right one, and no carrier is added."""
        demo = Demo()
        with demo.bus:
            with pytest.raises(RequestFailed, match=r"no flight of 'UA' was accepted; there are none"):
                demo.carrier("UA")
            demo.publish([row(carrier="UA"), row(carrier="9E")])
            with pytest.raises(RequestFailed, match=r"no flight of 'XX' was accepted; there are 9E, UA"):
                demo.carrier("XX")

        assert set(demo.delays.carriers) == {"9E", "UA"}


def by_hand() -> dict[str, dict[str, float]]:
    """The figures by carrier, computed from the file without a bus or a model."""
    delays: dict[str, list[int]] = {}
    with PACKAGED_DAY.open(newline="") as file:
        for record in csv.DictReader(file):
            if "NA" not in (record["dep_time"], record["arr_delay"]):
                delays.setdefault(record["carrier"], []).append(int(record["arr_delay"]))
    found = {
        code: {"flights": len(minutes), "mean_arrival_delay": round(sum(minutes) / len(minutes), 3)}
        for code, minutes in sorted(delays.items())
    }
    assert found["EV"] == {"flights": 112, "mean_arrival_delay": 41.366}
    assert found["UA"] == {"flights": 164, "mean_arrival_delay": 6.268}
    assert found["DL"] == {"flights": 112, "mean_arrival_delay": -7.58}
    return found
