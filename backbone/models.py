"""Models of what people write: frozen, and an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from backbone.errors import PermanentError


class Strict(BaseModel):
    """Base of the models of YAML files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    raise ValueError(f"unknown key {key!r}; {nearest(str(key), known)}")
        return data


M = TypeVar("M", bound=Strict)


def nearest(word: str, known: list[str]) -> str:
    """Advice on a word that is not among the known ones."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"


def _given(problem: Any) -> str:
    """What stands where something of another kind should: YAML reads `off` and `no` as false."""
    given = problem["input"]
    if problem["type"] != "string_type" or not isinstance(given, bool | int | float):
        return ""
    return f", this is {json.dumps(given)}: put it in quotes"


def parse(model: type[M], data: Any, *, what: str, error: type[PermanentError]) -> M:
    """`data` as a `model`; raises `error` with one line for each thing that is wrong, each naming its place in `what`."""
    if not isinstance(data, Mapping):
        raise error(f"{what}: expected keys and values, found {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as problems:
        lines = [
            f"{what}: {'.'.join(str(part) for part in p['loc']) or 'top level'}: "
            f"{p['msg'].removeprefix('Value error, ')}{_given(p)}"
            for p in problems.errors()
        ]
        raise error("\n".join(lines)) from problems
