"""The payload behind the seam: payloads/prompt on what the library has loaded, with what the sky is known to hold."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.time import Time

from backbone.messages.prompt import Mode, WorkerOrder
from payloads.camera import Camera
from payloads.exposure import ExposureFacts
from payloads.formatters import image_hdu, open_raw, raw_header
from payloads.headers import Observation, observe
from payloads.prompt.almanac import Almanac
from payloads.prompt.detector import process_detector
from payloads.prompt.heap import give_back_large_arrays
from payloads.prompt.packets import alert_packets
from payloads.prompt.preloaded import Bodies, Preloaded
from payloads.prompt.result import PromptResult, RawFrame
from payloads.prompt.settings import PromptSettings
from payloads.raw_check import Masters, check_raw
from services.prompt.library import Library, Pointing
from services.prompt.science import OnStage, Plan, Product
from services.prompt.sky import Sky
from services.prompt.stamps import stamps
from services.telemetry.reports import DetectorQuality

_LOG = logging.getLogger(__name__)
_LET_GO = np.zeros((0, 0), np.uint16)


@dataclass(frozen=True)
class Arrived:
    """A raw frame, read."""

    observation: Observation
    raw: RawFrame


class PromptChain:
    """Of one detector of one night."""

    def __init__(self, order: WorkerOrder) -> None:
        self._order, self._settings = order, PromptSettings()
        self._almanac: Almanac | None = None
        self._library = Library(
            repo=order.repo,
            instrument=order.instrument,
            detector=order.detector,
            day_obs=order.day_obs,
            skymap=order.skymap,
        )

    def arm(self) -> None:
        """Python, masters, orbits, and the fields that the night says it will see."""
        give_back_large_arrays()
        self._library.load()
        self._almanac = self._library.almanac(self._settings)
        for one in self._order.fields:
            if self._has(one.physical_filter):
                self._library.keep(Pointing(**one.model_dump()))
        warm_up()
        self._library.let_go()

    def preload(self, plan: Plan) -> Preloaded | None:
        """Templates, stars and history of the field; None where it is known from the frame alone, or needs none."""
        if plan.mode is Mode.CALIBRATION or plan.ra_deg is None or plan.dec_deg is None or not plan.physical_filter:
            return None
        if not self._has(plan.physical_filter):
            return None
        return self._known(Pointing(plan.ra_deg, plan.dec_deg, plan.rotation_deg, plan.physical_filter))

    def _has(self, physical_filter: str) -> bool:
        """Whether the camera has a filter that was announced; the frames say it again."""
        known = [f.name for f in self._library.camera.filters]
        if physical_filter not in known:
            _LOG.warning("filter %r was announced; camera %s has %s", physical_filter, self._library.camera.name, known)
        return physical_filter in known

    def _known(self, pointing: Pointing) -> Preloaded:
        preloaded = self._library.preloaded(pointing)
        with Sky.open(Path(self._order.home), self._order.instrument) as sky:
            known = sky.around(*self._library.circle(pointing))
        return replace(preloaded, known=known)

    def process(self, frames: Sequence[bytes], loaded: Preloaded | None, plan: Plan, on_stage: OnStage) -> Product:
        """Read, process, package."""
        on_stage("read")
        arrived = [read_frame(content, self._library.camera, plan.visit) for content in frames]
        if plan.mode is Mode.CALIBRATION:
            return self._validated(arrived, plan, on_stage)
        facts = arrived[0].raw.facts
        if loaded is None or not self._library.is_of(loaded, facts.physical_filter):
            on_stage("preload")  # nobody announced it, or as what it is not
            loaded = self._known(Pointing(facts.ra_deg, facts.dec_deg, facts.rotation_deg, facts.physical_filter))
        loaded = replace(loaded, bodies=self._bodies([one.raw.facts for one in arrived], plan))
        now = _now_mjd_tai()
        raws = iter([one.raw for one in arrived])
        arrived = [replace(one, raw=replace(one.raw, pixels=_LET_GO)) for one in arrived]
        result = process_detector(raws, loaded, self._settings, processed_mjd_tai=now, on_stage=on_stage)
        on_stage("package")
        packets = alert_packets(
            result,
            loaded.known,
            processed_mjd_tai=now,
            forced_before=self._forced_before(result),
            observation_reason=plan.mode.value,
            target_name=plan.field or None,
            cutout_px=self._settings.cutout_px,
        )
        return Product(
            packets=packets,
            sources=len(result.dia_sources),
            quality=_quality(result, len(arrived)),
            telemetry=self._telemetry(result, arrived),
            stamps=stamps(result),
            keep=partial(self._remember, result.dia_sources, result.forced, now),
        )

    def _bodies(self, facts: Sequence[ExposureFacts], plan: Plan) -> Bodies:
        """Predictions for the middle of the exposure, which only its frames tell."""
        first, middle = facts[0], float(np.mean([one.mjd_mid_tai for one in facts]))
        told = math.isfinite(first.ra_deg) and math.isfinite(first.dec_deg)
        ra, dec = (first.ra_deg, first.dec_deg) if told else (plan.ra_deg, plan.dec_deg)
        if self._almanac is None or ra is None or dec is None:
            return Bodies.none()
        if not self._almanac.covers(middle):
            _LOG.warning("visit %d: MJD %.5f is not of day %d: no body is predicted", plan.visit, middle, self._order.day_obs)
            return Bodies.none()
        rotation = first.rotation_deg if told else plan.rotation_deg
        circle = self._library.circle(Pointing(ra, dec, rotation, first.physical_filter))
        return self._almanac.bodies(*circle, middle)

    def _validated(self, arrived: Sequence[Arrived], plan: Plan, on_stage: OnStage) -> Product:
        """Calibration frames: whether they are what they say, while the telescope can still take others."""
        on_stage("validate")
        numbers: dict[str, float] = {}
        reasons: list[str] = []
        for one in arrived:
            kind, facts = one.observation.observation_type, one.raw.facts
            verdict = check_raw(
                one.raw.pixels,
                self._library.sensor,
                kind,
                exposure_time_s=facts.exposure_time_s,
                dark_time_s=facts.dark_time_s,
                masters=Masters(**self._library.masters(facts.physical_filter)),
            )
            numbers |= {f"{kind}_{name}": value for name, value in verdict.numbers.items() if math.isfinite(value)}
            reasons += verdict.reasons
        return Product(quality={**numbers, "refused": "; ".join(reasons), "raw_refused": len(reasons), "snaps": len(arrived)})

    def _forced_before(self, result: PromptResult) -> Table:
        """Forced photometry of earlier visits, of the objects that alerts are about."""
        objects = np.unique(np.asarray(result.dia_sources["diaObjectId"], np.int64)[result.told])
        with Sky.open(Path(self._order.home), self._order.instrument) as sky:
            return sky.forced(objects[objects != 0].tolist(), before_mjd=result.facts.mjd_mid_tai)

    def _remember(self, sources: Table, forced: Table, processed_mjd_tai: float) -> None:
        with Sky.open(Path(self._order.home), self._order.instrument) as sky:
            sky.add(sources)
            sky.add_forced(forced, processed_mjd_tai)

    def _telemetry(self, result: PromptResult, arrived: Sequence[Arrived]) -> DetectorQuality:
        q = result.quality
        scale = self._library.camera.pixel_scale_arcsec
        sky_njy = q.sky_electron * 10 ** (0.4 * (31.4 - q.zeropoint_mag)) / scale**2
        return DetectorQuality(
            instrument=self._order.instrument,
            visit=result.visit,
            detector=result.detector,
            midpoint_mjd_tai=result.facts.mjd_mid_tai,
            band=result.facts.band,
            psf_fwhm_arcsec=q.psf_fwhm_arcsec,
            wcs_rms_mas=q.wcs_rms_mas,
            zeropoint_mag=q.zeropoint_mag,
            depth_mag=q.depth_mag,
            sky_njy_arcsec2=sky_njy,
            n_alerts=q.n_alerts,
        )


def read_frame(content: bytes, camera: Camera, visit: int) -> Arrived:
    """A raw frame from its file's bytes; HeaderError, NoPixels where it is none of this camera."""
    with open_raw(content) as hdus:
        header = raw_header(hdus)
        pixels = np.ascontiguousarray(image_hdu(hdus).data)
    seen = observe(header, "", camera)
    facts = ExposureFacts(
        exposure_time_s=seen.exposure_time_s,
        dark_time_s=seen.dark_time_s,
        mjd_mid_tai=0.5 * (seen.datetime_begin.tai.mjd + seen.datetime_end.tai.mjd),
        physical_filter=seen.physical_filter,
        band=seen.band,
        ra_deg=math.nan if seen.ra_deg is None else seen.ra_deg,
        dec_deg=math.nan if seen.dec_deg is None else seen.dec_deg,
        rotation_deg=seen.rotation_deg or 0.0,
    )
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return Arrived(seen, RawFrame(pixels=native, facts=facts, wcs=seen.wcs, visit=visit))


def warm_up() -> None:
    """Compile, or read from numba's cache, what the first visit would otherwise wait for."""
    from payloads.prompt.simulated import simulate_visit
    from payloads.simulator.config import SurveyConfig

    small = SurveyConfig.load("tiny")
    visit = simulate_visit(small, depth=3, masters=3)
    try:
        process_detector([visit.raw], visit.preloaded, processed_mjd_tai=_now_mjd_tai())
    except Exception as error:  # of a scene that small the science may say no; by then everything is compiled
        _LOG.info("warm-up ended early: %s", error)


def _quality(result: PromptResult, snaps: int) -> dict[str, float | int | str | None]:
    return {**asdict(result.quality), "band": result.facts.band, "mjd": result.facts.mjd_mid_tai, "snaps": snaps}


def _now_mjd_tai() -> float:
    return float(Time.now().tai.mjd)
