"""kill -9 of the engine process and of jobs at random moments: the same products in the end, nothing accepted twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest
import sqlalchemy as sa
from lsst.daf.butler import Butler

from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.ledger import tables as t
from workflow.loop import Pace, run_until_ended
from workflow.pools.local import LocalPool
from workflow.states import CampaignState

pytestmark = pytest.mark.kill


class Stop:
    asked = False


def engine(world):
    """An engine process: a fork that opens everything anew, as a started program would."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pool = LocalPool(world.settings.run_dir / "jobs" / "local", slots=2)
            campaigns = Campaigns(world.settings, context=Context(world.settings, pools={"local": pool}))
            pace = Pace(0.02, 0.05)
            run_until_ended(campaigns, "c1", pace=pace, show=lambda status: None, advance=True, stop=Stop())
            code = 0
        finally:
            os._exit(code)
    return pid


def running_jobs(world):
    for record in (world.settings.run_dir / "jobs" / "local").glob("*/record"):
        if not (record.parent / "exit").exists():
            yield int(record.read_text().split()[1])


def wait(pid, seconds):
    """Whether the process ended by itself within the time, and well."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(0.01)  # the moment is the point
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def ledger_of(kind, request):
    return None if kind == "sqlite" else request.getfixturevalue("fresh_database")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_engine_and_jobs_killed_at_random_moments_give_the_same_products(kind, make_world, request):
    seed = int(os.environ.get("PACHON_KILL_SEED", "20270101"))
    rng = random.Random(seed)  # noqa: S311 (moments, not secrets)
    rounds = int(os.environ.get("PACHON_KILL_ROUNDS", "4"))
    world = make_world(ledger_url=ledger_of(kind, request), engine={"shortest_job_s": 3, "publish_batch": 3, "flush_s": 0.05})
    retries = {"infrastructure": 50, "signal": 50}
    world.start({"subset": "pair"}, retries=retries)
    for n in range(rounds):
        if wait(engine(world), rng.uniform(0.3, 3.0)):
            break
        if n % 2:
            for group in running_jobs(world):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
    last = engine(world)
    assert wait(last, 120), f"not ended; seed {seed}: {world.campaigns.report('c1')}"
    check(world, seed)


def check(world, seed):
    status = world.campaigns.status("c1")
    assert status.state is CampaignState.SUCCEEDED, f"seed {seed}: {status}"
    assert (status.step("pair").published, status.step("pair").failed) == (16, 0)
    count = {table.name: world.rows(sa.select(sa.func.count()).select_from(table))[0][0] for table in (t.accepted, t.outbox)}
    assert count == {"accepted": 16, "outbox": 16}
    assert world.rows(sa.select(sa.func.count()).select_from(t.quantum))[0][0] == 16
    butler = Butler.from_config(str(world.home / "repo"))
    for kind, add in (("tiny_mid", 1), ("tiny_out", 1001)):
        refs = butler.query_datasets(kind, collections="c1/pair/1")
        assert sorted(butler.get(r)["value"] - add for r in refs) == [0, 0, 1, 1, 2, 2, 3, 3]
    kept = {key.split("/")[1] for key in world.context.archive.list("_a/")}
    assert kept == {r.job for r in world.rows(sa.select(t.accepted.c.job).distinct())}
