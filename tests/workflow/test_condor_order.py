"""Whom a real pool serves first, and that it serves everyone: groups in their order, no quota that keeps a job waiting."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest

from tests.workflow.real_pool import SMALL, daemon, requests, states, until
from workflow.pools.pool import PoolState

WAITER = """
import sys, pathlib, time
open(%r, "a").write(sys.argv[1][0])
while not pathlib.Path(%r).exists(): time.sleep(.05)
"""


@contextmanager
def no_negotiation(server):
    """The negotiator stands still meanwhile, and then meets all at once who waits."""
    negotiator = daemon(server, "condor_negotiator")
    negotiator.suspend()
    try:
        yield
    finally:
        negotiator.resume()


def waiting(server):
    """Idle jobs of each group, as its schedd advertises them."""
    lines = server.command("condor_status", "-submitters", "-af", "Name", "IdleJobs").stdout.splitlines()
    return Counter({line.partition(".")[0]: int(line.split()[1]) for line in lines})


def test_what_is_urgent_goes_first_and_a_slot_stays_free_for_the_night(opened, message, condor, tmp_path):
    pool = opened(program=WAITER % (str(tmp_path / "order"), str(tmp_path / "go")), over={"hold": "true"})
    general = condor.slots - condor.settings.reserved
    low = [f"d{n}" for n in range(general + 2)]
    pool.submit_many(requests(low, message, "drp") + requests(["o1"], message, "offline"))
    until(lambda: set(states(pool, [*low, "o1"])) == {PoolState.HELD})
    with no_negotiation(condor.server("ncsa")):
        pool.release([*low, "o1"])
        until(lambda: waiting(condor.server("ncsa")) >= Counter(drp=len(low), offline=1))  # or more: another test's may end late
    until(lambda: states(pool, [*low, "o1"]).count(PoolState.RUNNING) == general)
    assert pool.poll(["o1"])["o1"].state is PoolState.RUNNING
    assert pool.capacity("drp") == 0
    pool.submit_many(requests(["p1"], message, "prompt"))
    pool.release(["p1"])
    until(lambda: pool.poll(["p1"])["p1"].state is PoolState.RUNNING)
    assert states(pool, [*low, "o1"]).count(PoolState.RUNNING) == general
    (tmp_path / "go").touch()
    until(lambda: set(states(pool, [*low, "o1", "p1"])) == {PoolState.EXITED})
    assert (tmp_path / "order").read_text()[general] == "p"


@pytest.fixture
def ghost(opened, message, condor, tmp_path):
    """A claimed slot in the collector, of which nothing else is left: its startd was killed, or the schedd that claimed it."""
    pool, server = opened(program="import time; time.sleep(60)"), condor.server("ncsa")
    pool.submit("a", message, SMALL)
    of_ours = ("-constraint", 'SlotType == "Dynamic" && AccountingGroup =!= undefined')
    until(lambda: server.command("condor_status", *of_ours, "-af", "Name").stdout)
    ad = server.command("condor_status", *of_ours, "-long").stdout.strip().partition("\n\n")[0]
    pool.kill("a")
    until(lambda: pool.poll(["a"])["a"].state is PoolState.GONE)
    until(lambda: not server.command("condor_status", *of_ours, "-af", "Name").stdout)
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.write_text(ad.replace("slot1_", "slot1_9") + "\n")
    gone.write_text('MyType = "Query"\nTargetType = "Machine"\nRequirements = regexp("^slot1_9", Name)\n')
    assert server.command("condor_advertise", "UPDATE_STARTD_AD", str(there)).returncode == 0
    yield
    assert server.command("condor_advertise", "INVALIDATE_STARTD_ADS", str(gone)).returncode == 0
    until(lambda: not server.command("condor_status", *of_ours, "-af", "Name").stdout)


def test_a_job_does_not_wait_because_of_a_claim_that_nobody_has_any_more(ghost, opened, message):
    pool = opened()
    pool.submit("b", message, SMALL)
    until(lambda: pool.poll(["b"])["b"].state is PoolState.EXITED)
