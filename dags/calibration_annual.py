"""A year's master calibrations; the year's data release follows."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import CPP
from operators.release import ReleaseConfOperator
from operators.steps import steps_of

DOC = """
### Annual calibration products
Every product that the monthly makes, from a year's frames, and where `auxtel` names an auxiliary telescope the atmosphere of
each of its nights; then, when all are certified and `release` names one, the data release (DAG `release`, which asks a person
before it becomes a full one). Calibrations precede the release that uses them.

New, it is paused: set the default instrument first, then unpause. By hand, say `first_day` and `last_day`.
"""

with DAG(
    "calibration_annual",
    description="Master bias, dark and flat of one year, then the release",
    schedule="@yearly",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["cpp"],
    params=params_of("calibration_annual"),
    default_args=CPP.default_args(),
    max_active_runs=1,
    render_template_as_native_obj=True,
):
    start = StartCampaignOperator(task_id="start", production="calibration_annual")
    names = steps_of(__file__, "calibration_annual")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in names]
    report = SummaryOperator(task_id="report", campaign=start.output)
    asked = ReleaseConfOperator(task_id="release_conf")
    release = TriggerDagRunOperator(
        task_id="release",
        trigger_dag_id="release",
        trigger_run_id="{{ ti.xcom_pull('release_conf')['run_id'] }}",
        conf="{{ ti.xcom_pull('release_conf')['conf'] }}",
        skip_when_already_exists=True,
    )
    chain(start, *steps, report, asked, release)
