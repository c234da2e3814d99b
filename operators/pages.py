"""The page of a campaign in Airflow's web server: its report, for whoever may read DAG runs."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse

from backbone.errors import TransientError
from operators import backbone_pages, calibration_pages, engine, night_pages
from operators.htcondor.pages import router
from workflow.campaigns import CampaignReport, Campaigns
from workflow.errors import UnknownCampaign

app = FastAPI(title="Pachón", docs_url=None, redoc_url=None, openapi_url=None)
may_read = requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN)
app.include_router(router, dependencies=[Depends(may_read)])
app.include_router(backbone_pages.router, dependencies=[Depends(may_read)])
app.include_router(calibration_pages.router, dependencies=[Depends(may_read)])
app.include_router(night_pages.router, dependencies=[Depends(may_read)])
app.include_router(night_pages.commands)  # each with what it takes to command
_Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


@lru_cache(maxsize=4)
def _opened(home: str) -> Campaigns:
    return engine.open_campaigns(home)


@app.exception_handler(TransientError)
def _not_now(_request: Request, error: Exception) -> JSONResponse:
    """A database that does not answer is no error of the page: whoever asks may ask again."""
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "2"})


def _report(name: str) -> CampaignReport:
    try:
        return _opened(engine.home()).report(name)
    except UnknownCampaign as error:
        raise HTTPException(404, str(error)) from error


@app.get("/campaigns/{name}", response_class=HTMLResponse, dependencies=[Depends(may_read)])
def page(name: _Name) -> str:
    """The report as a person reads it."""
    from workflow.page import page as campaign_page

    return campaign_page(_report(name), time.time())


@app.get("/api/campaigns/{name}", dependencies=[Depends(may_read)])
def document(name: _Name) -> dict[str, Any]:
    """The report as a program reads it."""
    return _report(name).as_json()


@app.get("/api/commands/{command}", dependencies=[Depends(may_read)])
def command(command: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")]) -> dict[str, Any]:
    """The summary state of what the observatory asked for: by its own id, or the run's."""
    from operators import door

    try:
        return door.summary(engine.home(), command)
    except LookupError as error:
        raise HTTPException(404, str(error)) from error
