"""What an Airflow connection of type `htcondor` says about a pool, as a validated model; Airflow itself is not needed here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr

from backbone.errors import PermanentError
from backbone.models import Strict, parse

CONNECTION_TYPE = "htcondor"
Files = Literal["spool", "transfer", "shared"]


class PoolConnectionError(PermanentError, ValueError):
    """A connection cannot be used as it is written."""


def _one_line(value: str) -> str:
    if any(ord(character) < 32 for character in value):
        raise ValueError("must be one line without control characters")
    return value


Line = Annotated[str, AfterValidator(_one_line)]


class PoolSettings(Strict):
    """One schedd of one pool, and how to be let in."""

    collector: Line = Field(min_length=1, description="address of the pool's collector, host or host:port")
    schedd: Line = Field(default="", description="name of the schedd; empty: the pool's first")
    token: SecretStr = Field(default=SecretStr(""), description="an IDTOKEN by value (the connection's password)")
    token_directory: Line = Field(default="", description="folder of IDTOKENS, each file of mode 600")
    trust_domain: Line = Field(default="", description="issuer that a token must have; checked before the pool is asked")
    authentication: Line = Field(default="IDTOKENS", description="methods that may be used, as HTCondor names them")
    config_file: Line = Field(default="", description="HTCondor configuration of this client; empty: this machine's, if any")
    files: Files = Field(
        default="spool",
        description="spool: through the schedd, always possible; transfer: the schedd sees this folder; shared: machines too",
    )
    filesystem_domain: Line = Field(default="", description="FileSystemDomain of the machines, for files: shared")
    folder: Line = Field(default="", description="folder of the jobs' files on Airflow's side; empty: AIRFLOW_HOME/htcondor")
    accounting_group: Line = Field(default="", description="accounting group of every job")
    instance: Line = Field(default="", description="name of this Airflow, part of every job key; empty: its base URL")
    timeout_s: float = Field(default=30, gt=0, description="a pool that says nothing for so long is not known")

    def checked(self) -> PoolSettings:
        """The same, after looking at the tokens: PoolConnectionError where none can fit."""
        if not self.trust_domain:
            return self
        found = sorted({issuer(text) for text in self._tokens()} - {""})
        if self.trust_domain not in found:
            where = "the connection's password" if self.token.get_secret_value() else self.token_directory or "(no folder given)"
            raise PoolConnectionError(
                f"pool {self.collector}: no token of trust domain {self.trust_domain} in {where}"
                f" (issuers found: {', '.join(found) or 'none'}): have one made with condor_token_fetch or condor_token_create"
            )
        return self

    def _tokens(self) -> list[str]:
        if value := self.token.get_secret_value():
            return [value]
        folder = Path(self.token_directory)
        if not self.token_directory or not folder.is_dir():
            return []
        return [line for path in sorted(folder.iterdir()) if path.is_file() for line in path.read_text().split()]


def issuer(token: str) -> str:
    """The trust domain that a token says it is of (its `iss`), not verified: that is the pool's business; empty if unreadable."""
    import base64
    import binascii

    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return ""
    return str(claims.get("iss", "")) if isinstance(claims, dict) else ""


def from_parts(
    *, host: str | None, port: int | None, password: str | None, extra: Mapping[str, Any], name: str = CONNECTION_TYPE
) -> PoolSettings:
    """Settings from a connection's parts; empty fields of the form mean the default. Raises PoolConnectionError."""
    given = {key: value for key, value in extra.items() if value not in (None, "")}
    address = host or ""
    if address and port:
        address = f"{address}:{port}"
    return parse(
        PoolSettings,
        {**given, "collector": address, **({"token": password} if password else {})},
        what=f"connection {name}",
        error=PoolConnectionError,
    )


def form_fields() -> dict[str, Any]:
    """The connection form's fields beyond host, port and password, from the model: for the provider's info."""
    kinds = {"string": "string", "number": "number"}
    fields = {}
    for name, schema in PoolSettings.model_json_schema()["properties"].items():
        if name in {"collector", "token"}:
            continue
        kind: dict[str, Any] = {"type": [kinds[schema["type"]], "null"]}
        if "enum" in schema:
            kind["enum"] = schema["enum"]
        if schema.get("default") not in (None, ""):
            kind["default"] = schema["default"]
        fields[name] = {"label": name.replace("_", " ").capitalize(), "schema": kind, "description": schema["description"]}
    return fields
