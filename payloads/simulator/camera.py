"""The simulated camera as the same description that real cameras have (`payloads.camera.Camera`)."""

from __future__ import annotations

import numpy as np

from payloads.camera import Amplifier, Camera, Detector, Filter, HeaderRule, Headers, Observatory
from payloads.simulator.config import CameraConfig, FilterConfig, SurveyConfig
from payloads.simulator.streams import Stream, stream


def _section(x: int, y: int, nx: int, ny: int) -> str:
    return f"[{x + 1}:{x + nx},{y + 1}:{y + ny}]"


def _amplifiers(config: CameraConfig, rng: np.random.Generator, curved: np.random.Generator) -> tuple[Amplifier, ...]:
    rows, columns = config.amplifier_grid
    ny, nx = config.size[0] // rows, config.size[1] // columns
    curves = _linearity(config, curved)
    n = config.amplifiers
    gains = config.gain * (1 + config.gain_spread * np.clip(rng.normal(size=n), -2.5, 2.5))
    noises = config.read_noise_electron * (1 + config.read_noise_spread * np.clip(rng.normal(size=n), -2.5, 2.5))
    amplifiers = []
    for k in range(n):
        row, column = divmod(k, columns)
        x, y = column * (nx + config.overscan_px), row * ny
        amplifiers.append(
            Amplifier(
                name=f"C{row}{column}",
                data=_section(x, y, nx, ny),
                overscan=_section(x + nx, y, config.overscan_px, ny),
                place=_section(column * nx, y, nx, ny),
                gain=round(float(gains[k]), 4),
                read_noise=round(float(noises[k]), 4),
                # A little below the full well, which noise and bias blur; as it is read.
                saturation=0.98 * (curves[k][-1][0] if curves else config.full_well_adu),
                linearity=curves[k] if curves else None,
            )
        )
    return tuple(amplifiers)


def _linearity(config: CameraConfig, rng: np.random.Generator) -> list[tuple[tuple[float, float], ...]]:
    """Of each amplifier, ADU as read and the correction, up to full well; none where the camera is linear."""
    if not config.nonlinearity:
        return []
    part = np.linspace(0, 1, 65)
    missing = config.nonlinearity * (1 + np.clip(rng.normal(size=config.amplifiers), -2.5, 2.5) / 3)
    # Compresses more and more, and stays monotonic.
    shown = 1 - missing[:, None] * (0.6 * part + 0.4 * part**3)
    curves = zip((config.full_well_adu * part * shown).tolist(), (1 / shown - 1).tolist(), strict=True)
    return [tuple((round(adu, 4), round(c, 8)) for adu, c in zip(*curve, strict=True)) for curve in curves]


def describe(camera: Camera, survey: SurveyConfig) -> Camera:
    """What camera.yaml says: the camera itself, or what would be known of it before anything was measured."""
    config = survey.camera
    if config.described == "truly":
        return camera
    nominal = {"gain": config.gain, "read_noise": config.read_noise_electron, "linearity": None}
    detectors = [
        d.model_copy(update={"crosstalk": None, "amplifiers": tuple(a.model_copy(update=nominal) for a in d.amplifiers)})
        for d in camera.detectors
    ]
    return camera.model_copy(update={"detectors": tuple(detectors)})


def _crosstalk(config: CameraConfig, rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    """Neighbours in readout order couple most; the rest a tenth of that, of either sign."""
    n = config.amplifiers
    far = 0.1 * config.crosstalk * rng.normal(size=(n, n))
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    near = config.crosstalk * rng.uniform(0.5, 1.5, size=(n, n))
    matrix = np.where(apart == 1, near, far)
    np.fill_diagonal(matrix, 0.0)
    return tuple(tuple(round(float(c), 9) for c in row) for row in matrix)


def _transmission(config: FilterConfig) -> tuple[tuple[float, float], ...] | None:
    if config.passes_nm is None:
        return None
    blue, red = config.passes_nm
    return ((blue - 2.5, 0.0), (blue + 2.5, 1.0), (red - 2.5, 1.0), (red + 2.5, 0.0))


def _headers(name: str) -> Headers:
    return Headers(
        must={"INSTRUME": f"^{name}$"},
        observation_type=HeaderRule(
            keyword="IMAGETYP", values={"OBJECT": "science", "BIAS": "bias", "DARK": "dark", "FLAT": "flat"}
        ),
        datetime_begin=HeaderRule(keyword="DATE-OBS", scale="tai"),
        exposure_time=HeaderRule(keyword="EXPTIME", unit="s"),
        dark_time=HeaderRule(keyword="DARKTIME", unit="s"),
        physical_filter=HeaderRule(keyword="FILTER"),
        object=HeaderRule(keyword="OBJECT"),
        seq_num=HeaderRule(keyword="SEQNUM"),
        day_obs=HeaderRule(keyword="DAYOBS"),
        detector=HeaderRule(keyword="DETECTOR"),
        tracking_ra=HeaderRule(keyword="RA", unit="deg"),
        tracking_dec=HeaderRule(keyword="DEC", unit="deg"),
        rotation_deg=HeaderRule(keyword="ROTPA", unit="deg"),
        airmass=HeaderRule(keyword="AIRMASS"),
    )


def build_camera(survey: SurveyConfig) -> Camera:
    """The camera of a survey; a function of its configuration and seed."""
    config = survey.camera
    rows, columns = config.detectors
    pitch_x, pitch_y = (n * config.pixel_scale_arcsec + config.gap_arcsec for n in (config.size[1], config.size[0]))
    detectors = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        rng = stream(survey.seed, Stream.CAMERA, number)
        detectors.append(
            Detector(
                id=number,
                name=f"D{number:02d}",
                offset_arcsec=((column - (columns - 1) / 2) * pitch_x, (row - (rows - 1) / 2) * pitch_y),
                amplifiers=_amplifiers(config, rng, stream(survey.seed, Stream.CAMERA, number, 1)),
                crosstalk=_crosstalk(config, rng),
            )
        )
    zeropoints = [f.zeropoint_mag for f in survey.filters.values()]
    return Camera(
        name=config.name,
        description="Simulated: see payloads/simulator",
        pixel_scale_arcsec=config.pixel_scale_arcsec,
        detectors=tuple(detectors),
        filters=tuple(Filter(name=name, band=f.band, transmission=_transmission(f)) for name, f in survey.filters.items()),
        headers=_headers(config.name),
        nominal_zeropoint_mag=float(np.mean(zeropoints)),
        # Errors are cut at three sigma per axis: the worst is 3 sqrt(2).
        pointing_error_arcsec=round(4.3 * survey.pointing.error_arcsec, 2),
        full_well_electron=config.full_well_adu * config.gain,
        observatory=Observatory(**survey.observatory.model_dump()),  # its own defaults would be left out of the YAML
    )
