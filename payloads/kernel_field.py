"""A kernel, or a PSF, that varies over an image as a polynomial of position, and convolution with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.floating]


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

    def convolve(self, image: Floats, tile_px: int = 512) -> Floats:
        """`image` (ny, nx) convolved with the kernel of each place, float32; beyond the border the image counts as zero.

        Exact for a polynomial field: the sum over its terms of (image convolved with the term's kernel) times the monomial. The
        image is transformed once per tile and the terms share it.
        """
        if image.shape != self.shape:
            raise ValueError(f"image of shape {image.shape}, kernel made for {self.shape}")
        h, (ny, nx) = self.half_size_px, self.shape
        side = fft.next_fast_len(min(tile_px, max(ny, nx)) + 2 * h, real=True)
        step = side - 2 * h
        transformed = fft.rfft2(self.coefficients.astype(np.float32), s=(side, side))
        padded = np.pad(np.asarray(image, np.float32), h)
        out = np.empty((ny, nx), np.float32)
        u = (2 * np.arange(nx) / nx - 1).astype(np.float32)
        v = (2 * np.arange(ny) / ny - 1).astype(np.float32)
        for y0 in range(0, ny, step):
            for x0 in range(0, nx, step):
                rows, columns = slice(y0, min(y0 + step, ny)), slice(x0, min(x0 + step, nx))
                block = fft.rfft2(padded[y0 : y0 + side, x0 : x0 + side], s=(side, side))
                part = np.zeros((rows.stop - y0, columns.stop - x0), np.float32)
                for (i, j), kernel in zip(powers(self.order), transformed, strict=True):
                    piece = fft.irfft2(block * kernel, s=(side, side))[2 * h :, 2 * h :][: part.shape[0], : part.shape[1]]
                    part += piece * (u[columns] ** i)[None, :] * (v[rows] ** j)[:, None]
                out[rows, columns] = part
        return out
