"""The public face of the engine: what operators, the command line and the demo may use of `workflow`."""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow import moves, rescue, words
from workflow.broker import Word
from workflow.context import Context
from workflow.errors import ConflictError, ProductionError, UnknownCampaign
from workflow.ledger import tables
from workflow.ledger.store import record
from workflow.moves import MoveReport
from workflow.production import Production
from workflow.report import backlog_entries, live, report, status, statuses
from workflow.selection import Selection
from workflow.settings import Settings
from workflow.states import CAMPAIGN_TABLE, CampaignState, StepState, follow
from workflow.status import BacklogEntry, CampaignReport, CampaignStatus, LabelReport, RetryReport, StepStatus
from workflow.why import Why, why

if TYPE_CHECKING:
    from backbone.qc.certifications import Certification, Certifications, Product
    from workflow.hotfix import Effect
    from workflow.withdrawal import Which, Withdrawal

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
        why: str = "",
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
                said = f"{what.production} version {what.version}" + (f": {why}" if why else "")
                record(connection, at=now, actor=actor, campaign=name, what="start", why=said)
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

    def prepare(self) -> None:
        """Load what `advance` needs, before there is work: an engine process does so when it starts, and once."""
        _ = self._advancer
        gc.collect()
        gc.freeze()  # modules live as long as the process: the collector need not look through them in each round

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

    def resume(self, name: str, actor: str, reason: str = "") -> CampaignStatus:
        """Undo `pause`."""
        return self._move(name, "resume", actor, reason, hold=None)

    def cancel(self, name: str, actor: str, reason: str = "") -> CampaignStatus:
        """End it: jobs are killed, what is accepted stays accepted."""
        return self._move(name, "cancel", actor, reason, ended=self._context.clock.now())

    def retry(self, name: str, actor: str, *, dry_run: bool = False, at_most: int | None = None, reason: str = "") -> RetryReport:
        """Give failed quanta, and what was pruned for them, new budgets; with `dry_run` only say what would run.

        RetryRefused where that is more than `at_most`, the number that was shown before.
        """
        return rescue.retry(self._context, self.status(name), actor, dry_run=dry_run, at_most=at_most, reason=reason)

    def prioritise(self, name: str, priority: int, actor: str, reason: str = "") -> int:
        """Higher goes first among campaigns of its kind; returns the old priority."""
        return moves.prioritise(self._context, name, priority, actor, why=reason)

    def move(
        self, name: str, to: str, actor: str, *, step: str = "", group: str = "", reason: str = "", dry_run: bool = False
    ) -> MoveReport:
        """Send what has not started (of all, of a step, of a group) to another site."""
        self.status(name)
        return moves.move(self._context, name, to, actor, step=step, group=group, why=reason, dry_run=dry_run)

    def hotfix(
        self,
        name: str,
        selection: Selection,
        *,
        actor: str,
        reason: str,
        software: str | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        dry_run: bool = False,
    ) -> Effect:
        """New software or task configuration for chosen quanta, what descends from them, and all not yet run."""
        from workflow import hotfix  # brings the Butler, as `advance` does

        self.status(name)
        request = hotfix.Request(selection=selection, software=software, config=config or {}, actor=actor, why=reason)
        return hotfix.apply(self._context, name, request, dry_run=dry_run)

    def why(self, name: str, group: str | None = None) -> Why:
        """Why it is not running, why here, why it failed; of a campaign, or of one group (`STEP/GROUP`)."""
        return why(self._context, name, group)

    def say_sites(self, name: str, word: Word, *, actor: str, step: str = "", group: str = "", why: str = "") -> None:
        """An operator's word about the sites and machines of a campaign, a step or a group; jobs that run are left alone."""
        words.say(self._context, name, word, actor=actor, step=step, group=group, why=why)

    def backlog(self, name: str | None = None) -> list[BacklogEntry]:
        """What was due and not done, of one campaign or of all."""
        return backlog_entries(self._context, name)

    def approve_calibrations(self, collection: str, *, actor: str, why: str = "", digest: str | None = None) -> Certification:
        """Sign a certification and put it in front of the chain that users read; `digest`: the one that was looked at."""
        from workflow.certification import approve  # brings the Butler, as `advance` does

        return approve(self._context, collection, actor=actor, why=why, digest=digest)

    def withdraw_calibrations(
        self, collection: str, which: Which, *, actor: str, why: str, derived: bool = False, dry_run: bool = False
    ) -> Withdrawal:
        """Take bad products out of use; says what was processed with them, and what was derived from them."""
        from workflow.withdrawal import withdraw  # brings the Butler, as `advance` does

        return withdraw(self._context, collection, which, actor=actor, why=why, derived=derived, dry_run=dry_run)

    def withdrawn_inputs(self, name: str) -> list[Product]:
        """Calibrations that a campaign used and that were withdrawn since: what it made should be made again."""
        from workflow.withdrawal import withdrawn_inputs

        return withdrawn_inputs(self._context, name)

    def documents(self, name: str, dataset_type: str) -> list[dict[str, Any]]:
        """What a campaign's tasks wrote as documents of a type (storage class StructuredDataDict)."""
        from workflow.certification import contents  # brings the Butler, as `advance` does

        butler = self._context.butler
        butler.registry.refresh()
        return contents(butler, dataset_type, sorted(butler.collections.query(f"{name}/*")))

    @property
    def certifications(self) -> Certifications:
        """The books of certified calibrations."""
        return self._context.certifications

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
