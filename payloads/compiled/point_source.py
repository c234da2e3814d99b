"""PSFs put at sub-pixel places: one source after another, from spline coefficients that are a polynomial of position.

The quintic B-spline of a stamp is linear in the stamp, so that of a varying PSF is the same polynomial of the terms' splines:
nothing is filtered for a source.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def _weights(shift: float, values: Any, slopes: Any) -> None:
    """Quintic B-spline weights of the taps -3 … 3 for a stamp moved by `shift` (|shift| <= 1), and their derivative by it."""
    for tap in range(7):
        signed = tap - 3 + shift
        t = abs(signed)
        sign = 1.0 if signed >= 0 else -1.0
        inner, middle, outer = max(1.0 - t, 0.0), max(2.0 - t, 0.0), max(3.0 - t, 0.0)
        values[tap] = (outer**5 - 6 * middle**5 + 15 * inner**5) / 120.0
        slopes[tap] = -sign * (outer**4 - 6 * middle**4 + 15 * inner**4) / 24.0


@njit(cache=True, fastmath=True)
def _stamp(splines: Any, total: Any, basis: Any, dx: float, dy: float, half: int, coefficients: Any, rows: Any, out: Any) -> None:
    """out[0] the PSF (2 half + 1 square) moved by (dx, dy) and of sum 1; out[1], out[2] its derivatives by dx and dy."""
    terms, size = splines.shape[0], splines.shape[1]
    middle = size // 2
    side = 2 * half + 1
    norm = 0.0
    for t in range(terms):
        norm += basis[t] * total[t]
    reach = half + 3
    for p in range(2 * reach + 1):
        for q in range(2 * reach + 1):
            y, x = middle - reach + p, middle - reach + q
            value = 0.0
            if 0 <= y < size and 0 <= x < size:
                for t in range(terms):
                    value += basis[t] * splines[t, y, x]
            coefficients[p, q] = value / norm
    wx, sx, wy, sy = np.empty(7), np.empty(7), np.empty(7), np.empty(7)
    _weights(dx, wx, sx)
    _weights(dy, wy, sy)
    # Tap k of the weights stands for the coefficient k - 3 pixels away.
    for p in range(2 * reach + 1):
        for q in range(side):
            value, slope = 0.0, 0.0
            for k in range(7):
                c = coefficients[p, q + k]
                value += wx[k] * c
                slope += sx[k] * c
            rows[0, p, q] = value
            rows[1, p, q] = slope
    for p in range(side):
        for q in range(side):
            value, by_x, by_y = 0.0, 0.0, 0.0
            for k in range(7):
                value += wy[k] * rows[0, p + k, q]
                by_x += wy[k] * rows[1, p + k, q]
                by_y += sy[k] * rows[0, p + k, q]
            out[0, p, q] = value
            out[1, p, q] = by_x
            out[2, p, q] = by_y


@njit(cache=True, fastmath=True)
def add(image: Any, splines: Any, total: Any, basis: Any, x: Any, y: Any, flux: Any, half: int) -> None:
    """Add sources (n,) of `flux` to `image` (ny, nx).

    `splines` (terms, size, size), the stamps' sums `total` (terms,), `basis` (n, terms).
    """
    ny, nx = image.shape
    side = 2 * half + 1
    coefficients, rows = np.empty((side + 6, side + 6)), np.empty((2, side + 6, side))
    out = np.empty((3, side, side))
    for n in range(x.size):
        column, row = int(np.rint(x[n])), int(np.rint(y[n]))
        _stamp(splines, total, basis[n], x[n] - column, y[n] - row, half, coefficients, rows, out)
        for p in range(max(0, half - row), min(side, ny - row + half)):
            for q in range(max(0, half - column), min(side, nx - column + half)):
                image[row - half + p, column - half + q] += np.float32(flux[n] * out[0, p, q])


@njit(cache=True, fastmath=True)
def fit(
    image: Any, variance: Any, unusable: Any, splines: Any, total: Any, basis: Any, x: Any, y: Any, own_flux: Any, half: int,
    radius: float, rounds: int, move: bool, result: Any,
) -> None:  # fmt: skip
    """Least squares of flux and, with `move`, position of each source (n,), weights equal, pixels within `radius`.

    `own_flux` (n,) is put back at the start position first. `result` (n, 9): dx, dy from the nearest pixel, flux, variances of
    flux, x * flux, y * flux, share of the squared PSF on usable pixels, chi square, number of pixels.
    """
    ny, nx = image.shape
    side = 2 * half + 1
    coefficients, rows = np.empty((side + 6, side + 6)), np.empty((2, side + 6, side))
    out, own = np.empty((3, side, side)), np.zeros((side, side))
    normal, spread, right = np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    g = np.empty(3)
    for n in range(x.size):
        column, row = int(np.rint(x[n])), int(np.rint(y[n]))
        dx, dy = x[n] - column, y[n] - row
        own[:] = 0.0
        if own_flux[n] != 0:
            _stamp(splines, total, basis[n], dx, dy, half, coefficients, rows, out)
            for p in range(side):
                for q in range(side):
                    own[p, q] = own_flux[n] * out[0, p, q]
        flux, weight, count = 0.0, 0.0, 0
        for _ in range(rounds if move else 1):
            _stamp(splines, total, basis[n], dx, dy, half, coefficients, rows, out)
            normal[:] = 0.0
            spread[:] = 0.0
            right[:] = 0.0
            weight, whole, count = 0.0, 0.0, 0
            for p in range(side):
                yy = row - half + p
                for q in range(side):
                    xx = column - half + q
                    value = out[0, p, q]
                    whole += value * value
                    if (p - half) ** 2 + (q - half) ** 2 > radius * radius:
                        continue
                    if yy < 0 or xx < 0 or yy >= ny or xx >= nx or unusable[yy, xx]:
                        continue
                    weight += value * value
                    count += 1
                    signal, noise = image[yy, xx] + own[p, q], variance[yy, xx]
                    g[0], g[1], g[2] = value, out[1, p, q], out[2, p, q]
                    for i in range(3):
                        right[i] += g[i] * signal
                        for j in range(i + 1):
                            normal[i, j] += g[i] * g[j]
                            spread[i, j] += g[i] * g[j] * noise
            for i in range(3):
                for j in range(i):
                    normal[j, i], spread[j, i] = normal[i, j], spread[i, j]
            if not move:
                for i in range(1, 3):
                    right[i] = 0.0
                    for j in range(3):
                        normal[i, j] = normal[j, i] = spread[i, j] = spread[j, i] = 0.0
            for i in range(3):
                normal[i, i] += 1.0 if normal[i, i] <= 0 else 1e-12 * normal[i, i]
            inverse = np.linalg.inv(normal)
            solution = inverse @ right
            flux = solution[0]
            if move and flux > 0:
                dx = min(max(dx + min(max(solution[1] / flux, -0.5), 0.5), -1.0), 1.0)
                dy = min(max(dy + min(max(solution[2] / flux, -0.5), 0.5), -1.0), 1.0)
        _stamp(splines, total, basis[n], dx, dy, half, coefficients, rows, out)
        covariance = inverse @ spread @ inverse
        chi2 = 0.0
        for p in range(side):
            yy = row - half + p
            for q in range(side):
                xx = column - half + q
                if (p - half) ** 2 + (q - half) ** 2 > radius * radius:
                    continue
                if yy < 0 or xx < 0 or yy >= ny or xx >= nx or unusable[yy, xx]:
                    continue
                residual = image[yy, xx] + own[p, q] - flux * out[0, p, q]
                chi2 += residual * residual / max(variance[yy, xx], 1e-12)
        result[n, 0], result[n, 1], result[n, 2] = dx, dy, flux
        for i in range(3):
            result[n, 3 + i] = covariance[i, i]
        result[n, 6] = weight / whole if whole > 0 else 0.0
        result[n, 7], result[n, 8] = chi2, count
