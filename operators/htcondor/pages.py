"""The pages behind a task's buttons: a job's log and its ClassAd, for whoever may read DAG runs (see operators/pages.py)."""

from __future__ import annotations

from html import escape
from typing import Annotated

from airflow.sdk.exceptions import AirflowException
from fastapi import APIRouter, HTTPException, Path
from fastapi.responses import HTMLResponse

from backbone.errors import PachonError
from operators.htcondor.hook import HTCondorHook

router = APIRouter(prefix="/htcondor")
_Conn = Annotated[str, Path(pattern=r"^[\w.-]{1,200}$")]
_Key = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_JobId = Annotated[str, Path(pattern=r"^\d{1,12}\.\d{1,12}$")]
HIDDEN = frozenset({"Env", "Environment", "ClaimId", "ClaimIdList", "ClaimIds", "PublicClaimId", "TransferKey", "Capability"})
"""Attributes that may hold secrets: environments are where programs are given passwords."""
_STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em}pre{background:#f4f4f4;padding:1em;overflow:auto}"
    "td,th{text-align:left;padding:.1em 1em}"
)


def _hook(conn_id: str) -> HTCondorHook:
    hook = HTCondorHook(conn_id)
    try:
        connection = hook.get_connection(conn_id)
    except (AirflowException, KeyError) as error:
        raise HTTPException(404, f"there is no connection {conn_id}") from error
    if connection.conn_type != HTCondorHook.conn_type:
        raise HTTPException(404, f"connection {conn_id} is no HTCondor pool")
    return hook


def _page(title: str, body: str) -> str:
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{body}"


@router.get("/{conn_id}/{key}/log", response_class=HTMLResponse)
def log(conn_id: _Conn, key: _Key) -> str:
    """The job's state as the pool says it, its events, and the ends of its output and errors."""
    hook = _hook(conn_id)
    try:
        job = hook.query([key]).get(key) or hook.past(key)
        state = f"{job.state.value} {job.reason}" if job else "neither in the queue nor in the history"
    except PachonError as error:
        job, state = None, f"not known: {error}"
    sections = {"events": "\n\n".join(hook.events(key)), **hook.output(key, 100_000)}
    body = "".join(f"<h2>{name}</h2><pre>{escape(text) or '(nothing here yet)'}</pre>" for name, text in sections.items())
    return _page(f"Job {job.job_id if job else key}", f"<p>{escape(state)}</p>{body}")


@router.get("/{conn_id}/{job_id}/classad", response_class=HTMLResponse)
def classad(conn_id: _Conn, job_id: _JobId) -> str:
    """Every attribute of the job, as its schedd says it now, without those that may hold secrets."""
    try:
        ad = _hook(conn_id).classad(job_id)
    except PachonError as error:
        raise HTTPException(503, str(error)) from error
    if ad is None:
        raise HTTPException(404, f"the schedd knows no job {job_id}")
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{'(hidden)' if name in HIDDEN else escape(str(ad[name]))}</td></tr>"
        for name in sorted(ad)
    )
    return _page(f"ClassAd of job {job_id}", f"<table>{rows}</table>")
