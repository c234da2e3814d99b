"""A night's frames to alerts, when the observatory says that the night is in."""

from airflow.sdk import DAG, chain

from operators.campaign import CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.collect import ALERTS, CollectOperator
from operators.night import ArmedOperator, CloseNightOperator, NightReportOperator, OpenNightOperator, SuperviseOperator
from operators.params import params_of
from operators.priority import PROMPT

DOC = """
### Night
**frames** (instrument signature, PSF, sources, astrometry, photometry) → **difference** (against the newest templates) →
**associate** (sources to objects) → **package** (one alert per source) → **tell** (to the subscribers). Needs calibrations,
templates and the sky map.

A frame that fails does not stop the others: it goes to the **backlog** (`pachon campaign report NAME`), which the DAG `offline`
works off the day after. First in priority over everything else.

With `mode: prompt` the night is processed while it goes on: **open** → **arm** (a worker for each detector) → **supervise** →
**close** → **night_report**, the rest is left to `offline` (page: button *Night*). The batch tasks are then skipped, as the
others are in batch mode. The observatory announces visits to `/pachon/api/next_visit`.

**If a task is red**: its log names the step, the reason and the next step.
"""

with DAG(
    "nightly",
    description="A night's frames to alerts",
    schedule=None,
    doc_md=DOC,
    tags=["prompt", "ocs"],
    params=params_of("nightly"),
    default_args=PROMPT.default_args(),
    max_active_runs=4,
):
    night = OpenNightOperator(task_id="open")
    arm = ArmedOperator(task_id="arm", night=night.output)
    supervise = SuperviseOperator(task_id="supervise", night=night.output)
    close = CloseNightOperator(task_id="close", night=night.output)
    night_report = NightReportOperator(task_id="night_report", night=night.output)
    chain(night, arm, supervise, close, night_report)

    start = StartCampaignOperator(task_id="start", production="nightly", modes=("batch",), trigger_rule="none_failed")
    names = ("frames", "difference", "associate", "package")
    steps = [CampaignStepOperator(task_id=step, campaign=start.output, step=step) for step in names]
    # Beside the report, which is green or red as the campaign is; and of a package step that failed too, what it did accept.
    tell = CollectOperator(task_id="tell", command=ALERTS, trigger_rule="none_skipped")
    chain(night_report, start, *steps, [tell, SummaryOperator(task_id="report", campaign=start.output)])
