"""A file as its reader gets it: from the nearest whole copy, checked before it appears, from the next one where a copy is bad."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from backbone.endpoint import Endpoint, ObjectInfo
from backbone.errors import AccessRefused, ObjectAbsent, PachonError, TransientError
from backbone.files import AVAILABLE, BAD, LOST, Replica


def fetch_checked(
    replicas: Sequence[Replica],
    path: Path,
    endpoint: Callable[[str], Endpoint],
    damaged: Callable[[Replica, str, str], PachonError | None],
    near: str | None,
) -> ObjectInfo | None:
    """Copy to `path` from the first of the replicas that gives the right bytes, that of `near` before others. `damaged` is told
    of each that is BAD or LOST, and why, and returns an error if that cannot be known now. None: no copy is whole.
    TransientError, AccessRefused: a copy may be, but its endpoint does not answer, or does not let us in.
    """
    silent: PachonError | None = None
    for replica in sorted((r for r in replicas if r.state == AVAILABLE), key=lambda r: r.endpoint != near):
        part = path.with_name(f".fetch-{uuid.uuid4().hex}")
        try:
            info = endpoint(replica.endpoint).fetch(replica.key, part)
            if (info.size, info.sha256) == (replica.size, replica.sha256):
                part.replace(path)
                return info
            silent = damaged(replica, BAD, f"read {info.size} bytes of another checksum") or silent
        except ObjectAbsent as error:
            silent = damaged(replica, LOST, str(error)) or silent
        except (TransientError, AccessRefused) as error:
            silent = error
        finally:
            part.unlink(missing_ok=True)
    if silent is not None:
        raise silent
    return None
