"""The schedule: which exposures are taken, when, where to, and through which air."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray

from payloads.ids import exposure_id
from payloads.orbits import sidereal_angle
from payloads.simulator.config import FieldConfig, SurveyConfig, SurveyConfigError
from payloads.simulator.psf import PsfField, psf_field
from payloads.simulator.streams import Stream, stream
from payloads.simulator.wcs import Pointing, tangent_to_sky

_READOUT_S = 3.0
_LOWEST_ALTITUDE_DEG = 20.0
_MIDDLE_NM, _REACH_NM = 700.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An exposure as the observatory knows it: what may stand in a header."""

    day_obs: int
    seq_num: int
    kind: str  # science, bias, dark, flat, ptc, spots, monoflat
    filter: str | None
    mjd_begin: float  # TAI
    exposure_s: float
    night: int
    field: int | None = None
    target: Pointing | None = None
    airmass: float | None = None
    light: float | None = None  # electrons of a lamp
    wavelength_nm: float | None = None

    @property
    def id(self) -> int:
        """Exposure id."""
        return exposure_id(self.day_obs, self.seq_num)

    @property
    def mjd_mid(self) -> float:
        """TAI."""
        return self.mjd_begin + self.exposure_s / 2 / 86_400


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is true of a science exposure and no header says."""

    pointing: Pointing
    psf: PsfField
    clouds_mag: float
    sky_mag_arcsec2: float
    zeropoint_mag: float  # AB mag of 1 electron in the exposure, on a detector of mean throughput
    sky_electron: float  # per pixel, before the flat
    sky_gradient: tuple[float, float]  # fraction per unit of u, v


def template_nights_end(survey: SurveyConfig) -> float:
    """TAI MJD before which no transient is up: noon after the last template night; before everything if there is none."""
    day = survey.nights.start + timedelta(days=survey.nights.every_days * (survey.nights.templates - 1) + 1)
    return _local_midnight(survey, day) - 0.5 if survey.nights.templates else 0.0


def _local_midnight(survey: SurveyConfig, day: date) -> float:
    """TAI MJD of the mean midnight that follows the evening of `day`."""
    utc = Time(day.isoformat(), scale="utc").mjd + 1 - survey.observatory.longitude_deg / 360
    if survey.observatory.longitude_deg > 180:
        utc += 1
    return float(Time(utc, format="mjd", scale="utc").tai.mjd)


def airmass_at(survey: SurveyConfig, ra_deg: float, dec_deg: float, mjd_tai: float) -> float:
    """Airmass by the secant of the zenith distance; an error says where the field is when it is too low."""
    lat, dec = np.deg2rad(survey.observatory.latitude_deg), np.deg2rad(dec_deg)
    hour_angle = sidereal_angle(mjd_tai) + np.deg2rad(survey.observatory.longitude_deg - ra_deg)
    sine = np.sin(lat) * np.sin(dec) + np.cos(lat) * np.cos(dec) * np.cos(hour_angle)
    if sine < np.sin(np.deg2rad(_LOWEST_ALTITUDE_DEG)):
        raise SurveyConfigError(
            f"field at RA {ra_deg:.2f}, Dec {dec_deg:.2f} stands at altitude {np.rad2deg(np.arcsin(sine)):.0f} deg "
            f"at MJD {mjd_tai:.2f}: choose a field near opposition on that date, or another start"
        )
    return float(1 / sine)


def monochromatic_throughput(nm: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """Of lamp, mirrors and detector at a wavelength, relative to the best: falls off to the blue and, faster, to the red."""
    x = (np.asarray(nm, dtype=np.float64) - _MIDDLE_NM) / _REACH_NM
    value = np.exp(-(x**2) * np.where(x > 0, 1.6, 0.5))
    return float(value) if value.ndim == 0 else value


def _visit_filters(field: FieldConfig, template_night: bool) -> list[str]:
    """Filters in the order of observation: one visit in each, again and again, until all are done."""
    wanted = field.template_visits if template_night and field.template_visits is not None else field.visits
    rounds = max(wanted.values(), default=0)
    return [name for number in range(rounds) for name, count in wanted.items() if number < count]


def filters_in_use(survey: SurveyConfig) -> list[str]:
    """Filters that any visit asks for, in the survey's order."""
    used = {name for field in survey.fields for name in (*field.visits, *(field.template_visits or {}))}
    return [name for name in survey.filters if name in used]


def _calibrations(survey: SurveyConfig, begin: float) -> list[dict[str, Any]]:
    """Kind, filter, begin, seconds, and where it is a lamp's its light, of an afternoon's calibrations."""
    c = survey.calibrations
    wanted: list[dict[str, Any]] = []
    wanted += [{"kind": "bias", "exposure_s": 0.0}] * c.bias + [{"kind": "dark", "exposure_s": c.dark_s}] * c.dark
    filters = filters_in_use(survey)
    wanted += [{"kind": "flat", "filter": name, "exposure_s": c.flat_s} for name in filters for _ in range(c.flat)]
    full = survey.camera.full_well_adu * survey.camera.gain
    for light in full * np.linspace(*c.ptc_range, c.ptc):
        seconds = c.flat_s * float(light) / c.flat_electron
        wanted += [{"kind": "ptc", "filter": filters[0], "exposure_s": seconds, "light": float(light)}] * 2
    wanted += [{"kind": "spots", "exposure_s": c.flat_s}] * c.spots
    first, last, step = c.mono_nm
    for nm in first + step * np.arange(round((last - first) / step) + 1):
        lamp = {"light": c.mono_electron / float(monochromatic_throughput(float(nm))), "wavelength_nm": float(nm)}
        wanted += [{"kind": "monoflat", "exposure_s": c.flat_s, **lamp}] * c.mono
    rows = []
    for row in wanted:
        rows.append({"filter": None, "mjd_begin": begin, **row})
        begin += (row["exposure_s"] + _READOUT_S) / 86_400
    return rows


def schedule(survey: SurveyConfig) -> list[Planned]:
    """Every exposure of the survey, in order of time."""
    planned: list[Planned] = []
    for night in range(survey.nights.count):
        day = survey.nights.start + timedelta(days=night * survey.nights.every_days)
        day_obs = day.year * 10_000 + day.month * 100 + day.day
        midnight = _local_midnight(survey, day)
        taken = 0
        for row in _calibrations(survey, midnight - 9 / 24):
            taken += 1
            planned.append(Planned(day_obs=day_obs, seq_num=taken, night=night, **row))
        planned += _science(survey, night, day_obs, midnight, taken)
    return planned


def _science(survey: SurveyConfig, night: int, day_obs: int, midnight: float, taken: int) -> list[Planned]:
    queues = [(n, f, _visit_filters(f, night < survey.nights.templates)) for n, f in enumerate(survey.fields)]
    length_d = sum(len(names) * f.cadence_s for _, f, names in queues) / 86_400
    begin = midnight - length_d / 2
    planned = []
    for number, field, names in queues:
        for name in names:
            taken += 1
            rng = stream(survey.seed, Stream.EXPOSURE, day_obs, taken, 2)
            radius, angle = field.dither_arcsec * np.sqrt(rng.random()), 2 * np.pi * rng.random()
            ra, dec = tangent_to_sky(
                field.ra_deg, field.dec_deg, np.array([radius * np.cos(angle)]), np.array([radius * np.sin(angle)])
            )
            target = Pointing(
                ra_deg=float(ra[0]), dec_deg=float(dec[0]), rotation_deg=0.0, scale_arcsec=survey.camera.pixel_scale_arcsec
            )
            airmass = airmass_at(survey, target.ra_deg, target.dec_deg, begin + survey.exposure_s / 2 / 86_400)
            planned.append(
                Planned(
                    day_obs=day_obs,
                    seq_num=taken,
                    kind="science",
                    filter=name,
                    mjd_begin=begin,
                    exposure_s=survey.exposure_s,
                    night=night,
                    field=number,
                    target=target,
                    airmass=airmass,
                )
            )
            begin += field.cadence_s / 86_400
    return planned


def conditions(survey: SurveyConfig, exposure: Planned) -> Conditions:
    """The truth of one science exposure; a function of configuration, seed and the exposure's number alone."""
    if exposure.target is None or exposure.filter is None or exposure.airmass is None:
        raise ValueError(f"exposure {exposure.id} is a {exposure.kind}: only science exposures have conditions of the sky")
    rng = stream(survey.seed, Stream.EXPOSURE, exposure.day_obs, exposure.seq_num, 1)
    east, north = survey.pointing.error_arcsec * np.clip(rng.normal(size=2), -3, 3)
    ra, dec = tangent_to_sky(exposure.target.ra_deg, exposure.target.dec_deg, np.array([east]), np.array([north]))
    pointing = Pointing(
        ra_deg=float(ra[0]),
        dec_deg=float(dec[0]),
        rotation_deg=exposure.target.rotation_deg + survey.pointing.rotation_deg * float(np.clip(rng.normal(), -3, 3)),
        scale_arcsec=exposure.target.scale_arcsec * (1 + survey.pointing.scale_fraction * float(rng.normal())),
    )
    band = survey.filters[exposure.filter]
    clouds = float(rng.exponential(survey.clouds_mag)) if survey.clouds_mag else 0.0
    loss = band.extinction_mag * (exposure.airmass - 1) + clouds
    gain_mag = 2.5 * np.log10(exposure.exposure_s)
    sky_mag = band.sky_mag_arcsec2 + survey.sky_scatter_mag * float(rng.normal())
    sky = 10 ** (0.4 * (band.zeropoint_mag + gain_mag - sky_mag)) * survey.camera.pixel_scale_arcsec**2
    tilt = 0.01 * rng.normal(size=2)
    return Conditions(
        pointing=pointing,
        psf=psf_field(survey.seeing, survey.seed, exposure.day_obs, exposure.seq_num),
        clouds_mag=clouds,
        sky_mag_arcsec2=sky_mag,
        zeropoint_mag=float(band.zeropoint_mag + gain_mag - loss),
        sky_electron=float(sky),
        sky_gradient=(float(tilt[0]), float(tilt[1])),
    )
