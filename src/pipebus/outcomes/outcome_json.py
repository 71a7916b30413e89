"""What became of a published message, as JSON: for commands, and for the page."""

from __future__ import annotations

from typing import Any

from pipebus.errors import Rejected, reason_of


def outcome_json(outcome: Any, unrouted: str | None = None) -> dict[str, Any]:
    """Return a `Receipt` or `Dropped`; `unrouted` is the subject that nobody listens to, if it is known."""
    if not outcome:
        return {"outcome": "dropped", "by": outcome.by, "reason": outcome.reason}
    same = {"duplicate": True} if outcome.duplicate else {}
    if outcome.mailboxes:
        return {"outcome": "accepted", "mailboxes": outcome.mailboxes} | same
    return {"outcome": "unrouted", "mailboxes": 0} | same | ({} if unrouted is None else {"subject": unrouted})


def error_json(error: BaseException) -> dict[str, Any]:
    """Return what a publish has raised, as its outcome."""
    if isinstance(error, Rejected):
        return {"outcome": "rejected", "by": error.by, "reason": "; ".join(error.reasons)}
    return {"outcome": "failed", "reason": reason_of(error)}
