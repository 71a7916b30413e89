"""Modules next to config files: each file gets its own, and what is installed comes first."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipebus.config.beside import beside, look_beside


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> Iterator[Path]:
    """Two folders with modules of the same names; afterwards all is as it was."""
    path, modules = list(sys.path), set(sys.modules)
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "tb_package").mkdir(parents=True)
        (folder / "tb_package" / "__init__.py").write_text(f"which = {name!r}\n")
        (folder / "tb_package" / "inner.py").write_text(f"which = {name!r}\n")
        (folder / "tb_spread").mkdir()
        (folder / "tb_spread" / "inner.py").write_text(f"which = {name!r}\n")
        (folder / "tb_module.py").write_text(f"which = {name!r}\n")
        (folder / "json.py").write_text("raise AssertionError('it took the place of another module')\n")
    yield tmp_path
    look_beside()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("tb_"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["tb_module", "tb_package", "tb_package.inner", "tb_spread.inner"])
def test_each_file_gets_the_module_beside_it(folders: Path, name: str) -> None:
    """The files may take turns, and packages may lack `__init__.py`."""
    for folder in ("one", "two", "one"):
        with beside(folders / folder / "pipebus.toml"):
            assert importlib.import_module(name).which == folder
    for folder in ("two", "one"):
        look_beside(str(folders / folder))
        assert importlib.import_module(name).which == folder


def test_in_one_folder_a_module_stays_the_same_object(folders: Path) -> None:
    """A module that a bus of one file has imported is the one that the next look finds."""
    with beside(folders / "one" / "a.toml"):
        first = importlib.import_module("tb_module")
    with beside(folders / "one" / "b.toml"):
        assert importlib.import_module("tb_module") is first


def test_what_is_installed_comes_first(folders: Path) -> None:
    """A file called json.py replaces no other module."""
    import json

    with beside(folders / "one" / "pipebus.toml"):
        assert importlib.import_module("json") is json
        assert importlib.reload(json) is json


def test_the_path_is_as_it_was(folders: Path) -> None:
    """The path is restored after an error too, and where the user has added the same folder."""
    before = list(sys.path)
    with suppress(KeyError), beside(folders / "one" / "pipebus.toml"):
        assert sys.path == [*before, str(folders / "one")]
        raise KeyError
    assert sys.path == before

    look_beside(str(folders / "one"))
    sys.path.insert(0, str(folders / "one"))  # a user's own
    look_beside(str(folders / "two"))
    assert sys.path == [str(folders / "one"), *before, str(folders / "two")]


def test_modules_that_are_not_there_yet_are_left_alone(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a module's home does not load a lazy module, and does not touch one that fails when it is touched."""

    class Failing(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(f"asked for {name}")

    monkeypatch.setitem(sys.modules, "tb_failing", Failing("tb_failing"))
    monkeypatch.setitem(sys.modules, "tb_nothing", None)
    (folders / "tb_lazy.py").write_text("raise AssertionError('it was loaded')\n")
    spec = importlib.util.spec_from_file_location("tb_lazy", folders / "tb_lazy.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)  # type: ignore[arg-type]
    lazy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tb_lazy", lazy)
    spec.loader.exec_module(lazy)

    look_beside(str(folders / "one"))
    look_beside(str(folders / "two"))
    assert object.__getattribute__(lazy, "__dict__")["__spec__"] is spec
