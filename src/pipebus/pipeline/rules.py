"""
Which chains are refused: one function for each rule. They run when a chain is registered, and again when a route is built.

Each rule yields sentences that name the filters, where they were registered, and what to do. A rule reports only what the nodes
prove; it assumes nothing about predicates, which may always or never be true.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipebus.errors import PipelineError
from pipebus.message.patterns import Pattern
from pipebus.pipeline.compose import Node, Side
from pipebus.pipeline.forks import Branch, Case, Fork, Otherwise
from pipebus.pipeline.occurrences import Occurrence, always_before, can_meet, can_share_route, occurrences
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.routes import steps, walk
from pipebus.pipeline.step import Step


def check(chain: tuple[Node, ...], side: Side, own: tuple[Node, ...] = ()) -> None:
    """
    Refuse a chain that is wrong whatever messages it gets.

    Args:
        own: On the delivery side: the subscription's own part, which follows.

    Raises:
        PipelineError: one sentence for each problem.
    """
    found = [*occurrences(chain, own=False), *occurrences(own, own=True)]
    rules = (
        _outside(chain), _outside(own), _unreachable(chain), _unreachable(own), _after_terminal(found), _order(found),
        _colours(found),
    )  # fmt: skip
    problems = [problem for rule in rules for problem in rule]
    problems += _publish_only((*chain, *own)) if side == "delivery" else _delivery_only(chain)
    if problems:
        raise PipelineError("\n".join(dict.fromkeys(problems)))


def check_applicable(own: tuple[Node, ...], subjects: object, subscription: str) -> None:
    """Refuse a `when` or `branch` of a subscription that none of its messages can take."""
    for node in walk(own):
        if isinstance(node, Fork) and node.test.decide(subjects) is False:
            on = ", ".join(map(str, subjects if isinstance(subjects, tuple) else (subjects,)))
            raise PipelineError(
                f"{_title(node)} of subscription {subscription} can never run: no message on {on} matches it; "
                "take it out, or change its pattern"
            )


def check_colour(chain: tuple[Node, ...], colour: str, why: str) -> None:
    """
    Refuse a filter that cannot run in a chain of this colour.

    Args:
        why: Why the chain has its colour, for the error, as in `handler bill is sync`.
    """
    for step in steps(chain):
        if colour == "sync" and step.colour == "async":
            raise PipelineError(
                f"{_title(step)} is async, but {why}; write it as @transform or @around, or make the handler async"
            )
        if colour == "async" and step.colour == "sync":
            raise PipelineError(
                f"{_title(step)} is a plain sync filter, but {why}; make it `async def`, or write it as @transform / @around"
            )
        if colour == "sync" and step.traits.bounds and not step.traits.abandon:
            raise PipelineError(
                f"{_title(step)} bounds the rest's time, which a sync chain can only do by leaving "
                f"the rest behind, and {why}; set abandon=True, or make the chain async"
            )


def _title(node: Node) -> str:
    return f"filter {node.name} ({node.where})" if isinstance(node, Step) else f"{node.name} (at {node.place})"


def _colours(found: list[Occurrence]) -> Iterator[str]:
    """A route cannot contain both a plain sync filter and a plain async one."""
    for index, b in enumerate(found):
        for a in found[:index]:
            if {a.step.colour, b.step.colour} != {"sync", "async"} or not can_share_route(a, b):
                continue
            sync, other = (a.step, b.step) if a.step.colour == "sync" else (b.step, a.step)
            yield (
                f"{_title(sync)} is a plain sync filter in a chain with the async filter "
                f"{other.name} ({other.where}); make it `async def`, or write it as @transform / @around"
            )


def _outside(chain: tuple[Node, ...]) -> Iterator[str]:
    """An `otherwise` that is not in a switch."""
    for node in walk(chain):
        if isinstance(node, Otherwise):
            yield f"otherwise (at {node.place}) is outside of a switch; write switch(when(…, filter), otherwise(filter))"


Taken = list[tuple[Fork, tuple[Pattern, ...]]]
"""The branches and cases by pattern so far, each with all patterns that a message must match to take it."""


def _unreachable(chain: tuple[Node, ...]) -> list[str]:
    """Nodes after a branch or case that takes all of their messages, and forks inside a fork whose pattern excludes theirs."""
    problems: list[str] = []
    rerouted = False

    def go(chain: tuple[Node, ...], patterns: tuple[Pattern, ...], taken: Taken) -> None:
        nonlocal rerouted
        for node in chain:
            if rerouted:
                return  # any subject may come here
            mine = node.test.pattern if isinstance(node, Fork) else None
            inner = patterns if mine is None else (*patterns, mine)
            taker = next((fork for fork, wanted in taken if _all_covered(wanted, inner)), None)
            if taker is not None:
                remedy = "take it out" if mine is None and isinstance(node, Case) else f"move it in front of {taker.name}"
                problems.append(
                    f"{_title(node)} comes after {_title(taker)}, which takes all of its messages, so it can never run; "
                    f"{remedy}"
                )
                continue
            if isinstance(node, Step):
                rerouted = rerouted or node.traits.reroutes
                continue
            excluding = next((outer for outer in patterns if mine is not None and not outer.overlaps(mine)), None)
            if excluding is not None:
                problems.append(
                    f'{_title(node)} is inside "{excluding}", which no subject of "{mine}" matches, '
                    "so its filters can never run; move it out, or change its pattern"
                )
                continue
            # A branch inside a fork by predicate takes messages from its neighbours there, but not for certain from others.
            certain = isinstance(node, Pipeline) or mine is not None
            go(node.nodes, inner, taken if certain else list(taken))
            if isinstance(node, (Branch, Case)) and mine is not None and not rerouted:
                taken.append((node, inner))

    go(chain, (), [])
    return problems


def _all_covered(wanted: tuple[Pattern, ...], given: tuple[Pattern, ...]) -> bool:
    """True if every subject that matches all of `given` matches all of `wanted`."""
    return all(any(want.covers(have) for have in (Pattern(">"), *given)) for want in wanted)


def _after_terminal(found: list[Occurrence]) -> Iterator[str]:
    """Filters after one that never calls the rest."""
    for index, terminal in enumerate(found):
        if not terminal.step.traits.terminal:
            continue
        for later in found[index + 1 :]:
            if always_before(terminal, later):
                yield (
                    f"{_title(later.step)} can never run: {terminal.step.name} "
                    f"({terminal.step.where}) is terminal; move {later.step.name} in front of it"
                )


def _order(found: list[Occurrence]) -> Iterator[str]:
    """A filter that `requires` a word must follow a filter that `provides` it."""
    for index, one in enumerate(found):
        for need in one.step.traits.requires:
            if any(need in s.step.traits.provides and can_meet(s, one) for s in found[:index]):
                continue
            after = [s.step for s in found[index + 1 :] if need in s.step.traits.provides and can_meet(one, s)]
            if after:
                yield (
                    f'{_title(one.step)} requires "{need}", which {after[0].name} '
                    f"({after[0].where}) provides only later; swap the two"
                )
            else:
                yield f'{_title(one.step)} requires "{need}", which no filter before it provides; add one in front of it'


def _delivery_only(chain: tuple[Node, ...]) -> list[str]:
    """What a publish chain cannot do: it has no delivery to settle."""
    return [
        f"{_title(step)} settles deliveries, and there are none in a publish chain; "
        'register it with at="delivery", or among the filters of a subscription'
        for step in steps(chain)
        if step.traits.wants_delivery
    ]


def _publish_only(chain: tuple[Node, ...]) -> list[str]:
    """What a delivery chain cannot do: it has no publisher, and the mailbox has already been chosen."""
    problems = [
        f'Pipeline (at {node.place}) has on_error="reject", but nobody waits for a delivery; '
        'it is "dead_letter" (the default) or "drop" there'
        for node in walk(chain)
        if isinstance(node, Pipeline) and node.on_error == "reject"
    ]
    return problems + [
        f"{_title(step)} changes subjects, which only a publish filter may; "
        "publish the message again from the handler, or use(…) it on the publish side"
        for step in steps(chain)
        if step.traits.reroutes and not step.traits.sees_delivery
    ]
