"""Observing days as numbers, YYYYMMDD."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal


def last_whole(unit: Literal["month", "year"], now: datetime) -> tuple[int, int]:
    """First and last day (YYYYMMDD) of the last month or year that had ended by `now`."""
    start = now.date().replace(day=1) if unit == "month" else now.date().replace(month=1, day=1)
    last = start - timedelta(days=1)
    first = last.replace(day=1) if unit == "month" else last.replace(month=1, day=1)
    return number_of(first), number_of(last)


def number_of(day: date) -> int:
    """YYYYMMDD."""
    return int(day.strftime("%Y%m%d"))


def checked_day(value: int) -> int:
    """The same, if it is a day since 1950 as YYYYMMDD; else ValueError."""
    try:
        day = datetime.strptime(str(value), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{value} is no day: write YYYYMMDD") from error
    if day.year < 1950:
        raise ValueError(f"{value} is no day: write YYYYMMDD")
    return value
