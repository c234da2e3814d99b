"""A night in Airflow's web server: its live page, its stamps, its reports; and the door for `next_visit`.

`next_visit` comes in here and not as a DAG run: it goes on while no scheduler lives, and reaches the workers at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import APIRouter, Depends, HTTPException, Path
from fastapi.responses import HTMLResponse, Response

from backbone.errors import ConflictError, ObjectAbsent
from backbone.messages.prompt import NextVisit
from operators import engine

if TYPE_CHECKING:
    from workflow.night.nights import Nights

router = APIRouter()
commands = APIRouter()
may_command = requires_access_dag(method="POST", access_entity=DagAccessEntity.RUN, param_dag_id="nightly")
REFRESH_S = 5
LISTED = 60  # nights on their page, whose parts are counted
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


@lru_cache(maxsize=4)
def _opened(home: str) -> Nights:
    return engine.open_nights(home)


def _nights() -> Nights:
    return _opened(engine.home())


def _live(name: str) -> dict[str, Any]:
    from workflow.night.live import live
    from workflow.night.nights import UnknownNight

    try:
        return live(_nights(), name)
    except UnknownNight as error:
        raise HTTPException(404, str(error)) from error


@commands.post("/api/next_visit", status_code=201, dependencies=[Depends(may_command)])
def next_visit(said: NextVisit, response: Response, user: GetUserDep) -> dict[str, Any]:
    """The observatory's announcement; the same again is 200 and changes nothing, another of its number is 409, a ledger
    that does not answer 503 (operators/pages.py).
    """
    from workflow.night.nights import NightNotOpen

    try:
        night, new = _nights().announce(said, f"api:{user.get_name()}")
    except (ConflictError, NightNotOpen) as error:
        raise HTTPException(409, str(error)) from error
    response.status_code = 201 if new else 200
    return {"night": night, "visit": said.visit, "new": new}


@commands.post("/api/nights/{name}/drain", dependencies=[Depends(may_command)])
def drain(name: Name, user: GetUserDep) -> dict[str, Any]:
    """The night is over: nothing new is begun."""
    from workflow.night.nights import UnknownNight

    try:
        return _nights().drain(name, f"api:{user.get_name()}").as_json()
    except UnknownNight as error:
        raise HTTPException(404, str(error)) from error


@router.get("/nights", response_class=HTMLResponse)
def every() -> str:
    """The newest nights."""
    from workflow.night.page import list_page

    return list_page(_nights().every(newest=LISTED))


@router.get("/nights/{name}", response_class=HTMLResponse)
def page(name: Name) -> str:
    """The night as it goes on; the browser asks again by itself."""
    from workflow.night.page import live_page

    return live_page(_live(name), refresh_s=REFRESH_S)


@router.get("/api/nights/{name}")
def document(name: Name) -> dict[str, Any]:
    """The night as a program reads it."""
    return _live(name)


@router.get("/nights/{name}/stamps/{visit}/{detector}.png")
def stamp(name: Name, visit: int, detector: int) -> Response:
    """Pictures of the alerts of a visit on one detector."""
    return _object(f"prompt/{name}/stamps/{visit}/{detector:03}.png", "image/png")


@router.get("/nights/{name}/{report}.{kind}")
def report(
    name: Name,
    report: Annotated[str, Path(pattern="^(quality|performance)$")],
    kind: Annotated[str, Path(pattern="^(html|json)$")],
) -> Response:
    """One of the night's reports, as it was written after its end."""
    return _object(f"prompt/{name}/reports/{report}.{kind}", "text/html" if kind == "html" else "application/json")


def _object(key: str, media_type: str) -> Response:
    try:
        return Response(_nights().store.get(key), media_type=media_type)
    except ObjectAbsent as error:
        raise HTTPException(404, f"there is no {key}") from error
