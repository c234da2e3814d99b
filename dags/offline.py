"""The day after: the night's backlog, then tracklets."""

from airflow.sdk import DAG, chain

from operators.campaign import BacklogOperator, CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.params import params_of
from operators.priority import OFFLINE

DOC = """
### Day after a night
**backlog**: what the night left undone gets new attempts, in the night's own campaign. What fails again stays in the backlog
and is logged; it does not stop the rest. Then **tracklets** of the night from all difference sources.

`night` names the night's campaign where it is not the first of this instrument and day. Due before the next night.
"""

with DAG(
    "offline",
    description="The night's backlog, then tracklets",
    schedule=None,
    doc_md=DOC,
    tags=["offline"],
    params=params_of("offline"),
    default_args=OFFLINE.default_args(),
    max_active_runs=2,
):
    backlog = BacklogOperator(task_id="backlog")
    start = StartCampaignOperator(task_id="start", production="offline")
    tracklets = CampaignStepOperator(task_id="tracklets", campaign=start.output, step="tracklets")
    chain(backlog, start, tracklets, SummaryOperator(task_id="report", campaign=start.output))
