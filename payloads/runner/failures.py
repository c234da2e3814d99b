"""Why a quantum failed, as the classes that the engine has budgets for."""

from __future__ import annotations

import errno
import re
import signal
import traceback
from collections.abc import Iterator

from backbone.errors import ChecksumMismatch, TransientError
from workflow.job import Failure

_TAIL = 4000
# How numpy and astropy say, in an OSError without a number, that a disk is full.
_FULL = re.compile(r"not enough space on disk|\d+ requested and \d+ written", re.IGNORECASE)
_HOST = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.EROFS,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENFILE,
        errno.EMFILE,
    }
)


def classify(error: BaseException) -> Failure:
    """The class of an exception out of a task: by the first of it and its causes that says something; else the science's own."""
    return next(filter(None, map(_class_of, _causes(error))), "science")


def _class_of(cause: BaseException) -> Failure | None:
    """What one exception says by itself."""
    if isinstance(cause, MemoryError):
        return "out_of_memory"
    if isinstance(cause, FileNotFoundError):
        return "missing_input"
    if isinstance(cause, (TransientError, ChecksumMismatch, ConnectionError)):
        return "infrastructure"
    if isinstance(cause, OSError) and (cause.errno in _HOST or (cause.errno is None and _FULL.search(str(cause)))):
        return "infrastructure"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, its cause, that one's cause, ..."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def describe(error: BaseException) -> str:
    """Type, message, the same of the cause that decides its class or was at the bottom of it, and the end of the traceback."""
    text = "".join(traceback.format_exception(error))
    causes = list(_causes(error))
    cause = next(filter(_class_of, causes), causes[-1])
    because = "" if cause is error else f", because of {type(cause).__name__}: {cause}"
    return f"{type(error).__name__}: {error}{because}\n{text[-_TAIL:]}"


def of_death(exit_code: int, *, rss_mb: float, limit_mb: int, killed_for: Failure | None) -> tuple[Failure, str]:
    """Class and words for a child that died: `exit_code` as of `os.waitstatus_to_exitcode`, `rss_mb` as last seen.

    A segmentation fault is no lack of memory, whatever the size; a kill from outside, or an abort, is one only near the limit.
    """
    if killed_for == "out_of_memory":
        return killed_for, f"stopped by the runner at {rss_mb:.0f} MB, limit {limit_mb} MB"
    if killed_for == "timeout":
        return killed_for, "stopped by the runner: longer than its time limit"
    if killed_for == "preempted":
        return killed_for, "stopped with its job"
    if exit_code >= 0:
        return "science", f"the task ended the process with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    if -exit_code in (signal.SIGKILL, signal.SIGABRT) and rss_mb > 0.9 * limit_mb:
        return "out_of_memory", f"{name} at {rss_mb:.0f} MB, limit {limit_mb} MB"
    return "signal", f"{name} at {rss_mb:.0f} MB, limit {limit_mb} MB"
