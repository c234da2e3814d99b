"""The calibration reports in Airflow's web server, as they were written (operators/mornings.py)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from fastapi.responses import FileResponse

from operators import engine
from operators.mornings import folder_of

router = APIRouter()
_TYPES = {"html": "text/html", "json": "application/json", "png": "image/png"}


@router.get("/calibrations/{instrument}/{day_obs}/{name}")
def report(
    instrument: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")],
    day_obs: Annotated[int, Path(ge=19500101)],
    name: Annotated[str, Path(pattern=r"^[a-z_]+\.(html|json|png)$")],
) -> FileResponse:
    """A file of a day's report: `index.html`, `report.json`, figures."""
    path = folder_of(engine.home(), instrument, day_obs) / name
    if not path.is_file():
        raise HTTPException(
            404, f"no calibration report of {instrument} on {day_obs} has {name}: DAG calibration_report writes it"
        )
    return FileResponse(path, media_type=_TYPES[path.suffix[1:]])
