"""Difference imaging: science minus a template whose PSF was matched, with honest variance and mask.

Alard & Lupton's subtraction (payloads/kernel.py), always convolving the sharper image so that nothing is deconvolved, followed by
the decorrelation of Reiss & Lupton (DMTN-021): convolving the template correlates its noise, and a second kernel whitens the
difference, after which the variance plane means what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.signal import oaconvolve

from payloads.kernel import KernelConfig, MatchingKernel, choose_stamps, solve_kernel
from payloads.kernel_field import Floats, KernelField
from payloads.mask import Mask, any_set

Masks = NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class DifferenceConfig:
    """How the subtraction is done."""

    kernel: KernelConfig = field(default_factory=KernelConfig)
    decorrelate: bool = True
    wing_fwhm: float = 2.5  # every saturated area is SUSPECT to this many FWHM beyond its edge …
    wing_radii: float = 1.5  # … and to this many of its own radii beyond that
    spread_fraction: float = 0.05  # of the matching kernel's weight on flagged pixels that flags the result


@dataclass(frozen=True, kw_only=True)
class Image:
    """Pixels with their variance, mask and PSF, as arrays: `data`, `variance` (ny, nx), `mask` uint32; they may hold NaN."""

    data: Floats
    variance: Floats
    mask: Masks
    fwhm_px: float

    def filled(self) -> Image:
        """Without a pixel that is not finite: those are zero and NO_DATA."""
        lost = (
            ~np.isfinite(self.data)
            | ~np.isfinite(self.variance)
            | (self.variance <= 0)
            | any_set(self.mask, Mask.NO_DATA, self.data.shape)
        )
        typical = float(np.median(self.variance[~lost])) if not lost.all() else 1.0
        return Image(
            data=np.where(lost, 0, self.data).astype(np.float32),
            variance=np.where(lost, typical, self.variance).astype(np.float32),
            mask=self.mask | np.where(lost, np.uint32(Mask.NO_DATA), np.uint32(0)),
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
    science: Floats  # what it was subtracted from: convolved where the template is the broader
    psf: KernelField  # of the difference
    kernel: MatchingKernel
    convolved: str  # "template" or "science"

    @property
    def kernel_sum(self) -> float:
        """Photometric scale science / template."""
        return self.kernel.sum if self.convolved == "template" else 1 / self.kernel.sum


def subtract(science: Image, template: Image, psf: KernelField, config: DifferenceConfig | None = None) -> Difference:
    """Science minus matched template, both on one grid and in (about) the same units.

    `psf` is the science image's. The sharper of the two, by `fwhm_px`, is convolved. Raises payloads.kernel.KernelError where no
    kernel can be solved.
    """
    config = config or DifferenceConfig()
    science, template = science.filled(), template.filled()
    fwhm = max(science.fwhm_px, template.fwhm_px)
    mask = wings(science.mask | template.mask, fwhm, config)
    convolve_template = template.fwhm_px <= science.fwhm_px
    source, target = (template, science) if convolve_template else (science, template)
    reach = int(np.ceil(config.kernel.stamp_fwhm * fwhm))
    deeper = template if np.median(template.variance) < np.median(science.variance) else science
    x, y = choose_stamps(deeper.data, deeper.variance, mask, fwhm, reach, config.kernel)
    kernel = solve_kernel(source.data, target.data, source.variance, target.variance, mask, x, y, fwhm, config.kernel)
    matched = kernel.field.convolve(source.data) + kernel.background()
    spread = spread_mask(source.mask, kernel.field, config.spread_fraction)
    mask = mask | spread
    whiten = None
    if config.decorrelate:
        whiten = decorrelation_kernel(kernel.field, float(np.median(source.variance)), float(np.median(target.variance)))
    if convolve_template:
        minuend, subtrahend, unit = target.data, matched, 1.0
    else:
        minuend, subtrahend, unit = matched, target.data, 1 / kernel.sum
    data = (minuend - subtrahend) * np.float32(unit)
    variance = _variance(source.variance, target.variance, kernel, decorrelated=whiten is not None) * np.float32(unit**2)
    if not convolve_template:
        psf = psf.map(lambda stamps, px, py: _normalised(_convolved(stamps, kernel.field.at(px, py))))
    if whiten is not None:
        data = oaconvolve(data, whiten.astype(np.float32), mode="same")
        psf = psf.map(lambda stamps, _x, _y: _normalised(_convolved(stamps, whiten[None])))
    lost = any_set(mask, Mask.NO_DATA, data.shape)
    return Difference(
        data=np.where(lost, 0, data).astype(np.float32),
        variance=variance.astype(np.float32),
        mask=mask,
        matched_template=(subtrahend * unit).astype(np.float32),
        science=(minuend * unit).astype(np.float32),
        psf=psf,
        kernel=kernel,
        convolved="template" if convolve_template else "science",
    )


def merge_templates(pieces: Sequence[tuple[Floats, Floats, Masks]]) -> tuple[Floats, Floats, Masks]:
    """One template (data, variance, mask) from patches already on the science grid; where several have data the first counts.

    Neighbouring patches overlap with the same pixels, so averaging would gain nothing; but at its border a patch has pixels whose
    interpolation kernel lacked data (EDGE), and those of its neighbour are better.
    """
    data, variance, mask = (np.array(part) for part in pieces[0])
    for worse in (Mask.NO_DATA, Mask.NO_DATA | Mask.EDGE):
        for more, more_variance, more_mask in pieces[1:] if worse == Mask.NO_DATA else pieces:
            take = any_set(mask, worse, data.shape) & ~any_set(more_mask, worse, data.shape) & np.isfinite(more)
            data[take], variance[take], mask[take] = more[take], more_variance[take], more_mask[take]
    return data, variance, mask


def wings(mask: Masks, fwhm_px: float, config: DifferenceConfig) -> Masks:
    """`mask` with SUSPECT around every saturated area, farther around larger ones."""
    saturated = any_set(mask, Mask.SAT, mask.shape)
    if not saturated.any():
        return mask
    labels, count = ndimage.label(ndimage.binary_dilation(saturated))
    area = np.bincount(labels[saturated], minlength=count + 1)
    reach = config.wing_fwhm * fwhm_px + config.wing_radii * np.sqrt(area / np.pi)
    distance, nearest = ndimage.distance_transform_edt(~saturated, return_indices=True)
    return mask | np.where(distance < reach[labels[nearest[0], nearest[1]]], np.uint32(Mask.SUSPECT), np.uint32(0))


def spread_mask(mask: Masks, kernel: KernelField, fraction: float) -> Masks:
    """Bits of the convolved image: set where flagged pixels carry more than `fraction` of the kernel's absolute weight.

    The kernel at the image's centre stands for all; bits that say nothing of a pixel's value (DETECTED, CLIPPED) do not spread.
    """
    ny, nx = mask.shape
    weight = np.abs(kernel.at(np.array([nx / 2]), np.array([ny / 2]))[0])
    weight = (weight / weight.sum()).astype(np.float32)
    out = np.zeros_like(mask)
    for bit in (Mask.BAD, Mask.SAT, Mask.CR, Mask.EDGE, Mask.NO_DATA, Mask.INTERP, Mask.SUSPECT):
        flagged = any_set(mask, bit, mask.shape)
        if flagged.any():
            out[oaconvolve(flagged.astype(np.float32), weight, mode="same") > fraction] |= np.uint32(bit)
    border = kernel.half_size_px
    edge = np.ones(mask.shape, bool)
    edge[border : ny - border, border : nx - border] = False
    out[edge] |= np.uint32(Mask.EDGE)
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


def _variance(source: Floats, target: Floats, kernel: MatchingKernel, *, decorrelated: bool) -> Floats:
    """Pixel variance of target - kernel * source: that of white noise after decorrelation, else what convolution leaves."""
    if decorrelated:
        return target + source * np.float32(kernel.sum**2)
    squared = kernel.field.map(lambda stamps, _x, _y: stamps**2)
    return target + np.maximum(squared.convolve(source), 0)


def _convolved(stamps: Floats, kernels: Floats) -> Floats:
    """Stamps (n, k, k) convolved with kernels (n or 1, l, l), grown by the kernels' size so that nothing is cut off."""
    size = stamps.shape[-1] + kernels.shape[-1] - 1
    return fft.irfft2(fft.rfft2(stamps, s=(size, size)) * fft.rfft2(kernels, s=(size, size)), s=(size, size))


def _normalised(stamps: Floats) -> Floats:
    return stamps / stamps.sum(axis=(1, 2), keepdims=True)
