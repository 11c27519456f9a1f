"""The latency curve as SVG: p50, p95 and p99 against the rate that was sent. Pure.

The latency axis is logarithmic, for a curve that bends at saturation would be flat before it
otherwise. Grey bars are the part of the requests that was refused or failed. Hollow points are
steps in which the generator was late itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_WIDTH: Final = 720
_HEIGHT: Final = 420
_LEFT: Final = 70
_RIGHT: Final = 30
_TOP: Final = 50
_BOTTOM: Final = 60
_LINES: Final = (("p50", "#2a9d5c"), ("p95", "#1f6fb2"), ("p99", "#c0392b"))


def latency_curve(steps: Sequence[Mapping[str, Any]], title: str) -> str:
    """An SVG document; steps as `Step.document` gives them, those without an answer left out."""
    shown = [step for step in steps if step["answered"]]
    values = [max(0.1, step["latency_ms"][name]) for step in shown for name, _ in _LINES]
    low = math.floor(math.log10(min(values, default=1.0)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=10.0))))
    last = max((step["rate_per_s"] for step in steps), default=1.0)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(rate: float) -> float:
        return _LEFT + plot_width * rate / last

    def y(value_ms: float) -> float:
        part = (math.log10(max(0.1, value_ms)) - low) / (high - low)
        return _TOP + plot_height * (1 - part)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 22, title, size=14, anchor="start"),
    ]
    parts += _refusals(steps, x, plot_height)
    for decade in range(low, high + 1):
        level = y(10.0**decade)
        parts.append(_line(_LEFT, level, _WIDTH - _RIGHT, level, "#dddddd"))
        parts.append(_text(_LEFT - 8, level + 4, f"{10.0**decade:g} ms", anchor="end"))
    for rate in _ticks(last):
        parts.append(_line(x(rate), _TOP + plot_height, x(rate), _TOP + plot_height + 5, "#888"))
        parts.append(_text(x(rate), _TOP + plot_height + 20, f"{rate:g}"))
    parts.append(_text(_LEFT + plot_width / 2, _HEIGHT - 14, "requests sent a second"))
    for place, (name, colour) in enumerate(_LINES):
        points = [
            (x(step["rate_per_s"]), y(step["latency_ms"][name]), step["generator_late"])
            for step in shown
        ]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for px, py, late in points:
            fill = "white" if late else colour
            parts.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{fill}" stroke="{colour}"/>'
            )
        legend_x = _WIDTH - _RIGHT - 150 + place * 52
        parts.append(_line(legend_x, 38, legend_x + 18, 38, colour, width=3))
        parts.append(_text(legend_x + 22, 42, name, anchor="start"))
    return "\n".join([*parts, "</svg>", ""])


def _refusals(steps: Sequence[Mapping[str, Any]], x: Any, plot_height: float) -> list[str]:
    bars = []
    for step in steps:
        sent = step["sent"] + step["not_sent"]
        missing = sent - step["answered"]
        if sent and missing:
            height = plot_height * missing / sent
            left, top = x(step["rate_per_s"]) - 6, _TOP + plot_height - height
            bars.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="12" height="{height:.1f}" '
                f'fill="#bbbbbb"><title>{missing / sent:.1%} not answered</title></rect>'
            )
    return bars


def _ticks(last: float) -> list[float]:
    """Round rates from 0 to the last, about six of them."""
    raw = last / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [step * n for n in range(int(last / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
