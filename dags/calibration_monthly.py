"""A month's master calibrations, on the first of the next."""

from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import CPP
from operators.steps import steps_of

DOC = """
### Monthly calibration products
Every product from all frames of a month (bias, photon transfer and linearity, crosstalk, dark, flat, bad pixels, monochromatic
cube, synthetic flat, illumination, fringes; those without frames are left out), verified, and certified from its first day on.
The scheduler runs it on the first of each month for the month before; by hand, say `first_day` and `last_day`.

New, it is paused: set the default instrument first (`instrument`), then unpause. Templates are made by the DAG `template`.

**If a task is red**: its log names the step, the reason and the next step.
"""

with DAG(
    "calibration_monthly",
    description="Every calibration product of one month",
    schedule="@monthly",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["cpp"],
    params=params_of("calibration_monthly"),
    default_args=CPP.default_args(),
    max_active_runs=1,
):
    start = StartCampaignOperator(task_id="start", production="calibration_monthly")
    names = steps_of(__file__, "calibration_monthly")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in names]
    chain(start, *steps, SummaryOperator(task_id="report", campaign=start.output))
