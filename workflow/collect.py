"""Brings what jobs report into the ledger: segments → outcomes → acceptance, failures, and what was learned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import ObjectAbsent
from workflow import stats
from workflow.accept import accept
from workflow.campaign import Work
from workflow.failures import give_back, judge
from workflow.job import Outcome, Segment, heartbeat_key, segment_key
from workflow.ledger.tables import REPORTED, job, outcome, quantum, segment_file
from workflow.states import QUANTUM_IN_JOB

_LOG = logging.getLogger(__name__)


def collect(work: Work, row: Any) -> list[Segment]:
    """Take in the segments of one job that are new; returns them. Killed anywhere, the next call takes in the rest."""
    segments = _new_segments(work, row)
    if segments:
        with work.lock.begin() as connection:
            record(work, connection, row, segments)
            connection.execute(job.update().where(job.c.id == row.id).values(segments=row.segments + len(segments)))
    return segments


def _new_segments(work: Work, row: Any) -> list[Segment]:
    endpoint = work.context.endpoint(row.site)
    found = []
    for number in range(row.segments, row.segments + work.context.engine.accept_batch):
        try:
            found.append(Segment.model_validate_json(endpoint.get(segment_key(row.id, number))))
        except ObjectAbsent:
            break
    return found


def record(work: Work, connection: Connection, row: Any, segments: Sequence[Segment]) -> None:
    """Outcomes of one job into the ledger, with all their consequences, in one transaction."""
    ledger = work.context.ledger
    outcomes = [o for segment in segments for o in segment.outcomes]
    files = [{"key": f.key, "job": row.id, "size": f.size, "sha256": f.sha256} for s in segments for f in s.files]
    ledger.insert_new(connection, segment_file, files)
    add_outcomes(work, connection, row, outcomes, REPORTED)
    taken = set(accept(ledger, connection, campaign=work.name, job=row.id, outcomes=outcomes))
    refused = [o.quantum for o in outcomes if o.state == "succeeded" and o.quantum not in taken]
    give_back(work, connection, _of_job(work, connection, row, refused))
    judge(work, connection, row, [o for o in outcomes if o.state == "failed"])
    _learn(work, connection, [o for o in outcomes if o.quantum in taken])


def add_outcomes(work: Work, connection: Connection, row: Any, outcomes: Sequence[Outcome], origin: str) -> None:
    """The outcomes' own rows; those that are there stay as they are."""
    now = work.context.clock.now()
    rows = [
        {
            "quantum": o.quantum,
            "job": row.id,
            "origin": origin,
            "state": o.state,
            "failure_class": o.failure_class,
            "forgiven": False,
            "error": o.error,
            "wall_s": o.wall_s,
            "cpu_s": o.cpu_s,
            "peak_mb": o.peak_mb,
            "reads": list(o.reads),
            "unwritten": list(o.unwritten),
            "records": o.records,
            "collected": now,
        }
        for o in outcomes
    ]
    work.context.ledger.insert_new(connection, outcome, rows)


def _of_job(work: Work, connection: Connection, row: Any, ids: Sequence[str]) -> list[str]:
    """Those of `ids` that are still this job's."""
    if not ids:
        return []
    where = (work.context.ledger.among(quantum.c.id, ids), quantum.c.job == row.id, quantum.c.state.in_(QUANTUM_IN_JOB))
    return [r.id for r in connection.execute(sa.select(quantum.c.id).where(*where))]


def _learn(work: Work, connection: Connection, outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    ids = [o.quantum for o in outcomes]
    about = {
        r.id: r
        for r in connection.execute(
            sa.select(quantum.c.id, quantum.c.label, quantum.c.memory_mb).where(work.context.ledger.among(quantum.c.id, ids))
        )
    }
    samples = [
        stats.Sample(label=about[o.quantum].label, wall_s=o.wall_s, peak_mb=o.peak_mb, grown_mb=about[o.quantum].memory_mb)
        for o in outcomes
    ]
    stats.learn(connection, work.production.production, samples)


def heartbeat(work: Work, row: Any) -> str | None:
    """The job's latest heartbeat, as it stands; None if it has none."""
    try:
        return work.context.endpoint(row.site).get(heartbeat_key(row.id)).decode()
    except ObjectAbsent:
        return None
