"""Cheap chained tasks on small JSON datasets, and the repository they need.

What `first` does is said by its input's value, and under `then` what `second` does, so that a test can make any quantum fail in
any way without touching the code under test.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import lsst.pipe.base as pb
import numpy as np
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, CollectionType, Config, DatasetType, Timespan
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as ct  # noqa: N813 (as everybody calls it)

from backbone.butler import DATASTORE

DIMENSIONS = ("instrument", "exposure", "detector")
SEED = {
    "datastore": {
        "name": DATASTORE,
        "root": "<butlerRoot>",
        "checksum": True,
        "formatters": {"StructuredDataDict": "lsst.daf.butler.formatters.json.JsonFormatter"},
    }
}
DAY = 20270101


class TinyCam(pb.Instrument):
    policyName = None  # noqa: N815 (the base class's)
    configPaths = ()  # noqa: N815

    @classmethod
    def getName(cls):
        return "TinyCam"

    def register(self, registry, *, update=False):
        raise TypeError("make_repo registers the camera")

    def getRawFormatter(self, dataId):
        raise TypeError("this camera has no raw frames")


def _once(mark):
    """Whether this is the first call with this mark, in whatever process."""
    try:
        Path(mark).open("x").close()
    except FileExistsError:
        return False
    return True


def _raise(_data):
    raise ValueError("the sky is falling")


def _hoard(data):
    np.zeros(data["mb"] << 20, dtype=np.uint8)  # asked for, never touched: the machine is spared


def _wait(data):
    while not Path(data["until"]).exists():
        time.sleep(0.01)


def _nothing(_data):
    raise pb.NoWorkFound("nothing here")


DEEDS = {
    "raise": _raise,
    "segfault": lambda _: ctypes.string_at(0),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(7),
    "memory": _hoard,
    "hang": lambda _: time.sleep(3600),
    "slow": lambda data: time.sleep(data["s"]),
    "wait": _wait,
    "nothing": _nothing,
}


def misbehave(data):
    """Do what the input asks for: always, or once where it has a `mark` (a path), or until the path `unless` exists."""
    deed = data.get("do")
    if deed is None or ("mark" in data and not _once(data["mark"])) or ("unless" in data and Path(data["unless"]).exists()):
        return
    DEEDS[deed](data)


class FirstConnections(pb.PipelineTaskConnections, dimensions=DIMENSIONS):
    data = ct.Input(doc="in", name="tiny_in", storageClass="StructuredDataDict", dimensions=DIMENSIONS)
    out = ct.Output(doc="out", name="tiny_mid", storageClass="StructuredDataDict", dimensions=DIMENSIONS)
    schema = ct.InitOutput(doc="schema", name="tiny_schema", storageClass="StructuredDataDict")


class FirstConfig(pb.PipelineTaskConfig, pipelineConnections=FirstConnections):
    add = Field(doc="added", dtype=int, default=1)


class FirstTask(pb.PipelineTask):
    ConfigClass = FirstConfig
    _DefaultName = "first"

    def __init__(self, *, initInputs=None, **kwargs):
        super().__init__(**kwargs)
        self.schema = {"columns": ["value"]}

    def run(self, data):
        misbehave(data)
        return pb.Struct(out={**data.get("then", {}), "value": data["value"] + int(os.environ.get("TINY_ADD", self.config.add))})


class SecondConnections(pb.PipelineTaskConnections, dimensions=DIMENSIONS):
    schema = ct.InitInput(doc="schema", name="tiny_schema", storageClass="StructuredDataDict")
    data = ct.Input(doc="in", name="tiny_mid", storageClass="StructuredDataDict", dimensions=DIMENSIONS)
    out = ct.Output(doc="out", name="tiny_out", storageClass="StructuredDataDict", dimensions=DIMENSIONS)


class SecondConfig(pb.PipelineTaskConfig, pipelineConnections=SecondConnections):
    add = Field(doc="added", dtype=int, default=1000)


class SecondTask(pb.PipelineTask):
    ConfigClass = SecondConfig
    _DefaultName = "second"

    def __init__(self, *, initInputs=None, **kwargs):
        super().__init__(**kwargs)
        assert initInputs["schema"] == {"columns": ["value"]}

    def run(self, data):
        misbehave(data)
        return pb.Struct(out={"value": data["value"] + self.config.add})


class GatherConnections(pb.PipelineTaskConnections, dimensions=("instrument", "detector")):
    data = ct.Input(doc="in", name="tiny_out", storageClass="StructuredDataDict", dimensions=DIMENSIONS, multiple=True)
    out = ct.Output(
        doc="out", name="tiny_calib", storageClass="StructuredDataDict", dimensions=("instrument", "detector"), isCalibration=True
    )


class GatherConfig(pb.PipelineTaskConfig, pipelineConnections=GatherConnections):
    pass


class GatherTask(pb.PipelineTask):
    """A calibration from all exposures of a detector."""

    ConfigClass = GatherConfig
    _DefaultName = "gather"

    def run(self, data):
        return pb.Struct(out={"total": sum(d["value"] for d in data), "n": len(data)})


class VerdictConnections(pb.PipelineTaskConnections, dimensions=("instrument", "detector")):
    calib = ct.PrerequisiteInput(
        doc="in", name="tiny_calib", storageClass="StructuredDataDict", dimensions=("instrument", "detector"), isCalibration=True
    )
    data = ct.Input(
        doc="for the detectors", name="tiny_in", storageClass="StructuredDataDict", dimensions=DIMENSIONS, multiple=True
    )
    out = ct.Output(
        doc="out", name="tiny_calib_verification", storageClass="StructuredDataDict", dimensions=("instrument", "detector")
    )


class VerdictConfig(pb.PipelineTaskConfig, pipelineConnections=VerdictConnections):
    refused = Field(doc="detectors below this are refused", dtype=int, default=0)


class VerdictTask(pb.PipelineTask):
    """Passes or refuses a calibration, as its configuration says."""

    ConfigClass = VerdictConfig
    _DefaultName = "verdict"

    def runQuantum(self, butlerQC, inputRefs, outputRefs):
        detector = outputRefs.out.dataId["detector"]
        passed = detector >= self.config.refused
        metric = {"name": "tiny_verified", "value": float(passed), "unit": "", "subject": {"detector": detector}}
        reasons = [] if passed else ["it is tiny"]
        out = {"dataset": str(inputRefs.calib.id), "passed": passed, "reasons": reasons, "metrics": [metric]}
        out["notes"] = ["of tiny data"]
        butlerQC.put(pb.Struct(out=out), outputRefs)


class UseConnections(pb.PipelineTaskConnections, dimensions=DIMENSIONS):
    data = ct.Input(doc="in", name="tiny_in", storageClass="StructuredDataDict", dimensions=DIMENSIONS)
    calib = ct.PrerequisiteInput(
        doc="calib",
        name="tiny_calib",
        storageClass="StructuredDataDict",
        dimensions=("instrument", "detector"),
        isCalibration=True,
    )
    out = ct.Output(doc="out", name="tiny_used", storageClass="StructuredDataDict", dimensions=DIMENSIONS)


class UseConfig(pb.PipelineTaskConfig, pipelineConnections=UseConnections):
    pass


class UseTask(pb.PipelineTask):
    """Applies the calibration."""

    ConfigClass = UseConfig
    _DefaultName = "use"

    def run(self, data, calib):
        return pb.Struct(out={"value": data["value"] - calib["total"]})


PIPELINE = """
description: tiny chained tasks
instrument: tiny_tasks.TinyCam
tasks:
  first: {class: tiny_tasks.FirstTask}
  second: {class: tiny_tasks.SecondTask}
  gather: {class: tiny_tasks.GatherTask}
  verdict: {class: tiny_tasks.VerdictTask}
  use: {class: tiny_tasks.UseTask}
subsets:
  pair: [first, second]
  calibrate: [first, second, gather]
  judge: [verdict]
  apply: [use]
"""


def make_repo(root, *, exposures=1, detectors=4, values=None):
    """Registry and inputs in the RUN "in"; `values` maps (exposure number from 1, detector) to more of an input."""
    Butler.makeRepo(str(root), config=Config(SEED), forceConfigRoot=False)
    butler = Butler.from_config(str(root), writeable=True)
    registry, t0 = butler.registry, Time("2027-01-02T00:00:00", scale="tai")
    ids = [DAY * 100_000 + n for n in range(1, exposures + 1)]
    with registry.transaction():
        registry.syncDimensionData(
            "instrument",
            {
                "name": "TinyCam",
                "class_name": "tiny_tasks.TinyCam",
                "detector_max": detectors,
                "visit_max": 2**40,
                "exposure_max": 2**40,
                "visit_system": 0,
            },
        )
        registry.syncDimensionData("physical_filter", {"instrument": "TinyCam", "name": "r_01", "band": "r"})
        registry.syncDimensionData("day_obs", {"instrument": "TinyCam", "id": DAY})
        registry.insertDimensionData(
            "detector",
            *[{"instrument": "TinyCam", "id": d, "full_name": f"D{d}", "purpose": "SCIENCE"} for d in range(detectors)],
        )
        registry.insertDimensionData("group", *[{"instrument": "TinyCam", "name": str(e)} for e in ids])
        registry.insertDimensionData("exposure", *[_exposure(e, n, t0) for n, e in enumerate(ids)])
    kind = DatasetType("tiny_in", DIMENSIONS, "StructuredDataDict", universe=butler.dimensions)
    registry.registerDatasetType(kind)
    butler.collections.register("in")
    with butler.transaction():
        for n, exposure in enumerate(ids, 1):
            for d in range(detectors):
                data = {"value": d, **(values or {}).get((n, d), {})}
                butler.put(data, kind, instrument="TinyCam", exposure=exposure, detector=d, run="in")
    butler.collections.register("calib", CollectionType.CHAINED)
    return butler


def _exposure(exposure, n, t0):
    begin = t0 + TimeDelta(40.0 * n, format="sec")
    return {
        "instrument": "TinyCam",
        "id": exposure,
        "obs_id": f"E{exposure}",
        "group": str(exposure),
        "physical_filter": "r_01",
        "day_obs": DAY,
        "exposure_time": 30.0,
        "dark_time": 30.0,
        "observation_type": "science",
        "observation_reason": "science",
        "seq_num": n + 1,
        "seq_start": n + 1,
        "seq_end": n + 1,
        "target_name": "t",
        "science_program": "p",
        "timespan": Timespan(begin, begin + TimeDelta(30, format="sec")),
    }
