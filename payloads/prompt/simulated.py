"""A simulated visit of one detector with all that a worker would hold before it, and the truth: for tests, training, benchmarks.

The raw frame is the simulator's (payloads/simulator), byte for byte. Masters are the detector's truth with the noise that a
master of so many frames has; the template is the sky of the survey's first night without what varies, with the noise of `depth`
exposures, on that night's own grid. A share of what varies is known from before, as DIAObjects with a history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.exposure import ExposureFacts
from payloads.ids import source_id
from payloads.isr import Plane, bad_from_dark, mask_from_flat
from payloads.mask import Mask
from payloads.overscan import amplifier_map
from payloads.prompt.preloaded import Bodies, KnownObjects, Preloaded, ReferenceStars
from payloads.prompt.result import RawFrame
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import DetectorTruth, detector_truth, focal_grid
from payloads.simulator.exposures import Planned, conditions
from payloads.simulator.frames import make_raw
from payloads.simulator.scene import Frame, make_scene
from payloads.simulator.signal import bleed
from payloads.simulator.sky import reference_catalogue
from payloads.simulator.wcs import detector_wcs
from payloads.simulator.world import World, make_world
from payloads.template import ZEROPOINT_MAG, TemplatePatch

_POSITION_ERROR_DEG = 30e-3 / 3600  # of a DIAObject that was seen a few times
_PREDICTION_ERROR_ARCSEC = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedVisit:
    """One detector of one visit: what arrives, what was loaded, and what is true.

    `truth`: all that changed, columns `kind id x y ra dec flux_electron difference_njy snr host known` (`host` -1: none;
    `known`: the diaObjectId it has from before, 0: none). `wcs` and `zeropoint_mag` are the frame's true ones.
    """

    raw: RawFrame
    preloaded: Preloaded
    truth: Table
    wcs: object
    zeropoint_mag: float


def simulate_visit(survey: SurveyConfig, *, depth: int = 10, masters: int = 20, known_share: float = 0.5) -> SimulatedVisit:
    """The last science exposure of the survey on its first detector, over a template of its first; by the survey's seed."""
    world = make_world(survey)
    science = [e for e in world.planned if e.kind == "science"]
    detector = world.camera.detectors[0]
    truth = detector_truth(survey, world.camera, detector)
    rng = np.random.default_rng([survey.seed, 60])
    exposure = science[-1]
    pixels, scene = make_raw(world, exposure, detector, truth)
    frame = Frame(world, exposure, conditions(survey, exposure), detector, truth)
    changed = _changed(world, scene.rows)
    known = _known(changed, survey, exposure, rng, known_share)
    raw = RawFrame(
        pixels=pixels,
        facts=_facts(world, exposure),
        wcs=detector_wcs(exposure.target, detector, survey.camera.pixel_scale_arcsec),
        visit=exposure.id,
    )
    bias, dark, flat = _masters(survey, detector, truth, str(exposure.filter), masters, rng)
    preloaded = Preloaded(
        camera=world.camera,
        detector=detector,
        bias=bias,
        dark=dark,
        flat=flat,
        template=(_template(world, science[0], detector, truth, depth, rng),),
        reference=_reference(world, exposure),
        known=known,
        bodies=_bodies(changed, rng),
    )
    return SimulatedVisit(raw=raw, preloaded=preloaded, truth=changed, wcs=frame.wcs, zeropoint_mag=frame.zeropoint_mag)


def _facts(world: World, exposure: Planned) -> ExposureFacts:
    target = exposure.target
    return ExposureFacts(
        exposure_time_s=exposure.exposure_s,
        dark_time_s=exposure.exposure_s,
        mjd_mid_tai=exposure.mjd_mid,
        physical_filter=str(exposure.filter),
        band=world.survey.filters[str(exposure.filter)].band,
        ra_deg=float("nan") if target is None else target.ra_deg,
        dec_deg=float("nan") if target is None else target.dec_deg,
        rotation_deg=0.0,
    )


def _masters(
    survey: SurveyConfig, detector: Detector, truth: DetectorTruth, physical_filter: str, count: int, rng: np.random.Generator
) -> tuple[Plane, Plane, Plane]:
    """Bias (ADU), dark (ADU/s) and flat as means of `count` frames, with the masks that calibration makes of them."""
    gain, noise = amplifier_map(detector, "gain"), amplifier_map(detector, "read_noise")
    c = survey.calibrations

    def noisy(image: NDArray[np.float32], variance: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        variance = variance / np.float32(count)
        return image + np.sqrt(variance) * rng.standard_normal(image.shape, dtype=np.float32), variance

    nothing = np.zeros(detector.shape, np.uint32)
    bias, bias_variance = noisy(truth.bias_adu, (noise / gain) ** 2)
    dark, dark_variance = noisy(
        truth.dark_electron_s / gain,
        (noise**2 + truth.dark_electron_s * np.float32(c.dark_s)) / (gain * np.float32(c.dark_s)) ** 2,
    )
    response = truth.flat[physical_filter]
    flat, flat_variance = noisy(response, response / np.float32(c.flat_electron))
    hot = np.where(bad_from_dark(dark), np.uint32(Mask.BAD), np.uint32(0))
    return (
        Plane(data=bias, mask=nothing, variance=bias_variance),
        Plane(data=dark, mask=hot, variance=dark_variance),
        Plane(data=flat, mask=mask_from_flat(flat), variance=flat_variance),
    )


def _template(
    world: World, exposure: Planned, detector: Detector, truth: DetectorTruth, depth: int, rng: np.random.Generator
) -> TemplatePatch:
    """The sky at its mean brightness as `depth` exposures like this one would show it, saturated where each of them is."""
    still = replace(
        world,
        stars=replace(world.stars, period_d=np.zeros_like(world.stars.period_d)),
        asteroids=world.asteroids.at(slice(0)),
    )
    now = conditions(world.survey, exposure)
    frame = Frame(still, exposure, now, detector, truth)
    light = make_scene(frame).expected
    seconds = np.float32(exposure.exposure_s)
    variance = (light + amplifier_map(detector, "read_noise") ** 2) / np.float32(depth)
    full = world.survey.camera.full_well_adu
    mask = np.zeros(detector.shape, np.uint32)
    for amplifier in detector.amplifiers:
        place = parse_section(amplifier.place)
        held = np.minimum(bleed(light[place] / np.float32(amplifier.gain), full), np.float32(full))
        mask[place][held >= amplifier.saturation] |= np.uint32(Mask.SAT)
        light[place] = held * np.float32(amplifier.gain)
    light -= truth.dark_electron_s * seconds
    # Dithered exposures fill each other's dead pixels.
    alive = np.where(truth.dead, np.float32(1), frame.flat)
    u, v = focal_grid(world.camera, detector)
    du, dv = now.sky_gradient
    throughput = truth.throughput[str(exposure.filter)]
    sky = (now.sky_electron * throughput * (1 + du * u[None, :] + dv * v[:, None])).astype(np.float32)
    data = np.where(truth.dead, 0, light / alive - sky)
    variance = variance / alive**2
    data += np.sqrt(variance) * rng.standard_normal(data.shape, dtype=np.float32)
    mask[truth.dead] |= np.uint32(Mask.BAD)
    scale = np.float32(10 ** (0.4 * (ZEROPOINT_MAG - frame.zeropoint_mag)))
    ny, nx = detector.shape
    fwhm = now.psf.fwhm(*frame.focal(np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2])))
    plane = Plane(data=(data * scale).astype(np.float32), mask=mask, variance=variance * scale**2)
    return TemplatePatch(plane=plane, wcs=frame.wcs, fwhm_px=float(fwhm[0]))


def _reference(world: World, exposure: Planned) -> ReferenceStars:
    columns = reference_catalogue(world.survey, world.stars)
    band = world.survey.filters[str(exposure.filter)].band
    return ReferenceStars(ra=np.asarray(columns["ra"]), dec=np.asarray(columns["dec"]), mag=np.asarray(columns[f"mag_{band}"]))


def _changed(world: World, rows: dict[str, dict[str, NDArray]]) -> Table:
    parts = []
    hosts = dict(zip(world.transients.id.tolist(), world.transients.host.tolist(), strict=True))
    for kind in ("transient", "variable", "asteroid"):
        table = Table(rows[f"{kind}_epochs"])["id", "x", "y", "ra", "dec", "flux_electron", "difference_njy", "snr"]
        table["kind"] = np.full(len(table), kind, "U9")
        table["host"] = np.array([hosts.get(i, -1) for i in table["id"].tolist()], np.int64)
        parts.append(table)
    changed = vstack(parts, metadata_conflicts="silent")
    changed["known"] = np.zeros(len(changed), np.int64)
    return changed


def _known(changed: Table, survey: SurveyConfig, exposure: Planned, rng: np.random.Generator, share: float) -> KnownObjects:
    """A share of transients and variables as DIAObjects of one earlier source each; their ids go into `changed`."""
    rows = np.flatnonzero((changed["kind"] != "asteroid") & (rng.random(len(changed)) < share))
    if not len(rows):
        return KnownObjects.none()
    earlier = exposure.id - 100_000 if exposure.seq_num > 1 else exposure.id
    ids = np.array([source_id(0, earlier - 1, 0, k + 1) for k in range(len(rows))], np.int64)
    changed["known"][rows] = ids
    dec = np.asarray(changed["dec"])[rows]
    table = Table(
        {
            "diaObjectId": ids,
            "ra": np.asarray(changed["ra"])[rows] + _POSITION_ERROR_DEG * rng.normal(size=len(rows)) / np.cos(np.radians(dec)),
            "dec": dec + _POSITION_ERROR_DEG * rng.normal(size=len(rows)),
            "raErr": np.full(len(rows), _POSITION_ERROR_DEG),
            "decErr": np.full(len(rows), _POSITION_ERROR_DEG),
            "nDiaSources": np.ones(len(rows), np.int32),
        }
    )
    sources = table["diaObjectId", "ra", "dec", "raErr", "decErr"]
    sources["diaSourceId"] = ids
    sources["visit"] = np.full(len(rows), earlier - 1)
    sources["detector"] = np.zeros(len(rows), np.int32)
    sources["x"], sources["y"] = np.asarray(changed["x"])[rows], np.asarray(changed["y"])[rows]
    sources["midpointMjdTai"] = sources["timeProcessedMjdTai"] = np.full(len(rows), exposure.mjd_mid - 1.0)
    sources["band"] = np.full(len(rows), survey.filters[str(exposure.filter)].band)
    sources["psfFlux"] = np.abs(np.asarray(changed["difference_njy"])[rows])
    sources["psfFluxErr"] = sources["psfFlux"] / 10.0
    return KnownObjects(objects=table, sources=sources)


def _bodies(changed: Table, rng: np.random.Generator) -> Bodies:
    moving = changed[changed["kind"] == "asteroid"]
    n = len(moving)
    error = _PREDICTION_ERROR_ARCSEC / 3600 * rng.normal(size=(2, n))
    return Bodies(
        id=np.asarray(moving["id"], np.int64),
        ra=np.asarray(moving["ra"]) + error[0] / np.cos(np.radians(np.asarray(moving["dec"]))),
        dec=np.asarray(moving["dec"]) + error[1],
        error_arcsec=np.full(n, _PREDICTION_ERROR_ARCSEC),
    )
