"""`pipebus graph`: draw a bus, as text or as a Mermaid flowchart."""

import argparse
from collections.abc import Iterator
from typing import Any

from pipebus.bus.bus import engine_of
from pipebus.bus.explain import describe_node
from pipebus.cli.arguments import add_allow, add_target
from pipebus.cli.described import filters_around, times_of, title_of
from pipebus.cli.mermaid import Mermaid
from pipebus.cli.targets import open_bus
from pipebus.delivery.chain import transforms_only

SUMMARY = "draw the chains and subscriptions of a bus"
EXAMPLE = """\
examples:
  pipebus graph pipebus.toml --allow shop
  pipebus graph pipebus.toml --format mermaid > bus.mmd     for Markdown pages and mermaid.live
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument(
        "--format", choices=("text", "mermaid"), default="text", help="text (the default) or a Mermaid flowchart"
    )
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    bus = open_bus(args.target, args.allow)
    described = bus.describe()
    described["readers"] = [describe_node(node) for node in transforms_only(engine_of(bus).delivery_nodes)]
    print(*(text(described) if args.format == "text" else Mermaid(described).lines()), sep="\n")
    return 0


def text(described: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a tree: the publish chain, then each subscription with the filters around its handler."""
    for schedule in described["schedules"]:
        yield f"{times_of(schedule)} -> {schedule['subject']}"
    yield "publish"
    yield from _tree(described["publish"], "")
    yield "  |"
    subscriptions = described["subscriptions"]
    if not subscriptions:
        yield "  '- nobody subscribes"
    for index, one in enumerate(subscriptions):
        last = index == len(subscriptions) - 1
        box = one["mailbox"]
        yield f"  {_corner(last)} {one['name']}  on {', '.join(one['subjects'])}  [{box['overflow']} at {box['size']:,}]"
        inside = "      " if last else "  |   "
        yield from _tree(filters_around(described, one), inside)
        yield from _tree(one["filters"], inside)
        yield f"{inside}  {_handled(one)}"


def _tree(nodes: list[dict[str, Any]], indent: str) -> Iterator[str]:
    for node in nodes:
        kind, what = title_of(node)
        if kind in ("when", "branch") and not isinstance(node[kind], dict):
            what = f'"{what}"'
        yield f"{indent}  |- {what}" if kind == "filter" else f"{indent}  |- {kind} {what}".rstrip()
        if kind != "filter":
            yield from _tree(node["filters"], f"{indent}  |   ")


def _corner(last: bool) -> str:
    return "'-" if last else "|-"


def _handled(one: dict[str, Any]) -> str:
    handler = one["handler"] or "read by the program"
    workers = f", {one['workers']} workers" if one["workers"] > 1 else ""
    return f"=> {handler} ({one['run']}{workers})" + (f" -> {one['to']}" if one["to"] else "")
