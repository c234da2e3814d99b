"""Are templates missing? Where they are, the DAG `template` makes them."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, chain

from operators.params import params_of
from operators.priority import CPP
from operators.templates import TemplateNeedOperator

DOC = """
### Template generation
Between releases, when it is needed: a patch was observed in a band at least `least_visits` times and has no template (of the last
`reach_days` days: templates span a year at most), or one was made with calibrations that were withdrawn since. Then the DAG
`template` makes them, of the days between which those visits lie. While a release or templates are being made it looks away, and
days that templates were made of already start nothing twice. What is missing now: `pachon calib templates`.

New, it is paused: set the default instrument first (`instrument`), then unpause.
"""

with DAG(
    "template_generation",
    description="Templates where patches were observed without, or calibrations were withdrawn",
    schedule="0 13 * * *",
    catchup=False,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["cpp"],
    params=params_of("template_generation"),
    default_args=CPP.default_args(),
    max_active_runs=1,
    render_template_as_native_obj=True,
):
    needed = TemplateNeedOperator(task_id="needed")
    make = TriggerDagRunOperator(
        task_id="make",
        trigger_dag_id="template",
        trigger_run_id="{{ ti.xcom_pull('needed')['run_id'] }}",
        conf="{{ ti.xcom_pull('needed')['conf'] }}",
        skip_when_already_exists=True,
    )
    chain(needed, make)
