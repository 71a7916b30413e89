"""Where a package is not installed, an error says which command installs it; and what any text says about that works."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipebus.cli.doctor import PACKAGES
from pipebus.foreign.packages import install
from values_helpers import run_python

ROOT = Path(__file__).resolve().parents[1]

NEEDS = {
    "jmespath": ("config", "from pipebus.values.expressions import Expression; Expression('body')"),
    "tomlkit": ("config", "from pipebus import Bus; Bus().export_config()"),
    "prometheus_client": ("prometheus", "from pipebus.telemetry.prometheus import Collector"),
    "starlette": ("web", "from pipebus import Bus; from pipebus.web import app; app(Bus())"),
    "uvicorn": ("web", "from pipebus import Bus; from pipebus.web.serving import serving; serving(Bus(), ':').__enter__()"),
    "nats": ("nats", "from pipebus import Bus; Bus('nats://localhost')"),
    "opentelemetry": ("otel", "from pipebus import Bus; from pipebus.telemetry import instrument; instrument(Bus())"),
    "hypothesis": ("testing", "from pipebus.testing import check_filter; from pipebus.filters import Log; check_filter(Log)"),
}
"""What needs which package, by the name that is imported, and the extra that brings it."""


@pytest.mark.parametrize("module", NEEDS)
@pytest.mark.few(1)
def test_an_error_says_how_to_install_what_is_needed(module: str) -> None:
    """A user without an extra reads the command that installs it, instead of a traceback from an import."""
    extra, line = NEEDS[module]
    program = f"""
import sys
sys.modules[{module!r}] = None
from pipebus import PipebusError
try:
    exec({line!r})
except PipebusError as error:
    print(error)
"""
    said = run_python(program)

    assert install(extra) in said
    assert module in said
    assert len(said.splitlines()) == 1


def test_every_extra_that_is_named_exists() -> None:
    """pip ignores an unknown extra with a warning, and then the package would still not be there."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(named()) | {extra for extra, _ in PACKAGES.values()} <= set(declared)


def named() -> Iterator[str]:
    """The extras that `install` is called with, anywhere in the package."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "install":
                yield from [one.value for one in node.args if isinstance(one, ast.Constant)]


def test_nothing_says_that_there_is_a_release() -> None:
    """Until there is one, `pip install pipebus` finds nothing, so every text shows an installation from a checkout."""
    texts = [path for folder in ("src", "docs", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.*")]
    texts += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in texts
        if path.suffix in (".py", ".md", ".toml")
        for found in re.finditer(r"""pip install ["']?pipebus\b|pipebus\[\w+\]""", path.read_text(encoding="utf-8"))
    ]
    assert wrong == []
