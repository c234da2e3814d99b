"""What a step does when all of it is published. Each action can be repeated without harm, and the ledger counts those done."""

from __future__ import annotations

import json
import logging
from typing import Any

import sqlalchemy as sa

from backbone.qc import Metric
from workflow.campaign import Work
from workflow.certification import certify, contents
from workflow.chains import prepend
from workflow.ledger import tables
from workflow.ledger.store import record
from workflow.ledger.tables import backlog, outcome, quantum
from workflow.planner import run_name
from workflow.production import Metrics
from workflow.states import QuantumState

_LOG = logging.getLogger(__name__)


def finish(work: Work, row: Any) -> None:
    """Every action of a step that is not done yet, in order. After a hot fix its products are in several RUNs."""
    runs = work.runs_of(row.name) or [run_name(work.name, row.name, row.generation)]
    for number, action in enumerate(work.step(row.name).finish):
        if number < row.finished:
            continue
        if action.certify:
            words = certify(work, row.name, [*runs, *work.runs_before(row.ordinal)], action.certify)
        elif action.metrics:
            words = _metrics(work, row.name, runs, action.metrics)
        elif action.chain:
            words = _chain(work, row.name, runs, action.chain)
        else:
            words = f"{_backlog(work, row)} quanta into the backlog"
        with work.lock.begin() as connection:
            where = (tables.step.c.campaign == work.name, tables.step.c.name == row.name)
            connection.execute(tables.step.update().where(*where).values(finished=number + 1))
            record(
                connection,
                at=work.context.clock.now(),
                actor="engine",
                campaign=work.name,
                what=f"step {row.name}: {action.kind}",
                why=words,
            )
        _LOG.info("campaign %s, step %s: %s: %s", work.name, row.name, action.kind, words)


def _chain(work: Work, step: str, runs: list[str], target: str) -> str:
    chain = work.fill(target, step)
    work.context.butler.registry.refresh()
    for run in reversed(runs):
        prepend(work.context.butler, chain, run)
    return f"{', '.join(runs)} in front of {chain}"


def _metrics(work: Work, step: str, runs: list[str], action: Metrics) -> str:
    """What tasks measured into the tables of quality control; alarms that this raised, in words."""
    day = int(work.fill(action.day_obs, step).replace("-", ""))
    shared: dict[str, Any] = {"instrument": work.fill(action.instrument, step), "day_obs": day, "source": work.name}
    documents = [d for name in action.dataset_types for d in contents(work.context.butler, name, runs)]
    found = [Metric(**shared, **metric) for document in documents for metric in document["metrics"]]
    alarms = work.context.quality.record(found, actor=f"campaign {work.name}")
    said = "; ".join(f"alarm {a.id}: {a.words}" for a in alarms[:3]) + (f"; {len(alarms) - 3} more" if len(alarms) > 3 else "")
    return f"{len(found)} metrics of {len(documents)} documents" + (f"; {said}" if said else "")


def _backlog(work: Work, row: Any) -> int:
    """What failed, or never ran since something before it failed, with the reason; what is done by now, after a retry, goes."""
    done = (QuantumState.SUCCEEDED, QuantumState.DELETED)
    where = (quantum.c.campaign == work.name, quantum.c.step == row.name, quantum.c.current, quantum.c.state.not_in(done))
    rows = work.context.ledger.all(sa.select(quantum).where(*where))
    errors = _last_errors(work, [r.id for r in rows])
    now = work.context.clock.now()
    entries = []
    for one in rows:
        data_id = json.loads(one.data_id)
        entries.append(
            {
                "quantum": one.id,
                "campaign": work.name,
                "owner": work.owner,
                "step": row.name,
                "label": one.label,
                "visit": data_id.get("visit", data_id.get("exposure")),
                "detector": data_id.get("detector"),
                "data_id": one.data_id,
                "reason": errors.get(one.id) or f"{one.state}: something that it needs failed",
                "at": now,
            }
        )
    settled = sa.select(quantum.c.id).where(quantum.c.id == backlog.c.quantum, quantum.c.state.in_(done)).correlate(backlog)
    with work.lock.begin() as connection:
        mine = (backlog.c.campaign == work.name, backlog.c.step == row.name)
        connection.execute(backlog.delete().where(*mine, settled.exists()))
        work.context.ledger.insert_new(connection, backlog, entries)
    return len(entries)


def _last_errors(work: Work, ids: list[str]) -> dict[str, str]:
    rows = work.context.ledger.all(
        sa.select(outcome.c.quantum, outcome.c.failure_class, outcome.c.error)
        .where(work.context.ledger.among(outcome.c.quantum, ids), outcome.c.state == "failed")
        .order_by(outcome.c.collected)
    )
    return {r.quantum: f"{r.failure_class}: {r.error.splitlines()[0] if r.error else ''}" for r in rows}
