"""One suite for every kind of endpoint (docs/adr: protocols with contract suites)."""

import hashlib
import os
import signal
import subprocess
import sys
import threading

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from backbone.endpoints import open_endpoint
from backbone.errors import AccessRefused, ObjectAbsent, ObjectExists, PermanentError, TransientError
from backbone.folder import FolderEndpoint
from backbone.s3 import S3Endpoint

CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@pytest.fixture(scope="session")
def s3_url():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def endpoint(request, tmp_path):
    if request.param == "folder":
        yield FolderEndpoint(tmp_path / "endpoint", name="folder")
        return
    url = request.getfixturevalue("s3_url")
    bucket = f"b{os.urandom(6).hex()}"
    client = boto3.client("s3", endpoint_url=url, config=Config(max_pool_connections=20), **CREDENTIALS)
    client.create_bucket(Bucket=bucket)
    yield S3Endpoint(bucket, "some/prefix", name="s3", client=client)
    client.close()


def test_bytes_come_back_as_they_were_put(endpoint):
    content = os.urandom(100_000)
    put = endpoint.put("a/b/c.bin", content)
    assert endpoint.get("a/b/c.bin") == content
    assert put == endpoint.info("a/b/c.bin")
    assert (put.size, put.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_file_of_several_parts_comes_back_and_is_fetched_whole(endpoint, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20 << 20))
    put = endpoint.put("big", source)
    fetched = endpoint.fetch("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert put.sha256 == fetched.sha256 == endpoint.info("big").sha256


def test_empty_object_is_an_object(endpoint):
    endpoint.put("empty", b"")
    assert endpoint.get("empty") == b""
    assert endpoint.info("empty").size == 0


def test_second_put_replaces_the_first(endpoint):
    endpoint.put("k", b"one")
    endpoint.put("k", b"two")
    assert endpoint.get("k") == b"two"


def test_conditional_create_has_one_winner_of_many_racers(endpoint):
    won, lost = [], []
    start = threading.Barrier(8)

    def race(n):
        start.wait()
        try:
            endpoint.put("prize", str(n).encode(), create_only=True)
            won.append(n)
        except ObjectExists:
            lost.append(n)

    racers = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert (len(won), len(lost)) == (1, 7)
    assert endpoint.get("prize") == str(won[0]).encode()


@pytest.mark.parametrize("action", ["get", "info", "fetch"])
def test_absent_is_said_to_be_absent_and_names_the_object(endpoint, action, tmp_path):
    arguments = ("no/such", tmp_path / "x") if action == "fetch" else ("no/such",)
    with pytest.raises(ObjectAbsent, match="no/such"):
        getattr(endpoint, action)(*arguments)
    assert not (tmp_path / "x").exists()


def test_absent_error_is_also_the_builtin_one(endpoint):
    with pytest.raises(FileNotFoundError):
        endpoint.get("no/such")


def test_listing_is_sorted_complete_and_bound_to_its_prefix(endpoint):
    for key in ("b/2", "b/1", "a/1", "ba/1", "b/c/3"):
        endpoint.put(key, b"x")
    assert list(endpoint.list("b/")) == ["b/1", "b/2", "b/c/3"]
    assert list(endpoint.list("b")) == ["b/1", "b/2", "b/c/3", "ba/1"]
    assert len(list(endpoint.list(""))) == 5
    assert list(endpoint.list("nothing/")) == []


def test_delete_is_repeatable(endpoint):
    endpoint.put("k", b"x")
    endpoint.delete("k")
    endpoint.delete("k")
    with pytest.raises(ObjectAbsent):
        endpoint.get("k")


def test_discard_leaves_nothing_of_a_folder_but_what_is_to_be_kept(endpoint):
    for key in ("a/1", "a/b/2", "a/b/3", "ab/4"):
        endpoint.put(key, b"x")
    assert endpoint.discard("a/", keep={"a/b/2"}) == 2
    assert list(endpoint.list("")) == ["a/b/2", "ab/4"]
    assert endpoint.discard("a/") == 1
    assert endpoint.discard("a/") == 0
    assert list(endpoint.list("")) == ["ab/4"]


@pytest.mark.parametrize("prefix", ["", "/", "a", "../", "a/../"])
def test_discard_takes_one_folder_alone(endpoint, prefix):
    endpoint.put("a/1", b"x")
    with pytest.raises(AccessRefused, match="refused"):
        endpoint.discard(prefix)
    assert list(endpoint.list("")) == ["a/1"]


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\x00b", "a\nb", "a\\b", "ﬁle", "x" * 1025]
)
def test_tricks_with_names_are_refused(endpoint, key):
    for action in (
        lambda: endpoint.put(key, b"x"),
        lambda: endpoint.get(key),
        lambda: endpoint.info(key),
        lambda: endpoint.delete(key),
    ):
        with pytest.raises(AccessRefused, match="refused"):
            action()


def test_key_with_a_hash_and_spaces_is_just_a_key(endpoint):
    endpoint.put("a b/c#d=1.fits", b"x")
    assert list(endpoint.list("a b/")) == ["a b/c#d=1.fits"]


def test_link_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    endpoint = FolderEndpoint(tmp_path / "e", name="e")
    (tmp_path / "e" / "out").symlink_to(tmp_path)
    with pytest.raises(AccessRefused):
        endpoint.get("out/secret")


def test_unreachable_server_is_not_known_rather_than_absent():
    client = boto3.client("s3", endpoint_url="http://127.0.0.1:9", config=Config(retries={"max_attempts": 1}), **CREDENTIALS)
    try:
        with pytest.raises(TransientError):
            S3Endpoint("b", name="gone", client=client).info("k")
    finally:
        client.close()


def test_refusal_is_not_absence():
    from botocore.stub import Stubber

    client = boto3.client("s3", **CREDENTIALS)
    with Stubber(client) as stub:
        stub.add_client_error("head_object", "403", http_status_code=403)
        with pytest.raises(AccessRefused, match="credentials"):
            S3Endpoint("b", name="shut", client=client).info("k")
    client.close()


def test_killed_writer_leaves_nothing_visible(tmp_path):
    """Kill -9 in the middle of a large put: the key is absent, and a later put succeeds."""
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    code = "import sys, pathlib; from backbone.folder import FolderEndpoint, _PART; import backbone.folder as f\n"
    code += "f.sha256_of = lambda c: 'x'\nFolderEndpoint(sys.argv[1], name='e').put('a/k', pathlib.Path(sys.argv[2]))"
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "e", fifo])
    with fifo.open("wb") as pipe:
        pipe.write(b"x" * 4096)
        pipe.flush()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    endpoint = FolderEndpoint(tmp_path / "e", name="e")
    assert list(endpoint.list("")) == []
    with pytest.raises(ObjectAbsent):
        endpoint.get("a/k")
    endpoint.put("a/k", b"whole")
    assert endpoint.get("a/k") == b"whole"
    assert len(list((tmp_path / "e" / "a").iterdir())) == 2, "the half and the whole"
    assert endpoint.discard("a/") == 1
    assert not (tmp_path / "e" / "a").exists()


def test_upload_of_a_killed_writer_is_discarded(s3_url):
    client = boto3.client("s3", endpoint_url=s3_url, **CREDENTIALS)
    client.create_bucket(Bucket="halves")
    for key in ("p/a/k", "p/b/k"):
        client.create_multipart_upload(Bucket="halves", Key=key)
    S3Endpoint("halves", "p", name="s3", client=client).discard("a/")
    assert [u["Key"] for u in client.list_multipart_uploads(Bucket="halves")["Uploads"]] == ["p/b/k"]
    client.close()


def test_endpoints_open_by_uri(tmp_path):
    assert isinstance(open_endpoint(str(tmp_path), name="a"), FolderEndpoint)
    assert open_endpoint(f"file://{tmp_path}", name="a").root == str(tmp_path)
    with pytest.raises(PermanentError, match="ftp"):
        open_endpoint("ftp://x/y", name="a")
