"""Alarms: raised once however often a threshold is crossed, until they are acknowledged, escalated, cleared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError
from backbone.qc import tables as t
from backbone.qc.metric import Metric, subject_of, subject_text
from backbone.qc.thresholds import Threshold


class AlarmState(StrEnum):
    """Of an alarm. RAISED waits for somebody; ESCALATED waited too long."""

    RAISED = "RAISED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    ESCALATED = "ESCALATED"
    CLEARED = "CLEARED"


OPEN = frozenset({AlarmState.RAISED, AlarmState.ACKNOWLEDGED, AlarmState.ESCALATED})
_S = AlarmState
TABLE: Mapping[tuple[AlarmState, str], AlarmState] = {
    (_S.RAISED, "repeat"): _S.RAISED,
    (_S.RAISED, "acknowledge"): _S.ACKNOWLEDGED,
    (_S.RAISED, "escalate"): _S.ESCALATED,
    (_S.RAISED, "clear"): _S.CLEARED,
    (_S.ESCALATED, "repeat"): _S.ESCALATED,
    (_S.ESCALATED, "acknowledge"): _S.ACKNOWLEDGED,
    (_S.ESCALATED, "escalate"): _S.ESCALATED,
    (_S.ESCALATED, "clear"): _S.CLEARED,
    (_S.ACKNOWLEDGED, "repeat"): _S.ACKNOWLEDGED,
    (_S.ACKNOWLEDGED, "clear"): _S.CLEARED,
}
"""Rows of (from, event) → to; what is not here raises."""


class AlarmError(PermanentError):
    """There is no such alarm, or it is not in a state for that."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One alarm as it is now. Times in seconds since 1970."""

    id: int
    threshold: str
    metric: str
    instrument: str
    subject: Mapping[str, str]
    state: AlarmState
    severity: str
    level: int
    escalate_after: float
    day_obs: int
    source: str
    value: float | None
    words: str
    count: int
    first_at: float
    last_at: float
    escalated_at: float | None
    acknowledged_by: str | None
    cleared_by: str | None

    @classmethod
    def of(cls, row: Any) -> Alarm:
        """From a row of the table."""
        values = {name: getattr(row, name) for name in cls.__dataclass_fields__}
        return cls(**{**values, "subject": subject_of(row.subject), "state": AlarmState(row.state)})

    @property
    def is_open(self) -> bool:
        """Whether somebody must still see to it."""
        return self.state in OPEN


def find(connection: Connection, number: int) -> Alarm:
    """By its number; AlarmError if there is none."""
    row = connection.execute(sa.select(t.alarm).where(t.alarm.c.id == number).with_for_update()).one_or_none()
    if row is None:
        raise AlarmError(f"no alarm {number}; `pachon qc alarms` shows those that are open")
    return Alarm.of(row)


def open_alarms(connection: Connection, instrument: str) -> dict[tuple[str, str, str], Alarm]:
    """Of an instrument, by threshold, metric and subject."""
    where = (t.alarm.c.instrument == instrument, sa.text(t.OPEN))
    rows = connection.execute(sa.select(t.alarm).where(*where)).all()
    return {(row.threshold, row.metric, row.subject): Alarm.of(row) for row in rows}


def follow(connection: Connection, alarm: Alarm, event: str, *, actor: str, said: str, at: float, **more: Any) -> None:
    """Move an alarm by the table and write down who did it; AlarmError for what the table has not."""
    after = TABLE.get((alarm.state, event))
    if after is None:
        raise AlarmError(f"alarm {alarm.id} is {alarm.state}: {event} is for those that are open")
    connection.execute(t.alarm.update().where(t.alarm.c.id == alarm.id).values(state=after.value, **more))
    connection.execute(t.alarm_event.insert().values(alarm=alarm.id, at=at, event=event, actor=actor, words=said))


def raise_alarm(connection: Connection, threshold: Threshold, metric: Metric, words: str, *, actor: str, at: float) -> int:
    """A new alarm; its number."""
    said = f"{words} ({threshold.why})"
    row = {
        "threshold": threshold.name,
        "metric": metric.name,
        "instrument": metric.instrument,
        "subject": subject_text(metric.subject),
        "state": AlarmState.RAISED.value,
        "severity": threshold.severity,
        "level": 0,
        "escalate_after": threshold.escalate_after,
        "day_obs": metric.day_obs,
        "source": metric.source,
        "value": metric.known,
        "words": said,
        "count": 1,
        "first_at": at,
        "last_at": at,
    }
    number = int(connection.execute(t.alarm.insert().values(row).returning(t.alarm.c.id)).scalar_one())
    connection.execute(t.alarm_event.insert().values(alarm=number, at=at, event="raise", actor=actor, words=said))
    return number
