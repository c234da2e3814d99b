"""What RabbitMQ reads at its start: options, plugins, users. All listens on loopback; what alerts and telemetry use, by TLS."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.ports import LOOPBACK

USER, VHOST = "pachon", "airflow"
"""Celery's."""
SERVICES_USER, SERVICES_VHOST = "pachon-services", "survey"
"""Of the services: it publishes, and makes streams and subscribers (services/alerts/settings.py)."""


@dataclass(frozen=True)
class Doors:
    """Loopback ports for the services, all by TLS, and where `ca.crt`, `own.crt`, `own.key` are."""

    stream: int
    amqps: int
    admin: int
    certificates: Path


def options(amqp: int, definitions_file: Path, doors: Doors | None) -> dict[str, object]:
    """The lines of rabbitmq.conf."""
    found: dict[str, object] = {
        "listeners.tcp.1": f"{LOOPBACK}:{amqp}",
        "load_definitions": definitions_file,
        "default_user_tags.administrator": "false",
        "log.console": "true",
        "log.console.level": "warning",
        "log.file": "false",
        # Bounds of a laptop: the queues of Airflow hold names of tasks, streams are on disk.
        "vm_memory_high_watermark.absolute": "512MB",
        "disk_free_limit.absolute": "50MB",
        "collect_statistics_interval": "60000",
    }
    return found if doors is None else found | _services(doors)


def _services(doors: Doors) -> dict[str, object]:
    files = {"cacertfile": "ca.crt", "certfile": "own.crt", "keyfile": "own.key"}
    found: dict[str, object] = {f"ssl_options.{key}": doors.certificates / name for key, name in files.items()}
    found |= {f"management.ssl.{key}": doors.certificates / name for key, name in files.items()}
    return found | {
        "ssl_options.versions.1": "tlsv1.3",
        "ssl_options.versions.2": "tlsv1.2",
        "listeners.ssl.1": f"{LOOPBACK}:{doors.amqps}",
        "stream.listeners.tcp": "none",
        "stream.listeners.ssl.1": f"{LOOPBACK}:{doors.stream}",
        # Clients go where the server says it is; the certificate is of this name.
        "stream.advertised_host": "localhost",
        "stream.advertised_tls_port": doors.stream,
        "management.ssl.ip": LOOPBACK,
        "management.ssl.port": doors.admin,
        "management_agent.disable_metrics_collector": "true",
    }


def plugins(doors: Doors | None) -> str:
    """The file of enabled plugins."""
    return "[].\n" if doors is None else "[rabbitmq_stream,rabbitmq_management].\n"


def definitions(password: str, services_password: str | None = None) -> dict[str, object]:
    """Users and rights, as RabbitMQ imports them at its start: with a file of definitions it makes no default user."""
    users = [(USER, VHOST, password, "")]
    if services_password is not None:
        users.append((SERVICES_USER, SERVICES_VHOST, services_password, "administrator"))
    return {
        "users": [_user(name, word, tags) for name, _, word, tags in users],
        "vhosts": [{"name": vhost} for _, vhost, _, _ in users],
        "permissions": _permissions((name, vhost) for name, vhost, _, _ in users),
    }


def _user(name: str, password: str, tags: str) -> Mapping[str, str]:
    salt = secrets.token_bytes(4)
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    return {"name": name, "password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": tags}


def _permissions(users: Iterable[tuple[str, str]]) -> list[Mapping[str, str]]:
    return [{"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"} for user, vhost in users]
