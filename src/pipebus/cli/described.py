"""Parts of the description that `bus.describe` returns."""

from collections.abc import Iterator
from typing import Any

from pipebus.cli.show import printable


def filters_around(described: dict[str, Any], subscription: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bus's delivery filters that apply: without a handler, those that wrap a handler do not."""
    found: list[dict[str, Any]] = described["delivery" if subscription["handler"] else "readers"]
    return found


def title_of(node: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of a node and its text."""
    if "filter" in node:
        return "filter", printable(node["filter"])
    if "pipeline" in node:
        return "pipeline", "" if node["pipeline"] == "default" else f"on_error={node['pipeline']}"
    kind = next(kind for kind in ("when", "branch", "switch", "otherwise") if kind in node)
    test = node[kind]
    if test is True:
        return kind, ""
    return kind, printable(next(iter(test.values())) if isinstance(test, dict) else test)


def times_of(schedule: dict[str, Any]) -> str:
    """Return when a schedule publishes."""
    return f"every {schedule['every']:g} s" if "every" in schedule else f"cron {schedule['cron']} {schedule['timezone']}"


def filters_in(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the names of the filters of a chain, at all depths."""
    for node in nodes:
        if "filter" in node:
            yield node["filter"]
        else:
            yield from filters_in(node["filters"])
