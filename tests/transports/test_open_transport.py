"""Which transport a URL names: the table, the errors, and transports from other packages."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from pipebus import Bus, Receipt, UnsupportedCapability
from pipebus.transports.opening import open_transport
from tables import table

CARRIER = """
from pipebus.transports.memory import MemoryTransport

class Pigeon(MemoryTransport):
    opened = []

    @classmethod
    def from_url(cls, url):
        cls.opened.append(url)
        return cls()
"""


@pytest.fixture
def pigeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A distribution that brings a transport for "pigeon:" is installed; the URLs that it was asked to open."""
    (tmp_path / "pigeon_post.py").write_text(CARRIER)
    info = tmp_path / "pigeon_post-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon-post\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pipebus.transports]\npigeon = pigeon_post:Pigeon.from_url\nmemory = pigeon_post:Pigeon.from_url\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pigeon_post", raising=False)
    importlib.invalidate_caches()
    opened: list[str] = importlib.import_module("pigeon_post").Pigeon.opened
    return opened


@pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"])
def test_memory_has_a_url(url: str) -> None:
    """A memory transport can be opened with or without a wire format."""
    with Bus(url) as bus:
        assert bus.publish("a") == Receipt(0)


@table(
    ("url", "text"),
    [
        pytest.param("pigeon://loft", 'no transport for "pigeon"', id="unknown scheme"),
        pytest.param("memroy:", 'no transport for "memroy"', id="misspelt"),
        pytest.param("", "no transport", id="empty"),
        pytest.param("memory", '"memory:?wire=json"', id="no colon"),
        pytest.param("memory:?wire=xml", "wire='xml'", id="unknown wire format"),
        pytest.param("memory:?wire=", "wire=''", id="empty wire format"),
        pytest.param("memory:?size=3", '"memory:?wire=json"', id="unknown option"),
        pytest.param("memory://host", '"memory:?wire=json"', id="a host"),
        pytest.param("memory:/a/path", '"memory:?wire=json"', id="a path"),
    ],
)
def test_a_url_that_names_nothing_is_refused_with_what_there_is(url: str, text: str) -> None:
    """The error repeats the URL and says what would work."""
    with pytest.raises(UnsupportedCapability, match=re.escape(text)) as error:
        Bus(url)
    assert repr(url) in str(error.value)
    assert "memory" in str(error.value)


def test_a_transport_of_another_package_is_opened_by_its_scheme(pigeon: list[str]) -> None:
    """An entry point in the group `pipebus.transports` is enough; it is given the whole URL."""
    with Bus("pigeon://loft?ring=7") as bus:
        assert bus.publish("a") == Receipt(0)
    assert pigeon == ["pigeon://loft?ring=7"]


def test_another_package_cannot_take_a_built_in_scheme(pigeon: list[str]) -> None:
    """ "memory:" stays ours, whatever is installed."""
    open_transport("memory:")
    assert pigeon == []


@pytest.mark.usefixtures("pigeon")
def test_the_error_for_an_unknown_scheme_names_installed_transports_too() -> None:
    """A user who misspells the scheme finds the right name in the text."""
    with pytest.raises(UnsupportedCapability, match="memory, nats, pigeon, sqlite, tls"):
        open_transport("pidgeon:")


@pytest.mark.parametrize("url", ["nats://ann:s3cret[1@host", "carrier-pigeon://ann:s3cret@roof", "nats//ann:s3cret@host"])
def test_a_password_is_not_shown_by_an_error(url: str) -> None:
    """This also holds where the text is not a URL, or its scheme is unknown."""
    with pytest.raises(UnsupportedCapability) as caught:
        open_transport(url)
    assert "s3cret" not in str(caught.value)
    assert "@" in str(caught.value)
