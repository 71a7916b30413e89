"""The state that filters show of themselves: `bus.stats()["filters"]`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pipebus.delivery.subscription import Subscription
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline.compose import Node
from pipebus.pipeline.routes import steps
from pipebus.pipeline.step import Step

PUBLISH: Final = "publish"


def filter_stats(
    ledger: Ledger, publish: tuple[Node, ...], delivery: tuple[Node, ...], subscriptions: Iterable[Subscription]
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """
    What the filters that define `stats(place)` tell for each chain, as `{place: {filter: figures}}`. The second of one name in
    a chain is called "name 2". A filter whose `stats` fails is left out, and the error is logged.

    Args:
        publish, delivery: The chains of the whole bus.
    """
    found: dict[str, dict[str, Any]] = {}
    known: dict[int, list[Step]] = {}  # by chain, which many subscriptions may share
    shared = _telling(delivery)
    _add(found, ledger, PUBLISH, _telling(publish))
    for one in subscriptions:
        nodes = one.plan.nodes
        own = known[id(nodes)] if id(nodes) in known else known.setdefault(id(nodes), _telling(nodes))
        if one.handled and (shared or own):
            _add(found, ledger, one.name, [*shared, *own])
    return found


def _telling(chain: tuple[Node, ...]) -> list[Step]:
    return [
        step for step in steps(chain) if step.shape in ("transform", "around") and callable(getattr(step.filter, "stats", None))
    ]


def _add(found: dict[str, dict[str, Any]], ledger: Ledger, place: str, telling: list[Step]) -> None:
    for step in telling:
        try:
            figures = dict(step.filter.stats(place))
        except Exception as error:
            ledger.failed("filter.stats_failed", error, filter=step.name, subscription=place)
            continue
        here = found.setdefault(place, {})
        number = sum(name == step.name or name.startswith(f"{step.name} ") for name in here)
        here[step.name if not number else f"{step.name} {number + 1}"] = figures
