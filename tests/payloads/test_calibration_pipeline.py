"""The combining tasks over handles of frames with a known truth; every product, its mask, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.time import Time
from lsst.pipe.base import Pipeline

from payloads.camera import Amplifier, Detector
from payloads.combine import CombineError
from payloads.mask import Mask
from payloads.tasks.calibration import CombineBiasTask, CombineDarkTask, CombineFlatTask

NY, NX, GAIN, READ_NOISE, DARK_S = 150, 130, 1.6, 6.0, 60.0
LEVEL = 1000.0
AMPLIFIERS = {"crosstalk", "ptc", "linearity"}


@dataclass
class DataId:
    """What a task asks of an expanded data ID."""

    exposure: int
    seconds: float

    def __getitem__(self, name: str) -> int:
        return {"exposure": self.exposure, "detector": 0}[name]

    def hasRecords(self) -> bool:
        return True

    @property
    def records(self) -> dict[str, Any]:
        begin = Time(60000.0, format="mjd", scale="tai")
        span = SimpleNamespace(begin=begin, end=begin + self.seconds * u.s)
        record = SimpleNamespace(
            exposure_time=self.seconds,
            dark_time=self.seconds,
            timespan=span,
            physical_filter="r1",
            tracking_ra=None,
            tracking_dec=None,
            sky_angle=None,
        )
        return {"exposure": record, "physical_filter": SimpleNamespace(band="r")}


@dataclass
class Handle:
    """A deferred raw frame that counts how often it is read."""

    dataId: DataId  # noqa: N815 - the Butler's name
    data: np.ndarray
    reads: int = 0

    def get(self) -> CCDData:
        self.reads += 1
        return CCDData(self.data, unit=u.adu)


@dataclass
class Truth:
    detector: Detector
    bias: np.ndarray
    dark: np.ndarray  # electron/s
    flat: np.ndarray
    hot: np.ndarray
    dead: np.ndarray

    def raws(self, count: int, seconds: float, light: float | list[float] = 0.0, first: int = 1) -> list[Handle]:
        """Frames of so many seconds and, for flats, so many electrons (one number, or one for each)."""
        levels = light if isinstance(light, list) else [light] * count
        handles = []
        for number, level in enumerate(levels, start=first):
            rng = np.random.default_rng(1000 + 17 * number)
            electrons = rng.poisson(self.dark * seconds + level * self.flat)
            frame = np.full((NY, NX + 24), LEVEL + rng.normal(0, 3.0))
            frame[:, :NX] += electrons / GAIN + self.bias
            frame += rng.normal(0, READ_NOISE / GAIN, frame.shape)
            handles.append(Handle(DataId(number, seconds), np.clip(np.rint(frame), 0, 65535).astype(np.uint16)))
        return handles


@pytest.fixture(scope="module")
def truth() -> Truth:
    rng = np.random.default_rng(1)
    amp = Amplifier(
        name="A",
        data=f"[1:{NX},1:{NY}]",
        overscan=f"[{NX + 1}:{NX + 24},1:{NY}]",
        place=f"[1:{NX},1:{NY}]",
        gain=GAIN,
        read_noise=READ_NOISE,
        saturation=50_000,
    )
    y, x = np.mgrid[:NY, :NX]
    radius = np.hypot(x - NX / 2, y - NY / 2) / np.hypot(NX / 2, NY / 2)
    flat = (1 - 0.8 * radius**8) * rng.normal(1, 0.005, (NY, NX))
    hot, dead = np.zeros((NY, NX), bool), np.zeros((NY, NX), bool)
    hot[rng.integers(0, NY, 8), rng.integers(0, NX, 8)] = True
    dead[rng.integers(30, NY - 30, 6), rng.integers(30, NX - 30, 6)] = True
    flat[dead] = 0.05
    bias = rng.normal(0, 2.0, NX)[None, :] * np.ones((NY, 1))
    return Truth(Detector(id=0, name="D", amplifiers=(amp,)), bias, np.where(hot, 4.0, 0.05), flat, hot, dead)


def _bias(truth: Truth, handles: list[Handle]) -> tuple[CCDData, Any]:
    task = CombineBiasTask()
    return task.run(raws=handles, detector=truth.detector).bias, task.metadata


@pytest.fixture(scope="module")
def bias(truth: Truth) -> CCDData:
    return _bias(truth, truth.raws(16, 0.0))[0]


@pytest.fixture(scope="module")
def dark(truth: Truth, bias: CCDData) -> CCDData:
    return CombineDarkTask().run(raws=truth.raws(12, DARK_S, first=100), detector=truth.detector, bias=bias).dark


def test_bias_residual_is_within_five_per_cent_of_the_expected_noise(truth: Truth) -> None:
    product, metadata = _bias(truth, truth.raws(16, 0.0))
    residual = product.data - truth.bias
    assert residual.std() <= 1.05 * READ_NOISE / GAIN / np.sqrt(16)
    assert metadata["noise_ratio"] == pytest.approx(1.0, abs=0.06)
    assert metadata["n_used"] == 16
    assert product.unit == u.adu


def test_each_frame_is_read_once(truth: Truth) -> None:
    handles = truth.raws(5, 0.0)
    _bias(truth, handles)
    assert [handle.reads for handle in handles] == [1] * 5


def test_a_frame_that_saw_light_is_rejected_by_name_and_reason(truth: Truth) -> None:
    handles = truth.raws(6, 0.0)
    handles[2].data = (handles[2].data + np.where(np.arange(NX + 24) < NX, 40, 0)).astype(np.uint16)
    product, metadata = _bias(truth, handles)
    assert metadata["n_rejected"] == 1
    assert metadata["rejected"].startswith("3: level")
    assert (product.data - truth.bias).mean() == pytest.approx(0.0, abs=0.3)


def test_a_frame_of_nan_is_left_out_and_the_rest_go_on(truth: Truth) -> None:
    handles = truth.raws(5, 0.0)
    handles[0].data = np.full(handles[0].data.shape, np.nan)
    _, metadata = _bias(truth, handles)
    assert metadata["n_used"] == 4
    assert "no pixel" in metadata["rejected"]


def test_too_few_frames_are_an_error(truth: Truth) -> None:
    with pytest.raises(CombineError, match="2 usable frames"):
        _bias(truth, truth.raws(2, 0.0))


def test_dark_is_per_second_and_as_quiet_as_it_can_be(truth: Truth, dark: CCDData) -> None:
    quiet = ~truth.hot
    residual = (dark.data - truth.dark / GAIN)[quiet]
    single = (READ_NOISE / GAIN) ** 2 + 0.05 * DARK_S / GAIN**2
    expected = np.sqrt(single / 12 + (READ_NOISE / GAIN) ** 2 / 16) / DARK_S
    assert residual.std() <= 1.05 * expected
    assert residual.mean() == pytest.approx(0.0, abs=0.1 * expected)
    assert dark.unit == u.adu / u.s
    assert dark.meta["NOISEEXP"] == pytest.approx(expected, rel=0.05)


def test_hot_pixels_are_bad_in_the_dark_and_no_others(truth: Truth, dark: CCDData) -> None:
    assert np.array_equal((dark.mask & Mask.BAD) != 0, truth.hot)


def test_cosmic_rays_in_darks_are_clipped(truth: Truth, bias: CCDData) -> None:
    handles = truth.raws(12, DARK_S, first=100)
    rng = np.random.default_rng(8)
    hits = []
    for handle in handles:
        spots = rng.integers(5, NY - 5, 10), rng.integers(5, NX - 5, 10)
        handle.data[spots] += 600
        hits.append(spots)
    task = CombineDarkTask()
    product = task.run(raws=handles, detector=truth.detector, bias=bias).dark
    touched = np.concatenate([np.ravel_multi_index(spots, (NY, NX)) for spots in hits])
    excess = (product.data - truth.dark / GAIN).ravel()[touched]
    assert np.abs(excess).max() < 6 * READ_NOISE / GAIN / np.sqrt(12) / DARK_S * 1.4
    assert task.metadata["clipped_fraction"] > 0


def _flat(truth: Truth, bias: CCDData, dark: CCDData | None, light: list[float]) -> tuple[CCDData, Any]:
    task = CombineFlatTask()
    handles = truth.raws(len(light), 5.0, light=light, first=300)
    return task.run(raws=handles, detector=truth.detector, bias=bias, dark=dark).flat, task.metadata


@pytest.mark.parametrize("light", [[25_000.0] * 8, [60_000.0, 41_000.0, 30_000.0, 22_000.0, 15_000.0]])
def test_flat_is_right_to_half_a_per_cent(truth: Truth, bias: CCDData, dark: CCDData, light: list[float]) -> None:
    product, metadata = _flat(truth, bias, dark, light)
    good = (product.mask == 0) & ~truth.hot
    expected = truth.flat / np.median(truth.flat)
    assert np.std((product.data / expected - 1)[good]) < 0.005
    assert np.median(product.data) == pytest.approx(1.0, abs=1e-3)
    assert metadata["dark_subtracted"]
    assert len(metadata.getArray("levels_electron")) == len(light)


def test_dead_pixels_are_bad_and_deep_corners_suspect_in_the_flat(truth: Truth, bias: CCDData, dark: CCDData) -> None:
    product, _ = _flat(truth, bias, dark, [25_000.0] * 8)
    assert (product.mask[truth.dead] & Mask.BAD).all()
    assert ((product.mask & Mask.BAD) != 0).sum() <= truth.dead.sum() + 1
    assert product.mask[0, 0] & Mask.SUSPECT
    assert product.mask[NY // 2, NX // 2] == 0


def test_flats_too_dim_or_saturated_are_rejected(truth: Truth, bias: CCDData) -> None:
    product, metadata = _flat(truth, bias, None, [25_000.0, 26_000.0, 24_000.0, 100.0, 95_000.0])
    assert metadata["n_used"] == 3
    assert "saturated" in " ".join(metadata.getArray("rejected"))
    assert "below" in " ".join(metadata.getArray("rejected"))
    assert np.isfinite(product.data).all()


def test_a_single_flat_without_dark_is_still_a_flat(truth: Truth, bias: CCDData) -> None:
    product, metadata = _flat(truth, bias, None, [50_000.0])
    assert metadata["n_used"] == 1
    assert not metadata["dark_subtracted"]
    assert np.median(product.data) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("subset", "reads", "makes"),
    [
        ("bias", {"raw", "camera"}, "bias"),
        ("dark", {"raw", "camera", "bias"} | AMPLIFIERS, "dark"),
        ("flat", {"raw", "camera", "bias", "dark"} | AMPLIFIERS, "flat"),
    ],
)
def test_each_subset_reads_certified_products_and_makes_one(subset: str, reads: set[str], makes: str) -> None:
    graph = Pipeline.from_uri(f"resource://payloads/pipelines/calibration.yaml#{subset}").to_graph()
    (task,) = graph.tasks.values()
    named = {edge.parent_dataset_type_name for edge in (*task.inputs.values(), *task.prerequisite_inputs.values())}
    assert named == reads
    assert {edge.parent_dataset_type_name for edge in task.outputs.values()} == {makes}


def test_flats_go_without_dark_where_the_pipeline_says_so() -> None:
    config = CombineFlatTask.ConfigClass()
    config.do_dark = False
    assert "dark" not in config.connections.ConnectionsClass(config=config).prerequisiteInputs
