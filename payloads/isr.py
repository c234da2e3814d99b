"""Instrument signature removal: raw ADU to electrons with variance and mask, and the masters that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from payloads.camera import Detector, parse_section
from payloads.combine import Master
from payloads.compiled.isr import reduce_amplifier
from payloads.mask import Mask, rim
from payloads.overscan import FrameUnusable, OverscanMode, correct_crosstalk, trim
from payloads.response import linearise

_SAMPLE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Plane:
    """An image with its mask, (ny, nx): `data` float32, `mask` uint32 of `payloads.mask.Mask`, `variance` float32 or None."""

    data: NDArray[np.float32]
    mask: NDArray[np.uint32]
    variance: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A frame as calibrations see it: trimmed, no overscan, no crosstalk, linear; `plane.data` in ADU, mask SAT and NO_DATA."""

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
    """Trim, subtract overscan, flag saturation and missing pixels, undo crosstalk and non-linearity.

    The other way round of a camera's doing. The bias structure comes off later: the few ADU of it are linear at any level.
    FrameUnusable where no pixel is a number.
    """
    if not np.isfinite(raw).any():
        raise FrameUnusable(f"no pixel of the frame of detector {detector.name} is a number: set the exposure aside")
    trimmed = trim(raw, detector, mode=mode, smooth_rows=smooth_rows)
    mask = np.zeros(trimmed.data.shape, dtype=np.uint32)
    missing = ~np.isfinite(trimmed.data)
    if missing.all():
        raise FrameUnusable(f"no light-sensitive pixel of detector {detector.name} is a number: set the exposure aside")
    mask[missing] |= np.uint32(Mask.NO_DATA)
    mask[trimmed.saturated] |= np.uint32(Mask.SAT)
    data = linearise(correct_crosstalk(trimmed.data, detector, overwrite=True), detector)
    return Prepared(plane=Plane(data=data, mask=mask), level=trimmed.level, noise=trimmed.noise)


def remove_signature(
    prepared: Prepared,
    detector: Detector,
    *,
    bias: Plane | None,
    dark: Plane | None,
    flat: Plane | None,
    dark_time_s: float,
    illumination: Plane | None = None,
    bad_pixels: Plane | None = None,
    grow_saturated_px: int = 2,
    overwrite: bool = False,
) -> tuple[Plane, IsrQuality]:
    """Subtract bias and dark (ADU/s), multiply by the gain, divide by the flat (of median 1, in relative electrons) and by the
    illumination; flag bad pixels.

    All planes are of the detector's trimmed shape. The variance in electron² is read noise², plus photon and dark noise, plus
    that of the masters' own, all over flat². Saturated pixels and the `grow_saturated_px` around them are SAT and SUSPECT;
    masks of the masters are passed on; where the flat is not positive the data is 0, NO_DATA. With `overwrite` the arrays of
    `prepared` become those of the result.
    """
    signal, mask = prepared.plane.data, prepared.plane.mask
    if not overwrite:
        signal, mask = signal.copy(), mask.copy()
    for master in (bias, dark, flat, illumination, bad_pixels):
        if master is not None:
            _check_shape(master, signal, detector)
            mask |= master.mask
    response = _product(flat, illumination)
    variance = np.empty_like(signal)
    nothing, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)

    def part(plane: NDArray[np.float32] | None, place: tuple[slice, slice], default: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = signal[place].shape
        return np.broadcast_to(default, shape) if plane is None else np.asarray(plane[place], np.float32)

    for amplifier in detector.amplifiers:
        place = parse_section(amplifier.place)
        reduce_amplifier(
            signal[place],
            variance[place],
            mask[place],
            part(None if bias is None else bias.data, place, nothing),
            part(None if bias is None else bias.variance, place, nothing),
            part(None if dark is None else dark.data, place, nothing),
            part(None if dark is None else dark.variance, place, nothing),
            part(response, place, one),
            np.float32(dark_time_s),
            np.float32(amplifier.gain),
            np.float32(amplifier.read_noise),
            np.uint32(Mask.NO_DATA),
        )
    _typical_variance(variance)
    mask = _grow_saturated(mask, grow_saturated_px)
    plane = Plane(data=signal, mask=mask, variance=variance)
    return plane, _quality(plane, prepared)


def _product(flat: Plane | None, illumination: Plane | None) -> NDArray[np.float32] | None:
    """What light is divided by, or None."""
    if flat is None or illumination is None:
        known = flat or illumination
        return None if known is None else known.data
    return flat.data * illumination.data


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

    BAD and DEAD where a pixel's response is below `dead` or above `bright` times its surroundings', SUSPECT where the
    surroundings themselves are below `suspect` of the median (deep vignetting, where stray light makes a flat untrue); NO_DATA
    where not a number.
    """
    known = np.isfinite(flat)
    smooth = surroundings(flat)
    mask = np.zeros(flat.shape, dtype=np.uint32)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = flat / smooth
    mask[~known] |= np.uint32(Mask.NO_DATA | Mask.BAD)
    mask[known & ((relative < dead) | (relative > bright) | (flat <= 0))] |= np.uint32(Mask.BAD | Mask.DEAD)
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


def _grow_saturated(mask: NDArray[np.uint32], radius_px: int) -> NDArray[np.uint32]:
    saturated = (mask & np.uint32(Mask.SAT)) != 0
    if not radius_px or not saturated.any():
        return mask
    # A diamond, as so many steps to the four neighbours make it.
    rows, columns = rim(saturated)
    for dy in range(-radius_px, radius_px + 1):
        y = np.clip(rows + dy, 0, mask.shape[0] - 1)
        for dx in range(abs(dy) - radius_px, radius_px - abs(dy) + 1):
            mask[y, np.clip(columns + dx, 0, mask.shape[1] - 1)] |= np.uint32(Mask.SAT)
    return mask


def _typical_variance(variance: NDArray[np.float32]) -> None:
    """Where nothing was measured the variance is the median of the others, in place."""
    missing = variance <= 0
    if missing.any() and not missing.all():
        variance[missing] = np.median(variance[~missing])


def _check_shape(master: Plane, signal: NDArray[np.float32], detector: Detector) -> None:
    if master.data.shape != signal.shape:
        raise FrameUnusable(
            f"a calibration of detector {detector.name} is {master.data.shape}, the frame {signal.shape}: "
            "certify products of this camera"
        )


def _quality(plane: Plane, prepared: Prepared) -> IsrQuality:
    # Every so many rows are enough for medians.
    step = max(1, plane.data.size // _SAMPLE)
    usable = (plane.mask[::step] & np.uint32(Mask.BAD | Mask.SAT | Mask.NO_DATA | Mask.SUSPECT)) == 0
    values = plane.data[::step][usable]
    differences = np.diff(plane.data[::step], axis=1)[usable[:, 1:] & usable[:, :-1]]
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
