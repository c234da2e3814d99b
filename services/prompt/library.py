"""What a worker loads from the repository: the camera as measured, masters valid for the night, templates and stars of a field.

Only reads. Masters of all filters are loaded at arming; a field's templates and stars at arming too where the night says which
fields it will see, else when a visit there is announced.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, Timespan
from lsst.sphgeom import HtmPixelization
from numpy.typing import NDArray

from payloads.camera import NO_FILTER, Camera, Detector
from payloads.instrument import read_camera
from payloads.isr import Plane
from payloads.pointing import corners, nominal_wcs, polygon
from payloads.prompt.almanac import Almanac
from payloads.prompt.preloaded import Preloaded, ReferenceStars, halved, small_masters, smooth_field
from payloads.prompt.settings import PromptSettings
from payloads.psf import PsfModel
from payloads.repository import open_repository
from payloads.response import MEASURED, measured
from payloads.skymap import SkyMap
from payloads.tasks.planes import plane_of
from payloads.template import TemplatePatch
from services.prompt.bodies import almanac_of

_HTM7 = HtmPixelization(7)
_MARGIN_ARCSEC = 60.0


@dataclass(frozen=True)
class Pointing:
    """Where the boresight looks (ICRS degrees, position angle of +y), and in which filter."""

    ra_deg: float
    dec_deg: float
    rotation_deg: float
    physical_filter: str


@dataclass
class Library:
    """Of one detector of one night."""

    repo: str
    instrument: str
    detector: int
    day_obs: int
    skymap: str
    _butler: Butler | None = None
    _camera: Camera | None = None
    _sensor: Detector | None = None
    _sky: SkyMap | None = None
    _masters: dict[str, dict[str, Plane | None]] = field(default_factory=dict)
    """By filter; bias and dark are the same arrays for all of them."""
    _illuminations: dict[str, Plane | None] = field(default_factory=dict)
    """By filter; not among the masters, by which the night's flats are judged."""
    _fringes: dict[str, NDArray[np.float16]] = field(default_factory=dict)
    """By filter, where there are any."""
    _fields: dict[Pointing, Preloaded] = field(default_factory=dict)

    def load(self) -> None:
        """Camera, masters, sky map."""
        butler = open_repository(self.repo)
        self._butler = butler
        self._camera = camera = read_camera(butler, self.instrument)
        self._sensor = measured(camera.detector(self.detector), **{name: self._master(name) for name in MEASURED})
        bias, dark = (halved(plane_of(self._master(name))) for name in ("bias", "dark"))
        bad_pixels = plane_of(self._master("bad_pixels"))
        # Without the map: what judges a dark takes the dark's own bad pixels for hot ones.
        self._masters[NO_FILTER] = small_masters(bias=bias, dark=dark, flat=None)
        for f in camera.filters:
            flat = plane_of(self._master("flat", physical_filter=f.name))
            self._masters[f.name] = small_masters(bias=bias, dark=dark, flat=flat, bad_pixels=bad_pixels)
            self._illuminations[f.name] = smooth_field(plane_of(self._master("illumination", physical_filter=f.name)))
            if (fringe := plane_of(self._master("fringe", physical_filter=f.name))) is not None:
                self._fringes[f.name] = fringe.data.astype(np.float16)  # rounds off a thousandth of the pattern
        self._sky = SkyMap.load(butler, self.skymap)

    @property
    def camera(self) -> Camera:
        """Of the instrument."""
        assert self._camera is not None  # noqa: S101 - after `load`
        return self._camera

    @property
    def sensor(self) -> Detector:
        """The detector."""
        assert self._sensor is not None  # noqa: S101 - after `load`
        return self._sensor

    def almanac(self, settings: PromptSettings) -> Almanac | None:
        """Where bodies of the Solar System are in the night; None where that is not known."""
        return almanac_of(self._opened, self.camera, self.day_obs, settings)

    def is_of(self, loaded: Preloaded, physical_filter: str) -> bool:
        """Whether this was loaded for exposures in this filter."""
        flat = self._of(physical_filter)["flat"]
        return loaded.flat is flat if flat is None or loaded.flat is None else loaded.flat.data is flat.data

    def masters(self, physical_filter: str) -> dict[str, Plane | None]:
        """Bias, dark and the filter's flat, by name, in single precision."""
        masters = self._of(physical_filter).items()
        return {n: None if p is None else replace(p, data=np.asarray(p.data, np.float32)) for n, p in masters}

    def _of(self, physical_filter: str) -> dict[str, Plane | None]:
        """The masters for a filter; no flat for one that the camera does not know."""
        none = dict.fromkeys(("bias", "dark", "flat"))
        return self._masters.get(physical_filter) or self._masters.get(NO_FILTER) or none

    def let_go(self) -> None:
        """Of the repository's connections, before a fork; they are made again when needed."""
        self._butler = None

    def keep(self, pointing: Pointing) -> None:
        """Load a field for all visits of the night that look there."""
        self._fields[pointing] = self._loaded(pointing)

    def preloaded(self, pointing: Pointing) -> Preloaded:
        """Everything that does not change with the visit; of fields that are kept, what they were kept with."""
        for known, kept in self._fields.items():
            if known.physical_filter == pointing.physical_filter and _same_place(known, pointing, self.camera):
                return kept
        return self._loaded(pointing)

    def circle(self, pointing: Pointing) -> tuple[float, float, float]:
        """(ra, dec, radius) in degrees around the detector's part of the sky."""
        points = self._corners(pointing)
        wcs = nominal_wcs(self.camera, self.detector, pointing.ra_deg, pointing.dec_deg, pointing.rotation_deg)
        ny, nx = self.sensor.shape
        ra, dec = (float(v) for v in wcs.pixel_to_world_values((nx - 1) / 2, (ny - 1) / 2))
        east = ((points[:, 0] - ra + 180) % 360 - 180) * np.cos(np.radians(dec))
        return ra, dec, float(np.hypot(east, points[:, 1] - dec).max())

    def _loaded(self, pointing: Pointing) -> Preloaded:
        band = self.camera.band(pointing.physical_filter)
        return Preloaded(
            camera=self.camera,
            detector=self.sensor,
            **self._masters[pointing.physical_filter],
            illumination=self._illuminations.get(pointing.physical_filter),
            fringe=self._fringes.get(pointing.physical_filter),
            template=tuple(self._template(pointing, band)),
            reference=self._reference(pointing, band),
        )

    @property
    def _opened(self) -> Butler:
        self._butler = self._butler or open_repository(self.repo)
        return self._butler

    def _master(self, name: str, **data_id: str) -> Any:
        """A calibration valid in the night; None where none is certified."""
        noon = Time(f"{str(self.day_obs)[:4]}-{str(self.day_obs)[4:6]}-{str(self.day_obs)[6:]}T12:00:00", scale="tai")
        night = Timespan(noon, noon + TimeDelta(1.0, format="jd", scale="tai"))
        butler = self._opened
        chain = f"{self.instrument}/calib"
        if chain not in butler.collections.query(f"{self.instrument}/*") or not butler.registry.queryDatasetTypes(name):
            return None
        ids = {"instrument": self.instrument, "detector": self.detector, **data_id}
        ref = butler.find_dataset(name, collections=chain, timespan=night, **ids)
        return None if ref is None else butler.get(ref)

    def _corners(self, pointing: Pointing) -> np.ndarray:
        wcs = nominal_wcs(self.camera, self.detector, pointing.ra_deg, pointing.dec_deg, pointing.rotation_deg)
        return corners(wcs, self.sensor.shape, _margin_arcsec(self.camera) / self.camera.pixel_scale_arcsec)

    def _template(self, pointing: Pointing, band: str) -> list[TemplatePatch]:
        """The newest template of each patch that the detector may see."""
        sky, butler = self._sky, self._opened
        assert sky is not None  # noqa: S101 - after `load`
        region, chain = polygon(self._corners(pointing)), f"{self.instrument}/templates"
        if chain not in butler.collections.query(f"{self.instrument}/*"):
            return []
        found = []
        for tract in sky.tracts:
            if sky.tract_region(tract.id).isDisjointFrom(region):
                continue
            for patch in tract.patches:
                if sky.patch_region(tract.id, patch).isDisjointFrom(region):
                    continue
                ids = {"skymap": sky.name, "tract": tract.id, "patch": patch, "band": band}
                coadd = butler.find_dataset("template_coadd", collections=chain, **ids)
                psf = butler.find_dataset("template_psf", collections=chain, **ids)
                if coadd is not None and psf is not None:
                    image = butler.get(coadd)
                    fwhm_px = PsfModel.from_ccddata(butler.get(psf)).fwhm_px
                    found.append(TemplatePatch(plane=plane_of(image), wcs=image.wcs, fwhm_px=fwhm_px))
        return found

    def _reference(self, pointing: Pointing, band: str) -> ReferenceStars:
        butler = self._opened
        tables: list[Table] = []
        for begin, end in _HTM7.envelope(polygon(self._corners(pointing))):
            for trixel in range(begin, end):
                ref = butler.find_dataset("ref_cat", htm7=trixel, collections="refcats")
                tables += [] if ref is None else [butler.get(ref)]
        stars = vstack(tables, metadata_conflicts="silent") if tables else Table({"ra": [], "dec": []})
        column = f"mag_{band}"
        mag = np.asarray(stars[column], float) if column in stars.colnames else np.full(len(stars), np.nan)
        return ReferenceStars(ra=np.asarray(stars["ra"], float), dec=np.asarray(stars["dec"], float), mag=mag)


def _margin_arcsec(camera: Camera) -> float:
    """Sky loaded around a detector: visits are dithered, and telescopes point less well than they say."""
    return max(_MARGIN_ARCSEC, 2 * camera.pointing_error_arcsec)


def _same_place(a: Pointing, b: Pointing, camera: Camera) -> bool:
    """Nearer than half the margin that is loaded around a detector."""
    near_deg = 0.5 * _margin_arcsec(camera) / 3600
    east = ((a.ra_deg - b.ra_deg + 180) % 360 - 180) * np.cos(np.radians(a.dec_deg))
    return bool(np.hypot(east, a.dec_deg - b.dec_deg) < near_deg and abs(a.rotation_deg - b.rotation_deg) < 0.1)
