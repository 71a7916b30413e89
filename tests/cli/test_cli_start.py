"""How little a command imports that does not read a config file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_helpers import Shop, run

from pipebus import Bus

LOADED = """
import sys
from pipebus.cli import main
try:
    main(sys.argv[1:])
finally:
    print("LOADED", *sys.modules)
"""


def broken(message: object) -> None:
    raise ValueError("no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file and a file of dead letters, with one dead letter each."""
    folder = tmp_path_factory.mktemp("start")
    with Bus(f"sqlite:///{folder}/bus.db", drain=True) as bus:
        bus.subscribe("orders", broken, name="orders", attempts=1)
        bus.publish("orders", {"id": 1})
    shop = Shop(folder)
    config = shop.config('[[subscriptions]]\nname = "orders"\nsubject = "orders"\nhandler = "shop:boom"')
    run_it = ["run", config, "--allow", "shop", "--input", "-", "--subject", "orders", "--dead", "letters.jsonl"]
    shop.run(*run_it, input='{"id": 1}')
    assert (folder / "letters.jsonl").read_text().count("\n") == 1
    return folder


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        ("--help", "usage: pipebus"),
        ("--version", "pipebus "),
        ("tail --help", "usage: pipebus tail"),
        ("tail sqlite:///bus.db --all --count 1", '"subject": "orders"'),
        ("dead list sqlite:///bus.db", "ValueError: no"),
        ("dead list letters.jsonl", "orders"),
        ("dead show letters.jsonl --all", "Traceback"),
        ("subscriptions list sqlite:///bus.db", "orders"),
    ],
)
@pytest.mark.few(3)
def test_a_command_without_a_config_file_reads_none(command: str, shows: str, folder: Path) -> None:
    """It starts without pydantic, the reader of config files and TOML, which would take most of its time."""
    done = run(*command.split(), program=[sys.executable, "-c", LOADED], cwd=folder)
    out, _, loaded = done.stdout.partition("LOADED")
    assert shows in out
    heavy = ("pydantic", "tomllib", "tomlkit", "jmespath", "pipebus.config", "pipebus.testing")
    assert [name for name in loaded.split() if name in heavy or name.startswith(("pydantic.", "pipebus.config."))] == []
    assert "pipebus.cli" in loaded.split()
