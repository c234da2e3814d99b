"""Operators of a night of prompt processing: open, arm, supervise, close, report. In batch mode they are skipped.

They keep the books. The night itself is supervised by a process of its own (`pachon night run`): with Airflow down it goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from backbone.errors import PermanentError
from operators import conf, door, engine
from operators.campaign import actor_of
from operators.links import NightLink, persist_night_link
from operators.night_triggers import NightTrigger, night_event

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
_OPEN_ENOUGH = ["OPEN", "DRAINING", "CLOSED"]


class OpenNightOperator(BaseOperator):  # type: ignore[misc]
    """Writes the night into the prompt ledger, whose supervisor arms the workers; returns its name. Skips in batch mode."""

    operator_extra_links = (NightLink(),)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.night = ""

    def execute(self, context: Context) -> str:
        """Validate, begin, remember which command it was."""
        run = context["dag_run"]
        try:
            asked = conf.read(run.dag_id, dict(context["params"]))
            if not isinstance(asked, conf.PromptNight) or asked.mode != "prompt":
                raise AirflowSkipException("the night is processed in batch")
            return self._begin(context, asked)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error

    def _begin(self, context: Context, asked: conf.PromptNight) -> str:
        run, name, actor = context["dag_run"], asked.campaign("prompt"), actor_of(context)
        nights = engine.nights()
        status = nights.begin(
            name,
            instrument=asked.instrument,
            day_obs=asked.day_obs,
            skymap=asked.skymap or asked.instrument,
            detectors=asked.detectors or nights.detectors(asked.instrument),
            fields=asked.fields,
            actor=actor,
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
        _log.info("night %s is %s, %d detectors", name, status.state, len(status.detectors))
        self.night = name
        persist_night_link(context, name)
        return name


class _OfANight(BaseOperator):  # type: ignore[misc]
    """What all that wait for a night have in common."""

    template_fields: Sequence[str] = ("night",)
    operator_extra_links = (NightLink(),)
    states: list[str]

    def __init__(self, *, night: Any, poll_s: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.night = night
        self.poll_s = poll_s

    def _wait(self, context: Context, ends: float | None = None) -> dict[str, Any]:
        """Check once, else defer."""
        persist_night_link(context, self.night)
        (status,) = engine.nights().statuses([self.night])
        event = night_event(self.night, self.states, ends, status)
        if event is None:
            trigger = NightTrigger(engine.home(), self.night, self.states, ends, self.poll_s)
            raise TaskDeferred(trigger=trigger, method_name="execute_complete")
        return self.execute_complete(context, event)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """The trigger fired."""
        if event["code"] == "ABSENT":
            raise AirflowFailException(f"night {self.night}: {event['reason']}: clear the task `open`")
        return event


class ArmedOperator(_OfANight):
    """Waits until every detector has an armed worker, or the night has gone on without."""

    states = _OPEN_ENOUGH

    def execute(self, context: Context) -> dict[str, Any]:
        """See the class."""
        return self._wait(context)


class SuperviseOperator(_OfANight):
    """Waits until the night is over: the observatory says so, or its time has come; then nothing new is begun."""

    states = ["DRAINING", "CLOSED"]  # noqa: RUF012 - never changed

    def execute(self, context: Context) -> dict[str, Any]:
        """See the class."""
        asked = conf.read(context["dag_run"].dag_id, dict(context["params"]))
        return self._wait(context, asked.ends_at() if isinstance(asked, conf.PromptNight) else None)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Drain, unless that was said already."""
        super().execute_complete(context, event)
        if event["code"] == "OVER":
            engine.nights().drain(self.night, actor_of(context), "its time has come")
        return event


class CloseNightOperator(_OfANight):
    """Waits until what was in flight has ended and the workers have left."""

    states = ["CLOSED"]  # noqa: RUF012 - never changed

    def execute(self, context: Context) -> dict[str, Any]:
        """See the class."""
        return self._wait(context)


class NightReportOperator(BaseOperator):  # type: ignore[misc]
    """Hands what is left to offline, then writes both reports to the prompt endpoint; returns what they sum up to."""

    template_fields: Sequence[str] = ("night",)
    operator_extra_links = (NightLink(),)

    def __init__(self, *, night: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.night = night

    def execute(self, context: Context) -> dict[str, Any]:
        """Idempotent: the same reports, the same campaign."""
        from workflow.night.late import hand_over
        from workflow.night.reports import publish_reports

        persist_night_link(context, self.night)
        nights = engine.nights()
        production = Path(context["dag"].fileloc).parent / "productions" / "nightly_late.yaml"
        try:
            late = hand_over(nights, engine.campaigns(), self.night, production, actor_of(context))
            summary = publish_reports(nights, self.night)
        except PermanentError as error:
            raise AirflowFailException(f"night {self.night}: {error}") from error
        _log.info("night %s: %s; left to offline: %s", self.night, summary, late or "nothing")
        return {**summary, "late": late}
