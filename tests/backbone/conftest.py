"""Backbones on folders, with a catalog in SQLite and in PostgreSQL, a clock turned by hand and a mover that copies at once."""

from __future__ import annotations

import os
import shutil

import pytest
import sqlalchemy as sa

from backbone import database, tables, transfers
from backbone.backbone import Backbone
from backbone.catalog import Catalog
from backbone.endpoint import ObjectInfo, sha256_of
from backbone.errors import AccessRefused, EndpointFull, TransientError
from backbone.expiry import begin_deletions, deleted
from backbone.files import NewFile
from backbone.identity import IDENTITY
from backbone.policy import Policy
from backbone.settings import BackboneEndpoint, BackboneSettings

PLACES = ("base", "ncsa", "ccin2p3")


@pytest.fixture(scope="module", autouse=True)
def no_power_cuts():
    """What is killed loses nothing that the kernel has: waiting for the disk would take half of the time and show nothing."""
    connected = database._sqlite_connected

    def quick(connection, record):
        connected(connection, record)
        connection.execute("PRAGMA synchronous=OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(database, "_sqlite_connected", quick)
        yield


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """A catalog without rows, to be copied."""
    path = tmp_path_factory.mktemp("catalog") / "empty.sqlite3"
    Catalog.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_tables(new_database):
    """URL of a database in the private server, with the catalog's tables."""
    url = new_database()
    Catalog.open(url).close()
    return url


def _execute(url, *statements):
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.fixture
def postgresql_catalog(postgresql_tables):
    """URL of a catalog without rows in PostgreSQL. To empty the tables takes a tenth of what making a database does."""
    _execute(
        postgresql_tables,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "SET session_replication_role = replica",  # the history may not be emptied otherwise
        f"TRUNCATE {', '.join(tables.metadata.tables)} RESTART IDENTITY",
    )
    return postgresql_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request, tmp_path, sqlite_template):
    """URL of a new catalog of each kind."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql_catalog")
    path = tmp_path / "catalog.sqlite3"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


class Place:
    """A backbone under test: its clock, and a mover that does everything that is pending, at once."""

    def __init__(self, home, url, **settings):
        self.time = 1_800_000_000.0
        endpoints = {name: BackboneEndpoint(uri=name) for name in settings.pop("places", PLACES)}
        self.settings = BackboneSettings(endpoints=endpoints, catalog=url, **settings)
        self.backbone = Backbone.open(self.settings, home, now=lambda: self.time)
        self.catalog = self.backbone.catalog

    def policies(self, *definitions):
        return [Policy.model_validate(definition) for definition in definitions]

    def apply(self, *definitions):
        return self.backbone.apply_policies(self.policies(*definitions), actor="tester")

    def files(self, count, *, prefix="k", **about):
        about = {"dataset_type": "raw", "collection": "cam/raw/all", "created": self.time, **about}
        return [NewFile(key=f"{prefix}/{n:05d}", size=n + 1, sha256=f"{n:064x}", **about) for n in range(count)]

    def put(self, key, content=b"content", *, at="base", **about):
        about = {"dataset_type": "raw", "collection": "cam/raw/all", "created": self.time, **about}
        return self.backbone.put(at, key, content, about, "tester")

    def take(self, source, target, limit=1000, worker="w", **more):
        ids = self.catalog.endpoint_id(source), self.catalog.endpoint_id(target)
        return transfers.take(self.catalog, *ids, limit=limit, worker=worker, lease_s=60, now=self.time, **more)

    def move(self, *, real=False):
        """Do all that is pending; `real` copies the objects too. Returns how many."""
        moved = 0
        for source in self.settings.endpoints:
            for target in self.settings.endpoints:
                taken = self.take(source, target)
                for transfer in taken if real else ():
                    content = self.backbone.endpoint(source).get(transfer.file.key)
                    self.backbone.endpoint(target).put(transfer.file.key, content, about=transfer.file.about())
                moved += transfers.done(self.catalog, taken, now=self.time)
        return moved

    def delete(self, at, worker="d"):
        """Delete all that may go there. Returns the keys."""
        number = self.catalog.endpoint_id(at)
        begun = begin_deletions(self.catalog, number, limit=1000, worker=worker, lease_s=60, now=self.time)
        if begun:
            assert deleted(self.catalog, begun, now=self.time) == len(begun)
        return sorted(deletion.key for deletion in begun)

    def states(self, key):
        """State by endpoint."""
        return {replica.endpoint: replica.state for replica in self.backbone.locate([key])[key]}

    def count(self, table):
        return self.catalog.all(sa.select(sa.func.count()).select_from(table))[0][0]


@pytest.fixture
def make_place(tmp_path):
    """Makes backbones on a catalog."""
    made = []

    def make(url, **settings):
        made.append(Place(tmp_path / "home", url, **settings))
        return made[-1]

    yield make
    for place in made:
        place.backbone.close()


@pytest.fixture
def place(make_place, catalog_url):
    """A backbone of three places that are all joined, with a day's grace."""
    return make_place(catalog_url)


class Faulty:
    """An endpoint that is throttled, fails and lies, as planned: `plan("get", "503", "403")` are the faults of the next two gets.

    Without a plan it is the endpoint that it wraps, and passes the same contract suite.
    """

    def __init__(self, inner, sleep=lambda seconds: None):
        self.inner, self.name, self.root, self._sleep = inner, inner.name, inner.root, sleep
        self._plans, self.asked = {}, []

    def plan(self, action, *faults):
        """Faults of the next calls of an action; the last one stays for ever where it ends with `*`."""
        self._plans[action] = list(faults)

    def _fault(self, action, key):
        if key == IDENTITY:  # asked once a round, and in nobody's plan
            return None
        self.asked.append((action, key))
        plan = self._plans.get(action)
        if not plan:
            return None
        fault = plan[0].removesuffix("*")
        if not plan[0].endswith("*"):
            plan.pop(0)
        where = f"{action} {key} at {self.name}"
        if fault in ("503", "timeout"):
            raise TransientError(f"{where}: the server answered {fault}")
        if fault == "403":
            raise AccessRefused(f"{where}: refused (403); check the endpoint's credentials and bucket")
        if fault == "full":
            raise EndpointFull(f"{where}: no space left", delay_s=7)
        if fault == "slow":
            self._sleep(10)
        return fault

    @staticmethod
    def _spoiled(content, fault):
        if fault == "wrong bytes":
            return content[:-1] + bytes([content[-1] ^ 1])
        return content[: len(content) // 2] if fault == "partial" else content

    def proves(self):
        """Says that it does, as the endpoint does that it wraps."""
        return True

    def put(self, key, content, **more):
        """A lying put stores something else and says that all is well."""
        fault = self._fault("put", key)
        whole = content if isinstance(content, bytes) else content.read_bytes()
        said = self.inner.put(key, self._spoiled(whole, fault) if fault in ("wrong bytes", "partial") else content, **more)
        return ObjectInfo(key=key, size=len(whole), sha256=sha256_of(whole)) if fault else said

    def get(self, key):
        fault = self._fault("get", key)
        return self._spoiled(self.inner.get(key), fault)

    def fetch(self, key, path):
        fault = self._fault("fetch", key)
        said = self.inner.fetch(key, path)
        if fault in ("wrong bytes", "partial"):
            path.write_bytes(self._spoiled(path.read_bytes(), fault))
        return said

    def info(self, key):
        self._fault("info", key)
        return self.inner.info(key)

    def list(self, prefix):
        self._fault("list", prefix)
        return self.inner.list(prefix)

    def delete(self, key):
        self._fault("delete", key)
        self.inner.delete(key)

    def discard(self, prefix, *, keep=frozenset()):
        self._fault("discard", prefix)
        return self.inner.discard(prefix, keep=keep)


@pytest.fixture
def faulty():
    """Wraps an endpoint."""
    return Faulty
