"""What a step does when all of it is published. Each action can be repeated without harm, and the ledger counts those done."""

from __future__ import annotations

import json
import logging
from typing import Any

import sqlalchemy as sa
from astropy.time import Time
from lsst.daf.butler import CollectionType, MissingCollectionError, Timespan

from workflow.campaign import Work
from workflow.errors import PlanError
from workflow.ledger import tables
from workflow.ledger.store import record
from workflow.ledger.tables import backlog, outcome, quantum
from workflow.planner import run_name
from workflow.production import Certify
from workflow.states import QuantumState

_LOG = logging.getLogger(__name__)


def finish(work: Work, row: Any) -> None:
    """Every action of a step that is not done yet, in order."""
    run = run_name(work.name, row.name, row.generation)
    for number, action in enumerate(work.step(row.name).finish):
        if number < row.finished:
            continue
        if action.certify:
            words = _certify(work, row.name, run, action.certify)
        elif action.chain:
            words = _chain(work, row.name, run, action.chain)
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


def begin_of(text: str) -> Any:
    """Beginning (TAI) of a day given as YYYYMMDD or YYYY-MM-DD; PlanError for anything else."""
    plain = text.replace("-", "")
    if len(plain) != 8 or not plain.isdigit():
        raise PlanError(f"certify: {text!r} is no day YYYYMMDD or YYYY-MM-DD")
    try:
        return Time(f"{plain[:4]}-{plain[4:6]}-{plain[6:]}T00:00:00", scale="tai", format="isot")
    except ValueError as error:
        raise PlanError(f"certify: {text!r} is no day ({error})") from error


def _certify(work: Work, step: str, run: str, action: Certify) -> str:
    """A CALIBRATION collection of this certification's own, in front of the chain; products valid from the day on."""
    butler = work.context.butler
    butler.registry.refresh()
    chain = work.fill(action.into, step)
    collection = f"{chain}/{work.name}/{step}"
    timespan = Timespan(begin_of(work.fill(action.begin, step)), None)
    butler.collections.register(collection, CollectionType.CALIBRATION)
    total = 0
    for name in action.dataset_types:
        refs = butler.query_datasets(name, collections=run, explain=False, limit=None)
        done = {
            a.ref.id
            for a in butler.registry.queryDatasetAssociations(
                name, collections=[collection], collectionTypes={CollectionType.CALIBRATION}
            )
        }
        total += len(refs)
        if new := [ref for ref in refs if ref.id not in done]:
            butler.registry.certify(collection, new, timespan)
    _prepend(butler, chain, collection)
    return f"{total} of {', '.join(action.dataset_types)} into {collection}, valid from {timespan.begin.isot} TAI"


def _chain(work: Work, step: str, run: str, target: str) -> str:
    chain = work.fill(target, step)
    work.context.butler.registry.refresh()
    _prepend(work.context.butler, chain, run)
    return f"{run} in front of {chain}"


def _prepend(butler: Any, chain: str, child: str) -> None:
    """In front of the chain, once: a repetition must not move it before what came after it."""
    try:
        info = butler.collections.get_info(chain)
    except MissingCollectionError:
        butler.collections.register(chain, CollectionType.CHAINED)
        info = butler.collections.get_info(chain)
    if info.type is not CollectionType.CHAINED:
        raise PlanError(f"collection {chain} is a {info.type.name}, not a CHAINED one: nothing can be put in front of it")
    if child not in info.children:
        butler.collections.prepend_chain(chain, child)


def _backlog(work: Work, row: Any) -> int:
    """What failed, or never ran since something before it failed, with the reason."""
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
    with work.lock.begin() as connection:
        work.context.ledger.insert_new(connection, backlog, entries)
    return len(entries)


def _last_errors(work: Work, ids: list[str]) -> dict[str, str]:
    rows = work.context.ledger.all(
        sa.select(outcome.c.quantum, outcome.c.failure_class, outcome.c.error)
        .where(work.context.ledger.among(outcome.c.quantum, ids), outcome.c.state == "failed")
        .order_by(outcome.c.collected)
    )
    return {r.quantum: f"{r.failure_class}: {r.error.splitlines()[0] if r.error else ''}" for r in rows}
