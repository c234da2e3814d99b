from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from astropy.nddata import CCDData
from lsst.daf.butler import Butler, Config, StorageClassFactory
from lsst.pipe.base import Instrument
from moto.server import ThreadedMotoServer

from backbone.butler import DATASTORE
from deploy import postgres
from payloads.camera import Camera
from payloads.ingest import ingest
from payloads.instrument import InstrumentError, class_name, read_camera, register_camera
from payloads.repository import SEED, RepositoryError, checksums, init_repository, open_repository


def round_trip(butler: Butler, camera: Camera) -> Any:
    """Register a camera and read it back through the datastore."""
    register_camera(butler, camera)
    assert read_camera(butler, camera.name) == camera
    return butler.find_dataset("camera", instrument=camera.name, collections=f"{camera.name}/camera")


def test_making_a_repository_twice_opens_the_one_that_is_there(home: Path, camera: Camera) -> None:
    register_camera(init_repository(home / "repo"), camera)
    again = init_repository(home / "repo")
    assert read_camera(again, "Testcam") == camera


def test_every_storage_class_of_ours_has_a_formatter_that_is_there(home: Path) -> None:
    butler = open_repository(home / "repo")
    factory = butler._datastore.formatterFactory
    for name in SEED["storageClasses"]:
        storage_class = StorageClassFactory().getStorageClass(name)
        assert storage_class.pytype is not None
        assert factory.getFormatterClass(storage_class).__module__ == "payloads.formatters"


def test_datastore_is_pinned_and_records_sha256_whoever_opens_it(home: Path, camera: Camera) -> None:
    butler = Butler.from_config(str(home / "repo"), writeable=True)
    clone = Butler.from_config(butler=butler, run="some/run")
    ref = round_trip(clone, camera)
    assert butler._datastore.name == DATASTORE
    path = butler.getURI(ref).ospath
    assert checksums(butler, [ref]) == {ref.id: hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def test_camera_gets_a_class_that_pipe_base_can_import(home: Path) -> None:
    butler = open_repository(home / "repo", writeable=True)
    camera = Camera.load("lowell42")
    register_camera(butler, camera)
    instrument = Instrument.fromName("lowell42", butler.registry)
    assert (instrument.getName(), type(instrument).__module__) == ("lowell42", "payloads.instrument")
    assert class_name(camera) == "payloads.instrument.Instrument_lowell42"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        __import__("payloads.instrument").instrument.nonsense  # noqa: B018


def test_unknown_instrument_is_answered_with_the_known_ones(home: Path, camera: Camera) -> None:
    butler = open_repository(home / "repo", writeable=True)
    with pytest.raises(InstrumentError, match="it has none"):
        read_camera(butler, "Othercam")
    register_camera(butler, camera)
    with pytest.raises(InstrumentError, match="no instrument 'Othercam' in this repository; it has Testcam"):
        read_camera(butler, "Othercam")


def test_folder_that_is_no_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"is no repository .* `pachon init`"):
        open_repository(tmp_path)


def test_repository_of_somebody_else_is_not_taken_over(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "theirs"), config=Config({"datastore": {"name": "theirs"}}))
    before = (tmp_path / "theirs" / "butler.yaml").read_bytes()
    with pytest.raises(RepositoryError, match="not made by Pachón"):
        init_repository(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "butler.yaml").read_bytes() == before


def test_asking_for_another_database_than_there_is_is_an_error_without_passwords(home: Path) -> None:
    with pytest.raises(RepositoryError, match="exists with db") as caught:
        init_repository(home / "repo", db="postgresql+psycopg2://me:secret@nowhere/db")
    assert "secret" not in str(caught.value)


def test_unreachable_database_leaves_no_half_repository(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://me:secret@127.0.0.1:1/db"
    with pytest.raises(RepositoryError, match="PostgreSQL says") as caught:
        init_repository(tmp_path / "repo", db=url)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "repo" / "butler.yaml").exists()
    assert init_repository(tmp_path / "repo") is not None


def test_files_may_lie_in_another_folder(tmp_path: Path, camera: Camera) -> None:
    butler = init_repository(tmp_path / "repo", datastore=str(tmp_path / "files"))
    ref = round_trip(butler, camera)
    assert butler.getURI(ref).ospath.startswith(str(tmp_path / "files"))
    assert init_repository(tmp_path / "repo", datastore=str(tmp_path / "files")) is not None


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    name = f"b{os.urandom(6).hex()}"
    client.create_bucket(Bucket=name)
    client.close()
    yield f"s3://{name}/some/prefix/"
    server.stop()


def test_files_may_lie_in_a_bucket_by_configuration_alone(
    bucket: str, tmp_path: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    butler = init_repository(tmp_path / "repo", datastore=bucket)
    path = write_frame()
    assert ingest(tmp_path, camera, [path]).ingested == 1
    assert ingest(tmp_path, camera, [path]).already == 1
    butler.registry.refresh()
    (ref,) = butler.query_datasets("raw", "Testcam/raw/all")
    assert str(butler.getURI(ref)).startswith(bucket)
    assert isinstance(butler.get(ref), CCDData)
    assert butler.get("raw.header", ref.dataId, collections=ref.run)["SEQNUM"] == 1
    assert checksums(butler, [ref])[ref.id] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.asarray(butler.get(ref).data).shape == (60, 88)


@pytest.fixture(scope="module")
def server(postgresql_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.PostgresServer]:
    made = postgres.PostgresServer(tmp_path_factory.mktemp("pg"))
    made.up()
    yield made
    made.down()


def driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://")


def test_registry_may_be_postgresql_by_configuration_alone(
    server: postgres.PostgresServer, tmp_path: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    url = driver(server.database("registry"))
    init_repository(tmp_path / "repo", db=url)
    write_frame("bias.fits", IMAGETYP="BIAS", SEQNUM=2)
    folder = write_frame().parent
    assert ingest(tmp_path, camera, [folder]).ingested == 2
    assert ingest(tmp_path, camera, [folder]).already == 2
    assert not (tmp_path / "repo" / "gen3.sqlite3").exists()
    assert init_repository(tmp_path / "repo", db=url) is not None


def test_missing_extension_is_said_with_what_to_do(server: postgres.PostgresServer, tmp_path: Path) -> None:
    url = server.database("plain")
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'; GRANT ALL ON SCHEMA public TO guest")
    connection.close()
    guest = "postgresql+psycopg2://guest:guest@" + url.split("@")[1]
    with pytest.raises(RepositoryError, match="CREATE EXTENSION btree_gist"):
        init_repository(tmp_path / "repo", db=guest)
    assert not (tmp_path / "repo" / "butler.yaml").exists()
