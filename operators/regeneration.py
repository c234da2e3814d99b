"""From a day's comparison of flats with the masters to the calibrations that follow, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from operators import conf, engine
from operators.asked import asked

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
DAG = "calibration_daily"


class RegenerationOperator(BaseOperator):  # type: ignore[misc]
    """Returns `run_id` and `conf` of the daily calibrations that a significant change asks for; skipped where nothing changed."""

    template_fields: Sequence[str] = ("campaign",)

    def __init__(self, *, campaign: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.campaign = campaign

    def execute(self, context: Context) -> dict[str, Any]:
        """Read what the campaign found."""
        day = asked(context, conf.Day, "one day")
        reason = reason_of(engine.campaigns().documents(self.campaign, "flat_comparison"))
        if not reason:
            raise AirflowSkipException("no flat differs significantly from its master: nothing is made again")
        _log.warning("masters are made again: %s", reason)
        wanted = conf.read(DAG, {"instrument": day.instrument, "day_obs": day.day_obs, "serial": day.serial, "reason": reason})
        return {"run_id": wanted.run_id(DAG), "conf": wanted.model_dump(mode="json", exclude_defaults=True)}


def reason_of(comparisons: Sequence[dict[str, Any]], at_most: int = 3) -> str:
    """In words, what changed; empty where nothing did."""
    changed = [c for c in comparisons if c["significant"]]
    words = [f"{c['subject']['physical_filter']} detector {c['subject']['detector']}: {c['why']}" for c in changed]
    more = f"; and {len(words) - at_most} more" if len(words) > at_most else ""
    return "flats changed: " + "; ".join(words[:at_most]) + more if words else ""
