"""Frames into a home, simulated or a real camera's; every part may be done already and is then left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import PermanentError
from deploy.demo.case import Case, read_case
from deploy.home import create_home
from payloads.camera import Camera
from payloads.ingest import ingest
from payloads.refcat import ingest_refcat
from payloads.repository import open_repository
from payloads.simulator.config import SurveyConfig
from payloads.simulator.survey import simulate_survey
from payloads.skymap_cli import make_from_visits

Say = Callable[[str], None]
_SMALLEST_PATCH_PX = 300


@dataclass(frozen=True)
class Frames:
    """Where frames come from: a camera, folders of raw files, and for simulated ones a catalogue and the truth."""

    camera: Camera
    raw: Path
    refcat: Path | None = None
    truth: Path | None = None


def simulated(out: Path, preset: str, seed: int | None, say: Say, jobs: int = 2) -> Frames:
    """Simulate a survey into `out` with `jobs` processes, unless it is there."""
    config = SurveyConfig.load(preset)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    done = out / "complete"
    if not done.exists():
        made = simulate_survey(config, out, jobs=jobs)
        done.write_text(f"seed {config.seed}\n")
        say(f"simulated {made.frames} raw frames, seed {config.seed}")
    elif done.read_text() != f"seed {config.seed}\n":
        raise PermanentError(f"{out} holds a survey of {done.read_text().strip()}, not {config.seed}: choose another home")
    return Frames(Camera.load(out / "camera.yaml"), out / "raw", out / "refcat.parquet", out / "truth")


def prepare(home: Path, frames: Frames, say: Say) -> Case:
    """Home, frames, reference catalogue and sky map; returns what there is to run."""
    create_home(home)
    report = ingest(home, frames.camera, [frames.raw])
    say(f"{report.files} files: {report.ingested} ingested, {report.already} there already, {len(report.rejected)} set aside")
    for rejected in report.rejected[:5]:
        say(f"  set aside: {rejected}")
    if frames.refcat:
        sources = ingest_refcat(home, frames.refcat)
        say(f"{sources.sources} reference sources")
    camera = frames.camera
    with open_repository(home / "repo", writeable=True) as butler:
        side = max(max(detector.shape) for detector in camera.detectors)
        sky_map, _ = make_from_visits(butler, camera.name, camera.name, patch_px=max(_SMALLEST_PATCH_PX, side // 2))
        say(f"sky map of {sum(len(tract.patches) for tract in sky_map.tracts)} patches")
        return read_case(butler, camera.name)
