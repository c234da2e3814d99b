"""The public face of nights: what operators, the command line and pages may use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from backbone.errors import ConflictError, PermanentError
from backbone.messages.prompt import KnownField, NextVisit
from workflow.clock import Clock, SystemClock
from workflow.ledger import Ledger
from workflow.ledger.nights import event, night, part, worker
from workflow.ledger.store import record
from workflow.night import books
from workflow.night.states import NIGHT_TABLE, NightState, PartState, WorkerState
from workflow.settings import Settings
from workflow.states import follow

if TYPE_CHECKING:
    from backbone.endpoint import Endpoint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


class UnknownNight(PermanentError, LookupError):
    """The prompt ledger has no such night."""


class NightNotOpen(PermanentError):
    """No night of that instrument takes visits now."""


@dataclass(frozen=True, kw_only=True)
class NightStatus:
    """One night, counted."""

    name: str
    instrument: str
    day_obs: int
    state: NightState
    reason: str
    detectors: tuple[int, ...]
    armed: int
    """Detectors that have an armed worker now."""
    visits: int
    parts: Mapping[str, int]
    opened: float
    closed: float | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state is NightState.CLOSED

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "state": self.state.value, "parts": dict(self.parts)}


class Nights:
    """Nights of one installation. Cheap to make; any number of processes may use them at once."""

    def __init__(self, settings: Settings, *, ledger: Ledger | None = None, clock: Clock | None = None) -> None:
        self.settings = settings
        self.ledger = ledger or Ledger.open(settings.ledger_url)
        self.clock: Clock = clock or SystemClock()

    @classmethod
    def open(cls, home: str | Path) -> Nights:
        """The nights of a home directory."""
        return cls(Settings.load(home))

    def begin(
        self,
        name: str,
        *,
        instrument: str,
        day_obs: int,
        skymap: str,
        detectors: Sequence[int],
        actor: str,
        fields: Sequence[KnownField] = (),
        science: str = "prompt",
    ) -> NightStatus:
        """Write a night into the ledger: its supervisor then arms the workers. Idempotent by name; ConflictError if it was
        begun otherwise, or another of the instrument is not closed; PermanentError for a name or detectors that cannot be.
        """
        _check(name, detectors)
        now = self.clock.now()
        asked = {
            "instrument": instrument,
            "day_obs": day_obs,
            "skymap": skymap,
            "detectors": sorted(detectors),
            "fields": [one.model_dump(mode="json") for one in fields],
            "science": science,
        }
        row = {**asked, "name": name, "state": NightState.OPENING.value, "actor": actor, "opened": now}
        try:
            with self.ledger.begin() as connection:
                known = books.find(connection, name)
                if known is None:
                    connection.execute(night.insert().values(row))
                    books.tell(connection, name, now, "opening", f"night begun by {actor}")
                    record(connection, at=now, actor=actor, campaign=name, what="night", why=f"{len(detectors)} detectors")
        except IntegrityError as error:
            with self.ledger.read() as connection:
                other = books.open_of(connection, instrument)
            raise ConflictError(
                f"night {name} cannot begin: {other.name if other else 'another'} of {instrument} is not closed; "
                "end it with `pachon night drain NAME`"
            ) from error
        if known is not None and any(getattr(known, key) != value for key, value in asked.items()):
            raise ConflictError(f"night {name} was begun otherwise: a new night needs a new name (serial)")
        return self.status(name)

    def announce(self, said: NextVisit, actor: str) -> tuple[str, bool]:
        """`next_visit` of the observatory: which night took it, and whether it is new. The same again changes nothing; another
        visit under its number is ConflictError; NightNotOpen where nobody would process it.
        """
        with self.ledger.begin() as connection:
            held = books.open_of(connection, said.instrument)
            if held is None or held.state == NightState.DRAINING:
                state = "none is open" if held is None else f"{held.name} is draining"
                raise NightNotOpen(
                    f"no night of {said.instrument} takes visit {said.visit}: {state}; open one with the DAG nightly"
                )
            return str(held.name), books.announce(self.ledger, connection, held, said, self.clock.now(), actor)

    def detectors(self, instrument: str) -> list[int]:
        """All detectors of a registered camera."""
        from workflow.context import Context

        rows = Context(self.settings, ledger=self.ledger).butler.query_dimension_records(
            "detector", instrument=instrument, explain=False
        )
        return sorted(int(row.id) for row in rows)

    def drain(self, name: str, actor: str, reason: str = "") -> NightStatus:
        """Begin nothing new; the supervisor closes the night when what is in flight has ended."""
        now = self.clock.now()
        with self.ledger.begin() as connection:
            held = books.find(connection, name)
            if held is None:
                raise UnknownNight(f"the prompt ledger has no night {name!r}")
            if held.state not in (NightState.DRAINING, NightState.CLOSED):
                state = follow(NIGHT_TABLE, NightState(held.state), "drain")
                values = {"state": state.value, "drained": now, "reason": reason}
                connection.execute(night.update().where(night.c.name == name).values(values))
                books.tell(connection, name, now, "draining", f"{actor}: nothing new is begun {reason}".strip())
        return self.status(name)

    def status(self, name: str) -> NightStatus:
        """One night; UnknownNight if there is none."""
        (found,) = self.statuses([name])
        if found is None:
            raise UnknownNight(f"the prompt ledger has no night {name!r}; `pachon night list` names them")
        return found

    def statuses(self, names: Sequence[str]) -> list[NightStatus | None]:
        """Of many, in few queries; None where there is no such night."""
        with self.ledger.read() as connection:
            among = self.ledger.among
            rows = connection.execute(sa.select(night).where(among(night.c.name, names))).all()
            counts = sa.select(part.c.night, part.c.state, sa.func.count().label("n")).group_by(part.c.night, part.c.state)
            counted = connection.execute(counts.where(among(part.c.night, names))).all()
            visits = sa.select(part.c.night, sa.func.count(sa.distinct(part.c.visit)).label("n")).group_by(part.c.night)
            seen = {r.night: int(r.n) for r in connection.execute(visits.where(among(part.c.night, names)))}
            living = sa.select(worker.c.night, sa.func.count().label("n")).group_by(worker.c.night)
            mine = (among(worker.c.night, names), worker.c.ended.is_(None), worker.c.state == WorkerState.ARMED.value)
            armed = {r.night: int(r.n) for r in connection.execute(living.where(*mine))}
        by_name = {row.name: _status(row, counted, seen.get(row.name, 0), armed.get(row.name, 0)) for row in rows}
        return [by_name.get(name) for name in names]

    def open_names(self) -> list[str]:
        """Names of the nights that are not closed, the oldest first: what a supervisor asks several times a second."""
        return [
            row.name for row in self.ledger.all(sa.select(night.c.name).where(night.c.closed.is_(None)).order_by(night.c.opened))
        ]

    def every(self, *, newest: int | None = None) -> list[NightStatus]:
        """All nights, or the `newest` so many, the oldest first. Counts all their parts: some 10^5 for each night of a survey."""
        query = sa.select(night.c.name).order_by(night.c.opened.desc(), night.c.name.desc()).limit(newest)
        names = [row.name for row in self.ledger.all(query)][::-1]
        return [found for found in self.statuses(names) if found is not None]

    def rows(self, name: str) -> tuple[books.Row, Sequence[books.Row], Sequence[books.Row], Sequence[books.Row]]:
        """(night, parts, workers, events) as the ledger has them, for reports and pages."""
        with self.ledger.read() as connection:
            held = books.find(connection, name)
            if held is None:
                raise UnknownNight(f"the prompt ledger has no night {name!r}")
            told = connection.execute(sa.select(event).where(event.c.night == name).order_by(event.c.seq)).all()
            return held, books.parts(connection, name), books.workers(connection, name, living=False), told

    @cached_property
    def store(self) -> Endpoint:
        """The prompt endpoint."""
        from backbone.endpoints import open_endpoint
        from workflow.night.crew import store_of

        found = store_of(self.settings)
        keys = Path(found.credentials) if found.credentials else None
        return open_endpoint(found.uri, name=found.name, url=found.url, credentials=keys)


def _check(name: str, detectors: Sequence[int]) -> None:
    """What is written down here becomes names of files and of jobs, and one living worker for each detector."""
    if not _NAME.fullmatch(name):
        raise PermanentError(
            f"night {name!r}: a name is letters, digits and _ . - alone, at most 80, the first a letter or digit"
        )
    if not detectors:
        raise PermanentError(f"night {name}: no detector to process: name them, or register the camera first")
    wrong = sorted({d for d in detectors if d < 0} | {d for d in detectors if list(detectors).count(d) > 1})
    if wrong:
        raise PermanentError(f"night {name}: detectors are numbers from 0 on, each once; look at {', '.join(map(str, wrong))}")


def _status(row: books.Row, counted: Sequence[books.Row], visits: int, armed: int) -> NightStatus:
    counts = {state.value: 0 for state in PartState} | {r.state: int(r.n) for r in counted if r.night == row.name}
    return NightStatus(
        name=row.name,
        instrument=row.instrument,
        day_obs=row.day_obs,
        state=NightState(row.state),
        reason=row.reason,
        detectors=tuple(row.detectors),
        armed=armed,
        visits=visits,
        parts=counts,
        opened=row.opened,
        closed=row.closed,
    )
