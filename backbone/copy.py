"""Copying objects from one endpoint to another: what arrives has the catalog's checksum, or has not arrived.

Small objects go many at the same time, large ones as a stream that is summed up as it passes and refused by the target where it
is something else; two buckets of one server are copied by that server, and what arrived is read again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from backbone.digest import DigestReader
from backbone.endpoint import Bulk, Endpoint, NewObject, Streaming, sha256_of
from backbone.errors import ChecksumMismatch, ObjectAbsent, ObjectExists, PachonError, PermanentError, TransientError
from backbone.links import Pace, PacedReader
from backbone.reading import digest_of
from backbone.transfers import Transfer

_MEMORY_BYTES = 8 << 20


@dataclass(frozen=True)
class Failure:
    """What went wrong with a transfer, and on which side (None: that cannot be said)."""

    error: PachonError
    at_source: bool | None = None


def copy_small(source: Endpoint, target: Endpoint, transfers: Sequence[Transfer], pace: Pace) -> list[Failure | None]:
    """Copy small objects together; None where one has arrived."""
    if not (isinstance(source, Bulk) and isinstance(target, Bulk)):
        return [copy_one(source, target, transfer, pace) for transfer in transfers]
    outcomes: dict[int, Failure | None] = {}
    objects: list[tuple[Transfer, NewObject]] = []
    pace.spend(sum(transfer.file.size for transfer in transfers))
    for transfer, got in zip(transfers, source.get_many([x.file.key for x in transfers]), strict=True):
        file = transfer.file
        if isinstance(got, PachonError):
            outcomes[transfer.number] = Failure(got, at_source=True)
        elif sha256_of(got) != file.sha256:
            outcomes[transfer.number] = Failure(_other_bytes(source, transfer, len(got)), at_source=True)
        else:
            objects.append((transfer, NewObject(key=file.key, content=got, about=file.about(), sha256=file.sha256)))
    for (transfer, _), put in zip(objects, target.put_many([item for _, item in objects]), strict=True):
        outcomes[transfer.number] = Failure(put, at_source=False) if isinstance(put, PachonError) else None
    return [outcomes[transfer.number] for transfer in transfers]


def copy_one(source: Endpoint, target: Endpoint, transfer: Transfer, pace: Pace) -> Failure | None:
    """Copy one object of any size; None when it has arrived."""
    try:
        if isinstance(source, Streaming) and isinstance(target, Streaming):
            return _stream(source, target, transfer, pace)
        return _by_file(source, target, transfer, pace)
    except PachonError as error:
        return Failure(error)
    except OSError as error:  # of the file on the way: this machine's disk is full, say
        return Failure(TransientError(f"{transfer.file.key} by way of {tempfile.gettempdir()}: {error}"))


def copy_by_server(source: Endpoint, target: Endpoint, transfer: Transfer) -> Failure | None:
    """Let the server of both buckets copy, and read what arrived."""
    from backbone.s3 import S3Endpoint

    if not (isinstance(source, S3Endpoint) and isinstance(target, S3Endpoint) and source.server == target.server):
        wrong = PermanentError(
            f"{source.name} and {target.name} are not buckets of one S3 server: take `server_copy` from the link"
        )
        return Failure(wrong, at_source=False)
    file = transfer.file
    try:
        target.copy_from(source, file.key, sha256=file.sha256, about=file.about())
        if digest_of(target, file.key, file.size) == (file.size, file.sha256):
            return None
        # Nobody may take the wrong copy for a good one while the next attempt is waited for.
        target.delete(file.key)
    except PachonError as error:
        return Failure(error, at_source=True if isinstance(error, ObjectAbsent) else None)
    # Was it the source? The second look decides.
    return Failure(_other_bytes(source, transfer, file.size), at_source=True)


def _stream(source: Streaming, target: Streaming, transfer: Transfer, pace: Pace) -> Failure | None:
    file = transfer.file
    try:
        with source.open(file.key) as stream:
            # A reader of our own, which the target takes as its own too, tells which side broke.
            said = f"read {file.key} at {transfer.source}"
            reader = DigestReader(cast("BinaryIO", PacedReader(stream, pace)), size=file.size, sha256=file.sha256, what=said)
            try:
                put = target.put_stream(
                    file.key, cast("BinaryIO", reader), size=file.size, sha256=file.sha256, about=file.about()
                )
            except PachonError as error:
                return _side(error, reader, target, transfer)
    except PachonError as error:
        return Failure(error, at_source=True)
    return None if put.sha256 == file.sha256 else Failure(_other_bytes(target, transfer, put.size), at_source=False)


def _side(error: PachonError, reader: DigestReader, target: Streaming, transfer: Transfer) -> Failure | None:
    if reader.failure is not None:
        cause = reader.failure
        if not isinstance(cause, PachonError):
            cause = TransientError(f"read {transfer.file.key} at {transfer.source}: {cause}")
        return Failure(cause, at_source=True)
    if isinstance(error, ObjectExists):
        return _is_there(cast("Endpoint", target), transfer, error)
    return Failure(error, at_source=False)


def _by_file(source: Endpoint, target: Endpoint, transfer: Transfer, pace: Pace) -> Failure | None:
    """Through memory or a local file, for endpoints that know no streams."""
    file = transfer.file
    pace.spend(file.size)
    with tempfile.TemporaryDirectory() as folder:
        content: bytes | Path
        try:
            if file.size <= _MEMORY_BYTES:
                content = source.get(file.key)
            else:
                content = Path(folder, "object")
                source.fetch(file.key, content)
            if sha256_of(content) != file.sha256:
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                return Failure(_other_bytes(source, transfer, size), at_source=True)
        except PachonError as error:
            return Failure(error, at_source=True)
        try:
            put = target.put(file.key, content, about=file.about())
        except ObjectExists as error:
            return _is_there(target, transfer, error)
        except PachonError as error:
            return Failure(error, at_source=False)
    return None if put.sha256 == file.sha256 else Failure(_other_bytes(target, transfer, put.size), at_source=False)


def _is_there(target: Endpoint, transfer: Transfer, error: ObjectExists) -> Failure | None:
    """A place that is written once has the key: arrived, if it is this very file."""
    try:
        there = target.info(transfer.file.key)
    except PachonError as unknown:
        return Failure(unknown, at_source=False)
    return None if (there.size, there.sha256) == (transfer.file.size, transfer.file.sha256) else Failure(error, at_source=False)


def _other_bytes(place: object, transfer: Transfer, size: int) -> ChecksumMismatch:
    name, file = getattr(place, "name", "?"), transfer.file
    return ChecksumMismatch(f"{file.key} at {name}: {size} bytes whose SHA-256 is not {file.sha256}, which the catalog says")
