"""An endpoint in a folder of a file system, for one machine or a shared disk.

Objects are written beside their place and linked or renamed into it, so that readers see whole objects alone. Checksums are kept
in an extended attribute where the file system has them; elsewhere they are computed when asked for.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from backbone.digest import DigestReader
from backbone.endpoint import ObjectInfo, checked_folder, checked_key, checked_prefix, said_of_itself, sha256_of
from backbone.errors import EndpointFull, ObjectAbsent, ObjectExists, PachonError, TransientError, refused

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
_PART = ".part-"  # what is being written; never listed
_ATTRIBUTE = "user.pachon.sha256"
_ABOUT = "user.pachon.about"
_BESIDE = ".about-"  # the same beside the object, where the file system has no extended attributes; never listed


class FolderEndpoint:
    """Keys are relative paths below `folder`."""

    def __init__(self, folder: Path | str, *, name: str) -> None:
        self.name = name
        self._folder = Path(folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.root = str(self._folder)

    def _path(self, key: str) -> Path:
        path = self._folder / checked_key(key)
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise refused(f"key {key!r} refused at {self.name}: a link leads out of the endpoint")
        return path

    def put(
        self, key: str, content: bytes | Path, *, create_only: bool = False, about: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        """Store a whole object (see the contract)."""
        with ExitStack() as stack:
            with self._translated("put", key):
                stream = io.BytesIO(content) if isinstance(content, bytes) else stack.enter_context(content.open("rb"))
            return self._put(key, stream, about or {}, create_only=create_only)

    def put_stream(self, key: str, stream: BinaryIO, *, size: int, sha256: str, about: Mapping[str, str]) -> ObjectInfo:
        """Store what `stream` gives, if it is what is said of it (see the contract)."""
        reader = DigestReader.of(stream, size=size, sha256=sha256, what=f"put {key} at {self.name}")
        return self._put(key, cast("BinaryIO", reader), about, create_only=False)

    def _put(self, key: str, stream: BinaryIO, about: Mapping[str, str], *, create_only: bool) -> ObjectInfo:
        path = self._path(key)
        with self._translated("put", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.parent / f"{_PART}{uuid.uuid4().hex}"
            try:
                info = self._write(part, key, stream)
                self._tell(part, path, json.dumps(dict(about)))
                if create_only:
                    os.link(part, path)
                else:
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return info

    def _write(self, part: Path, key: str, stream: BinaryIO) -> ObjectInfo:
        """The checksum is made of the very bytes that are written, in the same pass."""
        digest = hashlib.sha256()
        with part.open("xb") as out:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        with _ignoring(errno.ENOTSUP, errno.EPERM):
            os.setxattr(part, _ATTRIBUTE, digest.hexdigest().encode())
        return ObjectInfo(key=key, size=size, sha256=digest.hexdigest())

    def _tell(self, part: Path, path: Path, about: str) -> None:
        """Say what the object is, on itself or beside it; a file beside says nothing of an object that is not there."""
        beside = path.with_name(f"{_BESIDE}{path.name}")
        try:
            os.setxattr(part, _ABOUT, about.encode())
            beside.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC):
                raise
            part_beside = part.with_name(f"{part.name}.about")
            part_beside.write_text(about)
            part_beside.replace(beside)

    def _told(self, path: Path) -> dict[str, str]:
        try:
            return said_of_itself(os.getxattr(path, _ABOUT).decode(errors="replace"))
        except OSError:
            beside = path.with_name(f"{_BESIDE}{path.name}")
            return said_of_itself(beside.read_text(errors="replace") if beside.exists() else "")

    def proves(self) -> bool:
        """Yes: the sum is made of the bytes that are written, and the disk has them before `put` returns."""
        return True

    def get(self, key: str) -> bytes:
        """The object's bytes."""
        path = self._path(key)
        with self._translated("get", key):
            return path.read_bytes()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """The object's bytes, to be read in order."""
        path = self._path(key)
        with self._translated("get", key), path.open("rb") as stream:
            yield stream

    def fetch(self, key: str, path: Path) -> ObjectInfo:
        """Copy the object to a local path. What is wrong with that path is an OSError, and says nothing of the object."""
        source, part = self._path(key), path.parent / f"{_PART}{uuid.uuid4().hex}"
        digest, size = hashlib.sha256(), 0
        with ExitStack() as stack:
            with self._translated("fetch", key):
                stream = stack.enter_context(source.open("rb"))
            try:
                with part.open("xb") as out:
                    while block := self._block(stream, key):
                        digest.update(block)
                        size += out.write(block)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return ObjectInfo(key=key, size=size, sha256=digest.hexdigest())

    def _block(self, stream: BinaryIO, key: str) -> bytes:
        with self._translated("fetch", key):
            return stream.read(_BLOCK_BYTES)

    def info(self, key: str) -> ObjectInfo:
        """Size and checksum."""
        path = self._path(key)
        with self._translated("info", key):
            if not path.is_file():
                raise FileNotFoundError(errno.ENOENT, "no such object")
            size = path.stat().st_size
            try:
                checksum = os.getxattr(path, _ATTRIBUTE).decode()
            except OSError:
                checksum = sha256_of(path)
            about = self._told(path)
        return ObjectInfo(key=key, size=size, sha256=checksum, about=about)

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, sorted. What is named by bytes that are no text is no object of ours, and left out."""
        checked_prefix(prefix)
        start = self._folder / prefix.rpartition("/")[0]
        found = []
        with self._translated("list", prefix):
            for folder, _, names in os.walk(start, onerror=_unless_gone):
                base = os.path.relpath(folder, self._folder)
                for name in names:
                    key = name if base == "." else f"{base}/{name}"
                    if name.startswith((_PART, _BESIDE)) or not key.startswith(prefix):
                        continue
                    if _is_text(key):
                        found.append(key)
                    else:
                        _log.warning("%s: %s is no name of an object: left out", self.name, os.fsencode(key))
        return iter(sorted(found))

    def delete(self, key: str) -> None:
        """Remove the object."""
        path = self._path(key)
        with self._translated("delete", key):
            path.unlink(missing_ok=True)
            path.with_name(f"{_BESIDE}{path.name}").unlink(missing_ok=True)

    def discard(self, prefix: str, *, keep: Set[str] = frozenset()) -> int:
        """Remove a folder's objects and what killed writers left in it (see the contract); folders that are empty then go too."""
        top = self._path(checked_folder(prefix).removesuffix("/"))
        gone = 0
        with self._translated("discard", prefix):
            for folder, _, names in os.walk(top, topdown=False, onerror=_unless_gone):
                for name in names:
                    path = Path(folder, name)
                    kept = path.with_name(name.removeprefix(_BESIDE))
                    if kept.relative_to(self._folder).as_posix() not in keep:
                        path.unlink(missing_ok=True)
                        gone += not name.startswith((_PART, _BESIDE))
                with _ignoring(errno.ENOTEMPTY, errno.EEXIST):
                    Path(folder).rmdir()
        return gone

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        where = f"{action} {key} at {self.name}"
        try:
            yield
        except PachonError:
            raise  # some are OSErrors too: another endpoint's, whose stream is read here
        except FileExistsError as error:
            raise ObjectExists(f"{where}: the key is taken") from error
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectAbsent(f"{where}: no such object") from error
        except PermissionError as error:
            raise refused(f"{where}: {error.strerror}; see who owns {self.root}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EndpointFull(f"{where}: no space left on {self.root}; free some, the work goes on by itself") from error
            raise TransientError(f"{where}: {error.strerror or error}") from error


def _unless_gone(error: OSError) -> None:
    """A folder that cannot be read is not an empty one; one that was removed meanwhile is."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _ignoring(*numbers: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
