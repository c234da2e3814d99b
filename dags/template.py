"""Templates for difference imaging, when somebody asks for new ones."""

from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import CPP

DOC = """
### Templates
From the frames of a span of days: characterise and solve each, then one image per patch and band, which becomes the newest in
`INSTRUMENT/templates`; nights that start later use it. Needs calibrations and the sky map. A frame that fails is left out.

`variant=unregistered` for a camera without a reference catalogue: frames are registered to one another (the step **register**,
skipped for others).
"""

with DAG(
    "template",
    description="Templates from the frames of a span of days",
    schedule=None,
    doc_md=DOC,
    tags=["cpp"],
    params=params_of("template"),
    default_args=CPP.default_args(),
    max_active_runs=1,
):
    start = StartCampaignOperator(task_id="start", production="template")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in ("frames", "register", "coadd")]
    chain(start, *steps, SummaryOperator(task_id="report", campaign=start.output))
