"""The truth tables of a survey, and the catalogue and telemetry that an observatory would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from payloads.simulator.config import SurveyConfig, SurveyConfigError
from payloads.simulator.detector import DetectorTruth
from payloads.simulator.exposures import Planned, conditions
from payloads.simulator.headers import obs_id
from payloads.simulator.sky import magnitude
from payloads.simulator.streams import Stream, stream
from payloads.simulator.wcs import cards, detector_wcs
from payloads.simulator.world import World

Rows = dict[str, NDArray[Any]]


def write_table(path: Path, rows: Rows | pa.Table) -> None:
    """Write one Parquet table, columns as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.table(dict(rows)), path)


def _with_bands(survey: SurveyConfig, rows: Rows) -> Rows:
    """Magnitudes per band instead of magnitude in r and colour."""
    mag, colour = rows.pop("mag"), rows.pop("colour")
    for settings in survey.filters.values():
        rows[f"mag_{settings.band}"] = magnitude(mag, colour, settings)
    return rows


def _transient_table(world: World) -> pa.Table:
    t = world.transients
    rows = _with_bands(
        world.survey,
        {"id": t.id, "ra": t.ra, "dec": t.dec, "mag": t.peak_mag, "colour": t.colour}
        | {"onset_mjd": t.onset_mjd, "peak_mjd": t.peak_mjd, "decline_d": t.decline_d},
    )
    columns: dict[str, Any] = {name.replace("mag_", "peak_mag_"): column for name, column in rows.items()}
    columns["host"] = pa.array(t.host, mask=t.host < 0)
    return pa.table(columns)


def _exposure_rows(world: World) -> Rows:
    """One row per exposure; what only science exposures have is NaN in the others."""
    rows: list[dict[str, Any]] = []
    for e in world.planned:
        row: dict[str, Any] = {"exposure": e.id, "obs_id": obs_id(world.survey, e), "day_obs": e.day_obs, "seq_num": e.seq_num}
        row |= {"kind": e.kind, "filter": e.filter or "none", "night": e.night, "mjd_mid": e.mjd_mid, "exposure_s": e.exposure_s}
        row |= dict.fromkeys(_CONDITIONS, np.nan) | {"template": False}
        if e.kind == "science":
            c = conditions(world.survey, e)
            row |= {"template": e.night < world.survey.nights.templates, "airmass": e.airmass}
            row |= {
                "boresight_ra": c.pointing.ra_deg,
                "boresight_dec": c.pointing.dec_deg,
                "rotation_deg": c.pointing.rotation_deg,
            }
            row |= {"scale_arcsec": c.pointing.scale_arcsec, "seeing_fwhm_px": c.psf.fwhm_px, "clouds_mag": c.clouds_mag}
            row |= {"sky_mag_arcsec2": c.sky_mag_arcsec2, "sky_electron": c.sky_electron, "zeropoint_mag": c.zeropoint_mag}
        rows.append(row)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


_CONDITIONS = (
    *("airmass", "boresight_ra", "boresight_dec", "rotation_deg", "scale_arcsec", "seeing_fwhm_px", "clouds_mag"),
    *("sky_mag_arcsec2", "sky_electron", "zeropoint_mag"),
)


def frame_rows(world: World, rows: Rows) -> Rows:
    """The rows of all science frames with their true WCS as FITS cards added."""
    by_id = {e.id: e for e in world.planned}
    wcs = []
    for exposure, number in zip(rows["exposure"].tolist(), rows["detector"].tolist(), strict=True):
        pointing = conditions(world.survey, by_id[exposure]).pointing
        wcs.append(
            cards(detector_wcs(pointing, world.camera.detector(number), world.camera.pixel_scale_arcsec)).tostring(sep="\n")
        )
    return {**rows, "wcs": np.array(wcs)}


def write_catalogues(world: World, out: Path) -> None:
    """Truth that does not depend on any pixel: what is in the sky, and each exposure's conditions."""
    s, g, o = world.stars, world.galaxies, world.asteroids
    stars = _with_bands(world.survey, dict(vars(s)))
    varies = s.period_d > 0
    write_table(out / "truth/stars.parquet", {**{k: stars[k] for k in stars if k not in _VARIABLE}, "is_variable": varies})
    write_table(out / "truth/variables.parquet", {k: v[varies] for k, v in stars.items()})
    write_table(out / "truth/galaxies.parquet", _with_bands(world.survey, dict(vars(g))))
    write_table(out / "truth/transients.parquet", _transient_table(world))
    write_table(out / "truth/asteroids.parquet", dict(vars(o)))
    write_table(out / "truth/exposures.parquet", _exposure_rows(world))


_VARIABLE = frozenset({"period_d", "amplitude", "phase"})


def telemetry(survey: SurveyConfig, planned: list[Planned]) -> Rows:
    """What the observatory's sensors say at each exposure: weather, and a seeing monitor that is right to about a tenth."""
    rng = stream(survey.seed, Stream.TELEMETRY)
    n = len(planned)
    mjd = np.array([e.mjd_mid for e in planned])
    night = np.cos(2 * np.pi * (mjd % 1))
    outside = 11 + 3 * night + rng.normal(0, 0.2, n)
    seeing = np.array([conditions(survey, e).psf.fwhm_px if e.kind == "science" else np.nan for e in planned])
    return {
        "exposure": np.array([e.id for e in planned]),
        "mjd": mjd,
        "dome_temperature_c": outside + rng.normal(0.5, 0.3, n),
        "outside_temperature_c": outside,
        "wind_m_s": np.abs(rng.normal(5, 3, n)),
        "pressure_hpa": 735 + rng.normal(0, 0.5, n),
        "humidity_percent": np.clip(rng.normal(25, 5, n), 0, 100),
        "monitor_seeing_arcsec": seeing * survey.camera.pixel_scale_arcsec * np.exp(rng.normal(0, 0.1, n)),
    }


def write_detector(truth: DetectorTruth, number: int, out: Path) -> None:
    """The maps of one detector as .npy below truth/detectors; gain, read noise and crosstalk are in tables."""
    folder = out / f"truth/detectors/{number:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "bias_adu.npy", truth.bias_adu)
    np.save(folder / "dark_electron_s.npy", truth.dark_electron_s)
    np.save(folder / "dead.npy", truth.dead)
    np.save(folder / "hot.npy", truth.hot)
    if truth.fringes is not None:
        np.save(folder / "fringes.npy", truth.fringes)
    for kind, images in (("flat", truth.flat), ("dome", truth.dome)):
        for name, image in images.items():
            np.save(folder / f"{kind}_{name}.npy", image)


def detector_rows(world: World, throughput: dict[int, dict[str, float]]) -> dict[str, Rows]:
    """Tables of amplifiers, crosstalk, linearity and throughput, long form; none without rows."""
    amplifiers = [
        {
            "detector": d.id,
            "amplifier": a.name,
            "gain": a.gain,
            "read_noise_electron": a.read_noise,
            "saturation_adu": a.saturation,
        }
        for d in world.camera.detectors
        for a in d.amplifiers
    ]
    crosstalk = [
        {"detector": d.id, "victim": d.amplifiers[i].name, "source": d.amplifiers[j].name, "coefficient": d.crosstalk[i][j]}
        for d in world.camera.detectors
        if d.crosstalk is not None
        for i in range(len(d.amplifiers))
        for j in range(len(d.amplifiers))
    ]
    linearity = [
        {"detector": d.id, "amplifier": a.name, "adu": adu, "correction": correction}
        for d in world.camera.detectors
        for a in d.amplifiers
        for adu, correction in a.linearity or ()
    ]
    light = [
        {"detector": d, "filter": f, "throughput": value} for d, per in sorted(throughput.items()) for f, value in per.items()
    ]
    tables = {"amplifiers": amplifiers, "crosstalk": crosstalk, "linearity": linearity, "throughput": light}
    return {name: {key: np.array([row[key] for row in rows]) for key in rows[0]} for name, rows in tables.items() if rows}


def write_resolved(survey: SurveyConfig, out: Path) -> None:
    """The whole configuration, defaults included, to make the survey again from; an error if `out` holds another survey."""
    path = out / "truth/survey.yaml"
    text = yaml.safe_dump(survey.model_dump(mode="json"), sort_keys=False)
    if path.exists() and path.read_text() != text:
        raise SurveyConfigError(
            f"{out} holds another survey or seed, and its frames would mix: choose another directory or remove it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
