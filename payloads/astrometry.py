"""WCS and zero point of a frame from a reference catalogue."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from payloads.matching import NoMatch, match_stars


@dataclass(frozen=True, kw_only=True)
class AstrometryConfig:
    """How a frame is matched and fitted."""

    max_offset_arcsec: float = 60.0  # of the pointing
    max_rotation_deg: float = 0.6
    brightest: int = 200  # sources and reference stars that vote
    tolerance_px: float = 1.0  # of a pair, in the end
    min_matched: int = 8
    sip_order: int = 3  # highest; used where it lowers the rms as below
    sip_gain: float = 0.85  # a higher order must lower the rms to this part of the lower one's
    stars_per_term: int = 8  # pairs needed for each coefficient of an axis


@dataclass(frozen=True, kw_only=True)
class Astrometry:
    """`wcs`; pairs as indices `source` and `reference` of the lists given; `rms_px` per axis; SIP `order`, 1 for plain TAN;
    `offset_arcsec` between the initial and the final position of the frame's middle."""

    wcs: WCS
    source: NDArray[np.int64]
    reference: NDArray[np.int64]
    rms_px: float
    order: int
    offset_arcsec: float


@dataclass(frozen=True, kw_only=True)
class ZeroPoint:
    """AB magnitude of one electron in the exposure, its standard error, the scatter of one star, and the number of stars."""

    mag: float
    err: float
    scatter: float
    n: int


def solve_astrometry(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    mag: NDArray[np.float64],
    initial: WCS,
    shape: tuple[int, int],
    config: AstrometryConfig | None = None,
) -> Astrometry:
    """Fit the WCS of a frame of `shape` (ny, nx) whose sources (n,) are at pixels with `flux`, to reference stars (m,) in
    degrees.

    The reference stars are put on the frame by the `initial` WCS, matched by shift and rotation, then TAN, and SIP where pairs
    and rms warrant it, is fitted by linear least squares with outliers clipped. NoMatch where the two lists do not agree.
    """
    config = config or AstrometryConfig()
    scale = pixel_scale_arcsec(initial)
    margin = config.max_offset_arcsec / scale
    with np.errstate(invalid="ignore"):
        px, py = initial.all_world2pix(ra, dec, 0, quiet=True) if len(ra) else (np.zeros(0), np.zeros(0))
    near = np.flatnonzero((px > -margin) & (py > -margin) & (px < shape[1] + margin) & (py < shape[0] + margin))
    near = near[np.argsort(mag[near])]
    bright = np.flatnonzero(np.isfinite(flux) & (flux > 0))
    bright = bright[np.argsort(-flux[bright])]
    match = match_stars(
        np.column_stack([x, y])[bright],
        np.column_stack([px, py])[near],
        max_shift=margin,
        max_rotation_deg=config.max_rotation_deg,
        brightest=config.brightest,
        tolerance=config.tolerance_px,
        min_pairs=config.min_matched,
    )
    source, reference = bright[match.first], near[match.second]
    wcs, kept, rms, order = _best_wcs(x[source], y[source], ra[reference], dec[reference], initial, shape, config)
    source, reference = source[kept], reference[kept]
    if len(source) < config.min_matched:
        raise NoMatch(
            f"{len(source)} stars remain after clipping, {config.min_matched} needed: look at the catalogue of this field"
        )
    middle = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    before, after = initial.pixel_to_world(*middle), wcs.pixel_to_world(*middle)
    return Astrometry(
        wcs=wcs, source=source, reference=reference, rms_px=rms, order=order, offset_arcsec=float(before.separation(after).arcsec)
    )


def measure_zeropoint(
    flux: NDArray[np.float64], flux_err: NDArray[np.float64], mag: NDArray[np.float64], *, snr_min: float = 10.0
) -> ZeroPoint | None:
    """Zero point from matched stars (n,): clipped median of mag + 2.5 log10(flux in electron). None with fewer than three of
    them.

    Fainter stars than `snr_min` are left out: those that a threshold lets through are the ones that scattered up.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        each = mag + 2.5 * np.log10(flux)
        usable = np.isfinite(each) & (flux > snr_min * flux_err)
    values = each[usable]
    for _ in range(5):
        if len(values) < 3:
            return None
        middle = np.median(values)
        width = max(1.4826 * float(np.median(np.abs(values - middle))), 1e-3)
        kept = values[np.abs(values - middle) < 3.5 * width]
        if len(kept) == len(values):
            break
        values = kept
    # The median of n normal values is sqrt(pi / 2) as uncertain as their mean.
    return ZeroPoint(mag=float(middle), err=1.2533 * width / len(values) ** 0.5, scatter=width, n=len(values))


def pixel_scale_arcsec(wcs: WCS) -> float:
    """Geometric mean of the pixel scales at the reference pixel."""
    return float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600.0)


def wcs_cards(wcs: WCS) -> dict[str, Any]:
    """The WCS as plain FITS cards, CD matrix and SIP included, for storage; `wcs_from_cards` is the inverse."""
    with warnings.catch_warnings():
        # astropy announces that a header with CD cards and TAN-SIP is written with PC cards instead.
        warnings.simplefilter("ignore")
        header = wcs.to_header(relax=True)
    return {card.keyword: card.value for card in header.cards if card.keyword not in ("COMMENT", "HISTORY", "")}


def wcs_from_cards(cards: dict[str, Any]) -> WCS:
    """From what `wcs_cards` gave."""
    return WCS(fits.Header(cards))


def with_affine(wcs: WCS, affine: NDArray[np.float64]) -> WCS:
    """TAN WCS of a frame whose pixels map to those of `wcs` by `affine` (2, 3): exact, since TAN is linear in the pixels."""
    matrix, shift = affine[:, :2], affine[:, 2]
    composed = _tan(np.asarray(wcs.wcs.crval), np.asarray(wcs.wcs.crpix), wcs.pixel_scale_matrix @ matrix)
    # crpix counts from 1, the affine from 0.
    composed.wcs.crpix = np.linalg.solve(matrix, np.asarray(wcs.wcs.crpix) - 1.0 - shift) + 1.0
    composed.wcs.set()
    return composed


def _best_wcs(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    initial: WCS,
    shape: tuple[int, int],
    config: AstrometryConfig,
) -> tuple[WCS, NDArray[np.bool_], float, int]:
    best = _fit_wcs(x, y, ra, dec, initial, shape, 1)
    for order in range(2, config.sip_order + 1):
        if len(x) < config.stars_per_term * (order + 1) * (order + 2) // 2:
            break
        wcs, kept, rms = _fit_wcs(x, y, ra, dec, initial, shape, order)
        if rms < config.sip_gain * best[2]:
            best = (wcs, kept, rms)
    final = best[0].sip.a_order if best[0].sip is not None else 1
    return best[0], best[1], best[2], int(final)


def _fit_wcs(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    initial: WCS,
    shape: tuple[int, int],
    order: int,
) -> tuple[WCS, NDArray[np.bool_], float]:
    """TAN or TAN-SIP of an order about the frame's middle; returns it, the stars kept and their rms per axis in px.

    The plane touches the sky at the frame's middle, which is found by iteration: the constant term of the fit is carried into
    CRVAL.
    """
    crpix = np.array([(shape[1] + 1) / 2.0, (shape[0] + 1) / 2.0])
    u, v = x + 1.0 - crpix[0], y + 1.0 - crpix[1]
    powers = [(p, q) for total in range(order + 1) for p, q in [(total - q, q) for q in range(total + 1)]]
    span = max(shape) / 2.0
    design = np.stack([(u / span) ** p * (v / span) ** q for p, q in powers], axis=1)
    crval = np.array(initial.all_pix2world([crpix], 1)[0], dtype=np.float64)
    kept = np.ones(len(x), dtype=bool)
    for _ in range(4):
        plane = np.column_stack(_tan(crval, np.zeros(2), np.eye(2)).wcs_world2pix(ra, dec, 1))
        solution = np.linalg.lstsq(design[kept], plane[kept], rcond=None)[0]
        crval = np.array(_tan(crval, np.zeros(2), np.eye(2)).wcs_pix2world([solution[0]], 1)[0])
        coefficients = {pq: solution[k] / span ** sum(pq) for k, pq in enumerate(powers)}
        cd = np.column_stack([coefficients[1, 0], coefficients[0, 1]])
        residual = np.linalg.solve(cd, (plane - design @ solution).T).T
        distance = np.hypot(*residual.T)
        kept = distance <= 3.5 * max(float(np.median(distance[kept])) / 1.1774, 1e-3)
    wcs = _tan(crval, crpix, cd)
    if order > 1:
        wcs = _with_sip(wcs, {pq: np.linalg.solve(cd, c) for pq, c in coefficients.items() if sum(pq) > 1}, order)
    return wcs, kept, float(np.sqrt((residual[kept] ** 2).mean()))


def _with_sip(wcs: WCS, terms: dict[tuple[int, int], NDArray[np.float64]], order: int) -> WCS:
    header = wcs.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    for name, axis in (("A", 0), ("B", 1)):
        header[f"{name}_ORDER"] = order
        for (p, q), value in terms.items():
            header[f"{name}_{p}_{q}"] = float(value[axis])
    return WCS(header)


def _tan(crval: NDArray[np.float64], crpix: NDArray[np.float64], cd: NDArray[np.float64]) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = crval
    wcs.wcs.crpix = crpix
    wcs.wcs.cd = cd
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs
