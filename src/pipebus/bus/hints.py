"""
What `pipebus check` says about a bus that has no problem so far: filters in an order that is hardly meant, filters that some
messages skip, handlers that publish to each other in a loop, and filters that the transport cannot serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pipebus.bus.engine import Engine
from pipebus.bus.explain import place_text
from pipebus.bus.order import named, swaps, unhidden
from pipebus.delivery.subscription import Subscription
from pipebus.message.patterns import Pattern
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import Branch, Case, Fork
from pipebus.pipeline.places import Place
from pipebus.pipeline.routes import filters_for, steps
from pipebus.pipeline.step import Step


class Hint(NamedTuple):
    place: Place
    text: str

    def __str__(self) -> str:
        return f"{place_text(self.place)}: hint: {self.text}"


def hints(engine: Engine) -> list[Hint]:
    """What is allowed, but perhaps not meant, in the order of the lines."""
    orders = (Hint(*found) for found in (*swaps(engine), *unhidden(engine)))
    skipped = (hint for chain in _chains(engine) for hint in _skipped(chain))
    return sorted({*_loops(engine), *_stars(engine), *orders, *skipped})


def _stars(engine: Engine) -> Iterator[Hint]:
    """Tokens that look like wildcards."""
    for one in engine.router.subscriptions():
        for pattern in (str(pattern) for pattern in one.patterns if isinstance(pattern, (str, Pattern))):
            for token in pattern.split("."):
                if token == "#" or (len(token) > 1 and not {"*", ">"}.isdisjoint(token)):
                    rule = "the wildcards are * and >, and only as whole tokens"
                    yield Hint(one.place, f'"{pattern}" of {one.name}: {rule}; "{token}" is not one')


def refusals(engine: Engine) -> list[Hint]:
    """What the start of the bus refuses although the chains are right: filters that this transport cannot serve."""
    if engine.transport.capabilities.memory:
        return []
    text = f"{engine.url} keeps no memory for filters, which it needs; use a store that does, such as sqlite:///bus.db"
    return sorted({
        Hint(step.place, f"filter {step.name} cannot start: {text}")
        for chain in _chains(engine) for step in steps(chain) if step.traits.wants_memory
    })  # fmt: skip


def _chains(engine: Engine) -> list[tuple[Node, ...]]:
    own = {id(one.plan.nodes): one.plan.nodes for one in engine.router.subscriptions()}
    return [engine.router.nodes, engine.delivery_nodes, *own.values()]


# --- filters that are skipped --------------------------------------------------------------------------------------------


class _Placed(NamedTuple):
    """A node of a chain, with the forks around it."""

    node: Node
    forks: tuple[Fork, ...]

    def within(self, fork: Node) -> bool:
        return any(one is fork for one in self.forks)


def _placed(chain: tuple[Node, ...], forks: tuple[Fork, ...] = ()) -> Iterator[_Placed]:
    for node in chain:
        yield _Placed(node, forks)
        yield from _placed(node.nodes, (*forks, node) if isinstance(node, Fork) else forks)


def _skipped(chain: tuple[Node, ...]) -> Iterator[Hint]:
    """The filters that a branch or a change of the subject skips."""
    placed = list(_placed(chain))
    for index, one in enumerate(placed):
        later = [other for other in placed[index + 1 :] if not _exclusive(one, other)]
        if isinstance(one.node, Branch):
            forks = (*one.forks, one.node)
            skipped: list[Node] = [
                other.node
                for other in later
                if isinstance(other.node, Step)
                and not other.within(one.node)
                and _meet(_patterns(forks), _patterns(other.forks))
            ]
            if skipped:
                yield Hint(one.node.place, f"what takes {one.node.name} skips the filters after it: {named(skipped)}")
        elif isinstance(one.node, Step) and one.node.traits.reroutes and not one.node.traits.repeats:
            # One that repeats, such as Fallback, has run the blocks for the old subject before it changes it.
            to = one.node.traits.reroutes_to
            skipped = _for_old_subjects(one, later, to)
            if skipped:
                what = "may change subjects to others that skip blocks after it"
                if to is not None:
                    what = f'changes subjects to "{to}", so what it reroutes skips blocks after it'
                text = f"{one.node.name} {what}: {named(skipped)}; put them in front of it, or match the new subjects"
                yield Hint(one.node.place, text)


def _for_old_subjects(rerouter: _Placed, later: list[_Placed], to: Pattern | None) -> list[Node]:
    """The forks that match subjects which the rerouter takes, and none that it gives."""
    old = _patterns(rerouter.forks)
    skipped: list[Node] = []
    for other in later:
        pattern = other.node.test.pattern if isinstance(other.node, Fork) else None
        if pattern is None or any(other.within(fork) for fork in skipped):
            continue
        # A rerouter for all subjects, to unknown ones, says nothing about what comes after it.
        apart = not pattern.overlaps(to) if to is not None else bool(old)
        if apart and _meet(old, [pattern]) and all(other.within(f) for f in rerouter.forks if isinstance(f, Branch)):
            skipped.append(other.node)
    return skipped


def _exclusive(one: _Placed, other: _Placed) -> bool:
    """Whether they are in different cases of a switch, so that no message passes both."""
    forks = (*other.forks, other.node) if isinstance(other.node, Fork) else other.forks
    return any(isinstance(fork, Case) and any(map(fork.excludes, forks)) for fork in (*one.forks, one.node))


def _patterns(forks: tuple[Fork, ...]) -> list[Pattern]:
    return [fork.test.pattern for fork in forks if fork.test.pattern is not None]


def _meet(some: list[Pattern], others: list[Pattern]) -> bool:
    return all(one.overlaps(other) for one in some for other in others)


# --- loops ---------------------------------------------------------------------------------------------------------------


def _loops(engine: Engine) -> Iterator[Hint]:
    """Subscriptions whose returned values come back to themselves, as far as literal subjects show it."""
    subscriptions = sorted(engine.router.subscriptions(), key=lambda one: one.name)
    goes = {one.name: _listeners(engine, one) for one in subscriptions}
    seen: set[frozenset[str]] = set()
    for one in subscriptions:
        way = _way_back(one, goes)
        names = frozenset(each.name for each in way)
        if not way or names in seen:
            continue
        seen.add(names)
        circle = "".join(f'{each.name} -> "{each.plan.to}" -> ' for each in way) + one.name
        yield Hint(
            one.place,
            f"what these handlers return goes round in a loop: {circle}; unless one of them returns None, each message is "
            f"passed on {engine.max_hops} times and becomes a dead letter",
        )


def _listeners(engine: Engine, subscription: Subscription) -> list[Subscription]:
    to: Any = subscription.plan.to
    if not isinstance(to, str) or any(step.traits.reroutes for step in filters_for(engine.router.nodes, to)):
        return []
    return sorted(engine.listeners(to), key=lambda one: one.name)


def _way_back(start: Subscription, goes: dict[str, list[Subscription]]) -> list[Subscription]:
    """The shortest way from a subscription back to itself; empty if there is none."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        for after in goes[way[-1].name]:
            if after is start:
                return way
            if after.name not in seen:
                seen.add(after.name)
                ways.append([*way, after])
    return []
