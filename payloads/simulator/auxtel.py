"""The auxiliary telescope's nights: spectra of standard stars through an atmosphere that is known, as raw frames with headers.

Its air is that of `payloads.atmosphere`, in other numbers each night; what telescope and detector let through, clouds, seeing and
the star's place are its own. It has no second order of the grating, no other stars, and no flat field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import erf

from payloads.atmosphere import Atmosphere, transmission
from payloads.camera import Camera
from payloads.orbits import sidereal_angle
from payloads.simulator.config import ObservatoryConfig
from payloads.simulator.streams import Stream, stream
from payloads.simulator.truth import write_table

Floats = NDArray[np.float64]
_FINE_NM = np.arange(380.0, 1025.0, 0.25)
_STARS = {"STD-A": (30_000.0, -42.0, 0.10), "STD-B": (15_000.0, 0.0, 0.25), "STD-C": (9_500.0, 38.0, 0.45)}
"""Temperature, degrees of right ascension from the meridian at midnight, and depth of the Balmer lines."""
_DECLINATION_DEG = -28.0
_BALMER_NM = (397.0, 410.2, 434.0, 486.1, 656.3)
_HC_K_NM = 1.438776877e7  # second radiation constant, nm K
_SKY_ELECTRON, _BIAS_ADU = 60.0, 1000.0


@dataclass(frozen=True, kw_only=True)
class AuxtelConfig:
    """Nights of the auxiliary telescope."""

    seed: int = 1
    start: date = date(2021, 10, 5)
    nights: int = 1
    exposures: int = 32
    exposure_s: float = 60.0
    electron_per_nm: float = 220_000.0  # of a star at 550 nm above the atmosphere
    clouds: float = 0.03  # mean of the grey loss (exponential)
    place_px: float = 3.0  # rms of where the star stands along x
    observatory: ObservatoryConfig = field(default_factory=ObservatoryConfig)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One exposure, with its truth."""

    day_obs: int
    seq_num: int
    target: str
    mjd_begin: float
    airmass: float
    ra_deg: float
    pressure_hpa: float
    grey: float
    sigma_px: float
    shift_px: float


def standard(name: str, nm: Floats) -> Floats:
    """Photons per nm of a standard star above the atmosphere, 1 at 550 nm: a black body with Balmer lines."""
    kelvin, _, depth = _STARS[name]

    def photons(at: Any) -> Any:
        return at**-4.0 / np.expm1(_HC_K_NM / (at * kelvin))

    lines = sum(depth * np.exp(-0.5 * ((nm - line) / 3.0) ** 2) for line in _BALMER_NM)
    return np.asarray(photons(nm) / photons(550.0) * (1 - lines))


def throughput(nm: Floats) -> Floats:
    """Of telescope, grating and detector: smooth, best in the middle, with a ripple of the detector's coating."""
    return np.asarray(np.exp(-(((nm - 640) / 330) ** 2)) * (1 + 0.03 * np.sin(nm / 23.0)))


def atmosphere_of(config: AuxtelConfig, day_obs: int) -> Atmosphere:
    """The truth of a night."""
    rng = stream(config.seed, Stream.AUXTEL, day_obs)
    aerosol, exponent, ozone, water = rng.uniform((0.02, 0.9, 0.24, 0.15), (0.10, 1.6, 0.31, 0.9))
    return Atmosphere(aerosol=aerosol, exponent=exponent, ozone_atm_cm=ozone, water_cm=water)


def plan(config: AuxtelConfig) -> list[Planned]:
    """Every exposure: the stars in turn, from four hours before midnight to four hours after it, where they stand high enough."""
    planned = []
    for night in range(config.nights):
        day = config.start + timedelta(days=night)
        day_obs = day.year * 10_000 + day.month * 100 + day.day
        midnight = Time(day.isoformat(), scale="utc").tai.mjd + 1 - config.observatory.longitude_deg / 360
        zenith_ra = np.rad2deg(sidereal_angle(midnight)) + config.observatory.longitude_deg
        rng = stream(config.seed, Stream.AUXTEL, day_obs, 1)
        for number, hours in enumerate(np.linspace(-4, 4, config.exposures)):
            mjd = midnight + float(hours) / 24
            names = sorted(_STARS, key=lambda name, n=number: (list(_STARS).index(name) - n) % len(_STARS))
            high = {name: _airmass(config, zenith_ra + _STARS[name][1], mjd) for name in names}
            target = next(name for name in names if 1 <= high[name] < 2.3)
            planned.append(
                Planned(
                    day_obs=day_obs,
                    seq_num=number + 1,
                    target=target,
                    mjd_begin=mjd,
                    airmass=high[target],
                    ra_deg=float((zenith_ra + _STARS[target][1]) % 360),
                    pressure_hpa=float(735 + rng.normal(0, 0.5)),
                    grey=float(np.exp(-rng.exponential(config.clouds))),
                    sigma_px=float(1.6 * np.exp(rng.normal(0, 0.1))),
                    shift_px=float(config.place_px * np.clip(rng.normal(), -3, 3)),
                )
            )
    return planned


def _airmass(config: AuxtelConfig, ra_deg: float, mjd_tai: float) -> float:
    """Secant of the zenith distance; 0 below the horizon."""
    latitude, dec = np.deg2rad((config.observatory.latitude_deg, _DECLINATION_DEG))
    hour_angle = sidereal_angle(mjd_tai) + np.deg2rad(config.observatory.longitude_deg - ra_deg)
    sine = np.sin(latitude) * np.sin(dec) + np.cos(latitude) * np.cos(dec) * np.cos(hour_angle)
    return float(1 / sine) if sine > 0 else 0.0


def make_raw(config: AuxtelConfig, camera: Camera, planned: Planned) -> NDArray[np.uint16]:
    """The raw frame (ny, nx), overscan included."""
    assert camera.dispersion is not None  # noqa: S101 - it is the spectrograph
    rng = stream(config.seed, Stream.AUXTEL, planned.day_obs, 2, planned.seq_num)
    detector = camera.detectors[0]
    (ny, nx), amplifier = detector.shape, detector.amplifiers[0]
    light = standard(planned.target, _FINE_NM) * throughput(_FINE_NM) * config.electron_per_nm * planned.grey
    light = light * transmission(_FINE_NM, planned.airmass, planned.pressure_hpa, atmosphere_of(config, planned.day_obs))
    # Eight steps a pixel: blurred there, then gathered.
    x = (np.arange(8 * nx) + 0.5) / 8 - 0.5
    nm = camera.dispersion.nm(x - planned.shift_px)
    steps = np.interp(nm, _FINE_NM, light) * np.gradient(nm)
    columns = gaussian_filter1d(steps, 8 * planned.sigma_px, mode="nearest").reshape(nx, 8).sum(axis=1)
    trace = 0.47 * ny + 1.5 * (np.arange(nx) / nx - 0.5) + 0.8 * (np.arange(nx) / nx - 0.5) ** 2
    y = np.arange(ny)[:, None]
    across = 0.5 * np.diff(erf((np.vstack([y, y[-1:] + 1]) - 0.5 - trace) / (planned.sigma_px * np.sqrt(2))), axis=0)
    sky = _SKY_ELECTRON * (1 + 0.1 * (y / ny - 0.5) + 0.2 * np.sin(np.arange(nx) / 90.0))
    electrons = rng.poisson(columns * across + sky)
    raw = np.full((ny, nx + 32), _BIAS_ADU + rng.normal(0, 3.0))
    raw[:, :nx] += electrons / amplifier.gain
    raw += rng.normal(0, amplifier.read_noise / amplifier.gain, raw.shape)
    return np.clip(np.rint(raw), 0, 65_535).astype(np.uint16)


def raw_header(config: AuxtelConfig, planned: Planned) -> fits.Header:
    """What an honest observatory knows of an exposure."""
    begin = Time(planned.mjd_begin, format="mjd", scale="tai", precision=6)
    cards: dict[str, Any] = {
        "INSTRUME": "auxtel",
        "IMAGETYP": "SPECTRUM",
        "OBJECT": planned.target,
        "DAYOBS": planned.day_obs,
        "SEQNUM": planned.seq_num,
        "TIMESYS": "TAI",
        "DATE-OBS": begin.isot,
        "EXPTIME": config.exposure_s,
        "FILTER": "grating",
        "RA": planned.ra_deg,
        "DEC": _DECLINATION_DEG,
        "AIRMASS": (round(planned.airmass, 5), "at the middle"),
        "PRESSURE": (round(planned.pressure_hpa, 2), "[hPa]"),
    }
    header = fits.Header()
    header.update(cards)
    return header


def frames(config: AuxtelConfig) -> Iterator[tuple[Planned, fits.Header, NDArray[np.uint16]]]:
    """Every exposure, one after another."""
    camera = Camera.load("auxtel")
    for planned in plan(config):
        yield planned, raw_header(config, planned), make_raw(config, camera, planned)


def standards_table() -> dict[str, Any]:
    """The catalogue of reference spectra: `target nm photons`, a row for each wavelength of each star."""
    nm = np.arange(380.0, 1025.0, 1.0)
    return {
        "target": np.repeat(list(_STARS), len(nm)),
        "nm": np.tile(nm, len(_STARS)),
        "photons": np.concatenate([standard(name, nm) for name in _STARS]),
    }


def simulate_auxtel(config: AuxtelConfig, out: Path) -> int:
    """Raw frames, `standards.parquet` and the truth below `out`; the number of frames."""
    count = 0
    for planned, header, raw in frames(config):
        path = out / f"raw/{planned.day_obs}/auxtel_{planned.day_obs}_{planned.seq_num:05d}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(raw, header).writeto(path, overwrite=True)
        count += 1
    write_table(out / "standards.parquet", standards_table())
    days = {p.day_obs for p in plan(config)}
    truth = {"atmosphere": {day: asdict(atmosphere_of(config, day)) for day in sorted(days)}}
    truth["exposures"] = [asdict(p) for p in plan(config)]
    (out / "truth").mkdir(exist_ok=True)
    (out / "truth/atmosphere.json").write_text(json.dumps(truth, indent=1))
    return count
