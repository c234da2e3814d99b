"""What lives is out of the collector's sight before a fork, and what was left in circles does not stay for ever."""

from __future__ import annotations

import gc
import weakref

import pytest

from backbone import garbage


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


class Ring:
    def __init__(self):
        self.me = self


def test_circles_that_were_frozen_are_looked_for_once_memory_has_grown(monkeypatch):
    size_mb = 100.0
    monkeypatch.setattr(garbage, "rss_mb", lambda _pid: size_mb)
    monkeypatch.setattr(garbage, "_looked_mb", None)
    ring = Ring()
    left = weakref.ref(ring)
    garbage.freeze()
    assert gc.get_freeze_count() > 0
    del ring
    gc.collect()
    assert left() is not None, "frozen"
    size_mb += 10
    garbage.freeze()
    assert left() is not None, "not worth a look"
    size_mb += 100
    garbage.freeze()
    assert left() is None
