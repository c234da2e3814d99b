"""Opens an endpoint by its URI: a folder's path or `s3://bucket/prefix`."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from backbone.endpoint import Endpoint
from backbone.errors import PermanentError
from backbone.folder import FolderEndpoint


def open_endpoint(uri: str, *, name: str, url: str | None = None, **credentials: str) -> Endpoint:
    """The endpoint at `uri`. For S3, `url` is the server's address; credentials come from the environment or boto3's own files
    unless given.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from backbone.s3 import S3Endpoint  # boto3 costs a third of a second to import; folders need none of it

        return S3Endpoint(parts.netloc, parts.path, name=name, url=url, **credentials)
    if parts.scheme in ("", "file"):
        return FolderEndpoint(unquote(parts.path), name=name)
    raise PermanentError(f"endpoint {name}: {uri!r} is neither a folder nor s3://bucket/prefix")
