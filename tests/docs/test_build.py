"""What the pages of Build build is whole: the transport keeps all of the contract, and the package can be installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cli_helpers
import pytest
from pages import ROOT, write_files

import missing

pytestmark = pytest.mark.thorough


def python(*args: str, folder: Path, path: Path) -> str:
    """Run Python in a folder; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env=cli_helpers.ENV | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_transport_of_its_page_keeps_the_contract(tmp_path: Path) -> None:
    """The page runs some of the contract; this is all of it."""
    write_files("docs/build/transport.md", tmp_path)
    said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", folder=tmp_path, path=tmp_path)
    assert "failed" not in said


def test_the_package_of_its_page_can_be_installed(tmp_path: Path) -> None:
    """A reader who pastes the files and installs them has a filter by name, without the stand-in of the page."""
    missing.needs("hatchling")
    source, site = tmp_path / "source", tmp_path / "site"
    write_files("docs/build/package.md", source)
    for file in (source / "shopfilters-1.0.dist-info").iterdir():
        file.unlink()

    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), "."]
    python(*pip, folder=source, path=site)

    assert "The least total of a large order." in python("-m", "pipebus", "filters", "mark_large", folder=tmp_path, path=site)
    assert "fine" in python("-m", "pipebus", "check", str(source / "pipebus.toml"), folder=tmp_path, path=site)
