"""The public face of the engine: what operators, the command line and the demo may use of `workflow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from workflow.status import BacklogEntry, CampaignReport, CampaignStatus, LabelReport, RetryReport, StepStatus

__all__ = ["BacklogEntry", "CampaignReport", "CampaignStatus", "Campaigns", "LabelReport", "RetryReport", "StepStatus"]


class Campaigns:
    """Campaigns of one installation. Cheap to make; safe in many processes at once."""

    @classmethod
    def open(cls, home: str | Path) -> Campaigns:
        """The campaigns of a home directory (`pachon.yaml` in it)."""
        raise NotImplementedError

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
        raise NotImplementedError

    def release(self, name: str, step: str, actor: str) -> CampaignStatus:
        """Allow a step to be planned once its predecessors are published."""
        raise NotImplementedError

    def advance(self, name: str) -> CampaignStatus:
        """One round of the engine; where another engine holds the campaign's lock, the status unchanged."""
        raise NotImplementedError

    def status(self, name: str) -> CampaignStatus:
        """State of one campaign; UnknownCampaign if there is none."""
        raise NotImplementedError

    def statuses(self, which: Sequence[tuple[str, str | None]]) -> list[CampaignStatus | None]:
        """Of (campaign, step or None for all steps), in order, in one batched query; None for an unknown campaign."""
        raise NotImplementedError

    def every(self, *, live: bool = False) -> list[CampaignStatus]:
        """Of all campaigns, or of those that the engine still works on; oldest first."""
        raise NotImplementedError

    def report(self, name: str) -> CampaignReport:
        """Label × state with EXPECTED, error classes."""
        raise NotImplementedError

    def pause(self, name: str, actor: str, how: Literal["drain", "hold"] = "drain", reason: str = "") -> CampaignStatus:
        """Dispatch nothing more; `drain` lets running jobs end, `hold` kills them and keeps what they reported."""
        raise NotImplementedError

    def resume(self, name: str, actor: str) -> CampaignStatus:
        """Undo `pause`."""
        raise NotImplementedError

    def cancel(self, name: str, actor: str, reason: str = "") -> CampaignStatus:
        """End it: jobs are killed, what is accepted stays accepted."""
        raise NotImplementedError

    def retry(self, name: str, actor: str, *, dry_run: bool = False) -> RetryReport:
        """Give failed quanta, and what was pruned for them, new budgets; with `dry_run` only say how many."""
        raise NotImplementedError

    def backlog(self, name: str | None = None) -> list[BacklogEntry]:
        """What was due and not done, of one campaign or of all."""
        raise NotImplementedError
