"""`pipebus graph`: the whole bus as a picture, for a terminal or (Mermaid) for a page."""

import argparse
from collections.abc import Iterator
from typing import Any

from pipebus.bus.bus import engine_of
from pipebus.cli.show import printable
from pipebus.cli.targets import add_allow, add_target, open_bus

SUMMARY = "draw the chains and subscriptions of a bus"
EXAMPLE = """\
examples:
  pipebus graph pipebus.toml --allow shop
  pipebus graph pipebus.toml --format mermaid > road.mmd     for Markdown pages, and mermaid.live
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--format", choices=("text", "mermaid"), default="text", help="text (default), or a Mermaid flowchart")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    from pipebus.bus.explain import describe_node
    from pipebus.delivery.subscription import transforms_only

    bus = open_bus(args.target, args.allow)
    described = bus.describe()
    described["readers"] = [describe_node(node) for node in transforms_only(engine_of(bus).delivery_nodes)]
    print(*(text(described) if args.format == "text" else Mermaid(described).lines()), sep="\n")
    return 0


# --- text --------------------------------------------------------------------------------------------------------------


def text(described: dict[str, Any]) -> Iterator[str]:
    """A tree: the publish chain, then each subscription with what stands around its handler."""
    for schedule in described["schedules"]:
        yield f"every {schedule['every']:g} s -> {schedule['subject']}"
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
        yield from _tree(_for_all(described, one), inside)
        yield from _tree(one["filters"], inside)
        yield f"{inside}  {_handled(one)}"


def _tree(nodes: list[dict[str, Any]], indent: str) -> Iterator[str]:
    for node in nodes:
        kind, what = _title(node)
        if kind in ("when", "branch") and not isinstance(node[kind], dict):
            what = f'"{what}"'
        yield f"{indent}  |- {what}" if kind == "filter" else f"{indent}  |- {kind} {what}".rstrip()
        if kind != "filter":
            yield from _tree(node["filters"], f"{indent}  |   ")


def _for_all(described: dict[str, Any], subscription: dict[str, Any]) -> list[dict[str, Any]]:
    """The bus's delivery filters, as far as they apply: those that wrap a handler are not for readers."""
    found: list[dict[str, Any]] = described["delivery" if subscription["handler"] else "readers"]
    return found


def _corner(last: bool) -> str:
    return "'-" if last else "|-"


def _handled(one: dict[str, Any]) -> str:
    handler = one["handler"] or "read by the program"
    workers = f", {one['workers']} workers" if one["workers"] > 1 else ""
    return f"=> {handler} ({one['run']}{workers})" + (f" -> {one['to']}" if one["to"] else "")


def _title(node: dict[str, Any]) -> tuple[str, str]:
    """(what kind of node, what it is about)"""
    if "filter" in node:
        return "filter", printable(node["filter"])
    if "pipeline" in node:
        return "pipeline", "" if node["pipeline"] == "default" else f"on_error={node['pipeline']}"
    kind = "when" if "when" in node else "branch"
    test = node[kind]
    return kind, printable(next(iter(test.values())) if isinstance(test, dict) else test)


# --- Mermaid -------------------------------------------------------------------------------------------------------------


class Mermaid:
    """A flowchart: messages go down; a detour comes back, a branch goes straight to the mailboxes."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.described = described
        self.number = 0
        self.out: list[str] = ["flowchart TD"]

    def lines(self) -> list[str]:
        start = self.box("publish", "([", "])")
        for schedule in self.described["schedules"]:
            tick = self.box(f"every {schedule['every']:g} s: {schedule['subject']}", "[/", "/]")
            self.arrow([(tick, "")], start)
        boxes: list[tuple[str, str]] = []  # where branches have to go
        ends = self.chain(self.described["publish"], [(start, "")], boxes)
        fan = self.box("mailboxes", "{{", "}}")
        self.arrow(ends + boxes, fan)
        for one in self.described["subscriptions"]:
            mailbox = self.box(f"{one['name']}: {', '.join(one['subjects'])}", "[(", ")]")
            self.arrow([(fan, "")], mailbox)
            ends = [(mailbox, "")]
            for nodes in (_for_all(self.described, one), one["filters"]):  # a branch ends in its own chain
                leave: list[tuple[str, str]] = []
                ends = self.chain(nodes, ends, leave) + leave
            self.arrow(ends, self.box(one["handler"] or "read by the program", "[[", "]]"))
        return self.out

    def chain(
        self, nodes: list[dict[str, Any]], ends: list[tuple[str, str]], leave: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """
        Draw a chain behind these ends (box, label of the arrow that leaves it).

        Returns:
            The ends of the chain; what leaves it by a branch comes to `leave`.
        """
        for node in nodes:
            kind, what = _title(node)
            if kind == "filter":
                box = self.box(what, "[", "]")
                self.arrow(ends, box)
                ends = [(box, "")]
            elif kind == "pipeline":
                ends = self.chain(node["filters"], ends, leave)
            else:
                fork = self.box(what, "{", "}")
                self.arrow(ends, fork)
                inside = self.chain(node["filters"], [(fork, "yes")], leave)
                if kind == "branch":
                    leave += inside
                    ends = [(fork, "no")]
                else:
                    ends = [*inside, (fork, "no")]
        return ends

    def box(self, text: str, begin: str, end: str) -> str:
        self.number += 1
        name = f"n{self.number}"
        quoted = text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
        self.out.append(f'    {name}{begin}"{quoted}"{end}')
        return name

    def arrow(self, ends: list[tuple[str, str]], to: str) -> None:
        for name, label in dict.fromkeys(ends):
            self.out.append(f"    {name} -->|{label}| {to}" if label else f"    {name} --> {to}")
