"""Every quarter of an hour: is every file where policies and rules want it, and if not, why?"""

from airflow.sdk import DAG, chain

from operators.backbone import BacklogReportOperator, RepairOperator, SweepOperator
from operators.params import params_of
from operators.priority import BACKBONE

DOC = """
### Replication
Movers copy files as policies and rules ask, whether this DAG runs or not. This one looks after them: **sweep** settles puts that
broke off and objects nobody registered, **repair** asks again for replicas that are bad or lost, **backlog** says what is on its
way and is red when something is stuck.

**If a task is red**: its log names the reasons. `pachon backbone transfers --state STUCK`; mend; `--retry`; clear the task.
"""

with DAG(
    "backbone_replication",
    description="Looks after replication: what is missing, stuck or orphaned",
    schedule="*/15 * * * *",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["backbone"],
    params=params_of("backbone_replication"),
    default_args=BACKBONE.default_args(),
    max_active_runs=1,
):
    chain(
        SweepOperator(task_id="sweep"),
        RepairOperator(task_id="repair"),
        BacklogReportOperator(task_id="backlog", trigger_rule="all_done"),
    )
