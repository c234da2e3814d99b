"""Options that commands of several folders share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click


class _Day(click.ParamType):
    """An observing day, YYYYMMDD."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """A day of the calendar as a number."""
        try:
            return int(datetime.strptime(str(value), "%Y%m%d").strftime("%Y%m%d"))  # noqa: DTZ007 - a date alone
        except ValueError:
            self.fail(f"{value!r} is no day of the calendar, YYYYMMDD", param, ctx)


DAY = _Day()
