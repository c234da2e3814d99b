"""What prompt workers found in a night, into the repository: `dia_source` of each frame, which the day after and releases read.

The night itself waits for no registry. When it is over, and its raw frames are in the repository, this makes its sources
datasets as a batch production would have; frames that were left to offline get theirs from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from astropy.table import Table
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType

from payloads.instrument import read_camera
from payloads.landing import Landing
from payloads.observations import day_row
from payloads.repository import open_repository
from services.prompt.sky import Sky

_TYPE, _DIMENSIONS, _STORAGE = "dia_source", ("instrument", "visit", "detector"), "ArrowAstropy"
_NOT_OF_BATCH = "diaObjectId"
"""A column that sources have of the night alone: objects are the business of `associate`. Bodies stay as they were told."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Frames and sources that are new in the repository, frames that were there, visits that it does not know."""

    frames: int
    sources: int
    already: int
    unknown: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def collect(home: Path, instrument: str, day_obs: int) -> Collected:
    """Every source of the night into RUN `INSTRUMENT/prompt/night/DAY`, of the chain `INSTRUMENT/prompt`. Twice is as once.

    Visits whose raw frames are not in the repository yet are named in the result: they are taken by the next call.
    """
    butler = open_repository(home / "repo", writeable=True)
    day = day_row(read_camera(butler, instrument), day_obs)["timespan"]
    run = f"{instrument}/prompt/night/{day_obs}"
    with Sky.open(home, instrument) as sky:
        moments = sky.moments(float(day.begin.tai.mjd), float(day.end.tai.mjd))
        if not moments:
            return Collected(frames=0, sources=0, already=0, unknown=())
        there, known = _begun(butler, instrument, run), _visits(butler, instrument, day_obs)
        frames, rows, unknown = 0, 0, set()
        for moment in moments:
            for table in _frames(sky.at(moment)):
                visit, detector = int(table["visit"][0]), int(table["detector"][0])
                if visit not in known:
                    unknown.add(visit)
                elif (visit, detector) not in there:
                    butler.put(table, _TYPE, instrument=instrument, visit=visit, detector=detector, run=run)
                    frames, rows = frames + 1, rows + len(table)
    Landing(home, butler).tell(_all(butler, run))
    return Collected(frames=frames, sources=rows, already=len(there), unknown=tuple(sorted(unknown)))


def _begun(butler: Butler, instrument: str, run: str) -> set[tuple[int, int]]:
    """RUN, chain and dataset type, made where they are not there; the frames that the RUN has."""
    chain = f"{instrument}/prompt"
    butler.registry.registerDatasetType(DatasetType(_TYPE, _DIMENSIONS, _STORAGE, universe=butler.dimensions))
    butler.collections.register(run, CollectionType.RUN)
    butler.collections.register(chain, CollectionType.CHAINED)
    if run not in butler.collections.get_info(chain).children:
        butler.collections.prepend_chain(chain, run)
    return {(int(ref.dataId["visit"]), int(ref.dataId["detector"])) for ref in _all(butler, run)}


def _all(butler: Butler, run: str) -> list[DatasetRef]:
    return butler.query_datasets(_TYPE, collections=run, find_first=False, limit=None, explain=False)


def _visits(butler: Butler, instrument: str, day_obs: int) -> set[int]:
    """Those of the day that the repository has raw frames of."""
    found = butler.query_dimension_records("visit", instrument=instrument, day_obs=day_obs, limit=None, explain=False)
    return {int(record.id) for record in found}


def _frames(sources: Table) -> Iterable[Table]:
    """The sources of each visit and detector."""
    sources.remove_column(_NOT_OF_BATCH)
    return sources.group_by(["visit", "detector"]).groups
