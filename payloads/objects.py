"""Objects of a patch: found on all bands together, measured in each at one position.

Detection is on the root of the sum of squares of the bands' matched-filter signal-to-noise, negative ones set to zero (the chi
image of Szalay, Connolly & Szokoly 1999, smoothed first), so that a source seen in one band alone is not lost among the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage, optimize, signal, stats

from payloads.coadd import NJY_PER_UNIT
from payloads.detection import SourceFlag
from payloads.forced import forced_fluxes
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.photometry import add_sources, cut_stamps, fit_psf_flux, psf_aperture_fraction
from payloads.psf import PsfModel

Floats = NDArray[np.float64]
_SIGMA_PER_FWHM = 1 / 2.3548


@dataclass(frozen=True, kw_only=True, eq=False)
class BandImage:
    """One band's coadd on the patch's grid, AB mag 27 = 1; planes of shape (ny, nx)."""

    data: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint32]
    psf: PsfModel

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Where the image may be believed."""
        return ~any_set(self.mask, UNUSABLE, self.data.shape) & np.isfinite(self.variance) & (self.variance > 0)


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """How objects are found and measured."""

    threshold_sigma: float = 5.0  # of the combined matched filter, as a Gaussian's chance
    least_snr: float = 4.0  # of the fitted fluxes together: below, a detection was noise or a neighbour's
    min_pixels: int = 1  # the image is smoothed already: of a faint source of two pixels' width only the peak passes
    deblend_levels: int = 32
    deblend_contrast: float = 0.0002  # of a whole blend's flux: in a cluster that is the light of hundreds of stars
    aperture_fwhm: float = 2.0  # radius of the aperture, in FWHM of the broadest band
    star_excess: float = 0.04  # a star's aperture flux exceeds that of its PSF by less than this part, noise aside


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    x: Floats
    y: Floats
    a: Floats
    b: Floats
    theta: Floats
    blended: NDArray[np.bool_]


def matched_snr(image: BandImage) -> Floats:
    """Signal over the sky's noise (ny, nx) of a point source at every pixel, PSF of the middle; 0 without usable pixels.

    The sky's noise alone, so that the result is proportional to the light: photon noise would flatten bright sources, and hide
    the gap between two.
    """
    (ny, nx), usable = image.data.shape, image.usable
    if not usable.any():
        return np.zeros((ny, nx))
    kernel = image.psf.at((nx - 1) / 2, (ny - 1) / 2)[::-1, ::-1]
    sky = _sky_variance(image, usable)
    value = signal.oaconvolve(np.where(usable, image.data, 0).astype(np.float64), kernel, mode="same")
    noise = signal.oaconvolve(np.where(usable, sky, 0).astype(np.float64), kernel**2, mode="same")
    # With less than a tenth of the PSF on usable pixels, rounding of the transform would be divided by nothing.
    some = noise > 0.1 * (kernel**2).sum() * np.percentile(sky[usable], 1)
    return np.asarray(np.divide(value, np.sqrt(np.maximum(noise, 1e-300)), out=np.zeros((ny, nx)), where=some))


def _sky_variance(image: BandImage, usable: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The variance without what sources add to it.

    Their share is the excess over a morphological opening where there is light; a narrow strip of few inputs, which an opening
    would take for a source, has none and keeps its variance.
    """
    variance = np.where(usable, image.variance, np.median(image.variance[usable]))
    base = ndimage.grey_opening(ndimage.uniform_filter(variance, 5), size=2 * int(np.ceil(3 * image.psf.fwhm_px)) + 1)
    bright = usable & (image.data > 10 * np.sqrt(base))
    if not bright.any():
        return np.asarray(variance)
    per_light = np.median((variance - base)[bright] / image.data[bright])
    return np.asarray(np.maximum(np.minimum(base, variance), variance - per_light * np.maximum(image.data, 0)))


def chi_threshold(sigma: float, n_bands: int) -> float:
    """Value that the chi image of `n_bands` bands passes by chance as often as a Gaussian passes `sigma`."""
    chance = stats.norm.sf(sigma)

    def excess(threshold: float) -> float:
        ways = (comb(n_bands, k) / 2**n_bands * stats.chi2.sf(threshold**2, k) for k in range(1, n_bands + 1))
        return float(np.log(sum(ways)) - np.log(chance))

    return float(optimize.brentq(excess, sigma * 0.5, sigma + 2 * n_bands))


def detect_objects(bands: Mapping[str, BandImage], settings: ObjectSettings) -> _Found:
    """Positions and extents on the chi image; sources are separated as SExtractor does (sep)."""
    snr = [matched_snr(image) for image in bands.values()]
    chi = np.sqrt(sum(np.maximum(s, 0) ** 2 for s in snr)).astype(np.float32)
    sep.set_extract_pixstack(max(300_000, chi.size // 2))
    sep.set_sub_object_limit(4096)
    found = sep.extract(
        chi,
        chi_threshold(settings.threshold_sigma, len(bands)),
        minarea=settings.min_pixels,
        filter_kernel=None,  # it is smooth already
        deblend_nthresh=settings.deblend_levels,
        deblend_cont=settings.deblend_contrast,
    )
    blended = (found["flag"] & sep.OBJ_MERGED) != 0
    # The centroid of a blended source leans to its neighbour; its peak does not.
    x, y = (np.where(blended, found[f"{c}peak"], found[c]).astype(np.float64) for c in "xy")
    return _Found(x=x, y=y, a=found["a"], b=found["b"], theta=found["theta"], blended=blended)


def measure_objects(bands: Mapping[str, BandImage], settings: ObjectSettings) -> Table:
    """Objects of a patch, every one that the images show (also those of the border), ordered by y.

    Columns: `x y xErr yErr` (px), `refBand` (the band of highest signal-to-noise, which gives position, shape and class), `snr`
    (of all bands), `shapeXX shapeYY shapeXY` (px2, Gaussian-weighted moments), `extendedness` (aperture over PSF flux, less 1),
    `isStar`, `flags` (SourceFlag), and per band `{band}_psfFlux`, `_apFlux`, `_kronFlux`, each with `Err` (nJy; aperture fluxes
    corrected to the PSF's total, neighbours subtracted), and `{band}_flags`. What cannot be measured is NaN.
    """
    found = detect_objects(bands, settings)
    names = list(bands)
    position = {name: _positions(bands[name], found) for name in names}
    best = np.argmax([p["snr"] for p in position.values()], axis=0) if found.x.size else np.zeros(0, int)
    x, y, x_err, y_err = (_choose([p[key] for p in position.values()], best) for key in ("x", "y", "x_err", "y_err"))
    order = np.argsort(y, kind="stable")
    found = _Found(**{key: getattr(found, key)[order] for key in vars(found)})
    best, x, y, x_err, y_err = best[order], x[order], y[order], x_err[order], y_err[order]
    fwhm_px = max(image.psf.fwhm_px for image in bands.values())
    radius = settings.aperture_fwhm * fwhm_px
    measured = {name: _measure_band(image, found, x, y, radius) for name, image in bands.items()}
    table = Table({"x": x, "y": y, "xErr": x_err, "yErr": y_err})
    table["refBand"] = np.array(names)[best] if x.size else np.zeros(0, "U8")
    ratios = [np.nan_to_num(m["psfFlux"] / m["psfFluxErr"]) for m in measured.values()]
    table["snr"] = np.sqrt(sum(np.maximum(r, 0) ** 2 for r in ratios))
    for key in ("shapeXX", "shapeYY", "shapeXY", "extendedness"):
        table[key] = _choose([m.pop(key) for m in measured.values()], best)
    excess_err = _choose([m["apFluxErr"] / np.abs(m["psfFlux"]) for m in measured.values()], best)
    table["isStar"] = ~(table["extendedness"] > settings.star_excess + 2 * np.nan_to_num(excess_err))
    table["flags"] = _choose([m["flags"] for m in measured.values()], best) | np.where(found.blended, int(SourceFlag.BLENDED), 0)
    for name, columns in measured.items():
        for key, column in columns.items():
            table[f"{name}_{key}"] = column
    return table[(table["snr"] >= settings.least_snr) | (table["flags"] & int(SourceFlag.NO_FIT) != 0)]


def _choose(columns: list[NDArray[np.generic]], which: NDArray[np.intp]) -> NDArray[np.generic]:
    """Of each row, the value of the column that `which` numbers."""
    return np.take_along_axis(np.stack(columns), which[None], axis=0)[0]


def _positions(image: BandImage, found: _Found) -> dict[str, Floats]:
    """Fitted positions in one band; where the fit fails the detection's, with error NaN."""
    usable = image.usable
    data, variance = np.where(usable, image.data, 0), np.where(usable, image.variance, 0)
    fit = fit_psf_flux(data, variance, ~usable, image.psf, found.x, found.y)
    near = fit.good & (np.hypot(fit.x - found.x, fit.y - found.y) < 1.5) & (fit.flux > 0)
    return {
        "x": np.where(near, fit.x, found.x),
        "y": np.where(near, fit.y, found.y),
        "x_err": np.where(near, fit.x_err, np.nan),
        "y_err": np.where(near, fit.y_err, np.nan),
        "snr": np.where(near, fit.flux / np.where(near, fit.flux_err, 1), 0.0),
    }


def _measure_band(image: BandImage, found: _Found, x: Floats, y: Floats, radius: float) -> dict[str, NDArray[np.generic]]:
    usable = image.usable
    data = np.ascontiguousarray(np.where(usable, image.data, 0), np.float32)
    variance = np.ascontiguousarray(np.where(usable, image.variance, 0), np.float32)
    forced = forced_fluxes(image.data, image.variance, image.mask, image.psf, x, y)
    fraction = psf_aperture_fraction(image.psf, radius)
    # What is left when every source's PSF is subtracted, and one's own put back: neighbours do not count.
    own = np.nan_to_num(forced.flux)
    rest = data.copy()
    add_sources(rest, image.psf, x, y, -own)
    rest[~usable] = 0
    ap_rest, ap_err, _ = sep.sum_circle(rest, x, y, radius, var=variance, mask=~usable, subpix=5)
    ap_flux, ap_err = ap_rest / fraction + own, ap_err / fraction
    kron_flux, kron_err = _kron(data, variance, ~usable, found, x, y, radius)
    ap_flux[~forced.good] = np.nan
    moments = weighted_moments(data, x, y, image.psf.fwhm_px * _SIGMA_PER_FWHM * 1.5)
    with np.errstate(invalid="ignore", divide="ignore"):
        extendedness = ap_flux / forced.flux - 1
    scale = NJY_PER_UNIT
    return {
        "psfFlux": forced.flux * scale,
        "psfFluxErr": forced.flux_err * scale,
        "apFlux": ap_flux * scale,
        "apFluxErr": ap_err * scale,
        "kronFlux": kron_flux * scale,
        "kronFluxErr": kron_err * scale,
        "flags": _flags(image, forced.bits, forced.good, x, y),
        "extendedness": extendedness,
        "shapeXX": moments[:, 0],
        "shapeYY": moments[:, 1],
        "shapeXY": moments[:, 2],
    }


def _kron(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    found: _Found,
    x: Floats,
    y: Floats,
    least: float,
) -> tuple[Floats, Floats]:
    """Flux in 2.5 Kron radii (Kron 1980, as SExtractor's AUTO), at least in a circle of radius `least`; NaN if none."""
    flux, error = np.full(x.size, np.nan), np.full(x.size, np.nan)
    ok = np.isfinite(found.a) & np.isfinite(found.b) & (found.b > 0)
    theta = np.clip(found.theta, -np.pi / 2, np.pi / 2)
    radius, _ = sep.kron_radius(data, x[ok], y[ok], found.a[ok], found.b[ok], theta[ok], 6.0, mask=bad)
    radius = 2.5 * np.nan_to_num(radius)
    small = radius * np.sqrt(found.a[ok] * found.b[ok]) < least
    a = np.where(small, 1.0, found.a[ok])
    b = np.where(small, 1.0, found.b[ok])
    radius = np.where(small, least, np.minimum(radius, 20.0))
    flux[ok], error[ok], _ = sep.sum_ellipse(data, x[ok], y[ok], a, b, theta[ok], radius, var=variance, mask=bad, subpix=5)
    return flux, error


def weighted_moments(data: NDArray[np.floating], x: Floats, y: Floats, sigma_px: float) -> Floats:
    """Second moments (n, 3: xx, yy, xy in px2) under a round Gaussian weight of `sigma_px`, the weight taken out again.

    Exact for a Gaussian source (of any shape); NaN where noise leaves no positive moments.
    """
    half = int(np.ceil(3 * sigma_px))
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    stamps = cut_stamps(data, column, row, half, 0.0).astype(np.float64)
    offsets = np.arange(-half, half + 1)
    u = offsets[None, None, :] - (x - column)[:, None, None]
    v = offsets[None, :, None] - (y - row)[:, None, None]
    light = stamps * np.exp(-0.5 * (u**2 + v**2) / sigma_px**2)
    total = light.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        xx, yy, xy = ((light * product).sum(axis=(1, 2)) / total for product in (u * u, v * v, u * v))
        # The product of two Gaussians: inverse covariances add.
        det = xx * yy - xy**2
        ixx, iyy, ixy = yy / det - sigma_px**-2, xx / det - sigma_px**-2, -xy / det
        det = ixx * iyy - ixy**2
        result = np.stack([iyy / det, ixx / det, -ixy / det], axis=1)
    result[~((total > 0) & (ixx > 0) & (iyy > 0) & (det > 0))] = np.nan
    return result


def _flags(image: BandImage, bits: NDArray[np.uint32], good: NDArray[np.bool_], x: Floats, y: Floats) -> NDArray[np.int32]:
    flags = np.zeros(bits.size, np.int32)
    for bit, flag in (
        (Mask.SAT, SourceFlag.SATURATED),
        (Mask.BAD | Mask.NO_DATA, SourceFlag.BAD),
        (Mask.SUSPECT, SourceFlag.SUSPECT),
    ):
        flags[(bits & np.uint32(bit)) != 0] |= int(flag)
    flags[~good] |= int(SourceFlag.NO_FIT)
    half, (ny, nx) = image.psf.size // 2, image.data.shape
    flags[(x < half) | (y < half) | (x > nx - 1 - half) | (y > ny - 1 - half)] |= int(SourceFlag.EDGE)
    return flags
