"""The public face of quality control: metrics go in, alarms come out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.home import ledger_url
from backbone.qc import alarms as life
from backbone.qc import tables as t
from backbone.qc.alarms import Alarm, AlarmState
from backbone.qc.metric import Metric, subject_of, subject_text
from backbone.qc.tables import QualityTables
from backbone.qc.thresholds import Threshold, read_thresholds, store, stored

_LOG = logging.getLogger(__name__)
WRITER_LOCK = 7_224_664
"""Of pg_advisory_xact_lock: metrics are judged by one writer at a time, so that one crossing raises one alarm."""


class Quality:
    """Metrics, thresholds and alarms of one installation. Cheap to make; any number of processes may use them at once."""

    def __init__(self, tables: QualityTables, clock: Callable[[], float] = time.time) -> None:
        self._tables = tables
        self._clock = clock
        self._first_thresholds()

    @classmethod
    def open(cls, home: str | Path) -> Quality:
        """Of a home directory: the tables are in its ledger's database."""
        return cls(QualityTables.open(ledger_url(Path(home))))

    def close(self) -> None:
        """Let go of the database."""
        self._tables.close()

    def record(self, metrics: Iterable[Metric], *, actor: str) -> list[Alarm]:
        """Write metrics down and judge those that are new or changed; alarms that this raised or that were crossed again.

        Twice the same is harmless. A later value within the band clears the alarm that an earlier one raised. All or nothing.
        """
        given = {metric.key: metric for metric in metrics}
        if not given:
            return []
        with self._tables.begin() as connection:
            if self._tables.is_postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
            fresh = self._write(connection, given)
            touched = self._judge(connection, fresh, actor)
            return [life.find(connection, number) for number in touched]

    def _write(self, connection: Connection, given: dict[Any, Metric]) -> list[Metric]:
        """Those that are new, or have another value than before."""
        m = t.metric
        known: dict[Any, float | None] = {}
        for instrument, day, source in {(k[1], k[2], k[4]) for k in given}:
            there = (m.c.instrument == instrument, m.c.day_obs == day, m.c.source == source)
            for row in connection.execute(sa.select(m).where(*there)):
                known[row.name, row.instrument, row.day_obs, row.subject, row.source] = row.value
        now = self._clock()
        new = [k for k in given if k not in known]
        changed = [k for k in given if k in known and known[k] != given[k].known]
        rows = [_row(key, given[key], now) for key in new]
        self._tables.insert_many(connection, m, rows)
        for key in changed:
            where = [column == part for column, part in zip(m.primary_key.columns, key, strict=True)]
            connection.execute(m.update().where(*where).values(value=given[key].known, unit=given[key].unit, at=now))
        return [given[key] for key in (*new, *changed)]

    def _judge(self, connection: Connection, metrics: Sequence[Metric], actor: str) -> list[int]:
        thresholds = stored(connection)
        touched, now = [], self._clock()
        for instrument in sorted({metric.instrument for metric in metrics}):
            known = life.open_alarms(connection, instrument)
            mine = sorted((m for m in metrics if m.instrument == instrument), key=lambda m: m.day_obs)
            for metric in mine:
                for threshold in (one for one in thresholds if one.concerns(metric)):
                    key = (threshold.name, metric.name, subject_text(metric.subject))
                    number = self._one(connection, known.get(key), threshold, metric, actor, now)
                    if number is not None:
                        touched.append(number)
                        known[key] = life.find(connection, number)
                    elif key in known and known[key].day_obs <= metric.day_obs:
                        del known[key]
        return list(dict.fromkeys(touched))

    @staticmethod
    def _one(
        connection: Connection, alarm: Alarm | None, threshold: Threshold, metric: Metric, actor: str, now: float
    ) -> int | None:
        """The alarm's number where the metric crosses; None where it keeps to the band."""
        words = threshold.crossing(metric)
        if words and alarm is None:
            number = life.raise_alarm(connection, threshold, metric, words, actor=actor, at=now)
            _LOG.warning("alarm %d: %s %s: %s", number, metric.instrument, subject_text(metric.subject), words)
            return number
        if alarm is None:
            return None
        if words:
            more = {"count": alarm.count + 1, "last_at": now, "value": metric.known, "source": metric.source}
            more |= {"day_obs": max(alarm.day_obs, metric.day_obs), "words": f"{words} ({threshold.why})"}
            life.follow(connection, alarm, "repeat", actor=actor, said=words, at=now, **more)
            return alarm.id
        if metric.day_obs >= alarm.day_obs:  # an older day that is worked off late says nothing about today
            said = f"{metric.name} is {metric.known:g} again ({metric.source})"
            life.follow(connection, alarm, "clear", actor=actor, said=said, at=now, cleared_by=actor)
        return None

    def metrics(
        self,
        *,
        name: str | None = None,
        instrument: str | None = None,
        first_day: int | None = None,
        last_day: int | None = None,
        source: str | None = None,
        limit: int | None = None,
    ) -> list[Metric]:
        """In order of day, name and subject; `name` may be a glob. `limit`: the newest days' only."""
        m = t.metric
        query = sa.select(m).order_by(m.c.day_obs.desc(), m.c.name, m.c.subject, m.c.at).limit(limit)
        given = ((m.c.instrument, instrument), (m.c.source, source))
        query = query.where(*(column == value for column, value in given if value is not None))
        if name is not None:
            query = query.where(m.c.name.like(_like(name), escape="\\"))
        if first_day is not None:
            query = query.where(m.c.day_obs >= first_day)
        if last_day is not None:
            query = query.where(m.c.day_obs <= last_day)
        found = [_metric(row) for row in self._tables.all(query)]
        return sorted(found, key=lambda one: one.day_obs)

    def alarms(self, *, instrument: str | None = None, open_only: bool = True) -> list[Alarm]:
        """The worst and oldest first."""
        a = t.alarm
        query = sa.select(a).order_by(a.c.severity, a.c.level.desc(), a.c.first_at, a.c.id)
        if open_only:
            query = query.where(sa.text(t.OPEN))
        if instrument is not None:
            query = query.where(a.c.instrument == instrument)
        return [Alarm.of(row) for row in self._tables.all(query)]

    def history(self, alarm: int) -> list[dict[str, Any]]:
        """What was done with an alarm: `at event actor words`, oldest first."""
        e = t.alarm_event
        query = sa.select(e.c.at, e.c.event, e.c.actor, e.c.words).where(e.c.alarm == alarm).order_by(e.c.id)
        return [dict(row._mapping) for row in self._tables.all(query)]

    def acknowledge(self, alarm: int, *, actor: str, why: str = "") -> Alarm:
        """Somebody sees to it: it will not escalate. By the same person twice is harmless."""
        with self._tables.begin() as connection:
            found = life.find(connection, alarm)
            if found.state is not AlarmState.ACKNOWLEDGED or found.acknowledged_by != actor:
                life.follow(connection, found, "acknowledge", actor=actor, said=why, at=self._clock(), acknowledged_by=actor)
            return life.find(connection, alarm)

    def clear(self, alarm: int, *, actor: str, why: str) -> Alarm:
        """It is over, says a person; the next crossing raises another."""
        with self._tables.begin() as connection:
            found = life.find(connection, alarm)
            if found.state is not AlarmState.CLEARED:
                life.follow(connection, found, "clear", actor=actor, said=why, at=self._clock(), cleared_by=actor)
            return life.find(connection, alarm)

    def escalate(self, *, actor: str = "qc") -> list[Alarm]:
        """Raise the level of alarms that nobody acknowledged in time; those. Called by whatever comes by: idempotent."""
        now, a = self._clock(), t.alarm
        waits = a.c.state.in_([AlarmState.RAISED.value, AlarmState.ESCALATED.value])
        due = sa.func.coalesce(a.c.escalated_at, a.c.first_at) + a.c.escalate_after <= now
        with self._tables.begin() as connection:
            found = [Alarm.of(row) for row in connection.execute(sa.select(a).where(waits, due).with_for_update())]
            for alarm in found:
                level = alarm.level + 1
                words = f"not acknowledged for {(now - alarm.first_at) / 3600:.1f} h: level {level}"
                life.follow(connection, alarm, "escalate", actor=actor, said=words, at=now, level=level, escalated_at=now)
                _LOG.error("alarm %d of %s %s: %s; %s", alarm.id, alarm.instrument, alarm.subject, alarm.words, words)
            return [life.find(connection, alarm.id) for alarm in found]

    def thresholds(self) -> tuple[Threshold, ...]:
        """Those in force."""
        with self._tables.read() as connection:
            return stored(connection)

    def apply_thresholds(self, path: Path | None, *, actor: str) -> tuple[Threshold, ...]:
        """Put those of a file (None: those that come with the program) in the place of all in force; new metrics meet them."""
        wanted = read_thresholds(path)
        with self._tables.begin() as connection:
            store(connection, wanted, actor=actor, at=self._clock())
        return wanted

    def _first_thresholds(self) -> None:
        """In a new database those that come with the program are in force; later changes are applied by command."""
        with self._tables.read() as connection:
            if connection.execute(sa.select(t.threshold.c.name).limit(1)).first():
                return
        with self._tables.begin() as connection:
            rows = [{**one.model_dump(), "actor": "pachon", "at": self._clock()} for one in read_thresholds()]
            self._tables.insert_new(connection, t.threshold, rows)


def _row(key: tuple[str, str, int, str, str], metric: Metric, at: float) -> dict[str, Any]:
    name, instrument, day, subject, source = key
    here = {"name": name, "instrument": instrument, "day_obs": day, "subject": subject, "source": source}
    return {**here, "value": metric.known, "unit": metric.unit, "at": at}


def _metric(row: Any) -> Metric:
    shared = {name: getattr(row, name) for name in ("name", "value", "unit", "instrument", "day_obs", "source")}
    return Metric(**shared, subject=subject_of(row.subject))


def _like(glob: str) -> str:
    plain = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return plain.replace("*", "%").replace("?", "_")
