"""Mounts the report pages in Airflow's web server (entry point `airflow.plugins`).

Every component and every task process imports plugins, so the pages, which bring the whole API server with them, are imported
at the first request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from operators.links import PREFIX


async def pages(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """The pages as an ASGI application."""
    from operators.pages import app

    await app(scope, receive, send)


class PachonPlugin(AirflowPlugin):  # type: ignore[misc]
    """What Airflow loads."""

    name = "pachon"
    fastapi_apps = [{"app": pages, "url_prefix": PREFIX, "name": "Pachón"}]  # noqa: RUF012 - Airflow reads a class attribute
