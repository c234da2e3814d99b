"""Frames of one field brought together by their stars alone, where no WCS and no catalogue is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.matching import NoMatch, match_stars


@dataclass(frozen=True, kw_only=True)
class StarList:
    """A frame's clean stars (n,): pixels, fluxes and errors; `fwhm_px` of its PSF."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    fwhm_px: float


@dataclass(frozen=True, kw_only=True)
class Registration:
    """`affine` (2, 3): the frame's pixels to the reference's; `scale`: its fluxes over the reference's, `scale_err` its error."""

    affine: NDArray[np.float64]
    scale: float
    scale_err: float
    n_matched: int
    rms_px: float


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    """How far frames may be apart."""

    max_shift_px: float = 100.0
    max_rotation_deg: float = 0.6
    brightest: int = 150
    tolerance_px: float = 1.0
    min_matched: int = 8


def choose_reference(frames: Mapping[int, StarList]) -> int:
    """The frame with most stars for its seeing (stars over FWHM); of equals the first. ValueError without frames."""
    if not frames:
        raise ValueError("no frame to choose a reference from")
    return min(frames, key=lambda key: (-len(frames[key].x) / max(frames[key].fwhm_px, 0.1), key))


def register_frames(
    frames: Mapping[int, StarList], reference: int, config: RegistrationConfig | None = None
) -> tuple[dict[int, Registration], dict[int, str]]:
    """Register every frame to the `reference`, itself included (the identity); and why those left out could not be."""
    config = config or RegistrationConfig()
    done, failed = {}, {}
    for key, frame in frames.items():
        try:
            done[key] = register(frame, frames[reference], config) if key != reference else _identity(frame)
        except NoMatch as error:
            failed[key] = str(error)
    return done, failed


def register(frame: StarList, reference: StarList, config: RegistrationConfig) -> Registration:
    """Affine map of a frame's pixels to the reference's, and the ratio of fluxes of common stars (clipped, weighted)."""
    order, reference_order = np.argsort(-frame.flux), np.argsort(-reference.flux)
    match = match_stars(
        np.column_stack([frame.x, frame.y])[order],
        np.column_stack([reference.x, reference.y])[reference_order],
        max_shift=config.max_shift_px,
        max_rotation_deg=config.max_rotation_deg,
        brightest=config.brightest,
        tolerance=config.tolerance_px,
        min_pairs=config.min_matched,
    )
    scale, error = _scale(frame, reference, order[match.first], reference_order[match.second])
    return Registration(affine=match.affine, scale=scale, scale_err=error, n_matched=len(match.first), rms_px=match.rms)


def _scale(frame: StarList, reference: StarList, a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, float]:
    ratio = np.log(frame.flux[a] / reference.flux[b])
    error = np.hypot(frame.flux_err[a] / frame.flux[a], reference.flux_err[b] / reference.flux[b])
    # No pair is trusted to better than 1 %: variables, and flats.
    weight = 1.0 / (error**2 + 0.01**2)
    middle = float(np.median(ratio[error < np.median(error) * 1.0001]))
    for _ in range(5):
        kept = np.abs(ratio - middle) < 3.0 * np.maximum(1.0 / np.sqrt(weight), 0.02)
        if not kept.any():
            break
        middle = float(np.average(ratio[kept], weights=weight[kept]))
    count = max(1, int(kept.sum()))
    scatter = float(np.sqrt(np.average((ratio[kept] - middle) ** 2, weights=weight[kept]))) if kept.any() else float("inf")
    return float(np.exp(middle)), scatter / count**0.5


def _identity(frame: StarList) -> Registration:
    return Registration(affine=np.eye(2, 3), scale=1.0, scale_err=0.0, n_matched=len(frame.x), rms_px=0.0)
