"""
Label values for Prometheus: few, and without what belongs to a single message.

Each value of a label is a series that Prometheus keeps for weeks. Reasons are free text, and often hold an age, a number or a
name from the message; subscriptions without a name have a new one each time. So what varies is replaced, and what is left is
bounded: the first values get series of their own, and all others share "(other)".
"""

from __future__ import annotations

import re
from typing import Final

OTHER: Final = "(other)"
REASONS: Final = 20
"""The most reasons of one filter or subscription with a series of their own."""
FILTERS: Final = 200
"""The most filters with series of their own."""
SUBSCRIPTIONS: Final = 500
"""The most subscriptions with series of their own."""
FIGURES: Final = 20
"""The most figures of one filter with series of their own, and the most states."""
LONGEST: Final = 80
"""Characters of a reason."""

_QUOTED: Final = re.compile(r'"[^"]*"|(?<!\w)\'[^\']*\'(?!\w)')
_WITH_DIGITS: Final = re.compile(r"[\w.,:@/+-]*\d[\w.,:@/+-]*")
_NUMBER: Final = re.compile(r"#\d+$")


class Labels:
    """The first values of each kind; once a value is "(other)", it stays that, so that no counter goes down."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], set[str]] = {}

    def bounded(self, value: str, most: int, *kind: str) -> str:
        """The value itself, or "(other)" if there are `most` others of this kind already."""
        known = self._known.setdefault(kind, set())
        if value not in known:
            if len(known) >= most:
                return OTHER
            known.add(value)
        return value

    def reason(self, reason: str, *kind: str) -> str:
        """
        A label for a reason: `age 12.0 s > ttl 10.0 s` becomes `age # s > ttl # s`, and `no such item "tea"` becomes
        `no such item "…"`.
        """
        return self.bounded(general(reason), REASONS, "reason", *kind)

    def filter(self, name: str) -> str:
        """A label for a filter. A filter may say that another one has dropped a message, so these are bounded too."""
        return self.bounded(name, FILTERS, "filter")

    def figure(self, name: str, filter: str) -> str:
        """A label for the name of a figure; those that are "(other)" are better left out, because their sum says nothing."""
        return self.bounded(name, FIGURES, "figure", filter)

    def state(self, text: str, filter: str) -> str:
        """A label for a state, such as "open"."""
        return self.bounded(general(text), FIGURES, "state", filter)

    def subscription(self, name: str) -> str:
        """A label for a subscription: those without a name of their own share one, such as `bill#*`."""
        return self.bounded(_NUMBER.sub("#*", name), SUBSCRIPTIONS, "subscription")


def general(reason: str) -> str:
    """A reason without what differs from message to message: quoted text, and words with digits."""
    text = _WITH_DIGITS.sub("#", _QUOTED.sub('"…"', reason[: 10 * LONGEST]))
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
