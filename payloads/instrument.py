"""Any camera as an instrument of the Butler: dimension records from its YAML, and a class by name without code per camera."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lsst.daf.butler import Butler, CollectionType, Registry
from lsst.daf.butler.registry import ConflictingDefinitionError
from lsst.pipe.base import Instrument

from backbone.errors import PermanentError
from payloads.camera import NO_FILTER, Camera
from payloads.formatters import RawFormatter
from payloads.repository import ORBITS_CHAIN, REFCATS_RUN

_PREFIX = "Instrument_"
VISIT_SYSTEM = 0  # one-to-one: every on-sky exposure is a visit of the same id
_EXPOSURE_MAX = 10**13  # day_obs * 100000 + seq_num, to the year 9999


class InstrumentError(PermanentError):
    """A camera that does not fit what the repository holds of it."""


class CameraInstrument(Instrument):
    """An instrument whose facts are a camera description; `camera_name` is set by the subclasses made on demand."""

    camera_name = ""

    @classmethod
    def getName(cls) -> str:  # noqa: N802 - the base class's name
        """The camera's name."""
        return cls.camera_name

    def getRawFormatter(self, dataId: Any) -> type[RawFormatter]:  # noqa: N802
        """One formatter reads every camera's raw frames."""
        return RawFormatter

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Register from the description shipped with Pachón; for a YAML of one's own use `register_camera`."""
        _sync(registry, Camera.load(self.camera_name), update)


def __getattr__(name: str) -> type[CameraInstrument]:
    """`Instrument_<camera>`: the class that the repository's records name and `Instrument.fromName` imports."""
    camera_name = name.removeprefix(_PREFIX)
    if camera_name == name or not camera_name:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    made = type(name, (CameraInstrument,), {"camera_name": camera_name, "__module__": __name__})
    globals()[name] = made
    return made


def class_name(camera: Camera) -> str:
    """What the repository calls the class of this camera."""
    return f"{__name__}.{_PREFIX}{camera.name}"


def raw_run(instrument: str) -> str:
    """The RUN of raw frames."""
    return f"{instrument}/raw/all"


def defaults(instrument: str) -> str:
    """The chain that pipelines start from."""
    return f"{instrument}/defaults"


def register_camera(butler: Butler, camera: Camera) -> None:
    """Dimension records, collections and the `camera` dataset; called again it adds what is new and changes nothing else.

    A description that changed is put in a RUN of its own, in front of the chain; the old one stays, for what was made with it.
    """
    if len(camera.name) > 32:
        raise InstrumentError(f"camera {camera.name}: the repository holds names of at most 32 characters")
    with butler.registry.transaction():
        _sync(butler.registry, camera, update=False)
    butler.collections.register(raw_run(camera.name), CollectionType.RUN)
    butler.collections.register(REFCATS_RUN, CollectionType.RUN)
    for name in (f"{camera.name}/calib", ORBITS_CHAIN):
        butler.collections.register(name, CollectionType.CHAINED)
    chain = defaults(camera.name)
    butler.collections.register(chain, CollectionType.CHAINED)
    present = list(butler.collections.get_info(chain).children)
    needed = [raw_run(camera.name), f"{camera.name}/calib", REFCATS_RUN, ORBITS_CHAIN]
    wanted = present + [name for name in needed if name not in present]
    run = _put_camera(butler, camera)
    wanted = [run, *(name for name in wanted if name != run)]
    if wanted != present:
        butler.collections.redefine_chain(chain, wanted)


def _put_camera(butler: Butler, camera: Camera) -> str:
    """The RUN that holds this description, made if need be: the first is `<camera>/camera`, later ones add a digest."""
    content = camera.to_dict()
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    first = f"{camera.name}/camera"
    runs = set(butler.collections.query(f"{first}*", collection_types=CollectionType.RUN))
    for run in (first, f"{first}/{digest}"):
        if run in runs and (ref := butler.find_dataset("camera", instrument=camera.name, collections=run)) is not None:
            if butler.get(ref) == content:
                return run
        else:
            butler.collections.register(run, CollectionType.RUN)
            butler.put(content, "camera", instrument=camera.name, run=run)
            return run
    raise InstrumentError(f"{first}/{digest} holds another description than its name says: the repository was tampered with")


def read_camera(butler: Butler, instrument: str) -> Camera:
    """The current description of a registered instrument."""
    ref = None
    if defaults(instrument) in butler.collections.query("*"):
        ref = butler.find_dataset("camera", instrument=instrument, collections=defaults(instrument))
    if ref is None:
        known = sorted(r.name for r in butler.query_dimension_records("instrument", explain=False))
        raise InstrumentError(
            f"no instrument {instrument!r} in this repository; it has {', '.join(known) or 'none'}: ingest its frames first"
        )
    return Camera.from_dict(butler.get(ref), f"camera of {instrument}")


def _sync(registry: Registry, camera: Camera, update: bool) -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        (
            "instrument",
            {
                "name": camera.name,
                "class_name": class_name(camera),
                "detector_max": 256,
                "visit_max": _EXPOSURE_MAX,
                "exposure_max": _EXPOSURE_MAX,
                "visit_system": VISIT_SYSTEM,
            },
        )
    ]
    own = {"instrument": camera.name}
    rows += [("physical_filter", own | {"name": f.name, "band": f.band}) for f in camera.filters]
    if NO_FILTER not in {f.name for f in camera.filters}:
        rows.append(("physical_filter", own | {"name": NO_FILTER, "band": NO_FILTER}))
    rows += [
        (
            "detector",
            own | {"id": d.id, "full_name": d.name, "raft": None, "name_in_raft": d.name, "purpose": d.purpose},
        )
        for d in camera.detectors
    ]
    rows.append(("visit_system", own | {"id": VISIT_SYSTEM, "name": "one-to-one"}))
    for element, row in rows:
        try:
            registry.syncDimensionData(element, row, update=update)
        except ConflictingDefinitionError as error:
            raise InstrumentError(
                f"camera {camera.name}: {element} {row.get('name', row.get('id'))} differs from what the repository holds"
                f" ({str(error).splitlines()[0]}); what frames were taken with cannot change: give the new camera another name"
            ) from error
