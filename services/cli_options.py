"""Options that commands of several services share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def night_options(function: F) -> F:
    """`--instrument` and `--day-obs`, a day of the calendar."""
    day = click.option(
        "--day-obs", required=True, type=click.DateTime(["%Y%m%d"]), callback=_number, help="Observing day, YYYYMMDD."
    )
    return click.option("--instrument", required=True)(day(function))


def _number(_context: click.Context, _parameter: click.Parameter, day: datetime) -> int:
    return int(f"{day:%Y%m%d}")
