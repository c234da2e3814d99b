"""A simulated night of the auxiliary telescope: its atmosphere is found, verified on held-out spectra, certified for its day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.table import Table
from astropy.time import Time
from lsst.daf.butler import Timespan

from payloads.atmosphere import NAMES, Atmosphere, bands, transmission
from payloads.camera import Camera
from payloads.combine import CombineError
from payloads.execute import certify_run, execute_pipeline
from payloads.ingest import ingest
from payloads.repository import open_repository
from payloads.simulator import auxtel
from payloads.standards import StandardsError, ingest_standards, read_standards
from payloads.tasks.atmosphere import MeasureAtmosphereTask, VerifyAtmosphereTask

CAMERA = Camera.load("auxtel")
CONFIG = auxtel.AuxtelConfig(seed=3)
DAY = 20211005
PRODUCT = {"instrument": "auxtel", "detector": 0, "day_obs": DAY}


class DataId(dict):
    """What tasks ask of an expanded data ID."""

    def hasRecords(self) -> bool:
        return True

    @property
    def records(self) -> dict[str, Any]:
        begin = Time(60000.0, format="mjd", scale="tai")
        times = {"exposure_time": 60.0, "dark_time": 60.0, "timespan": SimpleNamespace(begin=begin, end=begin)}
        sky = dict.fromkeys(("tracking_ra", "tracking_dec", "sky_angle"))
        exposure = SimpleNamespace(observation_type="spectrum", physical_filter="grating", **times, **sky)
        return {"exposure": exposure, "physical_filter": SimpleNamespace(band="grating")}


def handle(planned: auxtel.Planned, header: Any, raw: np.ndarray, **cards: Any) -> Any:
    image = CCDData(raw, unit="adu", meta=dict(header) | cards)
    return SimpleNamespace(dataId=DataId(exposure=planned.seq_num, detector=0), get=lambda: image)


class Night:
    """Its frames, the catalogue, and the product made of them."""

    def __init__(self) -> None:
        self.frames = list(auxtel.frames(CONFIG))
        self.raws = [handle(*frame) for frame in self.frames]
        self.standards = Table(auxtel.standards_table())
        self.truth = auxtel.atmosphere_of(CONFIG, DAY)
        self.made = self.measured(self.raws)
        self.product = self.made.atmosphere

    def measured(self, raws: list[Any]) -> Any:
        about = {"detector": CAMERA.detectors[0], "dispersion": CAMERA.dispersion, "day_obs": DAY}
        return MeasureAtmosphereTask().run(raws=raws, standards=self.standards, **about)

    def judged(self, product: dict[str, Any]) -> dict[str, Any]:
        used = {f"INP{k:05d}": int(exposure) for k, exposure in enumerate(self.made.used, 1)}
        table = {**product, "provenance": used}
        ref = SimpleNamespace(id="new", run="c/verify/1", datasetType=SimpleNamespace(name="atmosphere"))
        candidate = SimpleNamespace(ref=ref, get=lambda: table)
        about = {"detector": CAMERA.detectors[0], "subject": {"detector": 0, "day_obs": DAY}, "standards": self.standards}
        return VerifyAtmosphereTask().run(raws=self.raws, candidate=candidate, certified=None, **about)


@pytest.fixture(scope="module")
def night() -> Night:
    return Night()


def test_transmission_is_right_to_a_per_cent_away_from_the_cores_of_bands(night: Night) -> None:
    nm, found = (np.array(night.product[name]) for name in ("wavelength_nm", "transmission"))
    pressure = night.product["pressure_hpa"]
    ratio = found / transmission(nm, 1.0, pressure, night.truth)
    clear = (nm >= 400) & (nm <= 1000) & (bands(nm, 1.0, pressure, night.truth.water_cm) > 0.9)
    assert clear.sum() > 450
    assert np.sqrt(np.mean((ratio[clear] - 1) ** 2)) < 0.01


def test_parameters_are_within_their_errors_which_are_small(night: Night) -> None:
    found, errors = night.product["parameters"], night.product["errors"]
    assert all(abs(found[name] - getattr(night.truth, name)) < 3 * errors[name] for name in NAMES)
    largest = {"aerosol": 0.015, "exponent": 0.4, "ozone_atm_cm": 0.015, "water_cm": 0.03}
    assert {name: errors[name] for name in NAMES if errors[name] > largest[name]} == {}
    covariance = np.array(night.product["covariance"])
    assert np.allclose(np.sqrt(np.diag(covariance)), [errors[name] for name in NAMES])


def test_it_foretells_the_spectra_that_were_held_out(night: Night) -> None:
    verdict = night.judged(night.product)
    assert verdict["reasons"] == []
    assert verdict["n_frames"] == 6
    assert set(map(str, verdict["frames"])).isdisjoint(night.made.used)
    values = {check["name"]: check["value"] for check in verdict["checks"]}
    assert values["held_out_rms"] < 0.005
    assert verdict["subject"] == {"detector": 0, "day_obs": DAY}


@pytest.mark.parametrize(
    "wrong", [{"aerosol": 0.2, "exponent": 1.3}, {"ozone_atm_cm": 0.55}, {"water_cm": 5.5}], ids=["haze", "ozone", "water"]
)
def test_an_atmosphere_of_another_night_is_refused(night: Night, wrong: dict[str, float]) -> None:
    product = {**night.product, "parameters": {**night.product["parameters"], **wrong}}
    verdict = night.judged(product)
    assert not verdict["passed"]
    assert any("held_out_rms" in reason or "water_cm" in reason for reason in verdict["reasons"])


def test_frames_that_are_no_spectra_of_known_stars_are_left_out_with_the_reason(night: Night) -> None:
    (dark, header, raw), (other, its_header, its_raw), (lone, lone_header, lone_raw) = night.frames[:3]
    empty = np.full_like(raw, 1000)
    broken = [
        handle(dark, header, empty),
        handle(other, its_header, its_raw, OBJECT="Vega"),
        handle(lone, lone_header, lone_raw, PRESSURE=None),
    ]
    made = night.measured([*broken, *night.raws[3:18]])
    assert set(made.rejected) == {"1", "2", "3"}
    for exposure, reason in (("1", "spectrum"), ("2", "Vega, has no reference spectrum"), ("3", "PRESSURE")):
        assert reason in made.rejected[exposure]


def test_a_spectrum_of_another_star_than_its_header_says_is_left_out(night: Night) -> None:
    planned, header, raw = night.frames[0]
    others = {name for name in ("STD-A", "STD-C") if name != planned.target}
    made = night.measured([handle(planned, header, raw, OBJECT=others.pop()), *night.raws[1:14]])
    assert "unlike the others" in made.rejected["1"]


def test_one_airmass_tells_nothing(night: Night) -> None:
    low = [raw for raw, (planned, _, _) in zip(night.raws, night.frames, strict=True) if planned.airmass < 1.25]
    with pytest.raises(CombineError, match=r"span of|usable spectra"):
        night.measured(low)


def test_a_night_in_the_repository_is_certified_for_its_day_and_found_again(night: Night, home: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, exposures=16)
    assert auxtel.simulate_auxtel(config, tmp_path) == 16
    report = ingest(home, CAMERA, [tmp_path / "raw"])
    assert (report.ingested, len(report.rejected)) == (16, 0)
    assert ingest_standards(home, tmp_path / "standards.parquet") == 3
    assert ingest_standards(home, tmp_path / "standards.parquet") == 3, "again changes nothing"
    where = "instrument='auxtel' AND exposure.observation_type='spectrum'"
    pipeline = "resource://payloads/pipelines/atmosphere.yaml"
    root, inputs = home / "repo", ["auxtel/defaults"]
    assert execute_pipeline(root, f"{pipeline}#atmosphere", inputs=inputs, run="c/atmosphere/1", where=where) == 1
    inputs = ["c/atmosphere/1", *inputs]
    assert execute_pipeline(root, f"{pipeline}#verification", inputs=inputs, run="c/verify/1", where=where) == 1
    butler = open_repository(root)
    verdict = butler.get("atmosphere_verification", PRODUCT, collections="c/verify/1")
    assert (verdict["reasons"], verdict["n_frames"]) == ([], 3)
    into = "auxtel/calib/c"
    assert (
        certify_run(root, dataset_type="atmosphere", run="c/atmosphere/1", instrument="auxtel", into=into, begin="2021-10-05")
        == 1
    )
    noon = Time("2021-10-06T00:00:00", scale="tai")
    ref = open_repository(root).find_dataset("atmosphere", PRODUCT, collections="auxtel/calib", timespan=Timespan(noon, None))
    assert str(ref.id) == verdict["dataset"]
    cards = open_repository(root).get(ref)["provenance"]
    assert cards["NINPUT"] == 13
    assert any("standard_spectra" in str(value) for key, value in cards.items() if key.startswith("CAL"))


def test_a_catalogue_of_spectra_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("target,nm\nA,400\n")
    with pytest.raises(StandardsError, match="no column photons"):
        read_standards(path)
    path.write_text("target,nm,photons\nA,400,-1\n")
    with pytest.raises(StandardsError, match="not above 0"):
        read_standards(path)


def test_more_of_anything_lets_less_light_through() -> None:
    nm, usual = np.arange(400.0, 1001.0), transmission(np.arange(400.0, 1001.0), 1.0, 735.0, Atmosphere())
    for more in (Atmosphere(aerosol=0.1), Atmosphere(ozone_atm_cm=0.4), Atmosphere(water_cm=1.0)):
        less = transmission(nm, 1.0, 735.0, more)
        assert (less <= usual).all()
        assert (less < usual).any()
    assert (transmission(nm, 2.0, 735.0, Atmosphere()) < usual).all()
