"""A group's inputs at its site before its jobs go there (decisions 6, 7). With one endpoint for all, nothing is done here.

What a group needs is written beside its graph when it is planned, as the object `<graph key>.inputs.json`: the keys of its graph,
its configuration, what its tasks read when they are made, and every input file that the registry knows. All can be repeated:
rules of the backbone go by names that say what they ask for, and registration goes by key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from backbone.files import NewFile
from workflow.campaign import Work
from workflow.context import Context
from workflow.job import NULL, keys_of, merged
from workflow.ledger.tables import accepted, accepted_outcome, job, outcome, placement, step
from workflow.planner import PlannedGroup
from workflow.states import STEP_TERMINAL, JobState

ACTOR = "engine"
_PRIORITY = 70
_AT_WORK = (JobState.PREPARED, JobState.SUBMITTED, JobState.RUNNING, JobState.KILLED)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a group needs at its site: bytes by key."""

    sizes: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(self.sizes.values())


def moves_files(context: Context) -> bool:
    """Whether there is anything to stage at all."""
    return context.settings.backbone is not None and not context.settings.has_one_endpoint


def inputs_key(graph_key: str) -> str:
    """Key of the object that says what a group needs."""
    return f"{graph_key}.inputs.json"


def note_inputs(context: Context, planned: PlannedGroup) -> None:
    """At the plan: what the group needs, into an object at the archive; files new to the backbone are registered there."""
    if not moves_files(context) or planned.row["graph_key"].startswith(NULL):
        return
    files = {file.key: file for file in planned.files}
    _register_unknown(context, files.values())
    body = json.dumps({key: file.size for key, file in sorted(files.items())}).encode()
    context.archive.put(inputs_key(planned.row["graph_key"]), body)


def read_inputs(context: Context, graph_key: str) -> Inputs:
    """What a planned group needs; nothing, where its payload is the engine's own null."""
    if graph_key.startswith(NULL):
        return Inputs(sizes={})
    return Inputs(sizes=json.loads(context.archive.get(inputs_key(graph_key))))


def _register_unknown(context: Context, files: Iterable[NewFile]) -> None:
    """At the archive, where the registry says they are; of zips, and where Butler kept none, by the object's own checksum."""
    by_key = {file.key: file for file in files}
    name = context.settings.archive_name
    known = context.backbone.locate(list(by_key))
    new = [file if file.sha256 else _as_it_is(context, file) for key, file in by_key.items() if not known.get(key)]
    if new:
        context.backbone.register(name, new, ACTOR)


def _as_it_is(context: Context, file: NewFile) -> NewFile:
    info = context.archive.info(file.key)
    sha256 = info.sha256 or hashlib.sha256(context.archive.get(file.key)).hexdigest()
    return replace(file, size=info.size, sha256=sha256)


def require_inputs(work: Work, group_row: Any, site: str, ordinal: int) -> list[str]:
    """Ask for a group's inputs at a site; returns the names of the rules (none where they are at the archive, which is there)."""
    context = work.context
    target = context.settings.site(site).endpoint_name
    if target == context.settings.archive_name:
        return []
    name = _rule(work, group_row, target, f"inputs-{ordinal}")
    require(context, name, list(read_inputs(context, group_row.graph_key).sizes), target, _PRIORITY)
    return [name]


def require_parents(work: Work, group_row: Any, site: str, ordinal: int) -> list[str] | None:
    """Of a group that had jobs elsewhere before: ask for what was accepted there, here. None while jobs still run there.

    The name counts what is accepted elsewhere, which only grows: what a job elsewhere reports late is asked for by another name.
    """
    context = work.context
    target = context.settings.site(site).endpoint_name
    same = [s.name for s in context.settings.sites if s.endpoint_name == target]
    theirs = (
        job.c.campaign == work.name,
        job.c.step == group_row.step,
        job.c.generation == group_row.generation,
        job.c.group_ == group_row.name,
        job.c.site.notin_(same),
    )
    jobs = context.ledger.all(sa.select(job.c.id, job.c.site, job.c.state).where(*theirs))
    if not jobs:
        return []
    if any(one.state in _AT_WORK for one in jobs):
        return None
    rows = context.ledger.all(
        sa.select(outcome.c.records, accepted.c.job)
        .join(accepted, accepted_outcome())
        .where(context.ledger.among(accepted.c.job, [one.id for one in jobs]))
    )
    keys = sorted(keys_of(merged(r.records for r in rows if r.records)))
    if not keys:
        return []
    name = _rule(work, group_row, target, f"parents-{ordinal}-{len(rows)}")
    require(context, name, keys, target, _PRIORITY)
    return [name]


def progress_words(context: Context, rules: Sequence[str]) -> str:
    """What is still awaited by some rules, in words; empty when all of it is there."""
    found = context.backbone.progress(list(rules)).values() if rules else ()
    total, ok, stuck = (sum(getattr(p, n) for p in found) for n in ("total", "ok", "stuck"))
    if ok == total:
        return ""
    parts = [f"staging: {ok} of {total} files"]
    if any(p.bytes for p in found):
        parts.append(f"{sum(p.bytes for p in found) / 1e6:.3g} MB to come")
    etas = [p.eta_s for p in found if p.ok < p.total]
    parts.append("ETA unknown" if None in etas else f"ETA {max(etas):.0f} s")
    if stuck:
        parts.append(f"{stuck} stuck")
    reason = next((p.first_reason for p in found if p.first_reason), "")
    return ", ".join(parts) + (f": {reason}" if reason else "")


def is_stuck(context: Context, rules: Sequence[str]) -> bool:
    """Whether nothing of what some rules still await moves by itself."""
    found = list(context.backbone.progress(list(rules)).values()) if rules else []
    return any(p.stuck for p in found) and all(p.ok + p.stuck == p.total for p in found)


def same_placement(row: Any) -> tuple[sa.ColumnElement[bool], ...]:
    """Selects one row of `placement`."""
    return tuple(placement.c[name] == getattr(row, name) for name in ("campaign", "step", "generation", "group_", "ordinal"))


def _rule(work: Work, group_row: Any, target: str, part: str) -> str:
    return f"stage-in/{work.name}/{group_row.step}/{group_row.generation}/{group_row.name}@{target}/{part}"


def require(context: Context, name: str, keys: Sequence[str], target: str, priority: int) -> None:
    """A rule of the backbone with the installation's deadline."""
    by = context.clock.now() + context.settings.broker.deadline_s
    context.backbone.require(name, keys, target, by=by, priority=priority, actor=ACTOR)


def release_ended(work: Work) -> None:
    """The rules of steps that have ended are over, and of placements that another one replaced."""
    if not moves_files(work.context):
        return
    newer = placement.alias("newer")
    replaced = (
        sa.select(newer.c.ordinal)
        .where(
            *(newer.c[name] == placement.c[name] for name in ("campaign", "step", "generation", "group_")),
            newer.c.ordinal > placement.c.ordinal,
        )
        .correlate(placement)
        .exists()
    )
    ended = (
        sa.select(step.c.name)
        .where(step.c.campaign == placement.c.campaign, step.c.name == placement.c.step, step.c.state.in_(STEP_TERMINAL))
        .correlate(placement)
        .exists()
    )
    where = (placement.c.campaign == work.name, placement.c.released.is_(None), replaced | ended)
    for row in work.context.ledger.all(sa.select(placement).where(*where)):
        for name in row.rules:
            work.context.backbone.release(name, ACTOR)
        with work.lock.begin() as connection:
            connection.execute(placement.update().where(*same_placement(row)).values(released=work.context.clock.now()))
