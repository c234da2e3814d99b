"""Coadds: many warped images of one patch made into one, without what moved, flared or hit a single one of them.

The method is a clipped mean: the median of all inputs says what the sky looks like; each input's pixels that differ from it by
more than noise and seeing allow are left out, together with the fainter skirt that hangs on them; the mean of the rest, weighted
by one number per input, keeps the PSF that of the inputs' mean. (LSST: CompareWarpAssembleCoadd, LDM-151 6.5.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from payloads.mask import UNUSABLE, Mask, any_set
from payloads.psf import PsfModel, polynomial, terms
from payloads.warp import PixelMap, Warped, warp_pixels

ZEROPOINT_MAG = 27.0
NJY_PER_UNIT = 10 ** (0.4 * (31.4 - ZEROPOINT_MAG))
"""One unit of a coadd in nJy: 1 nJy is AB mag 31.4."""

_HARMFUL = UNUSABLE & ~Mask.SAT & ~Mask.CR
_KERNEL_REACH_PX = 2  # around a cosmic ray that was warped with the rest
_KEPT_BITS = (Mask.SAT, Mask.SUSPECT, Mask.INTERP)
_STRIP_BYTES = 1 << 26

F4 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CoaddSettings:
    """How a stack becomes one image."""

    statistic: Literal["clipped", "mean", "median"] = "clipped"
    clip_sigma: float = 5.0  # a pixel this far from the median, in its noise, starts a clipped area
    grow_sigma: float = 2.5  # which extends to neighbours this far off
    position_px: float = 0.15  # by which an input's sources may be displaced
    shape_variation: float = 0.4  # by which the square of a PSF's width may differ from its frame's
    value_variation: float = 0.8  # by which a pixel may differ: cores of stars, where seeing changes more than a model can say
    bit_fraction: float = 0.4  # SAT, SUSPECT and INTERP are kept where this share of the weight has them


@dataclass(frozen=True, kw_only=True, eq=False)
class Coadd:
    """The result: planes of shape (ny, nx); `n_inputs` counts what went into each pixel."""

    data: F4
    variance: F4
    mask: NDArray[np.uint32]
    n_inputs: NDArray[np.uint16]


@dataclass(eq=False)
class Stack:
    """Warped inputs spooled to scratch disk, so that memory does not grow with their number.

    On disk it is 12 bytes a pixel and input, below TMPDIR. Use as a context manager: leaving it frees the disk.
    """

    shape: tuple[int, int]
    weights: list[float] = field(default_factory=list)
    fwhm_px: list[float] = field(default_factory=list)

    def __enter__(self) -> Stack:
        self._file = tempfile.TemporaryFile(prefix="coadd-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.weights)

    def add(self, warped: Warped, fwhm_px: float) -> float:
        """Spool one input, of seeing `fwhm_px` in pixels of the patch.

        Returns its weight, the inverse of its median variance: 0, and the input is left out, if it has no usable pixel.
        """
        if warped.variance is None:
            raise ValueError("an input without variance cannot be weighted")
        usable = ~any_set(warped.mask, UNUSABLE, self.shape) & (warped.variance > 0)
        if not usable.any():
            return 0.0
        weight = float(1.0 / np.median(warped.variance[usable]))
        for plane, dtype in ((warped.data, "<f4"), (warped.variance, "<f4"), (warped.mask, "<u4")):
            self._file.write(np.ascontiguousarray(plane, dtype=dtype).tobytes())
        self.weights.append(weight)
        self.fwhm_px.append(fwhm_px)
        return weight

    def __iter__(self) -> Iterator[Warped]:
        for number in range(len(self)):
            yield Warped(*self._read(number, 0, self.shape[0]))

    def rows(self, start: int, stop: int) -> tuple[F4, F4, NDArray[np.uint32]]:
        """Rows of all inputs: data, variance and mask, each (n, stop - start, nx)."""
        planes = [self._read(number, start, stop) for number in range(len(self))]
        data, variance, mask = (np.stack([plane[k] for plane in planes]) for k in range(3))
        return data, variance, mask

    def _read(self, number: int, start: int, stop: int) -> tuple[F4, F4, NDArray[np.uint32]]:
        self._file.flush()
        ny, nx = self.shape
        planes = []
        for k, dtype in enumerate(("<f4", "<f4", "<u4")):
            self._file.seek(((3 * number + k) * ny + start) * nx * 4)
            content = self._file.read((stop - start) * nx * 4)
            planes.append(np.frombuffer(content, dtype=dtype).reshape(stop - start, nx))
        return planes[0], planes[1], planes[2]


def combine(stack: Stack, settings: CoaddSettings) -> Coadd:
    """Combine a stack.

    With fewer than three inputs nothing can be told apart and the statistic is the mean. Pixels that only saturated inputs see
    get those values (and SAT, by the share of weight); pixels that nobody sees get 0, variance inf and NO_DATA. ValueError for an
    empty stack.
    """
    if not len(stack):
        raise ValueError("nothing to combine")
    if settings.statistic == "mean" or len(stack) < 3:
        return _mean(stack, settings, None, np.zeros(stack.shape, bool))
    real = _not_cosmic_rays(stack)
    centre = _median(stack, real)
    result = _mean(stack, settings, centre, real)
    if settings.statistic == "clipped":
        return result
    seen = np.isfinite(centre[0])
    return Coadd(
        data=np.where(seen, centre[0], result.data),
        variance=np.where(seen, centre[1], result.variance),
        mask=result.mask,
        n_inputs=result.n_inputs,
    )


def _not_cosmic_rays(stack: Stack) -> NDArray[np.bool_]:
    """Where at least half of the inputs, and two, saw a cosmic ray: none did, it is the core of a sharp star."""
    votes, seen = np.zeros(stack.shape, np.uint16), np.zeros(stack.shape, np.uint16)
    for warped in stack:
        votes += any_set(warped.mask, Mask.CR, stack.shape)
        seen += ~any_set(warped.mask, _HARMFUL, stack.shape)
    return (votes >= 2) & (2 * votes >= seen)


def _median(stack: Stack, real: NDArray[np.bool_]) -> tuple[F4, F4]:
    """Median of the usable inputs (NaN without any), and its variance."""
    ny, nx = stack.shape
    median, variance = np.full((ny, nx), np.nan, np.float32), np.full((ny, nx), np.inf, np.float32)
    rows = max(1, _STRIP_BYTES // (12 * nx * len(stack)))
    for start in range(0, ny, rows):
        part = slice(start, min(start + rows, ny))
        data, spread, mask = stack.rows(part.start, part.stop)
        bad = any_set(mask, UNUSABLE & ~Mask.CR, mask.shape) | ~(spread > 0) | (any_set(mask, Mask.CR, mask.shape) & ~real[part])
        values = np.sort(np.where(bad, np.inf, data), axis=0)
        count = (~bad).sum(axis=0)
        low = np.take_along_axis(values, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
        high = np.take_along_axis(values, np.minimum(count // 2, len(stack) - 1)[None], axis=0)[0]
        some = count > 0
        median[part][some] = 0.5 * (low[some] + high[some])
        with np.errstate(divide="ignore"):
            inverse = np.where(bad, 0, 1 / np.where(bad, 1, spread)).sum(axis=0)
        # The median of two is their mean; of many its variance is pi / 2 times that of the mean.
        variance[part][some] = (np.where(count > 2, np.pi / 2, 1.0)[some] / inverse[some]).astype(np.float32)
    return median, variance


@dataclass(eq=False)
class _Sums:
    """Running sums over inputs: of weight, of weighted values and of the variance of that sum."""

    weight: F4
    value: F4
    variance: F4

    @classmethod
    def zeros(cls, shape: tuple[int, int]) -> _Sums:
        return cls(*(np.zeros(shape, np.float32) for _ in range(3)))

    def add(self, where: NDArray[np.bool_], weight: float, warped: Warped) -> None:
        assert warped.variance is not None  # noqa: S101 - Stack.add saw to it
        self.weight[where] += weight
        self.value[where] += weight * warped.data[where]
        self.variance[where] += weight**2 * warped.variance[where]

    def mean(self) -> tuple[F4, F4]:
        """Mean and its variance; 0 and inf where nothing was added."""
        some = self.weight > 0
        data = np.divide(self.value, self.weight, out=np.zeros_like(self.value), where=some)
        variance = np.divide(self.variance, self.weight**2, out=np.full_like(self.variance, np.inf), where=some)
        return data, variance


def _mean(stack: Stack, settings: CoaddSettings, centre: tuple[F4, F4] | None, real: NDArray[np.bool_]) -> Coadd:
    shape = stack.shape
    good_sum, saturated_sum = _Sums.zeros(shape), _Sums.zeros(shape)
    n_inputs, clipped = np.zeros(shape, np.uint16), np.zeros(shape, bool)
    lost = np.zeros(shape, bool)
    bit_weight = {bit: np.zeros(shape, np.float32) for bit in _KEPT_BITS}
    seen_weight = np.zeros(shape, np.float32)
    expectation = None if centre is None else _Expectation.of(centre, float(np.median(stack.fwhm_px)), settings)
    # Relative weights: absolute ones, squared, could leave the range of float32.
    scale = max(stack.weights)
    for weight, fwhm_px, warped in zip((w / scale for w in stack.weights), stack.fwhm_px, stack, strict=True):
        assert warped.variance is not None  # noqa: S101 - Stack.add saw to it
        seen = ~any_set(warped.mask, _HARMFUL, shape) & (warped.variance > 0) & np.isfinite(warped.variance)
        seen &= ~_struck(warped.mask, real)
        good = seen & ~any_set(warped.mask, Mask.SAT, shape)
        lost |= seen & ~good
        if expectation is not None:
            odd = expectation.clip(warped, good, fwhm_px)
            clipped |= odd
            good &= ~odd
        good_sum.add(good, weight, warped)
        saturated_sum.add(seen & ~good, weight, warped)
        n_inputs += good
        seen_weight += weight * seen
        for bit, total in bit_weight.items():
            total += weight * (seen & any_set(warped.mask, bit, shape))
    data, variance = good_sum.mean()
    mask = np.zeros(shape, np.uint32)
    for bit, total in bit_weight.items():
        mask[(total > 0) & (total >= settings.bit_fraction * seen_weight)] |= np.uint32(bit)
    mask[clipped] |= np.uint32(Mask.CLIPPED)
    # What saturates in the sharper inputs is seen by the broader ones alone: its core has another PSF than all around it.
    mask[lost] |= np.uint32(Mask.SUSPECT)
    _fall_back(data, variance, mask, n_inputs, saturated_sum)
    return Coadd(data=data, variance=variance, mask=mask, n_inputs=n_inputs)


def _struck(mask: NDArray[np.uint32], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of one input that a cosmic ray has spoilt, as far as the kernel carried it."""
    rays = any_set(mask, Mask.CR, mask.shape) & ~real
    return ndimage.binary_dilation(rays, np.ones((3, 3)), iterations=_KERNEL_REACH_PX) if rays.any() else rays


def _fall_back(data: F4, variance: F4, mask: NDArray[np.uint32], n_inputs: NDArray[np.uint16], saturated: _Sums) -> None:
    """Where no input was good: the mean of the saturated and clipped ones, or NO_DATA."""
    empty = n_inputs == 0
    second_data, second_variance = saturated.mean()
    second = empty & (saturated.weight > 0)
    data[second], variance[second] = second_data[second], second_variance[second]
    mask[empty & ~second] |= np.uint32(Mask.NO_DATA)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Expectation:
    """What each input should look like, from the median of all: as sharp as its own seeing makes it."""

    median: F4
    variance: F4
    known: NDArray[np.bool_]
    fwhm_px: float
    tolerance: F4
    settings: CoaddSettings

    @classmethod
    def of(cls, centre: tuple[F4, F4], fwhm_px: float, settings: CoaddSettings) -> _Expectation:
        """`centre`: median and its variance; `fwhm_px`: of the median."""
        known = np.isfinite(centre[0])
        median = np.where(known, centre[0], 0).astype(np.float32)
        gradient = ndimage.gaussian_gradient_magnitude(median, 0.7)
        curvature = np.abs(ndimage.gaussian_laplace(median, 0.7))
        sigma = fwhm_px / 2.3548
        tolerance = settings.position_px * gradient + settings.shape_variation * sigma**2 / 2 * curvature
        tolerance = ndimage.maximum_filter(tolerance, 3) + settings.value_variation * np.abs(median)
        return cls(
            median=median,
            variance=centre[1],
            known=known,
            fwhm_px=fwhm_px,
            tolerance=tolerance.astype(np.float32),
            settings=settings,
        )

    def clip(self, warped: Warped, good: NDArray[np.bool_], fwhm_px: float) -> NDArray[np.bool_]:
        """Which good pixels of one input do not belong: far from what is expected, or less far and attached to such."""
        expected = self._seen_with(fwhm_px)
        allowed = self.tolerance + 0.5 * np.abs(expected - self.median)
        good = good & self.known
        with np.errstate(invalid="ignore", divide="ignore"):
            excess = (np.abs(warped.data - expected) - allowed) / np.sqrt(warped.variance + self.variance)
        seeds = good & (excess > self.settings.clip_sigma)
        if not seeds.any():
            return seeds
        fringe = good & (excess > self.settings.grow_sigma)
        return np.asarray(ndimage.binary_propagation(seeds, structure=np.ones((3, 3)), mask=fringe))

    def _seen_with(self, fwhm_px: float) -> F4:
        """The median smoothed to a broader seeing; for a sharper one, what smoothing would take away is added instead."""
        change = (fwhm_px**2 - self.fwhm_px**2) / 2.3548**2
        width = float(np.sqrt(abs(change)))
        if width < 0.2:
            return self.median
        smooth = ndimage.gaussian_filter(self.median, width)
        return smooth if change > 0 else 2 * self.median - smooth


@dataclass(frozen=True, kw_only=True, eq=False)
class InputPsf:
    """One input's PSF and how the patch's pixels map to its own (`pixel_map` patch → input of `shape`)."""

    psf: PsfModel
    pixel_map: PixelMap
    shape: tuple[int, int]
    weight: float


def coadd_psf(inputs: Sequence[InputPsf], shape: tuple[int, int], *, order: int = 1, side: int = 9) -> PsfModel:
    """PSF of a weighted mean of inputs.

    The inputs' PSFs at a grid of `side` x `side` places of the patch are each brought to the patch's pixels, averaged with the
    weights of those that see the place, and fitted by a polynomial of `order`.

    True as far as the inputs' astrometry is; ValueError where no input sees any of the places.
    """
    ny, nx = shape
    grid_x, grid_y = np.meshgrid(np.linspace(0, nx - 1, side), np.linspace(0, ny - 1, side))
    x, y = grid_x.ravel(), grid_y.ravel()
    size = max(_target_size(entry) for entry in inputs)
    total, weight = np.zeros((x.size, size, size)), np.zeros(x.size)
    for entry in inputs:
        source_x, source_y, jacobian = entry.pixel_map.at(x, y)
        inside = (source_x >= 0) & (source_x < entry.shape[1]) & (source_y >= 0) & (source_y < entry.shape[0])
        where = np.flatnonzero(inside)
        if where.size:
            stamps = entry.psf.stamps(source_x[where], source_y[where])
            total[where] += entry.weight * _resample(stamps, jacobian[where], size)
            weight[where] += entry.weight
    some = weight > 0
    if not some.any():
        raise ValueError("no input sees the patch")
    while len(terms(order)) > some.sum():
        order -= 1
    blank = np.zeros((len(terms(order)), size, size))
    frame = PsfModel(coefficients=blank, x0=(nx - 1) / 2, y0=(ny - 1) / 2, scale=max(nx, ny) / 2)
    # Not `fit_psf`: it drops outlying stars, and here nothing is one.
    mean = (total[some] / weight[some, None, None]).reshape(int(some.sum()), -1)
    solution = np.linalg.lstsq(polynomial(x[some], y[some], frame), mean, rcond=None)[0]
    return replace(frame, coefficients=solution.reshape(blank.shape))


def _target_size(entry: InputPsf) -> int:
    area = float(np.nanmedian(entry.pixel_map.area))
    return 2 * int(np.ceil((entry.psf.size // 2) / np.sqrt(area))) + 1


def _resample(stamps: NDArray[np.float64], jacobian: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Stamps (n, s, s) on the target's pixels, (n, size, size), sum 1; jacobian (n, 2, 2) is d(source x, y) / d(target x, y)."""
    half, centre = size // 2, stamps.shape[1] // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    out = np.empty((len(stamps), size, size))
    for k, (stamp, j) in enumerate(zip(stamps, jacobian, strict=True)):
        at = [centre + j[1, 0] * u + j[1, 1] * v, centre + j[0, 0] * u + j[0, 1] * v]
        out[k] = ndimage.map_coordinates(stamp, at, order=5, mode="constant")
    return np.asarray(out / out.sum(axis=(1, 2), keepdims=True))


def warp_to_patch(
    data: NDArray[Any], variance: NDArray[Any], mask: NDArray[np.uint32] | None, pixel_map: PixelMap, zeropoint_mag: float
) -> Warped:
    """One exposure (electrons, AB mag `zeropoint_mag` = 1) on the patch's grid and on the coadd's zero point.

    Cosmic rays keep their values: whether they are any, the other inputs will say.
    """
    warped = warp_pixels(data, variance, mask, pixel_map, replaced=Mask.BAD | Mask.NO_DATA)
    scale = np.float32(10 ** (0.4 * (ZEROPOINT_MAG - zeropoint_mag)))
    assert warped.variance is not None  # noqa: S101 - a variance went in
    return Warped(warped.data * scale, warped.variance * scale**2, warped.mask)


def best_seeing(fwhm: Sequence[float], fraction: float, least: int = 3) -> list[int]:
    """Indices, in order, of the best `fraction` of inputs by FWHM, and never fewer than `least` (or all there are)."""
    count = min(len(fwhm), max(least, int(np.ceil(fraction * len(fwhm) - 1e-9))))
    return sorted(np.argsort(np.asarray(fwhm), kind="stable")[:count].tolist())
