"""Operators that start a campaign, carry one of its steps, work off its backlog and sum it up.

Each does its part of the engine's work once (idempotent by the campaign's name), then waits in the triggerer, holding no slot.
The engine process goes on meanwhile, with Airflow or without.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from backbone.errors import PermanentError, TransientError
from operators import conf, door, engine
from operators.links import CampaignLink, persist_link
from operators.text import report_text
from operators.triggers import KILLED, CampaignEvent, CampaignStepTrigger, Code, judge
from workflow.errors import UnknownCampaign

if TYPE_CHECKING:
    from airflow.sdk import Context

    from workflow.campaigns import Campaigns, CampaignStatus

_log = logging.getLogger(__name__)
LATE = "nightly_late"
"""The production of what a prompt night left (workflow/night/late.py): its steps wait for the DAG offline."""


def actor_of(context: Context) -> str:
    """Who acts, for the ledger: this DAG run, and the user who asked for it where Airflow knows."""
    run = context["dag_run"]
    user = getattr(run, "triggering_user_name", None)
    return f"airflow:{run.dag_id}/{run.run_id}" + (f" for {user}" if user else "")


class StartCampaignOperator(BaseOperator):  # type: ignore[misc]
    """Writes a campaign of a production into the ledger, released step by step by what follows; returns the campaign's name.

    The run's conf is validated here (`operators.conf`, by DAG id); name and parameters follow from it, `parameters` adds to them.
    With `modes`, a run whose conf says another mode starts none, and its steps are skipped.
    """

    template_fields: Sequence[str] = ("production", "name", "parameters")
    operator_extra_links = (CampaignLink(),)

    def __init__(
        self,
        *,
        production: str,
        name: str = "",
        parameters: Mapping[str, Any] | None = None,
        modes: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.production = production
        self.modes = tuple(modes)
        self.name = name
        self.parameters = dict(parameters or {})
        self.campaign = ""

    def execute(self, context: Context) -> str:
        """Validate, start, and remember which command this was."""
        try:
            return self._start(context)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error

    def _start(self, context: Context) -> str:
        run, dag = context["dag_run"], context["dag"]
        asked = conf.read(run.dag_id, dict(context["params"]), run.run_after)
        if self.modes and getattr(asked, "mode", "") not in self.modes:
            raise AirflowSkipException(f"no campaign of {self.production} in this mode")
        name = self.name or asked.campaign(self.production)
        path = Path(dag.fileloc).parent / "productions" / asked.file_name(self.production)
        actor = actor_of(context)
        parameters = {**asked.parameters(), **self.parameters}
        said = {"why": asked.reason} if isinstance(asked, conf.Calibration) and asked.reason else {}
        status = engine.campaigns().start(
            asked.production(path), name=name, parameters=parameters, actor=actor, release="none", **said
        )
        door.record(
            engine.home(),
            door.Command(
                command=asked.command or run.run_id,
                run=f"{run.dag_id}/{run.run_id}",
                campaign=name,
                actor=actor,
                payload=asked.model_dump(mode="json"),
            ),
        )
        _log.info("campaign %s of %s is %s", name, path.name, status.state)
        self.campaign = name
        persist_link(context, name)
        return name


class _WaitsForCampaign(BaseOperator):  # type: ignore[misc]
    """What all that wait have in common: check once, else defer; judge the end."""

    operator_extra_links = (CampaignLink(),)
    campaign: str
    poll_s: float

    def _begin(self, context: Context) -> Campaigns:
        persist_link(context, self.campaign)
        return engine.campaigns()

    def _wait(self, context: Context, step: str | None, status: CampaignStatus) -> dict[str, Any]:
        event = judge(self.campaign, step, status)
        if event is None:
            trigger = CampaignStepTrigger(engine.home(), self.campaign, step, self.poll_s, actor_of(context))
            raise TaskDeferred(trigger=trigger, method_name="execute_complete")
        return self._end(event)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """The trigger fired."""
        return self._end(CampaignEvent.read(event))

    def _end(self, event: CampaignEvent) -> dict[str, Any]:
        if event.code != Code.SUCCEEDED:
            _fail(event)
        if event.failed:
            _log.warning("%s: %d of %d quanta failed, as its rules allow", _what(event), event.failed, event.expected)
        return event.payload()


class CampaignStepOperator(_WaitsForCampaign):
    """Releases one step of a campaign, gives the engine one round, and waits until the step has ended."""

    template_fields: Sequence[str] = ("campaign", "step", "approver")

    def __init__(self, *, campaign: Any, step: str, approver: Any = "", poll_s: float = 1.0, **kwargs: Any) -> None:
        # A step that the production does not have is skipped, and what follows it is not.
        super().__init__(**{"trigger_rule": "none_failed", **kwargs})
        self.campaign = campaign
        self.step = step
        self.approver = approver
        self.poll_s = poll_s

    def execute(self, context: Context) -> dict[str, Any]:
        """Release → advance → persist the link → check once → defer. A second execution finds its step released and adopts it."""
        if not self.campaign:
            raise AirflowSkipException("no campaign was started in this run's mode")
        campaigns = self._begin(context)
        actor = f"{actor_of(context)}, approved by {self.approver}" if self.approver else actor_of(context)
        try:
            self._known_step(campaigns.status(self.campaign))
            status = _resumed(campaigns, campaigns.release(self.campaign, self.step, actor), actor)
            status = _advanced(campaigns, self.campaign, status)
        except PermanentError as error:
            raise AirflowFailException(f"campaign {self.campaign} step {self.step}: {error}") from error
        return self._wait(context, self.step, status)

    def _known_step(self, status: CampaignStatus) -> None:
        if self.step not in {step.name for step in status.steps}:
            raise AirflowSkipException(f"production {status.production} has no step {self.step}: nothing to do")


class BacklogOperator(_WaitsForCampaign):
    """Gives what a campaign left undone new attempts, in that campaign, and waits until it has ended again. What a prompt night
    left is a campaign that nobody has released yet.

    What fails again stays in the backlog and does not fail this task: the next day's products do not wait for it.
    """

    template_fields: Sequence[str] = ("campaign",)

    def __init__(self, *, campaign: Any = "", poll_s: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.campaign = campaign
        self.poll_s = poll_s

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the backlog; none: done. Else retry, advance, wait."""
        try:
            if not self.campaign:
                self.campaign = _night_of(conf.read("offline", dict(context["params"])))
            if not self.campaign:
                _log.info("the prompt night of that day has ended and left nothing undone")
                return {}
            campaigns = self._begin(context)
            left = campaigns.backlog(self.campaign)
            status = campaigns.status(self.campaign)
            _log.info("campaign %s: %d quanta in its backlog", self.campaign, len(left))
            if left and status.ended:
                campaigns.retry(self.campaign, actor_of(context))
                status = _advanced(campaigns, self.campaign, status)
            elif status.production == LATE:
                for step in status.steps:
                    status = campaigns.release(self.campaign, step.name, actor_of(context))
                status = _advanced(campaigns, self.campaign, status)
        except PermanentError as error:
            raise AirflowFailException(f"backlog of campaign {self.campaign}: {error}") from error
        return self._wait(context, None, status)

    def _end(self, event: CampaignEvent) -> dict[str, Any]:
        if event.code in {Code.ABSENT, Code.CANCELLED}:
            _fail(event)
        if event.failed:
            _log.warning("%s: %d quanta are still undone and stay in the backlog: %s", _what(event), event.failed, event.reason)
        elif event.code == Code.SUCCEEDED and engine.campaigns().status(event.campaign).production == LATE:
            from workflow.night.late import settle

            settle(engine.nights(), event.campaign)
        return event.payload()


class SummaryOperator(BaseOperator):  # type: ignore[misc]
    """The campaign's report into the log and an XCom (`text` and the numbers); fails when the campaign did not succeed.

    Last in a DAG, with the trigger rule all_done: the DAG run's state is then the campaign's.
    """

    template_fields: Sequence[str] = ("campaign",)
    operator_extra_links = (CampaignLink(),)

    def __init__(self, *, campaign: Any, **kwargs: Any) -> None:
        super().__init__(**{"trigger_rule": "all_done", **kwargs})
        self.campaign = campaign

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the report; print it; judge."""
        if not self.campaign:
            if dict(context["params"]).get("mode", "batch") != "batch":
                raise AirflowSkipException("no campaign was started in this run's mode")
            raise AirflowFailException("there is no campaign to report on, none was started: see the tasks before this one")
        report = engine.campaigns().report(self.campaign)
        text = report_text(report)
        persist_link(context, self.campaign)
        _log.info("\n%s", text)
        if report.campaign.state.value != Code.SUCCEEDED:
            raise AirflowFailException(
                f"campaign {self.campaign} is {report.campaign.state}; {_next_step(self.campaign)}\n{text}"
            )
        return {**report.as_json(), "text": text}


def _night_of(asked: conf.Conf) -> str:
    """The campaign of the night that an offline run is about: the first that there is, else the first that could be; empty where
    prompt workers did all of the night.
    """
    if not isinstance(asked, conf.Offline):
        return ""
    names = asked.night_campaigns()
    for name in names:
        with contextlib.suppress(UnknownCampaign):
            engine.campaigns().status(name)
            return name
    if not asked.night:
        (night,) = engine.nights().statuses([asked.campaign_of("prompt")])
        if night is not None and night.ended:
            return ""
    return names[0]


def _advanced(campaigns: Campaigns, name: str, status: CampaignStatus) -> CampaignStatus:
    """One round of the engine; where that cannot be done now, the status as it was: the engine process will do it."""
    try:
        return campaigns.advance(name)
    except TransientError as error:
        _log.warning("campaign %s was not advanced by this task, the engine process will do it: %s", name, error)
        return status


def _resumed(campaigns: Campaigns, status: CampaignStatus, actor: str) -> CampaignStatus:
    """Resume a campaign that the end of an earlier try of its task had paused; an operator's own pause is left alone."""
    if status.state.value == "PAUSED" and KILLED in status.reason:
        return campaigns.resume(status.name, actor)
    return status


def _what(event: CampaignEvent) -> str:
    return f"campaign {event.campaign}" + (f" step {event.step}" if event.step else "")


def _next_step(campaign: str) -> str:
    return f"see `pachon campaign report {campaign}`; after mending, `pachon campaign retry {campaign}` and clear this task"


def _fail(event: CampaignEvent) -> NoReturn:
    """Airflow must not retry what the engine has given up."""
    counts = f" ({event.failed} of {event.expected} quanta failed)" if event.failed else ""
    raise AirflowFailException(
        f"{_what(event)} ended as {event.code}{counts}: {event.reason or 'no reason given'}. Next: {_next_step(event.campaign)}"
    )
