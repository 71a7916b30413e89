"""
Filters in an order that is allowed, but perhaps not meant: what `pipebus check` says to swap.

A filter declares its own rules about words that other filters `provide`: `follows = {"redacted": "why"}` and
`precedes = {"time-limited": "why"}`. So a rule is in the file of the filter that it is about, a filter of another package takes
part like a built-in one, and no filter is named here. `requires` is for what cannot work; these are for what works, but badly.

The two are not mirror images. Whatever comes after a filter that should have followed it is misplaced: with two `Redact`, a
`Log` between them shows what the second one hides. A filter that should precede another is content if there is one behind it:
in `Timeout(60), Retry(), Timeout(5)`, the outer limit is meant for all runs.

Without a rule, because they do no harm in front of a `Verify`: `SizeLimit`, `Drop` and `Expire`, which can only refuse a forged
message; `Log` and `Tap`, which only look; `Redeliver`, `Timeout` and limits without a key, which do not read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipebus.pipeline.occurrences import Occurrence, can_meet


class Misplaced(NamedTuple):
    """
    Two filters that one message may pass in the wrong order.

    Args:
        one: The filter that declares the rule.
        other: The filter that provides the word.
        too_early: `one` comes before `other`, and should follow it; otherwise it comes after `other`, and should precede it.
        why: What goes wrong, as `one` declares it.
    """

    one: Occurrence
    other: Occurrence
    too_early: bool
    why: str


def misplaced(found: list[Occurrence]) -> Iterator[Misplaced]:
    """
    The filters that would better be swapped.

    Args:
        found: The filters of a whole chain, in order.
    """
    for index, one in enumerate(found):
        if not one.step.traits.follows and not one.step.traits.precedes:
            continue
        earlier = [other for other in found[:index] if can_meet(other, one)]
        later = [other for other in found[index + 1 :] if can_meet(one, other)]
        for word, why in one.step.traits.follows:
            yield from (Misplaced(one, other, True, why) for other in later if word in other.step.traits.provides)
        for word, why in one.step.traits.precedes:
            if not any(word in other.step.traits.provides for other in later):
                yield from (Misplaced(one, other, False, why) for other in earlier if word in other.step.traits.provides)
