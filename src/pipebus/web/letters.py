"""Dead letters for the page: a list to filter and to page through, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipebus.bus.bus import Bus
from pipebus.message.patterns import Pattern
from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.web.messages import WHOLE, Shown, name_text, short

PAGE: Final = 100
"""Letters in one answer."""
ERROR: Final = 1_000
"""Characters of an error in a list."""


def listed(bus: Bus, wanted: Mapping[str, str]) -> dict[str, Any]:
    """
    Return the letters that match, the newest first. It may wait for a store.

    Args:
        wanted: "subject": a pattern; "place": the name of a subscription, or "publish"; "error": a part of the error's text;
            "after": the id of the last letter of the page before.

    Raises:
        SubjectError: the pattern is malformed.
    """
    pattern = Pattern(wanted["subject"]) if wanted.get("subject") else None
    place, error = wanted.get("place") or None, wanted.get("error", "").lower()

    def matches(letter: DeadLetter) -> bool:
        subject = letter.message.subject
        return (pattern is None or (isinstance(subject, str) and pattern.matches(subject))) and error in letter.error.lower()

    found = [letter for letter in reversed(bus.dead_letters.list(place)) if matches(letter)]
    after = wanted.get("after")
    start = next((index for index, letter in enumerate(found, 1) if letter.id == after), len(found)) if after else 0
    return {"total": len(found), "letters": [_summary(letter, ERROR) for letter in found[start : start + PAGE]]}


def one(bus: Bus, shown: Shown, id: str) -> dict[str, Any]:
    """
    Return one letter, with its message and traceback.

    Raises:
        DeadLetterError: there is no such letter.
    """
    letter = bus.dead_letters.show(id)
    names = () if letter.subscription == "publish" else (letter.subscription,)
    message = shown.message(letter.message, None, names, WHOLE)
    return _summary(letter, WHOLE) | {"traceback": short(letter.traceback, WHOLE, but="\n\t"), "message": message}


def _summary(letter: DeadLetter, size: int) -> dict[str, Any]:
    return {
        "id": letter.id,
        "subject": name_text(letter.message.subject),
        "place": name_text(letter.subscription),
        "by": None if letter.by is None else name_text(letter.by),
        "error": short(letter.error, size),
        "time": letter.time,
        "attempts": letter.attempts,
    }
