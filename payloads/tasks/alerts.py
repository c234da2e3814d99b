"""DIASources to DIAObjects, and to alert packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from astropy.table import Table, vstack
from astropy.time import Time
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads.alerts import packets, write_alerts
from payloads.association import AssociationConfig, associate, summarise
from payloads.cutouts import CutoutMaker
from payloads.prompt.known import OF_BODIES, with_bodies
from payloads.psf import PsfModel
from payloads.skymap import SkyMap
from payloads.tasks.planes import plane_of

_FRAME = ("instrument", "visit", "detector")
_TRACT = ("instrument", "skymap", "tract")


def stacked(tables: Sequence[Table]) -> Table:
    """Rows of many tables; a single source of truth for their columns is the first table that has any. Where bodies of the Solar
    System were looked for in some, the others have none."""
    filled = [table for table in tables if len(table)] or list(tables[:1])
    if any(OF_BODIES[0] in table.colnames for table in filled):
        filled = [with_bodies(table) for table in filled]
    return vstack(filled, metadata_conflicts="silent") if filled else Table()


class AssociateConnections(pipe_base.PipelineTaskConnections, dimensions=_TRACT):
    """All sources seen so far in a tract."""

    skymap = cT.PrerequisiteInput(
        doc="tracts and patches", name="skymap_definition", storageClass="StructuredDataDict", dimensions=("skymap",)
    )
    dia_sources = cT.Input(
        doc="of all visits", name="dia_source", storageClass="ArrowAstropy", dimensions=_FRAME, multiple=True, deferLoad=True
    )
    dia_object = cT.Output(doc="one row per object", name="dia_object", storageClass="ArrowAstropy", dimensions=_TRACT)
    dia_association = cT.Output(doc="source to object", name="dia_association", storageClass="ArrowAstropy", dimensions=_TRACT)
    dia_source_history = cT.Output(
        doc="the tract's sources with their diaObjectId",
        name="dia_source_history",
        storageClass="ArrowAstropy",
        dimensions=_TRACT,
    )


class AssociateConfig(pipe_base.PipelineTaskConfig, pipelineConnections=AssociateConnections):
    """What is one object."""

    radius_arcsec = Field[float](doc="sources nearer than this are one object", default=1.0)
    min_reliability = Field[float](doc="less reliable sources belong to no object", default=0.1)


class AssociateTask(pipe_base.PipelineTask):
    """Objects of a tract from the sources of all its visits. Sources that another tract owns are left to it; bodies of the Solar
    System, which were named when they were found, are of no object."""

    ConfigClass = AssociateConfig
    _DefaultName = "associate"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Find the tract on the sky map."""
        inputs = butlerQC.get(inputRefs)
        sky_map = SkyMap.model_validate(inputs["skymap"])
        result = self.run(dia_sources=inputs["dia_sources"], sky_map=sky_map, tract=butlerQC.quantum.dataId["tract"])
        butlerQC.put(result, outputRefs)

    def run(self, *, dia_sources: Sequence[Any], sky_map: SkyMap, tract: int) -> pipe_base.Struct:
        """`dia_sources` are handles; NoWorkFound where the tract owns no source."""
        ordered = sorted(dia_sources, key=lambda h: (h.dataId["visit"], h.dataId["detector"]))
        sources = stacked([handle.get() for handle in ordered])
        if len(sources):
            sources = sources[sky_map.owner_tract(sources["ra"], sources["dec"]) == tract]
        if not len(sources):
            raise pipe_base.NoWorkFound(f"no source of {len(ordered)} frames lies in tract {tract}")
        config = AssociationConfig(radius_arcsec=self.config.radius_arcsec, min_reliability=self.config.min_reliability)
        still = np.asarray(sources["ssObjectId"]) == 0 if "ssObjectId" in sources.colnames else np.ones(len(sources), bool)
        object_ids = np.zeros(len(sources), np.int64)
        object_ids[still] = associate(sources[still], config)
        objects = summarise(sources, object_ids)
        known = object_ids != 0
        association = Table({"diaSourceId": sources["diaSourceId"][known], "diaObjectId": object_ids[known]})
        sources["diaObjectId"] = object_ids
        self.metadata["n_frames"] = len(ordered)
        self.metadata["n_sources"] = len(sources)
        self.metadata["n_bodies"] = int((~still).sum())
        self.metadata["n_associated"] = int(known.sum())
        self.metadata["n_objects"] = len(objects)
        self.metadata["n_objects_repeated"] = int((np.asarray(objects["nDiaSources"]) > 1).sum())
        return pipe_base.Struct(dia_object=objects, dia_association=association, dia_source_history=sources)


class PackageAlertsConnections(pipe_base.PipelineTaskConnections, dimensions=_FRAME):
    """A frame's sources, its pixels, and what is known of the objects of the tracts that it overlaps."""

    dia_source = cT.Input(doc="sources of the frame", name="dia_source", storageClass="ArrowAstropy", dimensions=_FRAME)
    difference = cT.Input(doc="for cut-outs", name="difference", storageClass="CCDData", dimensions=_FRAME)
    calexp = cT.Input(doc="for cut-outs", name="calexp", storageClass="CCDData", dimensions=_FRAME)
    warped_template = cT.Input(doc="for cut-outs", name="warped_template", storageClass="CCDData", dimensions=_FRAME)
    psf = cT.Input(doc="for cut-outs", name="psf", storageClass="CCDData", dimensions=_FRAME)
    solution = cT.Input(doc="WCS of the cut-outs", name="visit_solution", storageClass="StructuredDataDict", dimensions=_FRAME)
    objects = cT.Input(doc="objects", name="dia_object", storageClass="ArrowAstropy", dimensions=_TRACT, multiple=True)
    associations = cT.Input(
        doc="source to object", name="dia_association", storageClass="ArrowAstropy", dimensions=_TRACT, multiple=True
    )
    histories = cT.Input(
        doc="earlier sources", name="dia_source_history", storageClass="ArrowAstropy", dimensions=_TRACT, multiple=True
    )
    alerts = cT.Output(doc="Avro object container file", name="alerts", storageClass="AlertPackets", dimensions=_FRAME)


class PackageAlertsConfig(pipe_base.PipelineTaskConfig, pipelineConnections=PackageAlertsConnections):
    """Which sources are told, and how."""

    min_reliability = Field[float](doc="less reliable sources make no alert", default=0.5)
    min_snr = Field[float](doc="nor do fainter ones", default=5.0)
    dipoles = Field[bool](doc="whether dipoles make alerts", default=False)
    cutout_px = Field[int](doc="side of the cut-outs, at least 30", default=31)


class PackageAlertsTask(pipe_base.PipelineTask):
    """One packet for each source that passes the alert cut; a frame without any makes a file without packets."""

    ConfigClass = PackageAlertsConfig
    _DefaultName = "packageAlerts"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Programme metadata come from the visit's record, the clock is read here."""
        record = butlerQC.quantum.dataId.records["visit"]
        result = self.run(
            processed_mjd_tai=float(Time.now().tai.mjd),
            observation_reason=record.observation_reason or None,
            target_name=record.target_name or None,
            **butlerQC.get(inputRefs),
        )
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        dia_source: Table,
        difference: CCDData,
        calexp: CCDData,
        warped_template: CCDData,
        psf: CCDData,
        solution: dict[str, Any],
        objects: Sequence[Table],
        associations: Sequence[Table],
        histories: Sequence[Table],
        processed_mjd_tai: float,
        observation_reason: str | None = None,
        target_name: str | None = None,
    ) -> pipe_base.Struct:
        """Tables of several tracts are put together: each source is owned by one of them."""
        told = dia_source[self._passes(dia_source)]
        size = self.config.cutout_px
        makers = {
            name: CutoutMaker(*_planes(image), solution["wcs"], unit="electron", size_px=size)
            for name, image in (("Difference", difference), ("Science", calexp), ("Template", warped_template))
        }
        model = PsfModel.from_ccddata(psf)
        # The difference has the science PSF only where the template was the one convolved.
        with_psf = {"Science"} | ({"Difference"} if difference.meta.get("CONVOLVD") == "template" else set())

        def cutouts(x: float, y: float) -> dict[str, bytes]:
            stamp = model.at(x, y)
            return {f"cutout{name}": maker.cut(x, y, stamp if name in with_psf else None) for name, maker in makers.items()}

        content = write_alerts(
            packets(
                told,
                association=stacked(associations),
                objects=stacked(objects),
                past=stacked(histories),
                cutouts=cutouts,
                processed_mjd_tai=processed_mjd_tai,
                observation_reason=observation_reason,
                target_name=target_name,
            )
        )
        self.metadata["n_sources"] = len(dia_source)
        self.metadata["n_alerts"] = len(told)
        self.metadata["bytes"] = len(content)
        return pipe_base.Struct(alerts=content)

    def _passes(self, sources: Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
        told = (np.asarray(sources["reliability"]) >= self.config.min_reliability) & (
            np.abs(np.asarray(sources["snr"])) >= self.config.min_snr
        )
        return told if self.config.dipoles else told & ~np.asarray(sources["isDipole"], bool)


def _planes(image: CCDData) -> tuple[Any, Any, Any]:
    plane = plane_of(image)
    return plane.data, plane.variance, plane.mask
