"""`HTCondorSubmitOperator`: runs any executable on any pool, once, and holds no worker slot while it runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred

from backbone.errors import PachonError
from operators.htcondor.description import STDERR, STDOUT, CondorJob, JobDescriptionError
from operators.htcondor.hook import HTCondorHook
from operators.htcondor.key import KeyPer, TaskKey
from operators.htcondor.links import ClassAdLink, JobLogLink, job_links, persist_links
from operators.htcondor.schedd import SubmitRefused
from operators.htcondor.settings import PoolConnectionError
from operators.htcondor.trigger import KILLED, Code, HTCondorJobTrigger, JobEvent, OnHold, judge
from operators.links import CampaignLink

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)


class HTCondorJobFailed(AirflowException):  # type: ignore[misc]
    """The job ended badly, or its end is not known; Airflow's own `retries` apply."""


class HTCondorSubmitOperator(BaseOperator):  # type: ignore[misc]
    """Submits one job and waits for it in the triggerer. Returns `job_id exit_code host wall_s cpu_s memory_mb`.

    The job carries a key that follows from DAG, run, task and map index, so that a retry, a restarted worker or a second worker
    finds the job of the first and waits for it. A job whose end this task has taken note of is done with: the next try (after a
    failure, or cleared by a person) submits a new one. With `key_per="try"` no try adopts the job of another.

    - `executable`: path on the machines of the pool, or with `transfer_executable` on Airflow's side; `arguments` and
      `environment` are passed as they are, no shell reads them.
    - `input_files`, `output_files`: see `CondorJob`. What comes back lies in the job's folder (`folder` in the log).
    - `extra`: more submit commands, as HTCondor writes them.
    - `on_hold`: `fail` (a held job is removed, the task fails with the pool's reason) or `wait` (somebody may release it) for
      `hold_limit_s`.
    - `unknown_limit_s`: how long the pool may be silent before the task gives up; the job is then left alone, a retry adopts it.
    - `skip_on_exit_code`: exit codes that mean "nothing to do". `fail_on_exit_code`: exit codes that a retry would not mend.
    - `campaign`: name of a campaign of Pachón that this job belongs to, for the link to its report.
    """

    template_fields: Sequence[str] = (
        "htcondor_conn_id", "executable", "arguments", "environment", "input_files", "output_files", "extra", "campaign",
    )  # fmt: skip
    operator_extra_links = (JobLogLink(), ClassAdLink(), CampaignLink())
    ui_color = "#e8e1f5"

    def __init__(
        self,
        *,
        executable: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        input_files: Sequence[str] = (),
        output_files: Sequence[str] | None = None,
        transfer_executable: bool = False,
        cpus: int = 1,
        memory_mb: int = 1024,
        disk_mb: int = 1024,
        extra: Mapping[str, str] | None = None,
        htcondor_conn_id: str = HTCondorHook.default_conn_name,
        key_per: KeyPer = "run",
        poll_s: float = 5.0,
        on_hold: OnHold = "fail",
        hold_limit_s: float = 3600.0,
        unknown_limit_s: float = 3600.0,
        skip_on_exit_code: Collection[int] = (),
        fail_on_exit_code: Collection[int] = (),
        tail_bytes: int = 4000,
        campaign: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.executable = executable
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.input_files = list(input_files)
        self.output_files = None if output_files is None else list(output_files)
        self.transfer_executable = transfer_executable
        self.cpus = cpus
        self.memory_mb = memory_mb
        self.disk_mb = disk_mb
        self.extra = dict(extra or {})
        self.htcondor_conn_id = htcondor_conn_id
        self.key_per = key_per
        self.poll_s = poll_s
        self.on_hold = on_hold
        self.hold_limit_s = hold_limit_s
        self.unknown_limit_s = unknown_limit_s
        self.skip_on_exit_code = sorted(skip_on_exit_code)
        self.fail_on_exit_code = sorted(fail_on_exit_code)
        self.tail_bytes = tail_bytes
        self.campaign = campaign
        self.job_links: dict[str, str] = {}
        self._submitting = ""

    @cached_property
    def hook(self) -> HTCondorHook:
        """The hook of this task's connection."""
        return HTCondorHook(self.htcondor_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit or adopt → links → look once → wait in the triggerer."""
        hook, task = self.hook, self._task_key(context)
        key = self._submitting = task.digest()
        try:
            job_id = hook.submit(task, self._job(), limit_s=self.unknown_limit_s)
            job = hook.query([key]).get(key)
        except (JobDescriptionError, SubmitRefused, PoolConnectionError) as error:
            raise AirflowFailException(str(error)) from error
        except PachonError as error:
            raise HTCondorJobFailed(f"{error}; a retry adopts the job if the pool took it") from error
        _log.info("job %s of pool %s, key %s, folder %s", job_id, hook.settings.collector, key, hook.folder(key))
        self.job_links = persist_links(context, self.htcondor_conn_id, job_id, key)
        event = judge(job, self.on_hold, self.hold_limit_s) if job is not None else None
        if event is None:
            trigger = HTCondorJobTrigger(
                self.htcondor_conn_id, key, job_id, self.poll_s, self.on_hold, self.hold_limit_s, self.unknown_limit_s
            )
            raise TaskDeferred(trigger=trigger, method_name="execute_complete")
        return self._end(event)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """The trigger fired."""
        known = JobEvent.read(event)
        self.job_links = job_links(self.htcondor_conn_id, known.job_id, known.key)
        return self._end(known)

    def on_kill(self) -> None:
        """A person ended the task while it was in a worker: the job is removed. Deferred, the trigger's on_kill does it."""
        if self._submitting:
            self.hook.remove(self._submitting, KILLED)

    def _task_key(self, context: Context) -> TaskKey:
        ti: Any = context["ti"]
        return TaskKey(
            instance=self.hook.instance,
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=ti.map_index if ti.map_index is not None else -1,
            try_number=ti.try_number if self.key_per == "try" else 0,
        )

    def _job(self) -> CondorJob:
        return CondorJob(
            executable=self.executable,
            arguments=[str(word) for word in self.arguments],
            environment={name: str(value) for name, value in self.environment.items()},
            input_files=self.input_files,
            output_files=self.output_files,
            transfer_executable=self.transfer_executable,
            cpus=self.cpus,
            memory_mb=self.memory_mb,
            disk_mb=self.disk_mb,
            extra={name: str(value) for name, value in self.extra.items()},
        )

    def _end(self, event: JobEvent) -> dict[str, Any]:
        hook = self.hook
        if event.code is Code.ENDED and event.job is not None:
            return self._completed(hook, event)
        self._show_output(hook, event.key)
        what = f"job {event.job_id} of pool {hook.settings.collector}"
        if event.code is Code.HELD:
            hook.remove(event.key, f"held, and its Airflow task gave up: {event.reason}")
            code = f" (code {event.job.hold_code}.{event.job.hold_subcode})" if event.job else ""
            raise HTCondorJobFailed(f"{what} was held by the pool{code} and is removed: {event.reason}")
        if event.code is Code.UNKNOWN:
            raise HTCondorJobFailed(
                f"{what}: not known how it is, the pool was silent for {self.unknown_limit_s:.0f} s ({event.reason});"
                " the job is left alone, a retry adopts it"
            )
        raise HTCondorJobFailed(f"{what} is {event.code.value.lower()}: {event.reason or 'no reason given'}")

    def _completed(self, hook: HTCondorHook, event: JobEvent) -> dict[str, Any]:
        job = event.job
        assert job is not None  # noqa: S101 - of an ENDED event
        try:
            hook.fetch(job)
            self._show_output(hook, event.key)
            # Last: until now a restarted worker finds this job again, from now on the next try is a new job.
            hook.acknowledge(job.job_id)
        except PachonError as error:
            raise HTCondorJobFailed(f"job {job.job_id} ended ({job.ended_how()}), but: {error}; a retry adopts it") from error
        _log.info("job %s: %s after %.0f s on %s, %.0f MB", job.job_id, job.ended_how(), job.wall_s, job.host, job.memory_mb)
        if job.exit_code == 0:
            return {name: getattr(job, name) for name in ("job_id", "exit_code", "host", "wall_s", "cpu_s", "memory_mb")}
        message = f"job {job.job_id} of pool {hook.settings.collector}: {job.ended_how()}; files in {hook.folder(event.key)}"
        if job.exit_code in self.skip_on_exit_code:
            raise AirflowSkipException(message)
        raise AirflowFailException(message) if job.exit_code in self.fail_on_exit_code else HTCondorJobFailed(message)

    def _show_output(self, hook: HTCondorHook, key: str) -> None:
        output = hook.output(key, self.tail_bytes)
        for name in (STDOUT, STDERR):
            if output[name]:
                _log.info("the end of its %s:\n%s", name, output[name])
