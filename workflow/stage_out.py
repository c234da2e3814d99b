"""Accepted outputs at the archive before they are published (decision 2). Without a backbone, nothing is done here.

Acceptance leaves a row in the outbox; in the same round its files are registered with the backbone at the endpoint where the job
wrote them, and required at the archive; what is whole there may be published. Killed between the backbone's transaction and the
ledger's, the next round registers the same files once more, which is harmless.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from backbone.files import NewFile
from workflow.campaign import Work
from workflow.context import Context
from workflow.job import infos, merged
from workflow.ledger.tables import accepted, accepted_outcome, group, job, outbox, outcome, quantum, segment_file, stage_out
from workflow.staging import ACTOR, progress_words, require

_LOG = logging.getLogger(__name__)
_PRIORITY = 60
Refs = Callable[[str], Mapping[Any, Any]]
"""Graph key → dataset id → ref, of a graph's outputs."""


def send_out(work: Work, refs: Refs) -> None:
    """Register what is accepted, where its job wrote it, and have it brought to the archive; note what has arrived."""
    if work.context.settings.backbone is None:
        return
    while rows := _not_sent(work):
        for site in sorted({r.site for r in rows}):
            _send(work, site, [r for r in rows if r.site == site], refs)
    _note_whole(work)


def publishable(context: Context) -> sa.ColumnElement[bool]:
    """Condition on outbox rows: their files are at the archive."""
    if context.settings.backbone is None:
        return sa.true()
    whole = sa.select(stage_out.c.id).where(stage_out.c.id == outbox.c.stage_out, stage_out.c.whole.is_not(None))
    return whole.correlate(outbox).exists()


def outward_words(work: Work) -> str:
    """What accepted outputs still wait for, in words; empty if nothing."""
    if work.context.settings.backbone is None:
        return ""
    where = (stage_out.c.campaign == work.name, stage_out.c.whole.is_(None))
    rows = work.context.ledger.all(sa.select(stage_out.c.rule).where(*where))
    words = progress_words(work.context, [r.rule for r in rows]) if rows else ""
    return words and f"outputs on their way to {work.context.settings.archive_name}: {words.removeprefix('staging: ')}"


def _not_sent(work: Work) -> list[Any]:
    same = sa.and_(
        group.c.campaign == quantum.c.campaign,
        group.c.step == quantum.c.step,
        group.c.generation == quantum.c.generation,
        group.c.name == quantum.c.group_,
    )
    return work.context.ledger.all(
        sa.select(outbox.c.quantum, outbox.c.job, outcome.c.records, job.c.site, group.c.graph_key, group.c.run)
        .join(accepted, accepted.c.quantum == outbox.c.quantum)
        .join(outcome, accepted_outcome())
        .join(job, job.c.id == outbox.c.job)
        .join(quantum, quantum.c.id == outbox.c.quantum)
        .join(group, same)
        .where(outbox.c.campaign == work.name, outbox.c.published.is_(None), outbox.c.stage_out.is_(None))
        .order_by(outbox.c.seq)
        .limit(work.context.engine.publish_batch)
    )


def _send(work: Work, site: str, rows: Sequence[Any], refs: Refs) -> None:
    context, settings = work.context, work.context.settings
    files = _outputs(work, rows, refs)
    source, target = settings.site(site).endpoint_name, settings.archive_name
    rule = None
    if files:
        context.backbone.register(source, files, ACTOR)
        if source != target:
            keys = sorted(file.key for file in files)
            rule = f"stage-out/{work.name}@{source}/{hashlib.sha256(chr(10).join(keys).encode()).hexdigest()[:24]}"
            require(context, rule, keys, target, _PRIORITY)
    now = context.clock.now()
    row = {
        "campaign": work.name,
        "site": site,
        "rule": rule,
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "created": now,
        "whole": None if rule else now,
    }
    with work.lock.begin() as connection:
        number = connection.execute(stage_out.insert().returning(stage_out.c.id), row).scalar_one()
        among = context.ledger.among(outbox.c.quantum, [r.quantum for r in rows])
        connection.execute(outbox.update().where(among).values(stage_out=number))
    _LOG.info("campaign %s: %d files from %s %s", work.name, len(files), site, f"to {target}" if rule else "are at the archive")


def _outputs(work: Work, rows: Sequence[Any], refs: Refs) -> list[NewFile]:
    """Every file of accepted outcomes, once; a zip is shared by the quanta whose metadata and logs it holds."""
    now, files, zips = work.context.clock.now(), {}, {}
    for row in rows:
        if not row.records:
            continue
        known = refs(row.graph_key)
        for dataset, info in infos(merged([row.records])):
            key, _, member = info.path.partition("#")
            if member:
                zips[key] = row.run
                continue
            ref = known[dataset]
            files[key] = NewFile(
                key=key,
                size=info.file_size,
                sha256=info.checksum or "",
                dataset_type=ref.datasetType.name,
                collection=ref.run,
                created=now,
                instrument=str(ref.dataId.get("instrument", "")),
                tags=(work.production.kind,),
                owner=work.owner,
            )
    among = work.context.ledger.among(segment_file.c.key, list(zips))
    for one in work.context.ledger.all(sa.select(segment_file).where(among)) if zips else ():
        files[one.key] = NewFile(
            key=one.key,
            size=one.size,
            sha256=one.sha256,
            dataset_type="quantum_records",
            collection=zips[one.key],
            created=now,
            media_type="application/zip",
            tags=(work.production.kind,),
            owner=work.owner,
        )
    return list(files.values())


def _note_whole(work: Work) -> None:
    context = work.context
    where = (stage_out.c.campaign == work.name, stage_out.c.whole.is_(None))
    open_rows = context.ledger.all(sa.select(stage_out.c.id, stage_out.c.rule).where(*where))
    found = context.backbone.progress([r.rule for r in open_rows]) if open_rows else {}
    done = [r.id for r in open_rows if r.rule in found and found[r.rule].ok == found[r.rule].total]
    if done:
        with work.lock.begin() as connection:
            connection.execute(stage_out.update().where(stage_out.c.id.in_(done)).values(whole=context.clock.now()))
