"""`pipebus diff`: print the differences between two buses."""

import argparse
import difflib
import json
from collections.abc import Iterator
from typing import Any

from pipebus.cli.arguments import add_allow, add_target
from pipebus.cli.show import styled
from pipebus.cli.targets import open_bus

SUMMARY = "print the differences between two buses, of files or programs"
EXAMPLE = """\
examples:
  pipebus diff old.toml new.toml --allow shop
  pipebus diff pipebus.toml shop.app:bus        are the file and the program the same bus?

The settings of a filter that is not a dataclass are known only if a file gives them.

Exit code: 0 they are the same, 1 they differ.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, "a")
    add_target(parser, "b")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    a, b = (open_bus(target, args.allow).describe() for target in (args.a, args.b))
    found = list(differences(without_places(a), without_places(b)))
    for part, lines in found:
        print(styled(part, "bold"))
        for line in lines:
            print("  " + styled(line, "red" if line[0] == "-" else "green") if line[0] in "-+" else f"  {line}")
    if not found:
        print(f"{args.a} and {args.b} are the same bus")
    return 1 if found else 0


def without_places(described: dict[str, Any]) -> dict[str, Any]:
    """Return a description without the places in code and files."""
    chains = {side: _without(described[side]) for side in ("publish", "delivery")}
    return described | chains | {part: _without(described[part]) for part in ("subscriptions", "schedules")}


def _without(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: _without(value) if key == "filters" else value for key, value in one.items() if key != "place"} for one in things
    ]


def differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each part that differs, with its lines: "-" is only in the first bus, "+" only in the second."""
    bus = [
        line
        for key in dict.fromkeys(("transport", *a["bus"]))
        for line in _changed(key, a["bus"].get(key, a.get(key)), b["bus"].get(key, b.get(key)))
    ]
    if bus:
        yield "bus", bus
    for side in ("publish", "delivery"):
        lines = list(_lists(list(_chain(a[side])), list(_chain(b[side]))))
        if lines:
            yield f"{side} chain", lines
    yield from _named("subscription", a["subscriptions"], b["subscriptions"], "name")
    schedules = list(_lists([_flat(one) for one in a["schedules"]], [_flat(one) for one in b["schedules"]]))
    if schedules:
        yield "schedules", schedules


def _named(word: str, a: list[dict[str, Any]], b: list[dict[str, Any]], key: str) -> Iterator[tuple[str, list[str]]]:
    olds, news = ({one[key]: one for one in side} for side in (a, b))
    for name in sorted({*olds, *news}):
        old, new = olds.get(name), news.get(name)
        if old is None or new is None:
            sign, one = ("-", old) if new is None else ("+", new)
            one = one or {}
            yield f"{word} {name}", [f"{sign} {line}" for line in (_flat(one | {"filters": ...}), *_chain(one["filters"], 1))]
            continue
        lines = [line for part in old if part != "filters" for line in _changed(part, old[part], new[part])]
        lines += _lists(list(_chain(old["filters"])), list(_chain(new["filters"])))
        if lines:
            yield f"{word} {name}", lines


def _changed(key: str, old: Any, new: Any) -> list[str]:
    return [] if old == new else [f"- {key} = {_shown(old)}", f"+ {key} = {_shown(new)}"]


def _chain(nodes: list[dict[str, Any]], depth: int = 0) -> Iterator[str]:
    """Yield a line for each node, with its settings; the nodes inside it are indented."""
    for node in nodes:
        indent = "  " * depth
        if "filter" in node:
            what = node["is"].rpartition(":")[2] if node["is"].startswith("pipebus.filters.") else node["is"]
            called = "" if node["filter"] == what.rpartition(":")[2] else f"{node['filter']}: "
            settings = ", ".join(
                f"{key}={_shown(_one(value))}" for key, value in node["settings"].items() if _tells(key, value, node)
            )
            yield f"{indent}{called}{what}({settings})"
            continue
        kind = next(key for key in ("when", "branch", "pipeline", "switch", "otherwise") if key in node)
        yield f"{indent}{kind} {_shown(node[kind])}" if node[kind] is not True else f"{indent}{kind}"
        yield from _chain(node["filters"], depth + 1)


def _tells(key: str, value: Any, node: dict[str, Any]) -> bool:
    """True if a setting adds something to the line."""
    return value is not None and not (key == "name" and value in ("", node["filter"]))


def _one(value: Any) -> Any:
    """Return X for [X], which mean the same in settings that accept both."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _lists(old: list[str], new: list[str]) -> Iterator[str]:
    """Yield the lines that were removed and added, with one line of context."""
    for number, line in enumerate(list(difflib.unified_diff(old, new, lineterm="", n=1))[2:]):
        if not line.startswith("@@"):
            yield f"{line[0]} {line[1:]}"
        elif number:  # a gap between two changes
            yield "..."


def _flat(one: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_shown(value)}" for key, value in one.items() if value not in (None, ...))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
