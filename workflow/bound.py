"""What a generation of a step is bound to by hot fixes, over what its production says: software, configuration of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.ledger.audit import binding

Config = Mapping[str, Mapping[str, Any]]
"""Task label → field (dotted) → value."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a generation of a step is bound to, over its production."""

    software: str | None
    config: Config


def bound(connection: Connection, campaign: str, step_name: str, generation: int) -> Bound:
    """Of one generation; that of a generation without a binding of its own is the one before it."""
    row = connection.execute(
        sa.select(binding)
        .where(binding.c.campaign == campaign, binding.c.step == step_name, binding.c.generation <= generation)
        .order_by(binding.c.generation.desc())
        .limit(1)
    ).first()
    return Bound(software=row.software, config=row.config) if row else Bound(software=None, config={})
