"""Dot plots as SVG: a line for each subject, a dot for each series.

Colours are said for light and for dark, and each series has a shape of its own, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.spread import Spread

WIDTH, LABELS, RIGHT = 760, 250, 40
TOP, LINE, BOTTOM = 56, 30, 34
SIZE = 4.0

STYLE = """
text { font-family: system-ui, sans-serif; font-size: 12px; fill: #24292f }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #d0d7de }
.s0 { fill: #0969da; stroke: #0969da }
.s1 { fill: #bc4c00; stroke: #bc4c00 }
.s2 { fill: #1a7f37; stroke: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.grid { stroke: #3d444d }
.s0 { fill: #58a6ff; stroke: #58a6ff }
.s1 { fill: #f0883e; stroke: #f0883e }
.s2 { fill: #56d364; stroke: #56d364 }
}
"""


@dataclass(frozen=True)
class Plot:
    """Figures by subject and series, on a logarithmic axis.

    Attributes:
        title: What is seen.
        unit: Of the axis.
        series: At most three.
        lines: By subject, and by series; a series may be missing.
    """

    title: str
    unit: str
    series: Sequence[str]
    lines: Mapping[str, Mapping[str, Spread]]


def draw(plot: Plot) -> str:
    """The plot, as a file's text."""
    spreads = [s for line in plot.lines.values() for s in line.values()]
    axis = Axis.over([s.low for s in spreads] + [s.high for s in spreads])
    height = TOP + LINE * len(plot.lines) + BOTTOM
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
        f"<title>{escape(plot.title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(plot.title)}</text>',
        *legend(plot.series),
        *axis.drawn(height, plot.unit),
    ]
    for number, (subject, line) in enumerate(plot.lines.items()):
        middle = TOP + LINE * (number + 0.5)
        parts.append(
            f'<text x="{LABELS - 12}" y="{middle + 4:g}" text-anchor="end">'
            f"{escape(subject)}</text>"
        )
        for place, name in enumerate(plot.series):
            if name in line:
                # One above the other, so that none hides another.
                above = SIZE * 2 * (place - (len(plot.series) - 1) / 2)
                parts += dot(line[name], axis, middle + above, place)
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis over whole powers of ten."""

    first: int
    last: int

    @classmethod
    def over(cls, figures: Sequence[float]) -> Axis:
        first = math.floor(math.log10(min(figures)))
        return cls(first, max(first + 1, math.ceil(math.log10(max(figures)))))

    def place(self, figure: float) -> float:
        """Where a figure is, in pixels."""
        share = (math.log10(figure) - self.first) / (self.last - self.first)
        return LABELS + share * (WIDTH - LABELS - RIGHT)

    def drawn(self, height: int, unit: str) -> list[str]:
        """Its grid, and what the lines say."""
        bottom = height - BOTTOM
        parts = []
        for power in range(self.first, self.last + 1):
            x = self.place(10.0**power)
            parts.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{TOP}" y2="{bottom}"/>'
                f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
                f"{10.0**power:,.10g}</text>"
            )
        parts.append(f'<text x="8" y="{bottom + 16}">{escape(unit)}</text>')
        return parts


def legend(series: Sequence[str]) -> list[str]:
    parts, x = [], float(LABELS)
    for place, name in enumerate(series):
        parts.append(shape(place, x, 36))
        parts.append(f'<text x="{x + 10:g}" y="40">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return parts


def dot(spread: Spread, axis: Axis, y: float, place: int) -> list[str]:
    """The median, and a stroke from the lowest figure to the highest."""
    low, high = axis.place(spread.low), axis.place(spread.high)
    stroke = (
        f'<line class="s{place}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
    )
    return [stroke, shape(place, axis.place(spread.median), y)]


def shape(place: int, x: float, y: float) -> str:
    """A circle, a square or a diamond."""
    if not place:
        return f'<circle class="s0" cx="{x:.1f}" cy="{y:g}" r="{SIZE:g}"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:g})"' if place > 1 else ""
    return (
        f'<rect class="s{place}" x="{x - SIZE + 1:.1f}" y="{y - SIZE + 1:g}" '
        f'width="{2 * SIZE - 2:g}" height="{2 * SIZE - 2:g}"{turn}/>'
    )
