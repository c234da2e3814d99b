"""A planned graph of tiny tasks in a folder, and messages of jobs over it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "workflow" / "tiny"


@pytest.fixture(scope="session")
def tiny():
    sys.path.insert(0, str(TINY))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TINY), *([before] if before else [])])
    import tiny_tasks

    yield tiny_tasks
    sys.path.remove(str(TINY))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class Planned:
    """A repository with a graph, as the engine leaves them."""

    def __init__(self, folder: Path, tiny, values) -> None:
        from backbone.endpoints import open_endpoint
        from workflow import planner

        folder.mkdir()
        (folder / "tiny.yaml").write_text(tiny.PIPELINE)
        self.root = folder / "repo"
        butler = tiny.make_repo(self.root, exposures=1, detectors=3, values=values)
        self.endpoint = open_endpoint(str(self.root), name="here")
        plan = planner.StepPlan(
            campaign="c",
            step="s",
            generation=1,
            pipeline=f"{folder}/tiny.yaml#pair",
            inputs=("in",),
            where="instrument='TinyCam'",
            group_by=(),
            max_quanta=100,
        )
        (group,) = planner.groups(butler, plan)
        self.group = planner.plan_group(butler, self.endpoint, plan, group, now=0)

    def quanta(self, label):
        return [q["id"] for q in self.group.quanta if q["label"] == label]

    def message(self, attempt, quanta, **more):
        from workflow.job import JobMessage, Place

        values = {
            "records": self.group.row["init_records"],
            "flush_s": 0,
            "heartbeat_s": 0,
            "memory_mb": 2048,
            "time_limit_s": 60,
            "endpoint": Place(name="here", uri=str(self.root)),
            **more,
        }
        return JobMessage(
            attempt=attempt,
            graph_key=self.group.row["graph_key"],
            config_key=self.group.row["config_key"],
            quanta=tuple(quanta),
            **values,
        )

    def segments(self, attempt):
        from workflow.job import Segment

        keys = [k for k in self.endpoint.list(f"_a/{attempt}/segments/") if k.endswith(".json")]
        return [Segment.model_validate_json(self.endpoint.get(k)) for k in keys]

    def outcomes(self, attempt):
        return [o for s in self.segments(attempt) for o in s.outcomes]


@pytest.fixture
def make_planned(tmp_path, tiny):
    def make(values=None):
        return Planned(tmp_path / "planned", tiny, values)

    return make
