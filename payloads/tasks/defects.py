"""The bad-pixel map from the masters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads.bad_pixels import failed_tests, map_bad_pixels
from payloads.camera import Detector
from payloads.combine import CombineError
from payloads.isr import Plane
from payloads.mask import Mask, any_set
from payloads.tasks.planes import image_of
from payloads.tasks.products import FILTERED, PRODUCT, ProductConfig, ProductConnections, ProductTask, calibration, product


class BadPixelsConnections(ProductConnections, dimensions=PRODUCT):
    """Masters to the map; the raws are flats, and say by their time which masters are meant."""

    bias = calibration("bias", optional=True)
    dark = calibration("dark", optional=True)
    flats = cT.PrerequisiteInput(
        doc="master flats, of all filters", name="flat", storageClass="CCDData", dimensions=FILTERED, isCalibration=True,
        multiple=True, minimum=0,
    )  # fmt: skip
    bad_pixels = product("bad_pixels", "mask of BAD with HOT, DEAD, NOISY, COLUMN; data: how many tests a pixel fails")


class BadPixelsConfig(ProductConfig, pipelineConnections=BadPixelsConnections):
    """Of the map."""

    column_part = Field[float](doc="a column of an amplifier of which this part of the rows are bad is a bad column", default=0.3)


class MapBadPixelsTask(ProductTask):
    """Bad-pixel map of 32 named bits from dark, flats and bias (DMS-REQ-0059; method in `payloads.bad_pixels`)."""

    ConfigClass = BadPixelsConfig
    _DefaultName = "mapBadPixels"

    def run(
        self,
        raws: Sequence[Any],
        detector: Detector,
        bias: CCDData | None = None,
        dark: CCDData | None = None,
        flats: Sequence[CCDData] = (),
    ) -> pipe_base.Struct:
        """`raws` are not read."""
        masters = [image for image in (bias, dark, *flats) if image is not None]
        if not masters:
            raise CombineError(f"no master of detector {detector.name} is certified: bad pixels are found in dark, flat and bias")
        bits = map_bad_pixels(
            [np.asarray(image.mask, dtype=np.uint32) for image in masters], detector, column_part=self.config.column_part
        )
        for bit in (Mask.BAD, Mask.HOT, Mask.DEAD, Mask.NOISY, Mask.COLUMN):
            self.metadata[f"n_{str(bit.name).lower()}"] = int(any_set(bits, bit, bits.shape).sum())
        used = tuple(str(handle.dataId["exposure"]) for handle in raws)
        plane = Plane(data=failed_tests(bits), mask=bits)
        return pipe_base.Struct(bad_pixels=image_of(plane, u.dimensionless_unscaled, {}), used=used, rejected={})
