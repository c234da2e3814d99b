"""The day's master calibrations, when the observatory asks for them."""

from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import OCS_BATCH
from operators.steps import steps_of

DOC = """
### Daily calibrations
Master **bias**, **dark** and **flat** from one observing day's frames; then **verify**: each against frames that it was not
made of and against the certified one. What passes is certified, and approved by rule or (`approve: person`) by
`pachon calib approve`.

Started by the observatory control system, or by hand with *Trigger*: say the instrument and the day, and, if need be,
`pipeline` (one product alone), `detectors`, and `overrides` of tasks' settings, as `{"combineBias": {"minimum": 15}}`. How it is
going: `/pachon/api/commands/COMMAND`.

Asked twice with the same conf it is the same campaign. To make it again, raise `serial`.

**If a task is red**: its log names the step, the reason and the next step. `pachon campaign report NAME` shows every task and
error; what verification refused, `pachon calib show COLLECTION`. After mending: `pachon campaign retry NAME`, then clear the red
task. A camera that takes no darks has an empty dark step: that is fine.

Due within 1200 s for up to 25 exposures.
"""

with DAG(
    "calibration_daily",
    description="Master bias, dark and flat of one day, verified and certified",
    schedule=None,
    doc_md=DOC,
    tags=["cpp", "ocs"],
    params=params_of("calibration_daily"),
    default_args=OCS_BATCH.default_args(),
    max_active_runs=4,
):
    start = StartCampaignOperator(task_id="start", production="calibration_daily")
    names = steps_of(__file__, "calibration_daily")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in names]
    chain(start, *steps, SummaryOperator(task_id="report", campaign=start.output))
