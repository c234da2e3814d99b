"""Observations → dimension records of the Butler: exposures, and for on-sky ones visits and their regions, in bulk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, DataCoordinate, Timespan
from lsst.sphgeom import ConvexPolygon
from numpy.typing import NDArray

from payloads.camera import Camera
from payloads.frames import raw_shape
from payloads.headers import Observation
from payloads.instrument import VISIT_SYSTEM
from payloads.pointing import corners, nominal_wcs, polygon

# A frame of no length would have an empty timespan, which matches no calibration.
_SHORTEST_S = 1e-3


def region_corners(observation: Observation, camera: Camera) -> NDArray[np.float64]:
    """(4, 2) ra, dec in degrees of one detector: from the header's WCS, else from pointing and plate scale.

    A header's WCS may count pixels in the raw or in the trimmed frame: the region covers both.
    """
    shape = camera.detector(observation.detector).shape
    if observation.wcs is not None:
        raw = raw_shape(camera, observation.detector)
        return corners(observation.wcs, (max(shape[0], raw[0]), max(shape[1], raw[1])))
    return _nominal_corners(observation, camera, observation.detector)


def _nominal_corners(observation: Observation, camera: Camera, detector: int) -> NDArray[np.float64]:
    assert observation.ra_deg is not None  # noqa: S101 - headers.observe refuses on-sky frames without
    assert observation.dec_deg is not None  # noqa: S101
    wcs = nominal_wcs(camera, detector, observation.ra_deg, observation.dec_deg, observation.rotation_deg or 0.0)
    return corners(wcs, camera.detector(detector).shape, camera.pointing_error_arcsec / camera.pixel_scale_arcsec)


def visit_region(observations: list[Observation], camera: Camera) -> ConvexPolygon:
    """Hull of the detectors seen and, where the pointing is known, of all the camera's: later detectors must fit in."""
    points = [region_corners(o, camera) for o in observations]
    if observations[0].ra_deg is not None and len(camera.detectors) > 1:
        points += [_nominal_corners(observations[0], camera, d.id) for d in camera.detectors]
    return polygon(np.concatenate(points))


def insert_observations(butler: Butler, camera: Camera, observations: list[Observation]) -> None:
    """Insert what is new, element by element, in one transaction; records that exist are left as they are."""
    by_exposure: dict[int, list[Observation]] = {}
    for o in observations:
        by_exposure.setdefault(o.exposure, []).append(o)
    visits = {key: group for key, group in by_exposure.items() if group[0].on_sky}
    one = {key: group[0] for key, group in by_exposure.items()}
    rows: dict[str, Iterable[dict[str, Any]]] = {
        "day_obs": [day_row(camera, day) for day in sorted({o.day_obs for o in observations})],
        "group": [{"instrument": camera.name, "name": o.obs_id} for o in one.values()],
        "exposure": [exposure_row(o) for o in one.values()],
        "visit": [_visit_row(group[0]) | {"region": visit_region(group, camera)} for group in visits.values()],
        "visit_definition": [{"instrument": camera.name, "exposure": key, "visit": key} for key in visits],
        "visit_system_membership": [{"instrument": camera.name, "visit": key, "visit_system": VISIT_SYSTEM} for key in visits],
        "visit_detector_region": [
            {"instrument": camera.name, "visit": key, "detector": o.detector, "region": polygon(region_corners(o, camera))}
            for key, group in visits.items()
            for o in group
        ],
    }
    with butler.registry.transaction():
        for element, records in rows.items():
            if records:
                butler.registry.insertDimensionData(element, *records, skip_existing=True)


def _timespan(o: Observation) -> Timespan:
    end = o.datetime_end if o.exposure_time_s >= _SHORTEST_S else o.datetime_begin + TimeDelta(_SHORTEST_S, format="sec")
    return Timespan(o.datetime_begin, end)


def day_row(camera: Camera, day_obs: int) -> dict[str, Any]:
    """The record of an observing day; without its time no calibration of a day would ever be found."""
    text = str(day_obs)
    begin = Time(f"{text[:4]}-{text[4:6]}-{text[6:]}T00:00:00", scale="utc") - TimeDelta(
        camera.day_obs_offset_h * 3600, format="sec"
    )
    return {"instrument": camera.name, "id": day_obs, "timespan": Timespan(begin.tai, (begin + TimeDelta(1.0, format="jd")).tai)}


def exposure_row(o: Observation) -> dict[str, Any]:
    """The exposure record of an observation."""
    sky = o.on_sky
    return {
        "instrument": o.instrument,
        "id": o.exposure,
        "obs_id": o.obs_id,
        "physical_filter": o.physical_filter,
        "group": o.obs_id,
        "day_obs": o.day_obs,
        "exposure_time": o.exposure_time_s,
        "dark_time": o.dark_time_s,
        "observation_type": o.observation_type,
        "observation_reason": o.observation_type,
        "seq_num": o.seq_num,
        "seq_start": o.seq_num,
        "seq_end": o.seq_num,
        "target_name": o.object,
        "science_program": "unknown",
        "tracking_ra": o.ra_deg if sky else None,
        "tracking_dec": o.dec_deg if sky else None,
        "sky_angle": o.rotation_deg if sky else None,
        "azimuth": None,
        "zenith_angle": _zenith_angle(o.airmass) if sky else None,
        "has_simulated": False,
        "can_see_sky": sky,
        "timespan": _timespan(o),
    }


def _visit_row(o: Observation) -> dict[str, Any]:
    return {
        "instrument": o.instrument,
        "id": o.exposure,
        "name": o.obs_id,
        "physical_filter": o.physical_filter,
        "day_obs": o.day_obs,
        "seq_num": o.seq_num,
        "exposure_time": o.exposure_time_s,
        "target_name": o.object,
        "observation_reason": o.observation_type,
        "science_program": "unknown",
        "azimuth": None,
        "zenith_angle": _zenith_angle(o.airmass),
        "timespan": _timespan(o),
    }


def _zenith_angle(airmass: float | None) -> float | None:
    """Degrees, of a plane-parallel atmosphere."""
    return None if airmass is None or airmass < 1.0 else math.degrees(math.acos(1.0 / airmass))


def data_id_expander(butler: Butler, camera: Camera) -> Callable[[Observation], DataCoordinate]:
    """A function from observation to expanded (exposure, detector) data ID that asks the database nothing per frame."""
    universe = butler.dimensions
    known = {
        element: {
            r.dataId.required_values[-1]: r
            for r in butler.query_dimension_records(element, instrument=camera.name, explain=False)
        }
        for element in ("instrument", "physical_filter", "detector")
    }

    @cache
    def day(day_obs: int) -> Any:
        return universe["day_obs"].RecordClass(**day_row(camera, day_obs))

    def expand(o: Observation) -> DataCoordinate:
        def record(element: str, **row: Any) -> Any:
            return universe[element].RecordClass(**row)

        physical_filter = known["physical_filter"][o.physical_filter]
        data_id = DataCoordinate.standardize(
            instrument=o.instrument,
            exposure=o.exposure,
            detector=o.detector,
            physical_filter=o.physical_filter,
            band=physical_filter.band,
            day_obs=o.day_obs,
            group=o.obs_id,
            universe=universe,
        )
        return data_id.expanded(
            {
                "instrument": known["instrument"][o.instrument],
                "detector": known["detector"][o.detector],
                "physical_filter": physical_filter,
                "band": record("band", name=physical_filter.band),
                "day_obs": day(o.day_obs),
                "group": record("group", instrument=o.instrument, name=o.obs_id),
                "exposure": record("exposure", **exposure_row(o)),
            }
        )

    return expand
