"""Products written in place are as the datastore would have left them, once."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

CONTENT = {"value": 7}


@pytest.fixture
def written(make_planned):
    """A datastore, a ref that may be written to it, and a writer in place of its own way."""
    from lsst.daf.butler import Butler

    from backbone.butler import checksum_of
    from payloads.runner.products import DirectWriter

    planned = make_planned()
    datastore = Butler.from_config(str(planned.root), writeable=True)._datastore
    datastore.computeChecksum = checksum_of
    quanta = planned.group.graph.build_execution_quanta().values()
    ref = next(ref for q in quanta for kind, refs in q.outputs.items() for ref in refs if kind.name == "tiny_out")
    return datastore, ref, DirectWriter(datastore)


def files(datastore):
    return {path for path in Path(datastore.root.ospath).rglob("*tiny_out*") if path.is_file()}


def test_the_record_and_the_bytes_are_those_of_the_datastores_own_way(written):
    datastore, ref, write = written
    with datastore.transaction():
        record = datastore._write_in_memory_to_artifact(CONTENT, ref)
    (path,) = files(datastore)
    content = path.read_bytes()
    path.unlink()
    assert write(CONTENT, ref) == record
    assert files(datastore) == {path}
    assert path.read_bytes() == content


def test_what_its_formatter_writes_as_a_file_is_left_to_the_datastore(written, monkeypatch):
    from lsst.daf.butler.formatters.json import JsonFormatter

    datastore, ref, write = written
    monkeypatch.setattr(JsonFormatter, "write_local_file", lambda _self, _content, uri: uri.write(b"its own"))
    with datastore.transaction():
        write(CONTENT, ref)
    assert [path.read_bytes() for path in files(datastore)] == [b"its own"]


def test_nothing_is_written_twice_and_nothing_is_left_of_what_found_no_room(written, monkeypatch):
    from payloads.runner import products

    datastore, ref, write = written

    class Full:
        def __init__(self, path, mode):
            self.file = open(path, mode)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[:2])
            raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(products, "open", Full, raising=False)
        with pytest.raises(OSError, match="no space"):
            write(CONTENT, ref)
    assert files(datastore) == set()
    write(CONTENT, ref)
    with pytest.raises(FileExistsError):
        write({"value": 8}, ref)
    assert [path.read_bytes() for path in files(datastore)] == [b'{"value": 7}']
