"""DAG runs one after another through Airflow's REST door, told to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console

from backbone.errors import PermanentError
from deploy.demo.case import DagRun
from deploy.rest import AirflowClient, AirflowUnavailable, NotThere, Run, Task
from operators.conf import read

PARSED_S = 120.0
RUN_S = 1800.0
MARKS = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "upstream_failed": "[red]-[/]",
    "skipped": "[dim]-[/]",
    None: "[dim]·[/]",
}


@dataclass
class Drive:
    """Runs what a case needs and keeps the time of each stage."""

    client: AirflowClient
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    def run_all(self, runs: Iterable[DagRun]) -> None:
        """Each run in order; raises at the first that fails, naming the task and its log."""
        for run in runs:
            started = time.monotonic()
            self._run(run)
            self.seconds[run.stage] = round(self.seconds.get(run.stage, 0.0) + time.monotonic() - started, 1)

    def _run(self, wanted: DagRun) -> None:
        run_id = read(wanted.dag, wanted.conf).run_id(wanted.dag)
        self._known(wanted.dag)
        self.client.unpause(wanted.dag)
        self.client.trigger(wanted.dag, run_id, wanted.conf)
        self.console.print(f"[bold]{wanted.dag}[/] {run_id}")
        told = _Told(self.console)
        ended = self.client.wait(wanted.dag, run_id, timeout_s=RUN_S, progress=told)
        if ended.state != "success":
            raise PermanentError(self._why(ended))

    def _known(self, dag: str) -> None:
        """Wait until the DAG processor has read the file for the first time."""
        limit = time.monotonic() + PARSED_S
        while True:
            try:
                if dag in self.client.dags():
                    return
            except (NotThere, AirflowUnavailable):
                pass
            if time.monotonic() > limit:
                errors = "\n".join(self.client.import_errors())
                raise PermanentError(f"Airflow knows no DAG {dag} after {PARSED_S:.0f} s{': ' + errors if errors else ''}")
            time.sleep(0.5)

    def _why(self, run: Run) -> str:
        failed = [task for task in self.client.tasks(run.dag, run.id) if task.state == "failed"]
        lines = [f"run {run.id} of {run.dag} ended {run.state}"]
        for task in failed:
            log = self.client.log(run.dag, run.id, task.id, max(task.try_number, 1))
            lines.append(f"task {task.id}:\n{log[-2000:]}")
        return "\n".join(lines)


class _Told:
    """Prints each task once, when it has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: set[str] = set()

    def __call__(self, run: Run, tasks: list[Task]) -> None:
        for task in sorted(tasks, key=lambda t: t.ended_at or ""):
            if task.ended_at and task.id not in self._seen and task.state in MARKS:
                self._seen.add(task.id)
                self._console.print(f"  {MARKS[task.state]} {task.id:20s} {_duration_s(task):6.1f} s")


def _duration_s(task: Task) -> float:

    if not task.started_at or not task.ended_at:
        return 0.0
    return (datetime.fromisoformat(task.ended_at) - datetime.fromisoformat(task.started_at)).total_seconds()
