"""What the prompt path has seen, by its place on the sky: difference sources with the object that each belongs to; and what was
measured at the places of objects, by object.

Objects are made from their sources when they are read, so nothing is kept twice. Reading costs what is around the field, whatever
the nights before have seen elsewhere: the index is by trixel (HTM, level 10, some 5 arcmin) and time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
import sqlalchemy as sa
from astropy.table import Table
from lsst.sphgeom import Angle, Circle, HtmPixelization, LonLat, UnitVector3d

from backbone.database import Database
from payloads.alerts import forced_source_id
from payloads.association import summarise
from payloads.htm import htm_index
from payloads.prompt.preloaded import KnownObjects
from services.settings import DATABASE, database_url

LEVEL = 10
YEAR_D = 365.25
metadata = sa.MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
source = sa.Table(
    "sky_source",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("trixel", sa.Integer, nullable=False),
    sa.Column("object", _BIG, nullable=False),  # 0: none
    sa.Column("mjd", sa.Double, nullable=False),  # TAI
    sa.Column("body", sa.Text, nullable=False),  # JSON: the row of dia_source
    sa.Index("ix_sky_source_instrument_trixel_mjd", "instrument", "trixel", "mjd"),
    sa.Index("ix_sky_source_instrument_mjd", "instrument", "mjd"),
)
forced = sa.Table(
    "sky_forced",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("object", _BIG, nullable=False),
    sa.Column("mjd", sa.Double, nullable=False),  # TAI, of the exposure
    sa.Column("processed", sa.Double, nullable=False),  # MJD TAI
    sa.Column("visit", _BIG, nullable=False),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("band", sa.Text, nullable=False),
    sa.Column("ra", sa.Double, nullable=False),
    sa.Column("dec", sa.Double, nullable=False),
    sa.Column("flux", sa.Double, nullable=False),  # nJy
    sa.Column("flux_err", sa.Double, nullable=False),
    sa.Index("ix_sky_forced_instrument_object_mjd", "instrument", "object", "mjd"),
)
_FORCED = {
    "diaForcedSourceId": forced.c.id,
    "diaObjectId": forced.c.object,
    "midpointMjdTai": forced.c.mjd,
    "timeProcessedMjdTai": forced.c.processed,
    "visit": forced.c.visit,
    "detector": forced.c.detector,
    "band": forced.c.band,
    "ra": forced.c.ra,
    "dec": forced.c.dec,
    "psfFlux": forced.c.flux,
    "psfFluxErr": forced.c.flux_err,
}
"""Columns of forced photometry as packets have it."""


class SkyBook(Database):
    """The database that holds them."""

    noun = "table of prompt sources"
    migrations = Path(__file__).parent / "migrations"
    version_table = "sky_version"
    upgrade_lock = 7_224_665


class Sky(AbstractContextManager["Sky"]):
    """Sources of one instrument."""

    def __init__(self, book: SkyBook, instrument: str) -> None:
        self.book, self._instrument = book, instrument

    @classmethod
    def open(cls, home: Path, instrument: str, url: str = DATABASE) -> Self:
        """Of a home."""
        return cls(SkyBook.open(database_url(url, home)), instrument)

    def __exit__(self, *_: object) -> None:
        self.book.close()

    def add(self, sources: Table) -> int:
        """Keep rows of dia_source that have `diaObjectId`; those that are there stay as they are. Returns how many are new."""
        if not len(sources):
            return 0
        trixels = htm_index(np.asarray(sources["ra"], float), np.asarray(sources["dec"], float), LEVEL)
        rows = [
            {
                "id": int(row["diaSourceId"]),
                "instrument": self._instrument,
                "trixel": int(trixel),
                "object": int(row["diaObjectId"]),
                "mjd": float(row["midpointMjdTai"]),
                "body": json.dumps({name: _plain(row[name]) for name in sources.colnames}),
            }
            for row, trixel in zip(sources, trixels, strict=True)
        ]
        with self.book.begin() as connection:
            known = connection.execute(sa.select(source.c.id).where(self.book.among(source.c.id, [r["id"] for r in rows]))).all()
            self.book.insert_new(connection, source, rows)
        return len(rows) - len(known)

    def around(self, ra_deg: float, dec_deg: float, radius_deg: float) -> KnownObjects:
        """Objects within a circle (ICRS) and all their sources there of the twelve months before the newest of them."""
        place = UnitVector3d(LonLat.fromDegrees(ra_deg % 360, dec_deg))
        ranges = HtmPixelization(LEVEL).envelope(Circle(place, Angle.fromDegrees(radius_deg)))
        inside = sa.or_(*(source.c.trixel.between(begin, end - 1) for begin, end in ranges))
        here = sa.and_(source.c.instrument == self._instrument, inside)
        newest = sa.select(sa.func.max(source.c.mjd)).where(here).scalar_subquery()
        query = sa.select(source.c.body).where(here, source.c.mjd > newest - YEAR_D, source.c.object != 0)
        rows = [json.loads(row.body) for row in self.book.all(query.order_by(source.c.mjd, source.c.id))]
        if not rows:
            return KnownObjects.none()
        sources = _table(rows)
        return KnownObjects(objects=summarise(sources, np.asarray(sources["diaObjectId"], np.int64)), sources=sources)

    def add_forced(self, measured: Table, processed_mjd_tai: float) -> None:
        """Keep the forced photometry of a visit (PromptResult.forced) that is a measurement; again it changes nothing."""
        found = measured[np.isfinite(measured["psfFlux"]) & np.isfinite(measured["psfFluxErr"])]
        rows = [
            {column.name: _plain(row[name]) for name, column in _FORCED.items() if name in found.colnames}
            | {"id": forced_source_id(int(row["visit"]), int(row["detector"]), int(row["diaObjectId"]))}
            | {"instrument": self._instrument, "processed": processed_mjd_tai}
            for row in found
        ]
        with self.book.begin() as connection:
            self.book.insert_new(connection, forced, rows)

    def forced(self, objects: Iterable[int], before_mjd: float) -> Table:
        """Forced photometry of these objects in the twelve months before, by object and time."""
        when = (forced.c.mjd > before_mjd - YEAR_D, forced.c.mjd < before_mjd)
        of = (forced.c.instrument == self._instrument, self.book.among(forced.c.object, objects), *when)
        rows = self.book.all(sa.select(*_FORCED.values()).where(*of).order_by(forced.c.object, forced.c.mjd))
        return Table({name: [getattr(row, column.name) for row in rows] for name, column in _FORCED.items()})

    def moments(self, begin_mjd: float, end_mjd: float) -> list[float]:
        """Midpoints (MJD TAI) of the visits with sources in [begin, end), in order."""
        of = (source.c.instrument == self._instrument, source.c.mjd >= begin_mjd, source.c.mjd < end_mjd)
        return [row.mjd for row in self.book.all(sa.select(source.c.mjd).where(*of).distinct().order_by(source.c.mjd))]

    def at(self, mjd: float) -> Table:
        """All sources of one of the `moments`, those of no object too, in the order of their ids."""
        of = (source.c.instrument == self._instrument, source.c.mjd == mjd)
        return _table([json.loads(row.body) for row in self.book.all(sa.select(source.c.body).where(*of).order_by(source.c.id))])


def _table(rows: list[dict[str, Any]]) -> Table:
    return Table({name: [_number(row.get(name)) for row in rows] for name in rows[0]})


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _number(value: Any) -> Any:
    return math.nan if value is None else value
