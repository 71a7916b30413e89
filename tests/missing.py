"""What a test needs and may not find. It is skipped then, and says what to do; where CI=true it fails: nothing is left out."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final, NoReturn

import pytest

from scale_helpers import thorough

PACKAGES: Final = {
    "dev": (
        "cronsim",
        "httpx2",
        "hypothesis",
        "importlinter",
        "jmespath",
        "jsonschema",
        "mypy",
        "nats",
        "nkeys",
        "opentelemetry.sdk",
        "prometheus_client",
        "rich",
        "starlette",
        "tomlkit",
        "uvicorn",
        "xdist",
    ),
    "ci": (
        "IPython",
        "aiosqlite",
        "anyio",
        "cloudevents",
        "coverage",
        "django",
        "fastapi",
        "faststream",
        "gevent",
        "hatchling",
        "playwright",
        "pyright",
        "pytest_asyncio",
        "pytest_cov",
        "sqlalchemy",
        "uvloop",
        "yaml",
    ),
    "docs": ("docutils", "sphinx"),
}
"""What the extras hold: `dev` what the default run needs, and the others what the thorough run needs beyond that."""


def missing(why: str) -> NoReturn:
    """Skip a test that needs what is not there, or fail it where nothing may be left out."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def needs(module: str) -> None:
    """Skip or fail a test that needs a package that is not there."""
    if not _there(module):
        missing(remedy(module))


def _there(module: str) -> bool:
    """A module of a namespace that several packages share cannot be looked for if none of them is installed."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def remedy(module: str) -> str:
    [extra] = [extra for extra, modules in PACKAGES.items() if module in modules]
    return f"{module} is not installed; pip install -e '.[{extra}]'"


def refuse_to_leave_packages_out() -> None:
    """End a run at once if CI=true and it would leave out modules of tests. (Modules skip themselves: `importorskip`.)"""
    if not os.environ.get("CI"):
        return
    wanted = [*PACKAGES["dev"], *(PACKAGES["ci"] if thorough() else ())]
    absent = [remedy(module) for module in wanted if not _there(module)]
    if absent:
        raise pytest.UsageError("\n".join(absent))
