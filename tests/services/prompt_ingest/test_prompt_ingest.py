"""Frames from two cameras, each at the door of an instance of its own, to the prompt endpoint and the workers' queues."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import httpx
import numpy as np
import pytest
import yaml
from astropy.io import fits

from backbone.endpoints import open_endpoint
from backbone.messages.opened import MessageSettings, open_transport
from backbone.messages.prompt import queue_of, read_order
from services.prompt_ingest.announced import Announced, FrameRefused
from services.prompt_ingest.app import HEADER
from services.prompt_ingest.camera import Camera
from services.prompt_ingest.cli import address_file, token_of
from services.prompt_ingest.spool import Spool

PATIENCE_S = 90.0
CAMERAS = {"main": "SimCam", "com": "ComCam"}


def fits_bytes(seed=0):
    """A small whole FITS file."""
    hdu = fits.PrimaryHDU(np.full((8, 8), seed, np.uint16))
    return b"".join([hdu.header.tostring().encode(), _padded(np.full((8, 8), seed, ">i2").tobytes())])


def _padded(content):
    return content + bytes(-len(content) % 2880)


class Instance:
    """One camera's prompt ingest, a process."""

    def __init__(self, home, name):
        self.home, self.name = home, name
        self.process = None

    def start(self):
        address_file(self.home, self.name).unlink(missing_ok=True)
        command = [sys.executable, "-m", "deploy.cli", "prompt-ingest", self.name, "--home", str(self.home)]
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        limit = time.monotonic() + PATIENCE_S
        while not self.healthy():
            assert time.monotonic() < limit, (self.home / f"{self.name}.log").read_text()
            time.sleep(0.1)

    def healthy(self):
        try:
            return httpx.get(f"{self.url()}/status", headers=self.headers, trust_env=False).status_code == 200
        except (httpx.HTTPError, FileNotFoundError):
            return False

    @property
    def headers(self):
        return {"Authorization": f"Bearer {token_of(self.home, self.name)}"}

    def url(self):
        return address_file(self.home, self.name).read_text().strip()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait()

    def camera(self):
        return Camera(self.url, token_of(self.home, self.name), patience_s=PATIENCE_S)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Settings of two cameras."""
    made = tmp_path_factory.mktemp("home")
    cameras = {name: {"instrument": instrument} for name, instrument in CAMERAS.items()}
    (made / "pachon.yaml").write_text(yaml.safe_dump({"services": {"prompt_ingest": {"cameras": cameras}}}))
    return made


@pytest.fixture(scope="module")
def instances(home):
    """Both, running."""
    made = {name: Instance(home, name) for name in CAMERAS}
    for one in made.values():
        one.start()
    yield made
    for one in made.values():
        one.stop()


def arrivals(home, instrument, detector, count):
    """What the worker of a detector was told, without repetitions."""
    found = {}
    queue = queue_of(instrument, detector)
    with closing(open_transport(MessageSettings(), home)) as transport, closing(transport.receiver(queue)) as receiver:
        limit = time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < limit:
            if (delivery := receiver.receive(0.5)) is not None:
                said = read_order(dict(delivery.body))
                found[said.exposure] = said
                receiver.acknowledge(delivery)
    return found


def test_each_cameras_frames_reach_the_endpoint_and_its_workers_queue(home, instances):
    store = open_endpoint(str(home / "repo"), name="prompt")
    for name, instrument in CAMERAS.items():
        with closing(instances[name].camera()) as camera:
            for exposure in (1, 2):
                content = fits_bytes(exposure)
                camera.send(content, exposure=exposure, detector=0, visit=1, exposures=(1, 2), readout_end=time.time())
        found = arrivals(home, instrument, 0, 2)
        assert sorted(found) == [1, 2]
        for exposure, said in found.items():
            assert (said.instrument, said.visit, said.exposures) == (instrument, 1, (1, 2))
            assert store.get(said.key) == fits_bytes(exposure)
            assert said.readout_end <= said.stored < said.readout_end + PATIENCE_S
    assert Spool(home / "spool" / "main").depth() == 0


def test_no_frame_is_lost_though_ingest_is_killed_again_and_again(home, instances):
    one, exposures = instances["main"], range(100, 124)
    with closing(one.camera()) as camera:
        for number, exposure in enumerate(exposures):
            if number % 8 == 4:
                one.stop(signal.SIGKILL)
                one.start()
            camera.send(fits_bytes(exposure), exposure=exposure, detector=3, readout_end=time.time())
    one.stop(signal.SIGKILL)  # with frames on their way
    one.start()
    found = arrivals(home, "SimCam", 3, len(exposures))
    assert sorted(found) == list(exposures)
    store = open_endpoint(str(home / "repo"), name="prompt")
    assert all(hashlib.sha256(store.get(said.key)).hexdigest() == said.sha256 for said in found.values())


def announced(**other):
    given = {"exposure": 7, "detector": 0, "visit": 7, "exposures": [7], "readout_end": 1.0, "sha256": "0" * 64}
    return given | other


@pytest.mark.parametrize(
    ("said", "body", "words"),
    [
        ("no json", b"", "no JSON"),
        ([1], b"", "expected keys and values"),
        (announced(readout_end=None), b"", "readout_end"),
        (announced(exposures=[8]), b"", "none of its visit's exposures"),
        (announced(exposure=-1), b"", "greater than or equal to 0"),
        (announced(expsure=1), b"", "did you mean 'exposure'"),
        (announced(), b"garbage", "not 0000"),
        (announced(sha256=hashlib.sha256(b"garbage").hexdigest()), b"garbage", "no whole FITS file"),
        (announced(readout_end=1e300), b"", "no time"),
        ("[" * 20_000, b"", "no JSON"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(instances, said, body, words):
    text = said if isinstance(said, str) else json.dumps(said)
    answer = httpx.post(
        f"{instances['com'].url()}/frames", content=body, headers={**instances["com"].headers, HEADER: text}, trust_env=False
    )
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text


def test_without_the_cameras_own_token_nobody_is_let_in(instances):
    other = instances["main"].headers
    for headers in ({}, {"Authorization": "Bearer x"}, other):
        for method, path in (("POST", "/frames"), ("GET", "/status")):
            answer = httpx.request(method, f"{instances['com'].url()}{path}", headers=headers, trust_env=False)
            assert answer.status_code == 401


def test_a_refused_frame_is_not_sent_again(instances):
    with closing(instances["com"].camera()) as camera, pytest.raises(FrameRefused, match="no whole FITS"):
        camera.send(b"no fits", exposure=1, detector=0, readout_end=1.0)


def test_a_frame_of_which_a_death_left_half_is_no_frame(tmp_path):
    spool = Spool(tmp_path / "spool")
    said = Announced(**announced())
    entry = spool.put(said, b"whole", 2.0)
    (spool.folder / f".{said.name}.json.{os.getpid()}.part").write_bytes(b'{"announ')
    spool.path(entry).with_name("other.fits").write_bytes(b"bytes that nobody vouched for")
    assert [one.announced.name for one in spool.entries()] == [said.name]
    spool.done(entry)
    assert list(spool.entries()) == []


def test_a_frame_that_a_camera_sends_twice_at_once_is_kept_whole(tmp_path, monkeypatch):
    spool, content = Spool(tmp_path / "spool"), fits_bytes()
    said = Announced(**announced(sha256=hashlib.sha256(content).hexdigest()))
    both, real = threading.Barrier(2, timeout=10), os.fsync

    def fsync(descriptor):
        with suppress(threading.BrokenBarrierError):
            both.wait()  # each has its file open, and has written
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(spool.put, said, content, 2.0) for _ in range(2))
        assert first.result() == second.result()
    assert spool.path(first.result()).read_bytes() == content
    assert sorted(path.name for path in spool.folder.iterdir()) == [f"{said.name}.fits", f"{said.name}.json"]


def test_other_bytes_under_the_name_of_a_frame_that_waits_are_refused_and_the_first_stays(tmp_path):
    spool = Spool(tmp_path / "spool")
    first, other = (Announced(**announced(sha256=hashlib.sha256(content).hexdigest())) for content in (b"one", b"two"))
    entry = spool.put(first, b"one", 2.0)
    with pytest.raises(FrameRefused, match="two frames must not have one number"):
        spool.put(other, b"two", 3.0)
    assert (list(spool.entries()), spool.path(entry).read_bytes()) == ([entry], b"one")
    spool.done(entry)
    spool.put(other, b"two", 3.0)
