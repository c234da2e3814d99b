"""Runs one quantum again, from the graph, configuration and inputs that its accepted attempt had, and compares what it writes.

It writes below an attempt's prefix of its own, which is removed in the end; neither ledger nor registry learn of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from backbone.butler import attempt_prefix
from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, PermanentError
from workflow.bound import bound
from workflow.context import Context
from workflow.job import JobMessage, Outcome, Segment, from_json, infos, merged, segment_key, to_json
from workflow.ledger.tables import accepted, accepted_outcome, edge, job, outcome
from workflow.quanta import content, datasets, planned_in

VOLATILE: Mapping[str, tuple[str, ...]] = {
    "*_log": ("*",),
    "*_metadata": (
        *("*/quantum/*", "*Utc", "*CpuTime", "*UserTime", "*SystemTime", "*MaxResidentSetSize", "*PageFaults", "*Blocks*"),
        *("*BlockInputs", "*BlockOutputs", "*ContextSwitches", "*VoluntaryContextSwitches", "*wall_s", "*duration*"),
    ),
    **dict.fromkeys(("crosstalk", "ptc", "linearity"), ("/provenance/DATE",)),
}
"""Pattern of a dataset type → patterns of fields (/a/b/c in JSON) that differ each time: clocks, what the machine was doing."""


_FITS = b"SIMPLE  ="
_MADE = re.compile(rb"DATE    = '[0-9T:-]{19}'")
"""The card of when a FITS file was made; the first is the primary header's."""


class RerunError(PermanentError):
    """The quantum cannot be run again."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One output."""

    dataset_type: str
    dataset: str
    verdict: Literal["identical", "volatile", "different", "missing", "new"]
    """`volatile`: the same but for fields that are declared to differ each time."""
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """How it went."""

    quantum: str
    attempt: str
    """The accepted one, that it is compared with."""
    state: str
    error: str
    wall_s: float
    wall_before_s: float
    outputs: tuple[Compared, ...]

    @property
    def same(self) -> bool:
        """Whether it succeeded and wrote the same."""
        return self.state == "succeeded" and all(o.verdict in ("identical", "volatile") for o in self.outputs)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"same": self.same}


def rerun(context: Context, row: Any, *, volatile: Mapping[str, Sequence[str]] = VOLATILE) -> Rerun:
    """Run it again here, and compare. RerunError if it was never accepted, or its inputs are gone."""
    before = _accepted(context, row)
    endpoint = context.endpoint(before.site)
    message = _message(context, row, before)
    try:
        after = _run(endpoint, message)
        names = {str(ref.id): ref.datasetType.name for ref in datasets(context, row, planned_in(context, row))[1]}
        outputs = list(_compared(endpoint, names, before.records, after.records, volatile)) if after.state == "succeeded" else []
        return Rerun(
            quantum=row.id,
            attempt=before.job,
            state=after.state,
            error=after.error,
            wall_s=after.wall_s,
            wall_before_s=before.wall_s,
            outputs=tuple(sorted(outputs, key=lambda o: o.dataset_type)),
        )
    finally:
        endpoint.discard(f"{attempt_prefix(message.attempt)}/")


def _accepted(context: Context, row: Any) -> Any:
    rows = context.ledger.all(
        sa.select(outcome, job.c.site, job.c.memory_mb, job.c.time_limit_s, job.c.step, job.c.generation)
        .join(accepted, accepted_outcome())
        .join(job, job.c.id == outcome.c.job)
        .where(accepted.c.quantum == row.id)
    )
    if not rows:
        raise RerunError(f"quantum {row.id} has no accepted attempt: there is nothing to compare with; it is {row.state}")
    return rows[0]


def _message(context: Context, row: Any, before: Any) -> JobMessage:
    of = planned_in(context, row)
    engine = context.engine
    with context.ledger.read() as connection:
        parents = sa.select(edge.c.parent).where(edge.c.child == row.id)
        read = connection.execute(
            sa.select(outcome.c.records, outcome.c.unwritten)
            .join(accepted, accepted_outcome())
            .where(outcome.c.quantum.in_(parents))
        ).all()
        name = bound(connection, row.campaign, row.step, row.generation).software
    return JobMessage(
        attempt=str(uuid.uuid4()),
        graph_key=of.graph_key,
        config_key=of.config_key,
        quanta=(row.id,),
        records=to_json(merged([of.init_records, *(r.records for r in read if r.records)])),
        absent=tuple(dataset for r in read for dataset in r.unwritten or ()),
        endpoint=context.place(before.site),
        flush_s=engine.flush_s,
        heartbeat_s=engine.heartbeat_s,
        memory_mb=before.memory_mb,
        time_limit_s=before.time_limit_s,
        interpreter=None if name is None else context.settings.site(before.site).software.get(name),
    )


def _run(endpoint: Endpoint, message: JobMessage) -> Outcome:
    """The runner, as a pool starts it."""
    with tempfile.TemporaryDirectory(prefix="pachon-rerun-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(message.model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "payloads.runner", str(path)], capture_output=True, text=True, check=False, cwd=folder
        )
    number, reason = 0, ""
    while True:
        try:
            segment = Segment.model_validate_json(endpoint.get(segment_key(message.attempt, number)))
        except ObjectAbsent as error:
            words = reason or done.stderr.strip()[-500:] or f"exit code {done.returncode}"
            raise RerunError(f"quantum {message.quanta[0]} could not be run again: {words}") from error
        if segment.outcomes:
            return segment.outcomes[0]
        reason, number = segment.reason, number + 1


def _compared(
    endpoint: Any, names: Mapping[str, str], before: Any, after: Any, volatile: Mapping[str, Sequence[str]]
) -> Iterator[Compared]:
    old = {str(d): info for d, info in (infos(from_json(before)) if before else ())}
    new = {str(d): info for d, info in (infos(from_json(after)) if after else ())}
    for dataset in sorted(old.keys() | new.keys()):
        kind = names.get(dataset, "?")
        if dataset not in new or dataset not in old:
            yield Compared(dataset_type=kind, dataset=dataset, verdict="missing" if dataset in old else "new")
            continue
        verdict, words = _verdict(
            content(endpoint, old[dataset].path), content(endpoint, new[dataset].path), _patterns(kind, volatile)
        )
        yield Compared(dataset_type=kind, dataset=dataset, verdict=verdict, words=words)


def _patterns(kind: str, volatile: Mapping[str, Sequence[str]]) -> list[str]:
    return [field for pattern, fields in volatile.items() if fnmatchcase(kind, pattern) for field in fields]


def _verdict(old: bytes, new: bytes, patterns: Sequence[str]) -> tuple[Literal["identical", "volatile", "different"], str]:
    if old == new:
        return "identical", ""
    if old.startswith(_FITS) and _MADE.sub(b"", old, count=1) == _MADE.sub(b"", new, count=1):
        return "volatile", "the date it was made"
    try:
        flat = [dict(_flat(json.loads(data))) for data in (old, new)]
    except ValueError:
        return "different", f"{len(old)} bytes, now {len(new)}"
    differ = [name for name in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(name) != flat[1].get(name)]
    left = [name for name in differ if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not left:
        return "volatile", f"{len(differ)} fields"
    name = left[0]
    return "different", f"{name}: {flat[0].get(name)!r}, now {flat[1].get(name)!r}" + (
        f" and {len(left) - 1} more" * (len(left) > 1)
    )


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a JSON document with their paths."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _flat(value, f"{path}/{name}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _flat(value, f"{path}/{number}")
    else:
        yield path, data
