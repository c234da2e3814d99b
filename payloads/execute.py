"""Run a pipeline plainly, as `pipetask` would: one graph, local processes, no engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from astropy.time import Time
from lsst.daf.butler import Butler, ButlerUserError, CollectionType, DatasetRef, MissingCollectionError, Timespan
from lsst.pipe.base import Pipeline
from lsst.pipe.base.mp_graph_executor import MPGraphExecutorError
from lsst.pipe.base.separable_pipeline_executor import SeparablePipelineExecutor

from backbone.errors import PermanentError
from payloads.repository import open_repository


class ExecutionError(PermanentError):
    """A pipeline that cannot be run, or did not come to its end."""


def execute_pipeline(
    root: str | Path,
    pipeline: str,
    *,
    inputs: list[str],
    run: str,
    where: str = "",
    config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    processes: int = 1,
) -> int:
    """Plan and run; returns the number of quanta (0: nothing to do, and no RUN is made).

    `pipeline`: URI, with `#subset` or `#label`. `inputs`: collections searched in this order. `run`: a new RUN.
    `config_overrides`: task label → field (dotted) → value. With more than one process quanta run in spawned processes. Raises
    ExecutionError where the run has outputs already or a quantum fails (those it does not feed still run).
    """
    admin = open_repository(root, writeable=True)
    for collection in inputs:
        if not _exists(admin, collection):
            raise ExecutionError(f"no collection {collection!r} in {root}: --inputs must name what is there")
    if _exists(admin, run) and _has_datasets(admin, run):
        raise ExecutionError(f"run {run} has outputs already: name a new --output-run, outputs are never overwritten")
    new = not _exists(admin, run)
    butler = open_repository(root, writeable=True, collections=[*inputs], run=run)
    executor = SeparablePipelineExecutor(butler)
    try:
        plan = executor.make_pipeline(pipeline)
        _override(plan, config_overrides or {})
        graph = executor.build_quantum_graph(plan, where=where)
    except (ButlerUserError, LookupError, ValueError, AttributeError, FileNotFoundError) as error:
        _forget(admin, run, new)
        raise ExecutionError(f"{pipeline}: cannot be planned: {error} (inputs {', '.join(inputs)}; where {where!r})") from error
    if not len(graph):
        _forget(admin, run, new)
        return 0
    executor.pre_execute_qgraph(graph, register_dataset_types=True, save_init_outputs=True, save_versions=True)
    try:
        executor.run_pipeline(graph, num_proc=processes)
    except MPGraphExecutorError as error:
        raise ExecutionError(f"{pipeline} into {run}: {error}") from error
    return len(graph)


def _forget(butler: Butler, run: str, new: bool) -> None:
    """Opening a Butler with a RUN makes it: take it back where nothing came of it."""
    if new and _exists(butler, run):
        butler.collections.x_remove(run)


def _exists(butler: Butler, collection: str) -> bool:
    try:
        return bool(butler.collections.query(collection))
    except MissingCollectionError:
        return False


def _has_datasets(butler: Butler, run: str) -> bool:
    summary = butler.collections.get_info(run, include_summary=True)
    names = [t.name if hasattr(t, "name") else t for t in summary.dataset_types or ()]
    return any(butler.query_datasets(name, run, find_first=False, limit=1, explain=False) for name in names)


def _override(pipeline: Pipeline, overrides: Mapping[str, Mapping[str, Any]]) -> None:
    for label, fields in overrides.items():
        if label not in pipeline.task_labels:
            raise LookupError(f"no task {label!r} to configure; the pipeline has {', '.join(sorted(pipeline.task_labels))}")
        for key, value in fields.items():
            pipeline.addConfigOverride(label, key, value)


def certify(butler: Butler, refs: Iterable[DatasetRef], into: str, begin: Time | None = None, end: Time | None = None) -> None:
    """Make calibrations valid from `begin` to `end` (None: for ever) in the CALIBRATION collection `into`, made if need be."""
    butler.collections.register(into, CollectionType.CALIBRATION)
    butler.registry.certify(into, list(refs), Timespan(begin, end))


def certify_run(root: str | Path, *, dataset_type: str, run: str, instrument: str, into: str, begin: str | None = None) -> int:
    """Certify all datasets of a type in a RUN into `into` and put that in front of `{instrument}/calib`; returns how many."""
    butler = open_repository(root, writeable=True)
    refs = butler.query_datasets(dataset_type, run, find_first=False, limit=None, explain=False)
    if not refs:
        raise ExecutionError(f"run {run} has no {dataset_type} to certify")
    certify(butler, refs, into, Time(begin, scale="utc").tai if begin else None)
    chain = f"{instrument}/calib"
    butler.collections.register(chain, CollectionType.CHAINED)
    if into not in butler.collections.get_info(chain).children:
        butler.collections.prepend_chain(chain, into)
    return len(refs)
