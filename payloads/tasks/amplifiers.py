"""What is measured of amplifiers: gain, read noise and linearity from pairs of flats, and crosstalk from bright sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import Field
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.combine import CombineError
from payloads.crosstalk import CrosstalkFit, CrosstalkSettings
from payloads.isr import Prepared
from payloads.mask import UNUSABLE, any_set
from payloads.overscan import FrameUnusable
from payloads.photon_transfer import Pair, Transfer, fit_linearity, fit_transfer, pair_of
from payloads.tasks.planes import plane_of
from payloads.tasks.products import (
    PRODUCT,
    ProductConfig,
    ProductConnections,
    ProductTask,
    calibration,
    product,
)


def unmeasured(detector: Detector) -> Detector:
    """The description without crosstalk and linearity: frames as the amplifiers give them."""
    amplifiers = tuple(a.model_copy(update={"linearity": None}) for a in detector.amplifiers)
    return detector.model_copy(update={"crosstalk": None, "amplifiers": amplifiers})


class CrosstalkConnections(ProductConnections, dimensions=PRODUCT):
    """Raws with bright sources to crosstalk."""

    bias = calibration("bias", optional=True)
    crosstalk = product("crosstalk", "coefficients [victim][source], their errors", table=True)


class CrosstalkConfig(ProductConfig, pipelineConnections=CrosstalkConnections):
    """Of the measurement."""

    bright_adu = Field[float](doc="sources are pixels this far above their background, ADU", default=5000.0)
    clip = Field[float](doc="a victim's pixel further than this many sigma from the fit has light of its own", default=4.5)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """One frame of many sources can do: the errors say."""
        super().setDefaults()
        self.minimum = 1


class MeasureCrosstalkTask(ProductTask):
    """Crosstalk between all pairs of amplifiers from bright sources (DMS-REQ-0061; method in `payloads.crosstalk`)."""

    ConfigClass = CrosstalkConfig
    _DefaultName = "measureCrosstalk"

    def run(self, raws: Sequence[Any], detector: Detector, bias: CCDData | None = None) -> pipe_base.Struct:
        """`raws`: handles; `bias`: the master, whose structure is as large as the ghosts."""
        zero = plane_of(bias)
        fit = CrosstalkFit(detector, CrosstalkSettings(bright_adu=self.config.bright_adu, clip=self.config.clip))
        used, rejected = [], {}
        for name, read in self.prepared(raws, unmeasured(detector)):
            try:
                plane = read()[0].plane
                data = plane.data if zero is None else plane.data - zero.data
                bright = fit.add(data, any_set(plane.mask, UNUSABLE, data.shape))
                if not bright:
                    raise FrameUnusable(f"no source in it is brighter than {self.config.bright_adu:g} ADU")
                used.append(name)
            except FrameUnusable as error:
                rejected[name] = str(error)
        self.report_rejected(used, rejected)
        _require(used, rejected, self.config.minimum)
        matrix = fit.solve()
        unknown = ~np.isfinite(matrix.coefficients)
        self.metadata["n_pairs_unmeasured"] = int(unknown.sum())
        self.metadata["largest"] = float(np.nanmax(np.abs(matrix.coefficients)))
        self.metadata["median_error"] = (
            float(np.nanmedian(matrix.errors[matrix.errors > 0])) if (matrix.errors > 0).any() else 0.0
        )
        content = {
            "detector": detector.id,
            "amplifiers": [a.name for a in detector.amplifiers],
            # A pair that no source lit is left alone by ISR; its pixels (0) say so.
            "coefficients": np.where(unknown, 0.0, matrix.coefficients).tolist(),
            "errors": np.where(unknown, 0.0, matrix.errors).tolist(),
            "n_pixels": matrix.n_pixels.tolist(),
        }
        return pipe_base.Struct(crosstalk=content, used=tuple(used), rejected=rejected)


class PhotonTransferConnections(ProductConnections, dimensions=PRODUCT):
    """Pairs of flats to gain, read noise and linearity."""

    bias = calibration("bias", optional=True)
    crosstalk = calibration("crosstalk", optional=True, table=True)
    ptc = product("ptc", "gain, read noise, full well", table=True)
    linearity = product("linearity", "correction of the level", table=True)


class PhotonTransferConfig(ProductConfig, pipelineConnections=PhotonTransferConnections):
    """Of the measurement."""

    monitor = Field[str](doc="keyword of the dose; where a header lacks it, the exposure time stands in", default="MONITOR")
    dose_error = Field[float](doc="relative error of a dose", default=3e-4)
    same_dose = Field[float](doc="two frames make a pair if their doses differ by less than this part", default=0.1)
    saturated_fraction = Field[float](doc="a pair does not count in an amplifier with more saturated pixels", default=1e-3)
    defect = Field[float](doc="pixels whose level is this part off their surroundings' are not used", default=0.3)
    knots = Field[int](doc="intervals of the spline of linearity", default=6)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """Two pairs."""
        super().setDefaults()
        self.minimum = 4


class PhotonTransferTask(ProductTask):
    """Gain, read noise and linearity of each amplifier (LDM-151 4.3; method in `payloads.photon_transfer`)."""

    ConfigClass = PhotonTransferConfig
    _DefaultName = "measurePhotonTransfer"

    def run(self, raws: Sequence[Any], detector: Detector, bias: CCDData | None = None) -> pipe_base.Struct:
        """`raws`: handles of flats in one filter; frames of like dose that follow one another are pairs."""
        if detector.amplifiers[0].overscan is None and bias is None:
            raise CombineError(f"detector {detector.name} has no overscan: photon transfer needs a certified bias")
        zero = plane_of(bias)
        bare = detector.model_copy(update={"amplifiers": unmeasured(detector).amplifiers})
        used: list[str] = []
        rejected: dict[str, str] = {}
        pairs: dict[str, list[Pair]] = defaultdict(list)
        read_variance: dict[str, list[float]] = defaultdict(list)
        waiting: tuple[str, NDArray[np.float32], NDArray[np.bool_], float] | None = None
        for name, read in self.prepared(raws, bare):
            try:
                frame, facts, header = read()
            except FrameUnusable as error:
                rejected[name] = str(error)
                continue
            self._note_read_noise(frame, detector, read_variance)
            data = frame.plane.data if zero is None else frame.plane.data - zero.data
            dose = float(header.get(self.config.monitor) or facts.exposure_time_s)
            good = ~any_set(frame.plane.mask, UNUSABLE, data.shape)
            if waiting is None or abs(dose - waiting[3]) > self.config.same_dose * waiting[3]:
                if waiting is not None:
                    rejected[waiting[0]] = "no other frame of its dose follows it"
                waiting = (name, data, good, dose)
                continue
            self._note_pair(waiting, (name, data, good, dose), detector, pairs)
            used += [waiting[0], name]
            waiting = None
        if waiting is not None:
            rejected[waiting[0]] = "no other frame of its dose follows it"
        self.report_rejected(used, rejected)
        _require(used, rejected, self.config.minimum)
        return self._products(detector, pairs, read_variance, tuple(used), rejected)

    def _note_read_noise(self, frame: Prepared, detector: Detector, variance: dict[str, list[float]]) -> None:
        for amplifier in detector.amplifiers:
            if amplifier.overscan is not None:
                columns = parse_section(amplifier.overscan)[1]
                # The row's own median was taken off, and with it (2 - pi/2) / n of the variance.
                lost = 1 - (2 - np.pi / 2) / (columns.stop - columns.start)
                variance[amplifier.name].append(frame.noise[amplifier.name] ** 2 / lost)

    def _note_pair(self, first: Any, second: Any, detector: Detector, pairs: dict[str, list[Pair]]) -> None:
        for amplifier in detector.amplifiers:
            place = parse_section(amplifier.place)
            a, b, good = first[1][place], second[1][place], first[2][place] & second[2][place]
            # Each amplifier has its own full well, and the light is not even: others may have room yet.
            if 1 - good.mean() > self.config.saturated_fraction:
                continue
            middle = np.median(a[good]) if good.any() else np.nan
            good &= np.abs(a - middle) < max(self.config.defect, 0.0) * middle
            pair = pair_of(a, b, good=good, doses=(first[3], second[3]))
            if pair is not None:
                pairs[amplifier.name].append(pair)

    def _products(
        self,
        detector: Detector,
        pairs: Mapping[str, list[Pair]],
        read_variance: Mapping[str, list[float]],
        used: tuple[str, ...],
        rejected: dict[str, str],
    ) -> pipe_base.Struct:
        names = [a.name for a in detector.amplifiers]
        ptc: dict[str, Any] = {"detector": detector.id, "amplifiers": names, "levels_adu": {}, "variances_adu2": {}}
        curves: dict[str, Any] = {"detector": detector.id, "amplifiers": names, "adu": {}, "correction": {}, "rms": {}}
        columns = ("gain", "gain_err", "read_noise", "read_noise_err", "full_well_adu", "a00", "chi2", "n_pairs")
        ptc |= {column: {} for column in columns}
        for amplifier in detector.amplifiers:
            own = sorted(pairs.get(amplifier.name, []), key=lambda pair: pair.level)
            ptc["levels_adu"][amplifier.name] = [p.level for p in own]
            ptc["variances_adu2"][amplifier.name] = [p.variance for p in own]
            linearity = fit_linearity(own, knots=self.config.knots, dose_error=self.config.dose_error)
            noises = np.array(read_variance.get(amplifier.name) or [(amplifier.read_noise / amplifier.gain) ** 2])
            noise_adu = float(np.sqrt(noises.mean()))
            noise_err = float(noises.std() / (2 * noise_adu * len(noises) ** 0.5)) if len(noises) > 1 else 0.1 * noise_adu
            transfer = fit_transfer(own, read_noise_adu=noise_adu, read_noise_err_adu=noise_err, linearity=linearity)
            if transfer is not None:
                self._fill(ptc, columns, amplifier.name, transfer)
            if linearity is not None:
                curves["adu"][amplifier.name] = linearity.adu.tolist()
                curves["correction"][amplifier.name] = linearity.correction.tolist()
                curves["rms"][amplifier.name] = linearity.rms
        self.metadata["n_amplifiers_measured"] = len(ptc["gain"])
        self.metadata["gain"] = [ptc["gain"].get(name, float("nan")) for name in names]
        self.metadata["read_noise"] = [ptc["read_noise"].get(name, float("nan")) for name in names]
        self.metadata["largest_correction"] = max((max(map(abs, c)) for c in curves["correction"].values()), default=float("nan"))
        return pipe_base.Struct(ptc=ptc, linearity=curves, used=used, rejected=rejected)

    def _fill(self, ptc: dict[str, Any], columns: tuple[str, ...], name: str, transfer: Transfer) -> None:
        for column in columns:
            ptc[column][name] = getattr(transfer, column)


def _require(used: Sequence[str], rejected: Mapping[str, str], minimum: int) -> None:
    if len(used) < minimum:
        why = "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "none was rejected"
        raise CombineError(f"{len(used)} usable frames of {len(used) + len(rejected)}, {minimum} needed ({why}): take more")
