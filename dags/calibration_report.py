"""The calibration report of an observing day, when it has ended."""

from airflow.sdk import DAG

from operators.mornings import CalibrationReportOperator
from operators.params import params_of
from operators.priority import OCS_BATCH

DOC = """
### Calibration report
What differs significantly, what was verified, certified and refused, amplifiers, trends, alarms: for people and programs, in
`HOME/reports/calibrations/INSTRUMENT/DAY` and at `/pachon/calibrations/INSTRUMENT/DAY/index.html`.

Observing days end at 12:00 UTC; the scheduler runs it five minutes later, for every instrument of which something was measured.
Due four hours after the night: a later one raises an alarm (`calibration_report_h`). By hand, say the day: it is written anew.
"""

with DAG(
    "calibration_report",
    description="The calibration report of the day that has ended",
    schedule="5 12 * * *",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["cpp"],
    params=params_of("calibration_report"),
    default_args=OCS_BATCH.default_args(),
    max_active_runs=1,
):
    CalibrationReportOperator(task_id="report")
