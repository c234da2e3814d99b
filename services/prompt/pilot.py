"""A visit from within its process: load, wait for the frames, process, hand on. Whoever kills it costs this visit alone.

Database engines, S3 clients and threads are made here and only here: none survives a fork. What may be passing (a store or a
database that does not answer) is tried again until the worker cancels the visit; each such failure is counted by its mechanism.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import logging
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint
from backbone.errors import ChecksumMismatch, PachonError, TransientError
from backbone.messages.prompt import FrameArrived, WorkerOrder
from services.alerts.outbox import Added, AlertOutbox
from services.prompt.science import Plan, Product, Science
from services.prompt.words import Done, Stage
from services.telemetry.reports import DetectorQuality
from services.telemetry.telemetry import Telemetry

_LOG = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_AGAIN_S, _AGAIN_MAX_S = 0.2, 3.0
T = TypeVar("T")


class Stages:
    """Tells the worker of each stage as it begins, and keeps how long each took."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.seconds: dict[str, float] = {}
        self.now, self._since = "", time.time()

    def __call__(self, name: str) -> None:
        """A stage begins."""
        at = self.close()
        self.now, self._since = name, at
        self._pipe.send_bytes(Stage(stage=name, at=at).model_dump_json().encode())

    def close(self) -> float:
        """The stage that runs has ended; returns when."""
        at = time.time()
        if self.now:
            self.seconds[self.now] = self.seconds.get(self.now, 0.0) + at - self._since
        return at


def fly(order: WorkerOrder, science: Science, plan: Plan, pipe: Connection) -> None:
    """The whole of a visit on one detector; never raises: what went wrong is its last word."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what the worker loaded is not searched again, and stays shared
    stages, recovered = Stages(pipe), Counter[str]()
    out: dict[str, Any] = {}
    try:
        done = _flown(order, science, plan, pipe, stages, recovered, out)
    except Exception as error:
        stages.close()
        if not isinstance(error, PachonError):
            _LOG.error("visit %d on detector %d:\n%s", plan.visit, order.detector, traceback.format_exc())
        done = Done(state="failed", stage=stages.now, reason=str(error) or repr(error), mechanism=type(error).__name__, **out)
        _say_that_it_is(order, plan, "failed", done.reason)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "at": time.time(),
        "stages": stages.seconds,
        "recovered": dict(recovered),
        "peak_mb": used.ru_maxrss / 1024,
        "cpu_s": used.ru_utime + used.ru_stime,
    }
    pipe.send_bytes(done.model_copy(update=told).model_dump_json().encode())


def _flown(
    order: WorkerOrder,
    science: Science,
    plan: Plan,
    pipe: Connection,
    stages: Stages,
    recovered: Counter[str],
    out: dict[str, Any],
) -> Done:
    """`out` is what is out already, and stays so whatever fails after it."""
    stages("preload")
    loaded = _patiently(lambda: science.preload(plan), recovered)
    stages("wait")
    frames: dict[int, FrameArrived] = {}
    while not set(plan.exposures) <= set(frames):
        frame = FrameArrived.model_validate_json(pipe.recv_bytes())
        frames[frame.exposure] = frame
    stages("fetch")
    store = _opened(order)
    content = [_patiently(lambda f=frames[e]: _whole(store, f), recovered) for e in plan.exposures]  # type: ignore[misc]
    product = science.process(content, loaded, plan, stages)
    stages("publish")
    added = _patiently(lambda: _publish(order, plan, product), recovered)
    out |= {"alerts": added.new + added.known, "alerts_out": time.time(), "sources": product.sources}
    out["quality"] = {**product.quality, **_withheld(added)}
    stages("keep")
    stamps = _patiently(lambda: _keep(order, plan, product, store), recovered)
    stages.close()
    return Done(state="succeeded", stage="done", stamps=stamps, **out)


def _opened(order: WorkerOrder) -> Endpoint:
    store = order.store
    credentials = Path(store.credentials) if store.credentials else None
    return open_endpoint(store.uri, name=store.name, url=store.url, credentials=credentials)


def _whole(store: Endpoint, frame: FrameArrived) -> bytes:
    content = store.get(frame.key)
    if hashlib.sha256(content).hexdigest() != frame.sha256:
        raise ChecksumMismatch(f"{frame.key} at {store.name} is not what ingest put there: the frame is to be sent again")
    return content


def _publish(order: WorkerOrder, plan: Plan, product: Product) -> Added:
    """Alerts are archived and promised to every subscriber, or none of them is."""
    if not product.packets:
        return Added(0, 0)
    with AlertOutbox.open(Path(order.home)) as outbox:
        whose = {"instrument": order.instrument, "origin": f"prompt/{order.night}"}
        return outbox.add(plan.visit, order.detector, product.packets, **whose)


def _withheld(added: Added) -> dict[str, int | str]:
    """For the night's books: a frame that others had told."""
    return {"alerts_withheld": added.withheld, "told_by": added.told_by or "another"} if added.withheld else {}


def _keep(order: WorkerOrder, plan: Plan, product: Product, store: Endpoint) -> str:
    """What the visits that follow, the observatory and people need; returns the key of the stamps."""
    if product.keep is not None:
        product.keep()
    if product.telemetry is not None:
        with Telemetry.open(Path(order.home)) as telemetry:
            telemetry.send(product.telemetry)
    if not product.stamps:
        return ""
    key = f"prompt/{order.night}/stamps/{plan.visit}/{order.detector:03}.png"
    store.put(key, product.stamps)
    return key


def say_that_it_is_late(order: WorkerOrder, plan: Plan, reason: str) -> None:
    """Of a visit that its worker cancelled, from a process that nobody waits for: the worker itself opens no database."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            _say_that_it_is(order, plan, "late", reason)
        os._exit(0)
    os.waitpid(child, 0)


def _say_that_it_is(order: WorkerOrder, plan: Plan, state: Literal["late", "failed"], reason: str) -> None:
    """To the observatory, once: what keeps even that from being said must not keep the worker from the next visit."""
    told = DetectorQuality(
        instrument=order.instrument, visit=plan.visit, detector=order.detector, state=state, reason=reason[:500]
    )
    try:
        with Telemetry.open(Path(order.home)) as telemetry:
            telemetry.send(told)
    except Exception as error:
        _LOG.warning("visit %d on detector %d is %s, the observatory was not told: %s", plan.visit, order.detector, state, error)


def _patiently(call: Callable[[], T], recovered: Counter[str]) -> T:
    wait_s = _AGAIN_S
    while True:
        try:
            return call()
        except TransientError as error:
            recovered[f"{type(error).__name__}: {error}"[:200]] += 1
            _LOG.warning("again in %.1f s: %s", wait_s, error)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _AGAIN_MAX_S)
