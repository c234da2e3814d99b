"""A campaign as the engine holds it while it works on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.context import Context
from workflow.errors import UnknownCampaign
from workflow.ledger import tables
from workflow.lock import CampaignLock
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

    def step(self, name: str) -> Step:
        """The production's step of this name."""
        return next(s for s in self.production.steps if s.name == name)

    def fill(self, template: str, step: str) -> str:
        """A text of the production with this run's parameters."""
        return filled(template, campaign=self.name, step=step, values=self.values)

    def plan_of(self, row: Any, runs: list[str]) -> StepPlan:
        """What the planner needs to know of a step; `runs` are those of the steps before it."""
        step = self.step(row.name)
        return StepPlan(
            campaign=self.name,
            step=step.name,
            generation=row.generation,
            pipeline=step.pipeline,
            inputs=(*runs, *(self.fill(text, step.name) for text in step.inputs)),
            where=self.fill(step.where, step.name),
            group_by=step.group_by,
            config=step.settings(self.name, self.values),
            max_quanta=self.context.engine.max_group_quanta,
        )

    def step_rows(self) -> list[Any]:
        """The ledger's rows of the steps, in order."""
        where = tables.step.c.campaign == self.name
        return self.context.ledger.all(sa.select(tables.step).where(where).order_by(tables.step.c.ordinal))

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
    )
