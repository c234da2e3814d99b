"""Options that commands of several services share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from payloads.cli_options import DAY

F = TypeVar("F", bound=Callable[..., Any])


def night_options(function: F) -> F:
    """`--instrument` and `--day-obs`, a day of the calendar."""
    day = click.option("--day-obs", required=True, type=DAY, metavar="YYYYMMDD", help="Observing day.")
    return click.option("--instrument", required=True)(day(function))
