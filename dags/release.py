"""A data release: some 10 % of the sky first, a person's approval, then all of it."""

from airflow.sdk import DAG, TaskGroup, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.gate import ApprovalGate
from operators.params import params_of
from operators.priority import DRP

DOC = """
### Data release
1. **mini**: every `mini_every`-th patch (10: some 10 % of the sky), all steps, into `releases/NAME_mini`.
2. **approval**: a person reads the mini-release's report and says *Approve* or *Reject* (*Required actions*, or REST). No time
   limit. Rejected, the run ends red and nothing more is done.
3. **full**: all patches, into `releases/NAME`; the ledger records who approved.

**register** is skipped for cameras with a reference catalogue. `auto_approve` is for unattended demonstrations; the approver is
then `demo`. `pause`, `retry` and `cancel`: `pachon campaign --help`.
"""
STEPS = ("frames", "register", "coadd", "objects", "forced")

with DAG(
    "release",
    description="Mini-release, approval, full release",
    schedule=None,
    doc_md=DOC,
    tags=["drp"],
    params=params_of("release"),
    default_args=DRP.default_args(),
    max_active_runs=1,
):
    with TaskGroup("mini"):
        mini = StartCampaignOperator(
            task_id="start",
            production="release",
            name="release_mini_{{ params.release }}_{{ params.serial }}",
            parameters={"release": "{{ params.release }}_mini", "every": "{{ params.mini_every }}"},
        )
        mini_steps = [CampaignStepOperator(task_id=step, campaign=mini.output, step=step) for step in STEPS]
        mini_report = SummaryOperator(task_id="report", campaign=mini.output)
        chain(mini, *mini_steps, mini_report)

    approval = ApprovalGate(
        task_id="approval",
        conf_of="release",
        subject="Release {{ params.release }}: is the mini-release good enough for the full one?",
        body="```\n{{ ti.xcom_pull(task_ids='mini.report')['text'] }}\n```",
    )

    with TaskGroup("full"):
        full = StartCampaignOperator(task_id="start", production="release")
        first = CampaignStepOperator(task_id=STEPS[0], campaign=full.output, step=STEPS[0], approver=approval.output)
        rest = [CampaignStepOperator(task_id=step, campaign=full.output, step=step) for step in STEPS[1:]]
        report = SummaryOperator(task_id="report", campaign=full.output)
        chain(full, first, *rest, report)

    chain(mini_report, approval, full)
