"""A hot fix of a running campaign (decision 11): other software or configuration for chosen quanta, and for all not yet run.

The chosen quanta and what descends from them are current no more; their steps get a new generation, which `replan` plans into a
RUN of its own. No file is deleted, and the ledger keeps every attempt. All is decided in one transaction under the campaign's
lock: killed before it, nothing has happened; after it, the engine goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError, TransientError
from workflow import stats
from workflow.bound import Config, bound
from workflow.campaign import Work, load
from workflow.context import Context
from workflow.descent import batches, datasets_of, descendants, users_elsewhere
from workflow.errors import SettingsError
from workflow.ledger import tables
from workflow.ledger.audit import binding, hotfix
from workflow.ledger.store import record
from workflow.ledger.tables import group, job, quantum, step
from workflow.lock import locked
from workflow.models import nearest
from workflow.selection import Selection, SelectionError
from workflow.states import (
    CAMPAIGN_TABLE,
    JOB_TABLE,
    QUANTUM_IN_JOB,
    QUANTUM_TABLE,
    STEP_TABLE,
    JobState,
    QuantumState,
    StepState,
    follow,
    sources,
)

_OPEN = (QuantumState.UNREADY, QuantumState.READY, QuantumState.HELD, *QUANTUM_IN_JOB)
_WAIT_S = 600.0


class HotfixError(PermanentError):
    """The hot fix cannot be made as it is asked for; nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The blast radius: shown before, and kept with the hot fix."""

    campaign: str
    selection: str
    selected: dict[str, dict[str, int]]
    """step/label → state → quanta that were chosen."""
    descendants: dict[str, dict[str, int]]
    """The same of what depends on them."""
    bound: dict[str, int]
    """step → quanta not yet run that get the new binding too; steps not planned yet count as 0."""
    core_hours: float
    """Expected for running the chosen ones and their descendants, by what their labels took."""
    withdrawn: int
    """Accepted quanta whose outputs leave the published collections."""
    users_elsewhere: dict[str, int]
    """Other campaigns that used withdrawn calibrations: nothing is done there."""
    dry_run: bool = True

    @property
    def quanta(self) -> int:
        """Chosen, and what depends on them."""
        return sum(n for part in (self.selected, self.descendants) for states in part.values() for n in states.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"quanta": self.quanta}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an operator asks for."""

    selection: Selection
    software: str | None
    config: Config
    actor: str
    why: str


def apply(context: Context, name: str, request: Request, *, dry_run: bool) -> Effect:
    """Make the hot fix, or with `dry_run` say what it would do.

    HotfixError, SelectionError for what cannot be meant; TransientError where the engine holds the campaign all the time.
    """
    if not request.why.strip():
        raise HotfixError(f"campaign {name}: a hot fix needs a reason, for those who will read its provenance")
    deadline = context.clock.now() + _WAIT_S
    while True:
        with locked(context.ledger, context.clock, name, context.engine.lock_s) as lock:
            if lock is not None:
                return _Hotfix(load(context, lock), request).run(dry_run=dry_run)
        if context.clock.now() > deadline:
            raise TransientError(f"campaign {name}: its engine has not let go of it for {_WAIT_S:.0f} s; try again")
        context.clock.sleep(0.2)


class _Hotfix:
    """One request for one campaign, whose lock is held."""

    def __init__(self, work: Work, request: Request) -> None:
        self._work, self._request, self._ledger = work, request, work.context.ledger
        self._state = follow(CAMPAIGN_TABLE, work.state, "hotfix")
        self._steps = work.step_rows()

    def run(self, *, dry_run: bool) -> Effect:
        labels = self._labels()
        self._check(labels)
        with self._ledger.read() as connection:
            chosen = self._chosen(connection)
            below = descendants(self._work.context, connection, self._work.name, chosen)
            touched = self._touched(connection, labels, chosen | below)
            effect = self._effect(connection, chosen, below, touched, dry_run)
        if not dry_run:
            with self._work.lock.begin() as connection:
                self._write(connection, chosen | below, touched, labels, effect)
        return effect

    def _labels(self) -> dict[str, set[str]]:
        """Task labels of every step, planned or not."""
        from lsst.pipe.base import Pipeline

        return {s.name: set(Pipeline.from_uri(s.pipeline).task_labels) for s in self._work.production.steps}

    def _check(self, labels: Mapping[str, set[str]]) -> None:
        request, known = self._request, sorted(set().union(*labels.values()))
        if request.software is None and not request.config:
            raise HotfixError(f"campaign {self._work.name}: say what is new: a software, or a configuration")
        for label in request.config:
            if label not in known:
                raise HotfixError(f"campaign {self._work.name}: no task {label!r}; {nearest(label, known)}")
        if request.selection.label and request.selection.label not in known:
            raise SelectionError(f"no task {request.selection.label!r}; {nearest(request.selection.label, known)}")
        if request.software is not None:
            for site in self._work.context.settings.sites:
                if request.software not in site.software:
                    advice = nearest(request.software, sorted(site.software))
                    raise SettingsError(f"site {site.name} has no software {request.software!r}; {advice}: see its `software:`")

    def _chosen(self, connection: Connection) -> set[str]:
        where = self._request.selection.condition(self._ledger, connection, self._work.name)
        chosen = {r.id for r in connection.execute(sa.select(quantum.c.id).where(where))}
        if not chosen:
            example = connection.execute(
                sa.select(quantum.c.label, quantum.c.data_id).where(quantum.c.campaign == self._work.name, quantum.c.current)
            ).first()
            like = f"; one of its quanta is {example.label} {example.data_id}" if example else ", it has none yet"
            raise SelectionError(f"campaign {self._work.name}: {self._request.selection} means no quantum{like}")
        return chosen

    def _touched(self, connection: Connection, labels: Mapping[str, set[str]], ids: set[str]) -> dict[str, bool]:
        """Steps that get the binding → whether they are planned, and hence planned again."""
        planned = {
            r.step for r in connection.execute(sa.select(group.c.step).where(group.c.campaign == self._work.name).distinct())
        }
        hit = {r.step for some in batches(ids) for r in connection.execute(self._steps_of(some))}
        waits = {r.step for r in connection.execute(self._open_steps())}
        touched = {}
        for row in self._steps:
            concerned = self._request.software is not None or bool(labels[row.name] & set(self._request.config))
            if row.name in hit or (concerned and (row.name not in planned or row.name in waits)):
                touched[row.name] = row.name in planned
        return touched

    def _steps_of(self, ids: list[str]) -> sa.Select[Any]:
        return sa.select(quantum.c.step).where(self._ledger.among(quantum.c.id, ids)).distinct()

    def _open_steps(self) -> sa.Select[Any]:
        where = (quantum.c.campaign == self._work.name, quantum.c.current, quantum.c.state.in_(_OPEN))
        return sa.select(quantum.c.step).where(*where).distinct()

    def _effect(
        self, connection: Connection, chosen: set[str], below: set[str], touched: Mapping[str, bool], dry_run: bool
    ) -> Effect:
        learned = stats.read(connection, self._work.production.production)
        parts, hours = [], 0.0
        for ids in (chosen, below):
            counts: dict[str, dict[str, int]] = {}
            for some in batches(ids):
                for row in connection.execute(self._counts(some)):
                    of = counts.setdefault(f"{row.step}/{row.label}", {})
                    of[row.state] = of.get(row.state, 0) + row.n
                    hours += row.n * (learned[row.label].wall_s if row.label in learned else 0.0) / 3600
            parts.append(dict(sorted(counts.items())))
        done = sum(states.get(QuantumState.SUCCEEDED, 0) for part in parts for states in part.values())
        made = datasets_of(self._ledger, connection, chosen | below)
        return Effect(
            campaign=self._work.name,
            selection=str(self._request.selection),
            selected=parts[0],
            descendants=parts[1],
            bound={name: self._open_besides(connection, name, chosen | below) for name in touched},
            core_hours=hours,
            withdrawn=done,
            users_elsewhere=users_elsewhere(self._ledger, connection, self._work.name, made),
            dry_run=dry_run,
        )

    def _counts(self, ids: list[str]) -> sa.Select[Any]:
        columns = (quantum.c.step, quantum.c.label, quantum.c.state)
        return sa.select(*columns, sa.func.count().label("n")).where(self._ledger.among(quantum.c.id, ids)).group_by(*columns)

    def _open_besides(self, connection: Connection, name: str, ids: set[str]) -> int:
        """Not yet run, nor in a job: what runs now goes on with what it was started with."""
        states = (QuantumState.UNREADY, QuantumState.READY, QuantumState.HELD)
        where = (quantum.c.campaign == self._work.name, quantum.c.step == name, quantum.c.current, quantum.c.state.in_(states))
        total = connection.execute(sa.select(sa.func.count()).select_from(quantum).where(*where)).scalar_one()
        for some in batches(ids):
            among = self._ledger.among(quantum.c.id, some)
            total -= connection.execute(sa.select(sa.func.count()).select_from(quantum).where(*where, among)).scalar_one()
        return int(total)

    def _write(
        self,
        connection: Connection,
        ids: set[str],
        touched: Mapping[str, bool],
        labels: Mapping[str, set[str]],
        effect: Effect,
    ) -> None:
        work, request, now = self._work, self._request, self._work.context.clock.now()
        number = connection.execute(
            hotfix.insert()
            .values(
                campaign=work.name,
                at=now,
                actor=request.actor,
                why=request.why,
                selection=request.selection.model_dump(mode="json", exclude_defaults=True),
                software=request.software,
                config={label: dict(fields) for label, fields in request.config.items()},
                effect=effect.as_json(),
            )
            .returning(hotfix.c.id)
        ).scalar_one()
        self._invalidate(connection, ids)
        for row in self._steps:
            if row.name in touched:
                self._bind(connection, row, labels[row.name], planned=touched[row.name], number=int(number))
        connection.execute(
            tables.campaign.update()
            .where(tables.campaign.c.name == work.name)
            .values(state=self._state.value, reason="", ended=None)
        )
        what = f"hot fix {number}: {effect.quanta} quanta of {', '.join(touched)}"
        record(connection, at=now, actor=request.actor, campaign=work.name, what=what, why=request.why)

    def _invalidate(self, connection: Connection, ids: set[str]) -> None:
        """Current no more: whatever their jobs still report is not accepted, and nothing starts them."""
        before, after = sources(QUANTUM_TABLE, "cancel")
        for some in batches(ids):
            among = self._ledger.among(quantum.c.id, some)
            connection.execute(quantum.update().where(among, quantum.c.state.in_(before)).values(state=after))
            connection.execute(quantum.update().where(among).values(current=False, job=None))
        self._kill_idle_jobs(connection)

    def _kill_idle_jobs(self, connection: Connection) -> None:
        """Jobs of which nothing is wanted any more; those that still run something that is are left alone."""
        alive = (JobState.SUBMITTED, JobState.RUNNING)
        wanted = sa.exists().where(quantum.c.job == job.c.id)
        rows = connection.execute(
            sa.select(job.c.id, job.c.site, job.c.state).where(job.c.campaign == self._work.name, job.c.state.in_(alive), ~wanted)
        ).all()
        for row in rows:
            state = follow(JOB_TABLE, JobState(row.state), "kill").value  # `follow_jobs` asks its pool, again and again
            expires = self._work.context.clock.now() + 60
            connection.execute(job.update().where(job.c.id == row.id).values(state=state, lease_expires=expires))

    def _bind(self, connection: Connection, row: Any, labels: set[str], *, planned: bool, number: int) -> None:
        work, request = self._work, self._request
        old = bound(connection, work.name, row.name, row.generation)
        generation = row.generation + 1 if planned else row.generation
        config = {label: dict(fields) for label, fields in old.config.items()}
        for label in labels & set(request.config):
            config[label] = {**config.get(label, {}), **request.config[label]}
        key = (binding.c.campaign == work.name, binding.c.step == row.name, binding.c.generation == generation)
        connection.execute(binding.delete().where(*key))
        connection.execute(
            binding.insert().values(
                campaign=work.name,
                step=row.name,
                generation=generation,
                software=request.software or old.software,
                config=config,
                hotfix=number,
            )
        )
        if planned:
            state = follow(STEP_TABLE, StepState(row.state), "hotfix")
            connection.execute(
                step.update()
                .where(step.c.campaign == work.name, step.c.name == row.name)
                .values(state=state.value, generation=generation, finished=0, reason=f"hot fix {number}: to be planned again")
            )
        elif row.state == StepState.FAILED:  # it could not be planned as it was
            state = follow(STEP_TABLE, StepState.FAILED, "replan")
            where = (step.c.campaign == work.name, step.c.name == row.name)
            connection.execute(step.update().where(*where).values(state=state.value, reason=""))
