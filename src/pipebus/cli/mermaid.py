"""A bus as a Mermaid flowchart."""

from typing import Any

from pipebus.cli.described import filters_around, times_of, title_of
from pipebus.values.defaults import MAILBOX_SIZE, OVERFLOW


class Mermaid:
    """A flowchart: messages flow down; a detour returns to the chain, a branch leads straight to the mailboxes."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.described = described
        self.number = 0
        self.out: list[str] = ["flowchart TD"]

    def lines(self) -> list[str]:
        start = self.box("publish", "([", "])")
        for schedule in self.described["schedules"]:
            tick = self.box(f"{times_of(schedule)}: {schedule['subject']}", "[/", "/]")
            self.arrow([(tick, "")], start)
        boxes: list[tuple[str, str]] = []  # ends that lead to the mailboxes
        ends = self.chain(self.described["publish"], [(start, "")], boxes)
        fan = self.box("mailboxes", "{{", "}}")
        self.arrow(ends + boxes, fan)
        for one in self.described["subscriptions"]:
            rule = (one["mailbox"]["overflow"], one["mailbox"]["size"])
            room = "" if rule == (OVERFLOW, MAILBOX_SIZE) else f" ({rule[0]} at {rule[1]:,})"
            mailbox = self.box(f"{one['name']}: {', '.join(one['subjects'])}{room}", "[(", ")]")
            self.arrow([(fan, "")], mailbox)
            ends = [(mailbox, "")]
            for nodes in (filters_around(self.described, one), one["filters"]):  # a branch here ends its own chain only
                leave: list[tuple[str, str]] = []
                ends = self.chain(nodes, ends, leave) + leave
            handler = self.box(one["handler"] or "read by the program", "[[", "]]")
            self.arrow(ends, handler)
            if one["to"]:
                self.arrow([(handler, one["to"])], start)
        return self.out

    def chain(
        self, nodes: list[dict[str, Any]], ends: list[tuple[str, str]], leave: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Draw a chain after these ends (box, label), and return its own; `leave` receives those of its branches."""
        for node in nodes:
            kind, what = title_of(node)
            if kind == "filter":
                box = self.box(what, "[", "]")
                self.arrow(ends, box)
                ends = [(box, "")]
            elif kind in ("pipeline", "otherwise"):
                ends = self.chain(node["filters"], ends, leave)
            elif kind == "switch":
                ends = self.cases(node["filters"], ends, leave)
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

    def cases(
        self, cases: list[dict[str, Any]], ends: list[tuple[str, str]], leave: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """`chain` for the cases of a switch: each question is put to what the ones before have answered with no."""
        done: list[tuple[str, str]] = []
        for case in cases:
            kind, what = title_of(case)
            if kind == "otherwise":
                return done + self.chain(case["filters"], ends, leave)
            fork = self.box(what, "{", "}")
            self.arrow(ends, fork)
            done += self.chain(case["filters"], [(fork, "yes")], leave)
            ends = [(fork, "no")]
        return done + ends

    def box(self, text: str, begin: str, end: str) -> str:
        self.number += 1
        name = f"n{self.number}"
        quoted = text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
        self.out.append(f'    {name}{begin}"{quoted}"{end}')
        return name

    def arrow(self, ends: list[tuple[str, str]], to: str) -> None:
        for name, label in dict.fromkeys(ends):
            self.out.append(f"    {name} -->|{label}| {to}" if label else f"    {name} --> {to}")
