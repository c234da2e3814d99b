"""Plots of a night as SVG text: points over time, and bars of how long stages take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from workflow.plots import colour

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 180, 58, 26, 10


def over_time(title: str, series: Mapping[str, Sequence[tuple[float, float, str]]]) -> str:
    """Points (Unix time, value, words) of several series; empty text without any."""
    points = [point for values in series.values() for point in values]
    if not points:
        return ""
    begin, end = min(p[0] for p in points), max(p[0] for p in points)
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    pad = 0.08 * (high - low) or abs(high) * 0.01 or 1.0
    low, high, span = low - pad, high + pad, (end - begin) or 1.0
    body = _frame(low, high)
    for number, values in enumerate(series.values()):
        for at, value, words in values:
            x = _LEFT + 6 + (at - begin) / span * (_WIDTH - _LEFT - 12)
            body.append(
                f'<circle cx="{x:.1f}" cy="{_y(value, low, high):.1f}" r="2.6" fill="{colour(number)}" fill-opacity="0.75">'
                f"<title>{escape(words)}</title></circle>"
            )
    for at, x, anchor in ((begin, _LEFT, "start"), (end, _WIDTH, "end")):
        body.append(_text(x, _HEIGHT - 8, datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S"), anchor))
    return _svg(title, body, _HEIGHT)


def bars(title: str, stages: Mapping[str, Mapping[str, float]]) -> str:
    """For each stage a bar to the median and a line to the 98th percentile, in seconds; `wait` is no part of the way."""
    stages = {name: found for name, found in stages.items() if name != "wait"}
    if not stages:
        return ""
    longest = max(*(s["p98_s"] for s in stages.values()), 0.1)
    height, left = 18 * len(stages) + 26, 92
    scale = (_WIDTH - left - 100) / longest
    body = []
    for number, (name, s) in enumerate(stages.items()):
        y, far, words = 6 + 18 * number, left + s["p98_s"] * scale, f"{s['p50_s']:.2f} / {s['p98_s']:.2f} s"
        body.append(_text(left - 6, y + 10, name, "end"))
        body.append(f'<rect x="{left}" y="{y}" width="{max(s["p50_s"] * scale, 1):.1f}" height="12" fill="{colour(0)}"/>')
        body.append(f'<line x1="{left}" x2="{far:.1f}" y1="{y + 6}" y2="{y + 6}" stroke="{colour(1)}" stroke-width="2"/>')
        body.append(_text(far + 6, y + 10, words, "start"))
    body.append(_text(left, height - 6, "median (bar) / 98th percentile (line)", "start"))
    return _svg(title, body, height)


def _frame(low: float, high: float) -> list[str]:
    parts = []
    for value in (low, (low + high) / 2, high):
        y = _y(value, low, high)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:.4g}", "end"))
    return parts


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, body: Sequence[str], height: int) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )
