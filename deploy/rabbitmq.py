"""A private RabbitMQ broker under HOME/servers/rabbitmq, for Celery, alerts and telemetry: loopback only, no default guest.

The system's programs where installed, else Debian's, unpacked into the user's cache (deploy/debian.py). Erlang's own doors (the
port mapper and the distribution) are closed to other machines too, and have ports and a cookie of this home's own.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import PermanentError
from deploy.certificates import make_certificates
from deploy.debian import Bundle
from deploy.keys import secret
from deploy.ports import LOOPBACK, port
from deploy.processes import Program
from deploy.rabbitmq_config import USER, VHOST, Doors, definitions, options, plugins

NODE = "pachon@localhost"
START_TIMEOUT_S = 120.0
_POLL_S = 0.2
# Shared libraries that Erlang's programs load, and Erlang without its network managers and documentation.
BUNDLE = Bundle(
    name="rabbitmq",
    suite="trixie",
    packages=("rabbitmq-server",),
    only=r"^(libc6|libgcc-s1|libstdc\+\+6|libtinfo6|libssl3t64|libzstd1|zlib1g|erlang-.*)$",
    leave=r"^erlang-(snmp|doc|ftp|tftp)$",
    skip_paths=("./usr/share/*", "*/gconv", "*/locale/*", "./usr/lib/erlang/lib/*/src/*", "./usr/lib/erlang/lib/*/examples/*"),
)


class BrokerFailed(PermanentError):
    """The broker could not be made or started; the message has the end of its log."""


@dataclass(frozen=True)
class BrokerPrograms:
    """Where RabbitMQ's start script is, and Erlang."""

    server: Path
    erlang: Path


def system_programs() -> BrokerPrograms | None:
    """Those the system has installed, if it has both. Debian's own command insists on a user: its script does not."""
    scripts = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"), reverse=True)
    erlang = Path("/usr/lib/erlang")
    return BrokerPrograms(scripts[0], erlang) if scripts and erlang.is_dir() else None


def programs(say: Callable[[str], None] = lambda _: None) -> BrokerPrograms:
    """The programs, installed first if they are nowhere; `NoDebianMirror` or `PackagesFailed` where that cannot be."""
    if (found := system_programs()) is not None:
        return found
    prefix = BUNDLE.install(say)
    (server,) = (prefix / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server")
    return BrokerPrograms(server, prefix / "usr" / "lib" / "erlang")


@dataclass(frozen=True)
class RabbitServer:
    """The broker of one home."""

    home: Path
    streams: bool = False
    """Whether alerts and telemetry use it: with streams, TLS and the management API."""

    @property
    def name(self) -> str:
        """As `pachon status` shows it."""
        return "rabbitmq"

    @property
    def folder(self) -> Path:
        """Everything of the broker but its log."""
        return self.home / "servers" / "rabbitmq"

    @property
    def url(self) -> str:
        """Address for Celery, password included."""
        return (
            f"amqp://{USER}:{secret(self.home, 'rabbitmq')}@{LOOPBACK}:{port(self.home, 'rabbitmq', in_use_by_us=True)}/{VHOST}"
        )

    def up(self) -> None:
        """Start the broker unless it runs; returns when it speaks AMQP."""
        if self.running():
            return
        found = programs()
        number = port(self.home, "rabbitmq")
        self._make(found, number)
        for program in self._programs(found):
            program.start()
        self._wait(number)

    def down(self) -> int:
        """Stop in order: what is in durable queues is kept. Returns 1, or 0 if nothing ran."""
        *rest, broker = self._programs()
        stopped = broker.stop(grace_s=30.0)
        return int(stopped + sum(program.stop() for program in rest) > 0)

    def running(self) -> bool:
        """Whether the broker's process runs."""
        return self._programs()[-1].leader() is not None

    def _wait(self, number: int) -> None:
        broker = self._programs()[-1]
        limit = time.monotonic() + START_TIMEOUT_S
        while not (speaks_amqp(number) and all(map(_listens, self._service_ports()))):
            if broker.leader() is None:
                raise BrokerFailed(f"RabbitMQ ended at once; the end of {broker.log_file}:\n{broker.tail()}")
            if time.monotonic() > limit:
                raise BrokerFailed(f"RabbitMQ was not ready after {START_TIMEOUT_S:.0f} s; {broker.log_file}:\n{broker.tail()}")
            time.sleep(_POLL_S)

    def _service_ports(self) -> list[int]:
        return list(json.loads((self.folder / "doors.json").read_text()).values()) if self.streams else []

    def _programs(self, found: BrokerPrograms | None = None) -> list[Program]:
        """Port mapper, then broker. Not marked with the home: `pachon down` would end them before those who speak with them."""
        mapper, server, environment = (), (), {}
        if found is not None:
            environment = self._environment(found)
            (binaries,) = found.erlang.glob("erts-*/bin")
            mapper = (str(binaries / "epmd"), "-port", environment["ERL_EPMD_PORT"])
            server = (str(found.server),)
        return [Program("epmd", mapper, environment, self.folder), Program("broker", server, environment, self.folder)]

    def _make(self, found: BrokerPrograms, number: int) -> None:
        for folder in (self.folder, self.folder / "bin", self.folder / "data"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (binaries,) = found.erlang.glob("erts-*/bin")
        # Debian's own `erl` knows one place only.
        launcher = self.folder / "bin" / "erl"
        lines = [
            "#!/bin/sh",
            f'export EMU=beam PROGNAME=erl ROOTDIR="{found.erlang}" BINDIR="{binaries}"',
            'exec "$BINDIR/erlexec" "$@"',
        ]
        launcher.write_text("\n".join(lines) + "\n")
        launcher.chmod(0o700)
        _private(self.folder / ".erlang.cookie", secret(self.home, "erlang-cookie"), mode=0o400)
        doors = self._doors()
        words = [secret(self.home, "rabbitmq"), secret(self.home, "broker-services") if self.streams else None]
        _private(self.folder / "definitions.json", json.dumps(definitions(*words)))
        lines = [f"{key} = {value}\n" for key, value in options(number, self.folder / "definitions.json", doors).items()]
        (self.folder / "rabbitmq.conf").write_text("".join(lines))
        (self.folder / "enabled_plugins").write_text(plugins(doors))

    def _doors(self) -> Doors | None:
        if not self.streams:
            return None
        certificates = self.folder / "tls"
        make_certificates(certificates, "rabbitmq")
        # The same for good: subscribers elsewhere know them.
        ports = {name: port(self.home, f"rabbitmq-{name}", in_use_by_us=True) for name in ("stream", "amqps", "admin")}
        (self.folder / "doors.json").write_text(json.dumps(ports))  # for the services of this home (services/broker.py)
        return Doors(**ports, certificates=certificates)

    def _environment(self, found: BrokerPrograms) -> Mapping[str, str]:
        mapper, distribution = (str(port(self.home, f"rabbitmq-{name}", in_use_by_us=True)) for name in ("epmd", "node"))
        return {
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.defpath]),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": mapper,
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_DIST_PORT": distribution,
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_PID_FILE": str(self.folder / "run" / "rabbitmq-own.pid"),
            # One scheduler that sleeps when it has nothing to do; the distribution on loopback too.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }


def speaks_amqp(number: int) -> bool:
    """Whether somebody at this loopback port answers AMQP's greeting; the listener opens before the vhost is ready."""
    try:
        with socket.create_connection((LOOPBACK, number), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # a method frame: connection.start
    except OSError:
        return False


def _listens(number: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, number), timeout=2).close()
    except OSError:
        return False
    return True


def _private(path: Path, text: str, mode: int = 0o600) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    part.replace(path)
