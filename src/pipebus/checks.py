"""
What a bad chain looks like: one function per rule, run when a chain is registered and again when a route is built.

Each rule yields sentences that name the filters, where they were registered, and what to do. A rule speaks only of what it
can prove from the nodes: a predicate may always hold, and may never hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipebus.errors import PipelineError
from pipebus.pipeline import Branch, Node, Pipeline, Side, Step, When, walk
from pipebus.subject import Pattern


@dataclass(eq=False, slots=True)
class Stand:
    """A step, with what must hold for a message to reach it."""

    step: Step
    patterns: tuple[Pattern, ...]  # of every `when` and `branch` around it; none behind a rerouter, where any subject may come
    certain: bool  # no predicate around it, no rerouter before it
    branches: tuple[Branch, ...]  # around it, outermost first


def check(chain: tuple[Node, ...], side: Side) -> None:
    """
    Raise for a chain that cannot be right, whatever is sent through it.

    Raises:
        PipelineError: all that is wrong, a sentence each.
    """
    stands = stands_of(chain)
    rules = (_unreachable(chain), _after_terminal(stands), _order(stands), _colours(stands))
    problems = [problem for rule in rules for problem in rule]
    if side == "delivery":
        problems += _delivery(chain)
    if problems:
        raise PipelineError("\n".join(dict.fromkeys(problems)))


def check_colour(chain: tuple[Node, ...], colour: str, why: str) -> None:
    """
    Raise for a filter that cannot run in a chain of this colour.

    Args:
        why: What gives the chain its colour, for the text, as in `handler bill is sync`.
    """
    for stand in stands_of(chain):
        step = stand.step
        if colour == "sync" and step.colour == "async":
            raise PipelineError(
                f"filter {step.name} ({step.where}) is async, but {why}; "
                "write it as @transform or @around, or make the handler async"
            )
        if colour == "async" and step.colour == "sync":
            raise PipelineError(
                f"filter {step.name} ({step.where}) is a plain sync filter, but {why}; "
                "make it `async def`, or write it as @transform / @around"
            )
        if colour == "sync" and step.bounds and not step.abandon:
            raise PipelineError(
                f"filter {step.name} ({step.where}) bounds the rest's time, which a sync chain can only do by leaving "
                f"the rest behind, and {why}; set abandon=True, or make the chain async"
            )


def stands_of(chain: tuple[Node, ...]) -> list[Stand]:
    """Every filter of a chain, in order, with what leads to it."""
    found: list[Stand] = []
    rerouted = False

    def go(chain: tuple[Node, ...], patterns: tuple[Pattern, ...], certain: bool, branches: tuple[Branch, ...]) -> None:
        nonlocal rerouted
        for node in chain:
            if isinstance(node, Step):
                found.append(Stand(node, () if rerouted else patterns, certain and not rerouted, branches))
                rerouted = rerouted or node.reroutes
            elif isinstance(node, Pipeline):
                go(node.nodes, patterns, certain, branches)
            else:
                mine = patterns if node.test.pattern is None else (*patterns, node.test.pattern)
                inside = (*branches, node) if isinstance(node, Branch) else branches
                go(node.nodes, mine, certain and node.test.pattern is not None, inside)

    go(chain, (), True, ())
    return found


def meet(a: Stand, b: Stand) -> bool:
    """True if one message could pass both; `a` stands before `b`."""
    if any(branch not in b.branches for branch in a.branches):
        return False  # who takes that branch never comes to b
    return all(x.overlaps(y) for x in a.patterns for y in b.patterns)


def _colours(stands: list[Stand]) -> Iterator[str]:
    """A plain sync filter and an async one on one road: neither a plain call nor an awaitable could run both."""
    for late, b in enumerate(stands):
        for a in stands[:late]:
            if {a.step.colour, b.step.colour} != {"sync", "async"} or not meet(a, b):
                continue
            sync, other = (a.step, b.step) if a.step.colour == "sync" else (b.step, a.step)
            yield (
                f"filter {sync.name} ({sync.where}) is a plain sync filter in a chain with the async filter "
                f"{other.name} ({other.where}); make it `async def`, or write it as @transform / @around"
            )


def _unreachable(chain: tuple[Node, ...]) -> list[str]:
    """Filters behind a branch that takes everything, and detours that no subject can take."""
    problems: list[str] = []
    rerouted = False

    def go(chain: tuple[Node, ...], patterns: tuple[Pattern, ...], taken: list[Branch]) -> None:
        nonlocal rerouted
        for node in chain:
            if rerouted:
                return  # any subject may come here
            mine = None if isinstance(node, (Step, Pipeline)) else node.test.pattern
            for branch in taken:
                pattern = branch.test.pattern
                if pattern is not None and any(pattern.covers(p) for p in (Pattern(">"), *patterns, *([mine] if mine else []))):
                    problems.append(
                        f"{node.name} (at {node.place}) stands behind {branch.name} (at {branch.place}), which takes all "
                        f"of its messages, so it can never run; move it in front of {branch.name}"
                    )
            if isinstance(node, Step):
                rerouted = rerouted or node.reroutes
                continue
            if mine is not None:
                problems.extend(
                    f'{node.name} (at {node.place}) stands inside "{outer}", which no subject of "{mine}" matches, '
                    "so its filters can never run; move it out, or change its pattern"
                    for outer in patterns
                    if not outer.overlaps(mine)
                )
            inside = patterns if mine is None else (*patterns, mine)
            # A branch in a pipeline, or in a detour that all take, leaves the chain for those behind the container too.
            shared = isinstance(node, Pipeline) or (isinstance(node, When) and mine is not None and mine.text == ">")
            go(node.nodes, inside, taken if shared else list(taken))
            if isinstance(node, Branch):
                taken.append(node)

    go(chain, (), [])
    return problems


def _after_terminal(stands: list[Stand]) -> Iterator[str]:
    """Whatever stands behind a filter that never calls on."""
    for index, stand in enumerate(stands):
        if not stand.step.terminal:
            continue
        for later in stands[index + 1 :]:
            if _always_before(stand, later):
                yield (
                    f"filter {later.step.name} ({later.step.where}) can never run: {stand.step.name} "
                    f"({stand.step.where}) is terminal; move {later.step.name} in front of it"
                )


def _always_before(a: Stand, b: Stand) -> bool:
    """True if every message that comes to `b` has passed `a`, which stands before it."""
    if not a.certain or any(branch not in b.branches for branch in a.branches):
        return False
    return all(any(p.covers(q) for q in b.patterns) or p.text == ">" for p in a.patterns)


def _order(stands: list[Stand]) -> Iterator[str]:
    """What a filter `requires`, some filter before it must provide."""
    for index, stand in enumerate(stands):
        for need in _words(stand.step, "requires"):
            before = [s for s in stands[:index] if need in _words(s.step, "provides") and meet(s, stand)]
            if before:
                continue
            after = [s for s in stands[index + 1 :] if need in _words(s.step, "provides") and meet(stand, s)]
            if after:
                other = after[0].step
                yield (
                    f'filter {stand.step.name} ({stand.step.where}) requires "{need}", which {other.name} '
                    f"({other.where}) provides only later; swap the two"
                )
            else:
                yield (
                    f'filter {stand.step.name} ({stand.step.where}) requires "{need}", which no filter before it '
                    "provides; add one in front of it"
                )


def _words(step: Step, attribute: str) -> tuple[str, ...]:
    value = getattr(step.filter, attribute, ())
    return (value,) if isinstance(value, str) else tuple(value)


def _delivery(chain: tuple[Node, ...]) -> list[str]:
    problems = []
    for node in walk(chain):
        if isinstance(node, Pipeline) and node.on_error == "reject":
            problems.append(
                f'Pipeline (at {node.place}) has on_error="reject", but nobody waits for a delivery; '
                'it is "dead_letter" (the default) or "drop" there'
            )
    for stand in stands_of(chain):
        if stand.step.reroutes:
            problems.append(
                f"filter {stand.step.name} ({stand.step.where}) changes subjects, which only a publish filter may; "
                "publish the message anew from the handler, or use(…) it on the publish side"
            )
    return problems
