"""The commands, from their parsers."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from typing import Final

from made.markdown import fence, table
from pipebus import cli

WIDE: Final = 80
"""Columns of a usage in one line; a longer one has one argument a line."""


def commands(_: str, __: str) -> str:
    """Each command: its usage, its arguments, examples, and what its help says."""
    [choices] = [one.choices for one in cli.build_parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return "\n\n".join(part for name in cli.COMMANDS for part in command(name, choices[name]))


def command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}"
    yield f"{capital(parser.description or '')}."
    yield fence("text", usage(parser))
    yield table(("argument", "meaning"), [(called(one), sentence(parser, one)) for one in arguments(parser)])
    for part in (parser.epilog or "").strip().split("\n\n"):
        if part.startswith("examples:"):
            yield fence("text", inspect.cleandoc(part.partition("\n")[2]))
        else:
            yield from described(part)


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [one for one in parser._actions if not isinstance(one, argparse._HelpAction)]


def usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=1000)
    formatter.add_usage(None, arguments(parser), [], prefix="")
    text = formatter.format_help().strip()
    if len(text) <= WIDE:
        return text
    rest = re.findall(r"\[[^\]]*\](?:[^\[\] ]*\])*|\S+", text.removeprefix(parser.prog))
    return parser.prog + "".join(f"\n    {part}" for part in rest)


def called(action: argparse.Action) -> str:
    value = str(action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()))
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{one}`" if action.nargs == 0 else f"`{one} {value}`" for one in action.option_strings)


def sentence(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return capital(prose(text)) if text else "Which of these to do."


def described(part: str) -> Iterator[str]:
    """A paragraph of a command's help; a line of JSON in it is shown as it is."""
    for lines in re.split(r"^(\{.*)\n?", part, flags=re.MULTILINE):
        if lines.startswith("{"):
            yield fence("text", lines)
        elif lines.strip():
            yield re.sub(r"^Exit code:", "**Exit code:**", prose(lines))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def prose(text: str) -> str:
    """Text of the command line as Markdown: options are code, and nothing in it is markup but backticks."""
    text = re.sub(r"(?<![\w`-])(--?[a-z][\w-]*)(?![\w`])", r"`\1`", " ".join(text.split()))
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]{}])", r"\\\1", part) for part in parts)
