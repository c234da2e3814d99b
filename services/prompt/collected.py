"""What prompt workers found in a night, into the repository: `dia_source` of each frame, which the day after and releases read.

The night itself waits for no registry. When it is over, and its raw frames are in the repository, this makes its sources
datasets as a batch production would have; frames that were left to offline get theirs from there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType

from payloads.instrument import read_camera
from payloads.landing import Landing
from payloads.observations import day_row
from payloads.prompt.known import OF_BODIES
from payloads.repository import open_repository
from services.prompt.sky import Sky

_TYPE, _DIMENSIONS, _STORAGE = "dia_source", ("instrument", "visit", "detector"), "ArrowAstropy"
_NOT_OF_BATCH = ("diaObjectId", *OF_BODIES)
"""Columns that sources have of the night alone: objects are the business of `associate`, bodies that of orbits."""


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
        there = _begun(butler, instrument, run)
        frames, rows, unknown = 0, 0, set()
        for moment in moments:
            for (visit, detector), table in _frames(sky.at(moment)):
                if not _knows(butler, instrument, visit):
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


def _knows(butler: Butler, instrument: str, visit: int) -> bool:
    return bool(butler.query_dimension_records("visit", instrument=instrument, visit=visit, explain=False))


def _frames(sources: Table) -> list[tuple[tuple[int, int], Table]]:
    sources.remove_columns([name for name in _NOT_OF_BATCH if name in sources.colnames])
    keys = np.stack([np.asarray(sources[name], np.int64) for name in ("visit", "detector")], axis=1)
    return [((int(v), int(d)), sources[(keys == (v, d)).all(axis=1)]) for v, d in np.unique(keys, axis=0)]
