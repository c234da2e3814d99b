"""What a worker holds of one detector before the visit begins: calibrations, the sky as it was, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from payloads.association import unit_vectors
from payloads.camera import Camera, Detector
from payloads.isr import Plane
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.template import TemplatePatch
from payloads.warp import repair_image

Floats = NDArray[np.float64]
_ROUNDING = 0.1
_LEAST, _MOST = 1e-4, 6e4
"""Within these, half precision is good to a part in two thousand."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceStars:
    """Reference stars around the field, each (n,): ICRS degrees and AB magnitudes in the band; NaN where there is none."""

    ra: Floats
    dec: Floats
    mag: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Bodies:
    """Bodies of the Solar System predicted for the middle of the exposure, each (n,): `ssObjectId`, ICRS degrees, error of
    the prediction in arcsec."""

    id: NDArray[np.int64]
    ra: Floats
    dec: Floats
    error_arcsec: Floats

    @classmethod
    def none(cls) -> Bodies:
        """No body."""
        return cls(id=np.zeros(0, np.int64), ra=np.zeros(0), dec=np.zeros(0), error_arcsec=np.zeros(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownObjects:
    """DIAObjects around the field: `objects` has the columns of dia_object, `sources` those of dia_source_history of the last
    twelve months (all sources of these objects); `tree` finds objects by their place on the unit sphere."""

    objects: Table
    sources: Table
    tree: cKDTree | None = field(init=False)

    def __post_init__(self) -> None:
        points = None
        if len(self.objects):
            points = cKDTree(unit_vectors(np.asarray(self.objects["ra"], float), np.asarray(self.objects["dec"], float)))
        object.__setattr__(self, "tree", points)

    @classmethod
    def none(cls) -> KnownObjects:
        """A sky of which nothing is known."""
        names = ("ra", "dec", "nDiaSources")
        objects = Table({"diaObjectId": np.zeros(0, np.int64), **{name: np.zeros(0) for name in names}})
        return cls(objects=objects, sources=Table({"diaObjectId": np.zeros(0, np.int64), "midpointMjdTai": np.zeros(0)}))


@dataclass(frozen=True, kw_only=True, eq=False)
class Preloaded:
    """Everything about one detector in one filter and one field that can be had before the shutter opens.

    `detector` is the camera's description with what was measured put in (payloads.response.measured); masters are of its
    trimmed shape, None where there is none. Nothing in it is changed by processing: one Preloaded serves many visits, and is kept
    small: one mask of all masters, their own variances in half precision (they are a per cent of a frame's), and so are
    templates' variances, and bias and dark where rounding is far below their noise. Defects of templates are repaired here, once
    for all visits.
    """

    camera: Camera
    detector: Detector
    bias: Plane | None
    dark: Plane | None
    flat: Plane | None
    template: tuple[TemplatePatch, ...]
    reference: ReferenceStars
    illumination: Plane | None = None
    fringe: NDArray[np.float16] | None = None  # the pattern, a fraction of the sky
    known: KnownObjects = field(default_factory=KnownObjects.none)
    bodies: Bodies = field(default_factory=Bodies.none)

    def __post_init__(self) -> None:
        for name, plane in small_masters(bias=self.bias, dark=self.dark, flat=self.flat).items():
            object.__setattr__(self, name, plane)
        object.__setattr__(self, "template", tuple(repaired(patch) for patch in self.template))


def small_masters(
    *, bias: Plane | None, dark: Plane | None, flat: Plane | None, bad_pixels: Plane | None = None
) -> dict[str, Plane | None]:
    """The masters as small as they may be, as they are where they are so; what is BAD in the map of bad pixels is so in them."""
    # A flat's variance enters no frame's: it is a gain's, not noise.
    flat = None if flat is None else replace(flat, variance=None)
    masters = {"bias": halved(bias), "dark": halved(dark), "flat": flat}
    masks = [plane.mask for plane in masters.values() if plane is not None]
    if len({mask.shape for mask in masks}) != 1:
        return masters  # the first frame will say what is wrong with them
    # A frame gets the bits of all of them, so that they may share one mask.
    mask = masks[0]
    if any(other is not mask for other in masks) or bad_pixels is not None:
        mask = mask.astype(np.uint32)
        for other in masks[1:]:
            mask |= other
    if bad_pixels is not None and bad_pixels.mask.shape == mask.shape:
        mask |= bad_pixels.mask & np.uint32(Mask.BAD)  # its kinds do not matter here, and would take a byte of every pixel
    mask = smallest(mask)
    return {name: None if plane is None else replace(plane, mask=mask) for name, plane in masters.items()}


def smooth_field(plane: Plane | None) -> Plane | None:
    """An illumination as small as it may be: half precision is within 0.03 % about 1, and its variance enters no frame's."""
    return None if plane is None else Plane(data=plane.data.astype(np.float16), mask=smallest(plane.mask))


def smallest(mask: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """The mask in bytes or in pairs of them, where its bits fit."""
    most = np.bitwise_or.reduce(mask, axis=None)
    return mask.astype(np.uint8 if most <= 0xFF else np.uint16 if most <= 0xFFFF else np.uint32, copy=False)


def halved(plane: Plane | None) -> Plane | None:
    """The plane with its variance in half precision, and so its data, if what that rounds off its usable pixels is nowhere a
    tenth of their own noise."""
    if plane is None or plane.variance is None:
        return plane
    variance = plane.variance.astype(np.float16, copy=False)
    if plane.data.dtype == np.float16:
        return replace(plane, variance=variance)
    with np.errstate(over="ignore"):
        half = plane.data.astype(np.float16)
    safe = all(_is_near(half[k], plane.data[k], plane.variance[k], plane.mask[k]) for k in _strips(len(half)))
    return replace(plane, data=half if safe else plane.data, variance=variance)


def _is_near(rounded: NDArray, data: NDArray, variance: NDArray, mask: NDArray) -> bool:
    with np.errstate(invalid="ignore"):
        fine = np.abs(rounded - data) <= _ROUNDING * np.sqrt(variance.astype(np.float32))
    return bool((fine | any_set(mask, UNUSABLE, fine.shape)).all())


def _strips(rows: int) -> list[slice]:
    """A few rows at a time: of whole planes the temporary arrays would be a worker's largest."""
    return [slice(first, first + 256) for first in range(0, rows, 256)]


def repaired(patch: TemplatePatch) -> TemplatePatch:
    """The patch as small as it may be, and ready to be warped."""
    if patch.repaired:
        return patch
    data, variance, mask = repair_image(patch.plane.data, patch.plane.variance, patch.plane.mask)
    if variance is not None and all(_is_plain(variance[k]) for k in _strips(len(variance))):
        variance = variance.astype(np.float16)
    return replace(patch, plane=Plane(data=data, mask=smallest(mask), variance=variance), repaired=True)


def _is_plain(variance: NDArray) -> bool:
    return bool(np.all((variance == 0) | ((variance > _LEAST) & (variance < _MOST))))
