"""A day's calibration frames looked at; masters are made again where the flats have changed."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import OCS_BATCH
from operators.regeneration import RegenerationOperator
from operators.steps import steps_of

DOC = """
### Calibration check
**raw**: is there light in this bias, is this dark saturated or of another time, does this flat deviate? **compare**: the day's
flats over the certified masters. Numbers go to quality control (`pachon qc metrics --name 'raw_*'`), crossings raise alarms.

Where a flat differs significantly from its master, **regenerate** starts `calibration_daily` of the same day and gives it the
reason; its new masters differ from the certified ones by what changed, so where the change is large they wait for a person
(`accept_change`). Nothing changed: it is skipped.
"""

with DAG(
    "calibration_check",
    description="A day's raw calibration frames and flats looked at; a significant change starts regeneration",
    schedule=None,
    doc_md=DOC,
    tags=["cpp", "ocs"],
    params=params_of("calibration_check"),
    default_args=OCS_BATCH.default_args(),
    max_active_runs=4,
    render_template_as_native_obj=True,
):
    start = StartCampaignOperator(task_id="start", production="calibration_check")
    names = steps_of(__file__, "calibration_check")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in names]
    report = SummaryOperator(task_id="report", campaign=start.output)
    wanted = RegenerationOperator(task_id="changed", campaign=start.output)
    regenerate = TriggerDagRunOperator(
        task_id="regenerate",
        trigger_dag_id="calibration_daily",
        trigger_run_id="{{ ti.xcom_pull('changed')['run_id'] }}",
        conf="{{ ti.xcom_pull('changed')['conf'] }}",
        skip_when_already_exists=True,
    )
    chain(start, *steps, report, wanted, regenerate)
