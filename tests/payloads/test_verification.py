"""A master is fit or it is not, and a broken input of every kind is left out, stops the making, or is refused with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.time import Time

from payloads.camera import Amplifier, Detector
from payloads.combine import CombineError
from payloads.holdout import held_out, not_used, rejected_by, used_by
from payloads.isr import Plane
from payloads.raw_check import Masters, check_raw
from payloads.tasks.calibration import CombineBiasTask, CombineDarkTask, CombineFlatTask
from payloads.tasks.planes import plane_of
from payloads.tasks.verification import VerifyBiasTask, VerifyDarkTask, VerifyFlatTask
from payloads.tasks.watch import CompareFlatTask
from payloads.verification import Check, flat_change

NY, NX, STRIP, GAIN, NOISE, LEVEL, DARK_S = 96, 128, 12, 1.6, 6.0, 1000.0, 60.0
FLAT_E = 25_000.0


def _amplifier(name: str, k: int) -> Amplifier:
    half = NX // 2
    return Amplifier(
        name=name,
        data=f"[{k * half + 1}:{(k + 1) * half},1:{NY}]",
        overscan=f"[{NX + k * STRIP + 1}:{NX + (k + 1) * STRIP},1:{NY}]",
        place=f"[{k * half + 1}:{(k + 1) * half},1:{NY}]",
        gain=GAIN,
        read_noise=NOISE,
        saturation=50_000,
    )


DETECTOR = Detector(id=0, name="D", amplifiers=(_amplifier("A", 0), _amplifier("B", 1)))
Y, X = np.mgrid[:NY, :NX]


@dataclass
class Camera:
    """What a detector is really like; another seed is another detector."""

    seed: int = 1

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.bias = rng.normal(0, 2.0, NX)[None, :] * np.ones((NY, 1))
        self.dark = np.full((NY, NX), 0.05)
        self.dark[rng.integers(0, NY, 20), rng.integers(0, NX, 20)] = 12.0
        pixels = rng.normal(1, 0.005, (NY, NX))
        centre = NX * (0.3 + 0.2 * self.seed)
        r2 = ((X - centre) ** 2 + (Y - NY / 2) ** 2) / (NX**2)
        self.flat = {"r": (1 - 0.4 * r2) * pixels, "i": (1 - 0.1 * r2 + 0.06 * Y / NY) * pixels}


@dataclass
class Frame:
    """A deferred raw frame, with what its header says."""

    number: int
    kind: str
    said_s: float
    pixels: np.ndarray
    band: str = "r"
    dataId: Any = field(init=False)  # noqa: N815 - the Butler's name

    def __post_init__(self) -> None:
        begin = Time(60000.0, format="mjd", scale="tai")
        record = SimpleNamespace(
            observation_type=self.kind,
            exposure_time=self.said_s,
            dark_time=self.said_s,
            timespan=SimpleNamespace(begin=begin, end=begin + max(self.said_s, 0.001) * u.s),
            physical_filter="none" if self.kind != "flat" else self.band,
            tracking_ra=None,
            tracking_dec=None,
            sky_angle=None,
        )
        records = {"exposure": record, "physical_filter": SimpleNamespace(band=self.band)}
        self.dataId = _DataId(self.number, records)

    def get(self) -> CCDData:
        return CCDData(self.pixels, unit=u.adu)


class _DataId:
    def __init__(self, number: int, records: dict[str, Any]) -> None:
        self.number, self.records = number, records

    def __getitem__(self, name: str) -> int:
        return {"exposure": self.number, "detector": 0}[name]

    def hasRecords(self) -> bool:
        return True


CAMERA, OTHER = Camera(), Camera(seed=2)
SECONDS = {"bias": 0.0, "dark": DARK_S, "flat": 5.0}


def frame(
    number: int, kind: str, *, camera: Camera = CAMERA, seconds: float | None = None, band: str = "r", light: float = 0.0,
    saturated: bool = False, lost: str = "",
) -> Frame:  # fmt: skip
    """One frame; its header says the usual of its kind whatever `seconds`, `band` and `camera` it is really of."""
    rng = np.random.default_rng(1000 + 17 * number)
    real_s = SECONDS[kind] if seconds is None else seconds
    electrons = camera.dark * real_s + (FLAT_E * camera.flat[band] if kind == "flat" else 0.0) + light * GAIN
    raw = np.full((NY, NX + 2 * STRIP), LEVEL, dtype=np.float32)
    raw[:, :NX] += rng.poisson(electrons) / GAIN + camera.bias
    raw = np.rint(raw + rng.normal(0, NOISE / GAIN, raw.shape))
    if saturated:
        raw[:, :NX] = 65_000
    if lost:
        raw[:, slice(0, NX // 2) if lost == "A" else slice(NX // 2, NX)] = np.nan
    return Frame(number, kind, SECONDS[kind], raw)


def frames(kind: str, count: int = 6, first: int = 1, **broken: Any) -> list[Frame]:
    return [frame(first + k, kind, **broken) for k in range(count)]


@pytest.fixture(scope="module")
def masters() -> dict[str, CCDData]:
    """The certified ones."""
    bias = CombineBiasTask().run(raws=frames("bias", first=500), detector=DETECTOR).bias
    dark = CombineDarkTask().run(raws=frames("dark", first=520), detector=DETECTOR, bias=bias).dark
    flat = CombineFlatTask().run(raws=frames("flat", first=540), detector=DETECTOR, bias=bias, dark=dark).flat
    return {"bias": bias, "dark": dark, "flat": flat}


TASKS = {
    "bias": (CombineBiasTask, VerifyBiasTask, ()),
    "dark": (CombineDarkTask, VerifyDarkTask, ("bias",)),
    "flat": (CombineFlatTask, VerifyFlatTask, ("bias", "dark")),
}


def made(kind: str, raws: list[Frame], masters: dict[str, CCDData], minimum: int = 3) -> tuple[CCDData, list[str]]:
    """A master, and who was left out."""
    combine, _, needs = TASKS[kind]
    config = combine.ConfigClass()
    config.minimum = minimum
    task = combine(config=config)
    product = getattr(task.run(raws=raws, detector=DETECTOR, **{name: masters[name] for name in needs}), kind)
    rejected = task.metadata.getArray("rejected") if task.metadata["n_rejected"] else []
    return product, list(rejected)


def judged(
    kind: str, product: CCDData, held: list[Frame], masters: dict[str, CCDData], *, first: bool = False, **config: Any
) -> Any:
    """The verdict on a master by other frames, and (unless it is the first) by the certified one."""
    _, verify, needs = TASKS[kind]
    settings = verify.ConfigClass()
    settings.hold_out = 1
    settings.update(**config)
    ref = SimpleNamespace(id="new", run="c/verify/1", datasetType=SimpleNamespace(name=kind))
    candidate = SimpleNamespace(ref=ref, get=lambda: product)
    certified = None if first else SimpleNamespace(ref=SimpleNamespace(id="old"), get=lambda: masters[kind])
    given = {name: masters[name] for name in needs}
    task = verify(config=settings)
    return task.run(raws=held, candidate=candidate, certified=certified, detector=DETECTOR, subject={"detector": 0}, **given)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("first", [True, False])
def test_a_good_master_passes_on_frames_it_was_not_made_of(masters, kind, first):
    product, rejected = made(kind, frames(kind), masters)
    verdict = judged(kind, product, frames(kind, 2, first=50), masters, first=first)
    assert rejected == []
    assert verdict["reasons"] == []
    assert verdict["passed"]
    assert (verdict["held_out"], verdict["n_frames"], verdict["certified"]) == (True, 2, None if first else "old")
    amplifiers = {c["amplifier"] for c in verdict["checks"]}
    assert {"A", "B"} <= amplifiers
    named = {m["name"] for m in verdict["metrics"]}
    assert {f"{kind}_verified", f"{kind}_noise_ratio", f"{kind}_bad"} <= named
    assert len(verdict["summary"]["thumbnail"]) == 24


LIT, SHIFTED = {"light": 60.0}, {"camera": OTHER}
ONE_BROKEN = [
    ("flat", {"saturated": True}, "saturated"),
    ("bias", LIT, "level|light|noise"),
    ("flat", SHIFTED, "shape"),
    ("flat", {"band": "i"}, "shape"),
    ("bias", {"lost": "B"}, None),
    ("dark", {"seconds": 6.0}, None),
]


@pytest.mark.parametrize(("kind", "broken", "reason"), ONE_BROKEN, ids=lambda v: str(v)[:30])
def test_one_broken_frame_is_left_out_or_does_no_harm(masters, kind, broken, reason):
    raws = [*frames(kind, 6), frame(7, kind, **broken)]
    product, rejected = made(kind, raws, masters)
    if reason is not None:
        (said,) = rejected
        assert said.startswith("7:")
        assert re.search(reason, said)
    verdict = judged(kind, product, frames(kind, 2, first=50), masters)
    assert verdict["reasons"] == []
    truth = {"bias": CAMERA.bias, "dark": CAMERA.dark / GAIN, "flat": CAMERA.flat["r"] / np.median(CAMERA.flat["r"])}[kind]
    good = np.asarray(product.mask) == 0
    limit = {"bias": NOISE / GAIN, "dark": NOISE / GAIN / DARK_S, "flat": FLAT_E**-0.5}[kind] / np.sqrt(6)
    own = 2**0.5 if kind == "dark" else 1.0  # the bias that was subtracted is as noisy
    assert np.std((product.data - truth)[good]) < 1.2 * own * limit


ALL_BROKEN = [
    ("flat", {"saturated": True}, "saturated"),
    ("bias", LIT, "differs from the certified one|light"),
    ("dark", {"seconds": 6.0}, "another time"),
    ("flat", SHIFTED, "differs from the certified one"),
    ("flat", {"band": "i"}, "differs from the certified one"),
    ("bias", {"lost": "B"}, "lost is 1|amplifier B"),
]


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # an amplifier that no frame has
@pytest.mark.parametrize(("kind", "broken", "reason"), ALL_BROKEN, ids=lambda v: str(v)[:30])
def test_broken_frames_alone_make_no_master_that_passes(masters, kind, broken, reason):
    try:
        product, _ = made(kind, frames(kind, 6, **broken), masters)
    except CombineError as error:
        stopped = str(error)
    else:
        stopped = ""
    if stopped:
        assert re.search(reason, stopped)
        return
    verdict = judged(kind, product, frames(kind, 2, first=50, **broken), masters)
    assert not verdict["passed"]
    assert re.search(reason, " ".join(verdict["reasons"]))
    assert next(m["value"] for m in verdict["metrics"] if m["name"] == f"{kind}_verified") == 0.0


def test_three_frames_where_fifteen_are_asked_make_nothing(masters):
    with pytest.raises(CombineError, match=r"3 usable frames .*15 needed"):
        made("bias", frames("bias", 3), masters, minimum=15)


def test_a_master_of_other_frames_than_it_is_judged_by_is_refused_even_as_the_first(masters):
    # Too little light for a frame to be left out by itself.
    product, _ = made("bias", frames("bias", light=30.0), masters)
    verdict = judged("bias", product, frames("bias", 2, first=50), masters, first=True)
    assert not verdict["passed"]
    assert "amplifier A: offset_sigma" in verdict["reasons"][0]


def test_a_change_that_is_wanted_is_accepted_and_still_told(masters):
    product, _ = made("flat", frames("flat", band="i"), masters)
    held = frames("flat", 2, first=50, band="i")
    verdict = judged("flat", product, held, masters, accept_change=True)
    assert verdict["passed"]
    assert any(c["name"] == "change_rms" and not c["passed"] for c in verdict["checks"])


def test_without_a_usable_frame_nothing_passes(masters):
    product, _ = made("flat", frames("flat"), masters)
    verdict = judged("flat", product, frames("flat", 2, first=50, saturated=True), masters)
    assert not verdict["passed"]
    assert "no usable frame to verify it with" in verdict["reasons"]
    assert set(verdict["frames_left_out"]) == {"50", "51"}


def test_a_flat_of_one_frame_is_judged_by_itself_and_the_certified_one_alone(masters):
    (alone,) = one = frames("flat", 1)
    product, _ = made("flat", one, masters, minimum=1)
    first = judged("flat", product, [alone], masters, first=True, hold_out=0)
    assert first["passed"]
    assert (first["held_out"], first["n_frames"]) == (False, 1)
    assert {c["name"] for c in first["checks"]} == {"lost", "bad"}
    other, _ = made("flat", frames("flat", 1, band="i"), masters, minimum=1)
    assert not judged("flat", other, frames("flat", 1, band="i"), masters, hold_out=0)["passed"]


def test_what_could_not_be_measured_does_not_pass():
    assert not Check(name="x", amplifier="", value=float("nan")).passed
    assert not Check(name="x", amplifier="", value=2.0, high=1.0).passed
    assert Check(name="x", amplifier="A", value=2.0, low=1.0).passed


def test_of_whole_fives_one_is_held_out_and_of_fewer_none():
    assert held_out(range(1, 5), 5) == frozenset()
    assert held_out(range(1, 13), 5) == {4, 9}
    assert held_out([7, 3, 5], 0) == frozenset()
    assert not_used([1, 2, 3], 5, frozenset({1, 2})) == {3}


def test_a_frame_that_was_no_good_for_the_product_does_not_judge_it(masters):
    product, _ = made("bias", frames("bias"), masters)
    product.meta |= {"NREJECT": 1, "REJ00001": "50: level +400 ADU", "NINPUT": 2, "INP00001": 1, "INP00002": 2}
    assert (used_by(product.meta), rejected_by(product.meta)) == ({1, 2}, {50: "level +400 ADU"})
    verdict = judged("bias", product, [frame(50, "bias", light=400.0), frame(51, "bias")], masters)
    assert (verdict["passed"], verdict["frames"], verdict["frames_left_out"]) == (True, [51], {"50": "level +400 ADU"})


@pytest.mark.parametrize(
    ("kind", "broken", "reason"),
    [
        ("bias", {}, ""),
        ("dark", {}, ""),
        ("flat", {}, ""),
        ("bias", LIT, "there is light in it"),
        ("dark", {"saturated": True}, "saturated"),
        ("dark", LIT, "light in it"),
        ("dark", {"seconds": 6.0}, "another time"),
        ("flat", {"saturated": True}, "saturated"),
        ("flat", {"band": "i"}, "another filter"),
        ("flat", {"camera": OTHER}, "another filter than the header says, or other light"),
        ("bias", {"lost": "A"}, "amplifier A was not read out"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_raw_frame_is_what_its_header_says_or_the_reason_is_told(masters, kind, broken, reason):
    one = frame(99, kind, **broken)
    known = Masters(**{name: plane_of(image) for name, image in masters.items()})
    seconds = SECONDS[kind]
    found = check_raw(one.pixels, DETECTOR, kind, exposure_time_s=seconds, dark_time_s=seconds, masters=known)
    assert bool(found.reasons) == bool(reason), found
    assert reason in " ".join(found.reasons)


def test_a_raw_frame_is_checked_without_any_master_too():
    lit = frame(1, "bias", light=60.0)
    assert "light" in check_raw(lit.pixels, DETECTOR, "bias", exposure_time_s=0, dark_time_s=0).reasons[0]
    long = check_raw(frame(1, "bias").pixels, DETECTOR, "bias", exposure_time_s=30, dark_time_s=30).reasons
    assert long == ("its header says 30 s: a bias is of no time",)


def compared(masters: dict[str, CCDData], raws: list[Frame]) -> dict[str, Any]:
    subject = {"detector": 0, "physical_filter": "r"}
    return CompareFlatTask().run(raws=raws, detector=DETECTOR, subject=subject, **masters)


def test_a_day_without_change_starts_nothing_and_a_changed_one_says_why(masters):
    same = compared(masters, [*frames("flat", 3, first=70), frame(80, "flat", saturated=True)])
    assert not same["significant"]
    assert same["why"] == ""
    assert list(same["left_out"]) == ["80"]
    changed = compared(masters, frames("flat", 3, first=70, band="i"))
    assert changed["significant"]
    assert "from the master" in changed["why"]
    assert {m["name"] for m in changed["metrics"]} == {"flat_change_rms", "flat_change_significant", "flat_change_amplifier"}


def test_the_kind_of_a_change_hints_at_its_cause():
    master = Plane(data=np.ones((NY, NX), np.float32), mask=np.zeros((NY, NX), np.uint32))
    gain = np.ones((NY, NX), np.float32)
    gain[:, : NX // 2] *= 1.03
    dust = np.ones((NY, NX), np.float32)
    dust[16:32, 16:32] *= 0.9
    smooth = np.asarray(1 + 0.05 * (X / NX) * (Y / NY), dtype=np.float32)
    assert "gain" in flat_change(gain, master, DETECTOR).kind()
    assert "dust" in flat_change(dust, master, DETECTOR).kind()
    assert "smooth" in flat_change(smooth, master, DETECTOR).kind()
