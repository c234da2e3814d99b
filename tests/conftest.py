"""What tests of every folder may use: PostgreSQL, two real HTCondor pools and an S3 server, private, on free loopback ports."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest


class Condor:
    """The pools `ncsa` and `ccin2p3`, started at the first asking, and means to speak with them."""

    slots = 4

    def __init__(self, home: Path) -> None:
        from deploy.condor.pool import CondorServer
        from workflow.pools.settings import HTCondorPool

        self.home = home
        self.settings = HTCondorPool(kind="htcondor", slots=self.slots, reserved=1, idle_ahead=0)
        self.servers = {name: CondorServer(home, name, self.settings) for name in ("ncsa", "ccin2p3")}

    @property
    def tokens(self) -> Path:
        """Folder of the submitter's tokens."""
        return self.home / self.settings.tokens

    def server(self, site):
        """The pool of a site, running."""
        from deploy.condor.pool import PoolFailed
        from deploy.debian import MirrorSilent, NoDebianMirror

        server = self.servers[site]
        try:
            server.up()
        except (NoDebianMirror, MirrorSilent) as error:
            pytest.skip(f"no HTCondor here, and none to be had: {error}")
        except PoolFailed as error:
            if "forbids user namespaces" not in str(error):
                raise
            pytest.skip(str(error))
        return server

    def address(self, site):
        """host:port of the collector."""
        return (self.server(site).folder / "address").read_text().strip()

    def pool(self, folder, *, site="ncsa", **more):
        """A `CondorPool` of the engine at this site; `more` are its settings, but `command`, `collector`, `tokens`, `clock`."""
        from workflow.pools.htcondor import CondorPool

        address = self.address(site)
        own = {name: more.pop(name) for name in ("command", "clock") if name in more}
        collector = more.pop("collector", address)
        tokens = more.pop("tokens_folder", self.tokens)
        settings = self.settings.model_copy(update=more)
        return CondorPool(folder, settings, name=site, collector=lambda: collector, tokens=tokens, **own)


@pytest.fixture(scope="session")
def condor(tmp_path_factory):
    """Two real pools; skips, saying why, where HTCondor can neither be found nor be installed."""
    made = Condor(tmp_path_factory.mktemp("condor"))
    yield made
    for server in made.servers.values():
        server.down()


@pytest.fixture(scope="session")
def postgresql_programs():
    """PostgreSQL's programs, installed first if they are nowhere; skips, saying why, where they cannot be had."""
    from deploy import postgres

    reasons = []
    if not postgres.obtained(reasons.append):
        pytest.skip(reasons[-1])
    return postgres.programs()


@pytest.fixture(scope="session")
def new_database(postgresql_programs, tmp_path_factory):
    """Makes a database in a private server, empty or a copy of another: `new_database(template=None)` → its SQLAlchemy URL."""
    import sqlalchemy as sa

    from deploy.postgres import PostgresServer

    server = PostgresServer(tmp_path_factory.mktemp("pg"), durable=False)
    server.up()
    names = (f"t{number}" for number in count())

    def make(template=None):
        name = next(names)
        engine = sa.create_engine(made("postgres"), poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            copied = f" TEMPLATE {sa.make_url(template).database}" if template else ""
            connection.execute(sa.text(f"CREATE DATABASE {name}{copied}"))
        return made(name)

    def made(name):
        return server.url(name).replace("postgresql://", "postgresql+psycopg2://")

    yield make
    server.down()


@pytest.fixture
def fresh_database(new_database):
    """URL of a new database in the private server."""
    return new_database()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """A SeaweedFS server with two buckets, `first` and `second`, each with keys of its own; started at the first asking."""
    from deploy.seaweedfs import ObjectStore

    store = ObjectStore(tmp_path_factory.mktemp("s3"), {"one": ("first", "second")})
    store.up()
    yield store
    store.down()
    assert not store.running()


@pytest.fixture(scope="session")
def credentials(object_store):
    """The file with the keys of the server's buckets."""
    from deploy.seaweedfs import credentials_file

    return credentials_file(object_store.home)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory):
    """A private RabbitMQ with streams, TLS and the management API; skips, saying why, where none can be had."""
    from deploy.debian import MirrorSilent, NoDebianMirror
    from deploy.rabbitmq import RabbitServer

    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"), streams=True)
    try:
        server.up()
    except (NoDebianMirror, MirrorSilent) as error:
        pytest.skip(f"no RabbitMQ here, and none to be had: {error}")
    yield server
    server.down()
    assert not server.running()


@pytest.fixture
def broker_settings(rabbitmq):
    """Settings of a service that uses the private RabbitMQ, in a virtual host of its own."""
    import json
    import ssl
    import uuid

    import httpx

    ports = json.loads((rabbitmq.folder / "doors.json").read_text())
    authority, password = rabbitmq.folder / "tls" / "ca.crt", rabbitmq.home / "secrets" / "broker-services"
    vhost, user = f"t{uuid.uuid4().hex}", "pachon-services"
    tls = ssl.create_default_context(cafile=authority)
    url = f"https://localhost:{ports['admin']}/api/"
    with httpx.Client(base_url=url, auth=(user, password.read_text()), verify=tls, trust_env=False, timeout=60) as client:
        client.put(f"vhosts/{vhost}").raise_for_status()
        everything = dict.fromkeys(("configure", "write", "read"), ".*")
        client.put(f"permissions/{vhost}/{user}", json=everything).raise_for_status()
        yield {f"{door}_port": number for door, number in ports.items()} | {
            "vhost": vhost,
            "authority": str(authority),
            "password": str(password),
        }
        client.delete(f"vhosts/{vhost}")
