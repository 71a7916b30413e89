"""What was published, delivered and settled, recorded while it happens and judged afterwards."""

from pipebus.testing.history.history import (
    Accepted,
    Attempted,
    Delivered,
    Ended,
    Figures,
    History,
    HistoryBroken,
    Judgement,
    Kept,
    Replayed,
    Settled,
    Subscribed,
    Violation,
)

__all__ = [
    "Accepted",
    "Attempted",
    "Delivered",
    "Ended",
    "Figures",
    "History",
    "HistoryBroken",
    "Judgement",
    "Kept",
    "Replayed",
    "Settled",
    "Subscribed",
    "Violation",
]
