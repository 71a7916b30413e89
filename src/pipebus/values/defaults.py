"""The defaults that several parts share: signatures, config files, mailboxes and transports read them here."""

from __future__ import annotations

from typing import Final, Literal, get_args

Overflow = Literal["block", "reject", "drop_newest", "drop_oldest"]
"""What a full mailbox does with one message more."""
OVERFLOWS: Final[tuple[Overflow, ...]] = get_args(Overflow)

MAILBOX_SIZE: Final = 10_000
"""The greatest number of messages in a mailbox, queued and in flight."""
OVERFLOW: Final[Overflow] = "block"
OVERFLOW_TIMEOUT: Final = 5.0
"""Seconds that a publisher waits for room under "block"."""
ATTEMPTS: Final = 3
"""How often a delivery is tried before it becomes a dead letter."""
WORKERS: Final = 1
DELIVER: Final = "new"
MAX_HOPS: Final = 32
"""How many handlers may pass a conversation on, one after the other."""
DEAD_LETTERS: Final = 10_000
"""The greatest number of dead letters kept in memory."""
