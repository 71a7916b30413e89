"""`pipebus filters`: list the filters that a file may use, and their settings."""

import argparse
import shutil
import textwrap
from typing import Any

from pipebus.cli import CommandError
from pipebus.cli.show import as_json, styled, table

SUMMARY = "list the filters that a config file may use, or describe one"
EXAMPLE = """\
examples:
  pipebus filters
  pipebus filters retry         the settings of this filter, and their defaults
  pipebus filters --json | jq -r .name
"""

WORDS = {
    "python": 'write { use = "python", target = "module:name" }, with the settings of a class as other keys',
    "when": 'write { when = "orders.>", filters = [ … ] }, or when = { expr = "…" }',
    "branch": 'write { branch = "orders.>", filters = [ … ] }, or branch = { expr = "…" }',
    "switch": 'write { switch = [{ when = "orders.>", filters = [ … ] }], otherwise = [ … ] }',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a filter, as a file writes it")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each filter")


def run(args: argparse.Namespace) -> int:
    from pipebus.config import catalogue
    from pipebus.config.problems import Bad
    from pipebus.config.settings import settings_of
    from pipebus.config.wording import guess

    names = catalogue.names()
    if args.name in WORDS:
        raise CommandError(f'"{args.name}" is not a filter but a form of entry: {WORDS[args.name]}')
    if args.name is not None and args.name not in names:
        there = f"; there are {', '.join(names)}"
        raise CommandError(f'no filter "{args.name}"{guess(args.name, names) or there}')
    rows: list[tuple[str, str, dict[str, Any], Any]] = []
    for name in names if args.name is None else [args.name]:
        try:
            found: Any = catalogue.find(name)
        except Bad as bad:
            rows.append((name, bad.text, {}, None))
            continue
        settings = settings_of(found) if isinstance(found, type) else {}
        rows.append((name, catalogue.summary(found), settings, found))
    if args.json:
        for name, summary, settings, _ in rows:
            print(
                as_json({"name": name, "summary": summary, "settings": {key: _as_json(one) for key, one in settings.items()}})
            )
    elif args.name is None:
        table(("filter", "does", "settings"), [(name, text, ", ".join(settings)) for name, text, settings, _ in rows], cut=True)
    else:
        _one(*rows[0])
    return 0


def _one(name: str, summary: str, settings: dict[str, Any], found: Any) -> None:
    print(f"{styled(name, 'bold')}: {summary}\n")
    if not settings:
        print("It takes no settings.")
        return
    rows = [
        (key, "needed" if one.required else _default(one.default), one.doc.replace("`", "")) for key, one in settings.items()
    ]
    width = max(len(key) for key, _, _ in rows)
    for key, default, doc in rows:
        print(f"  {key:<{width}}  {default}")
        print(*_wrapped(doc, width + 4), sep="\n")
    needed = "".join(f", {key} = …" for key, one in settings.items() if one.required)
    print(f'\nin a file: {{ use = "{name}"{needed} }}')


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * indent) or [""]


def _default(value: Any) -> str:
    from pipebus.config.wording import shown

    return "left out" if value is None else getattr(value, "__name__", None) or shown(value)


def _as_json(one: Any) -> dict[str, Any]:
    return {"needed": one.required, "default": None if one.required or one.default is None else _plain(one), "doc": one.doc}


def _plain(one: Any) -> Any:
    """Return a default as a file would write it."""
    from pipebus.config.problems import Unexportable

    try:
        return one.write(one.default)
    except Unexportable:
        return str(one.default)
