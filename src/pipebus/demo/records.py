"""The rows of a CSV file of flights."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipebus.demo.flights import Flight
from pipebus.inputs.lines import BadInput
from pipebus.inputs.records import BadRecord, CsvRecords, Row

PACKAGED_DAY = Path(__file__).with_name("flights-2013-01-01.csv")
COLUMNS = tuple(Flight.model_fields)


class Records(CsvRecords):
    """The rows of a file with the columns of `Flight`."""

    def __init__(self, source: str | os.PathLike[str] = PACKAGED_DAY) -> None:
        super().__init__(
            source, COLUMNS, f"give a CSV file, gzip or not, whose first line names the columns {', '.join(COLUMNS)}"
        )

    def __iter__(self) -> Iterator[Row]:
        for record in super().__iter__():
            if isinstance(record, BadRecord):  # the figures of a part of a day would be wrong
                raise BadInput(str(record))
            yield record
