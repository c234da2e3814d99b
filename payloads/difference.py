"""Difference imaging: science minus a template whose PSF was matched, with honest variance and mask.

Alard & Lupton's subtraction (payloads/kernel.py), always convolving the sharper image so that nothing is deconvolved, followed by
the decorrelation of Reiss & Lupton (DMTN-021): convolving the template correlates its noise, and a second kernel whitens the
difference, after which the variance plane means what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from payloads.background import subtract_background
from payloads.compiled.mask import lost_pixels, paint_discs, spread_bit
from payloads.kernel import KernelConfig, MatchingKernel, choose_stamps, solve_kernel
from payloads.kernel_field import Floats, KernelField
from payloads.mask import UNUSABLE, Mask, any_set, rim
from payloads.psf import stamp_fwhm
from payloads.warp import REPLACED, repair

Masks = NDArray[np.uint32]
_RING = 256
"""Pixels of a ring that are looked at: their median is good to a twelfth of a pixel's noise."""


@dataclass(frozen=True, kw_only=True)
class DifferenceConfig:
    """How the subtraction is done."""

    kernel: KernelConfig = field(default_factory=KernelConfig)
    decorrelate: bool = True
    background_px: int = 128  # mesh of the background that is taken off the difference; 0: none is
    wing_fwhm: float = 2.5  # every saturated area is SUSPECT to this many FWHM beyond its edge …
    wing_radii: float = 1.5  # … and to this many of its own radii beyond that …
    halo_sigma: float = 0.3  # … and on as far as rings around it are brighter than this part of a pixel's noise: reflections
    halo_px: float = 300.0  # … but not farther than this
    spread_fraction: float = 0.05  # of the matching kernel's weight on flagged pixels that flags the result


@dataclass(frozen=True, kw_only=True)
class Image:
    """Pixels with their variance, mask and PSF, as arrays: `data`, `variance` (ny, nx), `mask` uint32; they may hold NaN."""

    data: Floats
    variance: Floats
    mask: Masks
    fwhm_px: float

    def filled(self, *, overwrite: bool = False) -> Image:
        """Without a pixel that is not finite: those are zero and NO_DATA. Itself where it has none already; with `overwrite` its
        own arrays, if they are of float32, are changed."""
        lost = np.empty(self.data.shape, bool)
        planes = (self.data.ravel(), self.variance.ravel(), self.mask.ravel())
        change = lost_pixels(*planes, np.uint32(Mask.NO_DATA), lost.ravel())
        if not change and self.data.dtype == self.variance.dtype == np.float32:
            return self
        usual = typical(self.variance[~lost]) if not lost.all() else 1.0
        if overwrite and self.data.dtype == self.variance.dtype == np.float32:
            self.data[lost], self.variance[lost] = 0, usual
            self.mask[lost] |= self.mask.dtype.type(Mask.NO_DATA)
            return self
        return Image(
            data=np.where(lost, 0, self.data).astype(np.float32),
            variance=np.where(lost, usual, self.variance).astype(np.float32),
            mask=np.where(lost, self.mask | self.mask.dtype.type(Mask.NO_DATA), self.mask),
            fwhm_px=self.fwhm_px,
        )

    def scaled(self, factor: float) -> Image:
        """In other units."""
        return Image(data=self.data * factor, variance=self.variance * factor**2, mask=self.mask, fwhm_px=self.fwhm_px)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a subtraction gives, in the science image's units."""

    data: Floats
    variance: Floats
    mask: Masks
    matched_template: Floats  # what was subtracted, background included
    science: Floats  # as it was given
    psf: KernelField  # of the difference
    kernel: MatchingKernel
    convolved: str  # "template" or "science"
    science_psf: KernelField | None = None  # of `science`; None: the difference's

    @property
    def fwhm_px(self) -> float:
        """Of `psf` at the image's centre. Whitening undoes most of what matching did to the noisier image."""
        ny, nx = self.data.shape
        return stamp_fwhm(self.psf.at(np.array([nx / 2]), np.array([ny / 2]))[0])

    @property
    def kernel_sum(self) -> float:
        """Photometric scale science / template."""
        return self.kernel.sum if self.convolved == "template" else 1 / self.kernel.sum


def subtract(
    science: Image,
    template: Image,
    psf: KernelField,
    config: DifferenceConfig | None = None,
    stars: tuple[Floats, Floats] | None = None,
    *,
    overwrite_template: bool = False,
) -> Difference:
    """Science minus matched template, both on one grid and in (about) the same units.

    `psf` is the science image's. The sharper of the two, by `fwhm_px`, is convolved. `stars` (x, y) to solve the kernel on,
    where they are known. With `overwrite_template` its arrays are used for what is made of it. Raises
    payloads.kernel.KernelError where no kernel can be solved.
    """
    config = config or DifferenceConfig()
    science, template = science.filled(), template.filled()
    fwhm = max(science.fwhm_px, template.fwhm_px)
    deeper = template if typical(template.variance) < typical(science.variance) else science
    noise = float(np.sqrt(typical(template.variance) + typical(science.variance)))
    mask = wings(science.mask | template.mask, fwhm, config, light=deeper.data, noise=noise)
    convolve_template = template.fwhm_px <= science.fwhm_px
    source, target = (template, science) if convolve_template else (science, template)
    reach = int(np.ceil(config.kernel.stamp_fwhm * fwhm))
    x, y = choose_stamps(deeper.data, deeper.variance, mask, fwhm, reach, config.kernel, stars)
    planes = (source.data, target.data, source.variance, target.variance)
    kernel = solve_kernel(*planes, mask, x, y, fwhm, config.kernel, sharper_px=source.fwhm_px)
    mask |= spread_mask(source.mask, kernel.field, config.spread_fraction)
    whiten = None
    if config.decorrelate:
        whiten = decorrelation_kernel(kernel.field, typical(source.variance), typical(target.variance))
    place = template.variance if overwrite_template and whiten is not None else None
    variance = _variance(source.variance, target.variance, kernel, decorrelated=whiten is not None, out=place)
    spoilt = any_set(source.mask, REPLACED, mask.shape)
    values = source.data[spoilt]
    repair(source.data, spoilt)  # a defect's value, even a twentieth of it, would be spread as light
    matched = kernel.matched(source.data, overwrite=overwrite_template and convolve_template)
    if matched is not source.data:
        source.data[spoilt] = values
    del spoilt
    minuend, subtrahend = (target.data, matched) if convolve_template else (matched, target.data)
    data = np.subtract(minuend, subtrahend, out=None if convolve_template else matched)
    science_psf = psf
    if not convolve_template:
        unit = np.float32(1 / kernel.sum)
        data *= unit
        variance *= unit**2
        subtrahend = np.multiply(subtrahend, unit, out=subtrahend if overwrite_template else None)
        psf = psf.map(lambda stamps, px, py: _normalised(_convolved(stamps, kernel.field.at(px, py))))
    if whiten is not None:
        data = KernelField.constant(whiten, data.shape).convolve(data, overwrite=True)
        psf = psf.map(lambda stamps, _x, _y: _normalised(_convolved(stamps, whiten[None])))
    if config.background_px and min(data.shape) >= 2 * config.background_px:
        # What the two backgrounds' errors leave is small, but a PSF's flux adds it up over all its pixels.
        subtract_background(data, any_set(mask, UNUSABLE | Mask.SUSPECT, data.shape), box_px=config.background_px)
    data[any_set(mask, Mask.NO_DATA, data.shape)] = 0
    return Difference(
        data=data,
        variance=variance,
        mask=mask,
        matched_template=subtrahend,
        science=science.data,
        psf=psf,
        kernel=kernel,
        convolved="template" if convolve_template else "science",
        science_psf=science_psf,
    )


def typical(values: Floats, at_most: int = 500_000) -> float:
    """The median, of a regular sample where there are many values."""
    return float(np.median(_sampled(values, at_most)))


def _sampled(values: Floats, at_most: int = 500_000) -> Floats:
    flat = values.ravel()
    step = max(1, flat.size // at_most)
    # An even step through an even-width frame would meet the same columns on every row.
    return flat[:: step + (step % 2 == 0)]


def wings(mask: Masks, fwhm_px: float, config: DifferenceConfig, *, light: Floats | None = None, noise: float = 1.0) -> Masks:
    """`mask` with SUSPECT around every saturated area, farther around larger ones, and as far as their halos and reflections
    are seen in `light` (ny, nx), `noise` that of a pixel in the difference."""
    saturated = any_set(mask, Mask.SAT, mask.shape)
    rows, columns = rim(saturated)
    if not rows.size:
        return mask
    pixels, label = _connected(saturated)
    size = np.bincount(label)
    reach = config.wing_fwhm * fwhm_px + config.wing_radii * np.sqrt(size / np.pi)
    out = mask.copy()
    out.ravel()[pixels] |= mask.dtype.type(Mask.SUSPECT)
    # Discs around the rim cover those around what lies within.
    of_rim = label[np.searchsorted(pixels, rows * mask.shape[1] + columns)]
    paint_discs(out, rows, columns, reach[of_rim], np.uint32(Mask.SUSPECT))
    if light is not None:
        middle = [np.rint(np.bincount(label, weights=place) / size).astype(np.int64) for place in divmod(pixels, mask.shape[1])]
        start = reach + np.sqrt(size / np.pi)
        level = typical(light)
        spread = 1.4826 * typical(np.abs(_sampled(light) - level))
        dark = level, config.halo_sigma * noise, spread
        halo = np.array([_halo(light, y, x, r, dark, fwhm_px, config) for y, x, r in zip(*middle, start, strict=True)])
        lit = halo > 0
        paint_discs(out, middle[0][lit], middle[1][lit], halo[lit], np.uint32(Mask.SUSPECT))
    return out


def _halo(
    light: Floats, y: int, x: int, start_px: float, dark: tuple[float, float, float], fwhm_px: float, config: DifferenceConfig
) -> float:
    """How far from (x, y) a halo reaches, 0 if not even to `start_px`: to the last ring whose median is bright, and a sixth
    more, since reflections are not centred on their stars. `dark`: the median of the light anywhere, what is bright above it,
    and how it scatters."""
    angle = np.linspace(0, 2 * np.pi, _RING, endpoint=False)
    radius, last = start_px, 0.0
    level, bright, spread = dark
    # A ring or two beyond the last may be dark: a mirror's shadow lies within a reflection.
    while radius < min(config.halo_px, 1.4 * max(last, start_px)):
        rows, columns = np.rint(y + radius * np.sin(angle)).astype(int), np.rint(x + radius * np.cos(angle)).astype(int)
        on = (rows >= 0) & (rows < light.shape[0]) & (columns >= 0) & (columns < light.shape[1])
        if on.sum() < _RING // 4:
            break
        # A crowded field's stars light rings too: by the scatter of a median of as many places as a ring has.
        chance = 1.25 * spread / np.sqrt(max(2 * np.pi * radius / fwhm_px * on.mean(), 1.0))
        if np.median(light[rows[on], columns[on]]) > level + max(bright, 5 * chance):
            last = radius
        radius += fwhm_px
    return 1.17 * last


def _connected(flagged: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Indices (n,) into the raveled image of the flagged pixels, and to which area each belongs, corners touching.

    Few pixels are flagged: an image of labels would be work for all of them.
    """
    nx = flagged.shape[1]
    pixels = np.flatnonzero(flagged)
    links = []
    for step in (1, nx - 1, nx, nx + 1):
        place = np.minimum(np.searchsorted(pixels, pixels + step), len(pixels) - 1)
        # A step over the border of the image would come out on its other side.
        beside = (pixels[place] == pixels + step) & (np.abs(pixels[place] % nx - pixels % nx) <= 1)
        links.append(np.stack([np.flatnonzero(beside), place[beside]]))
    first, second = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(pixels), len(pixels)))
    return pixels, connected_components(graph, directed=False)[1]


def spread_mask(mask: Masks, kernel: KernelField, fraction: float) -> Masks:
    """Bits of the convolved image: set where flagged pixels carry more than `fraction` of the kernel's absolute weight.

    The kernel at the image's centre stands for all; bits that say nothing of a pixel's value (DETECTED, CLIPPED) do not spread.
    """
    ny, nx = mask.shape
    weight = np.abs(kernel.at(np.array([nx / 2]), np.array([ny / 2]))[0])
    weight = (weight / weight.sum()).astype(np.float32)
    out = np.zeros_like(mask)
    present = np.bitwise_or.reduce(mask, axis=None)
    for bit in (Mask.BAD, Mask.SAT, Mask.CR, Mask.EDGE, Mask.NO_DATA, Mask.INTERP, Mask.SUSPECT):
        if not present & np.uint32(bit):
            continue
        spread_bit(mask, mask.dtype.type(bit), weight, fraction, out)
    border = kernel.half_size_px
    for edge in (np.s_[:border], np.s_[ny - border :], np.s_[:, :border], np.s_[:, nx - border :]):
        out[edge] |= mask.dtype.type(Mask.EDGE)
    return out


def decorrelation_kernel(kernel: KernelField, source_variance: float, target_variance: float) -> Floats:
    """Kernel (k, k), sum 1, that whitens target - kernel * source (Reiss & Lupton, DMTN-021, eq. 5).

    `kernel` varies little on the scale of noise; the one at the image's centre stands for all.
    """
    ny, nx = kernel.shape
    stamp = kernel.at(np.array([nx / 2]), np.array([ny / 2]))[0]
    half = kernel.half_size_px
    size = fft.next_fast_len(4 * half + 1, real=True)
    power = np.abs(fft.fft2(stamp, s=(size, size))) ** 2
    shape = np.sqrt((target_variance + source_variance * stamp.sum() ** 2) / (target_variance + source_variance * power))
    whole = fft.fftshift(fft.ifft2(shape).real)
    centre = size // 2
    cut = whole[centre - half : centre + half + 1, centre - half : centre + half + 1]
    return np.asarray(cut / cut.sum())


def _variance(source: Floats, target: Floats, kernel: MatchingKernel, *, decorrelated: bool, out: Floats | None = None) -> Floats:
    """Pixel variance of target - kernel * source: that of white noise after decorrelation, else what convolution leaves. `out`
    may be one of the two, where decorrelated."""
    scale = np.float32(kernel.sum**2)
    if not decorrelated:
        return target + np.maximum(kernel.field.map(lambda stamps, _x, _y: stamps**2).convolve(source), 0)
    result = np.divide(target, scale, out=out if out is target else None)
    result = np.add(result, source, out=result if out is not source else source)
    return np.multiply(result, scale, out=result)


def _convolved(stamps: Floats, kernels: Floats) -> Floats:
    """Stamps (n, k, k) convolved with kernels (n or 1, l, l), grown by the kernels' size so that nothing is cut off."""
    size = stamps.shape[-1] + kernels.shape[-1] - 1
    return fft.irfft2(fft.rfft2(stamps, s=(size, size)) * fft.rfft2(kernels, s=(size, size)), s=(size, size))


def _normalised(stamps: Floats) -> Floats:
    return stamps / stamps.sum(axis=(1, 2), keepdims=True)
