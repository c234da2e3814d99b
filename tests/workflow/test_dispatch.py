"""Into jobs of which size quanta go, how many jobs wait, and what they ask for."""

from __future__ import annotations

import sys

import sqlalchemy as sa

from workflow import stats
from workflow.job import JobMessage, heartbeat_key
from workflow.ledger import tables as t
from workflow.pools.description import description, quantised_mb
from workflow.pools.pool import JobRequest, PoolState, Resources
from workflow.pools.settings import HTCondorPool

SCOUTS = {"scout_quanta": 2, "first_quantum_s": 0.01}


def sizes(world, name):
    """Quanta of each job of a campaign, the first job first."""
    return [r.quanta for r in world.rows(sa.select(t.job).where(t.job.c.campaign == name).order_by(t.job.c.created, t.job.c.id))]


def test_first_jobs_of_an_unknown_task_are_scouts_and_what_they_took_is_known_to_a_later_engine_and_campaign(make_world):
    world = make_world(engine=SCOUTS)
    world.start({"subset": "pair"})
    world.finish()
    assert sizes(world, "c1") == [2, 14]
    later = make_world(engine=SCOUTS)  # another engine, in the same home
    later.start({"subset": "pair"}, name="c2")
    later.finish("c2")
    assert sizes(later, "c2") == [16]


def test_jobs_that_wait_have_a_ceiling_for_each_priority_class_and_low_priority_does_not_use_up_that_of_high(
    condor, tmp_path, monkeypatch
):
    pool = condor.pool(tmp_path / "jobs", command=[sys.executable, "-c", "pass"], idle_ceiling=2, idle_ahead=8, reconcile_s=0.5)
    message = tmp_path / "message.json"
    message.write_text("{}")
    never = Resources(memory_mb=10**6, group="drp")  # no machine has that: it waits
    try:
        assert pool.capacity("drp") == 2
        pool.submit("a", message, never)
        assert pool.capacity("drp") == 1
        pool.submit("b", message, never)
        assert {job.state for job in pool.poll(["a", "b"]).values()} == {PoolState.PENDING}
        assert pool.capacity("drp") == 0
        assert pool.capacity("offline") == 2
    finally:
        pool.kill_many(["a", "b"])


def test_what_jobs_ask_for_is_rounded_so_that_few_kinds_of_them_are_there_to_match():
    assert {quantised_mb(mb) for mb in range(1, 4097)} == {512 * n for n in range(1, 9)}
    assert all(quantised_mb(mb) >= mb for mb in range(1, 4097))


def test_a_job_bears_its_key_and_its_group_in_the_order_of_the_productions(tmp_path):
    pool = HTCondorPool(kind="htcondor", slots=2)

    def made(group):
        request = JobRequest(key="k", message=tmp_path / "m", resources=Resources(memory_mb=1, group=group))
        return description(pool, [request], folder=tmp_path, marks={"PachonSite": "ncsa"}, owner="o", command=["python"])

    assert made("drp")["My.PachonKey"] == '"$(key)"'
    groups = [made(name)["accounting_group"] for name in ("prompt", "offline", "ocs_batch", "cpp", "drp")]
    assert len(set(groups)) == 5


def test_memory_that_a_task_was_found_to_need_is_asked_for_by_the_next_campaign(world):
    needed = stats.Sample(label="first", wall_s=0.1, peak_mb=100, grown_mb=4096)
    with world.ledger.begin() as connection:
        stats.learn(world.ledger, connection, "tiny", [needed])
    world.start({"subset": "pair"})
    world.finish()
    assert {r.memory_mb for r in world.pool.resources.values()} == {4096}


def test_a_host_that_failed_again_and_again_is_named_to_the_pool_as_one_to_keep_away_from(make_world):
    world = make_world(engine={"scout_quanta": 1, "shortest_job_s": 0, "first_quantum_s": 1000})  # one quantum a job
    done = []

    def run(message):
        done.append(JobMessage.model_validate_json(message.read_text()).attempt)
        if len(done) not in (2, 3):
            return world.do(message)
        world.context.endpoint("local").put(heartbeat_key(done[-1]), b'{"host": "bad"}')
        return 1

    world.pool._run = run
    world.start({"subset": "pair", "chunk": {"max_quanta": 1}}, hosts={"failures": 2, "within_s": 1000, "avoid_s": 2000})
    world.finish()
    asked = [world.pool.resources[key].never_machines for key in done]
    assert asked[:3] == [(), (), ()]
    assert set(asked[4:]) == {("bad",)}
