"""The backbone's page in Airflow's web server: places, links, what is stuck; for whoever may read DAG runs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse

from backbone.home import NoBackbone
from operators import engine

if TYPE_CHECKING:
    from backbone.backbone import Backbone
    from backbone.usage import Overview, Totals

router = APIRouter()
REFRESH_S = 15
COUNT_S = 60.0  # counting all replicas takes a while where there are millions


@lru_cache(maxsize=4)
def _opened(home: str) -> tuple[Backbone, Totals]:
    from backbone.usage import Totals

    backbone = engine.open_backbone(home)
    return backbone, Totals(backbone.catalog, keep_s=COUNT_S)


def _overview() -> Overview:
    from backbone.usage import overview

    try:
        return overview(*_opened(engine.home()))
    except NoBackbone as error:
        raise HTTPException(404, str(error)) from error


@router.get("/backbone", response_class=HTMLResponse)
def page() -> str:
    """The backbone as a person sees it; the browser asks again by itself."""
    from backbone.page import page as page_of

    return page_of(_overview(), refresh_s=REFRESH_S)


@router.get("/api/backbone")
def document() -> dict[str, Any]:
    """The backbone as a program sees it."""
    return _overview().as_json()
