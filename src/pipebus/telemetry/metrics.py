"""The four metrics of the conventions. Their attributes are few: no subject that may vary, no key, no id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.metrics import Meter

from pipebus.telemetry import names


class Metrics:
    """
    Args:
        meter: Where the instruments come from.
        always: The attributes of every measurement.
    """

    def __init__(self, meter: Meter, always: Mapping[str, Any]) -> None:
        self._always = always
        self._sent = meter.create_counter(
            names.SENT_MESSAGES, names.MESSAGES, "Number of messages producer attempted to send to the broker."
        )
        self._consumed = meter.create_counter(
            names.CONSUMED_MESSAGES, names.MESSAGES, "Number of messages that were delivered to the application."
        )
        self._operation = meter.create_histogram(
            names.OPERATION_DURATION,
            names.SECONDS,
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=names.BOUNDARIES,
        )
        self._process = meter.create_histogram(
            names.PROCESS_DURATION,
            names.SECONDS,
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=names.BOUNDARIES,
        )

    def sent(self, where: Mapping[str, Any], seconds: float, error: str | None, attempted: bool) -> None:
        """
        A publish has ended.

        Args:
            where: The destination.
            error: The `error.type` if it failed.
            attempted: The message reached the mailboxes or the store. Otherwise a filter ended it.
        """
        found = self._attributes(names.SEND, where, error)
        self._operation.record(seconds, found | {names.OPERATION_TYPE: names.SEND})
        if attempted:
            self._sent.add(1, found)

    def processed(self, where: Mapping[str, Any], seconds: float, error: str | None) -> None:
        """A handler has had a message, and its delivery chain has ended."""
        found = self._attributes(names.PROCESS, where, error)
        self._process.record(seconds, found)
        self._consumed.add(1, found)

    def received(self, where: Mapping[str, Any]) -> None:
        """A reader has taken a message."""
        self._consumed.add(1, self._attributes(names.RECEIVE, where, None))

    def _attributes(self, operation: str, where: Mapping[str, Any], error: str | None) -> dict[str, Any]:
        found = {**self._always, names.OPERATION_NAME: operation, **where}
        return found if error is None else found | {names.ERROR_TYPE: error}
