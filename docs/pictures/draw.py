"""
Draw the pictures of the documentation: `python docs/pictures/draw.py` reads each NAME.txt next to this file, and writes
NAME-light.svg and NAME-dark.svg. A test compares them with their sources.

A source is a grid, read from top to bottom:

    title Orders                            the name of the picture, for screen readers
    about An order is paid, then sent.      their description of it; a line that begins with a space goes on
    gap 24                                  pixels between the boxes of the rows that follow (16)
    row paid: *Paid / by card | sent: Sent  boxes, each a name for arrows and a text; what follows a "/" is small
    space 20                                more pixels before the next row
    row 2* chain: chain [Log > Tap] | .     a box of twice the width with two small ones in it; an empty cell
    paid > sent : label                     an arrow; `~>` is a way back, drawn dashed
    note What is below the picture.

What a text begins with is its style: `*` has the accent colour, `=` is a queue, `~` is faint, and parentheses around it are a
text without a box. All of it is small if it begins with "/". Parts in backticks are code. An arrow joins neighbours in a row,
or boxes of two rows with nothing between them. A text that does not fit into its box is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
WIDTH: Final = 480
"""Pixels. A telephone shows all of it in 330, where small text is still 10 pixels high."""
MARGIN: Final = 10
PAD: Final = 10  # from the edge of a box to its text
TITLE, SMALL, CODE = 16.0, 14.0, 13.2  # sizes of text
LINE: Final = 1.3  # height of a line, as a multiple of its size
CLOSE, APART = 14, 40  # between rows without an arrow, and with one
RADIUS: Final = 9

SANS: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

WIDTHS: Final = {
    0.35: " 'ijl", 0.4: ",./:;IJ\\|", 0.45: "-f", 0.5: "!()[]_`rt", 0.55: '"*', 0.6: "?csz", 0.65: "Lx",
    0.7: "$0123456789EFTaekovy", 0.75: "CPSYZbdghnpqu{}", 0.8: "ABKRVX", 0.85: "#+<=>DGHNU^~", 0.9: "&OQ", 0.95: "w",
    1.05: "%m@M", 1.15: "W",
}  # fmt: skip
"""Widths of bold characters in DejaVu Sans, the widest of the usual fonts, as multiples of the size."""
EM: Final = {char: width for width, chars in WIDTHS.items() for char in chars}

COLOURS: Final = {
    "light": {
        "text": "#1b2430", "small": "#4f5b6b", "fill": "#ffffff", "edge": "#b9c3cf", "chip": "#f3f6f9", "faint": "#f3f6f9",
        "arrow": "#66748a", "accent": "#0b746d", "accent fill": "#e2f3f1", "accent text": "#0a4f4b", "page": "#ffffff",
    },
    "dark": {
        "text": "#e8edf3", "small": "#aeb9c7", "fill": "#1c232d", "edge": "#475365", "chip": "#262f3b", "faint": "#161c24",
        "arrow": "#8f9db1", "accent": "#4fc7bb", "accent fill": "#123633", "accent text": "#b6f0ea", "page": "#131416",
    },
}  # fmt: skip
"""One accent on calm greys. Texts have a contrast of 4.5 or more (WCAG AA), arrows and the accent one of 3."""


def width_of(text: str, size: float, bold: bool = False) -> float:
    """Pixels, rather too many than too few. Every second part between backticks is code."""
    plain, code = text.split("`")[::2], text.split("`")[1::2]
    factor = size * (1 if bold else 0.92)
    return sum(EM.get(char, 1.0) * factor for part in plain for char in part) + sum(0.61 * CODE * len(part) for part in code)


def wrapped(text: str, size: float, width: float) -> list[str]:
    """The lines of a text; code is not broken."""
    lines = [""]
    for word in re.findall(r"(?:[^\s`]|`[^`]+`)+", text):
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, size) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@dataclass
class Box:
    """One cell of the grid. Its place is known when all rows are."""

    name: str
    style: str  # a key of what `*`, `=`, `~` and parentheses mean
    title: list[str]  # lines
    small: list[str]
    chips: list[str]
    weight: float
    row: int
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    lines: list[tuple[str, float, bool]] = field(default_factory=list)  # text, size, bold

    @property
    def middle(self) -> float:
        return self.x + self.w / 2

    @property
    def bottom(self) -> float:
        return self.y + self.h

    def lay(self) -> None:
        """Break the texts into lines; its width is known. Raises ValueError if one is too long."""
        self.lines = [(line, TITLE, True) for line in self.title]
        for text in self.small:
            self.lines += [(line, SMALL, False) for line in wrapped(text, SMALL, self.w - 2 * PAD)]
        for line, size, heavy in self.lines:
            room = self.w - (PAD if self.style != "label" else 0)
            if width_of(line, size, heavy) > room:
                raise ValueError(f'"{line}" needs {width_of(line, size, heavy):.0f} pixels; its box has {room:.0f}')

    @property
    def needed(self) -> float:
        """Its height, without regard to its neighbours."""
        text = sum(size * LINE for _, size, _ in self.lines)
        return text + (0 if self.style == "label" else 22) + (42 if self.chips else 0) + (20 if self.style == "queue" else 0)


@dataclass
class Arrow:
    start: str
    end: str
    back: bool
    label: str


@dataclass
class Picture:
    """A source that has been read."""

    title: str = ""
    about: str = ""
    gap: float = 16.0  # of the rows that follow
    gaps: list[float] = field(default_factory=list)
    space: dict[int, float] = field(default_factory=dict)  # before which row
    rows: list[list[Box]] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


STYLES: Final = {"*": "accent", "=": "queue", "~": "faint", "(": "label"}


def read(source: str) -> Picture:
    picture = Picture()
    for line in re.sub(r"\n +", " ", source).splitlines():
        word, _, rest = line.partition(" ")
        if word in ("title", "about"):
            setattr(picture, word, rest)
        elif word == "gap":
            picture.gap = float(rest)
        elif word == "space":
            picture.space[len(picture.rows)] = float(rest)
        elif word == "note":
            picture.notes.append(rest)
        elif word == "row":
            picture.gaps.append(picture.gap)
            picture.rows.append([box(cell.strip(), len(picture.rows)) for cell in rest.split(" | ")])
        elif found := re.fullmatch(r"(\w+) (~?)> (\w+)(?: : (.+))?", line):
            picture.arrows.append(Arrow(found[1], found[3], bool(found[2]), found[4] or ""))
        elif line and not line.startswith("#"):
            raise ValueError(f"not a line of a picture: {line}")
    return picture


def box(cell: str, row: int) -> Box:
    found = re.fullmatch(r"(?:([\d.]+)\* )?(?:(\w+): )?([*=~(]?)(.*?)(?: \[(.+)\])?", cell)
    if found is None:
        raise ValueError(f"not a cell of a picture: {cell}")
    weight, name, style, text, chips = found.groups()
    title, *small = f" {text.removesuffix(')' if style == '(' else '')}".split(" / ")
    kind = STYLES.get(style, "empty" if text == "." else "box")
    return Box(
        name or "",
        kind,
        [title.strip()] if title.strip() else [],
        small,
        chips.split(" > ") if chips else [],
        float(weight or 1),
        row,
    )


def lay_out(picture: Picture) -> float:
    """Give each box its place; returns the height of the picture."""
    boxes = {box.name: box for row in picture.rows for box in row if box.name}
    y = float(MARGIN)
    for index, row in enumerate(picture.rows):
        total = sum(box.weight for box in row)
        gap = picture.gaps[index]
        unit = (WIDTH - 2 * MARGIN + gap) / total
        x = float(MARGIN)
        y += picture.space.get(index, 0.0)
        for box in row:
            box.x, box.y, box.w = x, y, box.weight * unit - gap
            x += box.weight * unit
            if box.style != "empty":
                box.lay()
        height = max(box.needed for box in row if box.style != "empty")
        for box in row:
            box.h = height
        crossing = [
            arrow for arrow in picture.arrows
            if min(boxes[arrow.start].row, boxes[arrow.end].row) <= index < max(boxes[arrow.start].row, boxes[arrow.end].row)
        ]  # fmt: skip
        labels = [arrow for arrow in crossing if arrow.label]
        y += height + (APART + (10 if labels else 0) if crossing else CLOSE)
    y += MARGIN - CLOSE
    if picture.notes:
        y += CLOSE / 2 + sum(SMALL * LINE * len(wrapped(note, SMALL, WIDTH - 2 * MARGIN)) for note in picture.notes)
    return y


class Drawing:
    """The parts of one SVG file, in order."""

    def __init__(self, picture: Picture, colours: dict[str, str]) -> None:
        self.picture = picture
        self.colours = colours
        self.parts: list[str] = []
        self.boxes = {box.name: box for row in picture.rows for box in row if box.name}

    def svg(self) -> str:
        height = lay_out(self.picture)
        for arrow in self.picture.arrows:
            self.arrow(arrow)
        for row in self.picture.rows:
            for box in row:
                if box.style != "empty":
                    self.box(box)
        y = height - MARGIN
        for line in [line for note in self.picture.notes for line in wrapped(note, SMALL, WIDTH - 2 * MARGIN)][::-1]:
            self.text(line, MARGIN, y, "small", anchor="start")
            y -= SMALL * LINE
        c = self.colours
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
            ' role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(self.picture.title)}</title>',
            f'<desc id="desc">{escape(self.picture.about)}</desc>',
            "<style>",
            f"text {{ font: {SMALL:g}px {SANS}; fill: {c['small']} }}",
            f".t {{ font-size: {TITLE:g}px; font-weight: 600; fill: {c['text']} }}",
            f".a {{ fill: {c['accent text']} }}",
            f".c {{ font-family: {MONO}; font-size: {CODE:g}px; font-weight: 400 }}",
            f".line {{ fill: none; stroke: {c['arrow']}; stroke-width: 1.8; stroke-linejoin: round }}",
            f".back {{ stroke: {c['accent']}; stroke-dasharray: 5 4 }}",
            f".head {{ fill: {c['arrow']} }} .backhead {{ fill: {c['accent']} }}",
            "</style>",
            *self.parts,
            "</svg>",
            "",
        ])  # fmt: skip

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str, edge: str, more: str = "", radius: float = RADIUS
    ) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{radius:g}" fill="{self.colours[fill]}"'
            f' stroke="{self.colours[edge]}" stroke-width="1.5"{more}/>'
        )

    def text(self, text: str, x: float, y: float, kind: str, anchor: str = "middle", size: float = 0.0) -> None:
        mark = {"title": ' class="t"', "accent": ' class="t a"', "small": ""}[kind]
        style = f' style="font-size:{size:g}px"' if size else ""
        inside = re.sub(r"`(.+?)`", r'<tspan class="c">\1</tspan>', escape(text, quote=False))
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{mark}{style}>{inside}</text>')

    def box(self, box: Box) -> None:
        fill, edge, more = {
            "accent": ("accent fill", "accent", ""), "faint": ("faint", "edge", ' stroke-dasharray="4 4"'),
        }.get(box.style, ("fill", "edge", ""))  # fmt: skip
        if box.style != "label":
            self.rect(box.x, box.y, box.w, box.h, fill, edge, more)
        y = box.y + (box.h - box.needed) / 2 + (0 if box.style == "label" else 11)
        for line, size, bold in box.lines:
            y += size * LINE
            kind = ("accent" if box.style == "accent" else "title") if bold else "small"
            self.text(line, box.middle, y - size * 0.33, kind)
        if box.chips:
            self.chips(box, y + 10)
        if box.style == "queue":
            self.queue(box, y + 8)

    def chips(self, box: Box, y: float) -> None:
        """The filters of a chain, from left to right."""
        gap, size = 20.0, 14.0
        w = (box.w - 2 * PAD - gap * (len(box.chips) - 1)) / len(box.chips)
        for index, chip in enumerate(box.chips):
            x = box.x + PAD + index * (w + gap)
            if width_of(chip, size, True) > w - 8:
                raise ValueError(f'"{chip}" needs {width_of(chip, size, True):.0f} pixels; its chip has {w - 8:.0f}')
            self.rect(x, y, w, 30, "chip", "edge", radius=7)
            self.text(chip, x + w / 2, y + 20, "title", size=size)
            if index:
                self.path([(x - gap + 2, y + 15), (x - 2, y + 15)], back=False)

    def queue(self, box: Box, y: float) -> None:
        """Places of a mailbox; some are taken."""
        w, gap, count = 16.0, 5.0, 5
        x = box.middle - (count * (w + gap) - gap) / 2
        for index in range(count):
            self.rect(
                x + index * (w + gap), y, w, 9, "accent" if index > 1 else "chip", "accent" if index > 1 else "edge", radius=2.5
            )

    def arrow(self, arrow: Arrow) -> None:
        a, b = self.boxes[arrow.start], self.boxes[arrow.end]
        pair = any((other.start, other.end) == (arrow.end, arrow.start) for other in self.picture.arrows)
        if a.row == b.row:
            right = a.x < b.x
            y = a.y + a.h / 2 + ((-8 if right else 8) if pair else 0)
            self.path([(a.x + a.w + 2, y), (b.x - 3, y)] if right else [(a.x - 2, y), (b.x + b.w + 3, y)], arrow.back)
            return
        down = a.row < b.row
        start, end = (a.bottom + 2, b.y - 3) if down else (a.y - 2, b.bottom + 3)
        narrow, wide = sorted((a, b), key=lambda box: box.w)
        shift = (-14 if down else 14) if pair else 0
        if wide.x <= narrow.middle <= wide.x + wide.w:
            x = narrow.middle + shift
            self.path([(x, start), (x, end)], arrow.back)
            turn = None
        else:
            x, turn = b.middle + shift, (b.y - APART / 2 if down else b.bottom + APART / 2)
            self.path([(a.middle + shift, start), (a.middle + shift, turn), (x, turn), (x, end)], arrow.back)
        if arrow.label:
            self.label(arrow.label, x, (start + end) / 2, left=pair and down)

    def label(self, text: str, x: float, y: float, left: bool) -> None:
        room = x - 9 - MARGIN / 2 if left else WIDTH - x - 9 - MARGIN / 2
        lines = wrapped(text, SMALL, room)
        if len(lines) > 2 or any(width_of(line, SMALL) > room for line in lines):
            raise ValueError(f'the label "{text}" does not fit into two lines of {room:.0f} pixels')
        for index, line in enumerate(lines):
            height = y + SMALL * 0.35 + (index - (len(lines) - 1) / 2) * SMALL * 1.15
            self.text(line, x - 9 if left else x + 9, height, "small", anchor="end" if left else "start")

    def path(self, points: list[tuple[float, float]], back: bool) -> None:
        """A line with rounded corners and a head at its end."""
        d = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for before, here, after in zip(points, points[1:], points[2:], strict=False):
            d += " L{:.1f} {:.1f} Q{:.1f} {:.1f} {:.1f} {:.1f}".format(*toward(here, before, 8), *here, *toward(here, after, 8))
        tip, last = points[-1], points[-2]
        foot = toward(tip, last, 7)
        d += f" L{foot[0]:.1f} {foot[1]:.1f}"
        dx, dy = (tip[0] - foot[0]) / 7, (tip[1] - foot[1]) / 7
        corners = [tip, (foot[0] - 4.5 * dy - dx, foot[1] + 4.5 * dx - dy), (foot[0] + 4.5 * dy - dx, foot[1] - 4.5 * dx - dy)]
        self.parts.append(f'<path class="line{" back" if back else ""}" d="{d}"/>')
        head = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self.parts.append(f'<polygon class="{"back" if back else ""}head" points="{head}"/>')


def toward(point: tuple[float, float], other: tuple[float, float], pixels: float) -> tuple[float, float]:
    """The place that is so many pixels from the point on the way to the other."""
    dx, dy = other[0] - point[0], other[1] - point[1]
    part = pixels / max(1.0, (dx * dx + dy * dy) ** 0.5)
    return point[0] + dx * part, point[1] + dy * part


def drawn() -> Iterator[tuple[Path, str]]:
    """Each file, and what belongs into it."""
    for source in sorted(HERE.glob("*.txt")):
        for scheme, colours in COLOURS.items():
            picture = read(source.read_text(encoding="utf-8"))
            yield HERE / f"{source.stem}-{scheme}.svg", Drawing(picture, colours).svg()


if __name__ == "__main__":
    for file, svg in drawn():
        file.write_text(svg, encoding="utf-8")
