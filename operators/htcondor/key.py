"""The key of a job: which task instance of which Airflow it belongs to. It is on the job's ClassAd and in no database of ours."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

KEY = "AirflowJobKey"
"""Attribute of the ClassAd that holds the key."""
SEEN = "AirflowSeen"
"""Attribute that is true once a task has taken note of how the job ended; only then may it leave the queue."""
KeyPer = Literal["run", "try"]


@dataclass(frozen=True, kw_only=True)
class TaskKey:
    """A task instance, as far as it decides which job is its own."""

    instance: str
    """Name of the Airflow installation: two of them may use one schedd."""
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 0
    """0: all tries of the task instance share one key, and each adopts the job of the one before."""

    def digest(self) -> str:
        """The key: 32 hexadecimal digits, the same for the same task instance whoever computes it, and a safe file name."""
        parts = [self.instance, self.dag_id, self.run_id, self.task_id, self.map_index, self.try_number]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def attributes(self) -> dict[str, str | int]:
        """What a person at the pool wants to read on the job."""
        return {
            KEY: self.digest(),
            "AirflowInstance": self.instance,
            "AirflowDagId": self.dag_id,
            "AirflowRunId": self.run_id,
            "AirflowTaskId": self.task_id,
            "AirflowMapIndex": self.map_index,
        }
