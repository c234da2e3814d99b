"""A kernel, or a PSF, that varies over an image as a polynomial of position, and convolution with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.convolve import correlate_blocks

Floats = NDArray[np.floating]
_ROWS = 256


def n_terms(order: int) -> int:
    """Number of monomials of two variables up to `order`."""
    return (order + 1) * (order + 2) // 2


def powers(order: int) -> list[tuple[int, int]]:
    """Exponents (of x, of y) in the order in which coefficients are kept: by total degree, so a lower order is a prefix."""
    return [(total - j, j) for total in range(order + 1) for j in range(total + 1)]


def polynomial(x: Floats, y: Floats, order: int, shape: tuple[int, int]) -> Floats:
    """Monomials at pixels (x, y) of an image of `shape` (ny, nx), coordinates scaled to [-1, 1]; (n, n_terms)."""
    u = 2 * np.atleast_1d(np.asarray(x, float)) / shape[1] - 1
    v = 2 * np.atleast_1d(np.asarray(y, float)) / shape[0] - 1
    return np.stack([u**i * v**j for i, j in powers(order)], axis=-1)


def terms_through(
    values: Floats, x: Floats, y: Floats, order: int, shape: tuple[int, int], *, rounds: int, sigma: float
) -> Floats:
    """Terms of the polynomial of position through `values` (n,) at (x, y), `rounds` times at most without those far from it."""
    places = polynomial(x, y, order, shape)
    kept = np.ones(len(values), bool)
    for _ in range(rounds + 1):
        terms = np.linalg.lstsq(places[kept], values[kept], rcond=None)[0]
        off = np.abs(values - places @ terms)
        near = off <= sigma * 1.4826 * np.median(off[kept]) + 1e-12
        if (near == kept).all() or near.sum() < places.shape[1]:
            break
        kept = near
    return terms


def add_polynomial(image: NDArray[np.float32], terms: Floats, order: int) -> None:
    """Add the polynomial of `terms`, in the order of `powers`, to an image (ny, nx), in place."""
    up, across = (np.stack([t**i for i in range(order + 1)]) for t in (_scaled(n) for n in image.shape))
    matrix = np.zeros((order + 1, order + 1), np.float32)
    for (i, j), term in zip(powers(order), terms, strict=True):
        matrix[j, i] = term
    # Some rows at a time: one plane more, beside all that a worker holds then, would be its peak.
    for first in range(0, len(image), _ROWS):
        rows = slice(first, first + _ROWS)
        image[rows] += up[:, rows].T @ (matrix @ across)


def _scaled(count: int) -> NDArray[np.float32]:
    return 2 * np.arange(count, dtype=np.float32) / np.float32(count) - 1


@dataclass(frozen=True)
class KernelField:
    """A kernel (or a PSF) that varies over an image as a polynomial of position.

    `coefficients` (n_terms, k, k), k odd, convolution convention; `shape` (ny, nx) of the image.
    """

    coefficients: Floats
    order: int
    shape: tuple[int, int]

    @classmethod
    def constant(cls, stamp: Floats, shape: tuple[int, int]) -> KernelField:
        """The same kernel everywhere."""
        return cls(np.asarray(stamp, float)[None], 0, shape)

    @classmethod
    def from_samples(cls, x: Floats, y: Floats, stamps: Floats, order: int, shape: tuple[int, int]) -> KernelField:
        """Least-squares polynomial through stamps (n, k, k) given at (x, y)."""
        n, k, _ = stamps.shape
        fitted = np.linalg.lstsq(polynomial(x, y, order, shape), stamps.reshape(n, k * k), rcond=None)[0]
        return cls(fitted.reshape(-1, k, k), order, shape)

    @property
    def half_size_px(self) -> int:
        """Half size of the kernel."""
        return int(self.coefficients.shape[-1] // 2)

    def grid(self) -> tuple[Floats, Floats]:
        """Places enough to know the field by: (x, y) of a 5 x 5 grid over the image."""
        t = np.linspace(0, 1, 5)
        x, y = np.meshgrid(t * (self.shape[1] - 1), t * (self.shape[0] - 1))
        return x.ravel(), y.ravel()

    def at(self, x: Floats, y: Floats) -> Floats:
        """Kernels (n, k, k) at places (x, y)."""
        return np.einsum("nt,tij->nij", polynomial(x, y, self.order, self.shape), self.coefficients)

    def map(self, change: Callable[[Floats, Floats, Floats], Floats], order: int | None = None) -> KernelField:
        """The field of `change(stamps, x, y)`, a function of stamps (n, k, k) and their places, refitted."""
        x, y = self.grid()
        return KernelField.from_samples(x, y, change(self.at(x, y), x, y), self.order if order is None else order, self.shape)

    def transposed(self) -> KernelField:
        """The field whose convolution is the correlation with this one."""
        return KernelField(self.coefficients[:, ::-1, ::-1], self.order, self.shape)

    def convolve(self, image: Floats, *, overwrite: bool = False) -> Floats:
        """`image` (ny, nx) convolved with the kernel of each place, float32; beyond the border the image counts as zero.

        The kernel is that of the middle of a block of pixels, about a 64th of the image wide: within it a field of second order
        changes by less than a part in a thousand of what it changes over the image. With `overwrite` the result takes the place
        of the image, if that is of float32.
        """
        if image.shape != self.shape:
            raise ValueError(f"image of shape {image.shape}, kernel made for {self.shape}")
        pixels = np.ascontiguousarray(image, np.float32)
        out = pixels if overwrite else np.empty(self.shape, np.float32)
        correlate_blocks(pixels, self._blocks(0, self.shape[0]), self.half_size_px, self.block_px, 0, out)
        return out

    def convolve_rows(self, part: Floats, low: int, rows: tuple[int, int]) -> NDArray[np.float32]:
        """Rows (first, end) of what `convolve` gives, the first a multiple of `block_px`; `part` float32 are the image's rows
        from `low` on, half a kernel more than wanted where there are any."""
        out = np.empty((rows[1] - rows[0], self.shape[1]), np.float32)
        correlate_blocks(part, self._blocks(*rows), self.half_size_px, self.block_px, rows[0] - low, out)
        return out

    @property
    def block_px(self) -> int:
        """Side of the blocks of pixels that are convolved with one kernel: full vectors for the processor."""
        return 16 * int(np.clip(round(max(self.shape) / 1024), 1, 4)) if self.order else 64

    def _blocks(self, first: int, end: int) -> NDArray[np.float32]:
        """Kernels (rows, columns, k, taps) of the blocks of these rows as `correlate_blocks` wants them."""
        block, (ny, nx), k = self.block_px, self.shape, self.coefficients.shape[-1]
        middles = (np.arange(0, end - first, block) + first + block / 2, np.arange(0, nx, block) + block / 2)
        y, x = np.meshgrid(np.minimum(middles[0], ny - 1), np.minimum(middles[1], nx - 1), indexing="ij")
        turned = np.pad(self.coefficients[:, ::-1, ::-1], ((0, 0), (0, 0), (0, -k % 8))).astype(np.float32)
        places = polynomial(x.ravel(), y.ravel(), self.order, self.shape).astype(np.float32)
        return (places @ turned.reshape(len(turned), -1)).reshape(*x.shape, *turned.shape[1:])
