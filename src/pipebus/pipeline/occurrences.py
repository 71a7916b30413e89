"""Where the filters of a chain occur: which messages can reach a filter, and which filters one message can pass."""

from __future__ import annotations

from dataclasses import dataclass

from pipebus.message.patterns import Pattern
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import Branch, Case, Fork, Switch
from pipebus.pipeline.step import Step


@dataclass(eq=False, slots=True)
class Occurrence:
    """
    A step, with what must be true for a message to reach it.

    Args:
        forks: The forks around it, outermost first.
        decided: For each of these forks, whether the subject alone decides when the chain is compiled.
        rerouted: A rerouter comes before it, so any subject may reach it.
        own: It belongs to the subscription's own part of the chain, which a branch of the bus does not skip.
    """

    step: Step
    forks: tuple[Fork, ...]
    decided: tuple[bool, ...]
    rerouted: bool
    own: bool

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The known patterns that the subject of a message must match."""
        return () if self.rerouted else tuple(f.test.pattern for f in self.forks if f.test.pattern is not None)

    def skips(self, later: Occurrence) -> list[Fork]:
        """The forks around this step but not around `later` that make a message skip `later`: branches, other cases."""
        if self.own != later.own:
            return []
        return [
            fork
            for fork in self.forks
            if (isinstance(fork, Branch) and fork not in later.forks)
            or (isinstance(fork, Case) and any(map(fork.excludes, later.forks)))
        ]


def occurrences(chain: tuple[Node, ...], own: bool) -> list[Occurrence]:
    """Every filter of a chain, in order."""
    found: list[Occurrence] = []

    def go(chain: tuple[Node, ...], forks: tuple[Fork, ...], decided: tuple[bool, ...], rerouted: bool) -> bool:
        """Returns whether a message may have another subject behind this chain."""
        for node in chain:
            if isinstance(node, Step):
                found.append(Occurrence(node, forks, decided, rerouted, own))
                rerouted = rerouted or node.traits.reroutes
            elif isinstance(node, Switch):  # no message passes two of its cases
                rerouted = any([go((case,), forks, decided, rerouted) for case in node.nodes])  # noqa: C419 (visits all)
            elif isinstance(node, Fork):
                inside = go(node.nodes, (*forks, node), (*decided, node.test.pattern is not None and not rerouted), rerouted)
                if not isinstance(node, Branch):  # a rerouter inside a branch changes nothing for messages that do not take it
                    rerouted = inside
            else:
                rerouted = go(node.nodes, forks, decided, rerouted)
        return rerouted

    go(chain, (), (), False)
    return found


def can_meet(a: Occurrence, b: Occurrence) -> bool:
    """True if one message can pass first `a`, then `b`."""
    return not a.skips(b) and _overlap(a, b)


def can_share_route(a: Occurrence, b: Occurrence) -> bool:
    """True if `a` and a later `b` can be compiled into one route. A route contains both sides of each fork by predicate."""
    for fork in a.skips(b):
        leading = zip(a.forks[: a.forks.index(fork) + 1], a.decided, strict=False)
        if all(decided or fork in b.forks for fork, decided in leading):
            return False
    return _overlap(a, b)


def always_before(a: Occurrence, b: Occurrence) -> bool:
    """True if every message that reaches `b` has passed `a`, which comes before it."""
    uncertain = [fork for fork in a.forks if fork.test.pattern is None or isinstance(fork, Case)]
    if (a.rerouted and not b.rerouted) or any(fork not in b.forks for fork in uncertain) or a.skips(b):
        return False
    return all(any(p.covers(q) for q in b.patterns) or p.text == ">" for p in a.patterns)


def _overlap(a: Occurrence, b: Occurrence) -> bool:
    return all(x.overlaps(y) for x in a.patterns for y in b.patterns)
