"""The day after: the night's backlog, then objects and tracklets."""

from airflow.sdk import DAG, chain

from operators.campaign import BacklogOperator, CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.collect import ALERTS, SOURCES, CollectOperator
from operators.params import params_of
from operators.priority import OFFLINE

DOC = """
### Day after a night
**collect**: what prompt workers found in the night becomes datasets of the repository (its raw frames must be there).
**backlog**: what the night left undone gets new attempts, in the night's own campaign; **tell**: alerts that come of it go to
their subscribers. What fails again stays in the backlog and is logged; it does not stop the rest. Then **associate**: objects of
all sources there are now; **tracklets** of the night.

`night` names the night's campaign where it is not the first of this instrument and day. Due before the next night.
"""

with DAG(
    "offline",
    description="The night's backlog, then objects and tracklets",
    schedule=None,
    doc_md=DOC,
    tags=["offline"],
    params=params_of("offline"),
    default_args=OFFLINE.default_args(),
    max_active_runs=2,
):
    collect = CollectOperator(task_id="collect", command=SOURCES)
    backlog = BacklogOperator(task_id="backlog")
    tell = CollectOperator(task_id="tell", command=ALERTS)
    start = StartCampaignOperator(task_id="start", production="offline")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in ("associate", "tracklets")]
    chain(collect, backlog, tell)
    chain(backlog, start, *steps, SummaryOperator(task_id="report", campaign=start.output))
