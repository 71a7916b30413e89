"""The reference leaves nothing out: what the package exports, reads, raises and prints is on its pages."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import Any

import made
import pytest
from made import commands, config, docstrings, urls
from pages import PAGES, TEXTS, blocks

import pipebus
from pipebus import cli, errors, events, filters, testing
from pipebus.cli import build_parser
from pipebus.config import catalogue, vocabulary
from pipebus.config.sections import Section
from pipebus.testing import contract
from pipebus.transports.nats import options as nats
from pipebus.transports.opening import TRANSPORTS
from pipebus.transports.sqlite import options as sqlite

REFERENCE = [page for page in PAGES if page.startswith("docs/reference/")]
FENCES = [(page, *found) for page in REFERENCE for found in made.FENCE.findall(TEXTS[page])]
"""Page, name, argument and content of each."""


def named(*kinds: str) -> set[str]:
    """What the fences of these kinds are about."""
    return {name for _, kind, one, more in FENCES if kind in kinds for name in ([one] if one else more.split())}


SHOWN = {name.rpartition(".")[2] for name in named("api", "filter", "remedy", "promises")}


@pytest.mark.parametrize("module", [pipebus, filters, testing, contract], ids=lambda module: module.__name__)
def test_all_that_a_module_exports_is_in_the_reference(module: Any) -> None:
    """A reader finds each public name on a page."""
    assert sorted(set(module.__all__) - SHOWN) == []


def test_each_method_of_a_bus_is_in_the_table() -> None:
    """The page that shows a bus at a glance leaves out nothing that a program may call."""
    shown = set(re.findall(r"\b[bB]us\.(\w+)", TEXTS["docs/reference/bus.md"]))

    assert sorted({name for name in dir(pipebus.Bus) if name[0] != "_"} - shown) == []


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: f"{fence[0].removeprefix('docs/reference/')}-{fence[1]}-{fence[2]}")
def test_each_part_can_be_made(fence: tuple[str, str, str, str]) -> None:
    """No page asks for what the code no longer has."""
    _, kind, argument, content = fence
    assert kind in {*made.MADE, "toctree", "eval-rst"}
    if kind in made.MADE:
        assert made.MADE[kind](argument, content).strip()


@pytest.mark.parametrize("name", filters.__all__)
def test_each_filter_has_a_page(name: str) -> None:
    """It shows the filter in code and in a file, its settings, and what to know about it."""
    page = f"docs/reference/filters/{catalogue.word(name)}.md"
    text = TEXTS[page]

    assert text.startswith(f"# {name}\n")
    assert any(block.info == "python" and f"import {name}" in block.text.replace("Drop, ", "") for block in blocks(page))
    assert any(f'use = "{catalogue.word(name)}"' in block.text for block in blocks(page) if block.language == "toml")
    assert f"```{{filter}} {name}\n" in text
    for part in ("Where", "Outcome", "State", "Colours", "Cost"):
        assert f"- **{part}:**" in text
    assert f"({catalogue.word(name)}.md)" in TEXTS["docs/reference/filters/index.md"]


def test_each_error_has_a_remedy() -> None:
    """A reader who meets an error finds what to do next."""
    raised = {name for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, errors.PipebusError)}
    remedies = {argument: content for _, kind, argument, content in FENCES if kind == "remedy"}

    assert set(remedies) == raised
    assert [name for name, text in remedies.items() if not text.strip().endswith(".")] == []
    assert sorted(raised - set(re.findall(r"\w+", made.MADE["tree"]("", "")))) == []


def test_each_event_says_when_it_comes() -> None:
    """An observer's author sees each event with its fields and its moment."""
    found = [one for one in vars(events).values() if inspect.isclass(one) and issubclass(one, events.Event)]
    text = made.MADE["event"]("", "")

    assert [one for one in found if f"autoclass:: pipebus.events.{one.__name__}\n" not in text or not one.__doc__] == []


def test_each_table_and_key_of_a_file_is_described() -> None:
    """Somebody who writes a file finds each key with its type and meaning."""
    helpers = {"Section", "Reference", "Use", "Target", "Handler"}
    tables = {
        name for name, one in vars(vocabulary).items() if inspect.isclass(one) and issubclass(one, Section) and name[0] != "_"
    }

    assert named("config") == tables - helpers
    for table in tables - helpers:
        model = getattr(vocabulary, table)
        rows = config.table_of_keys(table, "").splitlines()[2:]
        assert [row.split(" | ")[0] for row in rows] == [f"| `{key}`" for key, _, _ in model.fields()]
        assert [row for row in rows if row.endswith("|  |") or row.split(" | ")[1] == ""] == []


def test_each_argument_of_a_command_is_described() -> None:
    """Each command is on the page, with each of its arguments and what it means."""
    text = commands.commands("", "")
    [subparsers] = [one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction)]

    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(cli.COMMANDS)
    for parser in subparsers.choices.values():
        for action in parser._actions:
            assert commands.called(action).strip("`").partition(" ")[0] in text or action.dest == "help"
    assert "|  |" not in text


@pytest.mark.parametrize("module", [nats, sqlite], ids=["nats", "sqlite"])
def test_each_option_of_a_url_is_described(module: Any) -> None:
    """A URL may hold the options that the page lists, and an unknown option is answered with the same list."""
    name = module.__name__.split(".")[-2]
    url = {"nats": "nats://localhost?colour=red", "sqlite": "sqlite:///bus.db?colour=red"}[name]

    with pytest.raises(errors.UnsupportedCapability) as refused:
        module.Options.from_url(url)

    [accepted] = re.findall(r"there are ([\w, ]+)", str(refused.value))
    rows = [row.strip("| ").split(" | ") for row in urls.options(name, "").splitlines()[2:]]
    assert [row[0].strip("`") for row in rows] == accepted.split(", ")
    assert [row for row in rows if len(row) < 3] == []


def test_each_scheme_is_named() -> None:
    """The page on URLs knows each transport of the package."""
    assert [scheme for scheme in TRANSPORTS if f"`{scheme}:" not in TEXTS["docs/reference/urls.md"]] == []


@pytest.mark.parametrize(
    ("lines", "tidied"),
    [
        (
            ["Raises:", "    Rejected: a filter did. MailboxFull: no", "        room. BusNotStarted, BusClosed: not now."],
            [":raises Rejected: a filter did.", ":raises MailboxFull: no room.",
             ":raises BusNotStarted, BusClosed: not now.", ""],
        ),
        (["Raises:", "    The last error, as the same object."], [":raises: The last error, as the same object.", ""]),
        (["Drops:", '    `Dropped("x")`: why.'], [':Drops: `Dropped("x")`: why.', ""]),
        (["It takes `Ref`s."], ["It takes `Ref`\\ s."]),
        (["As in:", "", "    a = 1"], ["As in:", "", "::", "", "    a = 1"]),
    ],
    ids=["several in a line", "a sentence", "a section of ours", "a plural", "code"],
)  # fmt: skip
def test_docstrings_become_fields(lines: list[str], tidied: list[str]) -> None:
    """What a docstring says about errors and drops is shown as a list."""
    docstrings.tidy(None, "function", "f", None, None, lines)
    assert lines == tidied
