"""A reduced frame's background, cosmic rays, PSF and sources."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import sep
from numpy.typing import NDArray

from payloads.background import Sky, subtract_background
from payloads.cosmic_rays import find_cosmic_rays, star_falls
from payloads.detection import Detections, NothingDetected, SourceFlag, detect, flag_sources
from payloads.mask import UNUSABLE, Mask, any_set, grown
from payloads.photometry import PsfFit, add_sources, aperture_flux, fit_psf_flux, psf_aperture_fraction
from payloads.psf import PsfModel
from payloads.stars import build_psf, choose_stars, common_width


@dataclass(frozen=True, kw_only=True)
class CharacterizeConfig:
    """How a frame is characterized; lengths in px, fluxes in sigma."""

    box_px: int = 64  # mesh of the background
    threshold: float = 4.0  # of detection, in the noise of the smoothed image
    min_pixels: int = 3
    snr_min: float = 5.0  # of a source's PSF flux, to be kept
    cosmic_ray_sigma: float = 6.0
    psf_order: int = 2
    deblend_contrast: float = 0.005
    aperture_fwhm: float = 2.0  # radius of apFlux
    deblend_levels: int = 32
    refine_sky: bool = True  # a third pass of the background, without faint sources too
    half_light: bool = True  # measure each source's `fwhm`; else it is NaN


@dataclass(frozen=True, kw_only=True)
class Characterized:
    """Results: background-subtracted `data` and `mask` (ny, nx), `sky`, `psf` and `columns` of the sources by name, each (n,)."""

    data: NDArray[np.float32]
    mask: NDArray[np.uint32]
    sky: Sky
    psf: PsfModel
    n_psf_stars: int
    n_cosmic_ray_pixels: int
    columns: dict[str, NDArray[np.generic]]


def characterize(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.uint32],
    config: CharacterizeConfig | None = None,
    *,
    overwrite: bool = False,
) -> Characterized:
    """Characterize a frame in electrons with variance and mask, all (ny, nx). NothingDetected where there is no star.

    Two passes: the first, shallow, to know the width of stars, so that cosmic rays can be told and sources be kept out of the
    background; the second, deep. PSF, then PSF fluxes, then both once more with each source's neighbours subtracted. With
    `overwrite` the results take the places of `data` and `mask`.
    """
    config = config or CharacterizeConfig()
    mask = mask if overwrite else mask.copy()
    unusable = any_set(mask, UNUSABLE, data.shape)
    if unusable.all():
        raise NothingDetected("every pixel of the frame is masked: look at its calibrations")
    image = np.ascontiguousarray(data, np.float32) if overwrite else np.array(data, np.float32)
    rough = subtract_background(image, unusable, box_px=config.box_px, noise=True, image=True)
    fwhm, falls, sources = _first_look(image, rough.noise, unusable)
    rough = replace(rough, noise=None)
    hit = find_cosmic_rays(image, variance, unusable, falls, sigma=config.cosmic_ray_sigma)
    mask[hit] |= mask.dtype.type(Mask.CR)
    unusable |= hit
    # Not what it left is looked at, but the frame: where stars leave no pixel of a mesh free, it had taken them for sky.
    image += rough.image
    del rough
    sky = subtract_background(image, unusable, box_px=config.box_px, sources=grown(sources, 2.0 * fwhm), noise=True)
    found = detect(
        image,
        sky.noise,
        unusable,
        fwhm,
        threshold=config.threshold,
        min_pixels=config.min_pixels,
        deblend_levels=config.deblend_levels,
        deblend_contrast=config.deblend_contrast,
    )
    if not len(found):
        raise NothingDetected("no source is above threshold: clouds, or a closed dome")
    mask[found.footprint] |= mask.dtype.type(Mask.DETECTED)
    if config.refine_sky:
        sky = _without_faint_sources(image, unusable, found, fwhm, sky, config)
    sky = replace(sky, noise=None)
    psf, n_stars, fit = _psf_and_fluxes(image, variance, mask, unusable, found, fwhm, sky.sigma, config)
    columns = _columns(image, variance, mask, unusable, found, psf, fit, config)
    return Characterized(
        data=image, mask=mask, sky=sky, psf=psf, n_psf_stars=n_stars, n_cosmic_ray_pixels=int(hit.sum()), columns=columns
    )


def _first_look(
    image: NDArray[np.float32], noise: NDArray[np.float32], unusable: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64], NDArray[np.bool_]]:
    """FWHM, how stars fall from their peaks (see payloads.cosmic_rays), and the pixels of bright sources."""
    # One level: sep works through the others though the contrast forbids their use.
    once = {"deblend_levels": 1, "deblend_contrast": 1.0}
    bright = detect(image, noise, unusable, 3.0, threshold=10.0, min_pixels=5, **once)
    fwhm, stars = common_width(image, bright, unusable)
    if not np.isfinite(fwhm):
        raise NothingDetected("no source is bright enough to tell the width of stars: clouds, or a closed dome")
    fwhm = max(fwhm, 1.5)
    return fwhm, star_falls(image, unusable, bright.x[stars], bright.y[stars], fwhm), bright.footprint


def _without_faint_sources(
    image: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    found: Detections,
    fwhm: float,
    sky: Sky,
    config: CharacterizeConfig,
) -> Sky:
    """The background off `image` once more, now without all that is detected: faint sources raise it by a part in a thousand,
    which aperture fluxes show. In crowded fields, with less than a third of the frame free, the former one."""
    covered = grown(found.footprint, fwhm)
    if (covered | unusable).mean() > 2.0 / 3.0:
        return sky
    left = subtract_background(image, unusable, box_px=config.box_px, sources=covered)
    return replace(left, level=sky.level + left.level)


def _psf_and_fluxes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.uint32],
    unusable: NDArray[np.bool_],
    found: Detections,
    fwhm: float,
    sigma: float,
    config: CharacterizeConfig,
) -> tuple[PsfModel, int, PsfFit]:
    """PSF and fluxes, the second time with neighbours subtracted."""
    reach = max(3, round(fwhm))
    flags = flag_sources(found.x, found.y, mask, core_px=reach, reach_px=round(3.5 * fwhm) + 3)
    stars = choose_stars(image, sigma, unusable, found, flags, fwhm)
    psf, _ = build_psf(image, unusable, found.x[stars], found.y[stars], fwhm, sigma, order=config.psf_order)
    fit = fit_psf_flux(image, variance, unusable, psf, found.x, found.y, rounds=2)
    psf, n_stars = build_psf(
        _alone(image, psf, fit, stars),
        unusable,
        fit.x[stars],
        fit.y[stars],
        psf.fwhm_px,
        sigma,
        order=config.psf_order,
        size=psf.size,
    )
    residual = image.copy()
    kept = fit.good & (fit.flux > 0)
    add_sources(residual, psf, fit.x[kept], fit.y[kept], -fit.flux[kept])
    again = fit_psf_flux(residual, variance, unusable, psf, fit.x, fit.y, own_flux=np.where(kept, fit.flux, 0.0))
    return psf, n_stars, again


def _alone(image: NDArray[np.float32], psf: PsfModel, fit: PsfFit, stars: NDArray[np.int64]) -> NDArray[np.float32]:
    """The image without the sources that are no PSF stars."""
    others = fit.good & (fit.flux > 3.0 * fit.flux_err)
    others[stars] = False
    cleaned = image.copy()
    add_sources(cleaned, psf, fit.x[others], fit.y[others], -fit.flux[others])
    return cleaned


def _columns(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.uint32],
    unusable: NDArray[np.bool_],
    found: Detections,
    psf: PsfModel,
    fit: PsfFit,
    config: CharacterizeConfig,
) -> dict[str, NDArray[np.generic]]:
    """The columns of `src` that need no ids or sky positions, of the sources that are significant."""
    fwhm = psf.fwhm_px
    significant = (fit.flux > config.snr_min * fit.flux_err) | ~fit.good
    fit = replace(fit, **{name: value[significant] for name, value in vars(fit).items()})
    flags = flag_sources(fit.x, fit.y, mask, core_px=max(2, round(fwhm)), reach_px=max(2, round(fwhm)))
    flags[found.blended[significant]] |= int(SourceFlag.BLENDED)
    flags[~fit.good] |= int(SourceFlag.NO_FIT)
    apertures = []
    for scale in (1.25, config.aperture_fwhm):
        flux, error = aperture_flux(image, variance, unusable, fit.x, fit.y, scale * fwhm)
        fraction = psf_aperture_fraction(psf, scale * fwhm)
        apertures.append((flux / fraction, error / fraction))
    half_light = np.full(len(fit.x), np.nan)
    if config.half_light:
        reach = np.full(len(fit.x), 2.5 * fwhm)
        half_light, _ = sep.flux_radius(np.ascontiguousarray(image), fit.x, fit.y, reach, 0.5, mask=unusable, subpix=5)
    with np.errstate(divide="ignore", invalid="ignore"):
        extended = 1.0 - fit.flux / apertures[0][0]
        tolerance = 0.04 + 2.0 * apertures[0][1] / np.abs(apertures[0][0])
    return {
        "x": fit.x,
        "y": fit.y,
        "xErr": fit.x_err,
        "yErr": fit.y_err,
        "psfFlux": fit.flux,
        "psfFluxErr": fit.flux_err,
        "apFlux": apertures[1][0],
        "apFluxErr": apertures[1][1],
        "snr": fit.flux / fit.flux_err,
        "fwhm": 2.0 * half_light,
        "flags": flags,
        "isStar": (extended < tolerance) & fit.good,
    }
