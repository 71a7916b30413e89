"""The state that filters show of themselves: `bus.stats()["filters"]`, and what all who watch the bus show of it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from pipebus.delivery.chain import transforms_only
from pipebus.delivery.subscription import Subscription
from pipebus.foreign.objects import spared
from pipebus.mailbox.rare import HELD
from pipebus.pipeline.compose import Node
from pipebus.pipeline.figures import Figures, Stats, figures, stats_of
from pipebus.pipeline.routes import steps

PUBLISH: Final = "publish"
BROKEN: Final = ("open", "half_open")
"""What a filter that works as a circuit breaker shows as its `state`, while something is wrong behind it."""

Chain = tuple[Node, ...]
Telling = list[tuple[str, Stats]]
ByName = dict[str, Figures]
"""By the name of the filter. The second one of a name in a chain is called "name 2"."""


class FilterStats:
    """
    What those filters of one bus say that define `stats(place)`. One whose `stats` fail is left out, and the error is logged.

    Args:
        bus: The parts of the bus: `router`, `delivery_nodes`, `subscriptions`, `ledger`.
    """

    def __init__(self, bus: Any) -> None:
        self._parts = bus
        self._known: dict[str, tuple[Chain, Telling]] = {}  # of chains that many share, with what was found in them

    def all(self) -> dict[str, ByName]:
        """By place: "publish", and the names of subscriptions; without places where no filter says anything."""
        found = {PUBLISH: filters} if (filters := self.published()) else {}
        return found | {one.name: filters for one in self._parts.subscriptions if (filters := self.around(one))}

    def published(self) -> ByName:
        """In the publish chain."""
        nodes = self._parts.router.nodes
        return self._asked(self._remembered(PUBLISH, nodes, nodes), PUBLISH)

    def around(self, one: Subscription) -> ByName:
        """In the chain of a subscription: the bus's filters, and its own."""
        nodes, own = self._parts.delivery_nodes, one.plan.nodes
        common = nodes if one.handled else transforms_only(nodes)
        if own:
            return self._asked(_telling((*common, *own)), one.name)
        return self._asked(self._remembered("handled" if one.handled else "read", nodes, common), one.name)

    def _remembered(self, kind: str, nodes: Chain, chain: Chain) -> Telling:
        """`nodes`: what `chain` is made of."""
        known = self._known.get(kind)
        if known is None or known[0] is not nodes:
            known = self._known[kind] = nodes, _telling(chain)
        return known[1]

    def _asked(self, telling: Telling, place: str) -> ByName:
        found: ByName = {}
        for name, stats in telling:
            try:
                found[name] = figures(stats, place)
            except BaseException as error:  # code of the program
                spared(error)
                self._parts.ledger.failed("filter.stats_failed", error, filter=name, subscription=place)
        return found


def broken(filters: ByName) -> list[str]:
    """The filters of a chain that are open, as "filter CircuitBreaker (open)"."""
    return [f"filter {name} ({figures['state']})" for name, figures in filters.items() if figures.get("state") in BROKEN]


def held(one: Subscription) -> bool:
    """Whether a filter pauses a subscription."""
    return one.rare is not None and one.rare.pauses >= HELD


def pausing(filters: ByName) -> list[str]:
    """What pauses a subscription that is held, by what the filters around its handler say."""
    return broken(filters) or ["a filter"]


def _telling(chain: Chain) -> Telling:
    """The filters that have `stats`, by name."""
    seen: Counter[str] = Counter()
    found: Telling = []
    for step in steps(chain):
        seen[step.name] += 1
        stats = stats_of(step.filter, step.shape)
        if stats is not None:
            found.append((step.name if seen[step.name] == 1 else f"{step.name} {seen[step.name]}", stats))
    return found
