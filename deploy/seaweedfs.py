"""S3 on this machine: several SeaweedFS servers with folders and ports of their own, so that losing one is losing a place.

`up` writes every node's configuration, starts all of them and returns when each bucket took and gave back an object: after a
start the port answers before reads do. Everything listens on loopback. Every door asks for something: S3 for the bucket's own
keys, HTTP of master and volumes and gRPC of all for the server's own certificate, volumes for a signed token besides; the filer's
HTTP does nothing. (A master asked by HTTP would give anybody tokens to write with, and drop whole buckets.) The keys are in one
file of mode 600, HOME/secrets/s3.ini, of the form that boto3, and so Butler, reads: a profile for each bucket, with the server's
address.
"""

from __future__ import annotations

import configparser
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backbone.errors import PachonError, PermanentError
from deploy.certificates import make_certificates
from deploy.keys import secret, write_private
from deploy.ports import LOOPBACK, port
from deploy.processes import Program, end

_log = logging.getLogger(__name__)
START_TIMEOUT_S = 120.0
GRACE_S = 1.0
POLL_S = 0.1
REGION = "us-east-1"
# Which server holds which buckets. Data access centres share that of the site beside them: copies between the two need no wire.
PLACES: Mapping[str, tuple[str, ...]] = {"base": ("base",), "ncsa": ("ncsa", "dac-us"), "ccin2p3": ("ccin2p3", "dac-chile")}
_DOORS = ("master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "s3", "s3-grpc")
_READY = "_pachon/ready"


class ObjectStoreFailed(PermanentError):
    """A server could not be started or never became ready; the message has the end of its log."""


def weed() -> str | None:
    """The server's program: beside this Python, where its package puts it, or on the PATH."""
    return shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]))


def credentials_file(home: Path) -> Path:
    """Where the keys of all buckets of a home are: a profile for each, named as the bucket."""
    return home.resolve() / "secrets" / "s3.ini"


@dataclass(frozen=True)
class Node:
    """One server process: master, volumes, filer and S3 in one, with its own folder and ports."""

    home: Path
    place: str
    buckets: tuple[str, ...]

    @property
    def name(self) -> str:
        """As `pachon status` and the log's file name say it."""
        return f"s3-{self.place}"

    @property
    def folder(self) -> Path:
        """Configuration and data."""
        return self.home / "servers" / self.name

    @property
    def url(self) -> str:
        """Address of the S3 door."""
        return f"http://{LOOPBACK}:{self.ports()['s3']}"

    def ports(self) -> dict[str, int]:
        """Port of each door; those of a running server stay."""
        running = Program(self.name, (), {}, self.home).leader() is not None
        return {door: port(self.home, f"{self.name}-{door}", in_use_by_us=running) for door in _DOORS}

    def keys(self, identity: str) -> tuple[str, str]:
        """Access key and secret key of a bucket's owner, or of `admin`."""
        return f"pachon-{identity}", secret(self.home, f"{self.name}-{identity}")

    def program(self) -> Program:
        """The server's process. It inherits no environment: AWS variables in it would become keys of an administrator."""
        ports = self.ports()
        doors = [
            f"-{door.removesuffix('-grpc')}.port{'.grpc' if door.endswith('-grpc') else ''}={number}"
            for door, number in ports.items()
        ]
        argv = (
            str(weed()),
            f"-config_dir={self.folder / 'conf'}",
            "-logtostderr",
            "server",
            f"-dir={self.folder / 'data'}",
            *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-filer", "-s3", *doors),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", f"-s3.config={self.folder / 'conf' / 's3.json'}"),
            # A master alone needs no long election: with the default of 10 s a restart takes 14-21 s, so 2-3 s.
            *("-master.electionTimeout=1s", "-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=0"),
            "-disableHttp",  # of master and filer; gRPC does all that S3 needs
            "-volume.preStopSeconds=0",  # nobody else is to be told
        )
        return Program(self.name, argv, {"PATH": os.defpath, "HOME": str(self.folder)}, self.home)

    def start(self) -> None:
        """Write the configuration, start the process unless it runs; does not wait."""
        program = self.program()
        if program.leader() is None:
            self._configure()
            program.start()

    def wait(self) -> None:
        """Until every bucket has taken and given back an object; buckets are made, and fsync switched on, the first time."""
        from backbone.s3 import S3Endpoint, make_bucket  # boto3 costs a third of a second: `pachon status` needs none of it

        limit = time.monotonic() + START_TIMEOUT_S
        url, program = self.url, self.program()
        admin, admin_secret = self.keys("admin")
        done = False
        while not done:
            program.check()
            try:
                self._switch_fsync_on()
                for bucket in self.buckets:
                    make_bucket(bucket, url=url, access_key=admin, secret_key=admin_secret, region=REGION)
                    with S3Endpoint(bucket, name=bucket, profile=bucket, credentials=credentials_file(self.home)) as endpoint:
                        endpoint.put(_READY, b"ready")
                        endpoint.get(_READY)
                        endpoint.delete(_READY)
                done = True
            except PachonError as error:
                if time.monotonic() > limit:
                    raise ObjectStoreFailed(
                        f"{self.name} not ready after {START_TIMEOUT_S:.0f} s: {error}\n{program.log_file}:\n{program.tail()}"
                    ) from error
                time.sleep(POLL_S)

    def running(self) -> bool:
        """Whether the process lives."""
        return Program(self.name, (), {}, self.home).leader() is not None

    def stop(self) -> bool:
        """End it; False if it did not run."""
        return stop([self]) > 0

    def processes(self) -> list[psutil.Process]:
        """All that lives of it."""
        return Program(self.name, (), {}, self.home).remains()

    def _configure(self) -> None:
        conf = self.folder / "conf"
        for folder in (conf, self.folder / "data"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        identities = [_identity("admin", *self.keys("admin"), ["Admin", "Read", "Write", "List", "Tagging"])]
        actions = ("Read", "Write", "List", "Tagging")
        identities += [_identity(b, *self.keys(b), [f"{action}:{b}" for action in actions]) for b in self.buckets]
        both = [f"{action}:{b}" for action in actions for b in self.buckets]
        identities.append(_identity("mover", *self.keys("mover"), both))
        write_private(conf / "s3.json", json.dumps({"identities": identities}))
        make_certificates(conf / "tls", self.name)
        write_private(conf / "security.toml", self._security())

    def _security(self) -> str:
        """Tokens for the doors behind S3, which ask for its own certificate too (a third more CPU a small object)."""
        sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
        tokens = "".join(f'[{section}]\nkey = "{secret(self.home, f"{self.name}-{section}")}"\n' for section in sections)
        tls = self.folder / "conf" / "tls"
        pair = f'cert = "{tls / "own.crt"}"\nkey = "{tls / "own.key"}"\n'
        authority = f'ca = "{tls / "ca.crt"}"\n'
        grpc = "".join(f"[grpc.{door}]\n{pair}" for door in ("master", "volume", "filer", "s3", "client"))
        https = "".join(f"[https.{door}]\n{pair}{authority}" for door in ("master", "volume"))
        return f"{tokens}[grpc]\n{authority}{grpc}{https}[https.client]\nenabled = true\n{pair}{authority}"

    def _switch_fsync_on(self) -> None:
        """SeaweedFS acknowledges before the disk has it unless told; kept in the filer, so told once."""
        mark = self.folder / "fsync"
        if mark.exists():
            return
        ports = self.ports()
        argv = [str(weed()), f"-config_dir={self.folder / 'conf'}", "shell"]
        argv += [f"-{door}={LOOPBACK}:{ports[door]}.{ports[f'{door}-grpc']}" for door in ("master", "filer")]
        command = "fs.configure -locationPrefix=/buckets/ -fsync -apply\nfs.configure\n"
        env = {"PATH": os.defpath, "HOME": str(self.folder)}
        try:
            done = subprocess.run(
                argv,
                input=command,
                capture_output=True,
                text=True,
                check=False,
                timeout=START_TIMEOUT_S,
                env=env,
                cwd=self.folder,
            )
        except subprocess.TimeoutExpired as error:
            raise ObjectStoreFailed(f"{self.name}: its shell does not answer; see {self.home / 'log' / self.name}.log") from error
        if not re.search(r'"fsync":\s*true', done.stdout):
            raise ObjectStoreFailed(f"{self.name}: fsync could not be switched on: {done.stdout[-500:]}{done.stderr[-500:]}")
        mark.touch()


@dataclass(frozen=True)
class ObjectStore:
    """All S3 servers of a home."""

    home: Path
    places: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: PLACES)

    name = "seaweedfs"

    @property
    def nodes(self) -> dict[str, Node]:
        """The servers by the name of their place."""
        home = self.home.resolve()
        return {place: Node(home, place, tuple(buckets)) for place, buckets in self.places.items()}

    def up(self) -> None:
        """Start what does not run; returns when every bucket serves."""
        if weed() is None:
            raise ObjectStoreFailed("no S3 server is installed: `pip install 'pachon[seaweedfs]'`, or use folders as endpoints")
        nodes = list(self.nodes.values())
        for node in nodes:
            node.start()
        self._write_credentials(nodes)
        for node in nodes:
            node.wait()

    def down(self) -> int:
        """Stop all; returns how many ran."""
        return stop(list(self.nodes.values()))

    def running(self) -> bool:
        """Whether all of them run."""
        return all(node.running() for node in self.nodes.values())

    def uri(self, bucket: str, prefix: str = "") -> str:
        """The bucket's URI, for our endpoints and for Butler: `s3://profile@bucket/prefix`."""
        return f"s3://{bucket}@{bucket}/{prefix}"

    def environment(self) -> dict[str, str]:
        """What Butler (lsst.resources) needs to find the profiles."""
        return {"AWS_SHARED_CREDENTIALS_FILE": str(credentials_file(self.home))}

    def _write_credentials(self, nodes: list[Node]) -> None:
        profiles = configparser.ConfigParser(interpolation=None)
        for node in nodes:
            for bucket in node.buckets:
                access_key, secret_key = node.keys(bucket)
                profiles[bucket] = {
                    "aws_access_key_id": access_key,
                    "aws_secret_access_key": secret_key,
                    "endpoint_url": node.url,
                    "region": REGION,
                }
            access_key, secret_key = node.keys("mover")
            mover = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}
            profiles[f"mover-{node.place}"] = {**profiles[node.buckets[0]], **mover}
        text = io.StringIO()
        profiles.write(text)
        write_private(credentials_file(self.home), text.getvalue())


def stop(nodes: list[Node]) -> int:
    """End these servers, all at once; returns how many ran.

    On SIGTERM they wait for their own inner connections, which never end. What was acknowledged is on disk, so: killed.
    """
    ports = [number for node in nodes for number in node.ports().values()]
    running = sum(node.running() for node in nodes)
    end([process for node in nodes for process in node.processes()], grace_s=GRACE_S)
    for node in nodes:
        Program(node.name, (), {}, node.home).stop()
    for number in ports:  # sockets that only their user may connect to; the server has no setting for where they are
        for socket in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108
            socket.unlink(missing_ok=True)
    return running


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": access_key, "secretKey": secret_key}], "actions": actions}
