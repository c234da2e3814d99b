"""Small plots as SVG text, for pages that load nothing: bars over time, and bars in classes for several series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 190, 46, 34, 12
_COLOURS = ("#2f6f9f", "#d98b2b", "#5a9e5a", "#9a5fb0", "#b5533c", "#5c8a8a", "#8a7a3a", "#6b6b6b")


def _svg(title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _bar(x: float, top: float, width: float, bottom: float, colour: str, words: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{max(width, 0.5):.1f}" height="{max(bottom - top, 0):.1f}" fill="{colour}">'
        f"<title>{escape(words)}</title></rect>"
    )


class _Axis:
    """From 0 to a round number not below the largest."""

    def __init__(self, largest: float) -> None:
        step = 10 ** (len(str(int(max(largest, 1)))) - 1)
        self.top = step * next(n for n in (1, 2, 4, 5, 6, 8, 10) if n * step >= largest)
        self._span = _HEIGHT - _BOTTOM - _TOP

    def y(self, value: float) -> float:
        return float(_TOP + self._span * (1 - value / self.top))

    def lines(self) -> list[str]:
        parts = []
        for value in (0, self.top / 2, self.top):
            y = self.y(value)
            parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", "end"))
        return parts


def over_time(begin: float, bin_s: float, bins: Sequence[Mapping[str, int]]) -> str:
    """Quanta that ended in each bin: `succeeded` below, `failed` on top. `begin` is a Unix time (UTC)."""
    axis = _Axis(max((b["succeeded"] + b["failed"] for b in bins), default=1))
    step = (_WIDTH - _LEFT) / max(len(bins), 1)
    body = axis.lines()
    for n, one in enumerate(bins):
        x, good, total = _LEFT + n * step, one["succeeded"], one["succeeded"] + one["failed"]
        words = f"{_clock(begin + n * bin_s)}: {good} succeeded, {one['failed']} failed"
        if good:
            body.append(_bar(x, axis.y(good), step - 1, axis.y(0), _COLOURS[0], words))
        if one["failed"]:
            body.append(_bar(x, axis.y(total), step - 1, axis.y(good), _COLOURS[4], words))
    body.append(_text(_LEFT, _HEIGHT - 12, _clock(begin), "start"))
    body.append(_text(_WIDTH, _HEIGHT - 12, _clock(begin + bin_s * len(bins)), "end"))
    return _svg("quanta ended over time", body)


def _clock(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S")


def classes(edges: Sequence[float], series: Mapping[str, Sequence[int]], unit: str) -> str:
    """Histograms of several series side by side; the first and the last class are open."""
    names = list(series)
    used = [n for n in range(len(edges) + 1) if any(series[name][n] for name in names)]
    if not used:
        return ""
    shown = range(used[0], used[-1] + 1)
    axis = _Axis(max(max(series[name]) for name in names))
    step = (_WIDTH - _LEFT) / len(shown)
    width = 0.84 * step / len(names)
    body = axis.lines()
    for place, n in enumerate(shown):
        for k, name in enumerate(names):
            if count := series[name][n]:
                x = _LEFT + place * step + 0.08 * step + k * width
                words = f"{name}: {count} of {_class(edges, n)} {unit}"
                body.append(_bar(x, axis.y(count), width, axis.y(0), colour(k), words))
        body.append(_text(_LEFT + (place + 0.5) * step, _HEIGHT - 16, _class(edges, n)))
    body.append(_text(_WIDTH, _HEIGHT - 2, unit, "end"))
    return _svg(f"histogram, {unit}", body)


def colour(n: int) -> str:
    """Of the n-th series."""
    return _COLOURS[n % len(_COLOURS)]


def _class(edges: Sequence[float], n: int) -> str:
    if n == 0:
        return f"<{edges[0]:g}"
    return f"≥{edges[-1]:g}" if n == len(edges) else f"{edges[n - 1]:g}–{edges[n]:g}"
