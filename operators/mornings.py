"""What is written of an observing day when it has ended: the calibration report of each instrument (DMS-REQ-0100, 0101)."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators import conf, engine, science

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
LATENESS = "calibration_report_h"
"""Metric: hours from the end of the observing day to its report, held to four by a threshold."""


class CalibrationReportOperator(BaseOperator):  # type: ignore[misc]
    """Writes HOME/reports/calibrations/INSTRUMENT/DAY for each instrument of which something was measured that day; returns
    instrument → folder. Twice is once. Skipped where nothing was measured.
    """

    def execute(self, context: Context) -> dict[str, str]:
        """See the class."""
        run = context["dag_run"]
        try:
            asked = conf.read_morning(run.dag_id, dict(context["params"]))
        except conf.ConfError as error:
            raise AirflowFailException(str(error)) from error
        home, day = engine.home(), asked.day(run.run_after)
        instruments = _instruments(home, day, asked.instrument)
        if not instruments:
            raise AirflowSkipException(f"nothing was measured of {asked.instrument or 'any instrument'} on {day}: no report")
        written = {}
        for instrument in instruments:
            folder = folder_of(home, instrument, day)
            science.ask("calib", "report", "--home", home, "--instrument", instrument, "--day", str(day), str(folder))
            written[instrument] = str(folder)
            if not asked.day_obs:  # a report that somebody asks for later is not late
                _record(home, instrument, day, time.time())
        return written


def folder_of(home: str, instrument: str, day_obs: int) -> Path:
    """Where the report of a day is."""
    return Path(home) / "reports" / "calibrations" / instrument / str(day_obs)


def end_of(day_obs: int) -> float:
    """When an observing day has ended, seconds since 1970: at noon, UTC, of the next date."""
    return (datetime.strptime(str(day_obs), "%Y%m%d").replace(tzinfo=UTC) + timedelta(hours=36)).timestamp()


def _instruments(home: str, day: int, named: str) -> list[str]:
    from backbone.qc import Quality

    quality: Any = Quality.open(home)
    try:
        return sorted({m.instrument for m in quality.metrics(instrument=named or None, first_day=day, last_day=day)})
    finally:
        quality.close()


def _record(home: str, instrument: str, day: int, now: float) -> None:
    """The first report's hour counts: of one that is written again no less was known in time."""
    from backbone.qc import Metric, Quality

    quality = Quality.open(home)
    try:
        if not quality.metrics(name=LATENESS, instrument=instrument, first_day=day, last_day=day):
            hours = (now - end_of(day)) / 3600
            metric = Metric(name=LATENESS, value=hours, unit="h", instrument=instrument, day_obs=day, source="calibration_report")
            quality.record([metric], actor="calibration_report")
    finally:
        quality.close()
