"""Removes what ended jobs wrote and nobody accepted. Behind a fence: a job that may still be running is never swept."""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa

from backbone.butler import attempt_prefix
from workflow.campaign import Work
from workflow.job import keys_in
from workflow.ledger.tables import accepted_outcome, job, outcome
from workflow.states import JobState

_LOG = logging.getLogger(__name__)


def sweep(work: Work) -> None:
    """Every job of the campaign that its pool has said to be over, once; what was at a site that is away, when it is back."""
    here = job.c.site.in_(list(work.context.pools))
    where = (job.c.campaign == work.name, job.c.state == JobState.ENDED, job.c.swept.is_(None), here)
    for row in work.context.ledger.all(sa.select(job).where(*where)):
        gone = sweep_job(work, row)
        work.context.pools[row.site].forget(row.id)
        with work.lock.begin() as connection:
            connection.execute(job.update().where(job.c.id == row.id).values(swept=work.context.clock.now()))
        _LOG.debug("campaign %s: %d objects of job %s removed", work.name, gone, row.id)


def sweep_job(work: Work, row: Any) -> int:
    """Remove what one job wrote, or had begun to, and no accepted outcome names; a zip stays while a member is accepted."""
    mine = sa.exists().where(accepted_outcome())
    rows = work.context.ledger.all(
        sa.select(outcome.c.records).where(outcome.c.job == row.id, outcome.c.records.is_not(None), mine)
    )
    keep = {key for r in rows for key in keys_in(r.records)}
    return work.context.endpoint(row.site).discard(f"{attempt_prefix(row.id)}/", keep=frozenset(keep))
