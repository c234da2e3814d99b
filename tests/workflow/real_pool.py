"""What tests of a real pool say again and again."""

from __future__ import annotations

import contextlib
import time

import psutil

from workflow.pools.pool import JobRequest, Resources

SMALL = Resources(memory_mb=100)
PATIENCE_S = 60


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)  # another process must come to it


def daemon(server, name):
    """The one process of a pool that has this name; a daemon's forks have it too, for a moment."""
    found = []
    while len(found) != 1:
        found = []
        for process in server.leader.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == name:
                    found.append(process)
    return found[0]


def requests(names, message, group):
    asked = Resources(memory_mb=100, group=group)
    return [JobRequest(key=name, message=message, resources=asked) for name in names]


def states(pool, keys):
    return [job.state for job in pool.poll(keys).values()]
