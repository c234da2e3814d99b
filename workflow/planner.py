"""Plans a step: one quantum graph for each group, written to the archive endpoint and into the ledger.

Can be killed anywhere: what the ledger does not know is planned again, under a new key and with new quantum ids, and nobody has
seen the old ones. The RUN is campaign/step/generation (decision 11); its init-outputs are found and kept by the graph builder.
"""

from __future__ import annotations

import json
import logging
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, ButlerConfig, CollectionType, Config, DatasetRef
from lsst.daf.butler.datastore.record_data import DatastoreRecordData
from lsst.daf.butler.registry.databases.sqlite import SqliteDatabase
from lsst.pipe.base.pipeline_graph import compare_packages
from lsst.pipe.base.separable_pipeline_executor import SeparablePipelineExecutor
from lsst.resources import ResourcePath
from lsst.utils.packages import Packages
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from backbone.butler import DATASTORE
from backbone.endpoint import Endpoint, ObjectInfo, sha256_of
from backbone.errors import PachonError, TransientError
from backbone.files import NewFile
from backbone.garbage import uncollected
from workflow.errors import EmptyGraph, PlanError
from workflow.inputs import input_files, made_here
from workflow.job import to_json
from workflow.ledger import Ledger, tables
from workflow.ledger.audit import task_config
from workflow.states import QuantumState

_LOG = logging.getLogger(__name__)
_INLINE_ROWS = 50
"""Data IDs in a query's text, more go by a table: to compile SQLite's 500, each a SELECT, is a third of planning them."""


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """A step with its parameters filled in."""

    campaign: str
    step: str
    generation: int
    pipeline: str
    inputs: tuple[str, ...]
    where: str
    group_by: tuple[str, ...]
    max_quanta: int
    config: tuple[tuple[str, str, Any], ...] = ()
    """(task label, field, value) over the pipeline's own."""
    keep: tuple[str, ...] = ()
    """RUNs of the step's older generations: what has its outputs there is not planned again."""

    @property
    def run(self) -> str:
        """The RUN of all that the step writes."""
        return run_name(self.campaign, self.step, self.generation)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A part of a step that differs only in its data query."""

    name: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PlannedGroup:
    """A group's rows, ready for the ledger."""

    row: dict[str, Any]
    quanta: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    calibrations: list[dict[str, Any]]
    configs: dict[str, str] = field(default_factory=dict)
    """Digest of each task's configuration."""
    files: list[NewFile] = field(default_factory=list)
    """What its jobs read: graph, configuration, inputs. Asked for by those who have several endpoints alone."""
    graph: Any = field(default=None, repr=False)
    """As it was made, while it is at hand; never stored."""


def run_name(campaign: str, step: str, generation: int) -> str:
    """RUN collection of a step."""
    return f"{campaign}/{step}/{generation}"


def groups(butler: Butler, plan: StepPlan) -> list[Group]:
    """The groups of a step, in order; PlanError if the query is no query."""
    if not plan.group_by:
        return [Group(name="all", values={})]
    with _planning(plan), butler.query() as query:
        found = query.where(plan.where).data_ids(plan.group_by) if plan.where else query.data_ids(plan.group_by)
        data_ids = sorted((dict(d.required) for d in found), key=lambda d: json.dumps(d, sort_keys=True))
    return [Group(name="-".join(str(v) for v in d.values()).replace("/", "_"), values=d) for d in data_ids]


def plan_group(
    butler: Butler, archive: Endpoint, plan: StepPlan, group: Group, *, now: float, first: bool = True, note_files: bool = False
) -> PlannedGroup | None:
    """Build a group's graph, write it and its Butler configuration to the archive, begin the RUN. None if it has no quantum.

    Only the `first` group of a step in this process notes the software in the RUN, or checks it against what is noted.
    """
    with _planning(plan):
        client = _client(butler, plan)
        _same_place(client, archive)
        executor = SeparablePipelineExecutor(client, skip_existing_in=plan.keep)
        pipeline = executor.make_pipeline(plan.pipeline)
        for label, field, value in plan.config:
            pipeline.addConfigOverride(label, field, value)
        builder = executor.make_quantum_graph_builder(pipeline, where=_narrowed(plan.where, group))
        if isinstance(database := builder.butler._registry._db, SqliteDatabase):
            database.get_constant_rows_max = lambda: _INLINE_ROWS
        components = builder.finish(output=None, attach_datastore_records=True)
        count = sum(components.header.n_task_quanta.values())
        if not count:
            return None
        if count > plan.max_quanta:
            raise PlanError(
                f"campaign {plan.campaign}, step {plan.step}: group {group.name} has {count} quanta, more than "
                f"{plan.max_quanta}; give the step `group_by` dimensions that divide it"
            )
        prefix = f"graphs/{plan.campaign}/{plan.step}/{plan.generation}"
        # A key of its own for each try: an engine that lost its lock must not overwrite what the ledger already names.
        graph_key = f"{prefix}/{group.name}.{uuid.uuid4().hex[:8]}.qg"
        configuration = site_configuration(butler).encode()
        # Named by its content: should the repository's configuration change, one key still has one content at every endpoint.
        config_key = f"{prefix}/butler.{sha256_of(configuration)[:8]}.yaml"
        made = [_write_graph(components, archive, graph_key), archive.put(config_key, configuration)]
        graph = components.assemble()
        graph.pipeline_graph.register_dataset_types(client)
        graph.write_configs(client)
        graph.write_init_outputs(client, skip_existing=True)
        if first:
            _note_software(graph, client)
        row = {
            "campaign": plan.campaign,
            "step": plan.step,
            "generation": plan.generation,
            "name": group.name,
            "run": plan.run,
            "graph_key": graph_key,
            "config_key": config_key,
            "values_": group.values,
            "init_records": _init_records(client, graph),
            "quanta": count,
            "planned": now,
        }
        files = [*made_here(made, row), *input_files(components, created=now)] if note_files else []
        configs = {label: sha256_of(task.get_config_str().encode()) for label, task in graph.pipeline_graph.tasks.items()}
        rows = _rows(client, graph, plan, group)
        return PlannedGroup(row=row, files=files, configs=configs, graph=graph, **rows)


def _note_software(graph: Any, client: Any) -> None:
    """What is installed, into the RUN; ConflictingDefinitionError where something else is noted there.

    `write_packages` of the graph looks for what is imported, and takes half a second for it each time; what is installed,
    lsst.utils lists once for a process.
    """
    (ref,) = graph.get_init_outputs("").values()
    software = Packages.fromSystem(include_all=True)
    try:
        noted = client.get(ref)
    except (LookupError, FileNotFoundError):
        client.put(software, ref)
        return
    if compare_packages(noted, software):  # it now has what was not installed then
        client.pruneDatasets([ref], unstore=True, purge=True)
        client.put(noted, ref)


def output_refs(graph: Any) -> dict[Any, Any]:
    """Every output of a graph's quanta by dataset id: what the publisher needs, and the ledger does not hold.

    Of the outputs alone, and with data IDs as they are: `build_execution_quanta` makes each input, quantum and record too, and
    attaches records of dimensions, which the registry does not look at.
    """
    nodes = graph.bipartite_xgraph
    types = {name: node.dataset_type for name, node in graph.pipeline_graph.dataset_types.items()}
    found = {}
    for quantum in graph.quantum_only_xgraph.nodes:
        for dataset in nodes.successors(quantum):
            about = nodes.nodes[dataset]
            kind = types[about["dataset_type_name"]]
            found[dataset] = DatasetRef(kind, about["data_id"], run=about["run"], id=dataset, conform=False)
    return found


def write(ledger: Ledger, connection: Connection, planned: PlannedGroup) -> None:
    """A planned group into the ledger, in the caller's transaction: all of it or nothing."""
    connection.execute(tables.group.insert(), [planned.row])
    ledger.insert_many(connection, tables.quantum, planned.quanta)
    ledger.insert_many(connection, tables.edge, planned.edges)
    ledger.insert_many(connection, tables.calibration_use, planned.calibrations)
    of = {name: planned.row[name] for name in ("campaign", "step", "generation")}
    configs = [{**of, "label": label, "digest": digest} for label, digest in planned.configs.items()]
    ledger.insert_new(connection, task_config, configs)


def empty(plan: StepPlan, why: Sequence[str]) -> EmptyGraph:
    """The error for a step without quanta, with what the graph builder said about it."""
    words = "; ".join(why) or "no data match"
    return EmptyGraph(
        f"campaign {plan.campaign}, step {plan.step} plans no quantum: {words}. Its query is "
        f"{plan.where!r} in {', '.join(plan.inputs)}; check the parameters and that the inputs are there, or say allow_empty"
    )


class Complaints(logging.Handler):
    """What the graph builder logs about a query that finds nothing; it says so nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what it says; the recipe for debugging that may follow is for programmers."""
        said = record.getMessage().partition("To reproduce this query")[0]
        self.lines.append(" ".join(said.split()).rstrip("."))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts."""
        logger = logging.getLogger("lsst.pipe.base")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


@lru_cache(maxsize=1)
def site_configuration(butler: Butler) -> str:
    """The repository's Butler configuration for jobs, as YAML: without the registry, which jobs neither need nor may reach.

    Written once for a Butler, which has the same for its life: it takes as long as to plan some dozens of quanta.
    """
    config = Config(ButlerConfig(butler._config))
    if "registry" in config:
        del config["registry"]
    return str(config.dump(format="yaml"))


@contextmanager
def _planning(plan: StepPlan) -> Iterator[None]:
    try:
        with uncollected():
            yield
    except PachonError:
        raise
    except OperationalError as error:
        raise TransientError(f"campaign {plan.campaign}, step {plan.step}: the registry did not answer: {error.orig}") from error
    except Exception as error:  # whatever Butler and pipeline say about this step, a person must read it
        raise PlanError(
            f"campaign {plan.campaign}, step {plan.step} cannot be planned: {type(error).__name__}: {str(error).rstrip('. ')}. "
            f"Its pipeline is {plan.pipeline}, its query {plan.where!r} in {', '.join(plan.inputs)}"
        ) from error


def _client(butler: Butler, plan: StepPlan) -> Any:
    if butler._datastore.name != DATASTORE:
        raise PlanError(f"the repository's datastore is named {butler._datastore.name!r}: it must be pinned to {DATASTORE!r}")
    butler.registry.refresh()
    known = set(butler.collections.query("*", collection_types=set(CollectionType)))
    missing = [name for name in plan.inputs if name not in known]
    if missing:
        raise PlanError(
            f"campaign {plan.campaign}, step {plan.step}: the repository has no collection {missing[0]!r}; "
            "ingest or produce it first"
        )
    butler.collections.register(plan.run)
    return Butler.from_config(butler=butler, collections=[plan.run, *plan.inputs], run=plan.run)


def _same_place(client: Any, archive: Endpoint) -> None:
    """One dataset, one key (decision 6): what jobs write at the endpoint must lie where the repository will look for it."""
    root = client._datastore.root
    if ResourcePath(archive.root, forceDirectory=True) != root:
        raise PlanError(
            f"the repository's files are in {root}, the endpoint {archive.name} is {archive.root}: they must be the same"
        )


def _narrowed(where: str, group: Group) -> str:
    terms = [f"({where})"] if where else []
    terms += [f"{name}='{value}'" if isinstance(value, str) else f"{name}={value}" for name, value in group.values.items()]
    return " AND ".join(terms)


def _write_graph(components: Any, archive: Endpoint, key: str) -> ObjectInfo:
    with tempfile.TemporaryDirectory(prefix="pachon-plan-") as folder:
        path = Path(folder) / "graph.qg"
        components.write(str(path))
        return archive.put(key, path)


def _init_records(client: Any, graph: Any) -> dict[str, Any]:
    """Records of what tasks read when they are made: written by the planner, hence not among those attached to the graph."""
    begun = [label for label, quanta in graph.quanta_by_task.items() if quanta]  # a task without quanta has no such outputs
    refs = [ref for label in begun for ref in graph.get_init_outputs(label).values()]
    records = client._datastore.export_records(refs).get(DATASTORE) if refs else None
    return to_json(records if records is not None else DatastoreRecordData())


def _rows(client: Any, graph: Any, plan: StepPlan, group: Group) -> dict[str, list[dict[str, Any]]]:
    nodes = graph.quantum_only_xgraph
    waits, ready = QuantumState.UNREADY.value, QuantumState.READY.value
    quanta = [
        {
            "id": str(quantum),
            "campaign": plan.campaign,
            "step": plan.step,
            "label": nodes.nodes[quantum]["task_label"],
            "data_id": json.dumps(dict(nodes.nodes[quantum]["data_id"].required), sort_keys=True),
            "generation": plan.generation,
            "current": True,
            "group_": group.name,
            "ordinal": ordinal,
            "state": waits if nodes.in_degree(quantum) else ready,
        }
        for ordinal, quantum in enumerate(in_order(nodes))
    ]
    edges = [{"child": str(child), "parent": str(parent)} for parent, child in nodes.edges]
    return {"quanta": quanta, "edges": edges, "calibrations": _calibrations(client, graph)}


def in_order(nodes: Any) -> Iterator[Any]:
    """Parents before children, and children right after their last parent: so a window of a group's quanta holds whole chains."""
    waits = dict(nodes.in_degree)
    stack = [quantum for quantum, count in waits.items() if not count][::-1]
    while stack:
        quantum = stack.pop()
        yield quantum
        for child in nodes.successors(quantum):
            waits[child] -= 1
            if not waits[child]:
                stack.append(child)


def _calibrations(client: Any, graph: Any) -> list[dict[str, Any]]:
    """Which calibration each quantum was given, and by which certification: so that a withdrawn product finds its users."""
    rows = []
    nodes = graph.bipartite_xgraph
    for name, by_data_id in graph.datasets_by_type.items():
        node = graph.pipeline_graph.dataset_types.get(name)
        if node is None or not node.dataset_type.isCalibration() or graph.pipeline_graph.producer_of(name) is not None:
            continue
        certified = _certifications(client, name)
        for dataset in by_data_id.values():
            rows += [
                {
                    "quantum": str(quantum),
                    "dataset": str(dataset),
                    "dataset_type": name,
                    "run": nodes.nodes[dataset]["run"],
                    "collection": certified.get(dataset),
                }
                for quantum in nodes.successors(dataset)
            ]
    return rows


def _certifications(client: Any, dataset_type: str) -> dict[uuid.UUID, str]:
    """Dataset id → the first of the input collections that certifies it."""
    found: dict[uuid.UUID, str] = {}
    certifying = client.collections.query(
        client.collections.defaults, collection_types={CollectionType.CALIBRATION}, flatten_chains=True
    )
    if certifying:
        for association in client.registry.queryDatasetAssociations(
            dataset_type, collections=certifying, collectionTypes={CollectionType.CALIBRATION}
        ):
            found.setdefault(association.ref.id, association.collection)
    return found
