"""Memory that large arrays leave is given back to the system, so that the next may have it."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE = 8 << 20


def give_back_large_arrays() -> None:
    """For the whole process, where its C library is glibc: arrays above 8 MiB are always maps of their own.

    By itself glibc raises that limit to 32 MiB once such arrays were freed: masks and strips of a frame then share a heap with
    what stays, and leave gaps in it that the next plane does not fit. At full size that is 50 MB; it costs no time.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
