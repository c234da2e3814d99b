"""The backbone on one self-contained HTML page: places and links as a drawing, files by state, what is stuck and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from backbone.flow import LinkState
from backbone.transfers import TransferState
from backbone.usage import Overview, PlaceUsage

_WIDTH, _RADIUS, _NODE, _MARGIN = 900, 190, 46, 24
_LABEL_AT = 0.34  # of the way: in the middle of the drawing all links meet
_BEND = 26  # px between the two directions of a link
_STATES = ("AVAILABLE", "BAD", "LOST", "DELETING")
_SPANS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, kw_only=True)
class _Node:
    place: PlaceUsage
    x: float
    y: float
    r: float
    colour: str
    files: str
    size: str


@dataclass(frozen=True, kw_only=True)
class _Edge:
    link: LinkState
    path: str
    width: float
    kind: str
    label: str
    x: float
    y: float


def size_text(size_bytes: float) -> str:
    """Bytes as people read them, in powers of 1000."""
    step = 0 if size_bytes < 1 else min(int(math.log10(size_bytes) // 3), len(_UNITS) - 1)
    value = size_bytes / 1000**step
    return f"{value:.0f} {_UNITS[step]}" if step == 0 or value >= 100 else f"{value:.1f} {_UNITS[step]}"


def date_text(at: float | None) -> str:
    """Seconds since 1970 as a date in UTC."""
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span_text(seconds: float | None) -> str:
    """A span of time as people say it, in one unit; None: that cannot be told."""
    if seconds is None:
        return "not known"
    unit, size = next((pair for pair in _SPANS if seconds >= 2 * pair[1]), _SPANS[-1])
    return f"{seconds / size:.0f} {unit}"


def verdict(overview: Overview) -> str:
    """The whole in one sentence."""
    damaged = sum(place.damaged for place in overview.places)
    backlog = sum(link.pending + link.running for link in overview.links)
    said = []
    if overview.stuck:
        said.append(f"{len(overview.stuck)}{'+' if len(overview.stuck) == 100 else ''} stuck")
    if damaged:
        said.append(f"{damaged:,} replica{'' if damaged == 1 else 's'} damaged and asked for again")
    if backlog:
        said.append(f"{backlog:,} {'copy' if backlog == 1 else 'copies'} on the way")
    if overview.waiting:
        said.append(
            f"{len(overview.waiting)}{'+' if len(overview.waiting) == 100 else ''} waiting for another try or for a source"
        )
    return "; ".join(said) or "everything is where it should be"


def reasons(stuck: Sequence[TransferState]) -> list[tuple[str, str, int, str]]:
    """What is stuck by reason, the commonest first: reason (a file's own key in it is left out), target, how many, an example."""
    named = [(x.reason.replace(x.key, "…"), x.target) for x in stuck]
    found: Counter[tuple[str, str]] = Counter(named)
    first = {name: x.key for name, x in zip(reversed(named), reversed(stuck), strict=True)}
    return [(reason, target, count, first[reason, target]) for (reason, target), count in found.most_common()]


def page(overview: Overview, *, refresh_s: int | None = None) -> str:
    """The page; with `refresh_s` the browser asks for it again that often."""
    nodes = _nodes(overview)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=size_text, date=date_text, span=span_text)
    template = environment.from_string(files("backbone").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        o=overview,
        states=_STATES,
        verdict=verdict(overview),
        good=not overview.stuck and not any(place.damaged for place in overview.places),
        nodes=list(nodes.values()),
        edges=[_edge(link, nodes) for link in overview.links if link.source in nodes and link.target in nodes],
        stuck=reasons(overview.stuck),
        waiting=reasons(overview.waiting),
        width=_WIDTH,
        height=round(max((node.y + node.r for node in nodes.values()), default=0.0) + _MARGIN),
        refresh_s=refresh_s,
    )


def _nodes(overview: Overview) -> dict[str, _Node]:
    count = len(overview.places)
    found = {}
    for index, place in enumerate(overview.places):
        angle = 2 * math.pi * index / count - math.pi / 2
        wide = 1.7 if count > 1 else 0.0
        available = place.replicas.get("AVAILABLE", 0)
        found[place.name] = _Node(
            place=place,
            x=_WIDTH / 2 + wide * _RADIUS * math.cos(angle),
            y=_MARGIN + _NODE + (_RADIUS * (1 + math.sin(angle)) if count > 1 else 0.0),
            r=_NODE,
            colour="bad" if place.arriving.get("STUCK") else "warn" if place.damaged else "good",
            files=f"{available:,} files",
            size=size_text(place.size_bytes),
        )
    return found


def _edge(link: LinkState, nodes: dict[str, _Node]) -> _Edge:
    """A line bent to the right of its direction, so that both directions are seen, from rim to rim."""
    a, b = nodes[link.source], nodes[link.target]
    dx, dy = b.x - a.x, b.y - a.y
    length = math.hypot(dx, dy) or 1.0
    ux, uy = dx / length, dy / length
    middle = ((a.x + b.x) / 2 - uy * _BEND, (a.y + b.y) / 2 + ux * _BEND)
    start = (a.x + ux * _NODE - uy * 8, a.y + uy * _NODE + ux * 8)
    end = (b.x - ux * (_NODE + 9) - uy * 8, b.y - uy * (_NODE + 9) + ux * 8)
    busy = link.pending + link.running + link.waiting + link.stuck
    said = []
    if link.bytes_per_s:
        said.append(f"{size_text(link.bytes_per_s)}/s")
    if busy:
        said.append(f"{busy:,} left{f', {link.stuck:,} stuck' if link.stuck else ''}")
    near, far = (1 - _LABEL_AT) ** 2, _LABEL_AT**2
    x, y = (near * a0 + (1 - near - far) * m0 + far * b0 for a0, m0, b0 in zip(start, middle, end, strict=True))
    return _Edge(
        link=link,
        path=f"M{start[0]:.1f},{start[1]:.1f} Q{middle[0]:.1f},{middle[1]:.1f} {end[0]:.1f},{end[1]:.1f}",
        width=1.0 + min(math.log10(1 + link.bytes_per_s / 1e4), 5.0) if said else 0.8,
        kind="stuck" if link.stuck else "busy" if said else "idle",
        label=" · ".join(said),
        x=x - uy * 12,
        y=y + ux * 12 + 4,
    )
