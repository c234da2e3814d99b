"""The chain: raw frames of one detector of one visit to difference, sources, objects and what is worth telling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from payloads.characterize import CharacterizeConfig, Characterized, characterize
from payloads.dia_catalog import dia_source_table, njy_per_electron
from payloads.dia_sources import DiaSourceConfig, detect, psf_field
from payloads.difference import Difference, DifferenceConfig, Image, subtract, typical
from payloads.exposure import ExposureFacts
from payloads.forced import lone_fluxes, on_frame
from payloads.fringes import take_off_fringes
from payloads.isr import Plane, prepare, remove_signature
from payloads.kernel import KernelConfig
from payloads.prompt.known import associate_visit
from payloads.prompt.preloaded import Preloaded
from payloads.prompt.result import FrameQuality, PromptResult, RawFrame
from payloads.prompt.settings import PromptSettings
from payloads.prompt.snaps import join_snaps
from payloads.solution import Solved, initial_wcs, solve
from payloads.template import NoTemplate, warp_template

_LET_GO = np.zeros((0, 0), np.uint16)
OnStage = Callable[[str], None]
# Stars for PSF, astrometry and photometry are wanted, not a catalogue.
_LIGHT = CharacterizeConfig(threshold=8.0, box_px=128, deblend_levels=16, refine_sky=False, half_light=False)


class _Stages:
    """Times stages, and tells of each as it begins."""

    def __init__(self, on_stage: OnStage | None, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._tell, self._clock = on_stage, clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._tell is not None:
            self._tell(name)
        begin = self._clock()
        yield
        self.seconds[name] = self._clock() - begin


def process_detector(
    snaps: Iterable[RawFrame],
    preloaded: Preloaded,
    settings: PromptSettings | None = None,
    *,
    processed_mjd_tai: float,
    on_stage: OnStage | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PromptResult:
    """Process one detector of one visit, of one or more snaps; each is let go when it has been reduced.

    `on_stage(name)` is called when a stage begins: whoever must stop a visit at its deadline raises there. Errors are
    permanent and say what is wrong with the frame: overscan.FrameUnusable, detection.NothingDetected, matching.NoMatch,
    solution.NoPointing, template.NoTemplate, kernel.KernelError.
    """
    settings = settings or PromptSettings()
    stages = _Stages(on_stage, clock)
    with stages("isr"):
        frames = [(_reduced(snap, preloaded), replace(snap, pixels=_LET_GO)) for snap in snaps]
        del snaps
        first = frames[0][1]
        plane, facts = join_snaps([(plane, frame.facts) for plane, frame in frames])
        del frames
    with stages("characterize"):
        found = characterize(plane.data, plane.variance, plane.mask, _LIGHT, overwrite=True)
        science = Plane(data=found.data, mask=found.mask, variance=plane.variance)
    with stages("astrometry"):
        solved = _solved(found, first.wcs, facts, preloaded)
    wcs, zeropoint = solved.astrometry.wcs, float(solved.entries["zeropoint_mag"])
    with stages("template"):
        template, coverage = warp_template(preloaded.template, wcs, science.data.shape, zeropoint)
        if coverage < settings.min_coverage:
            raise NoTemplate(f"the template covers {coverage:.1%} of the frame, less than {settings.min_coverage:.1%}")
        template = template.filled(overwrite=True)
    with stages("subtract"):
        image = Image(data=science.data, variance=science.variance, mask=science.mask, fwhm_px=found.psf.fwhm_px)
        image = image.filled(overwrite=True)
        config = DifferenceConfig(kernel=KernelConfig(order=settings.kernel_order), decorrelate=settings.decorrelate)
        psf = psf_field(found.psf, science.data.shape)
        difference = subtract(image, template, psf, config, _stars(found), overwrite_template=True)
        template_mask = template.mask
        del template  # its arrays are the difference's now
    with stages("detect"):
        measured, score = detect(difference, difference.fwhm_px, DiaSourceConfig(threshold_snr=settings.threshold_snr))
        del score
        sources = dia_source_table(
            measured,
            shape=science.data.shape,
            wcs=wcs,
            zeropoint_mag=zeropoint,
            visit=first.visit,
            detector=preloaded.detector.id,
            band=facts.band,
            midpoint_mjd_tai=facts.mjd_mid_tai,
            processed_mjd_tai=processed_mjd_tai,
            release=settings.release,
        )
    with stages("associate"):
        objects = associate_visit(sources, preloaded.known, preloaded.bodies, settings)
        told = _told(sources, settings)
    with stages("forced"):
        forced = _forced(difference, preloaded, wcs, zeropoint, first, facts)
    return PromptResult(
        visit=first.visit,
        detector=preloaded.detector.id,
        facts=facts,
        science=science,
        psf=found.psf,
        sources=found.columns,
        wcs=wcs,
        solution=solved.entries,
        difference=difference,
        template_mask=template_mask,
        dia_sources=sources,
        told=told,
        forced=forced,
        objects=objects,
        quality=_quality(found, solved, difference, coverage, zeropoint, len(sources), int(told.sum()), preloaded),
        timings_s=stages.seconds,
    )


def _reduced(snap: RawFrame, preloaded: Preloaded) -> Plane:
    prepared = prepare(snap.pixels, preloaded.detector)
    plane, _ = remove_signature(
        prepared,
        preloaded.detector,
        bias=preloaded.bias,
        dark=preloaded.dark,
        flat=preloaded.flat,
        illumination=preloaded.illumination,
        dark_time_s=snap.facts.dark_time_s,
        overwrite=True,
    )
    if preloaded.fringe is not None:
        take_off_fringes(plane, preloaded.fringe)
    # Half of a mask's 32 bits have no meaning yet, and at full size they are 33 MB.
    return replace(plane, mask=plane.mask.astype(np.uint16))


def _stars(found: Characterized) -> tuple[np.ndarray, np.ndarray]:
    """Where stars are that a kernel may be solved on."""
    good = np.asarray(found.columns["isStar"]) & (np.asarray(found.columns["flags"]) == 0)
    return found.columns["x"][good], found.columns["y"][good]


def _solved(found: Characterized, header: WCS | None, facts: ExposureFacts, preloaded: Preloaded) -> Solved:
    number, stars = preloaded.detector.id, preloaded.reference
    initial, _ = initial_wcs(header, facts, preloaded.camera, number)
    return solve(found.columns, (stars.ra, stars.dec, stars.mag), initial, facts, preloaded.camera, number)


def _told(sources: Table, settings: PromptSettings) -> np.ndarray:
    told = np.asarray(sources["reliability"]) >= settings.alert_reliability
    return told if settings.alert_dipoles else told & ~np.asarray(sources["isDipole"], bool)


def _forced(
    difference: Difference,
    preloaded: Preloaded,
    wcs: WCS,
    zeropoint: float,
    frame: RawFrame,
    facts: ExposureFacts,
) -> Table:
    """PSF fluxes on the difference at all known objects of the frame."""
    objects = preloaded.known.objects
    ra, dec = (np.asarray(objects[name], float) for name in ("ra", "dec"))
    rows, x, y = on_frame(wcs, ra, dec, difference.data.shape) if len(objects) else (np.zeros(0, int), np.zeros(0), np.zeros(0))
    fluxes = lone_fluxes(difference.data, difference.variance, difference.mask, difference.psf, x, y)
    scale, n = njy_per_electron(zeropoint), len(rows)
    return Table(
        {
            "diaObjectId": np.asarray(objects["diaObjectId"], np.int64)[rows],
            "visit": np.full(n, frame.visit, np.int64),
            "detector": np.full(n, preloaded.detector.id, np.int32),
            "band": np.full(n, facts.band, f"U{max(len(facts.band), 1)}"),
            "midpointMjdTai": np.full(n, facts.mjd_mid_tai),
            "ra": ra[rows],
            "dec": dec[rows],
            "x": x,
            "y": y,
            "psfFlux": fluxes.flux * scale,
            "psfFluxErr": fluxes.flux_err * scale,
        }
    )


def _quality(
    found: Characterized,
    solved: Solved,
    difference: Difference,
    coverage: float,
    zeropoint: float,
    n_sources: int,
    n_alerts: int,
    preloaded: Preloaded,
) -> FrameQuality:
    scale = preloaded.camera.pixel_scale_arcsec
    stamp = found.psf.at(found.psf.x0, found.psf.y0)
    area = 1.0 / float((stamp**2).sum())  # pixels of sky noise that a PSF flux has

    def depth(variance: float) -> float:
        return zeropoint - 2.5 * float(np.log10(5.0 * np.sqrt(area * variance)))

    return FrameQuality(
        psf_fwhm_px=found.psf.fwhm_px,
        psf_fwhm_arcsec=found.psf.fwhm_px * scale,
        wcs_rms_mas=solved.astrometry.rms_px * scale * 1000.0,
        wcs_stars=len(solved.astrometry.source),
        zeropoint_mag=zeropoint,
        zeropoint_err=float(solved.entries["zeropoint_err"]),
        depth_mag=depth(found.sky.sigma**2),
        difference_depth_mag=depth(typical(difference.variance)),
        sky_electron=found.sky.level,
        sky_noise_electron=found.sky.sigma,
        n_sources=len(found.columns["x"]),
        n_psf_stars=found.n_psf_stars,
        n_cosmic_ray_pixels=found.n_cosmic_ray_pixels,
        template_coverage=coverage,
        kernel_stars=difference.kernel.n_used,
        kernel_chi2=difference.kernel.chi2,
        n_dia_sources=n_sources,
        n_alerts=n_alerts,
    )
