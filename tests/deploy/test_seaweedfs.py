"""S3 servers of a home: losing one is losing a place; killed, nothing that was acknowledged is lost; Butler reads the buckets."""

import os
import signal
import subprocess
import sys

import httpx
import pytest
from click.testing import CliRunner

from backbone.endpoints import open_endpoint
from backbone.errors import ObjectAbsent, PermanentError, TransientError
from backbone.settings import BackboneEndpoint, BackboneSettings, Link
from deploy.cli import cli
from deploy.linkproxy import Links
from deploy.ports import port
from deploy.seaweedfs import PLACES, ObjectStore, credentials_file
from deploy.servers import links_of


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ObjectStore(tmp_path_factory.mktemp("s3"), {"base": ("base",), "ncsa": ("ncsa", "dac-us")})
    made.up()
    yield made
    assert made.down() == 2
    assert made.down() == 0
    assert not made.running()


def test_three_servers_hold_a_bucket_for_every_place():
    assert len(PLACES) >= 3
    assert sorted(b for buckets in PLACES.values() for b in buckets) == ["base", "ccin2p3", "dac-chile", "dac-us", "ncsa"]


def test_a_killed_server_loses_nothing_that_it_acknowledged_and_no_other_place(store):
    credentials = credentials_file(store.home)
    contents = {f"k/{n}": os.urandom(5000) for n in range(20)}
    with (
        open_endpoint(store.uri("ncsa"), name="ncsa", credentials=credentials) as ncsa,
        open_endpoint(store.uri("base"), name="base", credentials=credentials) as base,
    ):
        for key, content in contents.items():
            ncsa.put(key, content)
        base.put("k", b"content")
        for process in store.nodes["ncsa"].processes():
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not store.running()
        with pytest.raises(TransientError):
            ncsa.info("k/0")
        assert base.get("k") == b"content"
        store.up()
        assert {key: ncsa.get(key) for key in contents} == contents


def test_butler_reads_and_writes_the_same_buckets_by_their_profiles(store):
    code = "import sys; from lsst.resources import ResourcePath as R; u = R(sys.argv[1]).join('k'); "
    code += "u.write(b'hello'); print(u.read())"
    for bucket in ("base", "dac-us"):
        argv = [sys.executable, "-c", code, store.uri(bucket, "butler/")]
        done = subprocess.run(argv, env={**os.environ, **store.environment()}, capture_output=True, text=True, check=True)
        assert "hello" in done.stdout
        with open_endpoint(store.uri(bucket, "butler"), name=bucket, credentials=credentials_file(store.home)) as endpoint:
            assert endpoint.get("k") == b"hello"


def test_links_of_the_settings_are_cut_slowed_and_mended_by_a_command(store, tmp_path):
    number = port(tmp_path, "free")
    ends = {name: BackboneEndpoint(uri=store.uri(name), credentials=credentials_file(store.home)) for name in ("base", "ncsa")}
    link = Link(source="base", target="ncsa", url=f"http://127.0.0.1:{number}")
    links = links_of(tmp_path, BackboneSettings(endpoints=ends, links=(link,)), store)
    credentials = credentials_file(store.home)
    links.up()
    try:
        with open_endpoint(store.uri("ncsa"), name="ncsa", url=link.url, credentials=credentials) as ncsa:
            wait(lambda: answers(link.url), "the proxy does not listen")
            ncsa.put("over", b"the link")
            assert ncsa.get("over") == b"the link"
            run = CliRunner().invoke(cli, ["link", "base", "ncsa", "--cut", "--home", str(tmp_path)])
            assert run.output == "base→ncsa: cut\n"
            wait(lambda: not answers(link.url), "the link was not cut")
            with pytest.raises(TransientError):
                ncsa.info("over")
            links.tell("base", "ncsa")
            wait(lambda: answers(link.url), "the link was not mended")
            with pytest.raises(ObjectAbsent):
                ncsa.info("nothing")
            with pytest.raises(PermanentError, match="no link base→moon"):
                links.tell("base", "moon")
    finally:
        assert links.down() == 1


def wait(condition, what):
    import time

    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)  # another process looks at a file


def answers(url):
    try:
        httpx.get(url, trust_env=False, timeout=5)
    except httpx.HTTPError:
        return False
    return True


def test_links_without_a_proxy_are_none(tmp_path):
    assert Links(tmp_path).states() == {}


def test_grpc_doors_refuse_whoever_has_no_certificate_of_the_server(store):
    import socket
    import ssl

    node = store.nodes["base"]
    tls = node.folder / "conf" / "tls"

    def asks(context):
        """Whether the door goes on after the handshake."""
        with socket.create_connection(("127.0.0.1", node.ports()["filer-grpc"]), timeout=5) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                    wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
                    return bool(wrapped.recv(9))
            except (ssl.SSLError, ConnectionError):
                return False

    known = ssl.create_default_context(cafile=tls / "ca.crt")
    known.set_alpn_protocols(["h2"])
    assert not asks(known)
    known.load_cert_chain(tls / "own.crt", tls / "own.key")
    assert asks(known)
    assert {path.stat().st_mode & 0o077 for path in tls.iterdir()} == {0}
