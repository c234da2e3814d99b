"""The engine's loops while what they need is away, and what a round asks the ledger for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from backbone.errors import TransientError
from workflow.clock import FakeClock
from workflow.lock import LockLost
from workflow.loop import Pace, Stop, run_engine, run_until_ended


class Shaky:
    """Campaigns whose ledger answers at the third asking, in each of what a loop asks for."""

    def __init__(self, error):
        self.error, self.asked = error, {"advance": 0, "status": 0, "live": 0}

    def _answer(self, what, answer):
        self.asked[what] += 1
        if self.asked[what] < 3:
            raise self.error
        return answer

    def prepare(self):
        pass

    def advance(self, name):
        return self._answer("advance", SimpleNamespace(ended=True))

    def status(self, name):
        return self._answer("status", SimpleNamespace(ended=True))

    def live(self):
        return self._answer("live", [])


@pytest.mark.parametrize("error", [TransientError("away"), LockLost("another engine has it")])
@pytest.mark.parametrize("advance", [True, False])
def test_who_waits_for_a_campaign_outlives_a_ledger_that_is_away(advance, error):
    shaky = Shaky(error)
    status = run_until_ended(shaky, "c1", pace=Pace(0.1, 1), show=lambda _: None, advance=advance, stop=Stop(), clock=FakeClock())
    assert status.ended
    assert shaky.asked["advance" if advance else "status"] >= 3


def test_an_engine_outlives_whatever_its_ledger_says():
    shaky, stop = Shaky(RuntimeError("nobody expected this")), Stop()

    class Clock(FakeClock):
        def sleep(self, seconds):
            stop.asked = shaky.asked["live"] >= 3

    run_engine(shaky, stop=stop, pace=Pace(0.1, 1), clock=Clock())
    assert shaky.asked["live"] == 3


def test_who_has_work_is_found_without_the_jobs_of_years(world):
    said = []
    sa.event.listen(world.ledger._engine, "before_cursor_execute", lambda *a: said.append((a[2], a[3])))
    world.campaigns.live()
    (statement, parameters) = next(one for one in said if "FROM campaign" in one[0])
    with world.ledger.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert any("USING INDEX unswept" in row[3] or "USING COVERING INDEX unswept" in row[3] for row in plan), plan
