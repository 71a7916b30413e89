"""What the tests of the page in a browser share, and pictures of it for the docs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipebus import Bus

Visit = Callable[..., Any]
ANYWHERE = "127.0.0.1:0"
VIEWS = ("graph", "path", "messages", "conversation", "dead")
PICTURES = os.environ.get("PIPEBUS_PICTURES")
"""The folder that pictures are written to; without it none are taken: `PIPEBUS_PICTURES=docs/pictures pytest -m thorough …`."""


def expect(found: Any) -> Any:
    from playwright.sync_api import expect as expected  # a machine without Playwright skips these tests

    return expected(found)


def view(page: Any) -> Any:
    """The view that is shown."""
    return page.get_by_role("tabpanel")


def card(page: Any, name: str) -> Any:
    """What the graph shows of one subscription."""
    return page.locator("#subscriptions > li", has=page.get_by_role("heading", name=name, exact=True))


def picture(page: Any, name: str, after: float = 0.0) -> None:
    """Write what a window shows, if the environment asks for it; after so many seconds, in which lines of figures grow."""
    if PICTURES:
        page.wait_for_timeout(after * 1000)
        page.mouse.move(0, 0)
        page.screenshot(path=str(Path(PICTURES) / f"page-{name}.png"))


@contextmanager
def started(bus: Bus, elsewhere: ThreadPoolExecutor) -> Iterator[None]:
    """Start and stop a bus on another thread: Playwright's loop is on this one."""
    elsewhere.submit(bus.start).result()
    yield
    elsewhere.submit(bus.stop).result()
