"""Instrument signature removal: raw ADU to electrons with variance and mask, and the masters that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from payloads.camera import Detector
from payloads.combine import Master, NoiseModel
from payloads.mask import Mask
from payloads.overscan import FrameUnusable, OverscanMode, amplifier_map, correct_crosstalk, trim


@dataclass(frozen=True, kw_only=True)
class Plane:
    """An image with its mask, (ny, nx): `data` float32, `mask` uint32 of `payloads.mask.Mask`, `variance` float32 or None."""

    data: NDArray[np.float32]
    mask: NDArray[np.uint32]
    variance: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A frame as calibrations see it: trimmed, overscan and crosstalk removed; `plane.data` in ADU, mask SAT and NO_DATA."""

    plane: Plane
    level: dict[str, float]
    noise: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class IsrQuality:
    """Numbers of one frame's reduction: medians over its usable pixels."""

    n_saturated: int
    n_bad: int
    n_no_data: int
    sky_electron: float
    noise_electron: float
    overscan_adu: float


def prepare(raw: NDArray[np.generic], detector: Detector, *, mode: OverscanMode = "row", smooth_rows: int = 31) -> Prepared:
    """Trim, subtract overscan, flag saturation and missing pixels, undo crosstalk. FrameUnusable where no pixel is a number."""
    if not np.isfinite(raw).any():
        raise FrameUnusable(f"no pixel of the frame of detector {detector.name} is a number: set the exposure aside")
    trimmed = trim(raw, detector, mode=mode, smooth_rows=smooth_rows)
    mask = np.zeros(trimmed.data.shape, dtype=np.uint32)
    missing = ~np.isfinite(trimmed.data)
    if missing.all():
        raise FrameUnusable(f"no light-sensitive pixel of detector {detector.name} is a number: set the exposure aside")
    mask[missing] |= np.uint32(Mask.NO_DATA)
    mask[trimmed.saturated] |= np.uint32(Mask.SAT)
    data = correct_crosstalk(trimmed.data, detector)
    return Prepared(plane=Plane(data=data, mask=mask), level=trimmed.level, noise=trimmed.noise)


def remove_signature(
    prepared: Prepared,
    detector: Detector,
    *,
    bias: Plane | None,
    dark: Plane | None,
    flat: Plane | None,
    dark_time_s: float,
    grow_saturated_px: int = 2,
) -> tuple[Plane, IsrQuality]:
    """Subtract bias and dark (ADU/s), multiply by the gain, divide by the flat (of median 1, in relative electrons).

    All planes are of the detector's trimmed shape. The variance in electron² is read noise², plus photon and dark noise, plus
    that of the masters' own, all over flat². Saturated pixels and the `grow_saturated_px` around them are SAT and SUSPECT;
    masks of the masters are passed on; where the flat is not positive the data is 0, NO_DATA.
    """
    gain = amplifier_map(detector, "gain")
    mask = prepared.plane.mask.copy()
    signal = prepared.plane.data.copy()
    variance = (amplifier_map(detector, "read_noise") / gain) ** 2
    for master, factor in ((bias, 1.0), (dark, dark_time_s)):
        if master is None:
            continue
        _check_shape(master, signal, detector)
        signal -= np.float32(factor) * master.data
        mask |= master.mask
        if master.variance is not None:
            variance += np.float32(factor**2) * master.variance
    signal *= gain
    variance *= gain**2
    electrons = signal if dark is None else signal + np.float32(dark_time_s) * dark.data * gain
    variance += np.maximum(np.nan_to_num(electrons), 0.0)
    if flat is not None:
        _check_shape(flat, signal, detector)
        response = np.where(flat.data > 0, flat.data, np.float32(np.nan))
        signal /= response
        variance /= response**2
        mask |= flat.mask
    missing = ~np.isfinite(signal) | ~np.isfinite(variance)
    mask[missing] |= np.uint32(Mask.NO_DATA)
    signal[missing] = 0.0
    variance[missing] = np.nanmedian(variance[~missing]) if not missing.all() else 0.0
    mask = _grow_saturated(mask, grow_saturated_px)
    plane = Plane(data=signal, mask=mask, variance=variance.astype(np.float32))
    return plane, _quality(plane, prepared)


def bad_from_dark(dark: NDArray[np.float32], *, sigma: float = 10.0, floor: float = 0.0) -> NDArray[np.bool_]:
    """Hot pixels of a master dark (ADU/s): further above their surroundings than `sigma` robust widths and than `floor` ADU/s."""
    residual = dark - surroundings(dark)
    median = np.nanmedian(residual)
    width = 1.4826 * np.nanmedian(np.abs(residual - median))
    return ~np.isfinite(dark) | (residual - median > max(sigma * float(width), floor))


def mask_from_flat(
    flat: NDArray[np.float32], *, dead: float = 0.5, suspect: float = 0.3, bright: float = 1.5
) -> NDArray[np.uint32]:
    """Mask of a master flat of median 1.

    BAD where a pixel's response is below `dead` or above `bright` times its surroundings', SUSPECT where the surroundings
    themselves are below `suspect` of the median (deep vignetting, where stray light makes a flat untrue); NO_DATA where not a
    number.
    """
    known = np.isfinite(flat)
    smooth = surroundings(flat)
    mask = np.zeros(flat.shape, dtype=np.uint32)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = flat / smooth
    mask[~known] |= np.uint32(Mask.NO_DATA | Mask.BAD)
    mask[known & ((relative < dead) | (relative > bright) | (flat <= 0))] |= np.uint32(Mask.BAD)
    mask[smooth < suspect] |= np.uint32(Mask.SUSPECT)
    return mask


def surroundings(image: NDArray[np.float32], block_px: int = 8) -> NDArray[np.float32]:
    """What an image (ny, nx) is like around each pixel: medians of blocks, linear in between, odd blocks like their neighbours.

    A running median of the same reach costs a hundred times as much. Blocks without a number take the image's median.
    """
    ny, nx = image.shape
    step = max(1, min(block_px, ny // 3, nx // 3))
    rows, columns = -(-ny // step), -(-nx // step)
    padded = np.pad(image, ((0, rows * step - ny), (0, columns * step - nx)), mode="symmetric")
    tiles = padded.reshape(rows, step, columns, step).swapaxes(1, 2).reshape(rows, columns, -1)
    known = np.isfinite(tiles)
    if known.all():
        coarse = np.median(tiles, axis=2)
    else:
        empty = ~known.any(axis=2)
        coarse = np.nanmedian(np.where(empty[..., None], np.nanmedian(image), tiles), axis=2)
    filtered = ndimage.median_filter(coarse, size=3, mode="nearest")
    # Only a block that is itself a defect is replaced: a median filter would flatten the corners of a vignetted flat.
    coarse = np.where(np.abs(coarse - filtered) > 0.5 * np.abs(filtered), filtered, coarse)
    # Block k is centred on pixel k * step + (step - 1) / 2.
    y, x = ((np.arange(n, dtype=np.float64) - (step - 1) / 2) / step for n in (ny, nx))
    across = _linear(coarse, x, axis=1)
    return _linear(across, y, axis=0).astype(np.float32)


def _linear(values: NDArray[np.floating], at: NDArray[np.float64], axis: int) -> NDArray[np.floating]:
    count = values.shape[axis]
    low = np.clip(np.floor(at).astype(np.int64), 0, max(count - 2, 0))
    part = (at - low).astype(np.float32)  # beyond the middle of the outer blocks, half a block is extrapolated
    part = part[None, :] if axis == 1 else part[:, None]
    high = np.minimum(low + 1, count - 1)
    return np.take(values, low, axis=axis) * (1 - part) + np.take(values, high, axis=axis) * part


def flat_noise(read_noise: NDArray[np.float32], levels_electron: list[float]) -> NoiseModel:
    """Noise model for `combine` of flats in electrons divided by their levels: photon noise and `read_noise` (ny, nx),
    electron."""
    level = np.asarray(levels_electron, dtype=np.float32)[:, None, None]

    def noise(centre: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        photons = np.maximum(np.nan_to_num(centre), 0.0) / level
        return np.sqrt(photons + (read_noise[rows] / level) ** 2)

    return noise


def _grow_saturated(mask: NDArray[np.uint32], radius_px: int) -> NDArray[np.uint32]:
    saturated = (mask & np.uint32(Mask.SAT)) != 0
    if not radius_px or not saturated.any():
        return mask
    near = ndimage.binary_dilation(saturated, iterations=radius_px)
    return mask | np.where(near, np.uint32(Mask.SAT), np.uint32(0))


def _check_shape(master: Plane, signal: NDArray[np.float32], detector: Detector) -> None:
    if master.data.shape != signal.shape:
        raise FrameUnusable(
            f"a calibration of detector {detector.name} is {master.data.shape}, the frame {signal.shape}: "
            "certify products of this camera"
        )


def _quality(plane: Plane, prepared: Prepared) -> IsrQuality:
    usable = (plane.mask & np.uint32(Mask.BAD | Mask.SAT | Mask.NO_DATA | Mask.SUSPECT)) == 0
    values = plane.data[usable]
    differences = np.diff(plane.data, axis=1)[usable[:, 1:] & usable[:, :-1]]
    width = 1.4826 * np.median(np.abs(differences)) / np.sqrt(2.0) if differences.size else np.nan
    return IsrQuality(
        n_saturated=int(((plane.mask & np.uint32(Mask.SAT)) != 0).sum()),
        n_bad=int(((plane.mask & np.uint32(Mask.BAD)) != 0).sum()),
        n_no_data=int(((plane.mask & np.uint32(Mask.NO_DATA)) != 0).sum()),
        sky_electron=float(np.median(values)) if values.size else float("nan"),
        noise_electron=float(width),
        overscan_adu=float(np.mean(list(prepared.level.values()))),
    )


def master_plane(master: Master, mask: NDArray[np.uint32]) -> Plane:
    """A master as a plane: NaN pixels (no frame had a value) become 0 and BAD."""
    missing = ~np.isfinite(master.mean)
    flagged = mask | np.where(missing, np.uint32(Mask.BAD | Mask.NO_DATA), np.uint32(0))
    return Plane(
        data=np.where(missing, np.float32(0.0), master.mean),
        mask=flagged,
        variance=np.where(missing, np.float32(0.0), master.variance),
    )
