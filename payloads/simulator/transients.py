"""New sources: where they are, in which galaxy, how they rise and fade; all of them after the template nights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Camera
from payloads.simulator.config import FieldConfig, SurveyConfig
from payloads.simulator.exposures import Planned, template_nights_end
from payloads.simulator.mixture import Mixture, moffat
from payloads.simulator.psf import galaxy_profile
from payloads.simulator.sky import Galaxies
from payloads.simulator.streams import Stream, stream
from payloads.simulator.wcs import Pointing, detector_wcs, separation_arcsec

NO_HOST = -1
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Transients:
    """Transients (n,): `host` is a galaxy's id or -1.

    Flux rises as sin² from `onset_mjd` to `peak_mjd` (TAI), then decays by e in `decline_d`.
    `peak_mag` is in r and `colour` is g-r, as for all other sources.
    """

    id: NDArray[np.int64]
    ra: Array
    dec: Array
    host: NDArray[np.int64]
    peak_mag: Array
    colour: Array
    onset_mjd: Array
    peak_mjd: Array
    decline_d: Array

    def relative_flux(self, mjd: float) -> Array:
        """(n,) flux at `mjd` (TAI) in units of that at peak; exactly 0 before the onset."""
        rise = np.clip((mjd - self.onset_mjd) / (self.peak_mjd - self.onset_mjd), 0, 1)
        fall = np.exp(-np.maximum(mjd - self.peak_mjd, 0) / self.decline_d)
        return np.asarray(np.sin(np.pi / 2 * rise) ** 2 * fall)


def noise_area(profile: Mixture, fwhm_px: float) -> float:
    """Effective number of pixels 1 / sum p² of a PSF of Gaussians (King 1983, PASP 95, 163)."""
    v = profile.variance * fwhm_px**2 + 1 / 12
    return float(1 / (np.outer(profile.weight, profile.weight) / (2 * np.pi * np.add.outer(v, v))).sum())


def nominal_flux(survey: SurveyConfig, filter_name: str, snr: Array) -> Array:
    """Electrons that have the given SNR in a median exposure on empty sky: snr² (area V + flux) = flux²."""
    band, c = survey.filters[filter_name], survey.camera
    sky = 10 ** (0.4 * (band.zeropoint_mag - band.sky_mag_arcsec2)) * survey.exposure_s * c.pixel_scale_arcsec**2
    variance = noise_area(moffat(survey.seeing.moffat_beta), survey.seeing.median_px) * (sky + c.read_noise_electron**2)
    return np.asarray(0.5 * (snr**2 + snr * np.sqrt(snr**2 + 4 * variance)))


def positions_in_detectors(
    survey: SurveyConfig, camera: Camera, field: FieldConfig, n: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """ICRS degrees of `n` places on the detectors, away from edges, so that every dither sees them."""
    scale = camera.pixel_scale_arcsec
    nominal = Pointing(ra_deg=field.ra_deg, dec_deg=field.dec_deg, rotation_deg=0.0, scale_arcsec=scale)
    ny, nx = survey.camera.size
    margin = min(12 + field.dither_arcsec / scale, 0.3 * min(nx, ny))
    chosen = rng.integers(0, len(camera.detectors), n)
    x, y = rng.uniform(margin, nx - 1 - margin, n), rng.uniform(margin, ny - 1 - margin, n)
    ra, dec = np.zeros(n), np.zeros(n)
    for number, detector in enumerate(camera.detectors):
        here = chosen == number
        if here.any():
            ra[here], dec[here] = detector_wcs(nominal, detector, scale).wcs_pix2world(x[here], y[here], 0)
    return ra, dec


def hosts_in_field(survey: SurveyConfig, camera: Camera, field: FieldConfig, galaxies: Galaxies) -> NDArray[np.int64]:
    """Indices of galaxies that lie on a detector of the field, away from edges."""
    scale = camera.pixel_scale_arcsec
    nominal = Pointing(ra_deg=field.ra_deg, dec_deg=field.dec_deg, rotation_deg=0.0, scale_arcsec=scale)
    ny, nx = survey.camera.size
    margin = min(12 + field.dither_arcsec / scale, 0.3 * min(nx, ny))
    inside = np.zeros(len(galaxies.id), dtype=bool)
    near = np.hypot(*offsets_deg(field, galaxies)) < 5.0
    for detector in camera.detectors:
        x, y = detector_wcs(nominal, detector, scale).wcs_world2pix(galaxies.ra[near], galaxies.dec[near], 0)
        inside[near] |= (x > margin) & (x < nx - 1 - margin) & (y > margin) & (y < ny - 1 - margin)
    return np.flatnonzero(inside)


def offsets_deg(field: FieldConfig, galaxies: Galaxies) -> tuple[Array, Array]:
    """East and north offsets from a field's centre in degrees, good enough to leave the far side of the sky out."""
    east = (galaxies.ra - field.ra_deg + 180) % 360 - 180
    return east * np.cos(np.deg2rad(field.dec_deg)), galaxies.dec - field.dec_deg


def _in_light_of(galaxies: Galaxies, chosen: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Array]:
    """One position drawn from the light of each of the chosen galaxies."""
    sigma = np.zeros(len(chosen))
    for spheroid in (False, True):
        profile = galaxy_profile(spheroid)
        kind = galaxies.spheroid[chosen] == spheroid
        sigma[kind] = np.sqrt(rng.choice(profile.variance, int(kind.sum()), p=profile.weight))
    q, angle = galaxies.axis_ratio[chosen], np.deg2rad(galaxies.position_angle_deg[chosen])
    scale = sigma * galaxies.half_light_arcsec[chosen] / np.sqrt(q)
    major, minor = scale * rng.normal(size=len(chosen)), scale * q * rng.normal(size=len(chosen))
    east, north = major * np.sin(angle) - minor * np.cos(angle), major * np.cos(angle) + minor * np.sin(angle)
    dec = galaxies.dec[chosen] + north / 3600
    return (galaxies.ra[chosen] + east / 3600 / np.cos(np.deg2rad(galaxies.dec[chosen]))) % 360, dec


def _places(
    survey: SurveyConfig, camera: Camera, field: FieldConfig, galaxies: Galaxies, n: int, rng: np.random.Generator
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Positions and hosts of up to `n` transients, none nearer to another than 5 FWHM: blends of two would blur every measure."""
    possible = rng.permutation(hosts_in_field(survey, camera, field, galaxies))
    in_galaxies = _in_light_of(galaxies, possible, rng)
    anywhere = positions_in_detectors(survey, camera, field, 20 * n, rng)
    apart = 5 * survey.seeing.median_px * camera.pixel_scale_arcsec
    kept: list[tuple[float, float, int]] = []
    n_hosted = round(n * survey.transients.host_fraction)
    for candidates, hosts, wanted in ((in_galaxies, galaxies.id[possible], n_hosted), (anywhere, np.full(20 * n, NO_HOST), n)):
        for ra, dec, host in zip(*candidates, hosts, strict=True):
            if len(kept) >= wanted:
                break
            if not kept or separation_arcsec(ra, dec, *np.array(kept).T[:2]).min() > apart:
                kept.append((float(ra), float(dec), int(host)))
    ra_kept, dec_kept = (np.array([row[axis] for row in kept], dtype=np.float64) for axis in (0, 1))
    return ra_kept, dec_kept, np.array([row[2] for row in kept], dtype=np.int64)


def make_transients(survey: SurveyConfig, camera: Camera, galaxies: Galaxies, planned: list[Planned]) -> Transients:
    """All transients of all fields; fewer than asked for where there is no room.

    They peak on nights on which their field is observed, after the template nights.
    """
    c = survey.transients
    parts = []
    for number, field in enumerate(survey.fields):
        visits = [e for e in planned if e.field == number and e.night >= survey.nights.templates]
        n = c.per_field if visits else 0
        rng = stream(survey.seed, Stream.TRANSIENTS, number)
        ra, dec, host = _places(survey, camera, field, galaxies, n, rng)
        n = len(ra)
        peak_mjd = np.array([rng.choice([e.mjd_mid for e in visits]) for _ in range(n)])
        onset = np.maximum(peak_mjd - rng.uniform(*c.rise_d, n), template_nights_end(survey))
        first = next(iter(visits)).filter if visits else next(iter(survey.filters))
        faintest, brightest = np.log(c.snr)
        electrons = nominal_flux(survey, str(first), np.exp(rng.uniform(faintest, brightest, n)))
        zeropoint = survey.filters[str(first)].zeropoint_mag + 2.5 * np.log10(survey.exposure_s)
        parts.append(
            {
                "ra": ra,
                "dec": dec,
                "host": host,
                "peak_mag": zeropoint - 2.5 * np.log10(electrons),
                "colour": rng.normal(0.0, 0.15, n),
                "onset_mjd": onset,
                "peak_mjd": peak_mjd,
                "decline_d": rng.uniform(*c.decline_d, n),
            }
        )
        # Peak magnitudes are kept in r, like those of all other sources.
        parts[-1]["peak_mag"] = parts[-1]["peak_mag"] - survey.filters[str(first)].colour * parts[-1]["colour"]
    joined = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    return Transients(id=3_000_000 + np.arange(len(joined["ra"])), **joined)
