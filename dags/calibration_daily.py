"""The day's master calibrations, when the observatory asks for them."""

from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import OCS_BATCH

DOC = """
### Daily calibrations
Master **bias**, **dark** and **flat** from one observing day's frames; each is certified before the next is planned.
Started by the observatory control system, or by hand with *Trigger*: say the instrument and the day.

Asked twice with the same conf it is the same campaign. To make it again, raise `serial`.

**If a task is red**: its log names the step, the reason and the next step. `pachon campaign report NAME` shows every task and
error. After mending: `pachon campaign retry NAME`, then clear the red task. A camera that takes no darks has an empty dark
step: that is fine.

Due within 1200 s for up to 25 exposures.
"""

with DAG(
    "calibration_daily",
    description="Master bias, dark and flat of one day",
    schedule=None,
    doc_md=DOC,
    tags=["cpp", "ocs"],
    params=params_of("calibration_daily"),
    default_args=OCS_BATCH.default_args(),
    max_active_runs=4,
):
    start = StartCampaignOperator(task_id="start", production="calibration_daily")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in ("bias", "dark", "flat")]
    chain(start, *steps, SummaryOperator(task_id="report", campaign=start.output))
