"""PSF matching: a spatially varying kernel that makes one image look as if seen through the other's optics.

The method is Alard & Lupton's (1998; varying kernel: Alard 2000): the kernel is a sum of Gaussians times polynomials, its
coefficients are low-order polynomials of position, and all of them together are one linear least-squares problem over stamps
around stars. Each stamp has a differential background of its own: in a crowded field no smooth one is right everywhere, and the
kernel's sum would make up for it. Every basis but the first is made to sum to zero, so that the photometric scale is the first
coefficient's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import fft, linalg, ndimage

from backbone.errors import PermanentError
from payloads.kernel_field import Floats, KernelField, add_polynomial, n_terms, polynomial, powers, terms_through
from payloads.mask import UNUSABLE, Mask, any_set

SIGMA_PER_FWHM = 1 / 2.3548
_BATCH = 40


class KernelError(PermanentError):
    """No kernel could be solved from these two images."""


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """How stamps are chosen and the kernel is built."""

    half_size_px: int | None = None  # of the kernel; None: 7 sigma of the broader PSF and 2 of what it has over the sharper
    basis_sigma: tuple[float, ...] = (0.45, 0.9, 1.8, 3.6)  # widths in units of the broader PSF's sigma; the last for its wings
    basis_degree: tuple[int, ...] = (4, 2, 2, 0)  # of the polynomial that multiplies each Gaussian
    order: int = 2  # highest spatial order of the kernel's shape
    background_order: int = 1  # of the differential background
    stamp_fwhm: float = 3.5  # half size of a stamp in FWHM of the broader PSF
    stamp_snr: float = 40.0  # least signal-to-noise of a stamp's source
    stamps_per_term: int = 8  # stamps needed for each spatial term; fewer stamps lower the order
    max_stamps: int = 400
    min_stamps: int = 3
    clip_sigma: float = 4.0  # of the stamps' chi squares
    clip_rounds: int = 4
    ridge: float = 1e-7  # added to the scaled normal matrix, whose diagonal is one
    noise_removed: tuple[float, ...] = (0.0, 0.5, 0.8)  # shares of the source noise to try to take out of the equations
    source_error: float = 0.005  # fraction of a pixel's flux added to its error, so that the brightest stars do not decide alone


@dataclass(frozen=True, kw_only=True)
class MatchingKernel:
    """The solution: `field.convolve(source) + background()` looks like the target."""

    field: KernelField
    background_terms: Floats
    background_order: int
    noise_removed: float  # share of the source's noise taken out of the equations
    chi2: float  # median over the stamps used of chi square per pixel
    n_stamps: int
    n_used: int
    x: Floats  # places of the stamps used
    y: Floats

    @property
    def sum(self) -> float:
        """Photometric scale target / source at the image's centre."""
        ny, nx = self.field.shape
        return float(self.field.at(np.array([nx / 2]), np.array([ny / 2])).sum())

    def background(self) -> Floats:
        """Differential background (ny, nx), target minus matched source, float32."""
        out = np.zeros(self.field.shape, np.float32)
        add_polynomial(out, self.background_terms, self.background_order)
        return out

    def matched(self, source: Floats, *, overwrite: bool = False) -> Floats:
        """The source (ny, nx) as the target sees it, float32; with `overwrite` in the source's own place."""
        out = self.field.convolve(source, overwrite=overwrite)
        add_polynomial(out, self.background_terms, self.background_order)
        return out


def basis(half_size_px: int, sigmas_px: tuple[float, ...], degrees: tuple[int, ...]) -> Floats:
    """Gaussians times polynomials (n, k, k): the first sums to one, all others to zero."""
    t = np.arange(-half_size_px, half_size_px + 1.0)
    kernels = []
    for sigma, degree in zip(sigmas_px, degrees, strict=True):
        gauss = np.exp(-0.5 * (t / sigma) ** 2)
        for i, j in powers(degree):
            kernel = np.outer(gauss * (t / sigma) ** j, gauss * (t / sigma) ** i)
            kernels.append(kernel / np.abs(kernel).sum())
    out = np.array(kernels)
    out[0] /= out[0].sum()
    out[1:] -= out[1:].sum(axis=(1, 2), keepdims=True) * out[0]
    return out


def choose_stamps(
    image: Floats,
    variance: Floats,
    mask: NDArray[np.uint32],
    fwhm_px: float,
    reach_px: int,
    config: KernelConfig,
    stars: tuple[Floats, Floats] | None = None,
) -> tuple[Floats, Floats]:
    """Places (x, y) of bright compact unsaturated sources, whole stamps of `reach_px` free of unusable pixels in their core.

    The brightest are taken cell by cell of a coarse grid, so that a dense corner does not decide for the whole image. Where
    `stars` (x, y) are known they are chosen from; else sources are searched for.
    """
    ny, nx = image.shape
    unusable = any_set(mask, UNUSABLE, image.shape) | ~np.isfinite(image) | ~(variance > 0)
    if stars is None:
        clean = np.ascontiguousarray(np.where(unusable, 0, image), np.float32)
        error = np.sqrt(np.where(unusable, 1, variance)).astype(np.float32)
        sources = sep.extract(clean, 5.0, err=error, mask=unusable, minarea=5, deblend_cont=0.01)
        compact = sources["a"] < 1.5 * fwhm_px
        x, y = sources["x"][compact], sources["y"][compact]
    else:
        x, y = (np.ascontiguousarray(c, np.float64) for c in stars)
    planes = {"data": np.ascontiguousarray(image, np.float32), "var": np.ascontiguousarray(variance, np.float32)}
    flux, flux_error, _ = sep.sum_circle(x=x, y=y, r=max(1.5, fwhm_px), mask=unusable, **planes)
    inside = (x >= reach_px) & (y >= reach_px) & (x < nx - reach_px) & (y < ny - reach_px)
    good = inside & (flux > config.stamp_snr * flux_error)
    columns, rows = np.round(x[good]).astype(int), np.round(y[good]).astype(int)
    near = _cut(mask, columns, rows, int(1.5 * fwhm_px))
    good[good] &= ~any_set(near, Mask.SAT | Mask.SUSPECT | Mask.NO_DATA, near.shape).any(axis=(1, 2))
    x, y, flux = x[good], y[good], flux[good]
    per_side = max(1, int(np.sqrt(config.max_stamps / 3)))
    cell = (y * per_side // ny).astype(int) * per_side + (x * per_side // nx).astype(int)
    by_flux = np.argsort(-flux, kind="stable")
    rank = np.empty(len(x), int)
    order = by_flux[np.argsort(cell[by_flux], kind="stable")]
    starts = np.r_[0, np.flatnonzero(np.diff(cell[order])) + 1] if len(order) else np.array([], int)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    keep = np.lexsort((-flux, rank))[: config.max_stamps]
    return x[keep], y[keep]


def solve_kernel(
    source: Floats,
    target: Floats,
    source_variance: Floats,
    target_variance: Floats,
    mask: NDArray[np.uint32],
    x: Floats,
    y: Floats,
    fwhm_px: float,
    config: KernelConfig,
    *,
    sharper_px: float | None = None,
) -> MatchingKernel:
    """Kernel that takes `source` to `target` (both (ny, nx)), from stamps at (x, y).

    `mask` is the union of both; `fwhm_px` is the broader PSF's, `sharper_px` the other's, if it is known. Noise of the source
    would bias the kernel towards one that smooths (errors in variables); its expected part, known from `source_variance`, is
    taken out of the normal equations. Raises KernelError where fewer than `min_stamps` remain.
    """
    sigma = fwhm_px * SIGMA_PER_FWHM
    # Seeing changes a PSF's wings more than its core, and a kernel has to carry them: cut short, it leaves a ring around bright
    # stars, in which every flux is too low.
    added = np.sqrt(max(fwhm_px**2 - (sharper_px or fwhm_px) ** 2, 0.0)) * SIGMA_PER_FWHM
    half = config.half_size_px or int(np.clip(np.ceil(7.0 * sigma + 2.0 * added), 5, 25))
    reach = int(np.ceil(config.stamp_fwhm * fwhm_px))
    functions = basis(half, tuple(s * sigma for s in config.basis_sigma), config.basis_degree)
    cx, cy = np.round(x).astype(int), np.round(y).astype(int)
    ny, nx = source.shape
    fits = (cx >= reach + half) & (cy >= reach + half) & (cx < nx - reach - half) & (cy < ny - reach - half)
    cx, cy = cx[fits], cy[fits]
    if len(cx) < config.min_stamps:
        raise KernelError(
            f"only {len(cx)} stars can be used to match the PSFs, {config.min_stamps} are needed: "
            "look at the template's coverage and mask, or lower stamp_snr"
        )
    images = ((source, source_variance), (target, target_variance), mask)
    # A few stamps at a time: their designs are thirty times as large as they are.
    parts = [np.s_[k : k + _BATCH] for k in range(0, len(cx), _BATCH)]
    normal = _Equations.joined([_stamp_equations(*images, (cx[p], cy[p]), reach, functions, config) for p in parts])
    order = next(o for o in range(config.order, -1, -1) if o == 0 or len(cx) >= config.stamps_per_term * n_terms(o))
    return _clipped_solution(normal, cx, cy, order, functions, source.shape, config)


@dataclass(frozen=True, kw_only=True)
class _Equations:
    """Per stamp, for m bases, the best constant taken off all of them: normal matrix (n, m, m), the part of it that noise makes,
    right side (n, m), the target's weighted square (n,), good pixels (n,); and weighted means of bases (n, m) and target (n,)."""

    matrix: Floats
    noise: Floats
    right: Floats
    square: Floats
    pixels: NDArray[np.int_]
    mean: Floats
    level: Floats

    @classmethod
    def joined(cls, parts: list[_Equations]) -> _Equations:
        """Of all stamps."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _cut(image: Floats, cx: NDArray[np.int_], cy: NDArray[np.int_], reach: int) -> Floats:
    """Stamps (n, 2 reach + 1, 2 reach + 1)."""
    t = np.arange(-reach, reach + 1)
    return image[cy[:, None, None] + t[None, :, None], cx[:, None, None] + t[None, None, :]]


def _stamp_equations(
    source: tuple[Floats, Floats],
    target: tuple[Floats, Floats],
    mask: NDArray[np.uint32],
    centres: tuple[NDArray[np.int_], NDArray[np.int_]],
    reach: int,
    functions: Floats,
    config: KernelConfig,
) -> _Equations:
    """One small least-squares problem per stamp; images come as (data, variance)."""
    half = functions.shape[-1] // 2
    n, side = len(centres[0]), 2 * reach + 1
    wide, aim = _cut(source[0], *centres, reach + half).astype(float), _cut(target[0], *centres, reach).astype(float)
    spread = _cut(source[1], *centres, reach).astype(float)
    variance = spread + _cut(target[1], *centres, reach)
    spoilt = any_set(_cut(mask, *centres, reach + 1), UNUSABLE, (n,))
    inner = np.s_[:, 1:-1, 1:-1]
    spoilt[inner] |= ~np.isfinite(aim) | ~np.isfinite(variance) | ~(variance > 0)
    good = ~ndimage.maximum_filter(spoilt, size=(1, 3, 3))[inner]
    wide = np.where(any_set(_cut(mask, *centres, reach + half), UNUSABLE, (n,)) | ~np.isfinite(wide), 0, wide)
    aim = np.where(spoilt[inner], 0, aim)
    weight = good / (np.where(good, variance, 1) + (config.source_error * np.maximum(aim, 0)) ** 2)
    size = fft.next_fast_len(side + 2 * half, real=True)
    transformed = fft.rfft2(wide, s=(size, size))
    design = np.empty((n, len(functions), side * side))
    for i, function in enumerate(fft.rfft2(functions, s=(size, size))):
        piece = fft.irfft2(transformed * function, s=(size, size))[:, 2 * half : 2 * half + side, 2 * half : 2 * half + side]
        design[:, i] = piece.reshape(n, -1)
    share = (weight / np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1e-30)).reshape(n, -1, 1)
    mean, level = (design @ share)[:, :, 0], (aim.reshape(n, 1, -1) @ share)[:, 0, 0]
    design -= mean[:, :, None]
    aim = aim - level[:, None, None]
    weighted = design * weight.reshape(n, 1, -1)
    flat = functions.reshape(len(functions), -1)
    overlap = flat @ flat.T
    noise = (weight * np.where(good, spread, 0)).sum(axis=(1, 2))
    return _Equations(
        matrix=weighted @ design.transpose(0, 2, 1),
        noise=noise[:, None, None] * overlap,
        right=(weighted @ aim.reshape(n, -1, 1))[:, :, 0],
        square=(weight * aim**2).sum(axis=(1, 2)),
        pixels=good.sum(axis=(1, 2)),
        mean=mean,
        level=level,
    )


@dataclass(frozen=True)
class _Model:
    """One choice of spatial order: unknowns `ends[i]` to `ends[i + 1]` are basis i's coefficients of the first of the
    `polynomials` (n, terms); `columns` says which of all (basis, polynomial) are unknowns."""

    order: int
    noise_removed: float
    ends: NDArray[np.int_]
    polynomials: Floats
    columns: NDArray[np.int_]

    @classmethod
    def of(cls, order: int, noise_removed: float, n_bases: int, places: tuple[Floats, Floats], shape) -> _Model:
        orders = [min(order, 1)] + [order] * (n_bases - 1)
        counts = np.array([n_terms(o) for o in orders])
        # A lower order is a prefix of a higher one's polynomials.
        whole = polynomial(*places, max(orders), shape)
        columns = np.concatenate([i * whole.shape[1] + np.arange(count) for i, count in enumerate(counts)])
        return cls(order, noise_removed, np.r_[0, np.cumsum(counts)], whole, columns)

    def solve(self, e: _Equations, usable: NDArray[np.bool_], ridge: float) -> Floats:
        """Unknowns from the stamps `usable`; LinAlgError where too much noise was removed for them to be a minimum."""
        # Each basis has the same polynomials (some not all of them): products of polynomials and of bases part.
        places = self.polynomials[usable]
        n, terms = places.shape
        bases = e.matrix.shape[1]
        pairs = (places[:, :, None] * places[:, None, :]).reshape(n, -1)
        whole = pairs.T @ (e.matrix - self.noise_removed * e.noise)[usable].reshape(n, -1)
        whole = whole.reshape(terms, terms, bases, bases).transpose(2, 0, 3, 1).reshape(bases * terms, bases * terms)
        normal = whole[np.ix_(self.columns, self.columns)]
        right = np.einsum("nt,ni->it", places, e.right[usable]).ravel()[self.columns]
        scale = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-30))
        scaled = normal * scale * scale[:, None] + ridge * np.eye(len(normal))
        factor = linalg.cho_factor(scaled)
        return scale * linalg.cho_solve(factor, scale * right)

    def local(self, solution: Floats, n_bases: int) -> Floats:
        """Coefficients of the bases (n, m) at each stamp."""
        all_terms = np.zeros(n_bases * self.polynomials.shape[1])
        all_terms[self.columns] = solution
        return self.polynomials @ all_terms.reshape(n_bases, -1).T

    def chi2(self, e: _Equations, solution: Floats, *, of_noise: float) -> Floats:
        """Chi square per pixel of each stamp, less the share `of_noise` of what the source's noise is expected to add."""
        local = self.local(solution, e.matrix.shape[1])
        whole = np.einsum("ni,nij,nj->n", local, e.matrix - of_noise * e.noise, local)
        return (e.square - 2 * (local * e.right).sum(1) + whole) / np.maximum(e.pixels, 1)

    def clipped(self, e: _Equations, config: KernelConfig) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """(solution, stamps used, chi square of all stamps): again and again without those that fit badly."""
        whole = e.pixels > 0.6 * e.pixels.max()
        usable = whole
        for _ in range(config.clip_rounds + 1):
            if usable.sum() < config.min_stamps:
                raise KernelError(f"{len(whole)} stars were tried and fewer than {config.min_stamps} agree on one kernel")
            solution = self.solve(e, usable, config.ridge)
            chi2 = self.chi2(e, solution, of_noise=0.0)
            middle = np.median(chi2[usable])
            width = 1.4826 * np.median(np.abs(chi2[usable] - middle))
            kept = whole & (chi2 < middle + config.clip_sigma * max(width, 0.02 * middle))
            if (kept == usable).all():
                break
            usable = kept
        return solution, usable, chi2

    def validation(self, e: _Equations, usable: NDArray[np.bool_], ridge: float) -> float:
        """How well the kernel of one half of the stamps fits the other: chi square without noise, the worst tenth left out;
        infinite where a half does not determine it."""
        found = []
        for half in (0, 1):
            mine = usable & (np.arange(len(usable)) % 2 == half)
            other = usable & ~mine
            try:
                found.append(self.chi2(e, self.solve(e, mine, ridge), of_noise=1.0)[other])
            except linalg.LinAlgError:
                return np.inf
        values = np.sort(np.concatenate(found))
        return float(values[: max(1, int(0.9 * len(values)))].mean())


def _best(models: list[_Model], e: _Equations, config: KernelConfig) -> tuple[_Model, Floats, NDArray[np.bool_], Floats]:
    """(model, solution, stamps used, chi squares): the model that cross-validates best.

    Few or noisy stars get a stiffer kernel that way. A model that fits its own stamps worse than the stiffest does has run away
    in clipping and is passed over.
    """
    stiffest, *others = models
    safe = stiffest.clipped(e, config)
    solution, usable, _ = safe
    limit = 1.05 * np.median(stiffest.chi2(e, solution, of_noise=1.0)[usable])
    scores = {id(model): model.validation(e, usable, config.ridge) for model in models}
    for model in sorted(others, key=lambda m: scores[id(m)]):
        if scores[id(model)] >= scores[id(stiffest)]:
            break
        try:
            found = model.clipped(e, config)
        except linalg.LinAlgError:
            continue
        mismatch = np.median(model.chi2(e, found[0], of_noise=1.0)[found[1]])
        if mismatch <= limit and found[1].sum() >= 0.8 * usable.sum():
            return model, *found
    return stiffest, *safe


def _clipped_solution(
    equations: _Equations,
    cx: NDArray[np.int_],
    cy: NDArray[np.int_],
    highest: int,
    functions: Floats,
    shape: tuple[int, int],
    config: KernelConfig,
) -> MatchingKernel:
    """The best model up to spatial order `highest`, solved without the stamps that do not fit it."""
    choices = [(o, share) for o in range(highest + 1) for share in config.noise_removed]
    models = [_Model.of(o, share, len(functions), (cx, cy), shape) for o, share in choices]
    model, solution, usable, chi2 = _best(models, equations, config)
    coefficients = np.zeros((n_terms(model.order), *functions.shape[1:]))
    for i, function in enumerate(functions):
        own = solution[model.ends[i] : model.ends[i + 1]]
        coefficients[: len(own)] += own[:, None, None] * function
    levels = equations.level - (model.local(solution, len(functions)) * equations.mean).sum(axis=1)
    background_order = config.background_order if model.order else 0
    return MatchingKernel(
        field=KernelField(coefficients, model.order, shape),
        background_terms=terms_through(
            levels[usable], cx[usable], cy[usable], background_order, shape, rounds=config.clip_rounds, sigma=config.clip_sigma
        ),
        background_order=background_order,
        noise_removed=model.noise_removed,
        chi2=float(np.median(chi2[usable])),
        n_stamps=len(cx),
        n_used=int(usable.sum()),
        x=cx[usable].astype(float),
        y=cy[usable].astype(float),
    )
