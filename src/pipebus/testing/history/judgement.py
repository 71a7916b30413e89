"""What a judge finds: the broken promises, and how many events there were."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Kind = Literal[
    "lost", "unexpected", "duplicate", "over_budget", "mislabelled", "double_settlement", "order", "conservation"
]  # fmt: skip


SHOWN: Final = 20
"""How many violations an error shows, and how many ids a violation names."""


class Violation(msgspec.Struct, frozen=True):
    """One broken promise; `text` names the messages."""

    kind: Kind
    text: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class HistoryBroken(AssertionError):
    """A history breaks a promise; the text lists the violations."""


class Judgement(msgspec.Struct, frozen=True):
    """
    The result of judging a history.

    Args:
        violations: In the order in which they were found; empty: every promise was kept.
        counts: How many of each: attempted, accepted, duplicates (receipts), delivered, redelivered, recovered (messages that
            were delivered without a receipt), stale (settlements after a later delivery), acknowledged, dropped, dead,
            returned, released.
    """

    violations: tuple[Violation, ...]
    counts: dict[str, int]

    def of(self, kind: Kind) -> tuple[Violation, ...]:
        """The violations of one kind."""
        return tuple(one for one in self.violations if one.kind == kind)

    def raise_if_broken(self) -> None:
        """
        Raises:
            HistoryBroken: With a line for each violation.
        """
        if self.violations:
            raise HistoryBroken(str(self))

    def __str__(self) -> str:
        figures = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        if not self.violations:
            return f"every promise was kept ({figures})"
        lines = [f"  {one}" for one in self.violations[:SHOWN]]
        if len(self.violations) > SHOWN:
            lines.append(f"  … and {len(self.violations) - SHOWN} more")
        return "\n".join([f"{len(self.violations)} broken promises ({figures}):", *lines])
