"""Every hour a share of scrubbing: objects are read again and their checksums compared."""

from airflow.sdk import DAG, chain

from operators.backbone import RepairOperator, ScrubOperator
from operators.params import params_of
from operators.priority import BACKBONE

DOC = """
### Scrubbing
Each run goes on where the last one stopped, at `mb_per_s` at most, for `minutes` in all. What is bad is kept aside and made again
from a good copy; what is missing is made again. New data never waits for it.

**If `repair` is red**: of the files that its log names no whole copy is left. If you find the object elsewhere, put it where it
belongs and run this DAG again.
"""

with DAG(
    "backbone_scrub",
    description="Reads objects again and compares their checksums",
    schedule="@hourly",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["backbone"],
    params=params_of("backbone_scrub"),
    default_args=BACKBONE.default_args(),
    max_active_runs=1,
):
    chain(ScrubOperator(task_id="scrub"), RepairOperator(task_id="repair"))
