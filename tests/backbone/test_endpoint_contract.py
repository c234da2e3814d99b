"""One suite for every kind of endpoint (docs/adr: protocols with contract suites)."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import boto3
import pytest
from botocore.config import Config

from backbone.archive import ArchiveEndpoint, ArchiveSettings
from backbone.endpoint import NewObject
from backbone.endpoints import open_endpoint
from backbone.errors import AccessRefused, ChecksumMismatch, ObjectAbsent, ObjectExists, PermanentError, TransientError
from backbone.folder import FolderEndpoint
from backbone.s3 import S3Endpoint

CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


NOT_OF_AN_ARCHIVE = {
    "test_second_put_replaces_the_first": "it is written once",
    "test_delete_is_repeatable": "it keeps what it has",
    "test_discard_leaves_nothing_of_a_folder_but_what_is_to_be_kept": "it keeps what it has",
    "test_a_stream_is_stored_if_it_is_what_is_said_of_it": "it takes whole objects, in two copies",
    "test_a_stream_that_is_something_else_leaves_nothing": "it takes whole objects, in two copies",
    "test_a_stream_that_breaks_says_why_and_leaves_nothing": "it takes whole objects, in two copies",
}


@pytest.fixture(params=["folder", "s3", "archive", "faulty"])
def endpoint(request, tmp_path, faulty):
    if request.param in ("folder", "faulty"):
        folder = FolderEndpoint(tmp_path / "endpoint", name="folder")
        if request.param == "faulty" and "stream" in request.function.__name__:
            pytest.skip("the faulty endpoint knows no streams, so that copies go the other way too")
        yield folder if request.param == "folder" else faulty(folder)
        return
    if request.param == "archive":
        if why := NOT_OF_AN_ARCHIVE.get(request.function.__name__):
            pytest.skip(f"an archive: {why}")
        copies = [FolderEndpoint(tmp_path / name, name=name) for name in ("near", "off-site")]
        yield ArchiveEndpoint(*copies, name="archive", folder=tmp_path / "recall", settings=ArchiveSettings(mount_s=0.01))
        return
    store, credentials = request.getfixturevalue("object_store"), request.getfixturevalue("credentials")
    with open_endpoint(store.uri("first", f"tests/{uuid.uuid4().hex}"), name="s3", credentials=credentials) as opened:
        yield opened


@pytest.fixture
def s3_endpoint(object_store, credentials):
    with open_endpoint(object_store.uri("first", f"tests/{uuid.uuid4().hex}"), name="s3", credentials=credentials) as opened:
        yield opened


def test_bytes_come_back_as_they_were_put(endpoint):
    content = os.urandom(100_000)
    put = endpoint.put("a/b/c.bin", content)
    assert endpoint.get("a/b/c.bin") == content
    assert put == endpoint.info("a/b/c.bin")
    assert (put.size, put.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_an_object_carries_what_it_is_about(endpoint):
    about = {"owner": "José", "tags": '["a"]', "created": "1.5"}
    endpoint.put("a/k", b"x", about=about)
    endpoint.put("a/plain", b"x")
    assert endpoint.info("a/k").about == about
    assert endpoint.info("a/plain").about == {}
    assert list(endpoint.list("")) == ["a/k", "a/plain"]


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
    "key",
    [
        *("", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\x00b", "a\nb", "a\\b", "x" * 1025),
        *("\ufb01le", "\u2024\u2024/x"),  # a ligature; two dots that are one sign each
        *("r\u0430w/1", "cal/\u0455kyflat"),  # letters of Cyrillic in Latin words
        *("a\u2215b", "a\u200bb", "a\u202eb"),  # a slash that is none; no width; the other direction of writing
    ],
)
def test_tricks_with_names_are_refused_and_logged(endpoint, key, caplog):
    for action in (
        lambda: endpoint.put(key, b"x"),
        lambda: endpoint.get(key),
        lambda: endpoint.info(key),
        lambda: endpoint.delete(key),
    ):
        caplog.clear()
        with pytest.raises(AccessRefused, match="refused"):
            action()
        # Of warnings: whatever ran before in this process may have made libraries more talkative.
        assert [r.name for r in caplog.records if r.levelname == "WARNING"] == ["backbone.refused"]
        assert repr(key) in caplog.text


@pytest.mark.parametrize("key", ["día/ángulo 1", "снимок/1", "観測/生データ/raw 1"])
def test_names_in_other_tongues_are_names(endpoint, key):
    endpoint.put(key, b"x")
    assert list(endpoint.list("")) == [key]
    assert endpoint.get(key) == b"x"


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
    code = "import sys, pathlib; from backbone.folder import FolderEndpoint\n"
    code += "FolderEndpoint(sys.argv[1], name='e').put('a/k', pathlib.Path(sys.argv[2]))"
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "e", fifo])
    with fifo.open("wb") as pipe:
        pipe.write(b"x" * 4096)
        pipe.flush()
        limit = time.monotonic() + 60
        while not list((tmp_path / "e").glob("a/*")):
            assert time.monotonic() < limit, "the writer never began"
            time.sleep(0.01)
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


def test_upload_of_a_killed_writer_is_discarded(object_store, credentials):
    with open_endpoint(object_store.uri("first", "halves"), name="s3", credentials=credentials) as endpoint:
        client = endpoint._client
        for key in ("halves/a/k", "halves/b/k"):
            client.create_multipart_upload(Bucket="first", Key=key)
        endpoint.discard("a/")
        assert [u["Key"] for u in client.list_multipart_uploads(Bucket="first", Prefix="halves/")["Uploads"]] == ["halves/b/k"]


def test_a_stream_is_stored_if_it_is_what_is_said_of_it(endpoint):
    content = os.urandom(300_000)
    said = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "about": {"owner": "anna"}}
    put = endpoint.put_stream("a/k", io.BytesIO(content), **said)
    assert put == endpoint.info("a/k")
    assert endpoint.info("a/k").about == {"owner": "anna"}
    with endpoint.open("a/k") as stream:
        assert stream.read(1000) + stream.read() == content


@pytest.mark.parametrize("wrong", ["bytes", "shorter", "longer"])
def test_a_stream_that_is_something_else_leaves_nothing(endpoint, wrong):
    content = os.urandom(300_000)
    said = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "about": {}}
    other = {"bytes": content[:-1] + bytes([content[-1] ^ 1]), "shorter": content[:-1], "longer": content + b"x"}[wrong]
    with pytest.raises(ChecksumMismatch, match="a/k"):
        endpoint.put_stream("a/k", io.BytesIO(other), **said)
    with pytest.raises(ObjectAbsent):
        endpoint.info("a/k")


def test_a_stream_that_breaks_says_why_and_leaves_nothing(endpoint):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= 100_000:
                raise TransientError("the other side is gone")
            return super().read(min(size, 100_000) if size and size > 0 else 100_000)

    with pytest.raises(TransientError, match="the other side is gone"):
        endpoint.put_stream("a/k", Broken(bytes(300_000)), size=300_000, sha256="0" * 64, about={})
    with pytest.raises(ObjectAbsent):
        endpoint.info("a/k")


def test_many_small_objects_go_and_come_each_with_its_own_answer(s3_endpoint):
    contents = {f"many/{n}": os.urandom(n * 100) for n in range(40)}
    put = s3_endpoint.put_many([NewObject(key=key, content=content, about={"n": key}) for key, content in contents.items()])
    assert put == [s3_endpoint.info(key) for key in contents]
    assert s3_endpoint.info("many/7").about == {"n": "many/7"}
    got = s3_endpoint.get_many([*contents, "many/none", "../x"])
    assert got[:40] == list(contents.values())
    assert isinstance(got[40], ObjectAbsent)
    assert isinstance(got[41], AccessRefused)
    wrong = s3_endpoint.put_many([NewObject(key="many/wrong", content=b"x", sha256="0" * 64)])
    assert isinstance(wrong[0], ChecksumMismatch)


def test_endpoints_open_by_uri(tmp_path):
    assert isinstance(open_endpoint(str(tmp_path), name="a"), FolderEndpoint)
    assert open_endpoint(f"file://{tmp_path}", name="a").root == str(tmp_path)
    with pytest.raises(PermanentError, match="ftp"):
        open_endpoint("ftp://x/y", name="a")


def test_a_name_that_is_no_text_is_left_out_of_a_folders_listing(tmp_path, caplog):
    endpoint = FolderEndpoint(tmp_path / "e", name="e")
    endpoint.put("a/good", b"x")
    (tmp_path / "e" / "a").joinpath(os.fsdecode(b"bad\xff.fits")).write_bytes(b"x")
    assert list(endpoint.list("")) == ["a/good"]
    assert "bad" in caplog.text


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    endpoint = FolderEndpoint(tmp_path / "e", name="e")
    endpoint.put("a/b/k", b"x")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(AccessRefused):
        list(endpoint.list(""))
    with pytest.raises(AccessRefused):
        endpoint.discard("a/")


def test_a_place_that_cannot_be_written_to_says_nothing_of_the_object(endpoint, tmp_path):
    endpoint.put("k", b"content")
    with pytest.raises(FileNotFoundError) as caught:
        endpoint.fetch("k", tmp_path / "no" / "folder" / "out")
    assert not isinstance(caught.value, ObjectAbsent)
    assert endpoint.fetch("k", tmp_path / "out").size == 7
