"""A whole survey: every frame of every detector, and all its truth, by as many processes as wanted."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from payloads.camera import Camera
from payloads.simulator.camera import describe
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import DetectorTruth, detector_truth
from payloads.simulator.frames import make_raw, write_raw
from payloads.simulator.sky import reference_catalogue
from payloads.simulator.truth import (
    Rows,
    detector_rows,
    frame_rows,
    telemetry,
    write_catalogues,
    write_detector,
    write_resolved,
    write_table,
)
from payloads.simulator.world import World, make_world

Progress = Callable[[int, int], None]
_CHUNK = (4, 16)  # least and most frames of one detector that one process makes before it reports


@dataclass(frozen=True, kw_only=True)
class Made:
    """What `simulate_survey` made."""

    out: Path
    camera: Camera
    frames: int
    seconds: float
    seconds_per_frame: float  # of one process's time


@dataclass(frozen=True, kw_only=True)
class _Task:
    detector: int
    exposures: tuple[int, ...]
    first: bool  # of its detector: writes the detector's truth


@dataclass(frozen=True, kw_only=True)
class _Result:
    detector: int
    rows: list[dict[str, Rows]]
    throughput: dict[str, float]
    frames: int
    seconds: float


class _Worker:
    """State of one process: the world, and the truth of the detector it worked on last."""

    def __init__(self, survey: SurveyConfig, out: Path, world: World | None = None) -> None:
        self.world = world or make_world(survey)
        self.planned = {e.id: e for e in self.world.planned}
        self.out = out
        self._truth: tuple[int, DetectorTruth] | None = None

    def truth(self, number: int) -> DetectorTruth:
        if self._truth is None or self._truth[0] != number:
            self._truth = (number, detector_truth(self.world.survey, self.world.camera, self.world.camera.detector(number)))
        return self._truth[1]

    def run(self, task: _Task) -> _Result:
        began = time.perf_counter()
        detector, truth = self.world.camera.detector(task.detector), self.truth(task.detector)
        if task.first:
            write_detector(truth, task.detector, self.out)
        rows = []
        for number in task.exposures:
            exposure = self.planned[number]
            raw, scene = make_raw(self.world, exposure, detector, truth)
            write_raw(self.world, exposure, detector, raw, self.out)
            rows.append(scene.rows)
        return _Result(
            detector=task.detector,
            rows=rows,
            throughput=truth.throughput,
            frames=len(task.exposures),
            seconds=time.perf_counter() - began,
        )


_worker: _Worker | None = None


def _start(survey: SurveyConfig, out: Path) -> None:
    global _worker  # one per process: what a pool's initializer is for
    _worker = _Worker(survey, out)


def _run(task: _Task) -> _Result:
    if _worker is None:
        raise RuntimeError("the pool's initializer did not run")
    return _worker.run(task)


def _tasks(world: World, jobs: int) -> list[_Task]:
    ids = [e.id for e in world.planned]
    size = int(np.clip(len(ids) * len(world.camera.detectors) // (2 * jobs), *_CHUNK))
    chunks = [tuple(ids[k : k + size]) for k in range(0, len(ids), size)]
    return [_Task(detector=d.id, exposures=c, first=k == 0) for d in world.camera.detectors for k, c in enumerate(chunks)]


def _results(world: World, out: Path, tasks: list[_Task], jobs: int) -> Iterator[_Result]:
    if jobs == 1:
        yield from map(_Worker(world.survey, out, world).run, tasks)
        return
    # Fresh interpreters: forking a process that has threads (BLAS, pyarrow) can deadlock.
    with multiprocessing.get_context("spawn").Pool(jobs, _start, (world.survey, out)) as pool:
        yield from pool.imap(_run, tasks)


def _joined(parts: Iterable[dict[str, Rows]]) -> dict[str, Rows]:
    """Rows of all frames by table, in order of exposure, detector and id."""
    gathered: dict[str, list[Rows]] = defaultdict(list)
    for part in parts:
        for table, rows in part.items():
            gathered[table].append(rows)
    tables = {}
    for table, pieces in gathered.items():
        rows = {key: np.concatenate([p[key] for p in pieces]) for key in pieces[0]}
        keys = [rows[key] for key in ("id", "detector", "exposure") if key in rows]
        order = np.lexsort(keys)
        tables[table] = {key: column[order] for key, column in rows.items()}
    return tables


def simulate_survey(config: SurveyConfig, out: Path, progress: Progress | None = None, jobs: int = 1) -> Made:
    """Make the survey below `out`. `progress(done, all)` is called as frames are finished; `jobs` 0 means one per core.

    The result depends on `config` alone (its seed included), not on `jobs`. An `out` that holds another survey is refused;
    one that holds this survey, whole or in part, is made again.
    """
    began = time.perf_counter()
    world = make_world(config)
    out.mkdir(parents=True, exist_ok=True)
    write_resolved(config, out)
    (out / "camera.yaml").write_text(yaml.safe_dump(describe(world.camera, config).to_dict(), sort_keys=False))
    write_table(out / "refcat.parquet", reference_catalogue(config, world.stars))
    write_table(out / "telemetry.parquet", telemetry(config, world.planned))
    write_catalogues(world, out)
    jobs = jobs or os.cpu_count() or 1
    tasks = _tasks(world, jobs)
    total, done, busy = len(world.planned) * len(world.camera.detectors), 0, 0.0
    parts: list[dict[str, Rows]] = []
    throughput: dict[int, dict[str, float]] = {}
    for result in _results(world, out, tasks, min(jobs, len(tasks))):
        parts += result.rows
        throughput[result.detector] = result.throughput
        done, busy = done + result.frames, busy + result.seconds
        if progress is not None:
            progress(done, total)
    tables = _joined(parts)
    if "frames" in tables:
        tables["frames"] = frame_rows(world, tables["frames"])
    for name, rows in {**tables, **detector_rows(world, throughput)}.items():
        write_table(out / f"truth/{name}.parquet", rows)
    return Made(
        out=out,
        camera=world.camera,
        frames=total,
        seconds=time.perf_counter() - began,
        seconds_per_frame=busy / total,
    )
