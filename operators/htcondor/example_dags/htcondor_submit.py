"""Example: a fan-out of jobs on an HTCondor pool, then one that reads what they brought back."""

import sys
from datetime import timedelta

from airflow.sdk import DAG, Param

from operators.htcondor.operator import HTCondorSubmitOperator

DOC = """
### Jobs on an HTCondor pool
**square** runs once for each number, each as a job of its own, **last** after them. Needs a connection `htcondor_default`
(docs/provider.md). Clear a task, kill a worker, hold a job at the pool: each job runs once, and its task says what happened.
"""
PROGRAM = "import socket, sys; print(int(sys.argv[1]) ** 2, 'on', socket.gethostname())"

with DAG(
    "htcondor_submit",
    description="Jobs on an HTCondor pool",
    schedule=None,
    is_paused_upon_creation=True,
    doc_md=DOC,
    tags=["example", "htcondor"],
    params={"python": Param(sys.executable, type="string", description="an interpreter that the pool's machines have")},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10), "memory_mb": 64, "disk_mb": 16},
):
    square = HTCondorSubmitOperator.partial(task_id="square", executable="{{ params.python }}", poll_s=1).expand(
        arguments=[["-c", PROGRAM, str(number)] for number in range(2)]
    )
    last = HTCondorSubmitOperator(
        task_id="last",
        executable="{{ params.python }}",
        arguments=["-c", "import os; open('answer.txt', 'w').write(os.environ['WORD'])"],
        environment={"WORD": "{{ run_id }}"},
        output_files=["answer.txt"],
        poll_s=1,
    )
    square >> last
