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
from workflow.bulk import accept_plain
from workflow.campaign import Work
from workflow.failures import give_back, judge
from workflow.job import Outcome, Segment, heartbeat_key, segment_key
from workflow.ledger.tables import REPORTED, job, outcome, quantum, segment_file
from workflow.provenance import told
from workflow.states import QUANTUM_IN_JOB

_LOG = logging.getLogger(__name__)
_ENOUGH = 20_000  # outcomes of one job in one transaction: what is in memory at once


def collect(work: Work, row: Any) -> list[Segment]:
    """Take in the segments of one job that are new; returns them. Killed anywhere, the next call takes in the rest."""
    segments = _new_segments(work, row)
    if segments:
        with work.lock.begin() as connection:
            values = told(work, connection, segments)  # before failures are judged: they may be the host's
            values["segments"] = row.segments + len(segments)
            if began := next((s.began for s in segments if s.began is not None), None):
                values["started"] = began
            connection.execute(job.update().where(job.c.id == row.id).values(values))
            record(work, connection, row, segments)
    return segments


def _new_segments(work: Work, row: Any) -> list[Segment]:
    endpoint = work.context.endpoint(row.site)
    found: list[Segment] = []
    outcomes = 0
    for number in range(row.segments, row.segments + work.context.engine.accept_batch):
        try:
            found.append(Segment.model_validate_json(endpoint.get(segment_key(row.id, number))))
        except ObjectAbsent:
            break
        outcomes += len(found[-1].outcomes)
        if found[-1].final or outcomes >= _ENOUGH:
            break
    return found


def is_all(work: Work, segments: Sequence[Segment]) -> bool:
    """Whether a job that has ended can have no more segments than these, the newest."""
    outcomes = sum(len(segment.outcomes) for segment in segments)
    return any(s.final for s in segments) or (len(segments) < work.context.engine.accept_batch and outcomes < _ENOUGH)


def record(work: Work, connection: Connection, row: Any, segments: Sequence[Segment]) -> None:
    """Outcomes of one job into the ledger, with all their consequences, in one transaction."""
    ledger = work.context.ledger
    outcomes = [o for segment in segments for o in segment.outcomes]
    files = [{"key": f.key, "job": row.id, "size": f.size, "sha256": f.sha256} for s in segments for f in s.files]
    ledger.insert_new(connection, segment_file, files)
    now = work.context.clock.now()
    plain, rest = _sorted_out(outcomes) if ledger.is_postgresql else ([], outcomes)
    samples: list[stats.Sample] = []
    refused: list[str] = []
    if plain:
        samples, refused = accept_plain(ledger, connection, campaign=work.name, job=row.id, outcomes=plain, now=now)
    add_outcomes(work, connection, row, rest, REPORTED)
    taken = accept(ledger, connection, campaign=work.name, job=row.id, outcomes=rest, now=now)
    refused += [o.quantum for o in rest if o.state == "succeeded" and o.quantum not in taken]
    give_back(work, connection, _of_job(work, connection, row, refused))
    judge(work, connection, row, [o for o in rest if o.state == "failed"])
    samples += [
        stats.Sample(label=about.label, wall_s=o.wall_s, peak_mb=o.peak_mb, grown_mb=about.memory_mb)
        for o in rest
        if (about := taken.get(o.quantum))
    ]
    stats.learn(ledger, connection, work.production.production, samples)


def _sorted_out(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Successes that read nothing of their own job, and all others."""
    plain: list[Outcome] = []
    rest: list[Outcome] = []
    for one in outcomes:
        (plain if one.state == "succeeded" and not one.reads else rest).append(one)
    return plain, rest


def add_outcomes(work: Work, connection: Connection, row: Any, outcomes: Sequence[Outcome], origin: str) -> None:
    """The outcomes' own rows; those that are there stay as they are."""
    if not outcomes:
        return
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
            "reads": list(o.reads) or None,
            "unwritten": list(o.unwritten) or None,
            "records": o.records or None,
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


def heartbeat(work: Work, row: Any) -> str | None:
    """The job's latest heartbeat, as it stands; None if it has none."""
    try:
        return work.context.endpoint(row.site).get(heartbeat_key(row.id)).decode()
    except ObjectAbsent:
        return None
