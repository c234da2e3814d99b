"""Opens an endpoint by its URI: a folder's path, or `s3://profile@bucket/prefix` (no profile where there is one server)."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from backbone.endpoint import Endpoint
from backbone.errors import PermanentError
from backbone.folder import FolderEndpoint


def open_endpoint(uri: str, *, name: str, url: str | None = None, credentials: Path | None = None, **keys: str) -> Endpoint:
    """The endpoint at `uri`. For S3, `s3://profile@bucket/prefix` names a profile of boto3's configuration or of `credentials`, a
    file that only its owner may read; `url` is the server's address, unless the profile has it.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from backbone.s3 import S3Endpoint  # boto3 costs a third of a second to import; folders need none of it

        profile, _, bucket = parts.netloc.rpartition("@")
        return S3Endpoint(bucket, parts.path, name=name, url=url, profile=profile or None, credentials=credentials, **keys)
    if parts.scheme in ("", "file"):
        return FolderEndpoint(unquote(parts.path), name=name)
    raise PermanentError(f"endpoint {name}: {uri!r} is neither a folder nor s3://bucket/prefix")


def use_profiles(credentials: Path) -> None:
    """Have whatever opens `s3://profile@bucket` by itself in this process and its children, as Butler does, look into this file,
    which it can only be told by the environment.
    """
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(credentials)
