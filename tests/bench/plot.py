"""A line chart as SVG, without a library: a few lines over one axis that grows by powers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 56
COLOURS = ("#1f6feb", "#cf222e", "#1a7f37", "#8250df")


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) under a name; `dashed` for what is a bound, not a measurement."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, y_max: float) -> str:
    """The chart. The x axis is logarithmic, with a tick at each x of the first line."""
    xs = [x for x, _ in lines[0].points]
    low, high = math.log10(min(xs)), math.log10(max(xs))

    def px(x: float) -> float:
        return LEFT + (math.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - min(y, y_max) / y_max * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 18, title, size=14),
        _text(WIDTH / 2, HEIGHT - 6, x_label),
        f'<g transform="rotate(-90 14 {HEIGHT / 2})">{_text(14, HEIGHT / 2, y_label)}</g>',
    ]
    for step in range(5):
        y = y_max * step / 4
        parts.append(
            f'<line x1="{LEFT}" y1="{py(y):.1f}" x2="{WIDTH - RIGHT}" y2="{py(y):.1f}" '
            'stroke="#d0d7de"/>'
        )
        parts.append(_text(LEFT - 6, py(y) + 4, f"{y:g}", anchor="end"))
    parts += [_text(px(x), HEIGHT - BOTTOM + 16, f"{x:,.0f}") for x in xs]
    for place, line in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        if not line.dashed:
            parts += [
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{colour}"/>'
                for x, y in line.points
            ]
        x_legend = LEFT + place * (WIDTH - LEFT - RIGHT) / len(lines)
        parts.append(
            f'<line x1="{x_legend:.0f}" y1="{HEIGHT - 26}" x2="{x_legend + 18:.0f}" '
            f'y2="{HEIGHT - 26}" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts.append(_text(x_legend + 24, HEIGHT - 22, line.name, anchor="start"))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
