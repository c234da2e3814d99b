"""One quantum, as a person asks for it: what it read and wrote, each of its attempts, its logs."""

from __future__ import annotations

import io
import json
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, PermanentError
from workflow.bound import bound
from workflow.context import Context
from workflow.job import from_json, infos
from workflow.ledger.audit import software, task_config
from workflow.ledger.tables import accepted, attempt, calibration_use, edge, group, job, outcome, quantum
from workflow.planner import run_name
from workflow.selection import Selection

_NAMED = 5


class UnknownQuantum(PermanentError, LookupError):
    """None, or more than one, is what was asked for."""


def find(context: Context, *, name: str | None = None, campaign: str | None = None, selection: Selection | None = None) -> Any:
    """The ledger's row of one quantum: by its id, or by what is said about it in a campaign. UnknownQuantum unless it is one."""
    if name is not None:
        try:
            wanted = str(uuid.UUID(name))
        except ValueError as error:
            raise UnknownQuantum(f"{name!r} is no id of a quantum; say --campaign, --label and --data-id") from error
        rows = context.ledger.all(sa.select(quantum).where(quantum.c.id == wanted))
        if not rows:
            raise UnknownQuantum(f"the ledger has no quantum {wanted}")
        return rows[0]
    if campaign is None or selection is None:
        raise UnknownQuantum("which quantum? Give its id, or --campaign with --label and --data-id")
    with context.ledger.read() as connection:
        where = selection.condition(context.ledger, connection, campaign)
        rows = list(connection.execute(sa.select(quantum).where(where).order_by(quantum.c.ordinal).limit(_NAMED + 1)))
    if len(rows) == 1:
        return rows[0]
    like = "; ".join(f"{r.label} {r.data_id} is {r.id}" for r in rows[:_NAMED])
    more = " and more" if len(rows) > _NAMED else ""
    raise UnknownQuantum(f"campaign {campaign}: {selection} means {f'several quanta: {like}{more}' if rows else 'no quantum'}")


def show(context: Context, row: Any) -> dict[str, Any]:
    """All that the ledger and the graph know of one quantum, newest attempt last; plain values."""
    of = planned_in(context, row)
    inputs, outputs = datasets(context, row, of)
    with context.ledger.read() as connection:
        config = connection.execute(
            sa.select(task_config.c.digest).where(
                *(task_config.c[n] == getattr(row, n) for n in ("campaign", "step", "generation", "label"))
            )
        ).scalar_one_or_none()
        fixed = bound(connection, row.campaign, row.step, row.generation)
        parents = connection.execute(sa.select(edge.c.parent).where(edge.c.child == row.id)).scalars().all()
        calibrations = connection.execute(sa.select(calibration_use).where(calibration_use.c.quantum == row.id)).all()
    attempts = _attempts(context, row, {str(ref.id): ref for ref in outputs})
    return {
        "id": row.id,
        "campaign": row.campaign,
        "step": row.step,
        "label": row.label,
        "data_id": json.loads(row.data_id),
        "generation": row.generation,
        "current": bool(row.current),
        "state": row.state,
        "run": run_name(row.campaign, row.step, row.generation),
        "graph": of.graph_key if of else None,
        "config_digest": config,
        "config_dataset": f"{row.label}_config in {run_name(row.campaign, row.step, row.generation)}",
        "hotfix": {"software": fixed.software, "config": fixed.config},
        "parents": list(parents),
        "inputs": [_ref(ref) for ref in inputs],
        "calibrations": [{"dataset": c.dataset, "dataset_type": c.dataset_type, "certified": c.collection} for c in calibrations],
        "attempts": attempts,
    }


def planned_in(context: Context, row: Any) -> Any:
    """The group's row that planned a quantum; None where it could not be planned."""
    where = (
        group.c.campaign == row.campaign,
        group.c.step == row.step,
        group.c.generation == row.generation,
        group.c.name == row.group_,
    )
    rows = context.ledger.all(sa.select(group).where(*where))
    return rows[0] if rows else None


def datasets(context: Context, row: Any, of: Any) -> tuple[list[Any], list[Any]]:
    """Dataset refs that the graph gives a quantum to read, and to write."""
    if of is None:
        return [], []
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

    with tempfile.TemporaryDirectory(prefix="pachon-show-") as folder:
        path = Path(folder) / "graph.qg"
        context.archive.fetch(of.graph_key, path)
        name = uuid.UUID(row.id)
        graph = PredictedQuantumGraph.read_execution_quanta(str(path), quantum_ids=[name])
    one = graph.build_execution_quanta()[name]
    return [r for refs in one.inputs.values() for r in refs], [r for refs in one.outputs.values() for r in refs]


def _ref(ref: Any) -> dict[str, Any]:
    return {"dataset": str(ref.id), "dataset_type": ref.datasetType.name, "data_id": dict(ref.dataId.required), "run": ref.run}


def _attempts(context: Context, row: Any, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    query = (
        sa.select(job, software.c.versions, accepted.c.quantum.label("accepted"))
        .join(attempt, attempt.c.job == job.c.id)
        .outerjoin(software, software.c.digest == job.c.software)
        .outerjoin(accepted, sa.and_(accepted.c.job == job.c.id, accepted.c.quantum == row.id))
        .where(attempt.c.quantum == row.id)
        .order_by(job.c.created)
    )
    reports: dict[str, list[Any]] = {}
    for one in context.ledger.all(sa.select(outcome).where(outcome.c.quantum == row.id).order_by(outcome.c.collected)):
        reports.setdefault(one.job, []).append(one)
    return [
        {
            "attempt": r.id,
            "accepted": r.accepted is not None,
            "site": r.site,
            "host": r.host,
            "pool_job": r.pool_job,
            "job_state": r.state,
            "exit_code": r.exit_code,
            "memory_mb": r.memory_mb,
            "submitted": r.created,
            "started": r.started,
            "ended": r.ended,
            "software": r.software,
            "versions": r.versions or {},
            "outcomes": [_outcome(o, outputs) for o in reports.get(r.id, [])],
        }
        for r in context.ledger.all(query)
    ]


def _outcome(o: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    written = [
        {
            "dataset": str(dataset),
            "dataset_type": outputs[str(dataset)].datasetType.name if str(dataset) in outputs else None,
            "key": info.path,
            "size": info.file_size,
            "sha256": info.checksum,
        }
        for dataset, info in (infos(from_json(o.records)) if o.records else ())
    ]
    return {
        "by": o.origin,
        "state": o.state,
        "failure_class": o.failure_class,
        "error": o.error,
        "wall_s": o.wall_s,
        "cpu_s": o.cpu_s,
        "peak_mb": o.peak_mb,
        "outputs": sorted(written, key=lambda w: str(w["dataset_type"])),
    }


def content(endpoint: Endpoint, path: str) -> bytes:
    """Of a datastore record's path: an object, or a member of a zip. ObjectAbsent if it was swept."""
    key, _, member = path.partition("#")
    data = endpoint.get(key)
    if not member:
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(member.removeprefix("zip-path="))


def logs(context: Context, row: Any) -> list[dict[str, Any]]:
    """For each attempt: what its task logged, where that is kept, and how it failed."""
    shown = show(context, row)
    found = []
    for one in shown["attempts"]:
        lines: list[str] = []
        for report in one["outcomes"]:
            for written in report["outputs"]:
                if written["dataset_type"] == f"{row.label}_log":
                    lines += _log_lines(context.endpoint(one["site"]), written["key"])
        errors = [f"{r['failure_class']}: {r['error']}" for r in one["outcomes"] if r["state"] == "failed"]
        found.append({"attempt": one["attempt"], "site": one["site"], "host": one["host"], "lines": lines, "errors": errors})
    return found


def _log_lines(endpoint: Endpoint, path: str) -> list[str]:
    try:
        records = json.loads(content(endpoint, path))
    except (ObjectAbsent, KeyError):
        return ["(the log was swept with the rest of what this attempt wrote)"]
    records = records if isinstance(records, list) else records.get("root", records.get("records", []))
    return [
        f"{r.get('asctime', '')} {r.get('levelname', '')} {r.get('name', '')} {r.get('message', '')}".strip() for r in records
    ]
