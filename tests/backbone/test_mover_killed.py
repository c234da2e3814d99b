"""Real movers, killed again and again; whoever comes next ends the work."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from backbone.backbone import Backbone
from backbone.endpoint import sha256_of
from backbone.settings import BackboneEndpoint, BackboneSettings, MoverSettings


@pytest.mark.kill
def test_kill_at_any_moment_leaves_nothing_half_and_the_next_mover_ends_the_work(tmp_path):
    """Real processes, killed again and again; a short lease so that the next one goes on."""
    places = {name: BackboneEndpoint(uri=name) for name in ("base", "ncsa")}
    settings = BackboneSettings(endpoints=places, mover=MoverSettings(lease_s=0.5, batch=4, small_bytes=1000))
    (tmp_path / "pachon.yaml").write_text(yaml.safe_dump({"backbone": settings.model_dump(mode="json", exclude_unset=True)}))
    backbone = Backbone.open(settings, tmp_path)
    contents = {f"k/{n}": os.urandom(200 if n % 2 else 2_000_000) for n in range(12)}
    try:
        for key, content in contents.items():
            about = {"dataset_type": "raw", "collection": "c", "created": time.time()}
            backbone.put("base", key, content, about, "tester")
        backbone.require("all", list(contents), "ncsa", by=time.time(), actor="tester")
        argv = [sys.executable, "-m", "deploy.cli", "backbone", "mover", "--home", str(tmp_path)]
        kills, limit = 0, time.monotonic() + 60
        while not backbone.progress(["all"])["all"].done:
            assert time.monotonic() < limit, backbone.progress(["all"])
            mover = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ok = backbone.progress(["all"])["all"].ok
            # It is killed in the middle of its work: as soon as something more has arrived.
            while mover.poll() is None and (kills > 1 or backbone.progress(["all"])["all"].ok == ok) and time.monotonic() < limit:
                if backbone.progress(["all"])["all"].done:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    mover.wait(0.1)
                for key in backbone.endpoint("ncsa").list("k/"):
                    assert backbone.endpoint("ncsa").info(key).sha256 == sha256_of(contents[key]), "whole or not at all"
            mover.send_signal(signal.SIGKILL)
            mover.wait()
            kills += 1
        assert kills >= 1
        assert {key: backbone.endpoint("ncsa").get(key) for key in contents} == contents
    finally:
        backbone.close()
