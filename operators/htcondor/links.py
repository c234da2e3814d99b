"""The buttons `Job log` and `ClassAd` of a task, and where they lead (pages.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from operators.links import PREFIX

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey


def job_url(page: str, conn_id: str, job: str) -> str:
    """Address of one of a job's pages, below the API server's own."""
    return f"{PREFIX}/htcondor/{quote(conn_id, safe='')}/{quote(job, safe='')}/{page}"


class _Stored(BaseOperatorLink):  # type: ignore[misc]
    """A link that the task itself stored when it had submitted: only then there is a job to lead to."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Asked in the task's own process when it ends, and stored then, over what was stored before: so the same again."""
        links: dict[str, str] = getattr(operator, "job_links", {})
        return links.get(self.name, "")


class JobLogLink(_Stored):
    """Leads to the job's events and the ends of its output and errors."""

    name = "Job log"


class ClassAdLink(_Stored):
    """Leads to the job's ClassAd."""

    name = "ClassAd"


def job_links(conn_id: str, job_id: str, key: str) -> dict[str, str]:
    """Where the buttons of a task lead that has this job."""
    return {JobLogLink.name: job_url("log", conn_id, key), ClassAdLink.name: job_url("classad", conn_id, job_id)}


def persist_links(context: Context, conn_id: str, job_id: str, key: str) -> dict[str, str]:
    """Store the links now, before waiting: Airflow itself would store them only when the task has ended. Returns them."""
    links = job_links(conn_id, job_id, key)
    ti: Any = context["ti"]
    for link in (JobLogLink(), ClassAdLink()):
        ti.xcom_push(key=link.xcom_key, value=links[link.name])
    ti.xcom_push(key="htcondor_job", value={"job_id": job_id, "key": key, "conn_id": conn_id})
    return links
