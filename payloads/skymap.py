"""A discrete sky map as data: tracts (tangent planes) cut into patches, made around the fields that were observed.

A tract is a TAN projection of fixed pixel scale, north up and east left. Its patches have square inner areas that tile it without
overlap, each framed by a border that it shares with its neighbours. Pixel (0, 0) of a tract is the first inner pixel of patch 0;
patch number = row * patches_x + column. Of several tracts that hold a place, the one with the nearest centre owns it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType, DatasetType
from lsst.daf.butler.registry import MissingCollectionError
from lsst.sphgeom import ConvexPolygon, LonLat, Region, UnitVector3d
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from backbone.errors import ObjectAbsent, PermanentError

DATASET_TYPE = "skymap_definition"
RUN = "skymaps"
_MAX_PATCHES_A_SIDE = 255  # patch numbers must fit the 16 bits that ids give them


class SkyMapError(PermanentError, ValueError):
    """A sky map that cannot be made or registered."""


class Tract(BaseModel):
    """One tangent plane: where its middle is, and how many patches it has each way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=0)
    ra_deg: float = Field(description="of its middle")
    dec_deg: float
    patches_x: int = Field(ge=1, le=_MAX_PATCHES_A_SIDE)
    patches_y: int = Field(ge=1, le=_MAX_PATCHES_A_SIDE)

    @property
    def patches(self) -> range:
        """Numbers of its patches."""
        return range(self.patches_x * self.patches_y)


class SkyMap(BaseModel):
    """Every tract of one map; immutable, and equal content means equal `digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    pixel_scale_arcsec: float = Field(gt=0)
    patch_inner_px: int = Field(1000, ge=32, description="side of the area that belongs to a patch alone")
    patch_border_px: int = Field(50, ge=0, description="frame around it that the neighbours have too: wider than a source")
    tracts: tuple[Tract, ...] = Field(min_length=1)

    @classmethod
    def cover(
        cls,
        name: str,
        regions: Sequence[Region],
        *,
        pixel_scale_arcsec: float,
        patch_inner_px: int = 1000,
        patch_border_px: int = 50,
        max_tract_deg: float = 3.0,
        margin_arcsec: float = 10.0,
    ) -> SkyMap:
        """A map around observed regions: regions whose bounding circles touch are one field, and a field is one tract.

        A field wider than `max_tract_deg` (where a tangent plane's distortion of area passes 0.1 %) is cut into a grid of tracts.
        The same regions in any order make the same map.
        """
        if not regions:
            raise SkyMapError(f"sky map {name}: no region to cover; ingest and define visits first")
        tracts: list[Tract] = []
        scale = pixel_scale_arcsec * patch_inner_px
        for corners in _fields(regions):
            for ra, dec, half_x, half_y in _tract_boxes(corners, max_tract_deg):
                sides = [max(1, int(np.ceil(2 * (half * 3600 + margin_arcsec) / scale))) for half in (half_x, half_y)]
                if max(sides) > _MAX_PATCHES_A_SIDE:
                    raise SkyMapError(
                        f"sky map {name}: a tract at ({ra:.3f}, {dec:.3f}) would need {max(sides)} patches a side, "
                        f"more than {_MAX_PATCHES_A_SIDE}: use larger patches"
                    )
                tracts.append(Tract(id=len(tracts), ra_deg=ra, dec_deg=dec, patches_x=sides[0], patches_y=sides[1]))
        return cls(
            name=name,
            pixel_scale_arcsec=pixel_scale_arcsec,
            patch_inner_px=patch_inner_px,
            patch_border_px=patch_border_px,
            tracts=tuple(tracts),
        )

    @cached_property
    def digest(self) -> bytes:
        """SHA-1 of the content: what the dimension record keeps as `hash`."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        return hashlib.sha1(content, usedforsecurity=False).digest()

    @property
    def patch_shape(self) -> tuple[int, int]:
        """(ny, nx) of every patch, border included."""
        side = self.patch_inner_px + 2 * self.patch_border_px
        return side, side

    def tract(self, number: int) -> Tract:
        """The tract of that number."""
        for tract in self.tracts:
            if tract.id == number:
                return tract
        raise SkyMapError(f"sky map {self.name} has no tract {number}; it has 0 to {len(self.tracts) - 1}")

    def cell(self, tract: int, patch: int) -> tuple[int, int]:
        """(column, row) of a patch."""
        found = self.tract(tract)
        if patch not in found.patches:
            raise SkyMapError(f"sky map {self.name}: tract {tract} has no patch {patch}; it has 0 to {len(found.patches) - 1}")
        row, column = divmod(patch, found.patches_x)
        return column, row

    def tract_wcs(self, tract: int) -> WCS:
        """WCS of a tract's pixel grid."""
        t = self.tract(tract)
        middle = [(side * self.patch_inner_px - 1) / 2 + 1 for side in (t.patches_x, t.patches_y)]
        return _tan_wcs(t.ra_deg, t.dec_deg, self.pixel_scale_arcsec, middle)

    def patch_wcs(self, tract: int, patch: int) -> WCS:
        """WCS of a patch's image, border included: the tract's grid, shifted by whole pixels."""
        column, row = self.cell(tract, patch)
        wcs = self.tract_wcs(tract)
        wcs.wcs.crpix -= np.array([column, row]) * self.patch_inner_px - self.patch_border_px
        wcs.wcs.set()
        return wcs

    def patch_region(self, tract: int, patch: int) -> ConvexPolygon:
        """Sky that a patch's image covers, border included."""
        ny, nx = self.patch_shape
        return _polygon(self.patch_wcs(tract, patch), -0.5, nx - 0.5, -0.5, ny - 0.5)

    def tract_region(self, tract: int) -> ConvexPolygon:
        """Sky that a tract's patches cover, borders included."""
        t, border = self.tract(tract), self.patch_border_px + 0.5
        nx, ny = (side * self.patch_inner_px - 1 for side in (t.patches_x, t.patches_y))
        return _polygon(self.tract_wcs(tract), -border, nx + border, -border, ny + border)

    def owner_tract(self, ra_deg: ArrayLike, dec_deg: ArrayLike) -> NDArray[np.int64]:
        """Number of the tract with the nearest centre, for each place."""
        places = _vectors(ra_deg, dec_deg)
        centres = _vectors([t.ra_deg for t in self.tracts], [t.dec_deg for t in self.tracts])
        return np.array([t.id for t in self.tracts])[np.argmax(places @ centres.T, axis=-1)]

    def owned(self, tract: int, patch: int, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Whether places (pixels of the patch's image) belong to this patch and to no other of the map."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        low, high = self.patch_border_px - 0.5, self.patch_border_px + self.patch_inner_px - 0.5
        inner = (x >= low) & (x < high) & (y >= low) & (y < high)
        if len(self.tracts) == 1 or not inner.any():
            return inner
        ra, dec = self.patch_wcs(tract, patch).pixel_to_world_values(x, y)
        return inner & (self.owner_tract(ra, dec) == tract)

    def register(self, butler: Butler) -> bool:
        """Enter the map's dimension records and its definition; True if it was new, False if it was there already.

        Raises SkyMapError if the repository has another map of this name.
        """
        known = {record.name: record.hash for record in butler.query_dimension_records("skymap", explain=False)}
        if known.get(self.name, self.digest) != self.digest:
            raise SkyMapError(
                f"sky map {self.name}: the repository has another map of this name, and datasets may point to its patches; "
                "give the new map a new name"
            )
        self._insert_records(butler)
        dataset_type = DatasetType(DATASET_TYPE, ("skymap",), "StructuredDataDict", universe=butler.dimensions)
        butler.registry.registerDatasetType(dataset_type)
        butler.collections.register(RUN, CollectionType.RUN)
        if butler.find_dataset(dataset_type, skymap=self.name, collections=[RUN]) is not None:
            return False
        butler.put(self.model_dump(mode="json"), dataset_type, skymap=self.name, run=RUN)
        return True

    def _insert_records(self, butler: Butler) -> None:
        record = {
            "name": self.name,
            "hash": self.digest,
            "tract_max": len(self.tracts),
            "patch_nx_max": max(t.patches_x for t in self.tracts),
            "patch_ny_max": max(t.patches_y for t in self.tracts),
        }
        tracts = [{"skymap": self.name, "id": t.id, "region": self.tract_region(t.id)} for t in self.tracts]
        patches = []
        for t in self.tracts:
            for number in t.patches:
                column, row = self.cell(t.id, number)
                cell = {"cell_x": column, "cell_y": row, "region": self.patch_region(t.id, number)}
                patches.append({"skymap": self.name, "tract": t.id, "id": number} | cell)
        with butler.transaction():
            butler.registry.syncDimensionData("skymap", record)
            butler.registry.insertDimensionData("tract", *tracts, skip_existing=True)
            butler.registry.insertDimensionData("patch", *patches, skip_existing=True)

    @classmethod
    def load(cls, butler: Butler, name: str) -> SkyMap:
        """The registered map of that name; ObjectAbsent if there is none."""
        try:
            ref = butler.find_dataset(DATASET_TYPE, skymap=name, collections=[RUN])
        except (LookupError, MissingCollectionError):
            ref = None
        if ref is None:
            raise ObjectAbsent(f"the repository has no sky map {name!r}; make it with `pachon skymap make --name {name} …`")
        return cls.model_validate(butler.get(ref))


def visit_regions(butler: Butler, instrument: str) -> list[Region]:
    """Regions of every detector of every visit of an instrument."""
    records = butler.query_dimension_records("visit_detector_region", instrument=instrument, explain=False, limit=None)
    return [record.region for record in records if record.region is not None]


def _vectors(ra_deg: ArrayLike, dec_deg: ArrayLike) -> NDArray[np.float64]:
    ra, dec = np.radians(np.asarray(ra_deg, float)), np.radians(np.asarray(dec_deg, float))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _corners(region: Region) -> NDArray[np.float64]:
    points = region.getVertices() if isinstance(region, ConvexPolygon) else [region.getBoundingCircle().getCenter()]
    return np.array([[p.x(), p.y(), p.z()] for p in points])


def _fields(regions: Iterable[Region]) -> list[NDArray[np.float64]]:
    """Corners (n, 3) of the regions of each field, fields ordered by right ascension."""
    circles = [region.getBoundingCircle() for region in regions]
    centres = np.array([[c.getCenter().x(), c.getCenter().y(), c.getCenter().z()] for c in circles])
    radii = np.array([c.getOpeningAngle().asRadians() for c in circles])
    apart = np.arccos(np.clip(centres @ centres.T, -1, 1))
    touching = np.nonzero(apart <= radii[:, None] + radii[None, :])
    graph = coo_array((np.ones(len(touching[0])), touching), shape=apart.shape)
    n_fields, field_of = connected_components(graph, directed=False)
    corners = [_corners(region) for region in regions]
    fields = [
        np.unique(np.concatenate([c for c, f in zip(corners, field_of, strict=True) if f == n]), axis=0) for n in range(n_fields)
    ]
    return sorted(fields, key=lambda points: _middle(points))


def _middle(points: NDArray[np.float64]) -> tuple[float, float]:
    """(ra, dec) of the middle of points, rounded so that the last bit of a sum cannot make another map."""
    x, y, z = points.mean(axis=0)
    return _rounded(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))


def _rounded(ra_deg: float, dec_deg: float) -> tuple[float, float]:
    return round(float(ra_deg), 5) % 360, round(float(dec_deg), 5)


def _tract_boxes(corners: NDArray[np.float64], max_tract_deg: float) -> list[tuple[float, float, float, float]]:
    """(ra, dec, half width, half height) in degrees of the tracts that hold a field's corners."""
    ra, dec = _middle(corners)
    lon = np.degrees(np.arctan2(corners[:, 1], corners[:, 0])) % 360
    plane = _tan_wcs(ra, dec, 3600.0, (1.0, 1.0))
    u, v = plane.world_to_pixel_values(lon, np.degrees(np.arcsin(corners[:, 2])))
    low, high = np.array([u.min(), v.min()]), np.array([u.max(), v.max()])
    n_x, n_y = (max(1, int(np.ceil(extent / max_tract_deg))) for extent in high - low)
    if n_x * n_y == 1:
        middle = plane.pixel_to_world_values(*((low + high) / 2))
        half = (high - low) / 2
        return [(*_rounded(*middle), float(half[0]), float(half[1]))]
    step = (high - low) / (n_x, n_y)
    boxes = []
    for row in range(n_y):
        for column in range(n_x):
            centre = low + step * (column + 0.5, row + 0.5)
            place = plane.pixel_to_world_values(*centre)
            # Half a tenth more: each tract has its own tangent point, and its edges bend against those of its neighbours.
            half = step * 0.55
            boxes.append((*_rounded(*place), float(half[0]), float(half[1])))
    return boxes


def _tan_wcs(ra_deg: float, dec_deg: float, scale_arcsec: float, crpix: Sequence[float]) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = list(crpix)
    wcs.wcs.cdelt = [-scale_arcsec / 3600, scale_arcsec / 3600]
    wcs.wcs.set()
    return wcs


def _polygon(wcs: WCS, x_low: float, x_high: float, y_low: float, y_high: float) -> ConvexPolygon:
    ra, dec = wcs.pixel_to_world_values([x_low, x_high, x_high, x_low], [y_low, y_low, y_high, y_high])
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(float(a), float(d))) for a, d in zip(ra, dec, strict=True)])
