"""Which filters of a bus are in an order that is hardly meant: hints of `pipebus check`. The rules are in `pipeline.order`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pipebus.bus.engine import Engine
from pipebus.bus.explain import place_text
from pipebus.pipeline.compose import Node
from pipebus.pipeline.occurrences import Occurrence, occurrences
from pipebus.pipeline.order import Misplaced, misplaced
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.places import Place
from pipebus.pipeline.routes import steps, walk
from pipebus.pipeline.step import Step

MOST: Final = 5
"""How many filters a hint names."""


def swaps(engine: Engine) -> Iterator[tuple[Place, str]]:
    """One place and text for each filter and rule, though it may be broken in the chains of many subscriptions."""
    found: dict[tuple[Step, bool, str], dict[Step, Misplaced]] = {}
    for chain in _chains(engine):
        for pair in misplaced(chain):
            found.setdefault((pair.one.step, pair.too_early, pair.why), {}).setdefault(pair.other.step, pair)
    for (step, too_early, why), others in found.items():
        comes = "before" if too_early else "after"
        remedy = _remedy(step, too_early, list(others.values()))
        yield step.place, f"{step.name} comes {comes} {named(others)}; {remedy}: {why}"


def unhidden(engine: Engine) -> Iterator[tuple[Place, str]]:
    """Filters that hide fields, in pipelines of the publish chain whose dead letters are the messages that came into them."""
    for node in walk(engine.router.nodes):
        if isinstance(node, Pipeline) and node.on_error == "dead_letter":
            for step in steps(node.nodes):
                if "redacted" in step.traits.provides:
                    what = "is in a pipeline whose dead letters hold messages as they came into it"
                    yield step.place, f"{step.name} {what}; put it in front of that pipeline"


def _remedy(step: Step, too_early: bool, pairs: list[Misplaced]) -> str:
    if len(pairs) > 1:
        return f"move {step.name} {'behind' if too_early else 'in front of'} them"
    if pairs[0].one.own == pairs[0].other.own:
        return "swap the two"
    # One is registered for the bus, the other for a subscription.
    outer, inner = (pairs[0].other.step, step) if too_early else (step, pairs[0].other.step)
    return f"move {outer.name} in front of {inner.name}"


def named(nodes: Iterable[Node]) -> str:
    """Some nodes with their places, for a hint."""
    texts = [f"{node.name} ({place_text(node.place)})" for node in nodes]
    more = len(texts) - MOST
    return ", ".join(texts[:MOST]) + (f" and {more} more" if more > 0 else "")


def _chains(engine: Engine) -> Iterator[list[Occurrence]]:
    """Each chain, with the filters that a message may pass: the publish chain, and those around handlers."""
    yield occurrences(engine.router.nodes, own=False)
    subscriptions = list(engine.router.subscriptions())
    if not subscriptions:
        yield occurrences(engine.delivery_nodes, own=False)
    seen: set[object] = set()
    for one in subscriptions:
        nodes, subjects, reads = one.plan.nodes, one.subjects, one.plan.bound is None
        key = (id(nodes), subjects, reads)
        if key in seen:
            continue
        seen.add(key)
        around = occurrences(engine.delivery_nodes, own=False)
        if reads:  # only the bus's Transforms apply to readers
            around = [found for found in around if found.step.shape == "transform"]
        whole = [*around, *occurrences(nodes, own=True)]
        yield [found for found in whole if not any(fork.test.decide(subjects) is False for fork in found.forks)]
