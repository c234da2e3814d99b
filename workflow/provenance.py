"""What ran, for each attempt: where, with which software (once for each distinct set), with which configuration of its task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from workflow.campaign import Work
from workflow.job import Segment
from workflow.ledger.audit import software


def digest_of(versions: Mapping[str, str]) -> str:
    """Of a set of versions, whatever its order."""
    return hashlib.sha256(json.dumps(dict(versions), sort_keys=True).encode()).hexdigest()


def told(work: Work, connection: Connection, segments: Sequence[Segment]) -> dict[str, Any]:
    """Columns of a job's row that its new segments tell: its host and the digest of its software, which is kept."""
    values: dict[str, Any] = {}
    for segment in segments:
        if segment.host:
            values["host"] = segment.host
        if segment.software:
            values["software"] = digest_of(segment.software)
            row = {
                "digest": values["software"],
                "versions": dict(segment.software),
                "first_seen": work.context.clock.now(),
            }
            work.context.ledger.insert_new(connection, software, [row])
    return values
