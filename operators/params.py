"""The conf models as Airflow's params: what the trigger form shows and what the API refuses with 400."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param
from pydantic_core import PydanticUndefined

from operators.conf import SCHEMAS

_KEPT = ("type", "pattern", "minimum", "const", "enum")


def params_of(dag: str) -> dict[str, Param]:
    """One param for each key of the DAG's conf; keys without a default must be given."""
    model = SCHEMAS[dag]
    properties = model.model_json_schema()["properties"]
    params = {}
    for name, schema in properties.items():
        default = model.model_fields[name].default
        kept: dict[str, Any] = {key: schema[key] for key in _KEPT if key in schema}
        if "const" in kept:
            kept["type"] = "integer"
        given = {} if default is PydanticUndefined else {"default": default}
        params[name] = Param(**given, title=name, description=schema.get("description", ""), **kept)
    return params
