"""The order of the productions, as Airflow pools and weights: prompt > offline > OCS batch > CPP > DRP."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True)
class PriorityClass:
    """Pool (slots in deploy/pools.yaml) and weight of the tasks of one class of productions."""

    pool: str
    weight: int
    owner: str

    def default_args(self) -> dict[str, Any]:
        """For a DAG's `default_args`: Airflow retries its own bookkeeping only, the engine retries the work."""
        return {
            "owner": self.owner,
            "pool": self.pool,
            "priority_weight": self.weight,
            "weight_rule": "absolute",
            "retries": 3,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=5),
        }


PROMPT = PriorityClass("prompt", 100, "prompt-processing")
OFFLINE = PriorityClass("offline", 80, "prompt-processing")
OCS_BATCH = PriorityClass("ocs_batch", 60, "observatory")
CPP = PriorityClass("cpp", 40, "calibration-products")
DRP = PriorityClass("drp", 20, "data-release")
BACKBONE = PriorityClass("backbone", 30, "data-backbone")
