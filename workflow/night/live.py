"""The night as it is now, as plain values: what the live page shows, and a program reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workflow.night.books import Row
from workflow.night.latency import OTT1_S, latency_s, on_time, stages
from workflow.night.nights import Nights
from workflow.night.states import PART_TERMINAL, PartState

SHOWN = 60
"""Visits on the page; the reports have all."""
_EVENTS = 40


def live(nights: Nights, name: str) -> dict[str, Any]:
    """UnknownNight if there is none."""
    now = nights.clock.now()
    held, parts, workers, events = nights.rows(name)
    by_visit: dict[int, list[Row]] = {}
    for row in parts:
        by_visit.setdefault(row.visit, []).append(row)
    newest = sorted(by_visit, reverse=True)[:SHOWN]
    return {
        "night": nights.status(name).as_json(),
        "now": now,
        "summary": on_time([row for row in parts if row.state in PART_TERMINAL]),
        "stages": stages(parts),
        "workers": [_worker(row, now) for row in workers if row.ended is None],
        "lost": sum(row.state == "LOST" for row in workers),
        "late": [_late(row, now) for row in parts if _is_late(row, now)],
        "visits": [_visit(number, by_visit[number], now) for number in newest],
        "events": [_event(row) for row in list(events)[-_EVENTS:][::-1]],
        "detectors": list(held.detectors),
    }


def _worker(row: Row, now: float) -> dict[str, Any]:
    return {
        "detector": row.detector,
        "key": row.key,
        "state": row.state,
        "host": row.host,
        "ordinal": row.ordinal,
        "preload_s": row.preload_s,
        "silent_s": None if row.beat is None else now - row.beat,
    }


def _is_late(row: Row, now: float) -> bool:
    if row.state in (PartState.FAILED, PartState.CANCELLED):
        return True
    found = latency_s(row)
    if found is not None:
        return found > OTT1_S
    return row.readout_end is not None and row.ended is None and now - row.readout_end > OTT1_S


def _late(row: Row, now: float) -> dict[str, Any]:
    found = latency_s(row)
    waits = f"{row.stage or 'waiting'} since {now - row.since:.0f} s"
    after = found if found is not None else (row.ended or now) - (row.readout_end or row.expected_end)
    return {
        "visit": row.visit,
        "detector": row.detector,
        "state": row.state,
        "stage": row.stage,
        "after_s": after,
        "why": row.reason or ("its alerts were out late" if found is not None else waits),
        "handed": row.handed,
    }


def _visit(number: int, rows: Sequence[Row], now: float) -> dict[str, Any]:
    first = rows[0]
    return {
        "visit": number,
        "mode": first.mode,
        "field": first.field,
        "physical_filter": first.physical_filter,
        "readout_end": first.readout_end,
        "expected_end": first.expected_end,
        "alerts": sum(row.alerts for row in rows),
        "sources": sum(row.sources for row in rows),
        "latency_s": max((found for row in rows if (found := latency_s(row)) is not None), default=None),
        "parts": [
            {
                "detector": row.detector,
                "state": row.state,
                "stage": row.stage,
                "in_stage_s": None if row.ended is not None else now - row.since,
                "latency_s": latency_s(row),
                "alerts": row.alerts,
                "stages": row.stages,
                "tries": row.tries,
                "reason": row.reason,
                "stamps": row.stamps,
                "quality": row.quality,
            }
            for row in rows
        ],
    }


def _event(row: Row) -> dict[str, Any]:
    return {"at": row.at, "kind": row.kind, "words": row.words}
