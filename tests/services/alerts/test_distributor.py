"""The distributor's loop while what it needs is away; with a real broker: test_killed.py."""

import threading
from types import SimpleNamespace

from backbone.errors import TransientError
from services.alerts import distributor as module
from services.alerts.distributor import Distributor


def test_a_database_that_is_away_is_asked_again(monkeypatch):
    stop, asked = threading.Event(), []

    def streams():
        asked.append(1)
        if len(asked) < 3:
            raise TransientError("the database did not answer")
        stop.set()
        return {}

    monkeypatch.setattr(module, "_IDLE_S", 0.001)
    Distributor(SimpleNamespace(streams=streams), None, None).run(stop)
    assert len(asked) == 3
