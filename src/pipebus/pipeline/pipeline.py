"""A chain as a value: `Pipeline`."""

from __future__ import annotations

from typing import Any

from pipebus.errors import PipelineError
from pipebus.foreign.objects import shown
from pipebus.pipeline import links_async, links_sync
from pipebus.pipeline.compose import Build, Next, Node, OnError, fold
from pipebus.pipeline.places import caller
from pipebus.pipeline.recognise import nodes


class Pipeline(Node):
    """
    A chain as a value: filters in order, the first outermost.

    Args:
        filters: Filters of any shape, `when`, `branch`, `switch`, other pipelines.
        on_error: What happens to an error that arises in one of its own filters. Publish side: "reject" (raise it),
            "dead_letter" or "drop". Delivery side: "dead_letter" or "drop". None: as the pipeline around this one says;
            outside of any, "reject" on the publish side and "dead_letter" on the delivery side.

    Raises:
        PipelineError: naming the filter, its position, the place and the remedy.
    """

    __slots__ = ("__weakref__", "nodes", "on_error", "place")

    def __init__(self, *filters: Any, on_error: OnError | None = None) -> None:
        if on_error not in (None, "reject", "dead_letter", "drop"):
            raise PipelineError(f'Pipeline: on_error={shown(on_error)}; it is "reject", "dead_letter" or "drop"')
        self.place = caller()
        self.on_error: OnError | None = on_error
        self.nodes = nodes(filters, self.place, "Pipeline")

    @property
    def name(self) -> str:  # type: ignore[override]
        return "Pipeline"

    def link(self, next_: Next, build: Build) -> Next:
        if self.on_error is None:
            return fold(self.nodes, next_, build)
        scope = object()  # also without a guard of its own: a guard around this pipeline then leaves its errors alone
        entry = fold(self.nodes, next_, build.at(build.rest, scope))
        default = "reject" if build.side == "publish" else "dead_letter"
        if self.on_error == default or build.rule is None:
            return entry
        guard = links_sync.guard if build.colour == "sync" else links_async.aguard
        return guard(entry, scope, build.rule(self.on_error))

    def of(self, nodes: tuple[Node, ...]) -> Pipeline:
        other = Pipeline(on_error=self.on_error)
        other.nodes, other.place = nodes, self.place
        return other

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(node.name for node in self.nodes)})"
