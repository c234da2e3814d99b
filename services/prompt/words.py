"""What a visit's process says to its worker, through a pipe: JSON, nothing that would be executed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Word(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Word):
    """A stage begins."""

    kind: Literal["stage"] = "stage"
    stage: str
    at: float


class Done(_Word):
    """The end of it; fields as of `backbone.messages.prompt.Ended`."""

    kind: Literal["done"] = "done"
    state: Literal["succeeded", "failed", "cancelled"]
    stage: str
    reason: str = ""
    mechanism: str = ""
    at: float = 0.0
    stages: dict[str, float] = Field(default_factory=dict)
    alerts: int = 0
    alerts_out: float | None = None
    sources: int = 0
    quality: dict[str, float | int | str | None] = Field(default_factory=dict)
    recovered: dict[str, int] = Field(default_factory=dict)
    stamps: str = ""
    peak_mb: float = 0.0
    cpu_s: float = 0.0


Word = Stage | Done
_WORD: TypeAdapter[Any] = TypeAdapter(Annotated[Word, Field(discriminator="kind")])


def read_word(content: bytes) -> Word:
    """A word as it came through the pipe."""
    found: Word = _WORD.validate_json(content)
    return found
