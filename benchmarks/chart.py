"""A chart of ratios as an SVG, written by hand: bars on a logarithmic scale, one group a workload, the limit as a line at 1."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, LEFT, RIGHT = 860, 190, 60  # pixels: of the picture, of the names, of the figures
BAR, GAP, TITLE, TOP = 15, 10, 20, 58  # pixels: of a bar, between groups, of a group's title, of the head

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
  .grid { stroke: #d0d7de } .limit { stroke: #24292f; stroke-width: 1.5 }
  .ours { fill: #0969da } .peer { fill: #8c959f } .simplest { fill: #d4a72c }
  .direct { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    .grid { stroke: #3d444d } .limit { stroke: #e6edf3 }
    .ours { fill: #4493f8 } .peer { fill: #7d8590 } .simplest { fill: #bb8009 }
    .direct { fill: none; stroke: #9198a1 }
  }
"""
LEGEND = {
    "ours": "pipebus",
    "simplest": "the simplest design",
    "peer": "another package",
    "direct": "without a queue: handlers are called in the publisher's thread",
}


class Bar(NamedTuple):
    """A contender, its ratio to the limit, and its class in the style sheet."""

    name: str
    ratio: float
    kind: str


class Group(NamedTuple):
    """The contenders of one workload."""

    title: str
    bars: Sequence[Bar]


def draw(groups: Sequence[Group], head: str) -> str:
    """Draw all groups, one below the other."""
    ratios = [bar.ratio for group in groups for bar in group.bars] or [1.0]
    least, most = min(0, floor(log10(min(ratios)))), max(1, ceil(log10(max(ratios))))  # powers of ten

    def x(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (log10(ratio) - least) / (most - least)

    height = TOP + sum(TITLE + BAR * len(group.bars) + GAP for group in groups)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(head)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="small" x="0" y="12">{escape(head)}</text>',
    ]
    at = 0
    for kind, says in LEGEND.items():
        parts += [f'<rect class="{kind}" x="{at + 0.5}" y="20.5" width="10" height="10"/>', text(at + 16, 30, says, "small")]
        at += 36 + 6 * len(says)
    for power in range(least, most + 1):
        line = "limit" if power == 0 else "grid"
        parts.append(f'<line class="{line}" x1="{x(10**power):.1f}" x2="{x(10**power):.1f}" y1="{TOP - 8}" y2="{height}"/>')
        parts.append(text(x(10**power) + 3, TOP - 9, "the limit" if power == 0 else f"× {10.0**power:,g}", "small"))
    y = TOP
    for group in groups:
        parts.append(text(0, y + TITLE - 6, group.title, "title"))
        y += TITLE
        for name, ratio, kind in group.bars:
            left, right = sorted((x(1.0), x(ratio)))
            width = max(1.0, right - left)
            shape = f'x="{left:.1f}" y="{y + 2.5}" width="{width:.1f}" height="{BAR - 4}"'
            parts += [text(10, y + BAR - 4, name), f'<rect class="{kind}" {shape}/>']
            parts.append(text(max(right, x(1.0)) + 5, y + BAR - 4, figure(ratio)))
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>", ""])


def figure(ratio: float) -> str:
    """Show two digits where they mean something."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}"


def text(x: float, y: float, words: str, kind: str = "name") -> str:
    """Write some words."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(words)}</text>'
