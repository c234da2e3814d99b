"""Stars and galaxies of every field, and the reference catalogue made of the bright ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.simulator.config import FieldConfig, FilterConfig, SurveyConfig
from payloads.simulator.streams import Stream, stream
from payloads.simulator.wcs import tangent_to_sky

NJY_ZEROPOINT = 31.4  # AB magnitude of 1 nJy


@dataclass(frozen=True, kw_only=True)
class Stars:
    """Stars (n,): positions in ICRS degrees; `mag` in r; `colour` g-r.

    `period_d` is 0 for the constant ones, `amplitude` half of peak to peak, `phase` in cycles.
    """

    id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    mag: NDArray[np.float64]
    colour: NDArray[np.float64]
    period_d: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    phase: NDArray[np.float64]

    def brightening(self, mjd: float) -> NDArray[np.float64]:
        """Magnitudes to add at `mjd` (TAI): a sine of the period, 0 for constant stars."""
        cycles = mjd / np.where(self.period_d > 0, self.period_d, np.inf)
        return np.where(self.period_d > 0, self.amplitude * np.sin(2 * np.pi * (cycles + self.phase)), 0.0)


@dataclass(frozen=True, kw_only=True)
class Galaxies:
    """Galaxies: half-light radius along the geometric mean axis (arcsec), axis ratio, position angle (deg east of north)."""

    id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    mag: NDArray[np.float64]
    colour: NDArray[np.float64]
    half_light_arcsec: NDArray[np.float64]
    axis_ratio: NDArray[np.float64]
    position_angle_deg: NDArray[np.float64]
    spheroid: NDArray[np.bool_]


def magnitude(mag: NDArray[np.float64], colour: NDArray[np.float64], band: FilterConfig) -> NDArray[np.float64]:
    """Magnitude in a filter from that in r and the colour g-r."""
    return mag + band.colour * colour


def njy(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flux in nJy of AB magnitudes."""
    return np.asarray(10 ** (0.4 * (NJY_ZEROPOINT - np.asarray(mag))))


def field_half_size(survey: SurveyConfig, field: FieldConfig) -> tuple[float, float]:
    """Half width and half height (arcsec) of the sky that visits of a field can see, with room for errors and wings."""
    camera = survey.camera
    rows, columns = camera.detectors
    margin = field.dither_arcsec + 4 * survey.pointing.error_arcsec + 25 * camera.pixel_scale_arcsec
    width = columns * camera.size[1] * camera.pixel_scale_arcsec + (columns - 1) * camera.gap_arcsec
    height = rows * camera.size[0] * camera.pixel_scale_arcsec + (rows - 1) * camera.gap_arcsec
    tilt = 1 + 3 * np.deg2rad(survey.pointing.rotation_deg)
    return (width / 2 * tilt + margin, height / 2 * tilt + margin)


def _scatter(
    survey: SurveyConfig, field: FieldConfig, per_detector: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half_x, half_y = field_half_size(survey, field)
    camera = survey.camera
    detector_area = camera.size[0] * camera.size[1] * camera.pixel_scale_arcsec**2
    n = int(rng.poisson(per_detector * 4 * half_x * half_y / detector_area))
    east, north = rng.uniform(-half_x, half_x, n), rng.uniform(-half_y, half_y, n)
    return tangent_to_sky(field.ra_deg, field.dec_deg, east, north)


def _magnitudes(rng: np.random.Generator, n: int, bright: float, faint: float, slope: float) -> NDArray[np.float64]:
    """Magnitudes whose number per magnitude grows as 10^(slope m) between the limits."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.asarray(np.log10(rng.uniform(low, high, n)) / slope)


def make_stars(survey: SurveyConfig) -> Stars:
    """All stars of all fields."""
    parts = []
    c = survey.stars
    for number, field in enumerate(survey.fields):
        rng = stream(survey.seed, Stream.STARS, number)
        ra, dec = _scatter(survey, field, c.per_detector, rng)
        n = len(ra)
        varies = rng.random(n) < c.variable_fraction
        shortest, longest = np.log(c.period_d)
        period = np.exp(rng.uniform(shortest, longest, n))
        parts.append(
            {
                "ra": ra,
                "dec": dec,
                "mag": _magnitudes(rng, n, c.bright_mag, c.faint_mag, c.slope),
                "colour": np.clip(rng.normal(0.8, 0.35, n), 0.0, 1.6),
                "period_d": np.where(varies, period, 0.0),
                "amplitude": np.where(varies, rng.uniform(*c.amplitude_mag, n), 0.0),
                "phase": rng.random(n),
            }
        )
    joined = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    return Stars(id=1_000_000 + np.arange(len(joined["ra"])), **joined)


def make_galaxies(survey: SurveyConfig) -> Galaxies:
    """All galaxies of all fields; fainter ones are smaller."""
    parts = []
    c = survey.galaxies
    for number, field in enumerate(survey.fields):
        rng = stream(survey.seed, Stream.GALAXIES, number)
        ra, dec = _scatter(survey, field, c.per_detector, rng)
        n = len(ra)
        mag = _magnitudes(rng, n, c.bright_mag, c.faint_mag, c.slope)
        size = c.half_light_arcsec_at_20 * 10 ** (-0.12 * (mag - 20)) * np.exp(0.3 * rng.normal(size=n))
        parts.append(
            {
                "ra": ra,
                "dec": dec,
                "mag": mag,
                "colour": np.clip(rng.normal(0.7, 0.25, n), 0.1, 1.4),
                "half_light_arcsec": np.clip(size, 0.15, 8.0),
                "axis_ratio": rng.uniform(0.35, 1.0, n),
                "position_angle_deg": rng.uniform(0, 180, n),
                "spheroid": rng.random(n) < c.spheroid_fraction,
            }
        )
    joined = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    return Galaxies(id=2_000_000 + np.arange(len(joined["ra"])), **joined)


def reference_catalogue(survey: SurveyConfig, stars: Stars) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """What another survey would know: stars brighter than the limit, variable or not, with small errors; `mag_<band>`."""
    rng = stream(survey.seed, Stream.REFERENCE)
    bright = np.flatnonzero(stars.mag < survey.reference.faint_mag)
    n = len(bright)
    error_deg = survey.reference.position_error_mas / 3.6e6
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
        "id": np.arange(1, n + 1),
        "ra": stars.ra[bright] + rng.normal(0, 1, n) * error_deg / np.cos(np.deg2rad(stars.dec[bright])),
        "dec": stars.dec[bright] + rng.normal(0, 1, n) * error_deg,
    }
    for band in sorted({f.band for f in survey.filters.values()}):
        settings = next(f for f in survey.filters.values() if f.band == band)
        mag = magnitude(stars.mag[bright], stars.colour[bright], settings)
        columns[f"mag_{band}"] = mag + rng.normal(0, 1, n) * survey.reference.mag_error
    return columns
