"""The page of a bus in Debian's Chromium."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from missing import missing, needs
from pipebus.web.serving import serving

HERE = Path(__file__).parent


@pytest.fixture
def chromium() -> Iterator[Any]:
    """
    A browser for one test. (While it is open, Playwright's event loop counts as running on this thread: what would wait for a
    bus belongs on another one.)
    """
    needs("playwright")
    found = shutil.which("chromium")
    if found is None:
        missing("there is no Chromium; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """
    A function that opens an address in a new window.

    In the end no window may have seen an error, a dialog, or a request to another host.
    """
    problems: list[str] = []

    def open_page(url: str, *, width: int = 1280, height: int = 800, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.on("console", lambda said: problems.append(f"console: {said.text}") if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(url.partition("#")[0]) else problems.append(asked.url))
        page.problems = problems
        page.set_default_timeout(15_000)
        page.goto(url)
        return page

    yield open_page
    for context in chromium.contexts:
        context.close()
    assert problems == []


@pytest.fixture(params=["memory:", "sqlite:///shop.db"], ids=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the page of a busy shop."""
    shutil.copy(HERE / "web_shop.py", tmp_path / "shop.py")
    monkeypatch.chdir(tmp_path)
    module: Any = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)
    exec(compile(Path("shop.py").read_text(encoding="utf-8"), "shop.py", "exec"), vars(module))  # so the page says "shop.py"
    bus = module.make(request.param)
    with ExitStack() as stack:
        url = stack.enter_context(serving(bus, "127.0.0.1:0"))
        stack.enter_context(module.busy(bus))
        yield url
