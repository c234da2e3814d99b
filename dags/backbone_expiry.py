"""Every hour: copies whose time is over may go, copies asked for from an age on are asked for."""

from airflow.sdk import DAG

from operators.backbone import ExpireOperator
from operators.params import params_of
from operators.priority import BACKBONE

DOC = """
### Expiry
Policies keep un-archived files at least 30 days at two places and then drop them; their rows remain, so that they can be made
again. What is due is deleted by movers after the policy's grace period, never below its floor of copies.
`pachon backbone policy check KEY` says why a file is kept or not.
"""

with DAG(
    "backbone_expiry",
    description="Lets copies go whose time is over",
    schedule="@hourly",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["backbone"],
    params=params_of("backbone_expiry"),
    default_args=BACKBONE.default_args(),
    max_active_runs=1,
):
    ExpireOperator(task_id="expire")
