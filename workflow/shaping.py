"""A production as one run wants it: some of its steps, less of its data, other settings of its tasks; checked before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from workflow.errors import ProductionError
from workflow.models import nearest
from workflow.production import Production, Step

Override = Mapping[str, Mapping[str, str | int | float | bool]]


def shaped(
    production: Production,
    *,
    without: Sequence[str] = (),
    only: Mapping[str, Sequence[int]] | None = None,
    config: Override | None = None,
) -> Production:
    """`without`: steps to leave out. `only`: dimension → values to keep to. `config`: task label → field → value."""
    names = [step.name for step in production.steps]
    for name in without:
        if name not in names:
            raise ProductionError(f"{production.production} has no step {name!r}; {nearest(name, names)}")
    kept = [step for step in production.steps if step.name not in set(without)]
    known = {step.name: labels_of(step.pipeline) for step in kept} if config else {}
    for label in config or {}:
        everywhere = sorted(set().union(*known.values()))
        if label not in everywhere:
            raise ProductionError(f"{production.production} has no task {label!r} to configure; {nearest(label, everywhere)}")
    terms = "".join(
        f" AND {name} IN ({','.join(str(int(v)) for v in values)})" for name, values in (only or {}).items() if values
    )
    steps = tuple(_step(step, terms, {k: v for k, v in (config or {}).items() if k in known[step.name]}) for step in kept)
    return Production.load(production.model_copy(update={"steps": steps}).model_dump(mode="json", exclude_unset=True))


def labels_of(pipeline: str) -> set[str]:
    """Labels of a pipeline's tasks, of its `#subset` alone where it names one; read from the YAML, without the tasks' code."""
    uri = urlsplit(pipeline)
    if uri.scheme == "resource":
        text = resources.files(uri.netloc).joinpath(uri.path.lstrip("/")).read_text()
    else:
        text = Path(uri.path).read_text()
    document: dict[str, Any] = yaml.safe_load(text)
    chosen: set[str] = set()
    for name in uri.fragment.split(",") if uri.fragment else document["tasks"]:
        chosen |= set(document.get("subsets", {}).get(name, {}).get("subset", [name]))
    return chosen


def _step(step: Step, terms: str, config: Override) -> Step:
    merged = {label: {**step.config.get(label, {}), **config.get(label, {})} for label in {*step.config, *config}}
    changes: dict[str, Any] = {"where": f"({step.where}){terms}" if terms else step.where}
    return step.model_copy(update=changes | ({"config": merged} if config else {}))
