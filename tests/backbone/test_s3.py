"""S3 against a real server: what is refused, what is damaged, what is cut; keys that are replaced."""

import configparser
import hashlib
import os
import ssl
import threading
import time
import uuid

import httpx
import pytest

from backbone.backbone import Backbone
from backbone.digest import DigestReader
from backbone.endpoint import NewObject
from backbone.endpoints import open_endpoint
from backbone.errors import AccessRefused, ChecksumMismatch, EndpointFull, ObjectAbsent, TransientError
from backbone.mover import Mover
from backbone.s3 import translated
from backbone.settings import BackboneEndpoint, BackboneSettings, Link, MoverSettings
from deploy.linkproxy import Links


@pytest.fixture
def first(object_store, credentials):
    with open_endpoint(object_store.uri("first", f"t/{uuid.uuid4().hex}"), name="first", credentials=credentials) as opened:
        yield opened


def changed(credentials, path, profile, **values):
    """A copy of the credentials file in which a profile says something else."""
    profiles = configparser.ConfigParser(interpolation=None)
    profiles.read(credentials)
    profiles[profile].update(values)
    path.touch(mode=0o600)
    with path.open("w") as stream:
        profiles.write(stream)
    return path


def everything(endpoint, tmp_path):
    """Every action, as functions."""
    return {
        "put": lambda: endpoint.put("k", b"x"),
        "put_stream": lambda: endpoint.put_stream("k", (tmp_path / "one").open("rb"), size=1, sha256="0" * 64, about={}),
        "get": lambda: endpoint.get("k"),
        "fetch": lambda: endpoint.fetch("k", tmp_path / "x"),
        "info": lambda: endpoint.info("k"),
        "list": lambda: list(endpoint.list("")),
        "delete": lambda: endpoint.delete("k"),
    }


@pytest.mark.parametrize("wrong", [{"aws_secret_access_key": "wrong"}, {"aws_access_key_id": "nobody"}])
def test_wrong_keys_are_refused_by_every_action_and_never_read_as_absence(object_store, credentials, tmp_path, wrong):
    bad = changed(credentials, tmp_path / "bad.ini", "first", **wrong)
    with open_endpoint(object_store.uri("first"), name="first", credentials=bad) as endpoint:
        for name, action in everything(endpoint, tmp_path).items():
            if name == "put_stream":
                continue
            with pytest.raises(AccessRefused, match="refused"):
                action()
        assert isinstance(endpoint.put_many([NewObject(key="k", content=b"x")])[0], AccessRefused)
        assert isinstance(endpoint.get_many(["k"])[0], AccessRefused)


def test_keys_of_one_bucket_do_not_open_another(object_store, credentials, tmp_path):
    with open_endpoint("s3://first@second/", name="second", credentials=credentials) as endpoint:
        for action in (endpoint.get, endpoint.info, lambda key: endpoint.put(key, b"x")):
            with pytest.raises(AccessRefused, match="refused"):
                action("k")


def test_keys_that_are_replaced_in_the_file_are_used_without_a_restart(object_store, credentials, tmp_path):
    path = changed(credentials, tmp_path / "s3.ini", "first", aws_secret_access_key="expired")
    with open_endpoint(object_store.uri("first", "rotated"), name="first", credentials=path) as endpoint:
        with pytest.raises(AccessRefused):
            endpoint.put("k", b"x")
        path.write_bytes(credentials.read_bytes())
        assert endpoint.put("k", b"x") == endpoint.info("k")


def test_credentials_that_others_can_read_are_not_used(object_store, credentials, tmp_path):
    path = changed(credentials, tmp_path / "open.ini", "first")
    path.chmod(0o644)
    endpoint = open_endpoint(object_store.uri("first"), name="first", credentials=path)
    with pytest.raises(AccessRefused, match="chmod 600"):
        endpoint.info("k")


def test_secrets_are_in_files_of_their_owner_and_on_no_command_line(object_store, credentials):
    node = object_store.nodes["one"]
    secret = node.keys("first")[1]
    for process in node.processes():
        assert secret not in " ".join(process.cmdline())
        assert secret not in str(process.environ())
    for path in (credentials, node.folder / "conf" / "s3.json", node.folder / "conf" / "security.toml"):
        assert path.stat().st_mode & 0o077 == 0
    assert secret not in (node.home / "log" / f"{node.name}.log").read_text()


def test_no_door_behind_s3_opens_to_whoever_is_on_this_machine(object_store, first):
    first.put("k", b"content")
    node = object_store.nodes["one"]
    ports, key = node.ports(), f"{first.prefix}k"
    tls = node.folder / "conf" / "tls"
    nobody, server = (ssl.create_default_context(cafile=tls / "ca.crt") for _ in range(2))
    server.load_cert_chain(tls / "own.crt", tls / "own.key")

    def asked(door, path, scheme="http", method="GET", verify=nobody):
        url = f"{scheme}://127.0.0.1:{ports[door]}{path}"
        try:
            return httpx.request(method, url, verify=verify, trust_env=False).status_code
        except httpx.TransportError:
            return "refused"

    assert asked("s3", f"/first/{key}") == 403
    assert asked("filer", f"/buckets/first/{key}") == 404
    assert asked("filer", "/buckets/first/x", method="PUT") == 404
    # A master that answers gives away tokens to write with, and drops buckets.
    for path in ("/dir/assign", "/dir/lookup?volumeId=1", "/col/delete?collection=first", "/cluster/status"):
        assert asked("master", path) == 400, "it speaks TLS alone"
        assert asked("master", path, "https") == "refused"
    assert asked("master", "/cluster/status", "https", verify=server) == 200
    assert asked("volume", "/status") == 400
    assert asked("volume", "/status", "https") == "refused"
    assert asked("volume", "/1,01", "https", verify=server) == 401, "the certificate alone is no token"
    assert first.get("k") == b"content"


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        ("ExpiredToken", AccessRefused, "expired"),
        ("RequestTimeTooSkewed", TransientError, "clock"),
        ("SlowDown", TransientError, "SlowDown"),
        ("QuotaExceeded", EndpointFull, "no space"),
        ("BadDigest", ChecksumMismatch, "other bytes"),
        ("NoSuchKey", ObjectAbsent, "no such object"),
        ("AccessDenied", AccessRefused, "credentials"),
    ],
)
def test_an_answer_says_what_to_do(code, kind, word):
    error = translated(code, "put k at ncsa")
    assert isinstance(error, kind)
    assert "put k at ncsa" in str(error)
    assert word in str(error)


def test_bytes_that_changed_on_their_way_are_refused_by_the_server(first):
    with pytest.raises(ChecksumMismatch, match="other bytes"):
        first._put("k", b"content", 7, hashlib.sha256(b"c0ntent").hexdigest(), None, create_only=False)
    with pytest.raises(ObjectAbsent):
        first.info("k")


def test_an_object_of_many_parts_is_whole_or_not_there(first, monkeypatch, tmp_path):
    import backbone.s3 as s3

    monkeypatch.setattr(s3, "ONE_REQUEST_BYTES", 1 << 20)
    content = os.urandom(9 << 20)
    (tmp_path / "source").write_bytes(content)
    first._transfer.multipart_threshold, first._transfer.multipart_chunksize = 5 << 20, 5 << 20
    put = first.put("k", tmp_path / "source", about={"a": "b"})
    assert (put.size, put.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (first.get("k"), first.info("k").about) == (content, {"a": "b"})
    with (tmp_path / "source").open("rb") as stream, pytest.raises(ChecksumMismatch):
        first.put_stream("wrong", stream, size=len(content), sha256="0" * 64, about={})
    with pytest.raises(ObjectAbsent):
        first.info("wrong")


def test_a_reader_gives_away_nothing_after_it_found_a_fault(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 10)
    with (tmp_path / "f").open("rb") as stream:
        reader = DigestReader(stream, size=10, sha256="0" * 64, what="read f")
        assert reader.read(9) == b"x" * 9
        with pytest.raises(ChecksumMismatch, match="read f"):
            reader.read(1)


def test_the_server_itself_copies_between_its_buckets_with_keys_that_may(object_store, credentials, tmp_path):
    places = {
        name: BackboneEndpoint(uri=object_store.uri(name, "copied"), credentials=credentials) for name in ("first", "second")
    }
    link = Link(source="first", target="second", server_copy="mover-one")
    settings = BackboneSettings(endpoints=places, links=(link,))
    backbone = Backbone.open(settings, tmp_path)
    about = {"dataset_type": "raw", "collection": "c", "created": time.time()}
    backbone.put("first", "k", b"content of k", about, "tester")
    backbone.require("r", ["k"], "second", by=time.time(), actor="tester")
    with Mover(backbone) as mover:
        done = mover.round()
    assert (done.files, done.failed) == (1, 0), backbone.progress(["r"])
    assert backbone.endpoint("second").get("k") == b"content of k"
    assert backbone.endpoint("second").info("k").about["dataset_type"] == "raw"
    backbone.close()


@pytest.fixture
def links(tmp_path, object_store):
    proxies = Links(tmp_path / "links", {("base", "first"): object_store.nodes["one"].url})
    proxies.up()
    yield proxies
    assert proxies.down() == 1


def test_a_link_that_is_cut_loses_nothing_and_new_data_comes_first_when_it_is_mended(links, object_store, credentials, tmp_path):
    """Done-when 5 on a real server and a real proxy; the rates are tested by the clock in test_mover."""
    places = {
        "base": BackboneEndpoint(uri=str(tmp_path / "base")),
        "first": BackboneEndpoint(uri=object_store.uri("first", uuid.uuid4().hex), credentials=credentials),
    }
    link = Link(source="base", target="first", url=links.url("base", "first"), concurrent=1)
    mover = MoverSettings(batch=4, behind_s=0.01, retry_min_s=0.1, retry_max_s=0.2)
    backbone = Backbone.open(BackboneSettings(endpoints=places, links=(link,), mover=mover), tmp_path)
    stop = threading.Event()

    def put(prefix, count):
        keys = [f"{prefix}/{n:02d}" for n in range(count)]
        for key in keys:
            about = {"dataset_type": "raw", "collection": "c", "created": time.time()}
            backbone.put("base", key, os.urandom(2000), about, "tester")
        backbone.require(prefix, keys, "first", by=time.time() + 60, actor="tester")
        return keys

    def wait(condition, what):
        limit = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < limit, what
            stop.wait(0.05)

    links.tell("base", "first", is_cut=True)
    wait(lambda: not _answers(links), "the link was not cut")
    old = put("old", 24)
    worker = Mover(backbone)
    thread = threading.Thread(target=worker.run, args=(stop,))
    try:
        thread.start()
        wait(lambda: backbone.progress(["old"])["old"].first_reason, "no reason was said")
        assert backbone.progress(["old"])["old"].ok == 0
        new = put("new", 2)
        links.tell("base", "first")
        wait(lambda: backbone.progress(["new"])["new"].done, "the new files did not come")
        assert backbone.progress(["old"])["old"].ok < len(old), "the new ones did not wait for the backlog"
        wait(lambda: backbone.progress(["old"])["old"].done, "the backlog did not drain")
    finally:
        stop.set()
        thread.join()
        worker.close()
    for key in old + new:
        assert backbone.endpoint("first").get(key) == backbone.endpoint("base").get(key)
    assert backbone.progress(["old"])["old"].stuck == 0
    backbone.close()


def _answers(links):
    try:
        httpx.get(links.url("base", "first"), trust_env=False, timeout=5)
    except httpx.HTTPError:
        return False
    return True
