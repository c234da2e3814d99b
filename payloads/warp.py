"""Images brought from one pixel grid to another: flux-conserving interpolation of data, variance and mask.

The source position of every output pixel comes from a grid of exact WCS transforms every `STEP` pixels, interpolated in between
(bilinear: over 16 px the curvature of a detector's distortion is below 1e-4 px); the values from a windowed sinc (Lanczos), in
one pass (payloads/compiled/warp.py), so that memory beyond the outputs is one copy of the input.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.warp import gather
from payloads.mask import Mask, any_set

STEP = 16
_TABLE = 4096
_KERNELS = {"lanczos3": 3, "lanczos4": 4, "bilinear": 1}
REPLACED = Mask.BAD | Mask.CR | Mask.NO_DATA
"""Values that a kernel must not spread; saturated cores are values still."""

F4 = NDArray[np.float32]


class Warped(NamedTuple):
    """An image on its new grid; where nothing was measured `data` is 0, `variance` is inf and `mask` has NO_DATA."""

    data: F4
    variance: F4 | None
    mask: NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Where the pixels of one grid (`shape`) fall on another: source coordinates and pixel area at nodes every `step` pixels."""

    shape: tuple[int, int]
    step: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: NDArray[np.float64]

    @classmethod
    def between(cls, from_wcs: Any, to_wcs: Any, to_shape: tuple[int, int], step: int = STEP) -> PixelMap:
        """Map from pixels of `to_wcs` to pixels of `from_wcs` (astropy WCS, both celestial).

        Nodes that do not come back to where they started (behind the tangent plane, or a distortion without inverse) are NaN.
        """
        ny, nx = to_shape
        u, v = np.meshgrid(np.arange(-(-nx // step) + 1) * float(step), np.arange(-(-ny // step) + 1) * float(step))
        ra, dec = to_wcs.pixel_to_world_values(u, v)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "did not converge" is answered by the way back
            x, y = (np.array(c, dtype=float) for c in from_wcs.world_to_pixel_values(ra, dec))
            back_ra, back_dec = from_wcs.pixel_to_world_values(x, y)
            back_u, back_v = to_wcs.world_to_pixel_values(back_ra, back_dec)
        with np.errstate(invalid="ignore"):
            lost = ~(np.hypot(np.asarray(back_u) - u, np.asarray(back_v) - v) < 0.01)
        x[lost] = np.nan
        y[lost] = np.nan
        x_v, x_u = np.gradient(x, float(step))
        y_v, y_u = np.gradient(y, float(step))
        return cls(shape=to_shape, step=step, x=x, y=y, area=np.abs(x_u * y_v - x_v * y_u))

    @classmethod
    def of_offset(cls, dx: float, dy: float, to_shape: tuple[int, int], scale: float = 1.0) -> PixelMap:
        """The map `source = scale * target + (dx, dy)`, for grids without a sky."""
        ny, nx = to_shape
        u, v = np.meshgrid(np.arange(-(-nx // STEP) + 1) * float(STEP), np.arange(-(-ny // STEP) + 1) * float(STEP))
        return cls(shape=to_shape, step=STEP, x=scale * u + dx, y=scale * v + dy, area=np.full(u.shape, scale * scale))

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Source x, y and area (source pixels per target pixel) of target rows `start` to `stop`, each (stop - start, nx)."""
        node_y, part_y = np.divmod(np.arange(start, stop), self.step)
        node_x, part_x = np.divmod(np.arange(self.shape[1]), self.step)
        fy, fx = (part_y / self.step)[:, None], part_x / self.step

        def fill(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
            lines = nodes[node_y] * (1 - fy) + nodes[node_y + 1] * fy
            return lines[:, node_x] * (1 - fx) + lines[:, node_x + 1] * fx

        return fill(self.x), fill(self.y), fill(self.area)

    def at(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Source x, y (n,) at target places (n,), and the jacobian d(source x, y) / d(target x, y), (n, 2, 2)."""
        column = np.clip((x // self.step).astype(int), 0, self.x.shape[1] - 2)
        row = np.clip((y // self.step).astype(int), 0, self.x.shape[0] - 2)
        fx, fy = x / self.step - column, y / self.step - row

        def fill(nodes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
            corner, right = nodes[row, column], nodes[row, column + 1]
            above, across = nodes[row + 1, column], nodes[row + 1, column + 1]
            low, high = corner + (right - corner) * fx, above + (across - above) * fx
            by_x = ((right - corner) * (1 - fy) + (across - above) * fy) / self.step
            return low + (high - low) * fy, by_x, (high - low) / self.step

        source_x, x_u, x_v = fill(self.x)
        source_y, y_u, y_v = fill(self.y)
        return source_x, source_y, np.stack([np.stack([x_u, x_v], -1), np.stack([y_u, y_v], -1)], -2)

    def box(self, shape: tuple[int, ...], margin: int) -> tuple[slice, slice]:
        """Rows and columns of a source image of `shape` that the map uses, and `margin` more where there are any."""
        spans = []
        for nodes, length in ((self.y, shape[0]), (self.x, shape[1])):
            seen = nodes[np.isfinite(nodes)]
            low = int(np.clip(np.floor(seen.min()) - margin, 0, length)) if seen.size else 0
            high = int(np.clip(np.ceil(seen.max()) + margin + 1, 0, length)) if seen.size else 0
            spans.append(slice(low, max(low, high)))
        return spans[0], spans[1]

    def shifted(self, rows: int, columns: int) -> PixelMap:
        """The map to a source image whose first `rows` and `columns` were cut off."""
        return replace(self, x=self.x - columns, y=self.y - rows)


def warp_image(
    data: NDArray[Any],
    variance: NDArray[Any] | None,
    mask: NDArray[np.uint32] | None,
    from_wcs: Any,
    to_wcs: Any,
    to_shape: tuple[int, int],
    *,
    kernel: str = "lanczos3",
) -> Warped:
    """Bring an image (flux per pixel) from the grid of `from_wcs` to that of `to_wcs`; see `warp_pixels`."""
    return warp_pixels(data, variance, mask, PixelMap.between(from_wcs, to_wcs, to_shape), kernel=kernel)


def warp_pixels(
    data: NDArray[Any],
    variance: NDArray[Any] | None,
    mask: NDArray[np.uint32] | None,
    pixel_map: PixelMap,
    *,
    kernel: str = "lanczos3",
    replaced: Mask = REPLACED,
    repaired: bool = False,
    mask_type: type[np.unsignedinteger[Any]] = np.uint32,
) -> Warped:
    """Bring an image (flux per pixel) along a pixel map.

    Parameters: `data`, `variance`, `mask` of shape (ny, nx); `kernel` lanczos3, lanczos4 or bilinear; `repaired`: the image is
    one that `repair_image` made, and need not be copied; `mask_type` of the mask that is returned.

    Flux is conserved (values are scaled by the ratio of pixel areas `a`). Interpolation correlates neighbours, so the variance
    returned is that of white noise of equal power at the scale of a source, `v * a * max(a, 1)`, not the smaller scatter of a
    pixel: errors of PSF and aperture fluxes come out right. Pixels with a bit of `replaced` and
    non-finite values are replaced from their
    neighbours before the kernel sees them; their mask bits, as all others, go to every output pixel whose kernel core (the 2 x 2
    source pixels around it) holds them. Where the kernel reaches over the frame's border: EDGE; off the frame: NO_DATA.
    """
    if kernel not in _KERNELS:
        raise ValueError(f"kernel {kernel!r} is not known; use one of {', '.join(_KERNELS)}")
    pad = _KERNELS[kernel]
    if not repaired:
        box = pixel_map.box(data.shape, pad + 3)  # beyond the kernel: what a repair looks at
        pixel_map = pixel_map.shifted(box[0].start, box[1].start)
        data, variance, mask = data[box], None if variance is None else variance[box], None if mask is None else mask[box]
    ny, nx = pixel_map.shape
    out = np.zeros((ny, nx), np.float32)
    out_variance = None if variance is None else np.full((ny, nx), np.inf, np.float32)
    out_mask = np.full((ny, nx), mask_type(Mask.NO_DATA), mask_type)
    if data.size == 0:
        return Warped(out, out_variance, out_mask)
    ready = repaired and mask is not None
    image, spread, bits = (data, variance, mask) if ready else repair_image(data, variance, mask, replaced)
    if spread is not None and spread.dtype != np.float32:
        spread = spread.astype(np.float32)
    gather(
        image,
        np.zeros((0, 0), np.float32) if spread is None else spread,
        bits,
        pixel_map.x,
        pixel_map.y,
        pixel_map.area,
        pixel_map.step,
        _kernel_table(kernel),
        np.uint32(Mask.EDGE),
        out,
        np.zeros((0, 0), np.float32) if out_variance is None else out_variance,
        out_mask,
    )
    return Warped(out, out_variance, out_mask)


def _kernel_table(kernel: str) -> F4:
    """Weights (fractions, taps): tap k is the source pixel k - a + 1 from the one below; each row sums to 1."""
    a = _KERNELS[kernel]
    t = np.arange(_TABLE + 1)[None, :] / _TABLE - np.arange(-a + 1, a + 1)[:, None]
    weights = np.maximum(0, 1 - np.abs(t)) if a == 1 else np.where(np.abs(t) < a, np.sinc(t) * np.sinc(t / a), 0.0)
    return np.ascontiguousarray((weights / weights.sum(axis=0)).T.astype(np.float32))


def repair_image(
    data: NDArray[Any], variance: NDArray[Any] | None, mask: NDArray[np.unsignedinteger[Any]] | None, replaced: Mask = REPLACED
) -> tuple[F4, F4 | None, NDArray[np.unsignedinteger[Any]]]:
    """Repaired copies of data and variance, and the mask with NO_DATA where either is no number."""
    image = np.array(data, dtype=np.float32, order="C")
    bits = np.zeros(image.shape, np.uint32) if mask is None else np.array(mask, mask.dtype.newbyteorder("="), order="C")
    blank = ~np.isfinite(image)
    spread = None if variance is None else np.array(variance, dtype=np.float32, order="C")
    if spread is not None:
        blank |= ~np.isfinite(spread)
    bits[blank] |= bits.dtype.type(Mask.NO_DATA)
    repair(image, any_set(bits, replaced | Mask.NO_DATA, bits.shape))
    if spread is not None:
        repair(spread, ~np.isfinite(spread))
    return image, spread, bits


def repair(image: NDArray[Any], bad: NDArray[np.bool_], reach: int = 2) -> None:
    """Replace the values at `bad`, in place, by the weighted mean of good pixels at most `reach` away (0 without any)."""
    yy, xx = np.nonzero(bad)
    if yy.size == 0:
        return
    total = np.zeros(yy.size)
    weight = np.zeros(yy.size)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy == dx == 0:
                continue
            y, x = yy + dy, xx + dx
            inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
            y, x = np.where(inside, y, 0), np.where(inside, x, 0)
            good = inside & ~bad[y, x]
            w = good / float(dy * dy + dx * dx) ** 2
            total += np.where(good, image[y, x], 0.0) * w
            weight += w
    image[yy, xx] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
