"""What a process has used so far, in a task's metadata: as lsst.utils.timer notes it, in a third of the time.

The executor notes it four times for each quantum, and each method that is timed twice: of a short quantum that was a sixth.
"""

from __future__ import annotations

import logging
import platform
import resource
import time
from datetime import UTC, datetime
from typing import Any

from lsst.pipe.base import TaskMetadata, single_quantum_executor
from lsst.utils import timer

_THEIRS = timer.logInfo


def note(
    obj: Any,
    prefix: str,
    logLevel: int = logging.DEBUG,
    metadata: Any = None,
    logger: Any = None,
    stacklevel: int | None = None,
) -> None:
    """In place of `lsst.utils.timer.logInfo`, with the same names and values; what is logged besides is left to it."""
    into = getattr(obj, "metadata", None) if metadata is None else metadata
    told = getattr(obj, "log", None) if logger is None else logger
    logs = told is not None and logging.getLogger(f"timer.{told.name}").isEnabledFor(logLevel)
    if logs or type(into) is not TaskMetadata:
        _THEIRS(obj, prefix, logLevel, metadata, logger, stacklevel if stacklevel is None else stacklevel + 1)
        return
    into.add(f"{prefix}Utc", datetime.now(UTC).isoformat())
    into["__version__"] = 1
    into["nodeName"] = platform.node()
    used = resource.getrusage(resource.RUSAGE_SELF)
    for name, value in (
        ("CpuTime", time.process_time()),
        ("UserTime", used.ru_utime),
        ("SystemTime", used.ru_stime),
        ("MaxResidentSetSize", used.ru_maxrss * 1024),
        ("MinorPageFaults", used.ru_minflt),
        ("MajorPageFaults", used.ru_majflt),
        ("BlockInputs", used.ru_inblock),
        ("BlockOutputs", used.ru_oublock),
        ("VoluntaryContextSwitches", used.ru_nvcsw),
        ("InvoluntaryContextSwitches", used.ru_nivcsw),
    ):
        into.add(prefix + name, value)


def install() -> None:
    """For the executor, and for all methods that are timed, in this process."""
    timer.logInfo = single_quantum_executor.logInfo = note
