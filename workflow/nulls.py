"""Plans steps of the null payload: quanta that do nothing, to measure the engine itself (issue 3).

A step's pipeline is then `null:COUNT` or `null:COUNT:SECONDS`, of which each quantum sleeps so long. No repository is needed.
"""

from __future__ import annotations

import uuid
from typing import Any

from workflow.errors import PlanError
from workflow.job import NULL
from workflow.planner import Group, PlannedGroup, StepPlan
from workflow.states import QuantumState

LABEL = "null"


def is_null(plan: StepPlan) -> bool:
    """Whether a step is one of the null payload."""
    return plan.pipeline.startswith(NULL)


def groups(plan: StepPlan) -> list[Group]:
    """As many as it takes at `max_quanta` each; PlanError if the pipeline does not say how many quanta."""
    total, size = _count(plan)[0], plan.max_quanta
    return [
        Group(name=f"{n:06}", values={"first": first, "quanta": min(size, total - first)})
        for n, first in enumerate(range(0, total, size))
    ]


def plan_group(plan: StepPlan, group: Group, *, now: float) -> PlannedGroup:
    """A group's rows. Ids of one group follow each other, as those of real quanta do in time: indexes like that."""
    first, quanta = group.values["first"], group.values["quanta"]
    row = {
        "campaign": plan.campaign,
        "step": plan.step,
        "generation": plan.generation,
        "name": group.name,
        "run": plan.run,
        "graph_key": f"{NULL}{_count(plan)[1]}",
        "config_key": "",
        "values_": group.values,
        "init_records": {},
        "quanta": quanta,
        "planned": now,
    }
    same: dict[str, Any] = {
        "campaign": plan.campaign,
        "step": plan.step,
        "label": LABEL,
        "generation": plan.generation,
        "current": True,
        "group_": group.name,
        "state": QuantumState.READY.value,
    }
    base = str(uuid.uuid4())[:-12]
    rows = [{**same, "id": f"{base}{n:012x}", "data_id": f'{{"null": {first + n}}}', "ordinal": n} for n in range(quanta)]
    return PlannedGroup(row=row, quanta=rows, edges=[], calibrations=[])


def _count(plan: StepPlan) -> tuple[int, float]:
    """Quanta, and seconds that each sleeps."""
    count, _, seconds = plan.pipeline.removeprefix(NULL).partition(":")
    try:
        found = int(count), float(seconds or 0)
    except ValueError as error:
        raise PlanError(f"step {plan.step}: {plan.pipeline!r} is not null:COUNT or null:COUNT:SECONDS") from error
    if found[0] < 0 or not 0 <= found[1] < float("inf"):
        raise PlanError(f"step {plan.step}: {plan.pipeline!r} counts backwards")
    return found
