"""Errors about a broken file, word for word, and that a failed load leaves nothing behind."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from broken import TABLE, Broken

from pipebus import Bus, ConfigError, PipebusError
from tables import table


@contextmanager
def imports_as_before() -> Iterator[None]:
    """Modules that a case has put next to its file are forgotten again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0].startswith(("shop", "shopify")):
            del sys.modules[name]
    importlib.invalidate_caches()


def load(case: Broken, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigError:
    """The error, after everything that the case needs has been set up."""
    (folder / "bus.toml").write_bytes(case.toml.encode())
    for name, source in case.modules.items():
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        for parent in reversed(path.relative_to(folder).parents[:-1]):
            (folder / parent).mkdir(exist_ok=True)
            (folder / parent / "__init__.py").touch()
        path.write_text(source, encoding="utf-8")
    for file, content in case.files.items():
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for variable, value in case.env.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(ConfigError) as caught:
        Bus.from_config("bus.toml", allow_imports=list(case.allow), handlers=dict(case.handlers), filters=dict(case.filters))
    return caught.value


@table("case", TABLE, ids=lambda case: case.mistake)
def test_a_broken_file_is_told_and_leaves_nothing(case: Broken, tmp_path_factory: pytest.TempPathFactory) -> None:
    """
    The error matches word for word, its problems hold the same texts, and it shows no secret. No thread is left, nothing is
    imported that no sound part of the file asks for, and the file is as it was.
    """
    with pytest.MonkeyPatch.context() as monkeypatch, imports_as_before():
        load_and_look(case, tmp_path_factory.mktemp("broken"), monkeypatch)


def load_and_look(case: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, directory = threading.enumerate(), set(sys.path)
    error = load(case, tmp_path, monkeypatch)
    assert str(error) == case.says.replace("{here}", str(tmp_path))
    assert isinstance(error, PipebusError)
    lines = [
        f"{one.file}:{one.line}: {one.where}: {one.text}" if one.where else f"{one.file}:{one.line}: {one.text}"
        for one in error.problems
    ]
    assert str(error).splitlines()[0 if len(lines) == 1 else 1 :] == lines
    assert case.secret is None or case.secret not in repr(error) + str(error.__cause__) + str(error.__context__)

    assert [thread for thread in threading.enumerate() if thread not in threads] == []
    assert set(sys.path) - directory == {str(tmp_path)}
    assert [name for name in case.idle if name in sys.modules] == []
    assert (tmp_path / "bus.toml").read_bytes() == case.files.get("bus.toml", case.toml.encode())
    assert os.path.samefile(".", tmp_path)


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file and a directory are named as the caller gave them, without a line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    for name, says in (("nope.toml", "nope.toml: no such file"), ("config", "config: it is not a file; give a TOML file")):
        with pytest.raises(ConfigError) as caught:
            Bus.from_config(name)
        assert str(caught.value) == says
        assert [(one.file, one.where) for one in caught.value.problems] == [(name, "")]


def test_each_mistake_is_told_once() -> None:
    """The ids of the cases differ, and so do their files."""
    assert len({case.mistake for case in TABLE}) == len(TABLE)
    assert len({(case.toml, case.allow, tuple(case.handlers.values()), tuple(case.env)) for case in TABLE}) == len(TABLE)
