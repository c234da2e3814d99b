"""Subscribers as users of the broker, by its management API: each may read its own stream, and nothing else."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import httpx

from backbone.errors import AccessRefused, PermanentError, TransientError
from services.broker import Broker

_NOTHING = "^$"
_TIMEOUT_S = 30.0


class BrokerUsers:
    """The broker's users in the services' virtual host."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def put(self, name: str, secret: str, stream: str) -> None:
        """A user who may read one stream; one who is there gets this secret and these rights."""
        if name == self._broker.settings.user:
            raise PermanentError(f"subscriber {name}: that is the services' own user at the broker; choose another name")
        self._ask("PUT", f"users/{quote(name, safe='')}", {"password": secret, "tags": ""})
        vhost = quote(self._broker.settings.vhost, safe="")
        rights = {"configure": _NOTHING, "write": _NOTHING, "read": f"^{re.escape(stream)}$"}
        self._ask("PUT", f"permissions/{vhost}/{quote(name, safe='')}", rights)

    def remove(self, name: str) -> None:
        """No user of this name; its connections end."""
        self._ask("DELETE", f"users/{quote(name, safe='')}", None, gone_is_well=True)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, *, gone_is_well: bool = False) -> None:
        settings = self._broker.settings
        url = f"https://{settings.host}:{self._broker.port('admin')}/api/{path}"
        credentials = (settings.user, self._broker.password())
        try:
            answer = httpx.request(
                method, url, json=body, auth=credentials, verify=self._broker.tls(), timeout=_TIMEOUT_S, trust_env=False
            )
        except httpx.HTTPError as error:
            raise TransientError(f"the broker's management API at {settings.host} did not answer: {error}") from error
        if answer.status_code in (401, 403):
            raise AccessRefused(f"the broker's management API refuses {settings.user}: {answer.text[:200]}")
        if answer.is_success or (gone_is_well and answer.status_code == 404):
            return
        kind = TransientError if answer.status_code >= 500 else PermanentError
        raise kind(f"the broker's management API: {method} {path} was answered with {answer.status_code} {answer.text[:200]}")
