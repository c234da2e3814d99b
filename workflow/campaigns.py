"""The public face of the engine: what operators, the command line and the demo may use of `workflow`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow import rescue
from workflow.context import Context
from workflow.errors import ConflictError, ProductionError, UnknownCampaign
from workflow.ledger import tables
from workflow.ledger.store import record
from workflow.production import Production
from workflow.report import backlog_entries, live, report, status, statuses
from workflow.settings import Settings
from workflow.states import CAMPAIGN_TABLE, CampaignState, StepState, follow
from workflow.status import BacklogEntry, CampaignReport, CampaignStatus, LabelReport, RetryReport, StepStatus

__all__ = ["BacklogEntry", "CampaignReport", "CampaignStatus", "Campaigns", "LabelReport", "RetryReport", "StepStatus"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class Campaigns:
    """Campaigns of one installation. Cheap to make; any number of processes may use them at once."""

    def __init__(self, settings: Settings, *, context: Context | None = None) -> None:
        self._context = context or Context(settings)

    @classmethod
    def open(cls, home: str | Path) -> Campaigns:
        """The campaigns of a home directory (`pachon.yaml` in it)."""
        return cls(Settings.load(home))

    def start(
        self,
        production: str | Path | Mapping[str, Any],
        *,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        actor: str,
        release: Literal["all", "none"] = "all",
    ) -> CampaignStatus:
        """Write a campaign into the ledger. Idempotent by name; same name and other content is a ConflictError."""
        if not _NAME.fullmatch(name):
            raise ProductionError(f"campaign name {name!r} must be letters, digits and _ . - alone, the first a letter or digit")
        what = Production.load(production)
        values = what.values(parameters or {})
        digest = what.digest(values)
        now = self._context.clock.now()
        row = {
            "name": name,
            "production": what.production,
            "kind": what.kind,
            "definition": what.model_dump(mode="json", exclude_unset=True),
            "parameters": values,
            "digest": digest,
            "owner": actor,
            "access": "public",
            "state": CampaignState.READY.value,
            "created": now,
        }
        steps = [
            {
                "campaign": name,
                "name": step.name,
                "ordinal": n,
                "state": StepState.UNREADY.value,
                "released": release == "all",
                "generation": 1,
            }
            for n, step in enumerate(what.steps)
        ]
        with self._context.ledger.begin() as connection:
            is_new = self._context.ledger.insert_first(connection, tables.campaign, row)
            self._context.ledger.insert_new(connection, tables.step, steps)
            known = connection.execute(
                sa.select(tables.campaign.c.digest, tables.campaign.c.created, tables.campaign.c.owner).where(
                    tables.campaign.c.name == name
                )
            ).one()
            if known.digest != digest:
                raise ConflictError(
                    f"campaign {name} exists since {known.created:.0f} (by {known.owner}) with another production or "
                    "other parameters: choose another name, or start it with what it was started with"
                )
            if is_new:
                why = f"{what.production} version {what.version}"
                record(connection, at=now, actor=actor, campaign=name, what="start", why=why)
        return self.status(name)

    def release(self, name: str, step: str, actor: str) -> CampaignStatus:
        """Allow a step to be planned once its predecessors are published."""
        with self._context.ledger.begin() as connection:
            where = (tables.step.c.campaign == name, tables.step.c.name == step)
            if not connection.execute(tables.step.update().where(*where).values(released=True)).rowcount:
                raise UnknownCampaign(f"no step {step!r} of a campaign {name!r}")
            record(connection, at=self._context.clock.now(), actor=actor, campaign=name, what=f"release {step}")
        return self.status(name)

    def advance(self, name: str) -> CampaignStatus:
        """One round of the engine; where another engine holds the campaign's lock, the status unchanged."""
        self._advancer.advance(name)
        return self.status(name)

    @cached_property
    def _advancer(self) -> Any:
        from workflow.advance import Advancer  # brings the Butler: 2 s that triggers and DAG files must not pay

        return Advancer(self._context)

    def live(self) -> list[str]:
        """Names of the campaigns that the engine has work with, oldest first."""
        return live(self._context)

    def status(self, name: str) -> CampaignStatus:
        """State of one campaign; UnknownCampaign if there is none."""
        return status(self._context, name)

    def statuses(self, which: Sequence[tuple[str, str | None]]) -> list[CampaignStatus | None]:
        """Of (campaign, step or None for all steps), in order, in one batched query; None for an unknown campaign.

        With a step named, `steps` holds that step alone.
        """
        found = statuses(self._context, [name for name, _ in which])
        return [_only(found.get(name), step) for name, step in which]

    def every(self, *, live: bool = False) -> list[CampaignStatus]:
        """Of all campaigns, or of those that have not ended; oldest first."""
        return [s for s in statuses(self._context).values() if not (live and s.ended)]

    def report(self, name: str) -> CampaignReport:
        """Label × state with EXPECTED, error classes."""
        return report(self._context, name)

    def pause(self, name: str, actor: str, how: Literal["drain", "hold"] = "drain", reason: str = "") -> CampaignStatus:
        """Dispatch nothing more; `drain` lets running jobs end, `hold` kills them and keeps what they reported."""
        return self._move(name, "pause", actor, reason, hold=how)

    def resume(self, name: str, actor: str) -> CampaignStatus:
        """Undo `pause`."""
        return self._move(name, "resume", actor, "", hold=None)

    def cancel(self, name: str, actor: str, reason: str = "") -> CampaignStatus:
        """End it: jobs are killed, what is accepted stays accepted."""
        return self._move(name, "cancel", actor, reason, ended=self._context.clock.now())

    def retry(self, name: str, actor: str, *, dry_run: bool = False) -> RetryReport:
        """Give failed quanta, and what was pruned for them, new budgets; with `dry_run` only say how many."""
        return rescue.retry(self._context, self.status(name), actor, dry_run=dry_run)

    def backlog(self, name: str | None = None) -> list[BacklogEntry]:
        """What was due and not done, of one campaign or of all."""
        return backlog_entries(self._context, name)

    def _move(self, name: str, event: str, actor: str, reason: str, **values: Any) -> CampaignStatus:
        """Move the campaign by the table; where it is there already, nothing happens."""
        with self._context.ledger.begin() as connection:
            state = _state(connection, name)
            if state != _TARGETS[event] or (event == "pause" and state is CampaignState.PAUSED):
                after = state if event == "pause" and state is CampaignState.PAUSED else follow(CAMPAIGN_TABLE, state, event)
                connection.execute(
                    tables.campaign.update()
                    .where(tables.campaign.c.name == name)
                    .values(state=after.value, reason=reason, **values)
                )
                if event == "resume":
                    rescue.unhold(connection, name)
                what = f"{event} ({values['hold']})" if event == "pause" else event
                record(connection, at=self._context.clock.now(), actor=actor, campaign=name, what=what, why=reason)
        return self.status(name)


_TARGETS = {"pause": CampaignState.PAUSED, "resume": CampaignState.RUNNING, "cancel": CampaignState.CANCELLED}


def _state(connection: Connection, name: str) -> CampaignState:
    state = connection.execute(
        sa.select(tables.campaign.c.state).where(tables.campaign.c.name == name).with_for_update()
    ).scalar_one_or_none()
    if state is None:
        raise UnknownCampaign(f"the ledger has no campaign {name!r}; `pachon campaign list` shows those it has")
    return CampaignState(state)


def _only(status: CampaignStatus | None, step: str | None) -> CampaignStatus | None:
    if status is None or step is None:
        return status
    return replace(status, steps=tuple(s for s in status.steps if s.name == step))
