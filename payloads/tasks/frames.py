"""One frame at a time: raw to electrons, then to sources with a PSF."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
from astropy.nddata import CCDData
from lsst.pex.config import ChoiceField, Field
from lsst.pipe.base import connectionTypes as cT

from payloads.camera import Camera
from payloads.exposure import ExposureFacts
from payloads.formatters import wcs_of
from payloads.fringes import subtract_fringes
from payloads.isr import prepare, remove_signature
from payloads.response import measured
from payloads.tasks.planes import image_of, plane_of
from payloads.tasks.products import calibration

_FRAME = ("instrument", "exposure", "detector")


class IsrConnections(pipe_base.PipelineTaskConnections, dimensions=_FRAME):
    """A raw frame and the masters valid for it."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    raw = cT.Input(doc="the frame as read", name="raw", storageClass="CCDData", dimensions=_FRAME)
    bias = cT.PrerequisiteInput(
        doc="master bias", name="bias", storageClass="CCDData", dimensions=("instrument", "detector"), isCalibration=True
    )
    dark = cT.PrerequisiteInput(
        doc="master dark, if the camera takes any",
        name="dark",
        storageClass="CCDData",
        dimensions=("instrument", "detector"),
        isCalibration=True,
        minimum=0,
    )
    flat = cT.PrerequisiteInput(
        doc="master flat",
        name="flat",
        storageClass="CCDData",
        dimensions=("instrument", "detector", "physical_filter"),
        isCalibration=True,
    )
    crosstalk = calibration("crosstalk", optional=True, table=True)
    ptc = calibration("ptc", optional=True, table=True)
    linearity = calibration("linearity", optional=True, table=True)
    bad_pixels = calibration("bad_pixels", optional=True)
    illumination = calibration("illumination", optional=True, filtered=True)
    fringe = calibration("fringe", optional=True, filtered=True)
    post_isr = cT.Output(doc="electrons, variance, mask", name="post_isr", storageClass="CCDData", dimensions=_FRAME)

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.do_dark:
            del self.dark
        if config is not None and not config.do_flat:
            del self.flat


class IsrConfig(pipe_base.PipelineTaskConfig, pipelineConnections=IsrConnections):
    """What is removed, and how."""

    overscan = ChoiceField[str](
        doc="how the overscan is subtracted; as for the masters",
        allowed={"row": "a smooth function of the row", "amplifier": "one number per amplifier", "none": "not"},
        default="row",
    )
    overscan_smooth_rows = Field[int](doc="rows over which the overscan is averaged, px", default=31)
    do_dark = Field[bool](doc="subtract the dark where one is certified", default=True)
    do_flat = Field[bool](doc="divide by the flat", default=True)
    grow_saturated_px = Field[int](doc="pixels around saturated ones that are flagged with them", default=2)


class IsrTask(pipe_base.PipelineTask):
    """Raw ADU to electrons, with variance and mask; the header's WCS goes along where the camera's may be used."""

    ConfigClass = IsrConfig
    _DefaultName = "isr"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Add what the data ID's records say of the exposure."""
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        inputs["camera"] = Camera.from_dict(inputs["camera"])
        butlerQC.put(self.run(number=data_id["detector"], facts=ExposureFacts.from_data_id(data_id), **inputs), outputRefs)

    def run(
        self,
        *,
        raw: CCDData,
        camera: Camera,
        number: int,
        facts: ExposureFacts,
        bias: CCDData,
        dark: CCDData | None = None,
        flat: CCDData | None = None,
        crosstalk: dict[str, Any] | None = None,
        ptc: dict[str, Any] | None = None,
        linearity: dict[str, Any] | None = None,
        bad_pixels: CCDData | None = None,
        illumination: CCDData | None = None,
        fringe: CCDData | None = None,
    ) -> pipe_base.Struct:
        """`number` is the detector's id; products as certified, None where none is."""
        detector = measured(camera.detector(number), ptc=ptc, linearity=linearity, crosstalk=crosstalk)
        prepared = prepare(raw.data, detector, mode=self.config.overscan, smooth_rows=self.config.overscan_smooth_rows)
        plane, quality = remove_signature(
            prepared,
            detector,
            bias=plane_of(bias),
            dark=plane_of(dark),
            flat=plane_of(flat),
            dark_time_s=facts.dark_time_s,
            illumination=plane_of(illumination),
            bad_pixels=plane_of(bad_pixels),
            grow_saturated_px=self.config.grow_saturated_px,
        )
        pattern, cards = plane_of(fringe), facts.to_meta()
        if pattern is not None:
            plane, cards["FRINGEA"] = subtract_fringes(plane, pattern.data)
        for name, value in vars(quality).items():
            self.metadata[name] = value
        self.metadata["dark_subtracted"] = dark is not None
        if dark is None and self.config.do_dark:
            self.log.info("no dark is certified for this frame: none is subtracted")
        image = image_of(plane, u.electron, cards)
        if camera.wcs == "header":
            image.wcs = wcs_of(raw.meta)
        return pipe_base.Struct(post_isr=image)
