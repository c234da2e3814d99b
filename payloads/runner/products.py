"""Small products written where they will stay: a Butler's own way to a file, without the file beside it that is then moved.

The Butler writes each file under another name and moves it, so that no reader sees half of one. In an attempt's own prefix
nobody reads before its quantum is accepted, and that takes an outcome, which names the file with its size and SHA-256 and is
made after it was closed: half a file of a killed process is of no outcome, and is swept with all that was not accepted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lsst.daf.butler import DatasetRef, FormatterV2
from lsst.daf.butler.datastore.stored_file_info import StoredFileInfo
from lsst.daf.butler.datastores.fileDatastore import FileDatastore

_OF_FILES = ("write", "write_direct", "write_locally_then_move", "write_local_file")


class DirectWriter:
    """Stands in for `_write_in_memory_to_artifact` of a datastore that writes below one attempt's prefix alone."""

    def __init__(self, datastore: FileDatastore) -> None:
        self._datastore, self._otherwise = datastore, datastore._write_in_memory_to_artifact
        self._folders: set[str] = set()
        """Those that are there."""

    def __call__(self, content: Any, ref: DatasetRef, provenance: Any = None) -> StoredFileInfo:
        """Write one dataset; what its record says. What its formatter does not make as bytes, or what goes to no local folder, is
        written as the datastore does.
        """
        kind = self._datastore._cast_storage_class(ref)
        location, formatter = self._datastore._determine_put_formatter_location(kind)
        storage_class = kind.datasetType.storageClass
        if not (location.uri.isLocal and _makes_bytes(formatter) and self._datastore.constraints.isAcceptable(kind)):
            return self._otherwise(content, ref, provenance=provenance)
        if not formatter.can_accept(content):
            content = storage_class.coerce_type(content)
            if not isinstance(content, storage_class.pytype):
                return self._otherwise(content, ref, provenance=provenance)  # which says what is wrong
        made = formatter.to_bytes(formatter.add_provenance(content, provenance=provenance))
        self._write(location.uri.ospath, made)
        return StoredFileInfo(
            formatter=formatter,
            path=location.pathInStore.path,
            storageClass=storage_class,
            component=kind.datasetType.component(),
            file_size=len(made),
            checksum=hashlib.sha256(made).hexdigest(),
        )

    def _write(self, path: str, content: bytes) -> None:
        """FileExistsError where something is: an attempt writes nothing twice."""
        folder = os.path.dirname(path)
        if folder not in self._folders:
            os.makedirs(folder, exist_ok=True)
            self._folders.add(folder)
        with open(path, "xb") as file, _removed_on_error(path):
            file.write(content)
            file.flush()


@contextmanager
def _removed_on_error(path: str) -> Iterator[None]:
    """What could not be written whole makes no room for a second try otherwise."""
    try:
        yield
    except BaseException:
        os.unlink(path)
        raise


def _makes_bytes(formatter: Any) -> bool:
    """Whether making bytes is all that the formatter does of its own."""
    kind = type(formatter)
    if not issubclass(kind, FormatterV2) or kind.to_bytes is FormatterV2.to_bytes:
        return False
    return all(getattr(kind, name) is getattr(FormatterV2, name) for name in _OF_FILES)
