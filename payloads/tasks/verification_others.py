"""Verification of the products that no frame of one's own kind judges: tables of amplifiers, maps, fields, cubes.

Raw frames are read by none of them: they say which detectors (and filters) there is something to verify for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads import verification_others as judges  # pex_config would take `bad_pixels` of a pipeline for a name of this module
from payloads.camera import Detector
from payloads.tasks.planes import plane_of
from payloads.tasks.verification import (
    VerifyConfig,
    VerifyConnections,
    _VerifyTask,
    candidate_and_certified,
)
from payloads.verification import Check, summary

_PRODUCT = ("instrument", "detector")
_FILTERED = ("instrument", "detector", "physical_filter")


class VerifyOtherConnections(VerifyConnections, dimensions=_PRODUCT, defaultTemplates={"product": ""}):
    """Of a product of a detector."""

    raws = cT.Input(
        doc="raw frames of the detector, which nothing reads", name="raw", storageClass="CCDData",
        dimensions=("instrument", "exposure", "detector"), multiple=True, deferLoad=True,
    )  # fmt: skip


class VerifyTableConnections(VerifyOtherConnections, dimensions=_PRODUCT, defaultTemplates={"product": ""}):
    """Of a table."""

    products = cT.PrerequisiteInput(
        doc="the product of this campaign, and the certified one", name="{product}", storageClass="StructuredDataDict",
        dimensions=_PRODUCT, isCalibration=True, multiple=True, minimum=0, deferLoad=True, lookupFunction=candidate_and_certified,
    )  # fmt: skip


class VerifyTableConfig(VerifyConfig, pipelineConnections=VerifyTableConnections):
    """Of a table."""


class VerifyTableTask(_VerifyTask):
    """ptc, linearity or crosstalk, by the name of the product (`connections.product`)."""

    ConfigClass = VerifyTableConfig
    _DefaultName = "verifyTable"

    def run(self, raws: Any, candidate: Any, certified: Any, detector: Detector, subject: Mapping[str, Any]) -> dict[str, Any]:
        """`candidate`, `certified`: deferred handles; returns the verification."""
        judge = judges.TABLES[candidate.ref.datasetType.name]
        checks = judge(candidate.get(), None if certified is None else certified.get(), detector)
        return self._verdict(candidate, certified, subject, checks)


class VerifyMapConfig(VerifyConfig, pipelineConnections=VerifyOtherConnections):
    """Of a map."""


class VerifyMapTask(_VerifyTask):
    """The map of bad pixels."""

    ConfigClass = VerifyMapConfig
    _DefaultName = "verifyMap"

    def run(self, raws: Any, candidate: Any, certified: Any, detector: Detector, subject: Mapping[str, Any]) -> dict[str, Any]:
        """As for a table."""
        checks = judges.bad_pixels(plane_of(candidate.get()), None if certified is None else plane_of(certified.get()), detector)
        return self._verdict(candidate, certified, subject, checks)


class VerifyCubeConfig(VerifyConfig, pipelineConnections=VerifyOtherConnections):
    """Of a cube."""


class VerifyCubeTask(_VerifyTask):
    """The monochromatic cube."""

    ConfigClass = VerifyCubeConfig
    _DefaultName = "verifyCube"

    def run(self, raws: Any, candidate: Any, certified: Any, detector: Detector, subject: Mapping[str, Any]) -> dict[str, Any]:
        """As for a table."""
        image = candidate.get()
        checks: list[Check] = judges.cube(np.asarray(image.data), image.meta["WAVELENGTHS_NM"])
        return self._verdict(candidate, certified, subject, checks)


class VerifyFieldConnections(VerifyOtherConnections, dimensions=_FILTERED, defaultTemplates={"product": ""}):
    """Of a field in a filter."""

    products = cT.PrerequisiteInput(
        doc="the product of this campaign, and the certified one", name="{product}", storageClass="CCDData",
        dimensions=_FILTERED, isCalibration=True, multiple=True, minimum=0, deferLoad=True,
        lookupFunction=candidate_and_certified,
    )  # fmt: skip
    verification = cT.Output(
        doc="the verdict, with every number", name="{product}_verification", storageClass="StructuredDataDict",
        dimensions=_FILTERED,
    )  # fmt: skip


class VerifyFieldConfig(VerifyConfig, pipelineConnections=VerifyFieldConnections):
    """About what value the field lies, and how far it may reach."""

    centre = Field[float](doc="median of the field", default=1.0)
    reach = Field[float](doc="largest distance of its percentiles 1 and 99 from it", default=0.25)


class VerifyFieldTask(_VerifyTask):
    """Illumination, fringes or a synthetic flat."""

    ConfigClass = VerifyFieldConfig
    _DefaultName = "verifyField"

    def run(self, raws: Any, candidate: Any, certified: Any, detector: Detector, subject: Mapping[str, Any]) -> dict[str, Any]:
        """As for a table."""
        product = plane_of(candidate.get())
        old = None if certified is None else plane_of(certified.get())
        checks = judges.field(product, old, detector, centre=self.config.centre, reach=self.config.reach)
        return self._verdict(candidate, certified, subject, checks, summary=summary(product, detector))
