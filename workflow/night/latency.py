"""From the end of readout to alerts: how late parts and alerts were, counted once, for reports, pages and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from workflow.night.books import Row

OTT1_S = 60.0
"""Within which alerts are due (DMS-REQ-0004), and of how many of them."""
OTR1 = 0.98


def latency_s(row: Row) -> float | None:
    """Of a part: until its alerts were out; None while they are not, or where nothing was read out."""
    if row.alerts_out is None or row.readout_end is None:
        return None
    return float(row.alerts_out - row.readout_end)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1e6) * len(ordered) // 1_000_000) - 1))] if ordered else None


def on_time(parts: Iterable[Row]) -> dict[str, Any]:
    """Shares of alerts and of parts that were out in time; what never came counts as late, its alerts are not known."""
    parts = list(parts)
    timed = [(found, row.alerts) for row in parts if (found := latency_s(row)) is not None]
    alerts = sum(n for _, n in timed)
    in_time = sum(n for found, n in timed if found <= OTT1_S)
    return {
        "alerts": alerts,
        "alerts_on_time": in_time,
        "alerts_on_time_fraction": in_time / alerts if alerts else None,
        "parts": len(parts),
        "parts_on_time": sum(found <= OTT1_S for found, _ in timed),
        "p50_s": quantile([found for found, _ in timed], 0.5),
        "p98_s": quantile([found for found, _ in timed], 0.98),
        "max_s": quantile([found for found, _ in timed], 1.0),
        "required": {"within_s": OTT1_S, "fraction": OTR1},
    }


def stages(parts: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Of each stage, in order: how often, and its quantiles in seconds. `transfer` is from readout to the prompt endpoint."""
    found: dict[str, list[float]] = {"transfer": []}
    for row in parts:
        if row.stored is not None and row.readout_end is not None:
            found["transfer"].append(float(row.stored - row.readout_end))
        for name, seconds in row.stages.items():
            found.setdefault(name, []).append(float(seconds))
    return {
        name: {"n": len(values), **{f"p{round(100 * q)}_s": quantile(values, q) or 0.0 for q in (0.5, 0.98, 1.0)}}
        for name, values in found.items()
        if values
    }
