"""What falls on one detector in one science exposure: the expected light, and the truth of everything that varies or moves.

The SNR of an epoch is that of the best linear estimate of its flux on the difference between this frame and a noiseless template,
with the PSF p (normalised, trailed if the source moves) and the expected variance V of each pixel known:

    SNR = |F| sqrt(sum_i (f_i p_i)² / V_i),   V_i = f_i (all light of the frame in pixel i, sky and the source itself included)
                                                    + dark current x exposure + read noise² + gain²/12

F in electrons before the flat f. For a transient or an asteroid F is its whole flux; for a variable it is its flux less its mean.
Dead pixels (f about 0) thus add no signal. Cosmic rays and crosstalk are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.orbits import observe
from payloads.simulator.detector import DetectorTruth, focal_grid, focal_radius
from payloads.simulator.exposures import Conditions, Planned
from payloads.simulator.psf import galaxy_profile
from payloads.simulator.render import Gaussians, add_gaussians
from payloads.simulator.sky import magnitude, njy
from payloads.simulator.wcs import detector_wcs, focal_position, separation_arcsec
from payloads.simulator.world import World

Array = NDArray[np.float64]
Image = NDArray[np.float32]
_GALAXY_WINGS_PX = 250.0
_PSF_WINGS_FWHM = 13.0  # where `render` cuts the widest Gaussian of the brightest stars
_TRAIL_STEP_PX = 0.4


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One detector of one exposure: expected electrons before Poisson (ny, nx), truth rows by table, electrons of cosmic rays."""

    expected: Image
    rows: dict[str, dict[str, NDArray[Any]]]
    cosmic_rays: Image | None = None


class Frame:
    """Geometry and calibration of one detector in one exposure: sky to pixels, magnitudes to electrons."""

    def __init__(self, world: World, exposure: Planned, conditions: Conditions, detector: Detector, truth: DetectorTruth) -> None:
        self.world, self.exposure, self.conditions, self.detector, self.truth = world, exposure, conditions, detector, truth
        self.band = world.survey.filters[str(exposure.filter)]
        self.scale = world.camera.pixel_scale_arcsec
        self.radius = focal_radius(world.camera)
        self.wcs = detector_wcs(conditions.pointing, detector, self.scale)
        self.zeropoint_mag = conditions.zeropoint_mag + 2.5 * float(np.log10(truth.throughput[str(exposure.filter)]))
        self.flat = truth.flat[str(exposure.filter)]

    def pixels(self, ra: Array, dec: Array, wings_px: float = 0.0) -> tuple[Array, Array, NDArray[np.int64]]:
        """x, y and indices of those positions whose light can reach the detector: from the PSF's wings away, or `wings_px`."""
        wings = max(wings_px, _PSF_WINGS_FWHM * self.conditions.psf.fwhm_px)
        ny, nx = self.detector.shape
        pointing = self.conditions.pointing
        reach = 1.2 * self.radius + wings * self.scale
        near = np.flatnonzero(separation_arcsec(ra, dec, np.array(pointing.ra_deg), np.array(pointing.dec_deg)) < reach)
        x, y = self.wcs.wcs_world2pix(ra[near], dec[near], 0) if len(near) else (np.zeros(0), np.zeros(0))
        seen = (x > -wings) & (x < nx + wings) & (y > -wings) & (y < ny + wings)
        return x[seen], y[seen], near[seen]

    def inside(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Whether a centre lies on the detector."""
        ny, nx = self.detector.shape
        return np.asarray((x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5))

    def focal(self, x: Array, y: Array) -> tuple[Array, Array]:
        """(u, v) of pixels."""
        return focal_position(self.detector, self.scale, self.radius, x, y)

    def electrons(self, flux_njy: Array) -> Array:
        """Electrons in the exposure, before the flat, of a flux in nJy."""
        return flux_njy / njy(np.array(self.zeropoint_mag))

    def points(self, x: Array, y: Array, electrons: Array) -> Gaussians:
        """Point sources as Gaussians."""
        return self.conditions.psf.points(x, y, electrons, *self.focal(x, y))


def _galaxies(frame: Frame) -> Gaussians:
    g = frame.world.galaxies
    x, y, at = frame.pixels(g.ra, g.dec, _GALAXY_WINGS_PX)
    flux = frame.electrons(njy(magnitude(g.mag[at], g.colour[at], frame.band)))
    # A position angle is measured from +y towards -x, once the frame's own rotation is taken off.
    angle = np.deg2rad(g.position_angle_deg[at] - frame.conditions.pointing.rotation_deg)
    size2, q = (g.half_light_arcsec[at] / frame.conditions.pointing.scale_arcsec) ** 2, g.axis_ratio[at]
    sin, cos = np.sin(angle), np.cos(angle)
    shape = size2 * np.stack([sin**2 / q + cos**2 * q, -sin * cos * (1 / q - q), cos**2 / q + sin**2 * q])
    parts = []
    for spheroid in (False, True):
        k = np.flatnonzero(g.spheroid[at] == spheroid)
        parts.append(
            frame.conditions.psf.extended(x[k], y[k], flux[k], *frame.focal(x[k], y[k]), shape[:, k], galaxy_profile(spheroid))
        )
    return Gaussians.join(parts)


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Sources that vary or move, on one detector: pixel, sky, flux in nJy, and the part of it that a template lacks."""

    table: str
    id: NDArray[np.int64]
    x: Array
    y: Array
    ra: Array
    dec: Array
    flux_njy: Array
    difference_njy: Array
    light: list[Gaussians]  # of each source, for one electron
    extra: dict[str, Array]


def _variables(frame: Frame) -> tuple[Gaussians, Epochs]:
    """All stars as light, and the epochs of the variable ones."""
    s = frame.world.stars
    x, y, at = frame.pixels(s.ra, s.dec)
    steady = njy(magnitude(s.mag[at], s.colour[at], frame.band))
    flux = steady * 10 ** (-0.4 * s.brightening(frame.exposure.mjd_mid)[at])
    k = np.flatnonzero((s.period_d[at] > 0) & frame.inside(x, y))
    epochs = Epochs(
        table="variable_epochs",
        id=s.id[at[k]],
        x=x[k],
        y=y[k],
        ra=s.ra[at[k]],
        dec=s.dec[at[k]],
        flux_njy=flux[k],
        difference_njy=flux[k] - steady[k],
        light=[frame.points(x[[i]], y[[i]], np.ones(1)) for i in k],
        extra={},
    )
    return frame.points(x, y, frame.electrons(flux)), epochs


def _transients(frame: Frame) -> tuple[Gaussians, Epochs]:
    t = frame.world.transients
    x, y, at = frame.pixels(t.ra, t.dec)
    flux = njy(magnitude(t.peak_mag[at], t.colour[at], frame.band)) * t.relative_flux(frame.exposure.mjd_mid)[at]
    k = np.flatnonzero((flux > 0) & frame.inside(x, y))
    epochs = Epochs(
        table="transient_epochs",
        id=t.id[at[k]],
        x=x[k],
        y=y[k],
        ra=t.ra[at[k]],
        dec=t.dec[at[k]],
        flux_njy=flux[k],
        difference_njy=flux[k],
        light=[frame.points(x[[i]], y[[i]], np.ones(1)) for i in k],
        extra={},
    )
    return frame.points(x, y, frame.electrons(flux)), epochs


def _asteroids(frame: Frame) -> tuple[Gaussians, Epochs]:
    """Asteroids trail: each is a row of points from where it stands when the shutter opens to where when it closes."""
    orbits, observatory, e = frame.world.asteroids, frame.world.survey.observatory, frame.exposure
    begin, middle, end = (observe(orbits, e.mjd_begin + part * e.exposure_s / 86_400, observatory) for part in (0.0, 0.5, 1.0))
    x, y, at = frame.pixels(middle.ra, middle.dec)
    x0, y0 = frame.wcs.wcs_world2pix(begin.ra[at], begin.dec[at], 0) if len(at) else (x, y)
    x1, y1 = frame.wcs.wcs_world2pix(end.ra[at], end.dec[at], 0) if len(at) else (x, y)
    flux = njy(magnitude(middle.mag[at], orbits.colour[at], frame.band))
    trails = []
    for from_x, from_y, to_x, to_y in zip(x0, y0, x1, y1, strict=True):
        n = max(1, int(np.ceil(np.hypot(to_x - from_x, to_y - from_y) / _TRAIL_STEP_PX)))
        part = (np.arange(n) + 0.5) / n
        trails.append(frame.points(from_x + part * (to_x - from_x), from_y + part * (to_y - from_y), np.full(n, 1 / n)))
    hours = e.exposure_s / 3600
    rate = separation_arcsec(begin.ra[at], begin.dec[at], end.ra[at], end.dec[at]) / hours
    east = ((end.ra[at] - begin.ra[at] + 180) % 360 - 180) * np.cos(np.deg2rad(middle.dec[at]))
    k = np.flatnonzero(frame.inside(x, y))
    epochs = Epochs(
        table="asteroid_epochs",
        id=orbits.id[at[k]],
        x=x[k],
        y=y[k],
        ra=middle.ra[at[k]],
        dec=middle.dec[at[k]],
        flux_njy=flux[k],
        difference_njy=flux[k],
        light=[trails[i] for i in k],
        extra={
            "mag": magnitude(middle.mag[at], orbits.colour[at], frame.band)[k],
            "rate_arcsec_h": rate[k],
            "position_angle_deg": np.rad2deg(np.arctan2(east, end.dec[at] - begin.dec[at]))[k] % 360,
            "trail_px": np.hypot(x1 - x0, y1 - y0)[k],
        },
    )
    lit = [scaled(trail, electrons) for trail, electrons in zip(trails, frame.electrons(flux), strict=True)]
    return Gaussians.join(lit), epochs


def scaled(light: Gaussians, factor: float) -> Gaussians:
    """The same light, brighter."""
    return Gaussians(**{**vars(light), "flux": light.flux * factor})


def amplifier_map(detector: Detector, value: list[float]) -> Image:
    """(ny, nx) on the trimmed detector of one number per amplifier."""
    image = np.zeros(detector.shape, dtype=np.float32)
    for amplifier, number in zip(detector.amplifiers, value, strict=True):
        image[parse_section(amplifier.place)] = number
    return image


def optimal_snr(electrons: float, profile: Image, flat: Image, variance: Image) -> float:
    """|F| sqrt(sum (f p)² / V) over a stamp: see the head of this module; all (ny, nx)."""
    return float(abs(electrons) * np.sqrt(np.sum((flat * profile).astype(np.float64) ** 2 / variance)))


def _snr(frame: Frame, epochs: Epochs, variance: Image) -> Array:
    electrons = frame.electrons(epochs.difference_njy)
    ny, nx = frame.detector.shape
    snr = np.zeros(len(epochs.id))
    half = int(np.ceil(3.5 * frame.conditions.psf.fwhm_px)) + 2
    for k, light in enumerate(epochs.light):
        reach = half + int(np.ceil(np.ptp(light.x) / 2 + np.ptp(light.y) / 2))
        cx, cy = round(float(epochs.x[k])), round(float(epochs.y[k]))
        rows, columns = slice(max(cy - reach, 0), min(cy + reach + 1, ny)), slice(max(cx - reach, 0), min(cx + reach + 1, nx))
        stamp = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32)
        moved = Gaussians(**{**vars(light), "x": light.x - columns.start, "y": light.y - rows.start})
        add_gaussians(stamp, moved, floor=1e-7)
        snr[k] = optimal_snr(float(electrons[k]), stamp, frame.flat[rows, columns], variance[rows, columns])
    return snr


def _rows(frame: Frame, epochs: Epochs, variance: Image) -> dict[str, NDArray[Any]]:
    n = len(epochs.id)
    return {
        "id": epochs.id,
        "exposure": np.full(n, frame.exposure.id),
        "detector": np.full(n, frame.detector.id),
        "mjd": np.full(n, frame.exposure.mjd_mid),
        "band": np.full(n, frame.band.band),
        "x": epochs.x,
        "y": epochs.y,
        "ra": epochs.ra,
        "dec": epochs.dec,
        "flux_njy": epochs.flux_njy,
        "flux_electron": frame.electrons(epochs.flux_njy),
        "difference_njy": epochs.difference_njy,
        "snr": _snr(frame, epochs, variance),
        **epochs.extra,
    }


def make_scene(frame: Frame) -> Scene:
    """Expected electrons and truth of one detector in one science exposure."""
    u, v = focal_grid(frame.world.camera, frame.detector)
    du, dv = frame.conditions.sky_gradient
    throughput = frame.truth.throughput[str(frame.exposure.filter)]
    sky = frame.conditions.sky_electron * throughput
    image = (sky * (1 + du * u[None, :] + dv * v[:, None])).astype(np.float32)
    if frame.truth.fringes is not None and frame.band.fringe:
        image *= 1 + np.float32(frame.band.fringe) * frame.truth.fringes
    stars, variables = _variables(frame)
    transients, transient_epochs = _transients(frame)
    asteroids, asteroid_epochs = _asteroids(frame)
    for light in (stars, _galaxies(frame), transients, asteroids):
        add_gaussians(image, light)
    image *= frame.flat
    image += frame.truth.dark_electron_s * np.float32(frame.exposure.exposure_s)
    amplifiers = frame.detector.amplifiers
    variance = image + amplifier_map(frame.detector, [a.read_noise**2 + a.gain**2 / 12 for a in amplifiers])
    rows = {e.table: _rows(frame, e, variance) for e in (variables, transient_epochs, asteroid_epochs)}
    ny, nx = frame.detector.shape
    fwhm = frame.conditions.psf.fwhm(*frame.focal(np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2])))
    rows["frames"] = {
        "exposure": np.array([frame.exposure.id]),
        "detector": np.array([frame.detector.id]),
        "zeropoint_mag": np.array([frame.zeropoint_mag]),
        "sky_electron": np.array([sky]),
        "psf_fwhm_px": fwhm,
    }
    return Scene(expected=image, rows=rows)
