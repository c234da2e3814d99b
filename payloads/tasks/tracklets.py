"""Moving sources of a night to tracklets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads.tasks.alerts import stacked
from payloads.tracklets import TrackletConfig, link, static_sources

_FRAME = ("instrument", "visit", "detector")
_NIGHT = ("instrument", "day_obs")


class FindTrackletsConnections(pipe_base.PipelineTaskConnections, dimensions=_NIGHT):
    """A night's sources, and the tracts' objects, which tell what stands still."""

    dia_sources = cT.Input(
        doc="of the night's visits",
        name="dia_source",
        storageClass="ArrowAstropy",
        dimensions=_FRAME,
        multiple=True,
        deferLoad=True,
    )
    histories = cT.Input(
        doc="sources of all nights with their objects",
        name="dia_source_history",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "skymap", "tract"),
        multiple=True,
        minimum=0,
    )
    tracklet = cT.Output(doc="one row per moving body", name="tracklet", storageClass="ArrowAstropy", dimensions=_NIGHT)
    tracklet_source = cT.Output(
        doc="membership of sources", name="tracklet_source", storageClass="ArrowAstropy", dimensions=_NIGHT
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.use_objects:
            del self.histories


class FindTrackletsConfig(pipe_base.PipelineTaskConfig, pipelineConnections=FindTrackletsConnections):
    """What is one moving body."""

    use_objects = Field[bool](doc="leave out sources of objects that stand still", default=True)
    min_sources = Field[int](doc="fewest sources of a tracklet", default=3)
    min_rate_deg_day = Field[float](doc="slowest", default=0.02)
    max_rate_deg_day = Field[float](doc="fastest", default=1.0)
    min_reliability = Field[float](doc="less reliable sources are left out", default=0.5)
    position_error_arcsec = Field[float](doc="error of the astrometry from visit to visit", default=0.1)

    def validate(self) -> None:
        """Refuse limits that contradict each other."""
        super().validate()
        if self.min_sources < 2:
            raise ValueError(f"min_sources is {self.min_sources}; a tracklet has at least 2")
        if not 0 <= self.min_rate_deg_day < self.max_rate_deg_day:
            raise ValueError("min_rate_deg_day must be below max_rate_deg_day")


class FindTrackletsTask(pipe_base.PipelineTask):
    """Link the night's moving sources; a night without any makes empty tables."""

    ConfigClass = FindTrackletsConfig
    _DefaultName = "findTracklets"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Nothing but what the connections say."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(self, *, dia_sources: Sequence[Any], histories: Sequence[Table] = ()) -> pipe_base.Struct:
        """`dia_sources` are handles; NoWorkFound where no frame has any source."""
        ordered = sorted(dia_sources, key=lambda h: (h.dataId["visit"], h.dataId["detector"]))
        sources = stacked([handle.get() for handle in ordered])
        if not len(sources):
            raise pipe_base.NoWorkFound(f"none of the night's {len(ordered)} frames has a source")
        config = TrackletConfig(
            min_sources=self.config.min_sources,
            min_rate_deg_day=self.config.min_rate_deg_day,
            max_rate_deg_day=self.config.max_rate_deg_day,
            min_reliability=self.config.min_reliability,
            position_error_arcsec=self.config.position_error_arcsec,
        )
        past = stacked(histories)
        static = np.zeros(len(sources), bool)
        if len(past):
            still = np.asarray(past["diaSourceId"])[static_sources(past, np.asarray(past["diaObjectId"], np.int64), config)]
            static = np.isin(np.asarray(sources["diaSourceId"]), still)
        tracklet, membership = link(sources, config, static)
        self.metadata["n_frames"] = len(ordered)
        self.metadata["n_sources"] = len(sources)
        self.metadata["n_static"] = int(static.sum())
        self.metadata["n_tracklets"] = len(tracklet)
        self.metadata["n_linked"] = len(membership)
        return pipe_base.Struct(tracklet=tracklet, tracklet_source=membership)
