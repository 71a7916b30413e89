"""
What a bad chain looks like: one function per rule, run when a chain is registered and again when a route is built.

Each rule yields sentences that name the filters, where they were registered, and what to do. A rule speaks only of what it
can prove from the nodes: a predicate may always hold, and may never hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipebus.errors import PipelineError
from pipebus.message.patterns import Pattern
from pipebus.pipeline.compose import Node, Side
from pipebus.pipeline.forks import Branch, Fork, When
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.routes import walk
from pipebus.pipeline.step import Step


@dataclass(eq=False, slots=True)
class Stand:
    """A step, with what must hold for a message to reach it."""

    step: Step
    forks: tuple[Fork, ...]  # around it, outermost first
    decided: tuple[bool, ...]  # for each of them: the subject alone decides, at build
    rerouted: bool  # a rerouter stands before it, so any subject may come
    own: bool  # of the subscription's own part, which a bus-wide branch does not leave

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What its messages' subjects match, as far as that is known."""
        return () if self.rerouted else tuple(f.test.pattern for f in self.forks if f.test.pattern is not None)

    @property
    def asked(self) -> list[Fork]:
        """The forks by predicate around it."""
        return [fork for fork in self.forks if fork.test.pattern is None]

    def left_by(self, later: Stand) -> list[Branch]:
        """The branches around it that a message would have to leave, and cannot, to come to `later`."""
        if self.own != later.own:
            return []
        return [fork for fork in self.forks if isinstance(fork, Branch) and fork not in later.forks]


def check(chain: tuple[Node, ...], side: Side, own: tuple[Node, ...] = ()) -> None:
    """
    Raise for a chain that cannot be right, whatever is sent through it.

    Args:
        own: On the delivery side, the subscription's own part, which follows.

    Raises:
        PipelineError: all that is wrong, a sentence each.
    """
    stands = [*_stands(chain, own=False), *_stands(own, own=True)]
    rules = (_unreachable(chain), _unreachable(own), _after_terminal(stands), _order(stands), _colours(stands))
    problems = [problem for rule in rules for problem in rule]
    if side == "delivery":
        problems += _delivery((*chain, *own), stands)
    else:
        problems += _no_delivery(stands)
    if problems:
        raise PipelineError("\n".join(dict.fromkeys(problems)))


def check_applicable(own: tuple[Node, ...], subjects: object, subscription: str) -> None:
    """Raise for a subscription's own detour or branch that none of its messages can take."""
    for node in walk(own):
        if isinstance(node, (When, Branch)) and node.test.decide(subjects) is False:
            on = ", ".join(map(str, subjects if isinstance(subjects, tuple) else (subjects,)))
            raise PipelineError(
                f"{_title(node)} of subscription {subscription} can never run: no message on {on} matches it; "
                "take it out, or change its pattern"
            )


def _title(node: Node) -> str:
    return f"filter {node.name} ({node.where})" if isinstance(node, Step) else f"{node.name} (at {node.place})"


def check_colour(chain: tuple[Node, ...], colour: str, why: str) -> None:
    """
    Raise for a filter that cannot run in a chain of this colour.

    Args:
        why: What gives the chain its colour, for the text, as in `handler bill is sync`.
    """
    for stand in _stands(chain, own=False):
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
        if colour == "sync" and step.traits.bounds and not step.traits.abandon:
            raise PipelineError(
                f"filter {step.name} ({step.where}) bounds the rest's time, which a sync chain can only do by leaving "
                f"the rest behind, and {why}; set abandon=True, or make the chain async"
            )


def _stands(chain: tuple[Node, ...], own: bool) -> list[Stand]:
    """Every filter of a chain, in order, with what leads to it."""
    found: list[Stand] = []

    def go(chain: tuple[Node, ...], forks: tuple[Fork, ...], decided: tuple[bool, ...]) -> None:
        for node in chain:
            # A rerouter in a branch that does not lead here has changed nothing for what comes here.
            rerouted = any(
                stand.step.traits.reroutes and not any(isinstance(f, Branch) and f not in forks for f in stand.forks)
                for stand in found
            )
            if isinstance(node, Step):
                found.append(Stand(node, forks, decided, rerouted, own))
            elif isinstance(node, Fork):
                go(node.nodes, (*forks, node), (*decided, node.test.pattern is not None and not rerouted))
            else:
                go(node.nodes, forks, decided)

    go(chain, (), ())
    return found


def meet(a: Stand, b: Stand) -> bool:
    """True if one message could pass both; `a` stands before `b`."""
    return not a.left_by(b) and all(x.overlaps(y) for x in a.patterns for y in b.patterns)


def _one_route(a: Stand, b: Stand) -> bool:
    """True if both could be compiled into one route: what only a message can decide is compiled either way."""
    for branch in a.left_by(b):
        leading = zip(a.forks[: a.forks.index(branch) + 1], a.decided, strict=False)
        if all(decided or fork in b.forks for fork, decided in leading):
            return False
    return all(x.overlaps(y) for x in a.patterns for y in b.patterns)


def _colours(stands: list[Stand]) -> Iterator[str]:
    """A plain sync filter and an async one on one road: neither a plain call nor an awaitable could run both."""
    for late, b in enumerate(stands):
        for a in stands[:late]:
            if {a.step.colour, b.step.colour} != {"sync", "async"} or not _one_route(a, b):
                continue
            sync, other = (a.step, b.step) if a.step.colour == "sync" else (b.step, a.step)
            yield (
                f"filter {sync.name} ({sync.where}) is a plain sync filter in a chain with the async filter "
                f"{other.name} ({other.where}); make it `async def`, or write it as @transform / @around"
            )


Taken = list[tuple[Branch, tuple[Pattern, ...]]]
"""Branches by pattern so far, each with all patterns that lead into it."""


def _unreachable(chain: tuple[Node, ...]) -> list[str]:
    """Nodes behind a branch that takes all that could come to them, and forks inside a pattern that excludes their own."""
    problems: list[str] = []
    rerouted = False

    def go(chain: tuple[Node, ...], patterns: tuple[Pattern, ...], taken: Taken) -> None:
        nonlocal rerouted
        for node in chain:
            if rerouted:
                return  # any subject may come here
            mine = node.test.pattern if isinstance(node, Fork) else None
            here = patterns if mine is None else (*patterns, mine)
            taker = next((branch for branch, wanted in taken if _all_covered(wanted, here)), None)
            if taker is not None:
                problems.append(
                    f"{_title(node)} stands behind {_title(taker)}, which takes all of its messages, so it can never run; "
                    f"move it in front of {taker.name}"
                )
                continue
            if isinstance(node, Step):
                rerouted = rerouted or node.traits.reroutes
                continue
            excluding = next((outer for outer in patterns if mine is not None and not outer.overlaps(mine)), None)
            if excluding is not None:
                problems.append(
                    f'{_title(node)} stands inside "{excluding}", which no subject of "{mine}" matches, '
                    "so its filters can never run; move it out, or change its pattern"
                )
                continue
            # What a branch behind a predicate takes, it takes from its neighbours there, and perhaps from nobody else.
            sure = isinstance(node, Pipeline) or mine is not None
            go(node.nodes, here, taken if sure else list(taken))
            if isinstance(node, Branch) and mine is not None and not rerouted:
                taken.append((node, here))

    go(chain, (), [])
    return problems


def _all_covered(wanted: tuple[Pattern, ...], here: tuple[Pattern, ...]) -> bool:
    """True if every subject that gets to `here` matches all of `wanted`."""
    return all(any(want.covers(have) for have in (Pattern(">"), *here)) for want in wanted)


def _after_terminal(stands: list[Stand]) -> Iterator[str]:
    """Whatever stands behind a filter that never calls on."""
    for index, stand in enumerate(stands):
        if not stand.step.traits.terminal:
            continue
        for later in stands[index + 1 :]:
            if _always_before(stand, later):
                yield (
                    f"filter {later.step.name} ({later.step.where}) can never run: {stand.step.name} "
                    f"({stand.step.where}) is terminal; move {later.step.name} in front of it"
                )


def _always_before(a: Stand, b: Stand) -> bool:
    """True if every message that comes to `b` has passed `a`, which stands before it."""
    if (a.rerouted and not b.rerouted) or any(fork not in b.forks for fork in a.asked) or a.left_by(b):
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


def _no_delivery(stands: list[Stand]) -> Iterator[str]:
    """Before the mailboxes there is no delivery that could be given back."""
    for stand in stands:
        if stand.step.traits.wants_delivery:
            yield (
                f"filter {stand.step.name} ({stand.step.where}) settles deliveries, and there are none in a publish chain; "
                'register it with at="delivery", or among the filters of a subscription'
            )


def _delivery(chain: tuple[Node, ...], stands: list[Stand]) -> list[str]:
    """What only the publish side may."""
    problems = [
        f'Pipeline (at {node.place}) has on_error="reject", but nobody waits for a delivery; '
        'it is "dead_letter" (the default) or "drop" there'
        for node in walk(chain)
        if isinstance(node, Pipeline) and node.on_error == "reject"
    ]
    return problems + [
        f"{_title(stand.step)} changes subjects, which only a publish filter may; "
        "publish the message anew from the handler, or use(…) it on the publish side"
        for stand in stands
        if stand.step.traits.reroutes
    ]
