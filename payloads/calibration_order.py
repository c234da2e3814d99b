"""The order in which calibration products are made, derived from what their tasks read and write."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from lsst.pipe.base import Pipeline

from backbone.errors import PermanentError


class OrderError(PermanentError):
    """Products that need one another have no order."""


@dataclass(frozen=True, kw_only=True)
class ProductTask:
    """A task, the calibrations that it makes, and those of the same pipeline that it reads."""

    label: str
    makes: tuple[str, ...]
    after: tuple[str, ...]


def product_order(pipeline: str) -> list[ProductTask]:
    """Tasks of a pipeline (URI), each after those whose products it reads; OrderError for circles. Equals go by name."""
    try:
        graph = Pipeline.from_uri(pipeline).to_graph()
    except (OSError, ValueError, LookupError) as error:
        raise OrderError(f"{pipeline}: no pipeline that can be read: {error}") from error
    makes = {task.label: {edge.parent_dataset_type_name for edge in task.outputs.values()} for task in graph.tasks.values()}
    maker = {product: label for label, products in makes.items() for product in products}
    reads = {
        task.label: {e.parent_dataset_type_name for e in (*task.inputs.values(), *task.prerequisite_inputs.values())}
        for task in graph.tasks.values()
    }
    sorter = TopologicalSorter({label: {maker[r] for r in names if r in maker} - {label} for label, names in reads.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise OrderError(f"{pipeline}: these products need one another: {' → '.join(error.args[1])}") from error
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return [
        ProductTask(label=label, makes=tuple(sorted(makes[label])), after=tuple(sorted(reads[label] & set(maker) - makes[label])))
        for label in found
    ]
