"""The Butler repository: its seed, its beginning, and how a program of ours opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy
from lsst.daf.butler import Butler, ButlerConfig, CollectionType, Config, DatasetType
from lsst.daf.butler.registry import ConflictingDefinitionError
from lsst.resources import ResourcePath

from backbone.butler import DATASTORE
from backbone.endpoints import use_profiles
from backbone.errors import PermanentError

SEED: dict[str, Any] = {
    "datastore": {
        "cls": "payloads.datastore.Sha256FileDatastore",
        "name": DATASTORE,
        "checksum": True,
        # The default formatter is obs_base's, which is absent: every storage class of ours is named.
        "formatters": {
            "CCDData": "payloads.formatters.CCDDataFormatter",
            "AstropyWcs": "payloads.formatters.CCDDataFormatter",
            "AlertPackets": "payloads.formatters.AlertPacketsFormatter",
            "ArrowAstropy": "payloads.formatters.TableFormatter",
            "StructuredDataDict": "lsst.daf.butler.formatters.json.JsonFormatter",
            "StructuredDataList": "lsst.daf.butler.formatters.json.JsonFormatter",
        },
    },
    "storageClasses": {
        "AstropyWcs": {"pytype": "astropy.wcs.WCS"},
        "CCDData": {
            "pytype": "astropy.nddata.CCDData",
            "delegate": "payloads.formatters.CCDDataDelegate",
            "derivedComponents": {"header": "StructuredDataDict", "wcs": "AstropyWcs"},
        },
        "AlertPackets": {"pytype": "bytes"},
    },
}

PROFILES = Path("secrets/s3.ini")
"""Of a home: keys of S3 buckets, as profiles that boto3 reads; `s3://profile@bucket/…` names one."""

RAW = ("raw", ("instrument", "exposure", "detector"), "CCDData")
CAMERA = ("camera", ("instrument",), "StructuredDataDict")
REF_CAT = ("ref_cat", ("htm7",), "ArrowAstropy")
STANDARDS = ("standard_spectra", (), "ArrowAstropy")
REFCATS_RUN = "refcats"
ORBITS = ("orbits", (), "ArrowAstropy")
ORBITS_CHAIN = "orbits"
"""The newest catalogue in front."""


class RepositoryError(PermanentError):
    """A repository that cannot be made or opened; the message says where and what to do."""


def seed(*, db: str | None = None, datastore: str | None = None) -> Config:
    """What differs from the Butler's defaults; `db` is an SQLAlchemy URL, `datastore` the root of files."""
    config = Config(SEED)
    if db:
        config["registry", "db"] = db
    # The repository is the root itself: with a subfolder, keys would differ between the archive and a site.
    config["datastore", "root"] = datastore or "<butlerRoot>"
    return config


def init_repository(root: str | Path, *, db: str | None = None, datastore: str | None = None) -> Butler:
    """Make the repository, or open and check the one that is there (never overwritten).

    `root`: a folder, which holds the configuration and, by default, an SQLite registry and the files. `db`: an SQLAlchemy URL,
    for PostgreSQL `postgresql+psycopg2://…` (the extension btree_gist is created where that is allowed). `datastore`: root of the
    files, a folder or `s3://bucket/prefix`; credentials come from the environment as lsst.resources reads it. Asking for another
    `db` or `datastore` than the repository has is an error.
    """
    where = ResourcePath(str(root), forceDirectory=True)
    _find_profiles(root)
    if where.join("butler.yaml").exists():
        _check_same(root, db, datastore)
    else:
        try:
            if db and db.startswith("postgresql"):
                _prepare_postgresql(db)
            # forceConfigRoot=True, the default, would reset datastore.root in silence.
            Butler.makeRepo(where, config=seed(db=db, datastore=datastore), forceConfigRoot=False)
        except (sqlalchemy.exc.SQLAlchemyError, OSError, RuntimeError, ConflictingDefinitionError) as error:
            if where.join("butler.yaml").exists():
                where.join("butler.yaml").remove()  # half a repository would be taken for a whole one
            raise RepositoryError(_explain(f"{root}: cannot make the repository", db, error)) from error
    butler = open_repository(root, writeable=True)
    for name, dimensions, storage_class in (RAW, CAMERA, REF_CAT, STANDARDS, ORBITS):
        butler.registry.registerDatasetType(DatasetType(name, dimensions, storage_class, universe=butler.dimensions))
    butler.collections.register(REFCATS_RUN, CollectionType.RUN)
    butler.collections.register(ORBITS_CHAIN, CollectionType.CHAINED)
    return butler


def open_repository(root: str | Path, *, writeable: bool = False, datastore_root: str | None = None, **options: Any) -> Butler:
    """Open a repository of ours, with a plain error where that fails; with `datastore_root` over the same keys at another place.
    `options` are those of `Butler.from_config`.
    """
    where = ResourcePath(str(root), forceDirectory=True)
    _find_profiles(root)
    if not where.join("butler.yaml").exists():
        raise RepositoryError(f"{root} is no repository (it has no butler.yaml): make it with `pachon init`")
    try:
        config = ButlerConfig(where)
        if datastore_root is not None:
            config["datastore", "root"] = datastore_root
        return Butler.from_config(config, writeable=writeable, **options)
    except (sqlalchemy.exc.SQLAlchemyError, OSError, RuntimeError) as error:
        raise RepositoryError(_explain(f"{root}: cannot open the repository", None, error)) from error


def _find_profiles(root: str | Path) -> None:
    """Butler can be told of S3 keys by the environment alone: those of the home that the repository is in."""
    file = Path(root).absolute().parent / PROFILES
    if file.exists():
        use_profiles(file)


def checksums(butler: Butler, refs: list[Any]) -> dict[Any, str]:
    """SHA-256 of the files behind datasets, by dataset id, in one query."""
    records = butler._datastore.export_records(refs)[DATASTORE].records if refs else {}
    return {key: info.checksum for key, tables in records.items() for infos in tables.values() for info in infos}


def _check_same(root: str | Path, db: str | None, datastore: str | None) -> None:
    config = ButlerConfig(ResourcePath(str(root), forceDirectory=True))
    if config["datastore", "name"] != DATASTORE:
        name = config["datastore", "name"]
        raise RepositoryError(
            f"{root}: a repository not made by Pachón (its datastore is called {name!r}): choose another folder"
        )
    for what, wanted, has in (("db", db, config["registry", "db"]), ("datastore", datastore, config["datastore", "root"])):
        if wanted and wanted.rstrip("/") != str(has).rstrip("/"):
            known, asked = (str(url).split("@")[-1] for url in (has, wanted))  # no passwords
            raise RepositoryError(
                f"{root}: the repository exists with {what} {known}, not {asked}: leave it out, or name another folder"
            )


def _prepare_postgresql(db: str) -> None:
    """The registry's exclusion constraints need btree_gist; whoever may create things in the database may install it."""
    engine = sqlalchemy.create_engine(db)
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE EXTENSION IF NOT EXISTS btree_gist"))
    finally:
        engine.dispose()


def _explain(what: str, db: str | None, error: BaseException) -> str:
    text = str(error).strip()
    if "btree_gist" in text:
        return f"{what}: the database lacks the extension btree_gist; its owner must run CREATE EXTENSION btree_gist in it"
    if db and "postgresql" in db:
        return (
            f"{what}: PostgreSQL says: {text.splitlines()[0] if text else error!r}; check the URL, and that the database exists"
        )
    return f"{what}: {text or repr(error)}"
