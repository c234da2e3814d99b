"""What a process has used is noted under the same names, with values of the same kinds, as by lsst.utils."""

from __future__ import annotations

import logging

from lsst.pipe.base import TaskMetadata
from lsst.utils import timer

from payloads.runner import usage


class Timed:
    """As a task: with metadata and a log."""

    def __init__(self):
        self.metadata, self.log = TaskMetadata(), logging.getLogger("tests.timed")


def noted(note, *prefixes):
    metadata = TaskMetadata()
    for prefix in prefixes:
        note(None, prefix, metadata=metadata)
    return metadata


def shape(metadata):
    return list(metadata.scalars.items()), [(name, [type(v) for v in values]) for name, values in metadata.arrays.items()]


def test_names_order_and_kinds_are_theirs_also_of_what_is_noted_twice():
    ours, theirs = (noted(note, "prep", "end", "end") for note in (usage.note, timer.logInfo))
    assert shape(ours) == shape(theirs)
    assert 0 <= theirs["prepCpuTime"] - ours["prepCpuTime"] < 60
    assert 0 <= theirs["prepMaxResidentSetSize"] - ours["prepMaxResidentSetSize"] < 1 << 30


def test_a_timed_method_of_a_task_has_its_times_and_what_is_logged_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(timer, "logInfo", usage.note)
    wrapped, task = timer.timeMethod(lambda _self: 3), Timed()
    with caplog.at_level(logging.INFO, "timer"):
        assert wrapped(task) == 3
    assert not caplog.records
    silent = shape(task.metadata)
    task.metadata = TaskMetadata()
    with caplog.at_level(logging.DEBUG, "timer"):
        wrapped(task)
    assert ["CpuTime=" in record.getMessage() for record in caplog.records] == [True, True]
    assert shape(task.metadata) == silent
