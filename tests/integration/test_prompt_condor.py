"""Prompt workers as jobs of a real HTCondor pool whose other slots are taken: a reserved slot, a removed job, an orderly end."""

import sys
import time
from contextlib import closing

import psutil
import pytest

from tests.integration.test_prompt_night import Observatory
from workflow.night.states import WorkerState
from workflow.pools.pool import JobRequest, PoolState, Resources

pytestmark = [pytest.mark.slow]
PATIENCE_S = 240


@pytest.fixture
def full_pool(condor, tmp_path):
    """All slots of `ncsa` but the reserved one are busy with the lowest class, and more of it waits."""
    (tmp_path / "sleep.py").write_text("import time; time.sleep(600)")
    message = tmp_path / "message.json"
    message.write_text("{}")
    others = condor.pool(tmp_path / "others", command=[sys.executable, "-S", str(tmp_path / "sleep.py")], reconcile_s=0.5)
    lowest = Resources(memory_mb=100, group="drp", priority=0)
    keys = [f"drp{n}" for n in range(condor.slots + 1)]
    others.submit_many([JobRequest(key=key, message=message, resources=lowest) for key in keys])
    limit = time.monotonic() + PATIENCE_S
    while sum(job.state is PoolState.RUNNING for job in others.poll(keys).values()) < condor.slots - condor.settings.reserved:
        assert time.monotonic() < limit, others.poll(keys)
        time.sleep(0.1)  # the negotiator must come to it
    yield condor.settings.model_copy(
        update={"collector": condor.address("ncsa"), "tokens": str(condor.tokens), "reconcile_s": 0.5}
    )
    others.kill_many(keys)


def states(observatory):
    return [worker.state for worker in observatory.workers("night_c")]


def process_of(key):
    """The worker of that name, wherever its pool put it."""
    lines = {process: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])}
    (found,) = [process for process, line in lines.items() if "-m services.prompt" in line and f"{key}." in line]
    return found


def test_workers_get_the_reserved_slot_are_replaced_when_removed_and_leave_when_the_night_drains(full_pool, condor, tmp_path):
    observatory = Observatory(tmp_path / "home", pool=full_pool, deadline_s=PATIENCE_S, arm_s=PATIENCE_S)
    with closing(observatory.watch):
        observatory.open("night_c", detectors=(0,))
        (first,) = observatory.workers("night_c")
        observatory.frame(1, 0, sources=3)
        part = observatory.ended("night_c", 1)[1, 0]
        assert (part.state, part.sources, part.worker) == ("SUCCEEDED", 3, first.key)

        pool = observatory.watch._crew._pool
        pool.kill(first.key, hard=True)  # as `condor_rm` by another hand: a worker that is told to go says so
        observatory.until(lambda: states(observatory) == [WorkerState.ENDED, WorkerState.ARMED])
        process_of(observatory.workers("night_c")[1].key).kill()
        observatory.until(lambda: states(observatory) == [WorkerState.ENDED, WorkerState.LOST, WorkerState.ARMED])
        observatory.frame(2, 0)
        assert observatory.ended("night_c", 2)[2, 0].state == "SUCCEEDED"

        observatory.close("night_c")
        last = observatory.workers("night_c")[-1]
        assert (last.state, last.reason) == (WorkerState.ENDED, "the night drains")
        observatory.until(lambda: pool.poll([last.key])[last.key].state is not PoolState.RUNNING)
        assert pool.poll([last.key])[last.key].exit_code == 0
