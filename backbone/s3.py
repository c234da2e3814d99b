"""An endpoint in an S3 bucket, by boto3; the only module that imports it.

boto3 retries network blips and sends checksums that the server verifies; what is left is translated: absent, refused, taken, not
known. The SHA-256 travels as object metadata, so that `info` needs no read.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backbone.endpoint import ObjectInfo, checked_folder, checked_key, checked_prefix, sha256_of
from backbone.errors import AccessRefused, ObjectAbsent, ObjectExists, TransientError

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "NoSuchBucket"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_METADATA = "sha256"
_CHUNK = 1 << 20


class S3Endpoint:
    """Keys below `prefix` of `bucket`."""

    def __init__(
        self, bucket: str, prefix: str = "", *, name: str, url: str | None = None, client: Any = None, **credentials: str
    ) -> None:
        self.name = name
        self.bucket, self.prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.root = f"s3://{bucket}/{self.prefix}"
        self._client = client or boto3.client(
            "s3",
            endpoint_url=url,
            config=Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=60),
            **credentials,
        )
        self._transfer = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20)

    def put(self, key: str, content: bytes | Path, *, create_only: bool = False) -> ObjectInfo:
        """Store a whole object (see the contract); S3 itself shows it only once it is complete."""
        checksum = sha256_of(content)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        target = {"Bucket": self.bucket, "Key": self._key(key)}
        extra = {"Metadata": {_METADATA: checksum}}
        with self._translated("put", key):
            if isinstance(content, Path) and not create_only:
                self._client.upload_file(
                    str(content), **target, ExtraArgs={**extra, "ChecksumAlgorithm": "SHA256"}, Config=self._transfer
                )
            else:
                # A conditional create is one request, so it is for objects of one part (5 GiB at most).
                condition = {"IfNoneMatch": "*"} if create_only else {}
                with _opened(content) as body:
                    self._client.put_object(**target, **extra, **condition, Body=body, ChecksumAlgorithm="SHA256")
        return ObjectInfo(key=key, size=size, sha256=checksum)

    def get(self, key: str) -> bytes:
        """The object's bytes."""
        with self._translated("get", key):
            content: bytes = self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()
            return content

    def fetch(self, key: str, path: Path) -> ObjectInfo:
        """Copy the object to a local path."""
        part = path.parent / f".part-{uuid.uuid4().hex}"
        try:
            with self._translated("fetch", key):
                self._client.download_file(self.bucket, self._key(key), str(part), Config=self._transfer)
            info = ObjectInfo(key=key, size=part.stat().st_size, sha256=sha256_of(part))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return info

    def info(self, key: str) -> ObjectInfo:
        """Size and checksum."""
        with self._translated("info", key):
            head = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        return ObjectInfo(key=key, size=head["ContentLength"], sha256=head["Metadata"].get(_METADATA))

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, sorted (as S3 lists them), page by page."""
        checked_prefix(prefix)
        with self._translated("list", prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self.prefix)

    def delete(self, key: str) -> None:
        """Remove the object."""
        with self._translated("delete", key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def discard(self, prefix: str, *, keep: Set[str] = frozenset()) -> int:
        """Remove a folder's objects and the uploads that killed writers began in it (see the contract)."""
        gone = [key for key in self.list(checked_folder(prefix)) if key not in keep]
        for key in gone:
            self.delete(key)
        with self._translated("discard", prefix):
            uploads = self._client.get_paginator("list_multipart_uploads")
            for page in uploads.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for upload in page.get("Uploads", ()):
                    self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(gone)

    def _key(self, key: str) -> str:
        return self.prefix + checked_key(key)

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        where = f"{action} {key} at {self.name} ({self.root})"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _ABSENT:
                raise ObjectAbsent(f"{where}: no such object") from error
            if code in _REFUSED:
                raise AccessRefused(f"{where}: refused ({code}); check the endpoint's credentials and bucket") from error
            if code in _TAKEN:
                raise ObjectExists(f"{where}: the key is taken") from error
            raise TransientError(f"{where}: the server answered {code}") from error
        except BotoCoreError as error:
            raise TransientError(f"{where}: {error}") from error


@contextmanager
def _opened(content: bytes | Path) -> Iterator[Any]:
    if isinstance(content, bytes):
        yield content
    else:
        with content.open("rb") as file:
            yield file
