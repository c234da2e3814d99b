"""A campaign as the engine holds it while it works on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.bound import bound
from workflow.broker import shares
from workflow.context import Context
from workflow.errors import SettingsError, UnknownCampaign
from workflow.ledger import tables
from workflow.lock import CampaignLock
from workflow.models import nearest
from workflow.planner import StepPlan, run_name
from workflow.production import Production, Step, Value, filled
from workflow.states import STEP_TABLE, CampaignState, StepState, follow


@dataclass(frozen=True, kw_only=True)
class Work:
    """A campaign under its lock."""

    context: Context
    lock: CampaignLock
    name: str
    owner: str
    production: Production
    values: dict[str, Value]
    state: CampaignState
    hold: str | None
    priority: int = 0

    def step(self, name: str) -> Step:
        """The production's step of this name."""
        return next(s for s in self.production.steps if s.name == name)

    @property
    def is_shared(self) -> bool:
        """Whether several sites of this installation have a share of the work."""
        return len(shares(self.production.share, [site.name for site in self.context.settings.sites])) > 1

    def fill(self, template: str, step: str) -> str:
        """A text of the production with this run's parameters."""
        return filled(template, campaign=self.name, step=step, values=self.values)

    def plan_of(self, row: Any, runs: list[str]) -> StepPlan:
        """What the planner needs to know of a step; `runs` are those of the steps before it."""
        step = self.step(row.name)
        with self.context.ledger.read() as connection:
            fixed = bound(connection, self.name, row.name, row.generation).config
        over = [(label, field, value) for label, fields in fixed.items() for field, value in fields.items()]
        return StepPlan(
            campaign=self.name,
            step=step.name,
            generation=row.generation,
            pipeline=step.pipeline,
            inputs=(*runs, *(self.fill(text, step.name) for text in step.inputs)),
            where=self.fill(step.where, step.name),
            group_by=step.share_by if step.share_by and self.is_shared else step.group_by,
            config=(*step.settings(self.name, self.values), *over),
            keep=tuple(run for run in self.runs_of(row.name) if run != run_name(self.name, row.name, row.generation)),
            max_quanta=self.context.engine.max_group_quanta,
        )

    def step_rows(self) -> list[Any]:
        """The ledger's rows of the steps, in order."""
        where = tables.step.c.campaign == self.name
        return self.context.ledger.all(sa.select(tables.step).where(where).order_by(tables.step.c.ordinal))

    def interpreter_of(self, job: Any) -> str | None:
        """Python that a hot fix bound a job's generation to, as its site has it; None: what the site starts anyway."""
        with self.context.ledger.read() as connection:
            name = bound(connection, self.name, job.step, job.generation).software
        if name is None:
            return None
        known = self.context.settings.site(job.site).software
        if name not in known:
            raise SettingsError(f"site {job.site} has no software {name!r}; {nearest(name, sorted(known))}: see its `software:`")
        return known[name]

    def runs_of(self, step: str) -> list[str]:
        """RUNs that a step writes into or wrote into, the newest first."""
        g = tables.group
        query = sa.select(g.c.generation).where(g.c.campaign == self.name, g.c.step == step).distinct()
        return [run_name(self.name, step, r.generation) for r in self.context.ledger.all(query.order_by(g.c.generation.desc()))]

    def runs_before(self, ordinal: int) -> list[str]:
        """RUNs that earlier steps of the campaign wrote into, the newest first."""
        g = tables.group
        query = (
            sa.select(g.c.step, g.c.generation, tables.step.c.ordinal)
            .join(tables.step, sa.and_(tables.step.c.campaign == g.c.campaign, tables.step.c.name == g.c.step))
            .where(g.c.campaign == self.name, tables.step.c.ordinal < ordinal)
            .distinct()
            .order_by(tables.step.c.ordinal.desc(), g.c.generation.desc())
        )
        return [run_name(self.name, r.step, r.generation) for r in self.context.ledger.all(query)]

    def move_step(self, connection: Connection, row: Any, event: str, reason: str = "") -> StepState:
        """Move a step by the table."""
        state = follow(STEP_TABLE, StepState(row.state), event)
        connection.execute(
            tables.step.update()
            .where(tables.step.c.campaign == self.name, tables.step.c.name == row.name)
            .values(state=state.value, reason=reason)
        )
        return state

    def say(self, row: Any, reason: str) -> None:
        """Why a step that runs is not further; where that is known already nothing is written."""
        if row.reason != reason:
            with self.lock.begin() as connection:
                where = (tables.step.c.campaign == self.name, tables.step.c.name == row.name)
                connection.execute(tables.step.update().where(*where).values(reason=reason))


def load(context: Context, lock: CampaignLock) -> Work:
    """The campaign of a lock that is held."""
    rows = context.ledger.all(sa.select(tables.campaign).where(tables.campaign.c.name == lock.name))
    if not rows:
        raise UnknownCampaign(f"the ledger has no campaign {lock.name!r}")
    row = rows[0]
    return Work(
        context=context,
        lock=lock,
        name=row.name,
        owner=row.owner,
        production=Production.load(row.definition),
        values=row.parameters,
        state=CampaignState(row.state),
        hold=row.hold,
        priority=row.priority,
    )
