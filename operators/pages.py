"""The page of a campaign in Airflow's web server: its report, for whoever may read DAG runs."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Path
from fastapi.responses import HTMLResponse

from operators import engine
from operators.text import report_text
from workflow.campaigns import CampaignReport
from workflow.errors import UnknownCampaign

app = FastAPI(title="Pachón", docs_url=None, redoc_url=None, openapi_url=None)
may_read = requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN)
_Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def _report(name: str) -> CampaignReport:
    try:
        return engine.campaigns().report(name)
    except UnknownCampaign as error:
        raise HTTPException(404, str(error)) from error


@app.get("/campaigns/{name}", response_class=HTMLResponse, dependencies=[Depends(may_read)])
def page(name: _Name) -> str:
    """The report as a person reads it."""
    report = _report(name)
    steps = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{s.state.value}</td><td>{s.expected}</td><td>{s.published}</td><td>{s.failed}</td>"
        f"<td>{escape(s.reason)}</td></tr>"
        for s in report.campaign.steps
    )
    head = "<tr><th>step</th><th>state</th><th>expected</th><th>published</th><th>failed</th><th>reason</th></tr>"
    title = f"{escape(report.campaign.name)}: {report.campaign.state.value}"
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:left}pre{background:#f4f4f4;padding:1em}"
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style><h1>{title}</h1>"
        f"<table>{head}{steps}</table><pre>{escape(report_text(report))}</pre>"
    )


@app.get("/api/campaigns/{name}", dependencies=[Depends(may_read)])
def document(name: _Name) -> dict[str, Any]:
    """The report as a program reads it."""
    return _report(name).as_json()
