"""The home of a simulated night: survey, calibrations and templates by the batch productions, and what undisturbed processing of
the same frames tells. Everything is kept in its folder and made once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backbone.messages.opened import MessageSettings
from backbone.messages.prompt import Store, WorkerOrder
from deploy.demo.case import DagRun
from deploy.demo.local import run_locally
from deploy.demo.observatory import fields_of, visits_of
from deploy.home import create_home
from deploy.stack import default_dags
from payloads.camera import Camera
from payloads.ingest import ingest
from payloads.orbit_catalogue import ingest_orbits
from payloads.refcat import ingest_refcat
from payloads.repository import open_repository
from payloads.simulator.config import SurveyConfig
from payloads.simulator.headers import raw_name
from payloads.simulator.survey import simulate_survey
from payloads.simulator.world import World, make_world
from payloads.skymap_cli import make_from_visits
from services.prompt.chain import PromptChain
from services.prompt.science import Plan

Say = Callable[[str], None]
CAMERA = "SimCam"


@dataclass(frozen=True)
class Stand:
    """A home that is ready for its night."""

    home: Path
    survey: Path
    world: World
    day_obs: int
    expected: dict[int, int]
    """Alert → visit, of undisturbed processing."""


def survey_of(*, visits: int, detectors: int, size: int, cadence_s: float, seed: int) -> SurveyConfig:
    """Two nights, the first of which is for templates; the second is yesterday's, so that times are those of a living survey."""
    start = (datetime.now(UTC) - timedelta(days=2)).date()
    density = size * size / 512**2
    return SurveyConfig.from_dict(
        {
            "seed": seed,
            "camera": {"name": CAMERA, "detectors": [1, detectors], "size": [size, size], "amplifiers": 4},
            "nights": {"start": start, "count": 2, "templates": 1},
            "exposure_s": 30.0,
            "fields": [
                {"name": "prompt", "visits": {"r": visits}, "template_visits": {"r": 5}, "cadence_s": max(cadence_s, 31.0)}
            ],
            "stars": {"per_detector": 260 * density},
            "galaxies": {"per_detector": 80 * density},
            "transients": {"per_field": max(4, round(6 * detectors * density))},
            "asteroids": {"per_field_night": max(2, detectors)},
            "calibrations": {"bias": 5, "dark": 3, "flat": 5},
        }
    )


def prepare(folder: Path, config: SurveyConfig, say: Say, *, jobs: int = 2) -> Stand:
    """Simulate, ingest the template night, make calibrations and templates, process the night without haste."""
    survey, home = folder / "survey", folder / "home"
    resolved = folder / "survey.json"
    if resolved.exists():  # made on an earlier day: its dates stay
        config = SurveyConfig.from_dict(json.loads(resolved.read_text()))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        resolved.write_text(config.model_dump_json())
    world = make_world(config)
    if not (folder / "simulated").exists():
        made = simulate_survey(config, survey, jobs=jobs)
        (folder / "simulated").touch()
        say(f"simulated {made.frames} frames, {made.seconds:.0f} s")
    if not (folder / "prepared").exists():
        _products(home, survey, world, say)
        (folder / "prepared").touch()
    night = visits_of(world, 1)
    expected = folder / "expected.json"
    if not expected.exists():
        found = undisturbed(home, survey, world, say)
        expected.write_text(json.dumps(found))
    known = {int(alert): visit for alert, visit in json.loads(expected.read_text()).items()}
    return Stand(home, survey, world, night[0].day_obs, known)


def _products(home: Path, survey: Path, world: World, say: Say) -> None:
    create_home(home, stay_s=2)
    first = [e for e in world.planned if e.night == 0]
    paths = [survey / raw_name(world.survey, e, d) for e in first for d in world.camera.detectors]
    report = ingest(home, Camera.load(survey / "camera.yaml"), paths)
    say(f"{report.ingested} frames of the template night ingested")
    ingest_refcat(home, survey / "refcat.parquet")
    ingest_orbits(home, survey / "truth/asteroids.parquet")
    with open_repository(home / "repo", writeable=True) as butler:
        make_from_visits(butler, CAMERA, CAMERA, patch_px=max(300, world.survey.camera.size[0] // 2))
    day = first[0].day_obs
    runs = [
        DagRun("calibration", "calibration_daily", {"instrument": CAMERA, "day_obs": day}),
        DagRun("template", "template", {"instrument": CAMERA, "first_day": day, "last_day": day}),
    ]
    for status in run_locally(home, default_dags(), runs):
        say(f"campaign {status.name}: {status.state.value}")


def order_for(home: Path, world: World, detector: int) -> WorkerOrder:
    """As the supervisor would write it."""
    return WorkerOrder(
        night="undisturbed",
        worker=f"undisturbed-{detector}",
        instrument=CAMERA,
        detector=detector,
        day_obs=visits_of(world, 1)[0].day_obs,
        skymap=CAMERA,
        home=str(home),
        repo=str(home / "repo"),
        store=Store(name="local", uri=str(home / "repo")),
        messages=MessageSettings(),
        fields=tuple(fields_of(world, 1)),
        deadline_s=60,
        beat_s=1,
        in_flight=1,
    )


def undisturbed(home: Path, survey: Path, world: World, say: Say) -> dict[int, int]:
    """Alert → visit: each frame of the night by the worker's own chain, one after another, with nothing else going on."""
    found: dict[int, int] = {}
    for detector in world.camera.detectors:
        chain = PromptChain(order_for(home, world, detector.id))
        chain.arm()
        for exposure in visits_of(world, 1):
            content = (survey / raw_name(world.survey, exposure, detector)).read_bytes()
            target = exposure.target
            plan = Plan(
                visit=exposure.id,
                exposures=(exposure.id,),
                ra_deg=None if target is None else target.ra_deg,
                dec_deg=None if target is None else target.dec_deg,
                physical_filter=str(exposure.filter),
            )
            product = chain.process([content], chain.preload(plan), plan, lambda _: None)
            found |= {int(packet["diaSourceId"]): exposure.id for packet in product.packets}
        say(f"undisturbed: detector {detector.id} done, {len(found)} alerts so far")
    return found
