"""Raw frames into the repository: check every file, register, copy the good in bulk, set the bad aside, go on.

Everything is a function of the files alone and every step may be repeated: ingesting twice, in another order, or after a crash
gives the same repository.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from lsst.daf.butler import Butler, DatasetIdGenEnum, DatasetRef, DimensionRecord, FileDataset
from lsst.resources import ResourcePath

from backbone.errors import EndpointFull
from payloads.aside import Aside
from payloads.camera import Camera
from payloads.formatters import RawFormatter
from payloads.frames import Frame, Reason, Rejected, check, find_files
from payloads.headers import Observation
from payloads.instrument import raw_run, register_camera
from payloads.landing import Landing
from payloads.observations import data_id_expander, insert_observations
from payloads.repository import checksums, open_repository

log = logging.getLogger(__name__)

CHUNK = 500  # files between two commits: what a full disk or a crash can cost


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What became of every file."""

    instrument: str
    files: int
    ingested: int
    already: int  # the same content is there
    rejected: tuple[Rejected, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "instrument": self.instrument,
            "files": self.files,
            "ingested": self.ingested,
            "already": self.already,
            "aside": len(self.rejected),
            "reasons": dict(Counter(r.reason.value for r in self.rejected)),
            "rejected": [{"path": str(r.path), "reason": r.reason.value, "detail": r.detail} for r in self.rejected],
        }


def ingest(home: Path, camera: Camera, paths: list[Path], *, progress: Callable[[int, int], None] | None = None) -> IngestReport:
    """Ingest files, and below folders everything that looks like FITS, into the repository of `home`.

    `progress` is called with files done and files in all. Raises EndpointFull where the disk is full (what was done stays done),
    and InstrumentError where the camera contradicts the repository.
    """
    butler = open_repository(home / "repo", writeable=True)
    files = find_files(paths)
    aside, landing = Aside(home / "aside"), Landing(home, butler)
    ingested = already = 0
    rejected: list[Rejected] = []
    with disk_may_be_full(home):
        register_camera(butler, camera)
        for start in range(0, len(files), CHUNK):
            judged = []
            for number, path in enumerate(files[start : start + CHUNK], start + 1):
                judged.append(check(path, camera))
                if progress is not None:
                    progress(number, len(files))
            new, same, bad = _sort(butler, camera, judged)
            _store(butler, camera, new)
            if landing.is_told:  # what was there already too: a crash may have been between
                landing.tell(_raws(butler, camera, sorted({f.observation.exposure for f in judged if isinstance(f, Frame)})))
            aside.put(bad, camera.name)
            ingested, already = ingested + len(new), already + same
            rejected += bad
    for item in rejected:
        log.warning("set aside %s", item)
    return IngestReport(instrument=camera.name, files=len(files), ingested=ingested, already=already, rejected=tuple(rejected))


def _sort(butler: Butler, camera: Camera, judged: list[Frame | Rejected]) -> tuple[list[Frame], int, list[Rejected]]:
    """New frames, the number whose content is there already, and those to set aside."""
    bad = [item for item in judged if isinstance(item, Rejected)]
    frames = [item for item in judged if isinstance(item, Frame)]
    content, exposures = _present(butler, camera, sorted({f.observation.exposure for f in frames}))
    new, same = [], 0
    for frame in frames:
        o = frame.observation
        key = (o.exposure, o.detector)
        if content.get(key) == frame.sha256:
            same += 1
        elif key in content:
            bad.append(_reject(frame, f"exposure {o.exposure} detector {o.detector} is there with other content"))
        elif (known := exposures.setdefault(o.exposure, _character(o))) != _character(o):
            bad.append(_reject(frame, f"exposure {o.exposure} is there as {' '.join(known)}, this is {' '.join(_character(o))}"))
        else:
            content[key] = frame.sha256
            new.append(frame)
    return new, same, bad


def _character(o: Observation | DimensionRecord) -> tuple[str, str]:
    """What all detectors of an exposure must agree on."""
    return o.observation_type, o.physical_filter


def _reject(frame: Frame, detail: str) -> Rejected:
    return Rejected(path=frame.path, sha256=frame.sha256, reason=Reason.DUPLICATE, detail=detail)


def _present(
    butler: Butler, camera: Camera, exposures: list[int]
) -> tuple[dict[tuple[int, int], str], dict[int, tuple[str, str]]]:
    """(exposure, detector) → SHA-256, and exposure → character, of what the repository has of these exposures; three queries."""
    if not exposures:
        return {}, {}
    refs = _raws(butler, camera, exposures)
    sums = checksums(butler, refs)
    content = {(int(ref.dataId["exposure"]), int(ref.dataId["detector"])): sums[ref.id] for ref in refs}
    records = butler.query_dimension_records("exposure", **_of(camera, exposures))
    return content, {r.id: _character(r) for r in records}


def _raws(butler: Butler, camera: Camera, exposures: list[int]) -> list[DatasetRef]:
    return butler.query_datasets("raw", raw_run(camera.name), **_of(camera, exposures)) if exposures else []


def _of(camera: Camera, exposures: list[int]) -> dict[str, Any]:
    """Arguments of a query about these exposures."""
    return {
        "where": "instrument = cam AND exposure IN (ids)",
        "bind": {"cam": camera.name, "ids": exposures},
        "limit": None,
        "explain": False,
    }


def _store(butler: Butler, camera: Camera, frames: list[Frame]) -> None:
    if not frames:
        return
    insert_observations(butler, camera, [f.observation for f in frames])
    expand = data_id_expander(butler, camera)
    dataset_type = butler.get_dataset_type("raw")
    butler.ingest(
        *(
            FileDataset(
                path=_resource(frame.path),
                # The same file gets the same dataset id everywhere and again after a crash.
                refs=DatasetRef(
                    dataset_type,
                    expand(frame.observation),
                    run=raw_run(camera.name),
                    id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
                ),
                formatter=RawFormatter,
            )
            for frame in frames
        ),
        transfer="copy",  # never "direct": every key must be relative to the root (docs/adr/0002)
        skip_existing=True,
    )


def _resource(path: Path) -> ResourcePath:
    """A file as the Butler takes it; a plain path would be cut at a `#`, and `%41` in it be read as `A`."""
    return ResourcePath(f"file://{quote(str(path))}", forceDirectory=False)


@contextmanager
def disk_may_be_full(where: Path) -> Iterator[None]:
    """Say so plainly when the disk, or the database's disk, is full."""
    try:
        yield
    except (OSError, sqlalchemy.exc.OperationalError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and "disk is full" not in str(error):
            raise
        raise EndpointFull(
            f"{where}: no space left on the disk; what was ingested so far is kept: make room and run the same command again"
        ) from error
