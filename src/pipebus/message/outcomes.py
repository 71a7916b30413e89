"""What a chain returns for a message: it was accepted, handled or dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from pipebus.errors import MessageError
from pipebus.foreign.objects import plain_text, shown


class Receipt(msgspec.Struct, frozen=True):
    """
    A publish was accepted by this many mailboxes, or by the transport's store.

    Truthy even when `mailboxes` is 0 (nobody listens). All publishes of one route may share one receipt.

    Args:
        mailboxes: How many subscriptions get it; of a duplicate: how many it would reach now.
        duplicate: A message with this id was accepted before, and this one is not kept.
        on_commit: It is part of a transaction, and exists if and only if that transaction commits.
    """

    mailboxes: int = 0
    duplicate: bool = False
    on_commit: bool = False

    def __repr__(self) -> str:
        late = ", on_commit=True" if self.on_commit else ""
        return f"Receipt(mailboxes={self.mailboxes}, duplicate={self.duplicate}{late})"

    if TYPE_CHECKING:  # true of every object; declared so that a type checker narrows `if outcome:`

        def __bool__(self) -> Literal[True]: ...


class Handled(msgspec.Struct, frozen=True):
    """
    A delivery was handled.

    Args:
        value: What the handler returned.
        forward: A message that the bus publishes before it acknowledges the delivery, in the same conversation and with a new
            id; for a filter, which cannot publish by itself in chains of both colours. If that fails, or nobody listens there,
            this is the error of the delivery.
    """

    value: Any = None
    forward: Any = None

    def __repr__(self) -> str:
        forward = f", forward={self.forward!r}" if self.forward is not None else ""
        return f"Handled(value={self.value!r}{forward})"


class Dropped(msgspec.Struct, frozen=True):
    """
    A filter or a rule ended the message on purpose. Falsy.

    Args:
        reason: Why, for a person. Drops are counted by reason, so keep ids and other unbounded values out of it.
        by: Name of the filter; the chain fills it in.
    """

    reason: str
    by: str | None = None

    def __post_init__(self) -> None:
        for name in ("reason", "by"):
            value = getattr(self, name)
            if type(value) is str or (value is None and name == "by"):
                continue
            if type(plain_text(value)) is not str:
                raise MessageError(f"Dropped: {name} is a text, found {type(value).__name__} ({shown(value)})")
            msgspec.structs.force_setattr(self, name, plain_text(value))

    def __bool__(self) -> Literal[False]:
        return False


Outcome = Receipt | Handled | Dropped
"""`Receipt` or `Dropped` on the publish side, `Handled` or `Dropped` on the delivery side."""

HANDLED: Final = Handled()
