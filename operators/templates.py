"""From what is missing to the templates that are made: which days, and why."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from operators import conf, engine, science
from operators.asked import asked

if TYPE_CHECKING:
    from airflow.sdk import Context

    from workflow.campaigns import Campaigns, CampaignStatus

_log = logging.getLogger(__name__)
DAG = "template"


class TemplateNeedOperator(BaseOperator):  # type: ignore[misc]
    """Returns `run_id` and `conf` of the templates that are needed; skipped where none are, or while templates or a release are
    being made.

    Needed are templates of patches that were observed and have none; and those again whose calibrations were withdrawn.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """See the class."""
        watch = asked(context, conf.TemplateWatch, "missing templates")
        campaigns = engine.campaigns()
        every = campaigns.every()
        busy = [s.name for s in every if not s.ended and s.production.startswith((DAG, "release"))]
        if busy:
            raise AirflowSkipException(f"{busy[0]} is being made: the next run looks again")
        made = spans(every, watch.instrument)
        found = _again(campaigns, watch, made) or _missing(watch, made)
        if found is None:
            raise AirflowSkipException("no template is missing, and none was made with what was withdrawn since")
        reason, days = found
        _log.warning("templates are made: %s", reason)
        chosen = watch.model_dump(include={"instrument", "variant", "skymap"}) | days
        wanted = conf.read(DAG, chosen)
        return {"run_id": wanted.run_id(DAG), "conf": wanted.model_dump(mode="json", exclude_defaults=True), "reason": reason}


def spans(every: Iterable[CampaignStatus], instrument: str) -> dict[tuple[int, int], int]:
    """First and last day of all that templates of an instrument were made of, and the last serial number of each."""
    form = re.compile(rf"{DAG}_{re.escape(instrument)}_(\d{{8}})_(\d{{8}})_(\d+)")
    found: dict[tuple[int, int], int] = {}
    for status in every:
        if match := form.fullmatch(status.name):
            first, last, serial = (int(word) for word in match.groups())
            found[first, last] = max(serial, found.get((first, last), 0))
    return found


def _again(
    campaigns: Campaigns, watch: conf.TemplateWatch, made: dict[tuple[int, int], int]
) -> tuple[str, dict[str, int]] | None:
    for (first, last), serial in sorted(made.items()):
        days = {"first_day": first, "last_day": last}
        name = conf.read(DAG, {"instrument": watch.instrument, **days, "serial": serial}).campaign(DAG)
        gone = campaigns.withdrawn_inputs(name)
        if gone:
            why = f"{gone[0].dataset_type} {dict(gone[0].data_id)}: {gone[0].why}"
            return f"{name} was made with {len(gone)} withdrawn calibrations ({why})", {**days, "serial": serial + 1}
    return None


def _missing(watch: conf.TemplateWatch, made: Iterable[tuple[int, int]]) -> tuple[str, dict[str, int]] | None:
    words = ["calib", "templates", "--home", engine.home(), "--instrument", watch.instrument, "--json"]
    words += ["--skymap", watch.skymap] if watch.skymap else []
    words += ["--days", str(watch.first_day), str(watch.last_day), "--least-visits", str(watch.least_visits)]
    for first, last in made:
        words += ["--tried", str(first), str(last)]
    need = json.loads(science.ask(*words).splitlines()[-1])
    return need and (need["words"], {"first_day": need["first_day"], "last_day": need["last_day"]})
