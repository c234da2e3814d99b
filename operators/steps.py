"""Which steps a production has: read from its YAML beside the DAG, the one place where they are written."""

from __future__ import annotations

from pathlib import Path

import yaml


def steps_of(dag_file: str, production: str) -> tuple[str, ...]:
    """Names of the steps of `productions/NAME.yaml` beside a DAG file, in order."""
    text = (Path(dag_file).parent / "productions" / f"{production}.yaml").read_text()
    return tuple(str(step["name"]) for step in yaml.safe_load(text)["steps"])
