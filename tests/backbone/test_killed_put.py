"""kill -9 of writers, again and again: what was acknowledged is there byte for byte, and nothing half is ever seen."""

import os
import signal
import subprocess
import sys
import time

import pytest

from backbone import tables as t
from backbone.endpoint import sha256_of

# Puts numbered objects until it is killed, and says of each that it is there once put has returned.
WRITER = """
import sys
import time
from pathlib import Path
from backbone.backbone import Backbone
from backbone.settings import BackboneEndpoint, BackboneSettings

home, url, writer = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
backbone = Backbone.open(BackboneSettings(endpoints={"base": BackboneEndpoint(uri="base")}, catalog=url), home)
about = {"dataset_type": "raw", "collection": "c", "created": 1.0}
number = 0
print("ready", flush=True)
while True:
    content = f"{writer} {number} ".encode() * 200
    backbone.put("base", f"{writer}/{number:06d}", content, about, "writer")
    print(number, flush=True)
    number += 1
"""


@pytest.mark.kill
def test_what_a_killed_writer_was_told_is_there_and_the_rest_is_whole_or_nothing(make_place, catalog_url):
    place = make_place(catalog_url, places=("base",))
    home = place.backbone.home
    acknowledged = {}
    for kill in range(2):
        command = [sys.executable, "-c", WRITER, str(home), catalog_url, f"w{kill}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            said = [writer.stdout.readline() for _ in range(5 + 3 * kill)]
            os.kill(writer.pid, signal.SIGKILL)
            said += writer.stdout.readlines()
        for number in (int(line) for line in said if line.endswith("\n")):
            acknowledged[f"w{kill}/{number:06d}"] = f"w{kill} {number} ".encode() * 200
    base = place.backbone.endpoint("base")
    _check(place, base, acknowledged)
    place.time = time.time() + 3601
    report = place.backbone.sweep("base")
    assert place.count(t.intent) == 0
    assert (report.lost, report.unknown) == (0, 0)
    place.time += 3601
    place.backbone.sweep("base")
    _check(place, base, acknowledged)
    registered = {row.key for row in place.catalog.all(t.file.select())}
    assert registered == set(base.list("w")), "objects and rows are the same after the sweep"


def _check(place, base, acknowledged):
    keys = set(acknowledged)
    assert place.backbone.present(keys, "base") == keys
    for key, content in acknowledged.items():
        assert base.get(key) == content
    for row in place.catalog.all(t.file.select()):
        assert sha256_of(base.get(row.key)) == row.sha256, "a row without its whole object"
