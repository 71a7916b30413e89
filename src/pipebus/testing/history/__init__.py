"""What was published, delivered and settled: recorded while it happens, and judged afterwards."""

from pipebus.testing.history.history import History
from pipebus.testing.history.judge import HistoryBroken, Judgement, Violation
from pipebus.testing.history.records import Accepted, Attempted, Delivered, Ended, Figures, Kept, Replayed, Settled, Subscribed

__all__ = [
    "Accepted", "Attempted", "Delivered", "Ended", "Figures", "History", "HistoryBroken", "Judgement", "Kept", "Replayed",
    "Settled", "Subscribed", "Violation",
]  # fmt: skip
