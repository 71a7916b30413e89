"""Walk over chains: all nodes, all filters, or the filters for one subject."""

from __future__ import annotations

from collections.abc import Iterator

from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import Branch, Fork, Switch
from pipebus.pipeline.step import Step


def walk(chain: tuple[Node, ...]) -> Iterator[Node]:
    """Every node, depth first; a container comes before its contents."""
    for node in chain:
        yield node
        yield from walk(node.nodes)


def steps(chain: tuple[Node, ...]) -> Iterator[Step]:
    """The filters among `walk`."""
    return (node for node in walk(chain) if isinstance(node, Step))


def filters_for(chain: tuple[Node, ...], subject: object) -> list[Step]:
    """The filters that a message published on `subject` may pass; after a rerouter, the filters for any subject."""
    found: list[Step] = []

    def go(chain: tuple[Node, ...], certain: bool) -> tuple[bool, bool]:
        """Returns (no rerouter so far, a branch skips the rest for certain)."""
        for node in chain:
            if isinstance(node, Step):
                found.append(node)
                certain = certain and not node.traits.reroutes
                continue
            if isinstance(node, Switch):
                certain, left = cases(node, certain)
                if left:
                    return certain, True
                continue
            decided = None
            if not isinstance(node, Fork):
                decided = True
            elif certain:
                decided = node.test.decide(subject)
            if decided is False:
                continue
            certain, left = go(node.nodes, certain)
            if decided and (left or isinstance(node, Branch)):
                return certain, True
        return certain, False

    def cases(switch: Switch, certain: bool) -> tuple[bool, bool]:
        """`go` for the cases of a switch: those after one that is certainly taken do not count."""
        after, only = certain, True
        for case in switch.nodes:
            decided = case.test.decide(subject) if certain else None
            if decided is False:
                continue
            stays, left = go(case.nodes, certain)
            after = after and stays
            if decided:
                return after, left and only
            only = False
        return after, False

    go(chain, True)
    return found
