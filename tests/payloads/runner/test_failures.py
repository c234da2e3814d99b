"""Why a quantum failed."""

from __future__ import annotations

import errno
import signal

import numpy as np
import pytest

from backbone.errors import EndpointFull, ObjectAbsent
from payloads.runner.failures import classify, describe, of_death


def caused(outer, cause):
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("x"), "science"),
        (SystemExit(3), "science"),
        (MemoryError(), "out_of_memory"),
        (caused(RuntimeError("task failed"), MemoryError()), "out_of_memory"),
        (FileNotFoundError("gone"), "missing_input"),
        (ObjectAbsent("gone"), "missing_input"),
        (OSError(errno.ENOSPC, "full"), "infrastructure"),
        (OSError(errno.EIO, "disk"), "infrastructure"),
        (EndpointFull("full"), "infrastructure"),
        (caused(RuntimeError("put failed"), ConnectionResetError()), "infrastructure"),
        (OSError("250000 requested and 38040 written"), "infrastructure"),  # numpy's words, which come without an errno
        (OSError("Not enough space on disk: requested 1080000, available 0."), "infrastructure"),  # those of astropy
        (OSError("Empty or corrupt FITS file"), "science"),
        (OSError(errno.EINVAL, "science's own"), "science"),
        (np.linalg.LinAlgError("singular"), "science"),
    ],
)
def test_an_exception_has_the_class_of_what_caused_it(error, failure):
    assert classify(error) == failure


def test_a_circle_of_causes_ends():
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert classify(a) == "science"


@pytest.mark.parametrize(
    ("exit_code", "rss_mb", "killed_for", "failure"),
    [
        (-signal.SIGSEGV, 1000, None, "signal"),  # near the limit, and still no lack of memory
        (-signal.SIGKILL, 990, None, "out_of_memory"),
        (-signal.SIGABRT, 990, None, "out_of_memory"),
        (-signal.SIGKILL, 100, None, "signal"),
        (-signal.SIGKILL, 1100, "out_of_memory", "out_of_memory"),
        (-signal.SIGKILL, 100, "timeout", "timeout"),
        (-signal.SIGKILL, 100, "preempted", "preempted"),
        (7, 100, None, "science"),
        (0, 100, None, "science"),
    ],
)
def test_a_death_is_told_by_its_signal_the_memory_and_who_did_it(exit_code, rss_mb, killed_for, failure):
    assert of_death(exit_code, rss_mb=rss_mb, limit_mb=1000, killed_for=killed_for)[0] == failure


def test_a_description_has_the_message_first_and_the_traceback_after():
    try:
        raise ValueError("too cloudy")
    except ValueError as error:
        text = describe(error)
    assert text.startswith("ValueError: too cloudy\n")
    assert "test_failures.py" in text


def test_a_description_begins_with_what_caused_it_too():
    short = OSError("3 requested and 2 written")
    full = caused(RuntimeError("Failed to serialize"), caused(OSError("Not enough space on disk: requested 3"), short))
    assert describe(full).startswith("RuntimeError: Failed to serialize, because of OSError: Not enough space on disk")
    other = caused(RuntimeError("Failed to serialize"), caused(ValueError("no WCS"), KeyError("CRVAL1")))
    assert describe(other).startswith("RuntimeError: Failed to serialize, because of KeyError: 'CRVAL1'\n")
