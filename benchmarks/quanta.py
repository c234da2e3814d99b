"""The quanta that ours and the peers run: one task that reads one small dataset through the Butler and writes one.

It imports nothing of Pachón's, so that it stands alone in a peer's own environment. An input with `"fail": true` fails for good:
the 1 % of the runs with faults.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lsst.pipe.base as pipe_base
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, Config, DatasetType, Timespan
from lsst.pipe.base import Instrument
from lsst.pipe.base import connectionTypes as cT

INSTRUMENT = "EchoCam"
DETECTORS = 100
INPUTS = "in"
DAY = 20270101
FAULTY_EVERY = 100
_DIMENSIONS = ("instrument", "exposure", "detector")
_SEED: dict[str, Any] = {
    "datastore": {
        "name": "pachon",  # the engine's records go by the datastore's name (decision 6); to peers any name is as good
        "root": "<butlerRoot>",
        "formatters": {"StructuredDataDict": "lsst.daf.butler.formatters.json.JsonFormatter"},
    }
}


class EchoCam(Instrument):
    """An instrument in name only."""

    policyName = None  # noqa: N815 - the base class's
    configPaths = ()  # noqa: N815

    @classmethod
    def getName(cls) -> str:  # noqa: N802
        """Of the dimension."""
        return INSTRUMENT

    def register(self, registry: Any, *, update: bool = False) -> None:
        """`make_repository` does it."""
        raise TypeError(f"{INSTRUMENT} is registered by make_repository")

    def getRawFormatter(self, dataId: Any) -> Any:  # noqa: N802
        """There are no raw frames."""
        raise TypeError(f"{INSTRUMENT} has no raw frames")


class EchoConnections(pipe_base.PipelineTaskConnections, dimensions=_DIMENSIONS):
    """One dictionary in, one out."""

    given = cT.Input(doc="what is read", name="echo_in", storageClass="StructuredDataDict", dimensions=_DIMENSIONS)
    out = cT.Output(doc="what is written", name="echo_out", storageClass="StructuredDataDict", dimensions=_DIMENSIONS)


class EchoConfig(pipe_base.PipelineTaskConfig, pipelineConnections=EchoConnections):
    """Nothing to configure."""


class EchoTask(pipe_base.PipelineTask):
    """Add one."""

    ConfigClass = EchoConfig
    _DefaultName = "echo"

    def run(self, given: dict[str, Any]) -> pipe_base.Struct:
        """Or fail, where the input says so."""
        if given.get("fail"):
            raise ValueError(f"quantum {given['value']} fails, as its input asks")
        return pipe_base.Struct(out={"value": given["value"] + 1})


class StampTask(EchoTask):
    """Its output says when its `runQuantum` began (Unix time)."""

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:  # noqa: N802
        """Note the time first of all."""
        self._began = time.time()
        super().runQuantum(butlerQC, inputRefs, outputRefs)

    def run(self, given: dict[str, Any]) -> pipe_base.Struct:
        """And write it."""
        return pipe_base.Struct(out={"value": given["value"], "began": self._began})


def make_repository(root: Path, quanta: int, *, faulty: bool = False, detectors: int = DETECTORS) -> None:
    """A repository (SQLite, folder) with `quanta` inputs, of which one in FAULTY_EVERY fails if `faulty`."""
    Butler.makeRepo(str(root), config=Config(_SEED))
    butler = Butler.from_config(str(root), writeable=True)
    exposures = [DAY * 100_000 + n for n in range(1, -(-quanta // detectors) + 1)]
    _dimensions(butler, exposures, detectors)
    kind = DatasetType("echo_in", _DIMENSIONS, "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(kind)
    butler.collections.register(INPUTS)
    with butler.transaction():
        for n in range(quanta):
            value = {"value": n, "fail": True} if faulty and n % FAULTY_EVERY == FAULTY_EVERY // 2 else {"value": n}
            where = {"instrument": INSTRUMENT, "exposure": exposures[n // detectors], "detector": n % detectors}
            butler.put(value, kind, run=INPUTS, **where)


def _dimensions(butler: Butler, exposures: list[int], detectors: int) -> None:
    registry = butler.registry
    begin = Time("2027-01-02T00:00:00", scale="tai")
    instrument = {"class_name": "quanta.EchoCam", "detector_max": detectors, "visit_max": 2**40, "exposure_max": 2**40}
    registry.syncDimensionData("instrument", {"name": INSTRUMENT, "visit_system": 0, **instrument})
    registry.syncDimensionData("physical_filter", {"instrument": INSTRUMENT, "name": "r_01", "band": "r"})
    registry.syncDimensionData("day_obs", {"instrument": INSTRUMENT, "id": DAY})
    registry.insertDimensionData(
        "detector", *({"instrument": INSTRUMENT, "id": d, "full_name": f"D{d}", "purpose": "SCIENCE"} for d in range(detectors))
    )
    registry.insertDimensionData("group", *({"instrument": INSTRUMENT, "name": str(e)} for e in exposures))
    registry.insertDimensionData("exposure", *(_exposure(n, e, begin) for n, e in enumerate(exposures, 1)))


def _exposure(n: int, number: int, begin: Time) -> dict[str, Any]:
    start = begin + TimeDelta(40.0 * n, format="sec")
    return {
        "instrument": INSTRUMENT,
        "id": number,
        "obs_id": f"E{n}",
        "group": str(number),
        "physical_filter": "r_01",
        "day_obs": DAY,
        "seq_num": n,
        "observation_type": "science",
        "target_name": "nowhere",
        "tracking_ra": 150.0,
        "tracking_dec": 2.0,
        "exposure_time": 30.0,
        "timespan": Timespan(start, start + TimeDelta(30.0, format="sec")),
    }


def published(root: Path, collections: str = "*") -> int:
    """Outputs that a Butler of the repository finds."""
    butler = Butler.from_config(str(root))
    return len(butler.query_datasets("echo_out", collections=collections, find_first=False, explain=False, limit=None))


def began(root: Path, collections: str) -> float:
    """When the only `StampTask` that wrote into these collections began."""
    butler = Butler.from_config(str(root))
    (ref,) = butler.query_datasets("echo_out", collections=collections, find_first=False)
    return float(butler.get(ref)["began"])


if __name__ == "__main__":
    make_repository(Path(sys.argv[1]), int(sys.argv[2]), faulty="faulty" in sys.argv[3:])
