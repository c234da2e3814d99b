"""An endpoint in an S3 bucket, by boto3; the only module that imports it.

boto3 retries network blips. Every put says the SHA-256 of its bytes and the server refuses others, so what it acknowledges is
what was meant; the same sum travels as object metadata, so that `info` needs no read. What goes wrong is translated: absent,
refused, taken, damaged, full, not known. Many small objects go another way (backbone/s3_bulk.py): boto3 costs 2 ms of CPU each.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backbone.digest import DigestReader
from backbone.endpoint import NewObject, ObjectInfo, checked_folder, checked_key, checked_prefix, said_of_itself, sha256_of
from backbone.errors import (
    AccessRefused,
    ChecksumMismatch,
    EndpointFull,
    ObjectAbsent,
    ObjectExists,
    PachonError,
    TransientError,
    refused,
)

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "AllAccessDisabled"}
_EXPIRED = {"ExpiredToken", "RequestExpired", "InvalidToken", "TokenRefreshRequired"}
_SKEWED = {"RequestTimeTooSkewed"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
METADATA = "sha256"
ABOUT = "about"  # JSON, which is ASCII, as S3 metadata must be
# One request, whose one checksum the server verifies over the whole object, is as fast as parts up to here, and needs no second
# pass over the bytes; beyond, parts are sent side by side and a lost one is sent again alone. S3's limit is 5 GiB.
ONE_REQUEST_BYTES = 128 << 20
_PART_BYTES = 32 << 20
_CONNECTIONS = 32
_PROBE = "_pachon/probe/"


class S3Endpoint:
    """Keys below `prefix` of `bucket`."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        name: str,
        url: str | None = None,
        profile: str | None = None,
        credentials: Path | None = None,
        client: Any = None,
        **keys: str,
    ) -> None:
        """`credentials`: a file of profiles as boto3 reads them, which nobody else may read; `profile`: which of them, with its
        keys and, unless `url` says otherwise, its server's address. Without them boto3's own configuration is used.
        """
        self.name = name
        self.bucket, self.prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.root = f"s3://{f'{profile}@' if profile else ''}{bucket}/{self.prefix}"
        self._make: Callable[[], tuple[Any, Any]] = lambda: (
            (client, None) if client else _connect(url, profile, credentials, keys)
        )
        self._made: tuple[int, Any, Any] | None = None
        self._bulk: Any = None
        self._proves: bool | None = None
        self._lock = threading.Lock()
        self._transfer = TransferConfig(multipart_threshold=ONE_REQUEST_BYTES, multipart_chunksize=_PART_BYTES)

    def _opened(self) -> tuple[Any, Any]:
        """Client and session: made when first needed, and anew after a fork, since connections must not be shared."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made, self._bulk = (os.getpid(), *self._make()), None
            return self._made[1], self._made[2]

    @property
    def _client(self) -> Any:
        return self._opened()[0]

    @property
    def server(self) -> str:
        """Address of the server: two buckets of one server can be copied by it."""
        return str(self._client.meta.endpoint_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        with self._lock:
            if self._made is not None and self._made[0] == os.getpid():
                self._made[1].close()
            self._made = self._bulk = None

    def _forget(self) -> None:
        """Have keys that were refused read anew the next time: somebody may have put better ones into the file."""
        with self._lock:
            if self._made is not None and self._made[2] is not None:
                self._made = self._bulk = None

    def put(
        self, key: str, content: bytes | Path, *, create_only: bool = False, about: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        """Store a whole object (see the contract); S3 itself shows it only once it is complete."""
        checksum = sha256_of(content)
        if isinstance(content, bytes):
            return self._put(key, content, len(content), checksum, about, create_only=create_only)
        with content.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= ONE_REQUEST_BYTES or create_only:
                # A conditional create is one request, so it is for objects of 5 GiB at most.
                return self._put(key, file, size, checksum, about, create_only=create_only)
            # The sum was made of an earlier reading: what is sent must be the same.
            return self.put_stream(key, file, size=size, sha256=checksum, about=about or {})

    def _put(
        self, key: str, body: bytes | BinaryIO, size: int, sha256: str, about: Mapping[str, str] | None, *, create_only: bool
    ) -> ObjectInfo:
        condition = {"IfNoneMatch": "*"} if create_only else {}
        with self._translated("put", key):
            self._client.put_object(
                Bucket=self.bucket,
                Key=self._key(key),
                Body=body,
                ContentLength=size,
                Metadata=metadata(sha256, about),
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                **condition,
            )
        return ObjectInfo(key=key, size=size, sha256=sha256)

    def put_stream(self, key: str, stream: BinaryIO, *, size: int, sha256: str, about: Mapping[str, str]) -> ObjectInfo:
        """Store what `stream` gives, if it is what is said of it (see the contract)."""
        # The reader raises before its last bytes are given away, so nothing wrong is ever complete. The client wraps what it
        # raises, and may try the rest again: the first cause is the reader's.
        reader = DigestReader.of(stream, size=size, sha256=sha256, what=f"put {key} at {self.name}")
        try:
            if size <= ONE_REQUEST_BYTES:
                return self._put(key, cast("BinaryIO", reader), size, sha256, about, create_only=False)
            extra = {"Metadata": metadata(sha256, about), "ChecksumAlgorithm": "SHA256"}
            with self._translated("put", key):
                self._client.upload_fileobj(reader, self.bucket, self._key(key), ExtraArgs=extra, Config=self._transfer)
        except Exception:
            if reader.failure is not None:
                raise reader.failure from None
            raise
        return ObjectInfo(key=key, size=size, sha256=sha256)

    def proves(self) -> bool:
        """Whether the server refuses bytes that have not the sum that was said of them: it is tried once, with an object that is
        wrong. Servers that know nothing of checksums take it.
        """
        if self._proves is None:
            self._proves = self._refuses_other_bytes()
        return self._proves

    def _refuses_other_bytes(self) -> bool:
        key = f"{_PROBE}{uuid.uuid4().hex}"
        try:
            self._put(key, b"one", 3, sha256_of(b"two"), None, create_only=False)
        except ChecksumMismatch:
            return True
        self.delete(key)
        return False

    def put_many(self, objects: Sequence[NewObject]) -> list[ObjectInfo | PachonError]:
        """Store many small objects at the same time (see the contract)."""
        from backbone.s3_bulk import put_many

        return put_many(self, self._bulk_store(), objects)

    def get_many(self, keys: Sequence[str]) -> list[bytes | PachonError]:
        """Read many small objects at the same time (see the contract)."""
        from backbone.s3_bulk import get_many

        return get_many(self, self._bulk_store(), keys)

    def _bulk_store(self) -> Any:
        """The other client, of the same server, bucket and keys; None where the client was given and its keys are not known."""
        client, session = self._opened()
        with self._lock:
            if self._bulk is None and session is not None:
                from backbone.s3_bulk import open_store

                self._bulk = open_store(self.bucket, client.meta.endpoint_url, client.meta.region_name, session)
            return self._bulk

    def get(self, key: str) -> bytes:
        """The object's bytes."""
        with self.open(key) as stream:
            return stream.read()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """The object's bytes, to be read in order; an answer that breaks off is a TransientError, never a shorter object."""
        with self._translated("get", key):
            body = self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]
            try:
                yield cast("BinaryIO", body)
            finally:
                body.close()

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
        about = said_of_itself(head["Metadata"].get(ABOUT, ""))
        return ObjectInfo(key=key, size=head["ContentLength"], sha256=head["Metadata"].get(METADATA), about=about)

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

    def copy_from(self, source: S3Endpoint, key: str, *, sha256: str, about: Mapping[str, str]) -> None:
        """Let the server copy an object of another of its buckets here; this endpoint's keys must be allowed to read there.

        Nobody has seen the bytes: the caller verifies what arrived. For objects of 5 GiB at most.
        """
        with self._translated(f"copy from {source.name}", key):
            self._client.copy_object(
                Bucket=self.bucket,
                Key=self._key(key),
                CopySource={"Bucket": source.bucket, "Key": source._key(key)},
                MetadataDirective="REPLACE",
                Metadata=metadata(sha256, about),
                ChecksumAlgorithm="SHA256",
            )

    def _key(self, key: str) -> str:
        return self.prefix + checked_key(key)

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        where = f"{action} {key} at {self.name} ({self.root})"
        try:
            yield
        except ClientError as error:
            code = _code(error)
            found = translated(self._reason(key) if code == "400" else code, where)
            if isinstance(found, AccessRefused):
                self._forget()
            raise found from error
        except (BotoCoreError, Boto3Error) as error:  # the latter of a download that broke off each time it was tried
            raise TransientError(f"{where}: {getattr(error, 'last_exception', None) or error}") from error

    def _reason(self, key: str) -> str:
        """Why a HEAD was answered with 400: it has no body, so S3 says that keys have expired only to those who ask otherwise."""
        try:
            self._client.get_object(Bucket=self.bucket, Key=self._key(key), Range="bytes=0-0")["Body"].close()
        except ClientError as error:
            return _code(error)
        except BotoCoreError:
            pass
        return "400"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def translated(code: str, where: str) -> PachonError:
    """The error of ours that an S3 error code or HTTP status stands for."""
    if code in _ABSENT:
        return ObjectAbsent(f"{where}: no such object")
    if code in _REFUSED:
        return refused(f"{where}: refused ({code}); check the endpoint's credentials and bucket")
    if code in _EXPIRED:
        return refused(f"{where}: the credentials have expired ({code}); put new ones into the endpoint's credentials file")
    if code in _TAKEN:
        return ObjectExists(f"{where}: the key is taken")
    if code in _DAMAGED:
        return ChecksumMismatch(f"{where}: the server received other bytes than were meant ({code}); put it again")
    if code in _FULL:
        return EndpointFull(f"{where}: no space left ({code}); free some, the work goes on by itself", delay_s=60)
    if code in _SKEWED:
        return TransientError(f"{where}: this machine's clock and the server's differ too much; set the clock", delay_s=60)
    return TransientError(f"{where}: the server answered {code}")


def metadata(sha256: str, about: Mapping[str, str] | None) -> dict[str, str]:
    """The user metadata of an object: its checksum, and what it is."""
    return {METADATA: sha256, **({ABOUT: json.dumps(dict(about))} if about else {})}


def make_bucket(bucket: str, *, url: str, access_key: str, secret_key: str, region: str) -> None:
    """Make the bucket unless it is there."""
    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key, "region_name": region}
    client = _connect(url, None, None, keys)[0]
    try:
        client.create_bucket(Bucket=bucket)
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        return
    except (ClientError, BotoCoreError) as error:
        raise TransientError(f"bucket {bucket} at {url} could not be made: {error}") from error
    finally:
        client.close()


@cache
def _loader() -> Any:
    """The descriptions of S3, read once for all clients: that is most of what a client costs."""
    return botocore.session.get_session().get_component("data_loader")


def _connect(url: str | None, profile: str | None, credentials: Path | None, keys: Mapping[str, str]) -> tuple[Any, Any]:
    """A client, and the boto3 session that knows its keys."""
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _loader())
    if credentials is not None:
        if not credentials.is_file():
            raise refused(f"{credentials} is missing: it must hold the keys of profile {profile or 'default'}")
        if credentials.stat().st_mode & 0o077:
            raise refused(f"{credentials} can be read by others: run `chmod 600 {credentials}`")
        session.set_config_variable("credentials_file", str(credentials))
    config = Config(
        retries={"mode": "standard", "max_attempts": 3},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=_CONNECTIONS,
        # The signed checksum binds the body already; another hash of it for the signature is the dearest part of a put.
        s3={"payload_signing_enabled": False},
    )
    try:
        wrapped = boto3.Session(botocore_session=session, **keys)
        return wrapped.client("s3", endpoint_url=url, config=config), wrapped
    except BotoCoreError as error:
        raise refused(f"S3 profile {profile or 'default'}: {error}") from error
