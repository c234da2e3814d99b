"""Real frames: an asteroid found by subtraction and linking, and a published difference image matched."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.time import Time
from astropy.wcs import WCS

from payloads.association import associate
from payloads.astrometry import with_affine
from payloads.camera import Camera
from payloads.characterize import characterize
from payloads.dia_catalog import dia_source_table
from payloads.dia_sources import DiaSourceConfig, detect, psf_field
from payloads.difference import Image, subtract
from payloads.isr import prepare
from payloads.kernel_field import KernelField
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.psf import PsfModel
from payloads.registration import StarList, register_frames
from payloads.reliability import reliability
from payloads.tracklets import TrackletConfig, link, static_sources
from payloads.warp import warp_image

SHARED = Path(os.environ.get("PACHON_SHARED", Path(__file__).parents[3] / "shared")) / "data"
# Where asteroid 5945 is, registered to frame 0126: README of the data, measured there to half a pixel.
PLACES = {
    "0126": (676.3, 730.7),
    "0133": (674.0, 726.5),
    "0140": (671.9, 722.2),
    "0147": (669.6, 717.8),
    "0154": (667.3, 713.3),
    "0161": (665.1, 708.9),
    "0168": (662.8, 704.3),
    "0175": (660.4, 699.8),
}
CORNER = np.array([int(v) for v in os.environ.get("PACHON_TEST_LOWELL_CORNER", "260,315").split(",")])
SIZE = 800


@dataclass
class Frame:
    data: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    psf: PsfModel
    mjd: float


@pytest.fixture(scope="module")
def lowell() -> list[Frame]:
    """The middle of the eight frames, on the grid of the first and on its scale."""
    folder = SHARED / "raw_lowell42"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PACHON_SHARED to run this")
    camera = Camera.load("lowell42")
    detector, gain = camera.detectors[0], camera.detectors[0].amplifiers[0].gain
    window = np.s_[CORNER[1] : CORNER[1] + SIZE, CORNER[0] : CORNER[0] + SIZE]

    def adu(path: Path) -> tuple[np.ndarray, np.ndarray]:
        plane = prepare(fits.getdata(path), detector).plane
        return plane.data[window], plane.mask[window]

    bias = np.median([adu(path)[0] for path in sorted((folder / "bias").iterdir())], axis=0)
    flats = [adu(path)[0] - bias for path in sorted((folder / "flat").glob("*011[1-5]*"))]
    flat = np.median([f / np.median(f) for f in flats], axis=0)
    found, stars = [], {}
    for number, path in enumerate(sorted((folder / "science").iterdir())):
        raw, mask = adu(path)
        electrons = (raw - bias) * gain
        variance = (np.maximum(electrons, 0) + detector.amplifiers[0].read_noise ** 2) / flat**2
        header = fits.getheader(path)
        seen = characterize((electrons / flat).astype(np.float32), variance.astype(np.float32), mask)
        good = ((seen.columns["flags"] & ~1) == 0) & (seen.columns["snr"] > 10)
        names = {"x": "x", "y": "y", "flux": "psfFlux", "flux_err": "psfFluxErr"}
        stars[number] = StarList(**{k: seen.columns[v][good] for k, v in names.items()}, fwhm_px=seen.psf.fwhm_px)
        mjd = Time(f"{header['DATE-OBS']}T{header['UTC-OBS']}").tai.mjd + header["EXPTIME"] / 2 / 86400
        found.append(Frame(seen.data, variance.astype(np.float32), seen.mask, seen.psf, mjd))
    done, failed = register_frames(stars, 0)
    assert not failed
    grid = nominal_wcs()
    frames = []
    for number, frame in enumerate(found):
        here = with_affine(grid, done[number].affine)
        # At two pixels of FWHM the search for cosmic rays takes the cores of sharp stars, and of the asteroid, for such.
        mask = frame.mask & ~np.uint32(Mask.CR)
        warped = warp_image(frame.data, frame.variance, mask, here, grid, (SIZE, SIZE))
        scale = done[number].scale
        frames.append(Frame(warped.data / scale, warped.variance / scale**2, warped.mask, frame.psf, frame.mjd))
    return frames


def nominal_wcs() -> WCS:
    camera = Camera.load("lowell42")
    turn, scale = np.radians(2.28), camera.pixel_scale_arcsec / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---TAN", "DEC--TAN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.crpix = [124.6246, 25.333], [682.5 - CORNER[0], 685.0 - CORNER[1]]
    wcs.wcs.cd = scale * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.set()
    return wcs


def subtract_others(frames: list[Frame], number: int) -> Table:
    """DIASources of one frame against the median of the others."""
    others = [f for i, f in enumerate(frames) if i != number]
    count = len(others)
    usable = np.array([~any_set(f.mask, UNUSABLE, f.data.shape) for f in others])
    stack = np.where(usable, [f.data for f in others], np.nan)
    bad = (usable.sum(axis=0) < 3) | np.array([any_set(f.mask, Mask.SAT, f.data.shape) for f in others]).any(axis=0)
    stack[:, usable.sum(axis=0) == 0] = 0
    template = Image(
        data=np.nanmedian(stack, axis=0),
        variance=np.mean([np.where(np.isfinite(f.variance), f.variance, 1e6) for f in others], axis=0) * np.pi / 2 / count,
        mask=np.where(bad, np.uint32(Mask.SAT), np.uint32(0)),
        fwhm_px=float(np.median([f.psf.fwhm_px for f in others])),
    )
    frame = frames[number]
    science = Image(data=frame.data, variance=frame.variance, mask=frame.mask, fwhm_px=frame.psf.fwhm_px)
    result = subtract(science, template, psf_field(frame.psf, frame.data.shape))
    measured, _ = detect(result, max(science.fwhm_px, template.fwhm_px), DiaSourceConfig())
    return dia_source_table(
        measured,
        shape=frame.data.shape,
        wcs=nominal_wcs(),
        zeropoint_mag=31.4,
        visit=20190326 * 100_000 + number + 1,
        detector=0,
        band="VR",
        midpoint_mjd_tai=frame.mjd,
        processed_mjd_tai=frame.mjd,
    )


@pytest.mark.slow
def test_asteroid_5945_is_one_tracklet_through_all_eight_frames(lowell: list[Frame]) -> None:
    tables = [subtract_others(lowell, number) for number in range(len(lowell))]
    reliable = [int(((t["reliability"] >= 0.5) & ~t["isDipole"]).sum()) for t in tables]
    # A median subtraction leaves 110 to 290 on the whole frame; this is a third of it. Two are bodies that move through it.
    assert max(reliable) <= 12
    night = vstack(tables, metadata_conflicts="silent")
    # The WCS is nominal, but all frames have the same: only their registration's error counts.
    # Sharp stars of a coarse camera fit no PSF well, so the reliability of bright sources says little here.
    config = TrackletConfig(position_error_arcsec=0.3, min_reliability=0.0)
    static = static_sources(night, associate(night), config)
    tracklets, membership = link(night, config, static)
    best = tracklets[np.argmax(tracklets["n"])]
    mine = membership["diaSourceId"][membership["trackletId"] == best["trackletId"]]
    rows = night[np.isin(night["diaSourceId"], mine)]
    assert len(rows) == 8
    rows.sort("midpointMjdTai")
    assert (np.asarray(rows["reliability"]) >= 0.5).all()
    for row, (x, y) in zip(rows, PLACES.values(), strict=True):
        assert np.hypot(row["x"] + CORNER[0] - x, row["y"] + CORNER[1] - y) < 3
    motion = np.polyfit(rows["midpointMjdTai"], np.array([rows["x"], rows["y"]]).T, 1)[0] * 36.06 / 1440
    assert motion == pytest.approx([-2.25, -4.4], abs=0.15)
    # One more body of seven sources goes through the field, which nobody had told of; what is shorter, or lies off its line by an
    # arcsecond as residuals around a saturated star do, may be chance.
    assert ((tracklets["n"] >= 6) & (tracklets["rms_arcsec"] < 0.5)).sum() <= 2


def test_kernel_matches_the_published_difference_of_two_decam_epochs() -> None:
    """The source at (129, 128) is as significant as in the published difference, and the blank sky as quiet."""
    folder = SHARED / "diff_decam"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PACHON_SHARED to run this")

    def epoch(name: str) -> Image:
        files = sorted((folder / "input_data").glob(f"DEC-{name}?.mini.fits.bz2"))
        data = np.mean([fits.getdata(path).astype(float) for path in files], axis=0)
        data -= np.median(data)
        low = data[data < np.median(data) + 1.4826 * np.median(np.abs(data))]
        sigma = 1.4826 * np.median(np.abs(low - np.median(data)))
        return Image(data=data, variance=np.full(data.shape, sigma**2), mask=np.zeros(data.shape, np.uint32), fwhm_px=4.0)

    science, template = epoch("OBS18"), epoch("OBS04")
    psf = gaussian_psf(4.0, science.data.shape)
    result = subtract(science, template, psf)
    table, _ = detect(result, 4.0, DiaSourceConfig())
    table["neighbours"] = table["crowd"] = np.zeros(len(table), int)
    told = reliability(table) >= 0.5

    def significance(name: str) -> float:
        """Of the source in a published difference, measured as ours is: its noise is that of its own blank sky."""
        data = fits.getdata(folder / "4check" / f"{name}.fits.bz2").astype(np.float32)
        width = 1.4826 * np.median(np.abs(data - np.median(data)))
        theirs = replace(result, data=data, variance=np.full(data.shape, width**2, np.float32))
        found, _ = detect(theirs, 4.0, DiaSourceConfig())
        return float(found["snr"][np.hypot(found["x"] - 128, found["y"] - 127) < 3].max())

    near = np.hypot(table["x"] - 128, table["y"] - 127) < 3
    assert near.sum() == 1
    assert told[near].all()
    assert abs(table["snr"][near][0]) > max(significance("FinalDifference"), significance("FinalDifference.DeCorr"))
    # The residual of the star at (60, 181), counted from 1, is many sigma of its pixels, and is not told.
    residual = np.abs(result.data / np.sqrt(result.variance))[176:185, 55:64]
    assert residual.max() > 20
    star = np.hypot(table["x"] - 59, table["y"] - 180) < 5
    assert not (star & told).any()


def gaussian_psf(fwhm: float, shape: tuple[int, int]) -> KernelField:
    t = np.arange(-10, 11)
    stamp = np.exp(-0.5 * (t[None] ** 2 + t[:, None] ** 2) / (fwhm / 2.3548) ** 2)
    return KernelField.constant(stamp / stamp.sum(), shape)
