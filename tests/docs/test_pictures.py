"""The pictures are what the script draws from their sources, and everybody can read them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import pytest
from pages import PAGES, ROOT, TEXTS

import missing

PICTURES = ROOT / "docs" / "pictures"


def load(file: Path) -> ModuleType:
    name = f"docs_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module


draw = load(PICTURES / "draw.py")


def test_the_pictures_are_what_the_script_draws() -> None:
    """After a change, run `python docs/pictures/draw.py`."""
    files = dict(draw.drawn())
    assert sorted(PICTURES.glob("*.svg")) == sorted(files)
    assert [file.name for file, svg in files.items() if file.read_text(encoding="utf-8") != svg] == []


@pytest.mark.parametrize("file", sorted(PICTURES.glob("*.svg")), ids=lambda file: file.stem)
def test_a_screen_reader_can_describe_a_picture(file: Path) -> None:
    """It has a role, a title and a description, and its width suits a telephone."""
    root = ElementTree.parse(file).getroot()
    texts = {element.tag.partition("}")[2]: element.text or "" for element in root}
    assert root.get("role") == "img"
    assert texts["title"]
    assert len(texts["desc"]) > 40
    assert int(root.get("width", "0")) <= 480


PICTURE = re.compile(
    r"<picture>\s*"
    r'<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)-dark\.svg">\s*'
    r'<img alt="(?P<alt>[^"]+)" src="(?P<light>[^"]+)-light\.svg" width="480">\s*'
    r"</picture>"
)


def shown() -> list[tuple[str, re.Match[str]]]:
    return [(page, found) for page in PAGES for found in PICTURE.finditer(TEXTS[page])]


def test_pages_show_both_colours_of_a_picture() -> None:
    """In the one form that GitHub understands and that conf.py translates for the site."""
    assert len(shown()) == sum(text.count("<picture>") for text in TEXTS.values())
    for page, found in shown():
        file = (ROOT / page).parent / f"{found['light']}-light.svg"
        assert found["light"] == found["dark"]
        assert file.exists(), page
        assert found["alt"] == ElementTree.parse(file).getroot()[0].text


@pytest.mark.thorough
def test_the_site_shows_both_pictures_and_the_names_of_files() -> None:
    """MyST knows neither `<picture>` nor a name behind the language of a block; conf.py translates them."""
    missing.needs("docutils")
    picture = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="../pictures/path-dark.svg">
  <img alt="A path" src="../pictures/path-light.svg" width="480">
</picture>"""
    source = [f"{picture}\n\n```python shop.py\n1\n```\n\n```python continues\n2\n```\n"]
    conf = load(ROOT / "docs" / "conf.py")

    conf.read(SimpleNamespace(builder=SimpleNamespace(format="text")), "page", source)

    both = "![A path](../pictures/path-light.svg){.only-light} ![A path](../pictures/path-dark.svg){.only-dark}"
    block = "```{code-block} python\n:caption: '`shop.py`'\n\n1\n```"
    assert source == [f"{both}\n\n{block}\n\n```python continues\n2\n```\n"]


@pytest.mark.parametrize("source", sorted(PICTURES.glob("*.txt")), ids=lambda file: file.stem)
def test_a_source_is_short(source: Path) -> None:
    """A picture is changed by editing a few lines."""
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 32


def contrast(one: str, other: str) -> float:
    """By WCAG 2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(scheme: str) -> None:
    """WCAG AA, on the pages of the site and on GitHub's."""
    colours = draw.COLOURS[scheme]
    pages = {"light": ["#ffffff"], "dark": ["#131416", "#0d1117"]}[scheme]
    for back in [*pages, colours["fill"], colours["chip"], colours["faint"], colours["accent fill"]]:
        assert contrast(colours["text"], back) >= 4.5
        assert contrast(colours["small"], back) >= 4.5
    assert contrast(colours["accent text"], colours["accent fill"]) >= 4.5
    for page in pages:
        assert contrast(colours["arrow"], page) >= 3
        assert contrast(colours["accent"], page) >= 3


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("row a: supercalifragilistic | b: two | c: three", "needs"),
        ("row a: chain [supercalifragilistic > Log > Tap > Drop]", "needs"),
        ("row a: one\nrow b: two\na > b : " + "a very long label " * 9, "does not fit"),
        ("rows a: one", "not a line of a picture"),
        ("row a: one\na > c", "c"),
    ],
    ids=["box", "chip", "label", "line", "arrow"],
)
def test_a_mistake_in_a_source_is_an_error(source: str, problem: str) -> None:
    """A text never leaves its box: the script refuses it."""
    with pytest.raises((ValueError, KeyError), match=re.escape(problem)):
        draw.Drawing(draw.read(source), draw.COLOURS["light"]).svg()
